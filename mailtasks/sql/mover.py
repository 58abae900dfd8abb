"""One round of the relay: rows are taken, their mail is accepted, the rows are deleted or marked.

The rules:

1. The order is: take, accept in the ledger, write what became of it, commit, hint. Whatever dies in between,
   a row that wasn't deleted or marked is accepted again by the next round, and the ledger takes a batch once.
2. A row is deleted only after the ledger has said that it holds its mail; a kept one only after the ledger
   has said that all of it is final.
3. A kept row that the ledger doesn't know is accepted anew, for Redis has lost it, unless so much time has
   passed since it was last seen there that the ledger may have ended and forgotten it in good order. Then it
   is set aside, since it may have been sent.
4. A row that can't be moved is set aside, said once, and stops no other. What is wrong with Redis or with
   the database marks no row: it is raised.
5. A row whose attachments can't be stored now stays as it is. That is raised when the others are moved.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

from sqlalchemy import Connection, Engine, Table

from mailtasks.errors import BlobsFull, BlobStoreError, StoreError, StoreUnavailable
from mailtasks.message import Priority
from mailtasks.sql.content import aged, decode
from mailtasks.sql.database import reachable
from mailtasks.sql.rows import Change, Row, Rows, can_lock, limit_locks, stays
from mailtasks.sql.table import Keep
from mailtasks.state import FINAL
from mailtasks.store.books import Snapshot
from mailtasks.store.ledger import Acceptance
from mailtasks.store.records import NewBatch

if TYPE_CHECKING:
    from mailtasks.mailer import Mailer

log = logging.getLogger(__name__)

SOONEST_LOOK: Final = 5.0  # seconds; longer than Redis takes to forget what it hadn't written to disk
_UNSTORED: Final = (BlobStoreError, BlobsFull)

LATEST_LOOK: Final = 600.0  # seconds between two looks at a mail that is being tried for days


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


@dataclass(slots=True)
class _Round:
    """What one round has come to so far."""

    now: datetime
    changes: list[Change]
    hints: list[tuple[str, Priority]]
    unstored: StoreUnavailable | None = None  # why attachments of some rows could not be stored


class Mover:
    """Moves rows of one table into the ledger of one mailer.

    Args:
        clock: the time, in UTC.
    """

    def __init__(
        self,
        table: Table,
        engine: Engine,
        mailer: Mailer,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._table = table
        self._engine = engine
        self._mailer = mailer
        self._clock = clock
        self._rows = Rows(table)

    def move(self) -> Moved:
        """One round; nothing was to be done if what it returns is false.

        Raises:
            DatabaseError: the database is away.
            StoreUnavailable, StoreError: Redis is, or it has no room for more (MemoryFull).
            BlobStoreError, BlobsFull: attachments of some rows can't be stored; the others are moved.
        """
        round = _Round(self._clock(), [], [])
        with reachable(self._engine), self._engine.connect() as connection:
            waiting, due = self._taken(connection, round.now)
            moved = self._accepted(waiting, round) + self._looked_at(due, round)
            self._rows.change(connection, round.changes)
            connection.commit()
        if round.hints:
            self._mailer.publisher.hint(round.hints)
        self._say(round.changes)
        if round.unstored:
            raise round.unstored
        return moved

    def _taken(self, connection: Connection, now: datetime) -> tuple[list[Row], list[Row]]:
        limit_locks(connection)
        waiting, due = self._rows.waiting(connection), self._rows.due(connection, now)
        if not can_lock(connection):
            connection.rollback()  # nobody should wait for SQLite while we wait for Redis
        return waiting, due

    # --- What waits

    def _accepted(self, rows: Sequence[Row], round: _Round) -> Moved:
        readable = list(self._readable(rows, round))
        answers = self._accept([batch for _, batch in readable], round)
        for (row, batch), answer in zip(readable, answers, strict=True):
            if not isinstance(answer, _UNSTORED):
                round.changes.append(self._after(row, batch, answer, round.now))
        accepted = sum(answer in (Acceptance.NEW, Acceptance.SAME) for answer in answers)
        unstored = sum(isinstance(answer, _UNSTORED) for answer in answers)
        return Moved(accepted=accepted, aside=len(rows) - accepted - unstored)

    def _readable(self, rows: Sequence[Row], round: _Round) -> Iterator[tuple[Row, NewBatch]]:
        for row in rows:
            try:
                yield row, aged(decode(row.content, row.batch), row.written_at, round.now)
            except ValueError as error:
                round.changes.append(
                    Change.aside(row, f"{error}; was it changed, or written by a later version?")
                )

    def _accept(self, batches: Sequence[NewBatch], round: _Round) -> Sequence[Acceptance | StoreError]:
        """What the ledger says of each; an error stands for a batch only if the ledger took another."""
        if not batches:
            return []
        self._mailer.room.demand_memory()  # what is committed isn't refused for a backlog
        try:
            return self._accept_all(batches, round)
        except _UNSTORED:
            return [self._accept_one(batch, round) for batch in batches]
        except StoreUnavailable:
            raise
        except StoreError as error:
            answers = [self._accept_one(batch, round) for batch in batches]
            if all(isinstance(answer, StoreError) for answer in answers):
                raise error from None  # it is Redis, then, and no row
            return answers

    def _accept_one(self, batch: NewBatch, round: _Round) -> Acceptance | StoreError:
        try:
            return self._accept_all([batch], round)[0]
        except _UNSTORED as error:
            round.unstored = error
            return error
        except StoreUnavailable:
            raise
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

    def _after(self, row: Row, batch: NewBatch, answer: Acceptance | StoreError, now: datetime) -> Change:
        if isinstance(answer, StoreError):
            return Change.aside(row, str(answer))
        if answer is Acceptance.CONFLICT:
            return Change.aside(
                row,
                f"its idempotency key or id was used before with other content, by message {batch.id}.0; "
                "use another key for another mail",
            )
        if stays(row.keep):
            return Change.accepted(row, now, self._next_look(row.accepted_at or now, now))
        return Change.deleted(row)

    # --- What is kept

    def _looked_at(self, rows: Sequence[Row], round: _Round) -> Moved:
        if not rows:
            return Moved()
        known = {it.id: it for it in self._mailer.books.batches([row.batch for row in rows])}
        lost = [row for row in rows if row.batch not in known]
        forgotten = [row for row in lost if self._may_be_forgotten(row, round.now)]
        again = self._accepted([row for row in lost if row not in forgotten], round)
        round.changes += [Change.aside(row, self._forgotten(row)) for row in forgotten]
        ended = 0
        for row in rows:
            if snapshot := known.get(row.batch):
                ended += _is_final(snapshot)
                round.changes.append(self._seen(row, snapshot, round.now))
        if again.accepted:
            log.warning("Redis had lost the mail of %d kept rows; it is accepted again", again.accepted)
        return Moved(
            accepted_again=again.accepted,
            aside=again.aside + len(forgotten),
            ended=ended,
            pending=len(known) - ended,
        )

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

    def _may_be_forgotten(self, row: Row, now: datetime) -> bool:
        seen = row.seen_at or row.written_at
        return (now - seen).total_seconds() >= self._mailer.settings.retention

    def _forgotten(self, row: Row) -> str:
        seen = (row.seen_at or row.written_at).isoformat(timespec="seconds")
        return (
            f"the ledger doesn't know it, and no relay has looked since {seen}, which is longer than the "
            "retention: it may have been sent; delete the row, or release it by `Outbox.retry`"
        )

    def _say(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.values and change.values.get("error"):
                log.error(
                    "row %d of %s is set aside: %s",
                    *(change.row.id, self._table.fullname, change.values["error"]),
                )


def _is_final(snapshot: Snapshot) -> bool:
    return FINAL.issuperset(snapshot.states)
