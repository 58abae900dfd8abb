"""Messages become batches: each gets its place, its id and its bytes. Nothing is accepted here.

The rules:

1. An id is made before anything is sent, so that trying again is safe: the same messages with the same
   ids make the same batches.
2. Messages share a batch if they are alike in priority and times; one with an idempotency key has a
   batch of its own, whose id the key stands for.
3. All are composed before the first is accepted: one that can't be mailed leaves nothing half accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final

from mailtasks import address
from mailtasks.address import excerpt
from mailtasks.compose.mime import blob_digest, compose, given_size
from mailtasks.errors import IdempotencyConflict, MessageError, MessageTooLarge
from mailtasks.message import MOMENTS, Message
from mailtasks.pieces import Content, blobs_in, size_of
from mailtasks.ready import Head
from mailtasks.settings import IN_REDIS, Settings
from mailtasks.store.keys import batch_id_for_key, new_batch_id, split_id
from mailtasks.store.records import BatchRecord, MessageRecord, NewBatch

_MESSAGES_A_BATCH: Final = 100  # few tasks, yet a batch is spread over workers soon enough
_BYTES_A_BATCH: Final = 1_000_000  # bodies; Redis moves them in one piece


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch, and the idempotency key that its id stands for."""

    batch: NewBatch
    key: str | None


@dataclass(slots=True)
class _Open:
    """A batch that takes more messages."""

    id: str
    messages: int = 0
    recipients: int = 0
    bytes: int = 0

    def has_room(self, size: int) -> bool:
        return self.messages == 0 or (
            self.messages < _MESSAGES_A_BATCH and self.bytes + size <= _BYTES_A_BATCH
        )

    def take(self, message: Message, size: int) -> str:
        """The message's id."""
        id = f"{self.id}.{self.recipients}"
        self.messages += 1
        self.recipients += len(message.recipients)
        self.bytes += size
        return id


def places(messages: Sequence[Message]) -> list[str]:
    """An id for each message. Two with one idempotency key are one mail, and have one id.

    Raises:
        IdempotencyConflict: two with one key have other content.
    """
    ids: list[str] = []
    keyed: dict[str, Message] = {}
    batches: dict[object, _Open] = {}
    for message in messages:
        if message.idempotency_key is not None:
            ids.append(_place_of_key(message.idempotency_key, message, keyed))
            continue
        size = _size(message)
        batch = batches.get(_likeness(message))
        if batch is None or not batch.has_room(size):
            batch = batches[_likeness(message)] = _Open(new_batch_id())
        ids.append(batch.take(message, size))
    return ids


def _place_of_key(key: str, message: Message, keyed: dict[str, Message]) -> str:
    id = f"{batch_id_for_key(key)}.0"
    first = keyed.setdefault(key, message)
    if first is not message and first.fingerprint() != message.fingerprint():
        raise IdempotencyConflict(key, id)
    return id


def _likeness(message: Message) -> object:
    """What the messages of a batch share. A moment as a number: in autumn two of them look alike."""
    send_at = message.send_at.timestamp() if message.send_at else None
    return message.priority, send_at, message.expires_after


def _size(message: Message) -> int:
    """About how many bytes its body will have."""
    attached = sum(len(attachment.content) for attachment in message.attachments)
    return given_size(message) + attached // 3  # base64


def pack(messages: Sequence[Message], ids: Sequence[str], settings: Settings) -> list[Packed]:
    """Compose the messages and put them into their batches.

    Args:
        ids: one a message, in order: from `places`, now or at an earlier try.

    Raises:
        MessageError: a message has no sender or is too large, or the ids are not those of these messages.
    """
    batches: dict[str, dict[int, Message]] = {}
    for message, id in zip(messages, _checked(messages, ids), strict=True):
        batch, index = split_id(id)
        _check_place(id, message, batches.setdefault(batch, {}).setdefault(index, message))
    return [_packed(id, by_index, settings) for id, by_index in batches.items()]


def _check_place(id: str, message: Message, first: Message) -> None:
    """Refuse an id that would lose a message, or the meaning of its key."""
    key = message.idempotency_key
    if key is not None and id != f"{batch_id_for_key(key)}.0":
        raise MessageError(
            f"the id {id} is not that of the idempotency key {excerpt(key)}: "
            "give the key alone, which is as safe to send again"
        )
    if first is not message and first.fingerprint() != message.fingerprint():
        raise MessageError(f"the id {id} is given to two messages; give each its own")


