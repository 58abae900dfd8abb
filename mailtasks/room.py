"""Back-pressure: mail is refused, by name, before Redis is full or more waits than is wanted.

What is accepted must be delivered, and settling it takes memory, too: so accepting ends at a soft ceiling
and leaves the rest to the workers. A backlog has a maximum by priority, if the settings say so.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

from mailtasks.errors import BacklogFull, MemoryFull
from mailtasks.message import PRIORITIES, Priority
from mailtasks.settings import Settings
from mailtasks.store.connection import Client, available, where
from mailtasks.store.keys import Keys

LOOK_EVERY: Final = 1.0
"""Seconds for which a process believes what Redis told it. Both limits are soft by what all producers accept
in that time; what this process has accepted since is counted."""


class Room:
    """What one producing process knows of how full it is.

    Args:
        redis: the ledger's.
    """

    def __init__(self, redis: Client, keys: Keys, settings: Settings) -> None:
        self._redis = redis
        self._counts = keys.counts
        self._ceiling = settings.memory_ceiling
        self._most = {priority: settings.backlog(priority) for priority in PRIORITIES}
        self._most = {priority: most for priority, most in self._most.items() if most}
        self._looked = -LOOK_EVERY
        self._waiting: Counter[Priority] = Counter()
        self._full = ""
        self._used, self._maximum = 0, 0  # bytes

    def demand(self, recipients: Mapping[Priority, int]) -> None:
        """Take room for so many recipients, or refuse all of them; nobody needs none.

        Raises:
            MemoryFull: Redis has reached `memory_ceiling`.
            BacklogFull: of one priority more would wait than `backlog_PRIORITY` allows.
            StoreUnavailable: Redis is away.
        """
        if not recipients:
            return
        self.demand_memory()
        for priority, wanted in recipients.items():
            waiting, most = self._waiting[priority], self._most.get(priority)
            if most and waiting + wanted > most:
                raise BacklogFull(priority, waiting, wanted, most)
        self._waiting.update(recipients)

    def demand_memory(self) -> None:
        """Refuse everything while Redis is too full. The outbox's relay asks for no more than this.

        Raises:
            MemoryFull: Redis has reached `memory_ceiling`.
            StoreUnavailable: Redis is away.
        """
        if not self._most and self._ceiling == 100:
            return
        if time.monotonic() - self._looked >= LOOK_EVERY:
            self._look()  # several threads may, at once: no harm, and no lock that a fork could leave held
        if self._full:
            raise MemoryFull(self._full)

    def demand_bytes(self, size: int) -> None:
        """Refuse what would lift Redis over its ceiling by its size alone.

        Raises:
            MemoryFull: with so many bytes more Redis would reach `memory_ceiling`.
            StoreUnavailable: Redis is away.
        """
        self.demand_memory()
        if self._maximum and (self._used + size) * 100 >= self._maximum * self._ceiling:
            raise MemoryFull(
                f"{size:,} bytes of attachments would lift Redis at {where(self._redis)} over "
                f"memory_ceiling = {self._ceiling} % of its memory, so nothing was accepted; wait until the "
                "workers have sent more, give it more memory, or let `blobs` name a folder or an object store"
            )
        self._used += size

    def _look(self) -> None:
        with available(self._redis, before_accept=True):
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.info("memory")
            pipeline.hmget(self._counts, [f"unfinished:{priority}" for priority in PRIORITIES])
            memory, waiting = pipeline.execute()
        self._waiting = Counter(dict(zip(PRIORITIES, (int(each or 0) for each in waiting), strict=True)))
        used, most = self._used, self._maximum = memory["used_memory"], memory["maxmemory"]
        self._full = ""
        if most and used * 100 >= most * self._ceiling:
            self._full = (
                f"Redis at {where(self._redis)} uses {used * 100 // most} % of its memory, "
                f"and memory_ceiling is {self._ceiling} %, so nothing was accepted; "
                "wait until the workers have sent more, or give it more memory"
            )
        self._looked = time.monotonic()
