"""What scripts tell of recipients that nobody tried: who expired, was suppressed, or is in doubt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from mailtasks.event import Attempt
from mailtasks.state import BY_CODE
from mailtasks.store import records
from mailtasks.store.records import BatchRecord

log = logging.getLogger(__name__)


def unpacked_attempts(batch: str, told: Sequence[Any]) -> list[Attempt]:
    """The same as `attempts`, of a header and recipients as they are stored, and what is told of them."""
    if not told:
        return []
    header, recipients, *entries = told
    try:
        return attempts(batch, records.unpack_record(header), records.unpack_recipients(recipients), entries)
    except (*records.DAMAGE, TypeError) as error:
        log.warning("what became of recipients of batch %s can't be told: %r", batch, error)
        return []


def attempts(
    batch: str, record: BatchRecord, recipients: Sequence[str], entries: Sequence[Any] = ()
) -> list[Attempt]:
    """What becomes of some of a batch's recipients: {index, state, attempts, reply} each."""
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
