"""`Mailer`: accept mail, ask about it, steer it. What a producer, an operator and the command line use.

`send` composes the message, accepts it in the ledger and publishes a hint. When it returns an id, the
mail is the ledger's: whatever dies afterwards, it ends in one final state or is held visibly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from types import TracebackType
from typing import Any, Final, Self

from mailtasks import address
from mailtasks.compose.mime import compose
from mailtasks.errors import (
    IdempotencyConflict,
    MessageError,
    SettingsError,
    StoreUnavailable,
    UnknownMessage,
)
from mailtasks.message import PRIORITIES, Message
from mailtasks.publish import Publisher, producing_app
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.status import MessageStatus, QueueStatus, RetryReport, Stats
from mailtasks.store.books import Books, Snapshot
from mailtasks.store.connection import connect
from mailtasks.store.events import Events
from mailtasks.store.keys import LISTED_STATES, Keys, batch_id_for_key, new_batch_id, split_id
from mailtasks.store.ledger import Acceptance, Ledger, Limits
from mailtasks.store.records import BatchRecord, MessageRecord, NewBatch

_MESSAGES_A_BATCH: Final = 100  # of send_many: few tasks, yet a batch is spread over workers soon enough
_BYTES_A_BATCH: Final = 1_000_000  # bodies; Redis moves them in one piece
_BATCHES_A_CALL: Final = 100  # accepted in one round trip

RETRYABLE: Final = (State.FAILED, State.EXPIRED, State.CANCELLED, State.SUPPRESSED, State.DEFERRED)
"""The states that `retry` acts upon; doubt is settled by a person who has looked."""

HARD_BOUNCE_CODES: Final = ("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10")


def limits_from(settings: Settings) -> Limits:
    """What the ledger wants to know of the settings."""
    return Limits(
        lease=settings.lease,
        margin=settings.hint_margin,
        retention=settings.retention,
        windows={priority.value: settings.window(priority) for priority in PRIORITIES},
        doubt={priority.value: settings.doubt(priority) for priority in PRIORITIES},
    )


@dataclass(frozen=True, slots=True)
class _Composed:
    """A message that has its place and its bytes; nothing of it is accepted yet."""

    message: Message
    record: MessageRecord
    recipients: tuple[str, ...]
    body: bytes


class Mailer:
    """The way in. Connects on first use; usable from many threads; a context manager.

    Args:
        settings: by default what environment and file say.
        publisher: by default one of its own, beside any Celery app of the user's.
        **keywords: single settings, stronger than every other source.

    Raises:
        SettingsError: a setting is wrong.
    """

    def __init__(
        self, settings: Settings | None = None, *, publisher: Publisher | None = None, **keywords: Any
    ) -> None:
        if settings is not None and keywords:
            raise SettingsError(
                f"Mailer takes settings or keywords, not both; put {', '.join(keywords)} into the settings"
            )
        self.settings = settings or Settings.load(**keywords)
        self.redis = connect(
            self.settings.store_url,
            timeout=self.settings.redis_timeout,
            connect_timeout=self.settings.redis_connect_timeout,
        )
        keys = Keys(self.settings.namespace)
        self.ledger = Ledger(self.redis, keys, limits_from(self.settings))
        self.books = Books(self.redis, keys)
        self.events = Events(self.redis, keys)
        self.publisher = publisher or Publisher(lambda: producing_app(self.settings), self.settings.namespace)

    # Accept

    def send(self, message: Message, *, id: str | None = None) -> str:
        """Accept one message and hint it.

        Args:
            id: the id that an earlier try's `StoreUnavailable` carried, to try again without a second mail.

        Returns:
            Its id. With an idempotency key that was used for the same content, the id of then.

        Raises:
            MessageError: it has no sender, or is larger than `size_limit`; nothing was accepted.
            IdempotencyConflict: the key was used for other content.
            StoreUnavailable: Redis is away; said within twice `redis_connect_timeout + redis_timeout`.
                If its `ids` are not empty, the mail may have been accepted all the same: sending it again
                with that id is safe.
        """
        return self.send_many([message], ids=[id] if id else None)[0]

    async def asend(self, message: Message, *, id: str | None = None) -> str:
        """As `send`, in a thread: never blocks the event loop."""
        return await asyncio.to_thread(self.send, message, id=id)

    def send_many(self, messages: Iterable[Message], *, ids: Sequence[str] | None = None) -> list[str]:
        """Accept many messages in few batches; each has a fate of its own.

        All are composed before the first is accepted, so one that can't be mailed leaves nothing half
        accepted.

        Args:
            ids: those that an earlier try's `StoreUnavailable` carried, for the same messages in order.

        Returns:
            Their ids, in order.

        Raises:
            As `send`. If Redis goes away in the middle, the error's `ids` are those of all messages.
        """
        wanted = list(messages)
        places = list(ids) if ids else _places(wanted)
        if len(places) != len(wanted):
            raise MessageError(f"{len(places)} ids for {len(wanted)} messages; give one for each, in order")
        composed = [self._compose(message, id) for message, id in zip(wanted, places, strict=True)]
        batches = [
            (_batch(batch, [composed[i] for i in positions], self.settings.max_age), wanted[positions[0]])
            for batch, positions in _by_batch(places).items()
        ]
        for start in range(0, len(batches), _BATCHES_A_CALL):
            try:
                self._accept(batches[start : start + _BATCHES_A_CALL])
            except StoreUnavailable as error:
                may_be_in = bool(error.ids) or start > 0
                raise StoreUnavailable(str(error), places if may_be_in else ()) from error
        return places

    def _compose(self, message: Message, id: str) -> _Composed:
        sender = message.sender or self.settings.default_from
        if not sender:
            raise MessageError(
                "the message has no sender and no default is set; give `sender` or set MAILTASKS_DEFAULT_FROM"
            )
        parsed = address.parse(sender)
        message_id = f"<{id}@{parsed.domain}>"
        composed = compose(
            message,
            sender=sender,
            message_id=message_id,
            date=datetime.now(UTC),
            size_limit=self.settings.size_limit,
        )
        recipients = message.recipients
        record = MessageRecord(
            message_id=message_id,
            sender=parsed.address if message.envelope_sender is None else message.envelope_sender,
            recipients=len(recipients),
            subject=message.subject,
            size=len(composed.content),
            smtputf8=composed.smtputf8,
            tags=message.tags,
            metadata=dict(message.metadata),
        )
        return _Composed(message, record, recipients, composed.content)

    def _accept(self, batches: Sequence[tuple[NewBatch, Message]]) -> None:
        answers = self.ledger.accept([batch for batch, _ in batches])
        hints = [
            (batch.id, batch.priority) for (batch, _), (_, hint) in zip(batches, answers, strict=True) if hint
        ]
        if hints:
            self.publisher.hint(hints)
        for (batch, message), (acceptance, _) in zip(batches, answers, strict=True):
            if acceptance is Acceptance.CONFLICT:
                raise IdempotencyConflict(message.idempotency_key or batch.id, f"{batch.id}.0")

    # Ask

    def status(self, id: str) -> MessageStatus:
        """What became of a message.

        Raises:
            UnknownMessage: there is none with this id (any more).
        """
        snapshot, index = self._snapshot(id)
        message = snapshot.message_of(index)
        if message is None:
            raise UnknownMessage(id)
        return message

    def find(self, recipient: str) -> Iterator[MessageStatus]:
        """Every message to an address that is still kept. Reads the whole ledger: slow if that is large."""
        return self.books.find(address.parse(recipient).address)

    def failed(self) -> Iterator[MessageStatus]:
        """Every message of which a recipient failed, expired or is in doubt; the latest batches first."""
        for state in LISTED_STATES:
            for snapshot in self.books.listed(state):
                yield from (message for message in snapshot.messages() if message.state is state)

    def stats(self) -> Stats:
        """Counts by state, rates and response times."""
        return self.books.stats()

    def queue(self) -> list[QueueStatus]:
        """What is unfinished, by priority."""
        return [self.books.queue(priority, self.publisher.waiting(priority)) for priority in PRIORITIES]

    # Steer

    def cancel(self, id: str) -> int:
        """Cancel a message's recipients that are neither being sent nor final.

        Returns:
            How many recipients this call cancelled: 0 if it was too late for all of them.

        Raises:
            UnknownMessage: there is none with this id.
        """
        snapshot, index = self._snapshot(id)
        cancelled = self.ledger.cancel(snapshot.id, _indices(snapshot, index, id))
        if cancelled < 0:
            raise UnknownMessage(id)
        return cancelled

    def retry(
        self,
        *ids: str,
        reason: str | None = None,
        code: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> RetryReport:
        """Queue recipients again that failed, expired, were cancelled or wait to be retried.

        Args:
            ids: messages; if there are none, all failed and expired ones that `reason` and `code` fit.
            reason: words that the last reply must hold, in any case.
            code: what a basic or enhanced code must begin with: "550", "5.7.", "4".
            force: also those whose address was refused for good.
            dry_run: count only.

        Raises:
            UnknownMessage: there is none with one of the ids; nothing was retried.
        """
        report, hints = RetryReport(), []
        for snapshot, indices in self._wanted(ids):
            chosen = {
                index: snapshot.states[index] for index in indices if _fits(snapshot, index, reason, code)
            }
            hard = {index for index in chosen if not force and _is_hard_bounce(snapshot, index)}
            wanted = {index: state for index, state in chosen.items() if index not in hard}
            retried, bodiless = (len(wanted), 0) if dry_run else self.ledger.retry(snapshot.id, wanted)
            report = RetryReport(
                retried=report.retried + max(retried, 0),
                bodiless=report.bodiless + bodiless,
                hard_bounces=report.hard_bounces + len(hard),
            )
            if retried > 0 and not dry_run:
                hints.append((snapshot.id, snapshot.priority))
        if hints:
            self.publisher.hint(hints)
        return report

    def _wanted(self, ids: Sequence[str]) -> list[tuple[Snapshot, Sequence[int]]]:
        if ids:
            found = [(id, *self._snapshot(id)) for id in ids]
            return [
                (snapshot, [i for i in _indices(snapshot, index, id) if snapshot.states[i] in RETRYABLE])
                for id, snapshot, index in found
            ]
        over = (State.FAILED, State.EXPIRED)
        snapshots = {snapshot.id: snapshot for state in over for snapshot in self.books.listed(state)}
        return [
            (snapshot, [index for index, state in enumerate(snapshot.states) if state in over])
            for snapshot in snapshots.values()
        ]

    def pause(self, what: str = "all") -> None:
        """Stop sending, on all workers and over restarts, until `resume`.

        Args:
            what: "all" or a priority. What is being sent right now is finished.
        """
        self.ledger.pause(_steerable(what))

    def resume(self, what: str = "all") -> bool:
        """End a pause; "all" ends those of single priorities, too. Returns whether there was one."""
        return self.ledger.resume(_steerable(what))

    def paused(self) -> Mapping[str, datetime]:
        """What is paused, and since when."""
        return self.books.paused()

    # Life

    def close(self) -> None:
        """Close the connections; the mailer opens new ones if it is used again."""
        self.redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _snapshot(self, id: str) -> tuple[Snapshot, int]:
        try:
            batch, index = split_id(id)
        except ValueError:
            raise UnknownMessage(id) from None
        snapshot = self.books.batch(batch)
        if snapshot is None:
            raise UnknownMessage(id)
        return snapshot, index


def _places(messages: Sequence[Message]) -> list[str]:
    """An id for each message: those alike in priority and times share batches, a keyed one has its own."""
    places: list[str] = []
    open_batches: dict[object, tuple[str, int, int, int]] = {}  # id, messages, recipients, bytes
    for message in messages:
        if message.idempotency_key is not None:
            places.append(f"{batch_id_for_key(message.idempotency_key)}.0")
            continue
        alike = (message.priority, message.send_at, message.expires_after)
        id, count, recipients, size = open_batches.get(alike) or (new_batch_id(), 0, 0, 0)
        weight = _weight(message)
        if count and (count == _MESSAGES_A_BATCH or size + weight > _BYTES_A_BATCH):
            id, count, recipients, size = new_batch_id(), 0, 0, 0
        places.append(f"{id}.{recipients}")
        open_batches[alike] = (id, count + 1, recipients + len(message.recipients), size + weight)
    return places


def _weight(message: Message) -> int:
    """About how many bytes its body will have."""
    attached = sum(len(attachment.content) for attachment in message.attachments)
    return len(message.text or "") + len(message.html or "") + attached * 4 // 3


def _by_batch(ids: Sequence[str]) -> dict[str, list[int]]:
    """The positions of the messages of each batch, in the order of their indices."""
    batches: dict[str, list[int]] = {}
    for position, id in enumerate(ids):
        batches.setdefault(split_id(id)[0], []).append(position)
    return batches


def _batch(id: str, composed: Sequence[_Composed], max_age: float) -> NewBatch:
    first = composed[0].message
    fingerprints = [one.message.fingerprint() for one in composed]
    return NewBatch(
        id=id,
        priority=first.priority,
        record=BatchRecord(messages=tuple(one.record for one in composed)),
        recipients=tuple(recipient for one in composed for recipient in one.recipients),
        bodies=tuple(one.body for one in composed),
        fingerprint=blake2b("".join(fingerprints).encode(), digest_size=16).hexdigest(),
        lifetime=first.expires_after.total_seconds() if first.expires_after else max_age,
        send_at=first.send_at.timestamp() if first.send_at else 0.0,
    )


def _indices(snapshot: Snapshot, index: int, id: str) -> range:
    """The recipients of the message that recipient `index` belongs to."""
    for _, _, indices in snapshot.record.ranges():
        if index in indices:
            return indices
    raise UnknownMessage(id)


def _fits(snapshot: Snapshot, index: int, reason: str | None, code: str | None) -> bool:
    reply = snapshot.tries[index].reply if index in snapshot.tries else ""
    words = reply.split(maxsplit=3)
    has_code = code is None or any(word.startswith(code) for word in words[:3])
    return has_code and (reason is None or reason.casefold() in reply.casefold())


def _is_hard_bounce(snapshot: Snapshot, index: int) -> bool:
    reply = snapshot.tries[index].reply if index in snapshot.tries else ""
    return any(word in HARD_BOUNCE_CODES for word in reply.split(maxsplit=3)[:3])


def _steerable(what: str) -> str:
    if what not in ("all", *PRIORITIES):
        raise SettingsError(f"{what!r} can't be paused or resumed; expected all, {', '.join(PRIORITIES)}")
    return what
