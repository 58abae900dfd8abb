"""What is written into a batch, and how it is packed: plain data, no Redis.

The header and the recipients are JSON, so that a person with `redis-cli` can read them; what is
longer than half a kilobyte is compressed. What the scripts write themselves is MessagePack.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from mailtasks.message import Priority
from mailtasks.pieces import Blob, Content, OwnFile, blobs_in

_WORTH_COMPRESSING: Final = 512  # bytes; below, zlib saves next to nothing
_PLAIN: Final = b"="
_ZLIB: Final = b"z"
_PIECES: Final = b"p"


DAMAGE: Final = (msgspec.MsgspecError, zlib.error, LookupError, ValueError)
"""What reading a record raises that a hand, or another version, has changed."""


class MessageRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of one message beside its body."""

    message_id: str  # the Message-ID header, with its angle brackets: the same over all retries
    sender: str  # the envelope's; "" is the null sender
    recipients: int = 1  # how many, one after the other in the batch
    subject: str = ""
    size: int = 0  # bytes, composed
    smtputf8: bool = False
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    dsn_notify: tuple[str, ...] = ()  # RFC 3461, in the words of `mailtasks.message`
    dsn_return: str = ""
    require_tls: bool = False  # RFC 8689


class CampaignPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is alike for all messages of a campaign's batch, each of which has one recipient."""

    campaign: str  # its name
    batch: str  # its id
    size: int
    template: str  # its digest
    sender: str  # the envelope's
    domain: str  # of Message-IDs
    date: int  # of the Date header, in seconds since 1970: the same over all retries
    subject: str = ""  # the template's, for people
    tags: tuple[str, ...] = ()

    def message(self, index: int) -> MessageRecord:
        """What is kept of one of them."""
        return MessageRecord(
            message_id=f"<{self.batch}.{index}@{self.domain}>",
            sender=self.sender,
            subject=self.subject,
            tags=self.tags,
            metadata={"campaign": self.campaign},
        )


class BatchRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A batch's header."""

    messages: tuple[MessageRecord, ...]
    version: int = 1
    campaign: CampaignPart | None = None  # instead of messages

    def ranges(self) -> Iterator[tuple[int, MessageRecord, range]]:
        """Each message with its number and the indices of its recipients."""
        if self.campaign:
            for index in range(self.campaign.size):
                yield index, self.campaign.message(index), range(index, index + 1)
        first = 0
        for number, message in enumerate(self.messages):
            yield number, message, range(first, first + message.recipients)
            first += message.recipients


class Listed(msgspec.Struct, frozen=True, array_like=True):
    """What the suppression list says of an address."""

    source: str = ""
    at: int = 0  # since when: Redis' milliseconds
    reason: str = ""


class Tries(msgspec.Struct, frozen=True, array_like=True):
    """What is known of an attempted recipient. Written by the scripts; times are Redis' milliseconds."""

    due: int = 0  # the next attempt, if deferred
    attempts: int = 0  # counted ones; a failure that is not the recipient's counts nothing
    at: int = 0  # the last attempt's end
    resends: int = 0  # resent from doubt by policy
    reply: str = ""  # the relay's last words, or what happened instead
    relay: str = ""
    worker: str = ""
    took: int = 0  # milliseconds of the last attempt
    claim: str = ""  # a mark of the claim that reported it, so that the same report twice is no duplicate
    listed: Listed | None = None  # if it is suppressed: what the list said when it became so


class NewBatch(msgspec.Struct, frozen=True):
    """A batch to be accepted."""

    id: str
    priority: Priority
    record: BatchRecord
    recipients: tuple[str, ...]  # bare addresses, message after message
    bodies: tuple[Content, ...]  # one a message, as it goes over the wire before dot-stuffing
    fingerprint: str
    lifetime: float  # seconds until it expires, from send_at or now
    send_at: float = 0.0  # seconds since 1970; 0: now
    blobs: Mapping[str, bytes] = {}  # what its blobs stand for, by digest
    values: bytes = b""  # of a campaign's rows, in the place of bodies: `encode_values`, packed
    files: tuple[tuple[OwnFile, ...], ...] = ()  # of these rows' own; (): no row has any
    ends: float = 0.0  # seconds since 1970, after which a campaign's rest expires; 0: it doesn't

    def message_ids(self) -> Iterator[str]:
        """The ids of its messages."""
        return (f"{self.id}.{indices.start}" for _, _, indices in self.record.ranges())

    def needs(self) -> Iterator[tuple[int, Blob]]:
        """The numbers of its messages, each with a blob that it needs."""
        for number, body in enumerate(self.bodies):
            yield from ((number, blob) for blob in blobs_in(body))
        for number, files in enumerate(self.files):
            yield from ((number, file) for file in files if file.size)

    def references(self) -> dict[str, str]:
        """By digest, which of its messages need a blob: the batch's id and their numbers, "ID:0-9,12-12"."""
        numbers: dict[str, dict[int, None]] = {}
        for number, blob in self.needs():
            numbers.setdefault(blob.digest, {})[number] = None
        return {digest: f"{self.id}:{_ranges(needed)}" for digest, needed in numbers.items()}


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers that ascend, as ranges: "0-9,12-12"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{first}-{last}" for first, last in ranges)


