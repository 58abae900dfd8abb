"""What an outbox holds, for people: how much waits, and what was set aside. It asks no Redis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from mailtasks.outbox.content import decode
from mailtasks.outbox.row import RowState, octets

PATIENCE: Final = 300
"""Seconds for which a row may wait before that is a failure, unless somebody says otherwise."""

ROWS_AT_ONCE: Final = 10  # in memory, since each may hold megabytes


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

    def waits_too_long(self, patience: float = PATIENCE) -> bool:
        """Whether a row has waited for longer than so many seconds."""
        return (self.waiting_seconds or 0) > patience


@dataclass(frozen=True, slots=True)
class RowAside:
    """A row that was set aside: whose mail waits for a person, and why."""

    id: int  # the row's, for `retry`
    batch: str
    written_at: datetime
    messages: tuple[str, ...]  # their ids; none, if the row can't be read
    recipients: tuple[str, ...]  # their addresses, message after message
    error: str


def as_status(found: Iterable[tuple[str, int, datetime]]) -> OutboxStatus:
    """The status, by what was found of each state: how many, and when the oldest was written."""
    by_state = {state: (rows, oldest) for state, rows, oldest in found}
    rows = {state: by_state[state][0] if state in by_state else 0 for state in RowState}
    _, since = by_state.get(RowState.WAITING, (0, None))
    seconds = None if since is None else max(0.0, (datetime.now(UTC) - since).total_seconds())
    return OutboxStatus(rows, since, seconds)


def as_aside(id: int, batch: str, written_at: datetime, content: object, error: str | None) -> RowAside:
    """The row for people. That it can't be read may be why it was set aside."""
    try:
        read = decode(octets(content), batch)
    except ValueError:
        return RowAside(id, batch, written_at, (), (), error or "")
    return RowAside(id, batch, written_at, tuple(read.message_ids()), read.recipients, error or "")
