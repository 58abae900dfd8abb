"""One round of the relay: rows are taken, their mail is accepted, the rows are deleted or marked.

The rules:

1. The order is: take, accept in the ledger, write what became of it, commit, hint. Whatever dies in between,
   a row that wasn't deleted or marked is accepted again by the next round, and the ledger takes a batch once.
2. A row is deleted only after the ledger has said that it holds its mail; a kept one only after the ledger
   has said that all of it is final.
3. A kept row that the ledger doesn't know is accepted anew, for Redis has lost it. But where so much time has
   passed since it was last seen there, or since it was written, that the ledger may have ended and forgotten
   it in good order, a row that the ledger doesn't know is set aside, since it may have been sent.
4. A row that can't be moved is set aside, said once, and stops no other. Where Redis refuses a row, that is
   the row's own fault if the same round had a proper answer for another, or if it has gone on for PATIENCE.
   Until then it may be Redis': the row waits, and is taken behind the others.
5. What is wrong with Redis or with the database sets no row aside: it is raised. What keeps mail from being
   accepted (no room, a refusal) doesn't keep the relay from looking at kept rows, and is raised at the end.
6. That its attachments can't be stored now is never a row's own fault: it waits behind the others, however
   long that takes, and is told of when they are through.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

from mailtasks.errors import BlobsFull, BlobStoreError, MemoryFull, StoreError, StoreUnavailable
from mailtasks.event import telling_afterwards
from mailtasks.message import Priority
from mailtasks.outbox.content import aged, decode
from mailtasks.outbox.row import Change, Keep, Row, RowState, stays
from mailtasks.outbox.store import Rows, RowStore
from mailtasks.state import FINAL
from mailtasks.store.books import Snapshot
from mailtasks.store.ledger import Acceptance
from mailtasks.store.records import NewBatch

if TYPE_CHECKING:
    from mailtasks.mailer import Mailer

log = logging.getLogger(__name__)

SOONEST_LOOK: Final = 5.0  # seconds; longer than Redis takes to forget what it hadn't written to disk
LATEST_LOOK: Final = 600.0  # seconds between two looks at a mail that is being tried for days

PATIENCE: Final = 3600.0
"""Seconds for which Redis may refuse all that waits before that is taken for the rows' own fault: time for a
person to mend Redis, if it is Redis after all. A row that is set aside by mistake can be released."""

LONGEST_STORING: Final = 20.0  # seconds of a round; if attachments can't be stored, the rest waits then
_UNSTORED: Final = (BlobStoreError, BlobsFull, MemoryFull)


@dataclass(frozen=True, slots=True)
class Moved:
    """What was done, in rows."""

    accepted: int = 0  # their mail is in the ledger
    accepted_again: int = 0  # kept rows whose mail Redis had lost
    ended: int = 0  # kept rows whose mail is final
    pending: int = 0  # kept rows that were looked at, and whose mail is still on its way
    aside: int = 0  # can't be moved; see their `error`

    def __add__(self, other: Self) -> Moved:
        return Moved(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    def __bool__(self) -> bool:
        return any(astuple(self))


@dataclass(frozen=True, slots=True)
class _Taken:
    """The rows of one round."""

    waiting: Sequence[Row]
    refused: Sequence[Row]
    due: Sequence[Row]

    @classmethod
    def out_of(cls, rows: Rows, now: datetime) -> Self:
        return cls(rows.waiting(), rows.refused(), rows.due(now))


@dataclass(slots=True)
class _Round:
    """What one round has come to so far."""

    now: datetime
    changes: list[Change] = field(default_factory=list)
    hints: list[tuple[str, Priority]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)  # rows, by the fields of `Moved`
    answered: bool = False  # the ledger had a proper answer for at least one row
    refused: list[tuple[Row, StoreError]] = field(default_factory=list)
    unstored: StoreUnavailable | None = None  # why attachments of a row couldn't be stored
    store_until: float = field(default_factory=lambda: time.monotonic() + LONGEST_STORING)
    trouble: StoreError | None = None  # why there is mail that couldn't be accepted


class Mover:
    """Moves rows of one table into the ledger of one mailer.

    Args:
        clock: the time, in UTC.
    """

    def __init__(
        self,
        store: RowStore,
        mailer: Mailer,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._mailer = mailer
        self._clock = clock

    def move(self) -> Moved:
        """One round; nothing was to be done if what it returns is false.

        Raises:
            DatabaseError: the database is away.
            StoreUnavailable, StoreError: Redis is, it has no room for more (MemoryFull), or it refuses what
                waits. What could be done all the same is done.
            BlobStoreError, BlobsFull: attachments of some rows can't be stored, and no other was left.
        """
        round = _Round(self._clock())
        with telling_afterwards():  # or a listener would run within our transaction
            self._treat_rows(round)
        if round.hints:
            self._mailer.publisher.hint(round.hints)
        self._say(round)
        if round.trouble:
            raise round.trouble
        return Moved(**round.done)

    def _treat_rows(self, round: _Round) -> None:
        """Take them, ask the ledger, and write what becomes of them."""
        if self._store.can_lock:
            with self._store.transaction() as rows:
                self._treat(_Taken.out_of(rows, round.now), round)
                rows.change(round.changes)
        else:  # nobody should wait for SQLite while we wait for Redis
            with self._store.transaction() as rows:
                taken = _Taken.out_of(rows, round.now)
            self._treat(taken, round)
            if round.changes:
                with self._store.transaction() as rows:
                    rows.change(round.changes)

    def _treat(self, taken: _Taken, round: _Round) -> None:
        """Ask the ledger, and decide what becomes of each row."""
        lost = self._look_at(taken.due, round)
        self._accept_in_turn([taken.waiting, taken.refused, lost], round)
        self._judge(round)
        round.done["aside"] = sum(change.set_aside_for is not None for change in round.changes)

    # --- What the ledger is to take

    def _accept_in_turn(self, groups: Sequence[Sequence[Row]], round: _Round) -> None:
        if not any(groups):
            return
        try:
            self._mailer.room.demand_memory()  # and no room in a backlog: see decision record 0014
            for rows in groups:
                self._accept(rows, round)
        except StoreError as error:
            round.trouble = error

    def _accept(self, rows: Sequence[Row], round: _Round) -> None:
        readable = self._surely_unsent(list(self._readable(rows, round)), round)
        answers = self._answers([batch for _, batch in readable], round)
        for (row, batch), answer in zip(readable, answers, strict=True):
            if isinstance(answer, StoreError):
                round.refused.append((row, answer))
                continue
            round.answered = True
            round.changes.append(self._after(row, batch, answer, round))

    def _surely_unsent(
        self, readable: Sequence[tuple[Row, NewBatch]], round: _Round
    ) -> list[tuple[Row, NewBatch]]:
        """Without what a relay may have moved before it died, so long ago that the ledger forgot it."""
        old = {row.batch for row, it in readable if self._may_be_forgotten(row, round.now, it.send_at)}
        forgotten = old - self._mailer.ledger.held(list(old)) if old else old
        round.changes += [
            Change.aside(row, self._forgotten(row)) for row, it in readable if it.id in forgotten
        ]
        return [(row, it) for row, it in readable if it.id not in forgotten]

    def _readable(self, rows: Sequence[Row], round: _Round) -> Iterator[tuple[Row, NewBatch]]:
        for row in rows:
            try:
                yield row, aged(decode(row.content, row.batch), row.written_at, round.now)
            except ValueError as error:
                round.changes.append(
                    Change.aside(row, f"{error}; was it changed, or written by a later version?")
                )

    def _answers(self, batches: Sequence[NewBatch], round: _Round) -> Sequence[Acceptance | StoreError]:
        """What the ledger says of each: of all in one call, or one by one if it refuses that."""
        if not batches:
            return []
        try:
            return self._accept_all(batches, round)
        except StoreError as error:
            if isinstance(error, StoreUnavailable) and not isinstance(error, _UNSTORED):
                raise
            return [self._accept_one(batch, round) for batch in batches]

    def _accept_one(self, batch: NewBatch, round: _Round) -> Acceptance | StoreError:
        if batch.blobs and round.unstored and time.monotonic() > round.store_until:
            return round.unstored
        try:
            return self._accept_all([batch], round)[0]
        except StoreUnavailable as error:
            if not (batch.blobs and isinstance(error, _UNSTORED)):
                raise
            round.unstored = error
            return error
        except StoreError as error:
            return error

    def _accept_all(self, batches: Sequence[NewBatch], round: _Round) -> list[Acceptance]:
        answers = self._mailer.accept(batches)
        round.hints += [
            (batch.id, batch.priority)
            for batch, (_, wants_hint) in zip(batches, answers, strict=True)
            if wants_hint
        ]
        return [acceptance for acceptance, _ in answers]

    def _after(self, row: Row, batch: NewBatch, answer: Acceptance, round: _Round) -> Change:
        if answer is Acceptance.CONFLICT:
            return Change.aside(
                row,
                f"its idempotency key or id was used before with other content, by message {batch.id}.0; "
                "delete the row, and write the mail with another key",
            )
        round.done["accepted" if row.state == RowState.WAITING else "accepted_again"] += 1
        if stays(row.keep):
            return Change.accepted(row, round.now, self._next_look(row.accepted_at or round.now, round.now))
        return Change.deleted(row)

    def _judge(self, round: _Round) -> None:
        """Say of each refusal whether it is the row's own fault; see rules 4 and 6."""
        latest = round.now + timedelta(seconds=PATIENCE)
        for row, error in round.refused:
            unstored = isinstance(error, _UNSTORED)
            patient_until = latest if unstored else row.patient_until or latest
            if not unstored and (round.answered or patient_until <= round.now):
                round.changes.append(Change.aside(row, str(error)))
            else:
                round.changes.append(Change.refused(row, str(error), patient_until))
                if not (unstored and round.done["accepted"]):  # see rule 6: who is told makes a pause
                    round.trouble = round.trouble or error

    # --- What is kept

    def _look_at(self, rows: Sequence[Row], round: _Round) -> list[Row]:
        """See what became of kept rows' mail; returns those whose mail Redis has lost."""
        if not rows:
            return []
        known = {it.id: it for it in self._mailer.books.batches([row.batch for row in rows])}
        lost = []
        for row in rows:
            if snapshot := known.get(row.batch):
                round.done["ended" if _is_final(snapshot) else "pending"] += 1
                round.changes.append(self._seen(row, snapshot, round.now))
            elif self._may_be_forgotten(row, round.now):
                round.changes.append(Change.aside(row, self._forgotten(row)))
            else:
                lost.append(row)
        return lost

    def _seen(self, row: Row, snapshot: Snapshot, now: datetime) -> Change:
        if not _is_final(snapshot):
            return Change.accepted(row, now, self._next_look(row.accepted_at or now, now))
        if row.keep == Keep.FOREVER:
            return Change.final(row, now, {it.id: it.state.value for it in snapshot.messages()})
        return Change.deleted(row)

    def _next_look(self, accepted: datetime, now: datetime) -> datetime:
        """Twice as long after accept each time; always before the ledger may forget what has ended."""
        pause = min(max(SOONEST_LOOK, (now - accepted).total_seconds()), LATEST_LOOK)
        return now + timedelta(seconds=min(pause, self._mailer.settings.retention / 2))

    def _may_be_forgotten(self, row: Row, now: datetime, send_at: float = 0.0) -> bool:
        """Whether the ledger may have sent, ended and forgotten it; what was planned, not before its time."""
        seen = (row.seen_at or row.written_at).timestamp()
        return now.timestamp() - max(seen, send_at) >= self._mailer.settings.retention

    def _forgotten(self, row: Row) -> str:
        seen = (row.seen_at or row.written_at).isoformat(timespec="seconds")
        return (
            f"the ledger doesn't know it, and no relay has looked since {seen}, which is longer than the "
            "retention: it may have been sent; delete the row, or release it by "
            f"`mailtasks outbox retry {row.id}`"
        )

    def _say(self, round: _Round) -> None:
        if again := round.done["accepted_again"]:
            log.warning("Redis had lost the mail of %d kept rows; it is accepted again", again)
        for change in round.changes:
            if reason := change.set_aside_for:
                log.error("row %d of %s is set aside: %s", change.row.id, self._store.name, reason)


def _is_final(snapshot: Snapshot) -> bool:
    return FINAL.issuperset(snapshot.states)
