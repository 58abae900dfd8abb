"""Mail goes on though no hint can be published: a worker keeps the hints that the broker doesn't take.

A broker that is away, or whose memory is full, takes no tasks. The ledger may be well meanwhile (in another
Redis; or in the same, whose scripts claim and settle though its memory is full), and the relay, too.

The rules:

1. What can't be published is run by this worker itself, on the threads that it has for tasks, the most
   urgent first; at most as many at once as there are threads.
2. Only mail of the queues that this worker takes from, or the process for urgent mail would fill with bulk.
3. A pump asks meanwhile for no more hints than find room here. What dies with this process is due in the
   ledger, as with any lost hint.
4. Whoever else has the same batch in hand: the claim decides.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from mailtasks.errors import StoreError
from mailtasks.message import PRIORITIES, Priority

log = logging.getLogger(__name__)

KEPT: Final = 200
"""Batches that may wait here: as many as a pump looks at."""


class Stopgap:
    """Runs what could not be hinted. Thread-safe.

    Args:
        submit: has a function run by one of the worker's threads.
        deliver: delivers a batch.
        threads: of this worker.
        taken: says which priorities' queues it takes from.
    """

    def __init__(
        self,
        submit: Callable[[Callable[[], None]], Any],
        deliver: Callable[[str, Priority], Any],
        threads: int,
        taken: Callable[[], Collection[Priority]],
    ) -> None:
        self._submit = submit
        self._deliver = deliver
        self._threads = threads
        self._taken = taken
        self._lock = threading.Lock()
        self._waiting: dict[Priority, dict[str, None]] = {priority: {} for priority in PRIORITIES}
        self._running = 0
        self._said = False
        self._stopped = False

    def take(self, hints: Iterable[tuple[str, Priority]]) -> None:
        """Keep what this worker may send, as far as there is room, and see to it that it is run."""
        taken = self._taken()
        with self._lock:
            for batch, priority in hints:
                if priority in taken and self._number() < KEPT and not self._stopped:
                    self._waiting[priority][batch] = None
            more = min(self._threads - self._running, self._number())
            self._running += more
            is_news, self._said = not self._said, True
        if is_news:
            log.warning("hints can't be published; until they can, this worker delivers what is due without")
        for _ in range(more):
            self._start()

    def room(self) -> int:
        """How many batches more it would keep."""
        with self._lock:
            return KEPT - self._number()

    def rest(self) -> None:
        """Hints can be published again: should that change, it is news."""
        self._said = False

    def stop(self) -> None:
        """Forget what waits, and take no more: the worker is shutting down."""
        with self._lock:
            self._stopped = True
            for waiting in self._waiting.values():
                waiting.clear()

    def _number(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _run(self) -> None:
        """One batch, on one thread; then whatever else the worker has for that thread has its turn."""
        following = self._next()
        if not following:
            return
        try:
            self._deliver(*following)
        except StoreError as error:
            log.warning("batch %s could not be delivered: %s", following[0], error)
        except Exception:  # whatever it is, the others go on
            log.exception("batch %s could not be delivered", following[0])
        self._start()

    def _start(self) -> None:
        try:
            self._submit(self._run)
        except RuntimeError:  # the worker's threads are gone, and so is what they would do
            with self._lock:
                self._running -= 1

    def _next(self) -> tuple[str, Priority] | None:
        """The batch that is next; without one, this thread's part is over."""
        with self._lock:
            for priority, waiting in self._waiting.items():
                if waiting:
                    batch = next(iter(waiting))
                    del waiting[batch]
                    return batch, priority
            self._running -= 1
            return None