def _checked(messages: Sequence[Message], ids: Sequence[str]) -> Sequence[str]:
    if len(ids) != len(messages):
        raise MessageError(f"{len(ids)} ids for {len(messages)} messages; give one for each, in order")
    for id in ids:
        try:
            split_id(id)
        except ValueError as error:
            raise MessageError(f"{error}; give the ids that the error of the earlier try carries") from None
    return ids


def _packed(id: str, by_index: dict[int, Message], settings: Settings) -> Packed:
    messages = list(by_index.values())
    first, recipients = messages[0], 0
    for index, message in by_index.items():
        if index != recipients or _likeness(message) != _likeness(first):
            raise MessageError(
                f"the id {id}.{index} is not that of this message: send the same messages in the same order "
                "as when the ids were made, or send without ids"
            )
        recipients += len(message.recipients)
    composed = [_composed(message, f"{id}.{index}", settings) for index, message in by_index.items()]
    fingerprints = "".join(message.fingerprint() for message in messages)
    lifetime = first.expires_after.total_seconds() if first.expires_after else settings.max_age
    batch = NewBatch(
        id=id,
        priority=first.priority,
        record=BatchRecord(messages=tuple(record for record, _ in composed)),
        recipients=tuple(recipient for message in messages for recipient in message.recipients),
        bodies=tuple(body for _, body in composed),
        fingerprint=blake2b(fingerprints.encode(), digest_size=16).hexdigest(),
        lifetime=lifetime,
        send_at=first.send_at.timestamp() if first.send_at else 0.0,
        blobs=_blobs(messages, [body for _, body in composed], settings),
    )
    return Packed(batch, first.idempotency_key)


def _blobs(messages: Sequence[Message], bodies: Sequence[Content], settings: Settings) -> dict[str, bytes]:
    """What the bodies' blobs stand for."""
    blobs: dict[str, bytes] = {}
    for message, body in zip(messages, bodies, strict=True):
        sizes = {blob.digest: blob.size for blob in blobs_in(body)}
        if settings.blobs == IN_REDIS and sum(sizes.values()) > settings.blob_cap:
            raise MessageTooLarge(
                f"the attachments of a message have {sum(sizes.values()):,} bytes, and all in Redis together "
                f"may have {settings.blob_cap:,}: raise `blob_cap`, or let `blobs` name a folder"
            )
        if sizes:
            contents = {blob_digest(file): file.content for file in message.attachments}
            blobs |= {digest: contents[digest] for digest in sizes}
    return blobs


def _composed(message: Message, id: str, settings: Settings) -> tuple[MessageRecord, Content]:
    """What is kept of a message, and its bytes. Message-ID and Date are fixed here, over all retries.

    Of a mail that is planned for later the Date is when it may go: readers sort by it, and filters distrust
    old ones.
    A ready-made message has a subject, and may have a sender and a Message-ID, of its own.
    """
    head = None if message.raw is None else Head.of(message.raw)
    author = message.sender or (head and head.sender) or settings.default_from
    if not author:
        raise MessageError(
            "the message has no sender and no default is set; give `sender` or set MAILTASKS_DEFAULT_FROM"
        )
    parsed = address.parse(author)
    message_id = (head and head.message_id) or f"<{id}@{parsed.domain}>"
    composed = compose(
        message,
        sender=author,
        message_id=message_id,
        date=max(datetime.now(UTC), message.send_at or MOMENTS[0]),
        size_limit=settings.size_limit,
        blob_threshold=settings.blob_threshold,
    )
    record = MessageRecord(
        message_id=message_id,
        sender=parsed.address if message.envelope_sender is None else message.envelope_sender,
        recipients=len(message.recipients),
        subject=message.subject if head is None else head.subject,
        size=size_of(composed.content),
        smtputf8=composed.smtputf8,
        dsn_notify=message.dsn_notify,
        dsn_return=message.dsn_return or "",
        require_tls=message.require_tls,
        tags=message.tags,
        metadata=dict(message.metadata),
    )
    return record, composed.content
