"""What an outbox holds, for people: how much waits, and what was set aside. It reads, and asks no Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Table, func, select

from mailtasks.sql.content import decode
from mailtasks.sql.database import Executor
from mailtasks.sql.rows import utc
from mailtasks.sql.table import RowState

_ROWS_AT_ONCE: Final = 10  # in memory, since each may hold megabytes


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """How many rows there are of each state, and since when the oldest that waits does."""

    rows: Mapping[RowState, int]  # every state has its number
    waiting_since: datetime | None  # when it was written, by the writer's clock; None: nothing waits
    waiting_seconds: float | None

    @property
    def aside(self) -> int:
        """How many rows were set aside."""
        return self.rows[RowState.ASIDE]


@dataclass(frozen=True, slots=True)
class RowAside:
    """A row that was set aside: whose mail waits for a person, and why."""

    id: int  # the row's, for `Outbox.retry`
    batch: str
    written_at: datetime
    messages: tuple[str, ...]  # their ids; none, if the row can't be read
    recipients: tuple[str, ...]  # their addresses, message after message
    error: str


def status_of(table: Table, connection: Executor) -> OutboxStatus:
    """See `Outbox.status`."""
    columns = table.c
    counted = select(columns.state, func.count(), func.min(columns.written_at)).group_by(columns.state)
    found = {state: (rows, oldest) for state, rows, oldest in connection.execute(counted)}
    rows = {state: found.get(state, (0, None))[0] for state in RowState}
    since = utc(found.get(RowState.WAITING, (0, None))[1])
    seconds = None if since is None else max(0.0, (datetime.now(UTC) - since).total_seconds())
    return OutboxStatus(rows, since, seconds)


def aside_in(table: Table, connection: Executor) -> Iterator[RowAside]:
    """See `Outbox.aside`."""
    columns = table.c
    wanted = columns.id, columns.batch, columns.written_at, columns.content, columns.error
    aside = select(*wanted).where(columns.state == RowState.ASIDE).order_by(columns.id)
    bit_by_bit = {"yield_per": _ROWS_AT_ONCE}
    return map(_told, connection.execute(aside, execution_options=bit_by_bit))


def _told(row: Any) -> RowAside:
    messages, recipients = _read(bytes(row.content), row.batch)
    written_at = utc(row.written_at)
    assert written_at is not None
    return RowAside(row.id, row.batch, written_at, messages, recipients, row.error or "")


def _read(content: bytes, batch: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids and addresses; that it can't be read may be why it was set aside."""
    try:
        read = decode(content, batch)
    except ValueError:
        return (), ()
    return tuple(read.message_ids()), read.recipients