def pack(data: bytes) -> bytes:
    """`data`, compressed if that is worth it."""
    if len(data) > _WORTH_COMPRESSING:
        packed = zlib.compress(data, 1)
        if len(packed) < len(data):
            return _ZLIB + packed
    return _PLAIN + data


def unpack(packed: bytes | memoryview) -> bytes:
    """What `pack` was given.

    Raises:
        ValueError: it isn't of `pack`'s making.
    """
    kind, data = packed[:1], memoryview(packed)[1:]  # not copied: it may be large
    if kind not in (_PLAIN, _ZLIB):
        raise ValueError("it is missing, or packed in an unknown way")
    return zlib.decompress(data) if kind == _ZLIB else bytes(data)


def pack_body(content: Content) -> bytes:
    """A message's content as it is stored: bytes, or pieces, of which some are stored apart."""
    return pack(content) if isinstance(content, bytes) else _PIECES + pack(msgspec.msgpack.encode(content))


def unpack_body(packed: bytes) -> Content:
    """The content that was stored.

    Raises:
        ValueError: it isn't of `pack_body`'s making.
    """
    return _pieces_decoder.decode(unpack(memoryview(packed)[1:])) if packed[:1] == _PIECES else unpack(packed)


_pieces_decoder = msgspec.msgpack.Decoder(tuple[bytes | Blob, ...])
_record_decoder = msgspec.json.Decoder(BatchRecord)
_recipients_decoder = msgspec.json.Decoder(tuple[str, ...])
_tries_decoder = msgspec.msgpack.Decoder(Tries, strict=False)


def pack_record(record: BatchRecord) -> bytes:
    """The header as it is stored."""
    return pack(msgspec.json.encode(record))


def unpack_record(packed: bytes) -> BatchRecord:
    """The header that was stored."""
    return _record_decoder.decode(unpack(packed))


def pack_recipients(recipients: Sequence[str]) -> bytes:
    """The recipients as they are stored."""
    return pack(msgspec.json.encode(recipients))


def unpack_recipients(packed: bytes) -> tuple[str, ...]:
    """The recipients that were stored."""
    return _recipients_decoder.decode(unpack(packed))


class _Table(msgspec.Struct, frozen=True, array_like=True):
    """Rows that have the same fields: column by column, since alike compresses well beside alike."""

    names: tuple[str, ...]
    columns: tuple[tuple[Any, ...], ...]


_values_decoder = msgspec.json.Decoder(_Table)
_rows_decoder = msgspec.json.Decoder(list[dict[str, Any]])
_files_decoder = msgspec.json.Decoder(tuple[tuple[OwnFile, ...], ...])


def encode_values(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """What rows hold, as JSON; see `pack`.

    Raises:
        TypeError, ValueError: something that JSON can't hold.
    """
    names = tuple(rows[0])
    if all(tuple(row) == names for row in rows):
        columns = tuple(zip(*(row.values() for row in rows), strict=True))
        return b"t" + msgspec.json.encode(_Table(names, columns))
    return b"r" + msgspec.json.encode(rows)


def with_files(values: bytes, files: Sequence[Sequence[OwnFile]]) -> bytes:
    """What `encode_values` has made, with the files of each row's own."""
    return b"f" + msgspec.json.encode(files) + b"\n" + values


class Values:
    """The rows of a batch, once they are unpacked.

    Raises:
        ValueError: they aren't of `encode_values`' or `with_files`' making.
    """

    def __init__(self, packed: bytes) -> None:
        encoded = unpack(packed)
        self._files: tuple[tuple[OwnFile, ...], ...] = ()
        if encoded[:1] == b"f":
            files, _, encoded = encoded[1:].partition(b"\n")
            self._files = _files_decoder.decode(files)
        kind, data = encoded[:1], encoded[1:]
        self._table = _values_decoder.decode(data) if kind == b"t" else None
        self._rows = _rows_decoder.decode(data) if kind == b"r" else []
        if kind not in (b"t", b"r"):
            raise ValueError("its rows are kept in an unknown way")

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row: the fields that the template's names stand for."""
        if self._table is None:
            return self._rows[index]
        return {
            name: column[index] for name, column in zip(self._table.names, self._table.columns, strict=True)
        }

    def files(self, index: int) -> tuple[OwnFile, ...]:
        """One row's own files."""
        return self._files[index] if self._files else ()


_LAST: Final = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


def moment(seconds: float) -> datetime:
    """Clamped to what every time zone can show: one odd record must not break a listing."""
    return datetime.fromtimestamp(min(max(seconds, 0), _LAST), UTC)


def unpack_tries(packed: bytes) -> Tries:
    """What a script wrote about an attempted recipient."""
    return _tries_decoder.decode(packed)
