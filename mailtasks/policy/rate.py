"""A rate such as "100/m", and the bucket of tokens that keeps it. The clock is passed in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mailtasks.errors import SettingsError

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


def parse_rate(given: str | int | float | None) -> float | None:
    """Messages a second, from Celery's notation: "10/s", "100/m", "500/h", or a number a second.

    Returns:
        None if there is no limit (None, "" or 0, as for Celery).

    Raises:
        SettingsError: it can't be read.
    """
    if given is None or given == "":
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*([smh]))?\s*", str(given))
    if not match:
        raise SettingsError(
            f"task_annotations: rate_limit {given!r} is no rate; "
            'expected a text such as "10/s", "100/m" or "500/h"'
        )
    return float(match[1]) / _SECONDS[match[2] or "s"] or None


@dataclass(slots=True)
class TokenBucket:
    """Tokens for messages: filled at `rate` a second, holding at most one second's worth and one more.

    Not thread-safe: its owner locks.
    """

    rate: float
    tokens: float = 1.0
    filled_at: float | None = None

    @property
    def capacity(self) -> float:
        """The largest burst. The one more keeps what comes in while nobody takes: else a rate of one a
        second, looked at every quarter of it, would come out an eighth too low.
        """
        return self.rate + 1.0

    def available(self, now: float) -> int:
        """Whole tokens at `now` (seconds of any steady clock)."""
        if self.filled_at is not None:
            self.tokens = min(self.capacity, self.tokens + (now - self.filled_at) * self.rate)
        self.filled_at = now
        return int(self.tokens + 1e-9)

    def take(self, most: int, now: float) -> int:
        """Take up to `most` tokens; returns how many."""
        taken = min(most, self.available(now))
        self.tokens -= taken
        return taken

    def give_back(self, tokens: int) -> None:
        """Return tokens that were taken and not needed."""
        self.tokens = min(self.capacity, self.tokens + tokens)
