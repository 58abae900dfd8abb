"""A Redis and a relay of the tests' own, and settings that lead nowhere else. Behind plugin and frameworks.

The rules:

1. Where both are is known from the beginning, and each starts when it is first wanted: a settings object that
   is made early is right, and a session that needs no Redis needs none installed.
2. Settings are environment variables, the strongest source but keywords. So a mailer whose settings were read
   before, or whose keywords name another Redis, is told apart and refused.
3. A Celery app that names a broker of its own is led to this one while a test has it, and back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Self

from mailtasks.errors import SettingsError
from mailtasks.local.redis import HOST, LocalRedis, free_port
from mailtasks.local.sink import CatchingServer
from mailtasks.publish import CELERYS_BROKER
from mailtasks.settings import IN_REDIS, Settings, is_loopback, mask_url
from mailtasks.testing.servers import empty

if TYPE_CHECKING:
    from celery import Celery

    from mailtasks.testing.worker import Worker

FRAMEWORKS: Final[Mapping[str, str]] = {
    "django.conf": "mailtasks.contrib.django.testing",
    "mailtasks.contrib.flask": "mailtasks.contrib.flask.testing",
}
"""Is the first imported anyway, `sending()` of the second has that framework send though it is tested."""


class Surroundings:
    """The servers of a session of tests. `close()` ends them."""

    def __init__(self) -> None:
        self._redis_port, self._relay_port = free_port(), free_port()
        self._started = ExitStack()

    @property
    def redis_url(self) -> str:
        """Where the Redis is, or will be."""
        return f"redis://{HOST}:{self._redis_port}/0"

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment in which mail goes to these servers, and soon."""
        return {
            "MAILTASKS_BROKER_URL": self.redis_url,
            "MAILTASKS_STORE_URL": self.redis_url,
            "MAILTASKS_RELAY": f"smtp://{HOST}:{self._relay_port}",
            "MAILTASKS_BLOBS": IN_REDIS,
            "MAILTASKS_DURABILITY": "primary",  # it has no replica
            "MAILTASKS_PUMP_INTERVAL": "0.1",
        }

    @cached_property
    def redis(self) -> LocalRedis:
        """Started now, if it wasn't yet."""
        return self._started.enter_context(LocalRedis(port=self._redis_port, fsync="no"))

    @cached_property
    def relay(self) -> CatchingServer:
        """Started now, if it wasn't yet."""
        return self._started.enter_context(CatchingServer(port=self._relay_port))

    def close(self) -> None:
        """End what was started."""
        self._started.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def with_redis(self) -> Iterator[LocalRedis]:
        """Within the block, mailers and Celery apps use this Redis, which is empty at the beginning."""
        from mailtasks.celery import forget_settings
        from mailtasks.testing.outbox import other_parts

        empty(self.redis.start())
        try:
            with environment(dict.fromkeys(CELERYS_BROKER, self.redis_url)):
                forget_settings()
                with other_parts({"room": self._checked}):
                    yield self.redis
        finally:
            forget_settings()  # in the environment as it was

    def _checked(self, mailer: Any, room: Any) -> Any:
        """Each accept asks for room first."""
        self._demand_own_redis(mailer.settings)
        return room

    def _demand_own_redis(self, settings: Settings) -> None:
        if settings.store_url != self.redis_url:
            raise SettingsError(
                f"a mailer has its mail at {mask_url(settings.store_url)}, not in the tests' Redis: "
                "its settings are keywords, or were read before the plugin was there; make it, or the Flask "
                'app, later, or load the plugin first, by addopts = "-p mailtasks.testing.plugin"'
            )

    @contextmanager
    def worker(self, app: Celery) -> Iterator[Worker]:
        """Within the block and that of `with_redis`, a worker of this app runs.

        Raises:
            SettingsError: it would take mail from elsewhere, or send it through a relay that isn't here.
        """
        from mailtasks.installation import installation_of
        from mailtasks.testing.worker import running_worker

        settings = installation_of(app).settings
        self._demand_own_redis(settings)
        if not is_loopback(settings.relay.host):
            raise SettingsError(
                f"the tests' worker would send through {settings.relay.name}: the settings of {app!r} are "
                "keywords; leave the relay to environment, framework or file, over which the tests have a say"
            )
        with running_worker(app) as worker:
            yield worker


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within the block, the environment has these variables; others stay what they are, or become."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def frameworks_send() -> Iterator[None]:
    """Within the block, web frameworks send by mailtasks what in tests they would only have kept."""
    with ExitStack() as stack:
        for known, ours in FRAMEWORKS.items():
            if known in sys.modules:
                stack.enter_context(import_module(ours).sending())
        yield
