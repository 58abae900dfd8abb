"""What an application can hear of. Receivers run in the process and thread in which it happens.

A worker has Django, and so these signals, if DJANGO_SETTINGS_MODULE is in its environment, as `manage.py` has
it, and `mailtasks.contrib.django` is in INSTALLED_APPS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from django.dispatch import Signal

from mailtasks.event import Attempt
from mailtasks.state import State

handover_failed: Final = Signal()
"""A transaction is committed, and its mail could not be handed over; sent by the process that committed.

Its sender is `Mailer`. Arguments: `error`, and `mailer`, `messages` and `ids`, with which
`mailer.send_many(messages, ids=ids)` tries again without a second mail.
"""

message_sent: Final = Signal()
"""A relay took a message for one recipient; sent by the worker, when the ledger knows, as the next two are.

Its sender is `Attempt`. Arguments: its fields `id`, `recipient`, `reply`, `attempt`, `tags` and `metadata`.
"""

message_failed: Final = Signal()
"""A recipient was refused for good, or the attempts are used up; not: it expired while it waited."""

message_deferred: Final = Signal()
"""A recipient will be tried again."""

_SIGNALS: Final[Mapping[State, Signal]] = {
    State.SENT: message_sent,
    State.FAILED: message_failed,
    State.DEFERRED: message_deferred,
}


def pass_on(attempts: Sequence[Attempt]) -> None:
    """Send the signals of attempts. A receiver that fails is logged by Django and harms no other."""
    for one in attempts:
        signal = _SIGNALS.get(one.state)
        if signal is not None and signal.has_listeners(Attempt):
            signal.send_robust(
                Attempt,
                id=one.id,
                recipient=one.recipient,
                reply=one.reply,
                attempt=one.attempt,
                tags=one.tags,
                metadata=one.metadata,
            )
