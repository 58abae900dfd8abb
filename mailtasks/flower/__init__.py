"""Flower, started for mailtasks: bound to loopback, or behind a login.

Flower's own options can be given as it documents them (`FLOWER_…` variables, `flowerconfig.py`), except
for those that would open the door or fill the memory: where it listens, how many tasks it keeps, and its
state file, which Flower is known to corrupt. It runs in the process that calls `run_flower()`, once.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import Any, Final, NoReturn

from celery import Celery

from mailtasks import transport
from mailtasks.errors import SettingsError
from mailtasks.publish import producing_app
from mailtasks.settings import Settings, is_loopback

MAX_TASKS: Final = 10_000
"""How many tasks are kept in memory; Flower's 100,000 take it a gigabyte, and it gets slow long before."""

RECONNECT: Final = 5.0  # seconds between two attempts to hear events again

logger = logging.getLogger(__name__)


def run_flower(
    settings: Settings,
    *,
    address: str = "127.0.0.1",
    port: int | None = None,
    auth: str | None = None,
    app: Celery | None = None,
) -> NoReturn:
    """Serve Flower until SIGTERM or Ctrl-C, which end the process with 0; to be called in the main thread.

    Args:
        settings: the broker, and what `port` and `auth` are by default.
        address: where to listen; anything but loopback needs a login.
        port: `flower_port` by default.
        auth: the login, "USER:PASSWORD"; `flower_auth` by default. Flower's own logins (OAuth2) count, too.
        app: a Celery app of your own to watch instead of the settings' broker.

    Raises:
        SettingsError: Flower isn't installed, a login is missing, or the port is taken.
    """
    options = _options()
    _configure(options, address, port or settings.flower_port, auth or settings.flower_auth)
    _demand_login(options)
    _serve(options, app or _watching_app(settings))


def _options() -> Any:
    """Flower's options with what environment and `flowerconfig.py` say, as its own command reads them."""
    try:
        from flower import command
        from tornado.options import options
    except ImportError as error:
        raise SettingsError(
            f"Flower can't be imported ({error}); install it: pip install 'mailtasks[flower]'"
        ) from None
    command.apply_env_options()
    command.apply_options("flower", [])
    return options


def _configure(options: Any, address: str, port: int, auth: str | None) -> None:
    options.address, options.port, options.unix_socket = address, port, ""
    options.max_tasks = min(options.max_tasks, MAX_TASKS)
    options.persistent = False
    if auth:
        options.basic_auth = [auth]


def _demand_login(options: Any) -> None:
    if not (options.basic_auth or options.auth or is_loopback(options.address)):
        raise SettingsError(
            f"Flower on {options.address or 'every address'} would be open to anybody who can reach it; "
            "give it a login (MAILTASKS_FLOWER_AUTH=USER:PASSWORD), or bind it to 127.0.0.1"
        )


def _watching_app(settings: Settings) -> Celery:
    app = producing_app(settings)
    transport.install(app)
    return app


def _serve(options: Any, app: Celery) -> NoReturn:
    from flower import command
    from flower.app import Flower

    command.extract_settings()
    command.setup_logging()
    flower = Flower(capp=app, options=options, **command.settings)
    port = _listen(flower, options)
    logger.info("Flower is at http://%s:%s, broker %s", options.address, port, flower.broker_uri)
    flower.events.run = lambda: _hear(flower.events)
    for number in (signal.SIGTERM, signal.SIGINT):
        flower.io_loop.asyncio_loop.add_signal_handler(number, flower.stop)
    flower.start()
    logging.shutdown()
    os._exit(0)  # Python would wait for Flower's threads, which wait for Redis as long as it is away


def _hear(events: Any) -> NoReturn:
    """What Flower's thread for events does, but for its pause, which doubles at each failure without end."""
    while True:
        try:
            with events.capp.connection() as connection:
                receiver = events.capp.events.Receiver(connection, handlers={"*": events.on_event})
                receiver.capture(limit=None, timeout=None, wakeup=True)
        except Exception as error:  # whatever a transport raises
            logger.warning("no events can be heard (%s); trying again in %g s", error, RECONNECT)
            time.sleep(RECONNECT)


def _listen(flower: Any, options: Any) -> int:
    try:
        port: int = flower.start_http_server()
    except OSError as error:
        raise SettingsError(
            f"Flower can't listen on {options.address}:{options.port} ({error.strerror or error}); "
            "choose another port (MAILTASKS_FLOWER_PORT) or address"
        ) from None
    return port
