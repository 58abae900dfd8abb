"""The outbox's rows as the relay takes and changes them: the SQL, and nothing that decides.

Where the database can, rows are locked as they are taken, and those that another relay has are passed over.
SQLite can't: there two relays may take the same rows. That costs time and breaks nothing, since the ledger
takes a batch once; a change is made only to a row that still has the batch and the state it was taken with.
(In a table made without AUTOINCREMENT a new row may get the `id` of one that was deleted.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    delete,
    select,
    text,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.types import NullType

from mailtasks.sql.table import Keep, RowState

ROWS_A_ROUND: Final = 200
LONGEST_LOCK: Final = 120  # seconds; a round waits for Redis for a fraction of that, if it hangs
BYTES_A_ROUND: Final = 8_000_000  # of content, unless a single row has more


@dataclass(frozen=True, slots=True)
class Row:
    """A row that was taken, as it was then."""

    id: int
    batch: str
    content: bytes
    keep: str
    state: str
    written_at: datetime
    accepted_at: datetime | None
    seen_at: datetime | None
    look_at: datetime | None

    @property
    def patient_until(self) -> datetime | None:
        """When it is set aside if the ledger still refuses it; None: it has never refused it."""
        return self.look_at if self.state == RowState.WAITING else None


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a row: it is deleted, if there are no values."""

    row: Row
    values: dict[str, Any] | None

    @classmethod
    def deleted(cls, row: Row) -> Change:
        """It has served."""
        return cls(row, None)

    @classmethod
    def accepted(cls, row: Row, now: datetime, look_at: datetime) -> Change:
        """The ledger has it."""
        first = row.accepted_at or now
        state = RowState.ACCEPTED.value
        times = {"accepted_at": first, "seen_at": now, "look_at": look_at}
        return cls(row, {"state": state, **times, "error": None})

    @classmethod
    def final(cls, row: Row, now: datetime, outcome: dict[str, str]) -> Change:
        """All of it has come to an end."""
        values = {"state": RowState.FINAL.value, "seen_at": now, "look_at": None, "final_at": now}
        return cls(row, {**values, "outcome": outcome})

    @classmethod
    def refused(cls, row: Row, error: str, patient_until: datetime) -> Change:
        """The ledger doesn't take it, and it isn't known whose fault that is."""
        return cls(row, {"state": RowState.WAITING.value, "look_at": patient_until, "error": error})

    @classmethod
    def aside(cls, row: Row, error: str) -> Change:
        """A person has to look."""
        return cls(row, {"state": RowState.ASIDE.value, "look_at": None, "error": error})

    @property
    def set_aside_for(self) -> str | None:
        """Why the row is set aside, if it is."""
        values = self.values or {}
        return values["error"] if values.get("state") == RowState.ASIDE else None


def can_lock(connection: Connection) -> bool:
    """Whether rows are locked as they are taken, until the transaction's end."""
    return connection.dialect.name != "sqlite"


def limit_locks(connection: Connection) -> None:
    """Let go of the rows of a relay whose machine has vanished; TCP alone notices that after two hours."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = {LONGEST_LOCK * 1000}"))


class Rows:
    """The statements for one table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def waiting(self, connection: Connection) -> list[Row]:
        """Take what waits and was never refused, the oldest first, as much as goes in one round."""
        columns = self._table.c
        waits = (columns.state == RowState.WAITING) & columns.look_at.is_(None)
        return self._take(connection, waits)

    def refused(self, connection: Connection) -> list[Row]:
        """Take what waits and has been refused before, apart: others must not stand behind it."""
        columns = self._table.c
        refused = (columns.state == RowState.WAITING) & columns.look_at.is_not(None)
        return self._take(connection, refused)

    def due(self, connection: Connection, now: datetime) -> list[Row]:
        """Take what is accepted and due to be looked at."""
        columns = self._table.c
        due = (columns.state == RowState.ACCEPTED) & (columns.look_at <= now)
        return self._take(connection, due)

    def _take(self, connection: Connection, chosen: ColumnElement[bool]) -> list[Row]:
        """Sizes first: a round must fit into memory, whatever the rows hold."""
        columns = self._table.c
        # The index's own order, though `look_at` may be null in all, or PostgreSQL sorts the whole backlog.
        order = columns.look_at, columns.id
        sizes = select(columns.id, columns.size).where(chosen).order_by(*order).limit(ROWS_A_ROUND)
        found = connection.execute(sizes.with_for_update(skip_locked=True)).all()
        ids = list(_fitting((id, size) for id, size in found))
        return [_row(row) for row in connection.execute(self._whole(ids)).all()] if ids else []

    def _whole(self, ids: Sequence[int]) -> Select[Any]:
        columns = self._table.c
        # As it stands there: what isn't octets would stop SQLAlchemy, and with it all other rows.
        raw = {"content": type_coerce(columns.content, NullType()).label("content")}
        wanted = [raw.get(name, columns[name]) for name in Row.__slots__]
        return select(*wanted).where(columns.id.in_(ids)).order_by(columns.id)

    def change(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Delete and update rows."""
        columns = self._table.c
        gone = [(it.row.id, it.row.batch, it.row.state) for it in changes if it.values is None]
        if gone:
            as_taken = tuple_(columns.id, columns.batch, columns.state).in_(gone)
            connection.execute(delete(self._table).where(as_taken))
        for change in changes:
            if change.values is not None:
                connection.execute(
                    update(self._table).where(self._is_still(change.row)).values(change.values)
                )

    def _is_still(self, row: Row) -> ColumnElement[bool]:
        columns = self._table.c
        return (columns.id == row.id) & (columns.batch == row.batch) & (columns.state == row.state)


def _fitting(found: Iterable[tuple[int, int]]) -> Iterator[int]:
    """As many of the first as have room together; at least one."""
    total = 0
    for id, size in found:
        if total and total + size > BYTES_A_ROUND:
            return
        total += size
        yield id


def _row(row: Any) -> Row:
    values = dict(row._mapping)
    times = {name: utc(values[name]) for name in ("written_at", "accepted_at", "seen_at", "look_at")}
    return Row(**{**values, **times, "content": _octets(values["content"])})


def _octets(content: Any) -> bytes:
    """SQLite keeps whatever a hand puts into a column; what isn't octets will not be readable."""
    return bytes(content) if isinstance(content, bytes | memoryview) else str(content).encode()


def utc(moment: datetime | None) -> datetime | None:
    """As it was written: SQLite forgets the zone."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def stays(keep: str) -> bool:
    """Whether a row stays once the ledger has its mail."""
    return keep != Keep.UNTIL_ACCEPTED
