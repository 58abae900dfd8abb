"""Messages become batches with ids, before any transaction is over: what `on_commit` and the outbox share."""

from __future__ import annotations

from collections.abc import Sequence

from mailtasks import packing
from mailtasks.address import excerpt
from mailtasks.errors import MessageError
from mailtasks.message import Message
from mailtasks.settings import Settings
from mailtasks.store.records import NewBatch


def composed(messages: Sequence[Message], settings: Settings) -> tuple[list[NewBatch], list[str]]:
    """The batches, and an id for each message.

    Raises:
        MessageError: one is no message, has no sender or is too large.
        IdempotencyConflict: two with one key have other content.
    """
    for message in messages:
        if not isinstance(message, Message):
            raise MessageError(f"{excerpt(message)} is no message: make it a mailtasks.Message")
    ids = packing.places(messages)
    return [packed.batch for packed in packing.pack(messages, ids, settings)], ids
