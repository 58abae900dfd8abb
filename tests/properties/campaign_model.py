"""What campaigns should do, in plain Python: no Redis, no keys, a row is its state.

`test_campaigns.py` plays the same moves against this and against the real ones, and compares.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mailtasks.state import UNFINISHED, State


@dataclass
class Batch:
    """Of a campaign."""

    rows: list[State]
    where: str = "gate"  # or hinted, claimed, due (deferred rows wait for their time), or over

    @property
    def waiting(self) -> list[int]:
        return [i for i, state in enumerate(self.rows) if state in (State.QUEUED, State.DEFERRED)]

    @property
    def unfinished(self) -> bool:
        return any(state in UNFINISHED for state in self.rows)


@dataclass
class Campaign:
    """All its batches, and how it stands."""

    name: str
    state: str = "active"
    complete: bool = False
    batches: list[Batch] = field(default_factory=list)

    def accept(self, number: int, size: int) -> str:
        if number < len(self.batches):
            return "same" if len(self.batches[number].rows) == size else "conflict"
        if self.complete or self.state == "cancelled":
            return "closed"
        if number > len(self.batches):
            return "gap"
        self.batches.append(Batch([State.QUEUED] * size))
        return "new"

    def counts(self) -> Counter[State]:
        return Counter(state for batch in self.batches for state in batch.rows)

    @property
    def is_over(self) -> bool:
        return self.complete and not any(batch.unfinished for batch in self.batches)
