"""Messages become batches with ids, before any transaction is over: what `on_commit` and the outbox share."""

from __future__ import annotations

from collections.abc import Sequence

from mailtasks import packing
from mailtasks.message import Mailable, as_message
from mailtasks.settings import Settings
from mailtasks.store.records import NewBatch


def composed(messages: Sequence[Mailable], settings: Settings) -> tuple[list[NewBatch], list[str]]:
    """The batches, and an id for each message.

    Raises:
        MessageError: one is no message, has no sender or is too large.
        IdempotencyConflict: two with one key have other content.
    """
    wanted = [as_message(message) for message in messages]
    ids = packing.places(wanted)
    return [packed.batch for packed in packing.pack(wanted, ids, settings)], ids
