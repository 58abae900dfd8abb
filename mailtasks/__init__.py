"""mailtasks: a mail-sending queue on Celery and Redis.

>>> from mailtasks import Message, send, status
>>> id = send(Message(to="ann@example.com", subject="Your code", text="1234", priority="urgent"))
>>> status(id).state

The functions here use one default `Mailer`, made on first use from environment and file; once a Celery app of
yours is given to `mailtasks.celery.install`, that app's. Importing this package starts nothing, connects to
nothing and imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mailtasks.default import default_mailer
from mailtasks.errors import MailtasksError
from mailtasks.message import Alternative, Attachment, Mailable, Message, Priority
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.status import MessageStatus, RetryReport

if TYPE_CHECKING:
    from mailtasks.campaign import Campaign, CampaignOptions, CampaignStatus
    from mailtasks.celery import send_mail
    from mailtasks.compose.template import Template
    from mailtasks.mailer import Mailer

__all__ = [
    "Alternative",
    "Attachment",
    "Campaign",
    "CampaignOptions",
    "CampaignStatus",
    "Mailer",
    "MailtasksError",
    "Message",
    "MessageStatus",
    "Priority",
    "RetryReport",
    "Settings",
    "State",
    "Template",
    "asend",
    "asend_many",
    "astatus",
    "cancel",
    "default_mailer",
    "retry",
    "send",
    "send_mail",
    "send_many",
    "status",
]
__version__ = "0.1.0"

_LAZY = {
    "Campaign": "mailtasks.campaign",
    "CampaignOptions": "mailtasks.campaign",
    "CampaignStatus": "mailtasks.campaign",
    "Mailer": "mailtasks.mailer",
    "Template": "mailtasks.compose.template",
    "send_mail": "mailtasks.celery",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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


async def asend_many(
    messages: Iterable[Mailable], *, ids: Sequence[str] | None = None, one_each: bool = False
) -> list[str]:
    """As `send_many`, without blocking the event loop. See `Mailer.asend_many`."""
    return await default_mailer().asend_many(messages, ids=ids, one_each=one_each)


def status(id: str) -> MessageStatus:
    """What became of a message. See `Mailer.status`."""
    return default_mailer().status(id)


async def astatus(id: str) -> MessageStatus:
    """As `status`, without blocking the event loop. See `Mailer.astatus`."""
    return await default_mailer().astatus(id)


def cancel(id: str) -> int:
    """Cancel what isn't being sent or final; returns how many recipients. See `Mailer.cancel`."""
    return default_mailer().cancel(id)


def retry(*ids: str, force: bool = False) -> RetryReport:
    """Queue messages again that failed, expired or wait. See `Mailer.retry`."""
    return default_mailer().retry(*ids, force=force)
