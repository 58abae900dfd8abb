"""The whole road for tests: a Redis and a relay that can be killed, worker processes, and the books.

The books are compared by (Message-ID, recipient): what the ledger says became of each against what the
relay caught. That holds whatever was killed: nothing lost, nothing invented, and no more duplicates than
the test can explain.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
import trustme

from mailtasks.local.processes import Child
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.settings import Settings
from mailtasks.state import FINAL, State
from mailtasks.testing import CatchingProcess, CatchingServer, LocalRedis
from mailtasks.testing import wait_until as wait_until_within

wait_until = partial(wait_until_within, timeout=45)  # seconds; other tests may run beside these

QUICK = {
    "default_from": "shop@example.com",
    "lease": 2,
    "hint_margin": 1,
    "pump_interval": 0.2,
    "redis_timeout": 2,
    "redis_connect_timeout": 1,
    "timeout_command": 5,
    "timeout_dot": 8,
}
"""Settings under which seconds do for what takes minutes in earnest."""

RETRY_SOON = {"retry_backoff": 1, "retry_jitter": False}
"""Retries after 1, 2, 4 … seconds."""

THREADS = 4
Pair = tuple[str, str]  # Message-ID, recipient


class Relay(Protocol):
    """A server that keeps its own books."""

    @property
    def url(self) -> str: ...

    @property
    def accepted(self) -> Counter[Pair]: ...


@dataclass(frozen=True)
class Books:
    """Both sides, once nothing is on its way any more."""

    ledger: dict[Pair, State]
    caught: Counter[Pair]

    @property
    def states(self) -> Counter[State]:
        return Counter(self.ledger.values())

    @property
    def duplicates(self) -> int:
        return sum(self.caught.values()) - len(self.caught)

    def agree(self, *, duplicates: int = 0, doubts: int = 0) -> None:
        """Nothing lost, nothing invented; at most so many caught twice, and so many of unknown fate."""
        sent = {pair for pair, state in self.ledger.items() if state is State.SENT}
        doubtful = {pair for pair, state in self.ledger.items() if state is State.IN_DOUBT}
        assert sent - self.caught.keys() == set(), "recorded as sent, never caught"
        assert self.caught.keys() - sent - doubtful == set(), "caught, not recorded as sent"
        assert set(self.ledger.values()) <= FINAL | {State.IN_DOUBT}, "not all came to an end"
        assert self.duplicates <= duplicates
        assert len(doubtful) <= doubts


class Road:
    """Producer, Redis, workers and relay.

    Args:
        annotations: `task_annotations` of our tasks.
        settings: other than QUICK's.
    """

    def __init__(
        self,
        folder: Path,
        redis: LocalRedis,
        relay: Relay,
        *,
        annotations: dict[str, object] | None = None,
        **settings: object,
    ) -> None:
        self.folder = folder
        self.redis = redis
        self.relay = relay
        self.values = {"broker_url": redis.url, "relay": relay.url, **QUICK, **settings}
        self.mailer = Mailer(Settings(**self.values))
        self.workers: list[Child] = []
        self.ids: list[str] = []
        config = f"task_annotations = {{'mailtasks.send_mail': {annotations or RETRY_SOON!r}}}\n"
        (folder / "celeryconfig.py").write_text(config)

    # --- Doing

    def environment(self) -> dict[str, str]:
        ours = {f"MAILTASKS_{name.upper()}": str(value) for name, value in self.values.items()}
        path = os.pathsep.join([str(self.folder), *sys.path])
        return {**os.environ, **ours, "PYTHONPATH": path}

    def start_worker(
        self, *options: str, threads: int = THREADS, app: str = "mailtasks", ready: str = " ready."
    ) -> Child:
        """Start a worker process in the folder, and return when it takes tasks (or has said `ready`)."""
        log = self.folder / f"worker{len(self.workers)}.log"
        there = ["sh", "-c", f"cd '{self.folder}' && exec \"$@\"", "sh"]
        celery = [sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"w{len(self.workers)}@%h"]
        usual = ["-P", "threads", "-c", str(threads), "-l", "INFO", "--without-mingle", "--without-gossip"]
        command = [*there, *celery, *usual, *options]
        self.workers.append(Child(command, environment=self.environment(), output=log))
        wait_until(lambda: ready in log.read_text(), what=f"the worker's saying {ready}")
        return self.workers[-1]

    def said(self, worker: int = 0) -> str:
        return (self.folder / f"worker{worker}.log").read_text()

    def command(self, *words: str, code: int = 0, timeout: float = 60) -> str:
        """Run `mailtasks` with these words, and return what it prints."""
        ran = subprocess.run(
            [sys.executable, "-m", "mailtasks.cli", *words],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout

    def send(self, *messages: Message) -> list[str]:
        self.ids += self.mailer.send_many(messages)
        return self.ids[-len(messages) :]

    def send_singly(self, messages: Sequence[Message]) -> None:
        self.ids += [self.mailer.send(message) for message in messages]

    def stop_while_sending(self, worker: Child, after: int = 1) -> None:
        """SIGSTOP for a worker, at a moment after so many mails at which it has others in its hands."""

        def stopped() -> bool:
            worker.signal(signal.SIGSTOP)
            if self.count(State.SENT) >= after and self.count(State.SENDING):
                return True
            worker.signal(signal.SIGCONT)
            return False

        wait_until(stopped, what="a stop in the middle of sending")

    def close(self) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGCONT)
            worker.stop()
        self.mailer.close()

    # --- Asking

    def count(self, *states: State) -> int:
        counts = self.mailer.stats().states
        return sum(counts[state] for state in states)

    def unfinished(self) -> int:
        return self.count(State.QUEUED, State.SENDING, State.DEFERRED)

    def wait_for_sent(self, number: int) -> None:
        wait_until(lambda: self.count(State.SENT) >= number, what=f"the sending of {number}")

    def wait_for_end(self, timeout: float = 45) -> Books:
        """Until nothing is on its way; both books then. The law holds, or this fails."""
        try:
            wait_until_within(lambda: not self.unfinished(), timeout)
        except TimeoutError:
            last = "\n".join(self.said(number)[-2000:] for number in range(len(self.workers)))
            pytest.fail(
                f"not all came to an end: {self.mailer.stats().states}; the workers' last words:\n{last}"
            )
        return self.books()

    def books(self) -> Books:
        ledger = {}
        for snapshot in self.mailer.books.batches(dict.fromkeys(id.partition(".")[0] for id in self.ids)):
            for message in snapshot.messages():
                for recipient in message.recipients:
                    ledger[message.message_id, recipient.address] = recipient.state
        stats = self.mailer.stats()
        assert stats.accepted == sum(stats.states.values()) == len(ledger)
        assert (self.mailer.sweep(), stats.tallies["swept"]) == ([], 0)
        assert {state: count for state, count in stats.states.items() if count} == Counter(ledger.values())
        return Books(ledger, self.relay.accepted)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Issues what certificates a module's servers have."""
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file with the certificate to trust."""
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return str(file)


@pytest.fixture
def roads() -> Iterator[list[Road]]:
    made: list[Road] = []
    yield made
    for road in made:
        road.close()


@pytest.fixture
def road(
    tmp_path: Path, own_redis: LocalRedis, sink: CatchingServer, roads: list[Road]
) -> Callable[..., Road]:
    """Makes a road to a relay, by default one that runs in this process."""

    def make(relay: Relay = sink, **options: object) -> Road:
        roads.append(Road(tmp_path, own_redis, relay, **options))
        return roads[-1]

    return make


@pytest.fixture
def highway(tmp_path: Path, own_redis: LocalRedis, roads: list[Road]) -> Iterator[Callable[..., Road]]:
    """Makes a road to a relay that is a process of its own, as fast as it can be."""
    with CatchingProcess() as relay:

        def make(**options: object) -> Road:
            roads.append(Road(tmp_path, own_redis, relay, **options))
            return roads[-1]

        yield make
        for road in roads:
            road.close()
