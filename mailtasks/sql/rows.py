"""The outbox's rows by SQLAlchemy, as the relay takes and changes them and as people ask for them.

The SQL, and nothing that decides; its rules are those of `mailtasks/outbox/store.py`. (In a table made
without AUTOINCREMENT a new row may get the `id` of one that was deleted.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, delete, func, select, tuple_, type_coerce, update
from sqlalchemy.types import NullType

from mailtasks.outbox.report import ROWS_AT_ONCE, OutboxStatus, RowAside, as_aside, as_status
from mailtasks.outbox.row import ROWS_A_ROUND, Change, Row, RowState, fitting, octets, released, utc
from mailtasks.sql.database import Executor


class Rows:
    """`mailtasks.outbox.store.Rows` for one table, in the transaction that is open there."""

    def __init__(self, table: Table, connection: Executor) -> None:
        self._table = table
        self._connection = connection

    def waiting(self) -> list[Row]:
        """What waits and was never refused."""
        columns = self._table.c
        return self._take((columns.state == RowState.WAITING) & columns.look_at.is_(None))

    def refused(self) -> list[Row]:
        """What waits and has been refused before."""
        columns = self._table.c
        return self._take((columns.state == RowState.WAITING) & columns.look_at.is_not(None))

    def due(self, now: datetime) -> list[Row]:
        """What is accepted and due to be looked at."""
        columns = self._table.c
        return self._take((columns.state == RowState.ACCEPTED) & (columns.look_at <= now))

    def _take(self, chosen: ColumnElement[bool]) -> list[Row]:
        """Sizes first: a round must fit into memory, whatever the rows hold."""
        columns = self._table.c
        # The index's own order, though `look_at` may be null in all, or PostgreSQL sorts the whole backlog.
        order = columns.look_at, columns.id
        sizes = select(columns.id, columns.size).where(chosen).order_by(*order).limit(ROWS_A_ROUND)
        found = self._connection.execute(sizes.with_for_update(skip_locked=True)).all()
        ids = list(fitting((id, size) for id, size in found))
        return [_row(row) for row in self._connection.execute(self._whole(ids)).all()] if ids else []

    def _whole(self, ids: Sequence[int]) -> Select[Any]:
        columns = self._table.c
        # As it stands there: what isn't octets would stop SQLAlchemy, and with it all other rows.
        raw = {"content": type_coerce(columns.content, NullType()).label("content")}
        wanted = [raw.get(name, columns[name]) for name in Row.__slots__]
        return select(*wanted).where(columns.id.in_(ids)).order_by(columns.id)

    def change(self, changes: Sequence[Change]) -> None:
        """Delete and update rows."""
        columns = self._table.c
        gone = [(it.row.id, it.row.batch, it.row.state) for it in changes if it.values is None]
        if gone:
            as_taken = tuple_(columns.id, columns.batch, columns.state).in_(gone)
            self._connection.execute(delete(self._table).where(as_taken))
        for change in changes:
            if change.values is not None:
                self._connection.execute(
                    update(self._table).where(self._is_still(change.row)).values(change.values)
                )

    def _is_still(self, row: Row) -> ColumnElement[bool]:
        columns = self._table.c
        return (columns.id == row.id) & (columns.batch == row.batch) & (columns.state == row.state)

    # --- For people

    def status(self) -> OutboxStatus:
        """How many rows there are of each state."""
        columns = self._table.c
        counted = select(columns.state, func.count(), func.min(columns.written_at)).group_by(columns.state)
        found = self._connection.execute(counted)
        return as_status((state, rows, _sure(oldest)) for state, rows, oldest in found)

    def aside(self) -> Iterator[RowAside]:
        """What was set aside."""
        columns = self._table.c
        raw = type_coerce(columns.content, NullType())
        wanted = columns.id, columns.batch, columns.written_at, raw, columns.error
        aside = select(*wanted).where(columns.state == RowState.ASIDE).order_by(columns.id)
        found = self._connection.execute(aside, execution_options={"yield_per": ROWS_AT_ONCE})
        return (as_aside(id, batch, _sure(at), content, error) for id, batch, at, content, error in found)

    def retry(self, *ids: int) -> int:
        """Release what was set aside."""
        columns = self._table.c
        chosen = columns.state == RowState.ASIDE
        if ids:
            chosen &= columns.id.in_(ids)
        values = released(datetime.now(UTC))
        result: Any = self._connection.execute(update(self._table).where(chosen).values(values))
        return int(result.rowcount)


def _row(row: Any) -> Row:
    values = dict(row._mapping)
    times = {name: utc(values[name]) for name in ("written_at", "accepted_at", "seen_at", "look_at")}
    return Row(**{**values, **times, "content": octets(values["content"])})


def _sure(moment: datetime) -> datetime:
    """What is never null."""
    known = utc(moment)
    assert known is not None
    return known
