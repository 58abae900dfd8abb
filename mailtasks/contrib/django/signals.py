"""What an application can hear of. Receivers run in the process and thread in which it happens.

A worker has Django, and so these signals, if DJANGO_SETTINGS_MODULE is in its environment, as `manage.py` has
it, and `mailtasks.contrib.django` is in INSTALLED_APPS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from django.db import connections
from django.dispatch import Signal

from mailtasks.event import Attempt
from mailtasks.state import State

handover_failed: Final = Signal()
"""A transaction is committed, and its mail could not be handed over; sent by the process that committed.

Its sender is `Mailer`. Arguments: `error`, and `mailer`, `messages` and `ids`, with which
`mailer.send_many(messages, ids=ids)` tries again without a second mail.
"""

message_sent: Final = Signal()
"""A relay took a message for one recipient; sent by the worker, when the ledger knows, as the next are.

Its sender is `Attempt`. Arguments: its fields `id`, `recipient`, `reply`, `attempt`, `tags` and `metadata`.
"""

message_failed: Final = Signal()
"""A recipient was refused for good, or the attempts are used up."""

message_deferred: Final = Signal()
"""A recipient will be tried again."""

message_expired: Final = Signal()
"""A recipient's mail is too old, and isn't tried any more; sent by a worker. `reply` is the last one."""

message_suppressed: Final = Signal()
"""A recipient is on the suppression list; `reply` is the reason that stands there. Sent by the process that
accepts the mail, or by a worker, if the address came on the list later."""

message_in_doubt: Final = Signal()
"""A recipient may have the mail, or not: nothing was answered, or the worker died. It is sent once more, of
which other signals tell, or held, as a setting says. Sent by the worker, or by the one that finds it."""

_SIGNALS: Final[Mapping[State, Signal]] = {
    State.SENT: message_sent,
    State.FAILED: message_failed,
    State.DEFERRED: message_deferred,
    State.EXPIRED: message_expired,
    State.SUPPRESSED: message_suppressed,
    State.IN_DOUBT: message_in_doubt,
}


def pass_on(attempts: Sequence[Attempt]) -> None:
    """Send the signals of attempts. A receiver that fails is logged by Django and harms no other."""
    _let_go_of_broken_connections()
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


def _let_go_of_broken_connections() -> None:
    """What an earlier receiver has found broken: not everywhere here does a request or a task begin."""
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred and not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
