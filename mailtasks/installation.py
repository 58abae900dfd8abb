"""What an installed Celery app carries, as `app.mailtasks`: settings, mailer and, in a worker, delivery."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

from celery import Celery

from mailtasks.delivery import Delivery
from mailtasks.errors import SettingsError
from mailtasks.keeper import Keeper
from mailtasks.limiter import Limiter
from mailtasks.mailer import Mailer
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.publish import CELERYS_BROKER, Publisher
from mailtasks.routing import Route, open_route
from mailtasks.sentinels import are_named, with_celerys_options
from mailtasks.settings import (
    SETTINGS,
    Settings,
    framework_values,
    mask_url,
    redis_py_url,
)


class Installation:
    """The parts of mailtasks that one app uses; each is made when it is first wanted.

    Args:
        app: the Celery app that it hangs on.
        settings: by default what environment, framework and file say, always with the app's broker.
    """

    def __init__(self, app: Celery, settings: Settings | None = None) -> None:
        self.app = app
        self._given = settings
        self.limiter = Limiter()
        self.owner = socket.gethostname()
        self.threads = 1
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._delivery: Delivery | None = None
        self._keeper: Keeper | None = None
        self._route: Route | None = None

    @cached_property
    def settings(self) -> Settings:
        """Read when they are first needed. The broker is the app's, since that is where its tasks go.

        Raises:
            SettingsError: one is wrong, or names another broker than the app.
        """
        broker = broker_of(self.app)
        if not broker:
            return self.without_app()
        return with_broker(self._given, broker) if self._given else self._load(broker_url=broker)

    @property
    def was_given_settings(self) -> bool:
        """Whether `install` was told them."""
        return self._given is not None

    def without_app(self) -> Settings:
        """The settings as they are without a broker of the app's.

        Raises:
            SettingsError: one is wrong.
        """
        return self._given or self._load()

    def _load(self, **keywords: Any) -> Settings:
        return Settings.load(framework=framework_values(self.app), **keywords)

    @cached_property
    def publisher(self) -> Publisher:
        """Hints through this app."""
        return Publisher(self.app, self.settings.namespace)

    @cached_property
    def mailer(self) -> Mailer:
        """Accepts through this app."""
        return Mailer(self.settings, publisher=self.publisher)

    def forget(self) -> None:
        """Read the settings anew when they are next needed: what they were made from has changed.

        What a worker has begun with stays.
        """
        for name in ("settings", "publisher"):
            vars(self).pop(name, None)
        if mailer := vars(self).pop("mailer", None):
            mailer.close()

    def begin(self, *, owner: str, threads: int) -> None:
        """A worker starts: its name, as `status` and doubt show it, and how many threads it has."""
        self.owner, self.threads = owner, threads
        self._stopping.clear()

    def delivery(self, retry_policy: RetryPolicy) -> Delivery:
        """What this process delivers with, opened by the first task. The policy is that task's."""
        with self._lock:
            if self._delivery is None:
                route = self._opened_route()
                self._keeper = Keeper(self.mailer.ledger)
                self._delivery = Delivery(
                    ledger=self.mailer.ledger,
                    events=self.mailer.events,
                    publisher=self.publisher,
                    route=route,
                    keeper=self._keeper,
                    settings=self.settings,
                    owner=self.owner,
                    retry_policy=retry_policy,
                    limiter=self.limiter,
                    stopping=self._stopping,
                    threads=self.threads,
                )
            self._delivery.retry_policy = retry_policy
            return self._delivery

    def keep_warm(self) -> None:
        """Have connections to the relay open before the first mail, as the settings say; for a worker."""
        with self._lock:
            if self.settings.pool_warm and not self._stopping.is_set():
                self._opened_route().keep_warm()

    def _opened_route(self) -> Route:
        """Under the lock."""
        self._route = self._route or open_route(self.settings, self.threads)
        return self._route

    def begin_stopping(self) -> None:
        """No dot is begun any more; what is claimed and not begun is given back, at once."""
        self._stopping.set()
        with self._lock:
            route = self._route
        if route:
            route.pool.interrupt()

    def close(self) -> None:
        """After the last task: end the keeper, say QUIT to the relay. A later task opens all anew."""
        with self._lock:
            keeper, route = self._keeper, self._route
            self._delivery = self._keeper = self._route = None
        if keeper:
            keeper.stop()
        if route:
            route.pool.close()


class OwnInstallation(Installation):
    """That of our own app. Its broker is that of the settings, default or not: producers know no other."""

    @cached_property
    def settings(self) -> Settings:
        """Read when they are first needed.

        Raises:
            SettingsError: one is wrong, or Celery was told of another broker.
        """
        settings = self.without_app()
        for variable in CELERYS_BROKER:
            broker = broker_of(self.app, variable.removeprefix("CELERY_").lower())
            if broker and broker != settings.broker_url:
                ours = f"broker_url ({settings.source('broker_url')}): {mask_url(settings.broker_url)}"
                raise SettingsError(
                    f"{ours} is not what {variable} (or celery -b) says, {mask_url(broker)}; "
                    "set MAILTASKS_BROKER_URL instead, which producers know, too"
                )
        return settings


def broker_of(app: Celery, name: str = "broker_url") -> str | None:
    """The app's broker as our settings name it: sentinels in one URL with what Celery has beside it.

    Raises:
        SettingsError: it can't be one of ours.
    """
    broker = getattr(app.conf, name)  # an item wouldn't be what the environment says
    if are_named(broker):
        with suppress(ValueError):  # said below
            broker = with_celerys_options(broker, app.conf.broker_transport_options or {})
    return str(SETTINGS["broker_url"].read(broker, "the Celery app")) if broker else None


def with_broker(settings: Settings, broker: str) -> Settings:
    """The settings with the app's broker, and its Redis for the ledger, where they name none themselves.

    Raises:
        SettingsError: they name another one.
    """
    if settings.broker_url == broker:
        return settings
    source = settings.source("broker_url")
    if source != "default":
        raise SettingsError(
            f"broker_url ({source}): {mask_url(settings.broker_url)} is not the Celery app's broker, "
            f"{mask_url(broker)}; give both the same, or leave it out of the settings"
        )
    has_store = settings.source("store_url") != "default"
    store = settings.store_url if has_store else redis_py_url(broker)
    return replace(settings, broker_url=broker, store_url=store)


def is_installed(app: Any) -> bool:
    """Whether `install` was called for an app."""
    return isinstance(getattr(app, "mailtasks", None), Installation)


def installation_of(app: Any) -> Installation:
    """What `install` hung on an app.

    Raises:
        SettingsError: the app was not installed.
    """
    if not is_installed(app):
        raise SettingsError(
            f"the Celery app {app!r} doesn't know mailtasks; call mailtasks.celery.install(app)"
        )
    installation: Installation = app.mailtasks
    return installation
