"""The Celery app: `celery -A mailtasks worker -P threads`, and `install(app)` for one that you have.

Our own app is made on first use: our defaults, then `celeryconfig.py`, if one can be imported.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from logging import Logger
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

from celery import Celery
from celery.local import Proxy
from celery.signals import after_setup_logger, celeryd_init
from celery.utils.imports import cwd_in_path
from celery.utils.text import str_to_list

from mailtasks import bootsteps, guard, tasks, transport
from mailtasks.default import forget_default_mailer
from mailtasks.errors import SettingsError
from mailtasks.installation import Installation, OwnInstallation, installation_of
from mailtasks.logs import JsonFormatter
from mailtasks.publish import (
    SEND_MAIL,
    celerys_notation,
    configuration,
    queues,
    routes,
    transport_options,
)
from mailtasks.settings import Settings

_lock = threading.RLock()
_own: Celery | None = None
_installed: Celery | None = None
_all: Final[WeakSet[Celery]] = WeakSet()

_WORKER_DEFAULTS: Final = {
    "worker_send_task_events": True,  # for Flower
    "worker_prefetch_multiplier": 1,  # an urgent hint waits behind as few others as possible
    # What a worker has is still its own after its connection was lost (see `mailtasks.transport`).
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_enable_prefetch_count_reduction": False,  # does nothing on Redis, but says so each time
}

_BROKER: Final = frozenset({"broker_url", "broker_read_url", "broker_write_url"})
"""What can't stand in `celeryconfig.py`: producers and the ledger would go on with another Redis."""

_LENT: Final = ("broker_url", "broker_use_ssl", "broker_transport_options")
"""What an app that names no broker gets of our configuration."""


def install(app: Celery, settings: Settings | None = None) -> Celery:
    """Make `app` one that sends mail: queues, tasks, the pump, and a transport that outlives a Redis restart.

    Its other tasks, queues and settings stay as they are. Call it where the app is made; its workers run
    with `-P threads` from then on. Neither settings nor the app's configuration are read before they are
    needed, so this may stand in a module that Django imports while it reads its own settings.
    `mailtasks.send()`, `status()` and the other functions of the module go through it, too, from then on.

    Args:
        settings: by default what environment and file say, and the framework whose Celery app it is (see
            `mailtasks.contrib`). The broker is the app's; settings that name
            another one are refused when they are needed. An app that names none gets that of the settings.

    Returns:
        The same app.
    """
    return _install(app, Installation(app, settings))


def _install(app: Celery, installation: Installation) -> Celery:
    global _installed
    app.mailtasks = installation
    transport.install(app)
    guard.install(app)
    bootsteps.install(app)
    app.on_after_configure.connect(_lend_broker, weak=False)
    if app.configured:
        _lend_broker(app, app.conf)
    if app.finalized:
        _complete(app)
    else:
        app.on_after_finalize.connect(_complete, weak=False)
    _all.add(app)
    _installed = app
    return app


def forget_settings() -> None:
    """Let the default mailer and every installed app read their settings anew when they are next needed.

    For tests, in which what settings are made from changes. What a worker has begun with stays. Our own app
    is made of settings through and through, so it is forgotten whole.
    """
    global _own, _installed
    forget_default_mailer()
    with _lock:
        _installed = installed_app()
        _own = None
    for app in list(_all):
        installation_of(app).forget()
        if app.configured:
            _lend_broker(app, app.conf)  # Celery's environment may have named one until now
        if app.finalized:
            app._pool = app.amqp._producer_pool = None  # as Celery does after a fork: for another broker
            _fit(app)


def _lend_broker(sender: Celery, source: Any, **_: Any) -> None:
    """An app that names no broker gets that of our settings: Celery's own default is a RabbitMQ.

    What the app is given later is stronger, and a configuration that is read anew begins without this.
    """
    if source.broker_url:
        return
    with suppress(SettingsError):  # said when they are needed
        ours = configuration(installation_of(sender).without_app())
        source.update({name: ours[name] for name in _LENT if not source[name]})


def _complete(sender: Celery, **_: Any) -> None:
    """What reads the app's configuration: tasks, which it annotates, and queues and routes beside its own."""
    tasks.register(sender)
    _fit(sender)


