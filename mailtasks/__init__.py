"""mailtasks: a mail-sending queue on Celery and Redis.

>>> from mailtasks import Message, send, status
>>> id = send(Message(to="ann@example.com", subject="Your code", text="1234", priority="urgent"))
>>> status(id).state

The functions here use one default `Mailer`, made on first use from environment and file; once a Celery app of
yours is given to `mailtasks.celery.install`, that app's. Importing this package starts nothing, connects to
nothing and imports no framework.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mailtasks.errors import MailtasksError
from mailtasks.message import Alternative, Attachment, Mailable, Message, Priority
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.status import MessageStatus, RetryReport

if TYPE_CHECKING:
    from mailtasks.celery import send_mail
    from mailtasks.mailer import Mailer

__all__ = [
    "Alternative",
    "Attachment",
    "Mailer",
    "MailtasksError",
    "Message",
    "MessageStatus",
    "Priority",
    "RetryReport",
    "Settings",
    "State",
    "asend",
    "cancel",
    "default_mailer",
    "retry",
    "send",
    "send_mail",
    "send_many",
    "status",
]
__version__ = "0.1.0"

_LAZY = {"Mailer": "mailtasks.mailer", "send_mail": "mailtasks.celery"}
_default: Mailer | None = None
_default_lock = threading.Lock()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def default_mailer() -> Mailer:
    """The mailer behind this module's functions, made on first use.

    As with `send_mail`, it is that of the Celery app that was installed last, so that both know the same
    mail; without such an app, one from environment and file.

    Raises:
        SettingsError: environment or file hold a wrong setting.
    """
    global _default
    celery = sys.modules.get("mailtasks.celery")  # nothing was installed before it is imported
    if celery and (app := celery.installed_app()):
        mailer: Mailer = app.mailtasks.mailer
        return mailer
    with _default_lock:
        if _default is None:
            from mailtasks.mailer import Mailer

            _default = Mailer()
        return _default


def send(message: Mailable, *, id: str | None = None) -> str:
    """Accept one message; returns its id. See `Mailer.send`."""
    return default_mailer().send(message, id=id)


async def asend(message: Mailable, *, id: str | None = None) -> str:
    """As `send`, without blocking the event loop. See `Mailer.asend`."""
    return await default_mailer().asend(message, id=id)


def send_many(
    messages: Iterable[Mailable], *, ids: Sequence[str] | None = None, one_each: bool = False
) -> list[str]:
    """Accept many messages in few batches; returns their ids, in order. See `Mailer.send_many`."""
    return default_mailer().send_many(messages, ids=ids, one_each=one_each)


def status(id: str) -> MessageStatus:
    """What became of a message. See `Mailer.status`."""
    return default_mailer().status(id)


def cancel(id: str) -> int:
    """Cancel what isn't being sent or final; returns how many recipients. See `Mailer.cancel`."""
    return default_mailer().cancel(id)


def retry(*ids: str, force: bool = False) -> RetryReport:
    """Queue messages again that failed, expired or wait. See `Mailer.retry`."""
    return default_mailer().retry(*ids, force=force)
