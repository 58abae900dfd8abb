"""What goes wrong in a run of chaos, when, and to whom: drawn from a seed.

The monkey acts on a `Stage` (everything that runs) from one thread, one thing after the other. A worker is
killed while it holds something, and watched until nobody holds that any more: so what each kill cost, and how
long it took, is known.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Set
from contextlib import suppress
from typing import Final, Protocol

from mailtasks.guard import GRACE
from mailtasks.local.processes import Child
from mailtasks.testing import wait_until
from tests.chaos.books import BUSY, Ending, Kill

Held = tuple[str, str]  # a batch, and the token of the claim on it


class Worker(Protocol):
    """One of those that are killed."""

    child: Child

    @property
    def owner(self) -> str: ...

    @property
    def is_ready(self) -> bool: ...


class Stage(Protocol):
    """What the monkey plays on."""

    lease: float  # seconds

    @property
    def workers(self) -> list[Worker]: ...

    def replace_worker(self, place: int) -> None: ...

    def replace_producer(self) -> None: ...

    def replace_outbox(self) -> None: ...

    def restart_redis(self, seconds: float) -> None: ...

    def restart_relay(self, seconds: float) -> None: ...

    def cut_redis(self) -> None: ...

    def cut_relay(self) -> None: ...

    def hang_redis(self, seconds: float) -> None: ...

    def repeat_hints(self) -> None: ...

    def retry_failed(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def held(self, owner: str | None = None) -> Set[Held]: ...

    def quiet(self) -> float: ...

    def abandoned(self) -> int: ...


DEADLY: Final = 2.0  # leases that a deadly deed takes, about
WATCH: Final = 6.0  # leases after a kill until it is watched no more: what is held then is late by far
READY: Final = 60.0  # seconds for a worker to start, on a busy machine
AT_WORK: Final = 5.0  # seconds until a worker holds something, if there is anything to do
FINISH: Final = 3.0  # leases for what is being sent when everything is paused
ELSE: Final = 1.0  # seconds that any other mischief takes, about
LOOK: Final = 0.05  # seconds between two looks at the ledger
SLOW: Final = 0.25  # seconds for an answer, above which Redis stood still for as long


class Monkey:
    """Plays so many kills of workers, with other mischief in between, then stops."""

    def __init__(
        self, stage: Stage, seed: int, *, kills: int, restarts: int, hints: int, orderly: int
    ) -> None:
        self.stage = stage
        self.kills: list[Kill] = []
        self.endings: list[Ending] = []
        self.pauses: list[tuple[float, float]] = []
        self.done: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._plan = self._planned(kills, restarts, hints, orderly)

    def run(self, told: Callable[[str], None] = lambda what: None) -> None:
        self._await_all_ready()
        for deed in self._plan:
            name = deed.__name__.strip("_")
            told(name)
            self.done[name] += 1
            deed()
            time.sleep(self._random.uniform(0, 0.3))

    @property
    def seconds(self) -> float:
        """About how long all of it takes."""
        deadly = sum(deed in (self._kill_worker, self._stop_worker) for deed in self._plan)
        return deadly * DEADLY * self.stage.lease + (len(self._plan) - deadly) * ELSE

    def _planned(self, kills: int, restarts: int, hints: int, times: int) -> list[Callable[[], None]]:
        """One other deed for each deadly one, each kind in its turn; what is no mischief so many times."""
        deadly = [self._stop_worker, self._kill_worker, self._kill_worker]
        others = [
            self._cut_redis,
            self._cut_relay,
            self._kill_producer,
            self._hang_redis,
            self._restart_relay,
            self._kill_outbox,
        ]
        orderly = [self._terminate_worker, self._pause_and_resume, self._retry_failed_twice]
        plan = [self._restart_redis] * restarts + [self._repeat_hints] * hints
        plan += orderly * times
        for number in range(kills):
            plan += [deadly[number % len(deadly)], others[number % len(others)]]
        self._random.shuffle(plan)
        return plan

    # --- Deadly

    def _kill_worker(self) -> None:
        place = self._random.randrange(len(self.stage.workers))
        worker = self._at_work(place)
        before, began = self.stage.abandoned(), time.time()
        worker.child.kill()
        self.stage.replace_worker(place)
        seconds, due = self._watch(worker, began, WATCH * self.stage.lease)
        self.kills.append(Kill(self.stage.abandoned() - before, seconds, due))

    def _stop_worker(self) -> None:
        """Longer than its lease, then it goes on: what it says late is evidence, or nothing."""
        worker = self._at_work(self._random.randrange(len(self.stage.workers)))
        stopped = self._random.uniform(1.2, 2.5) * self.stage.lease
        before, began = self.stage.abandoned(), time.time()
        worker.child.signal(signal.SIGSTOP)
        taken, due = self._watch(worker, began, stopped)
        time.sleep(max(0.0, began + stopped - time.time()))  # what is wanted here is the time itself
        still = self.stage.held(worker.owner)
        worker.child.signal(signal.SIGCONT)
        # Its leases may outlast the stop, if Redis stood still. Whether it renews them or they lapse before
        # it can: what comes of it is this deed's, not the next one's.
        with suppress(TimeoutError):
            wait_until(lambda: not still & self.stage.held(), FINISH * self.stage.lease)
        self.kills.append(Kill(self.stage.abandoned() - before, taken, due))

    def _await_all_ready(self) -> None:
        for worker in self.stage.workers:
            wait_until(lambda worker=worker: worker.is_ready, READY, f"{worker.owner}'s being ready")

    def _at_work(self, place: int) -> Worker:
        """A worker that holds something, unless there is nothing to do: else its end would show nothing.

        All others are ready, too: who is still starting takes nothing up.
        """
        self._await_all_ready()
        worker = self.stage.workers[place]
        with suppress(TimeoutError):
            wait_until(lambda: self.stage.held(worker.owner), AT_WORK)
        return worker

    def _watch(self, worker: Worker, began: float, most: float) -> tuple[float, float]:
        """Wait until nobody holds what `worker` held, for `most` seconds.

        It is dead or stopped, so what is claimed in its name is all that it holds.

        Returns:
            Seconds until then, and until when it could hold that.
        """
        lease, last = self.stage.lease, began
        due = began + lease  # or sooner, by what has passed since it was renewed: half a lease at most
        while (asked := time.time()) < began + most and self.stage.held(worker.owner):
            last = time.time()
            # While Redis answers nobody (a disk that is busy), nobody can take anything up.
            due += last - asked if last - asked > SLOW else 0
            # Had it ended in the quiet after Redis stood still, it holds for a lease more: see look.lua.
            if last < due + BUSY and (quiet := self.stage.quiet()) > due - lease / 2:
                due = max(due, quiet + lease)
            time.sleep(LOOK)
        return last - began, due - began

    # --- What users and operators do

    def _terminate_worker(self) -> None:
        """SIGTERM: it finishes what it is sending, and leaves nothing behind."""
        place = self._random.randrange(len(self.stage.workers))
        worker = self._at_work(place)
        before = self.stage.abandoned()
        code = worker.child.stop(GRACE)
        left = len(self.stage.held(worker.owner))
        self.endings.append(Ending(code, self.stage.abandoned() - before + left))
        self.stage.replace_worker(place)

    def _pause_and_resume(self) -> None:
        """What is being sent is finished, then nothing is begun until the end of the pause."""
        self.stage.pause()
        with suppress(TimeoutError):
            wait_until(lambda: not self.stage.held(), FINISH * self.stage.lease)
        since = time.time()
        time.sleep(self._random.uniform(1, 2))
        self.pauses.append((since, time.time()))
        self.stage.resume()

    def _retry_failed_twice(self) -> None:
        self.stage.retry_failed()
        self.stage.retry_failed()

    # --- Other mischief

    def _restart_redis(self) -> None:
        self.stage.restart_redis(self._random.uniform(0, 1.5))

    def _restart_relay(self) -> None:
        self.stage.restart_relay(self._random.uniform(0, 1))

    def _hang_redis(self) -> None:
        self.stage.hang_redis(self._random.uniform(0.5, 3))

    def _cut_redis(self) -> None:
        self.stage.cut_redis()

    def _cut_relay(self) -> None:
        self.stage.cut_relay()

    def _repeat_hints(self) -> None:
        self.stage.repeat_hints()

    def _kill_producer(self) -> None:
        self.stage.replace_producer()

    def _kill_outbox(self) -> None:
        self.stage.replace_outbox()
