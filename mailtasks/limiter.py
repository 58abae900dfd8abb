"""How many messages this process may send now, as `rate_limit` in `task_annotations` says."""

from __future__ import annotations

import threading
import time

from mailtasks.message import PRIORITIES, Priority
from mailtasks.policy.rate import TokenBucket


class Limiter:
    """This process' rate, in messages; without a rate there is no limit."""

    def __init__(self) -> None:
        self._bucket: TokenBucket | None = None
        self._kept_for: Priority | None = None
        self._lock = threading.Lock()

    def set_rate(self, rate: float | None) -> None:
        """Messages a second; None: no limit. Setting the same rate again changes nothing."""
        with self._lock:
            if rate is None:
                self._bucket = None
            elif self._bucket is None or self._bucket.rate != rate:
                self._bucket = TokenBucket(rate)

    def keep_for(self, priority: Priority | None) -> None:
        """Mail of this priority waits for the rate: none goes to lower ones. None: nothing waits."""
        with self._lock:
            self._kept_for = priority

    def take(self, most: int, priority: Priority) -> int:
        """Up to `most` messages of a priority that may go now."""
        with self._lock:
            if self._bucket is None:
                return most
            if self._kept_for and PRIORITIES.index(priority) > PRIORITIES.index(self._kept_for):
                return 0
            return self._bucket.take(most, time.monotonic())

    def give_back(self, messages: int) -> None:
        """What was taken and not used."""
        with self._lock:
            if self._bucket is not None:
                self._bucket.give_back(messages)

    def available(self) -> int | None:
        """Messages that may go now; None: no limit."""
        with self._lock:
            return None if self._bucket is None else self._bucket.available(time.monotonic())
