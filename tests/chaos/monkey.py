"""What goes wrong in a run of chaos, when, and to whom: drawn from a seed.

The monkey acts on a `Stage` (everything that runs) from one thread, one thing after the other. A kill of a
worker is watched until its lease is long over, so that what it cost can be told from what the next one costs.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from mailtasks.local.processes import Child


class Stage(Protocol):
    """What the monkey plays on."""

    lease: float  # seconds

    @property
    def workers(self) -> list[Child]: ...

    def replace_worker(self, place: int) -> None: ...

    def replace_producer(self) -> None: ...

    def restart_redis(self, seconds: float) -> None: ...

    def restart_relay(self, seconds: float) -> None: ...

    def cut_redis(self) -> None: ...

    def cut_relay(self) -> None: ...

    def hang_redis(self, seconds: float) -> None: ...

    def repeat_hints(self) -> None: ...

    def abandoned(self) -> int: ...


@dataclass(frozen=True)
class Kill:
    """What one kill, or one stop for longer than a lease, came to."""

    abandoned: int
    seconds: float  # until the last of it was taken up or held


WATCH: Final = 2.5  # leases after a kill in which what it held must be taken up
ELSE: Final = 1.0  # seconds that any other mischief takes, about
LOOK: Final = 0.1  # seconds between two looks at the ledger's tallies


class Monkey:
    """Plays so many kills of workers, with other mischief in between, then stops."""

    def __init__(self, stage: Stage, seed: int, kills: int, restarts: int, hints: int) -> None:
        self.stage = stage
        self.kills: list[Kill] = []
        self.done: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._plan = self._planned(kills, restarts, hints)

    def run(self, told: Callable[[str], None] = lambda what: None) -> None:
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
        return deadly * WATCH * self.stage.lease + (len(self._plan) - deadly) * ELSE

    def _planned(self, kills: int, restarts: int, hints: int) -> list[Callable[[], None]]:
        """One other deed for each deadly one, each kind in its turn."""
        deadly = [self._stop_worker, self._kill_worker, self._kill_worker]
        others = [
            self._cut_redis,
            self._cut_relay,
            self._kill_producer,
            self._hang_redis,
            self._restart_relay,
        ]
        plan = [self._restart_redis] * restarts + [self._repeat_hints] * hints
        for number in range(kills):
            plan += [deadly[number % len(deadly)], others[number % len(others)]]
        self._random.shuffle(plan)
        return plan

    def _kill_worker(self) -> None:
        place = self._random.randrange(len(self.stage.workers))
        self.stage.workers[place].kill()
        self._watch(0, lambda: self.stage.replace_worker(place))

    def _stop_worker(self) -> None:
        """Longer than its lease, then it goes on: what it says late is evidence, or nothing."""
        worker = self._random.choice(self.stage.workers)
        worker.signal(signal.SIGSTOP)
        leases = self._random.uniform(1.2, 2)
        self._watch(leases * self.stage.lease, lambda: worker.signal(signal.SIGCONT))

    def _watch(self, after: float, then: Callable[[], None]) -> None:
        """See what the deed just done costs; `after` so many seconds, do this as well."""
        before, began = self.stage.abandoned(), time.monotonic()
        abandoned, last, done = before, began, False
        while (passed := time.monotonic() - began) < WATCH * self.stage.lease:
            if not done and passed >= after:
                then()
                done = True
            now = self.stage.abandoned()
            if now != abandoned:
                abandoned, last = now, time.monotonic()
            time.sleep(LOOK)
        self.kills.append(Kill(abandoned - before, last - began))

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
