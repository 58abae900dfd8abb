"""What a row holds of its mail: a composed batch as MessagePack.

It is composed when it is written. So whatever is wrong with a message is said there, attachments are read
there, and a row that is accepted a second time is the same mail, with the same Message-ID and Date.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from mailtasks.message import MOMENTS
from mailtasks.pieces import blobs_in
from mailtasks.store.keys import split_id
from mailtasks.store.records import NewBatch

_LONGEST: Final = 1e12  # seconds
SHORTEST: Final = 0.001  # seconds: what is too old is accepted all the same, so that it ends as expired

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(NewBatch)


def encode(batch: NewBatch) -> bytes:
    """The batch as it is stored."""
    return _encoder.encode(batch)


def decode(content: bytes, id: str) -> NewBatch:
    """The batch that was stored under `id`.

    Raises:
        ValueError: it can't be read, or isn't what was written.
    """
    try:
        batch = _decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"its content can't be read ({error})") from None
    if batch.id != id or split_id(id)[0] != id:
        raise ValueError("its content is that of another batch")
    recipients = sum(message.recipients for message in batch.record.messages)
    if not len(batch.record.messages) == len(batch.bodies) > 0 or recipients != len(batch.recipients):
        raise ValueError("its content is incomplete")
    if not {blob.digest for body in batch.bodies for blob in blobs_in(body)} <= batch.blobs.keys():
        raise ValueError("its content lacks an attachment")
    if not (0 <= batch.send_at <= MOMENTS[1].timestamp() and 0 < batch.lifetime <= _LONGEST):
        raise ValueError("its content has an impossible time")
    return batch


def aged(batch: NewBatch, written: datetime, now: datetime) -> NewBatch:
    """The batch with what is left of its lifetime, which began when it was written.

    The ledger counts from accept, which may be long after that, or come a second time.
    """
    began = max(written, datetime.fromtimestamp(batch.send_at, UTC))
    passed = max(0.0, (now - began).total_seconds())
    return msgspec.structs.replace(batch, lifetime=max(SHORTEST, batch.lifetime - passed))
