"""How a campaign stands: plain data, made of its record and of its rows' states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mailtasks.message import Priority
from mailtasks.state import UNFINISHED, State
from mailtasks.store.campaigns import CampaignRecord


@dataclass(frozen=True, slots=True)
class CampaignStatus:
    """A campaign as it was at one moment. Times are aware, in UTC."""

    name: str
    state: str  # open (rows are coming), running, scheduled, paused, cancelled or finished
    rows: int  # accepted; the sum of `states`
    states: Mapping[State, int]
    begun_at: datetime
    reason: str = ""  # why it is paused
    begins_at: datetime | None = None
    ends_at: datetime | None = None
    finished_at: datetime | None = None
    rate: float | None = None  # messages a second
    priority: Priority = Priority.BULK
    subject: str = ""
    tags: tuple[str, ...] = ()

    @property
    def unfinished(self) -> int:
        """Rows that are queued, being sent or deferred."""
        return sum(self.states.get(state, 0) for state in UNFINISHED)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it will be sent any more, unless somebody retries."""
        return self.state == "finished" or (self.state == "cancelled" and not self.unfinished)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = asdict(self)
        told["states"] = {state.value: count for state, count in self.states.items()}
        told["priority"] = self.priority.value
        return {
            name: value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value
            for name, value in told.items()
        }


def status_of(record: CampaignRecord, states: Mapping[State, int]) -> CampaignStatus:
    """A campaign's status.

    Args:
        states: how many of its rows are in which.
    """
    unfinished = sum(states.get(state, 0) for state in UNFINISHED)
    return CampaignStatus(
        name=record.name,
        state=_state_of(record, unfinished),
        rows=record.rows,
        states={state: states.get(state, 0) for state in State},
        begun_at=moment(record.begun) or datetime.now(UTC),
        reason=record.reason,
        begins_at=moment(record.begins),
        ends_at=moment(record.ends),
        finished_at=moment(record.finished),
        rate=record.rate or None,
        priority=record.priority,
        subject=record.subject,
        tags=record.tags,
    )


def _state_of(record: CampaignRecord, unfinished: int) -> str:
    if record.complete and not unfinished and record.state != "cancelled":
        return "finished"  # though it may have been paused meanwhile
    if record.state != "active":
        return record.state
    if record.begins > datetime.now(UTC).timestamp():
        return "scheduled"
    return "running" if record.complete else "open"


def moment(seconds: float) -> datetime | None:
    """A time that a record has, in seconds since 1970; None for 0."""
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