def _fit(sender: Celery) -> None:
    """Queues, routes and time-outs as the settings have them."""
    try:
        namespace = installation_of(sender).settings.namespace
    except SettingsError:
        return  # said when they are needed: by a worker that starts, by whoever sends
    for queue in queues(namespace):
        sender.amqp.queues.select_add(queue)
    # A broker that hangs must not hold up `send()` or a worker's thread for ever.
    ours = transport_options(installation_of(sender).settings)
    sender.conf.broker_transport_options = {
        **{
            name: ours[name] for name in ("socket_timeout", "socket_connect_timeout", "health_check_interval")
        },
        **(sender.conf.broker_transport_options or {}),
    }
    given = sender.conf.task_routes or []
    own = list(given) if isinstance(given, list | tuple) else [given]
    if routes(namespace) not in own:  # it may have been completed with other settings
        sender.conf.update(task_routes=[*own, routes(namespace)])


@celeryd_init.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery ships no types
def _refuse_unknown_queues(instance: Any, options: Mapping[str, Any], **_: Any) -> None:
    """A typo in `-Q` or `-X`: Celery would show a traceback, make a queue that nobody fills, or be silent."""
    if not isinstance(getattr(instance.app, "mailtasks", None), Installation):
        return
    with suppress(SettingsError):  # said by a bootstep
        namespace = installation_of(instance.app).settings.namespace
        made = instance.app.amqp.queues
        known = [queue.name for queue in queues(namespace)] if made.create_missing else list(made)
        # An app that makes queues as they are asked for may be meant to make any, except one of our names.
        judged = f"{namespace}-" if made.create_missing else ""
        taken, left_out = (str_to_list(options.get(name) or []) for name in ("queues", "exclude_queues"))
        for name in (*taken, *left_out):
            if name.startswith(judged) and name not in known:
                guard.refuse(f"there is no queue {name!r}; expected {', '.join(known)}")


def own_app() -> Celery:
    """The app behind `celery -A mailtasks`, made now if it wasn't yet.

    Raises:
        SettingsError: a setting is wrong. Under the `celery` command that ends the process with one line.
    """
    global _own
    with _lock:
        if _own is None:
            _own = _make()
        return _own


def current_app() -> Celery:
    """The app that was installed last, else our own."""
    return _installed or own_app()


def installed_app() -> Celery | None:
    """The user's app that was installed last, if there is one."""
    return None if _installed is _own else _installed


send_mail: Any = Proxy(lambda: current_app().tasks[SEND_MAIL])
"""`send_mail.delay(to=…, …)`: the task of the app that was installed last, else of our own."""


def _make() -> Celery:
    app = Celery("mailtasks", set_as_current=False)
    try:
        # In one piece, since what Celery calls `add_defaults` is stronger than a configuration.
        settings = Settings.load()
        said = configuration(settings) | _WORKER_DEFAULTS | _celeryconfig()
        # A `celeryconfig.py` that has transport options need not know which master the sentinels watch.
        broker, options = celerys_notation(settings.broker_url, said["broker_transport_options"] or {})
        app.config_from_object(said | {"broker_url": broker, "broker_transport_options": options})
    except SettingsError as error:
        if "celery" in (Path(sys.argv[0]).name, Path(sys.argv[0]).parent.name):  # also `python -m celery`
            guard.refuse(str(error))  # Celery would show a traceback
        raise
    return _install(app, OwnInstallation(app, settings))


def _celeryconfig() -> dict[str, Any]:
    """What `celeryconfig.py` says, if there is one where Celery looks: in the working directory first."""
    with cwd_in_path():  # the `celery` command has taken it out again by now
        if not find_spec("celeryconfig"):
            return {}
        try:
            said = vars(import_module("celeryconfig"))
        except Exception as error:  # whatever a user's file raises
            wrong = f"{type(error).__name__}: {error}"
            raise SettingsError(f"celeryconfig.py can't be imported ({wrong}); correct it") from error
    for name in said:
        if name.lower() in _BROKER:
            raise SettingsError(
                f"celeryconfig.py: {name} can't stand there, for producers would not know it; "
                "set MAILTASKS_BROKER_URL instead"
            )
    return {name: value for name, value in said.items() if not name.startswith("_")}


@after_setup_logger.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery ships no types
def _write_json(logger: Logger, **_: Any) -> None:
    with suppress(SettingsError):  # said by a bootstep
        if _installed is not None and installation_of(_installed).settings.log_format == "json":
            for handler in logger.handlers:
                handler.setFormatter(JsonFormatter())


def __getattr__(name: str) -> Any:
    if name == "app":
        return own_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
