"""Whose turn it is: campaigns' batches are hinted a few at a time, while little waits in their queue.

So queues stay short, a pause bites at once, and campaigns share the workers (see
`mailtasks.store.campaigns`). Pumps feed, and whoever ends a delivery.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final

from mailtasks.limiter import Limiter
from mailtasks.message import Priority
from mailtasks.publish import Publisher
from mailtasks.store.campaigns import Campaigns

HINTS_A_THREAD: Final = 2
"""Campaigns' batches that wait in a queue for each thread of whoever puts them there: so many that no thread
idles, and so few that another campaign's batch has its turn soon."""


class Feeder:
    """Lets campaigns' batches have their turn while little waits in a priority's queue.

    Args:
        threads: that deliver, in this process.
    """

    def __init__(
        self, campaigns: Campaigns, publisher: Publisher, limiter: Limiter, threads: int = 1
    ) -> None:
        self._campaigns = campaigns
        self._publisher = publisher
        self._limiter = limiter
        self._most = HINTS_A_THREAD * threads
        self._spare: Counter[Priority] = Counter()  # deliveries that may end before it is looked again
        self._lock = threading.Lock()

    def delivered(self, priority: Priority) -> None:
        """A delivery has ended: feed, unless enough must wait still. A pump looks in any case.

        Raises:
            StoreUnavailable: as `feed`.
        """
        with self._lock:
            self._spare[priority] -= 1
            enough = self._spare[priority] > 0
        if not enough:
            self.feed(priority)

    def feed(self, priority: Priority, most: int | None = None) -> None:
        """Hint the next batches of campaigns.

        Args:
            most: how many; None: as many as keep the threads busy, with those that wait in the queue already.

        Raises:
            StoreUnavailable: Redis is away: the ledger's or the broker's.
        """
        if self._limiter.available() == 0 or not self._campaigns.waiting(priority):
            return
        waiting = self._publisher.waiting(priority) if most is None else 0
        room = self._most - waiting if most is None else min(most, self._most)
        # A few together cost less than each by itself.
        hints = self._campaigns.feed(priority, room) if room >= self._most / 2 or most is not None else []
        with self._lock:
            self._spare[priority] = (waiting + len(hints)) // 2
        if hints:
            self._publisher.hint((hint.batch, hint.priority) for hint in hints)
