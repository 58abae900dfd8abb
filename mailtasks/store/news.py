"""What scripts tell of recipients that nobody tried: who expired, was suppressed, or is in doubt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from mailtasks.event import Attempt
from mailtasks.state import BY_CODE
from mailtasks.store import records
from mailtasks.store.records import BatchRecord, NewBatch

log = logging.getLogger(__name__)


def attempts_of_new(batch: NewBatch, entries: Sequence[Any] = ()) -> list[Attempt]:
    """What becomes of some recipients of a batch that is accepted: {index, state, attempts, reply} each."""
    return _if_readable(batch.id, lambda: _attempts(batch.id, batch.record, batch.recipients, entries))


def unpacked_attempts(batch: str, told: Sequence[Any]) -> list[Attempt]:
    """The same of a batch that is stored: its header, its recipients, and the entries."""

    def read() -> list[Attempt]:
        header, recipients, *entries = told
        return _attempts(batch, records.unpack_record(header), records.unpack_recipients(recipients), entries)

    return _if_readable(batch, read) if told else []


def _if_readable(batch: str, read: Callable[[], list[Attempt]]) -> list[Attempt]:
    """What was done is done, and must not fail for news of it."""
    try:
        return read()
    except Exception as error:  # whatever a hand has put there
        log.warning("what became of recipients of batch %s can't be told: %r", batch, error)
        return []


def _attempts(
    batch: str, record: BatchRecord, recipients: Sequence[str], entries: Sequence[Any]
) -> list[Attempt]:
    told = {index: rest for index, *rest in entries}
    if not told:
        return []
    return [
        Attempt(
            id=f"{batch}.{indices.start}",
            recipient=recipients[index],
            state=BY_CODE[code.decode()],
            # The list's reason may be of a hand.
            reply=reply.decode(errors="replace") if isinstance(reply, bytes) else "",
            attempt=attempt,
            tags=message.tags,
            metadata=message.metadata,
        )
        for _, message, indices in record.ranges()
        for index in indices
        if index in told
        for code, attempt, reply in [told[index]]
    ]
