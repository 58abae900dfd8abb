"""From a backend into the queue: at once, or when the transaction that is open has committed.

The rules:

1. Whatever is wrong with a message is said by `send()`, so that the transaction can still be rolled back.
2. Ids are made by `send()`. On rollback, also of a savepoint, nothing is sent: Django drops its callbacks.
3. After the commit nothing is raised, since the transaction can't be undone: it is logged and signalled.

A crash between the commit and the hand-over loses the mail.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from django.db import connections, transaction

from mailtasks import packing
from mailtasks.contrib.django.signals import handover_failed
from mailtasks.errors import StoreUnavailable
from mailtasks.message import Message

if TYPE_CHECKING:
    from mailtasks.mailer import Mailer

log = logging.getLogger(__name__)


def hand_over(mailer: Mailer, messages: Sequence[Message], database: str | None) -> list[str]:
    """Have messages accepted, after the commit if `database` is in an atomic block.

    Args:
        database: its alias; None: don't wait for any.

    Returns:
        Their ids, in order.

    Raises:
        MessageError: one can't be mailed as it is; none is sent.
        IdempotencyConflict: a key is used for other content.
        StoreUnavailable: Redis is away; of a hand-over that follows a commit this is logged and signalled.
    """
    if database is None or not connections[database].in_atomic_block:
        return mailer.send_many(messages)
    ids = packing.places(messages)
    packing.pack(messages, ids, mailer.settings)  # for what it refuses
    transaction.on_commit(partial(_after_commit, mailer, messages, ids), using=database)
    return ids


def _after_commit(mailer: Mailer, messages: Sequence[Message], ids: Sequence[str]) -> None:
    try:
        mailer.send_many(messages, ids=ids)
    except Exception as error:  # whatever it is, other callbacks of the transaction must run
        log.error(
            "a transaction is committed, and mail of it could not be handed over (%s): %s; it is lost, "
            "unless a receiver of handover_failed keeps it; MAILTASKS['OUTBOX'] would have kept it",
            error,
            ", ".join(ids),
            exc_info=None if isinstance(error, StoreUnavailable) else error,
        )
        handover_failed.send_robust(
            type(mailer), mailer=mailer, messages=tuple(messages), ids=tuple(ids), error=error
        )
