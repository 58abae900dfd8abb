"""`Mailer`: accept mail, ask about it, steer it. What a producer, an operator and the command line use.

`send` composes the message, accepts it in the ledger and publishes a hint. When it returns an id, the
mail is the ledger's: whatever dies afterwards, it ends in one final state or is held visibly.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from mailtasks import address, packing
from mailtasks.errors import (
    IdempotencyConflict,
    MessageError,
    SettingsError,
    StoreUnavailable,
    UnknownMessage,
)
from mailtasks.message import PRIORITIES, Message, Priority
from mailtasks.packing import Packed
from mailtasks.policy.verdict import HARD_BOUNCES
from mailtasks.publish import Publisher, producing_app
from mailtasks.room import Room
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.status import MessageStatus, QueueStatus, RetryReport, SetAside, Stats
from mailtasks.store.books import Books, Snapshot
from mailtasks.store.connection import connect
from mailtasks.store.events import Events
from mailtasks.store.keys import LISTED_STATES, Keys, split_id
from mailtasks.store.ledger import Acceptance, Ledger, Limits

_BATCHES_A_CALL: Final = 100  # accepted in one round trip

RETRYABLE: Final = (State.FAILED, State.EXPIRED, State.CANCELLED, State.SUPPRESSED, State.DEFERRED)
"""The states that `retry` acts upon; by force and id also doubt, when a person has looked."""


def limits_from(settings: Settings) -> Limits:
    """What the ledger wants to know of the settings."""
    return Limits(
        lease=settings.lease,
        margin=settings.hint_margin,
        pace=settings.pump_interval,
        retention=settings.retention,
        # Half of it, so that the answer comes before the time-out.
        confirm=settings.redis_timeout / 2 if settings.durability == "replica" else 0,
        windows={priority.value: settings.window(priority) for priority in PRIORITIES},
        doubt={priority.value: settings.doubt(priority) for priority in PRIORITIES},
    )


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
        self.room = Room(self.redis, keys, self.settings)
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
            MemoryFull, BacklogFull: there is no room for more (a StoreUnavailable); nothing was accepted.
            StoreUnavailable: Redis is away; said within four times `redis_connect_timeout + redis_timeout`,
                and as a rule within one.
                If its `ids` are not empty, the mail may have been accepted all the same: sending it again
                with that id is safe. With `durability = "replica"` also if no replica confirmed in time.
        """
        return self.send_many([message], ids=[id] if id else None)[0]

    async def asend(self, message: Message, *, id: str | None = None) -> str:
        """As `send`, in a thread: never blocks the event loop.

        An await that is cancelled may have accepted the mail all the same, and its id is lost: to be able
        to try again without a second mail, give the message an idempotency key.

        Raises:
            As `send`.
        """
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
        for message in wanted:
            if not isinstance(message, Message):
                raise MessageError(f"{address.excerpt(message)} is no message: make it a mailtasks.Message")
        ids = list(ids) if ids else packing.places(wanted)
        packed = packing.pack(wanted, ids, self.settings)
        self.room.demand(_recipients(packed))
        conflicts: list[Packed] = []
        for start in range(0, len(packed), _BATCHES_A_CALL):
            try:
                conflicts += self._accept(packed[start : start + _BATCHES_A_CALL])
            except StoreUnavailable as error:
                may_be_in = bool(error.ids) or start > 0
                raise StoreUnavailable(str(error), ids if may_be_in else ()) from error
        for conflict in conflicts:
            raise IdempotencyConflict(conflict.key, f"{conflict.batch.id}.0", ids)
        return ids

    def _accept(self, packed: Sequence[Packed]) -> list[Packed]:
        """Accept and hint batches; returns those whose id is held by other content."""
        answers = self.ledger.accept([one.batch for one in packed])
        wanting = [one.batch for one, (_, wants_hint) in zip(packed, answers, strict=True) if wants_hint]
        if wanting:
            self.publisher.hint((batch.id, batch.priority) for batch in wanting)
        return [
            one for one, (accepted, _) in zip(packed, answers, strict=True) if accepted is Acceptance.CONFLICT
        ]

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
        """Every message to an address that is still kept. Reads the whole ledger: slow if that is large.

        Raises:
            AddressError: the recipient is no address.
            StoreUnavailable: Redis is away; as it is read bit by bit, this may come between two messages.
        """
        return self.books.find(address.parse(recipient).address)

    def failed(self) -> Iterator[MessageStatus]:
        """Every message of which a recipient failed, expired or is in doubt; the latest batches first.

        What was set aside before it could come to that is told by `aside`.

        Raises:
            StoreUnavailable: Redis is away; as it is read bit by bit, this may come between two messages.
        """
        listings = [self.books.listed(state) for state in LISTED_STATES]
        told: set[str] = set()
        for snapshot in heapq.merge(*listings, key=_last_tried, reverse=True):
            if snapshot.id not in told:
                told.add(snapshot.id)
                yield from filter(_is_listed, snapshot.messages())

    def aside(self) -> list[SetAside]:
        """The batches that were set aside: nothing is done about them until somebody retries their messages.

        Raises:
            StoreUnavailable: Redis is away.
        """
        return [batch for priority in PRIORITIES for batch in self.books.set_aside(priority)]

    def stats(self) -> Stats:
        """Counts by state, rates and response times.

        Raises:
            StoreUnavailable: Redis is away.
        """
        return self.books.stats()

    def queue(self) -> list[QueueStatus]:
        """What is unfinished, by priority.

        Raises:
            StoreUnavailable: Redis is away: the ledger's or the broker's.
        """
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

        Attempts and maximum age begin anew, the age for the whole batch; one that was set aside comes back.

        Args:
            ids: messages; if there are none, all failed and expired ones that `reason` and `code` fit.
            reason: words that the last reply must hold, in any case.
            code: what a basic or enhanced code must begin with: "550", "5.7.", "4".
            force: also those whose address was refused for good and, by id, those in doubt, which may
                so get a second mail.
            dry_run: count only.

        Raises:
            UnknownMessage: there is none with one of the ids; nothing was retried.
            MessageError: neither ids nor a reason nor a code, which would be everything.
        """
        if not (ids or reason or code):
            raise MessageError("retry what? Give ids, a reason or a code")
        states = {*RETRYABLE, State.QUEUED, *([State.IN_DOUBT] if force else [])}
        report, hints = RetryReport(), []
        for snapshot, indices in self._wanted(ids, states):
            chosen = {
                index: snapshot.states[index] for index in indices if _fits(snapshot, index, reason, code)
            }
            hard = {index for index in chosen if not force and _is_hard_bounce(snapshot, index)}
            wanted = {index: state for index, state in chosen.items() if index not in hard}
            retry = self._rehearse if dry_run else self.ledger.retry
            retried, bodiless = retry(snapshot.id, wanted)
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

    def _rehearse(self, batch: str, wanted: Mapping[int, State]) -> tuple[int, int]:
        """What the ledger's `retry` would return; what is queued counts in a batch that is set aside only."""
        queued = sum(state is State.QUEUED for state in wanted.values())
        is_aside = queued and any(split_id(it.id)[0] == batch for it in self.aside())
        return len(wanted) - (0 if is_aside else queued), 0

    def _wanted(self, ids: Sequence[str], states: Set[State]) -> Iterable[tuple[Snapshot, Sequence[int]]]:
        if not ids:
            return self._all_over()
        found = [(id, *self._snapshot(id)) for id in ids]  # all are known, before the first is retried
        # Each batch once: the first retry brings back one that was set aside, and its rest is queued then.
        batches: dict[str, tuple[Snapshot, list[int]]] = {}
        for id, snapshot, index in found:
            _, wanted = batches.setdefault(snapshot.id, (snapshot, []))
            wanted += [i for i in _indices(snapshot, index, id) if snapshot.states[i] in states]
        return batches.values()

    def _all_over(self) -> Iterator[tuple[Snapshot, Sequence[int]]]:
        """The batches of which recipients failed or expired, as they are read: there may be very many."""
        over = (State.FAILED, State.EXPIRED)
        told: set[str] = set()
        for state in over:
            for snapshot in self.books.listed(state):
                if snapshot.id not in told:
                    told.add(snapshot.id)
                    yield snapshot, [i for i, state in enumerate(snapshot.states) if state in over]

    def pause(self, what: str = "all") -> None:
        """Stop sending, on all workers and over restarts, until `resume`.

        Args:
            what: "all" or a priority. What is being sent right now is finished.

        Raises:
            SettingsError: it is neither.
            StoreUnavailable: Redis is away.
        """
        self.ledger.pause(_steerable(what))

    def resume(self, what: str = "all") -> bool:
        """End a pause; "all" ends those of single priorities, too. Returns whether there was one.

        Raises:
            SettingsError: it is neither "all" nor a priority.
            StoreUnavailable: Redis is away.
        """
        return self.ledger.resume(_steerable(what))

    def paused(self) -> Mapping[str, datetime]:
        """What is paused, and since when.

        Raises:
            StoreUnavailable: Redis is away.
        """
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


def _recipients(packed: Iterable[Packed]) -> Counter[Priority]:
    counts: Counter[Priority] = Counter()
    for one in packed:
        counts[one.batch.priority] += len(one.batch.recipients)
    return counts


def _last_tried(snapshot: Snapshot) -> int:
    return max((tries.at for tries in snapshot.tries.values()), default=0)


def _is_listed(message: MessageStatus) -> bool:
    return any(recipient.state in LISTED_STATES for recipient in message.recipients)


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
    return any(word in HARD_BOUNCES for word in reply.split(maxsplit=3)[:3])


def _steerable(what: str) -> str:
    if what not in ("all", *PRIORITIES):
        raise SettingsError(f"{what!r} can't be paused or resumed; expected all, {', '.join(PRIORITIES)}")
    return what
