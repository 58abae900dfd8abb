"""One run of chaos: real Redis, workers, producers and relay, a monkey among them, and the books at the end.

    with Run(seed=1, messages=2000, kills=6) as run:
        outcome = run.play()
    assert not outcome.complaints

Redis and the relay are reached through proxies that can cut and hang. Redis writes with `appendfsync always`,
under which nothing acknowledged may be forgotten. The relay keeps its journal before it answers, and errs at
the odds of `FAULTS`.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Final, Self

from sqlalchemy import create_engine, func, select

from mailtasks.local.processes import Child
from mailtasks.local.redis import LocalRedis
from mailtasks.mailer import Mailer
from mailtasks.message import PRIORITIES, Message
from mailtasks.settings import Settings
from mailtasks.sql import Outbox
from mailtasks.state import UNFINISHED
from mailtasks.testing import CatchingProcess, Faults, wait_until
from mailtasks.testing.proxy import Proxy
from tests.chaos.books import Books, Fate, Pair, Toll, Wish, complaints, table
from tests.chaos.monkey import Monkey
from tests.chaos.producer import DOMAIN, pairs
from tests.chaos.producer import told as wishes

Wishes = dict[Pair, Wish]

FAULTS: Final = {
    "defer": 0.04,
    "refuse": 0.01,
    "reset": 0.01,
    "defer_dot": 0.02,
    "refuse_dot": 0.005,
    "stall": 0.005,
    "garbage": 0.003,
    "shift": 0.003,
    "lose": 0.005,
    "die_before": 0.005,
    "die_after": 0.005,
}
"""How likely the relay errs in each way at a recipient or a dot; see `mailtasks.local.faults`."""

SETTINGS: Final = {
    "default_from": "shop@example.com",
    "lease": 3,
    "hint_margin": 2,
    "pump_interval": 0.2,
    "redis_timeout": 1,
    "redis_connect_timeout": 1,
    "timeout_command": 5,
    "timeout_dot": 8,
}
"""Seconds do for what takes minutes in earnest."""

READY: Final = "chaos: ready"
CELERYCONFIG: Final = f"""
import sys
from celery.signals import worker_ready

task_annotations = {{"mailtasks.deliver": {{"retry_backoff": 1, "retry_backoff_max": 5}}}}

@worker_ready.connect(weak=False)
def tell(**_):
    print({READY!r}, file=sys.__stderr__, flush=True)
"""
HELD: Final = """
local held = {}
for _, due in ipairs(KEYS) do
  for _, id in ipairs(redis.call('ZRANGE', due, 0, -1)) do
    local owner, token = unpack(redis.call('HMGET', ARGV[1] .. id, 'o', 't'))
    if token and (ARGV[2] == '' or owner == ARGV[2]) then
      table.insert(held, id)
      table.insert(held, token)
    end
  end
end
return held
"""
"""Every claim in the ledger, or one worker's, at one moment."""

ROUND_TRIP: Final = 0.2  # seconds to the relay, so that whoever is killed has something in hand
THREADS: Final = 4
PRODUCERS: Final = 3  # the last one writes into an outbox
PLANNED: Final = 5  # mails at the end, when all is calm
PLANNED_FOR: Final = 2.0  # seconds ahead
CALM: Final = 15.0  # seconds without any change in the ledger, after which what isn't finished never will be


@dataclass(frozen=True)
class Worker:
    """One that was started, whatever has become of it."""

    child: Child
    owner: str  # its name in the ledger
    log: Path

    @property
    def is_ready(self) -> bool:
        """Whether it has begun to take work; an error, if it never will."""
        said = self.log.read_text()
        if not self.child.running:
            raise RuntimeError(f"{self.owner} didn't start: {said[-2000:]}")
        return READY in said


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    books: Books
    toll: Toll
    table: str

    @property
    def complaints(self) -> list[str]:
        return complaints(self.books, self.toll)


class Run:
    """The stage, set up when entered and cleared when left.

    Args:
        seed: of the monkey and the relay's faults.
        messages: sent by all producers together.
        kills: of workers.
        restarts: of Redis, by SIGKILL.
        hints: times that everything unfinished is hinted once more.
        orderly: times that a worker is told to end, all is paused, and an operator retries what failed; by
            default one for five kills. If it is 0, no mail is planned ahead at the end, either.
        workers: processes.
        patience: seconds for everything to come to its end once the monkey has left; by default three
            minutes, and a second for every five messages: a busy machine sends no more.
        app: what `celery -A` gets; for planted bugs a module in the run's folder.
        files: module name → text, put into that folder.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        messages: int = 2000,
        kills: int = 6,
        restarts: int = 2,
        hints: int = 3,
        orderly: int | None = None,
        workers: int = 3,
        patience: float | None = None,
        app: str = "mailtasks",
        files: dict[str, str] | None = None,
    ) -> None:
        self.seed, self.messages = seed, messages
        self.kills, self.restarts, self.hints = kills, restarts, hints
        self.orderly = max(1, kills // 5) if orderly is None else orderly
        self.number_of_workers = workers
        self.patience = 180 + messages / 5 if patience is None else patience
        self.app = app
        self.files = {"celeryconfig": CELERYCONFIG, **(files or {})}
        self.lease = float(str(SETTINGS["lease"]))
        self.workers: list[Worker] = []
        self.producers: list[Child] = []
        self._started = 0
        self._cut_off = 0
        self._retried = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:  # which ends what was started, if not all could be
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, told: Callable[[str], None] = lambda what: None) -> Outcome:
        """Send, disturb, wait and compare."""
        began, monkey = time.monotonic(), self.monkey
        monkey.run(told)
        self._await_end()
        planned = self._plan_some() if self.orderly else {}
        books = self._books(planned)
        self.mailer.sweep()
        tallies = self.mailer.stats().tallies
        toll = Toll(
            kills=monkey.kills,
            endings=monkey.endings,
            pauses=monkey.pauses,
            window=max(self.mailer.ledger.limits.windows.values()),
            threads=THREADS,
            abandoned=tallies["abandoned"],
            doubts=tallies["doubts"],
            cut_off=self._cut_off,
            swept=tallies["swept"],
            twice=tallies["duplicates"],
            planned_late=_latest_try(books, planned),
        )
        more = {
            "settled, or freed, by late evidence": tallies["late_evidence"],
            "retried by an operator": self._retried,
            **{name.replace("_", " "): times for name, times in sorted(monkey.done.items())},
            "seed": self.seed,
            "took": f"{time.monotonic() - began:.0f} s",
        }
        return Outcome(books, toll, table(books, toll, more))

    # --- Starting

    def _start(self) -> None:
        enter = self._stack.enter_context
        self.folder = Path(enter(tempfile.TemporaryDirectory(prefix="mailtasks-chaos-")))
        for module, text in self.files.items():
            (self.folder / f"{module}.py").write_text(text)
        self.redis = enter(LocalRedis(fsync="always"))
        self.relay = enter(CatchingProcess(faults=Faults(seed=self.seed, **FAULTS)))
        self.redis_line = enter(Proxy("127.0.0.1", self.redis.port))
        self.relay_line = enter(Proxy("127.0.0.1", self.relay.port, round_trip=ROUND_TRIP))
        patient = {**SETTINGS, "redis_timeout": 60}  # a disk may take long to sync
        self.mailer = enter(Mailer(Settings(broker_url=self.redis.url, **patient)))  # not by the proxy
        self._stack.callback(self._end_children)
        self.monkey = Monkey(
            self,
            self.seed,
            kills=self.kills,
            restarts=self.restarts,
            hints=self.hints,
            orderly=self.orderly,
        )
        self.database = f"sqlite:///{self.folder / 'shop.db'}"
        self.engine = create_engine(self.database)
        self._stack.callback(self.engine.dispose)
        self.table = Outbox().table
        self.table.create(self.engine)
        self.outbox = self._outbox()
        self.workers += [self._worker() for _ in range(self.number_of_workers)]
        self.producers += [self._producer(place) for place in range(PRODUCERS)]

    def _end_children(self) -> None:
        for child in (self.outbox, *self.producers, *(worker.child for worker in self.workers)):
            child.signal(signal.SIGCONT)
            child.kill()

    @cached_property
    def environment(self) -> dict[str, str]:
        values = {
            **SETTINGS,
            "broker_url": f"redis://127.0.0.1:{self.redis_line.port}/0",
            "relay": f"smtp://127.0.0.1:{self.relay_line.port}",
        }
        ours = {f"MAILTASKS_{name.upper()}": str(value) for name, value in values.items()}
        return {**os.environ, **ours, "PYTHONPATH": os.pathsep.join([str(self.folder), *sys.path])}

    def _worker(self) -> Worker:
        """Started, not waited for: a killed one's successor comes when it comes."""
        self._started += 1
        name = f"worker{self._started}"
        owner = f"{name}@chaos"
        celery = [sys.executable, "-P", "-m", "celery", "-A", self.app, "worker", "-n", owner]
        options = [
            "-P",
            "threads",
            "-c",
            str(THREADS),
            "-l",
            "WARNING",
            "--without-mingle",
            "--without-gossip",
        ]
        log = self.folder / f"{name}.log"
        return Worker(Child([*celery, *options], environment=self.environment, output=log), owner, log)

    def _producer(self, place: int) -> Child:
        """A new one, or one that takes its journal up again: it then has its pace, and more time."""
        share, seconds = self.messages // PRODUCERS, self.monkey.seconds
        command = [sys.executable, "-m", "tests.chaos.producer", f"p{place}", str(share), str(seconds)]
        output, last = self.folder / f"p{place}.log", place == PRODUCERS - 1
        command += [self._journal(place)] + [self.database] * last
        return Child(command, environment=self.environment, output=output)

    def _outbox(self) -> Child:
        """What moves mail from the outbox into the ledger."""
        options = ["--interval", "0.2s", "--database", self.database]
        command = [sys.executable, "-m", "mailtasks.cli", "outbox", "run", *options]
        return Child(command, environment=self.environment, output=self.folder / "outbox.log")

    def _journal(self, place: int) -> str:
        return str(self.folder / f"p{place}.jsonl")

    # --- What the monkey does (see `monkey.Stage`)

    def replace_worker(self, place: int) -> None:
        self.workers[place] = self._worker()

    def replace_producer(self) -> None:
        place = self.monkey.done["kill_producer"] % PRODUCERS
        self.producers[place].kill()
        self.producers[place] = self._producer(place)

    def replace_outbox(self) -> None:
        self.outbox.kill()
        self.outbox = self._outbox()

    def restart_redis(self, seconds: float) -> None:
        self.redis.kill()
        time.sleep(seconds)
        self.redis.start()

    def restart_relay(self, seconds: float) -> None:
        self._cut_off += self.relay_line.connections
        self.relay.kill()
        time.sleep(seconds)
        self.relay.start()

    def repeat_hints(self) -> None:
        """Every unfinished batch is hinted once more, as by a pump that thinks its hint was lost."""
        for priority in PRIORITIES:
            due = self.mailer.redis.zrange(self.mailer.ledger.keys.due(priority), 0, -1)
            self.mailer.publisher.hint((id.decode(), priority) for id in due)

    def hang_redis(self, seconds: float) -> None:
        os.kill(self.redis.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self.redis.pid, signal.SIGCONT)

    def cut_redis(self) -> None:
        self.redis_line.cut()

    def cut_relay(self) -> None:
        self._cut_off += self.relay_line.connections
        self.relay_line.cut()

    def retry_failed(self) -> None:
        """What the relay refused, also for good: it may think otherwise today."""
        self.mailer.suppressions.remove(*(it.address for it in self.mailer.suppressions))
        self._retried += self.mailer.retry(code="5", force=True).retried

    def pause(self) -> None:
        self.mailer.pause()

    def resume(self) -> None:
        self.mailer.resume()

    def held(self, owner: str | None = None) -> set[tuple[str, str]]:
        """The claims of one worker, or all: batch and token."""
        keys = self.mailer.ledger.keys
        due = [keys.due(priority) for priority in PRIORITIES]
        found = self.mailer.redis.eval(HELD, len(due), *due, keys.batch("")[0], owner or "")
        words = [word.decode() for word in found]
        return set(zip(words[::2], words[1::2], strict=True))

    def quiet(self) -> float:
        """Until when no lease ends, in seconds since the epoch: Redis stood still, or was restarted."""
        until = self.mailer.redis.hget(self.mailer.ledger.keys.steering, "quiet")
        return int(until or 0) / 1000

    def abandoned(self) -> int:
        return self.mailer.stats().tallies["abandoned"]

    # --- The end

    def _await_end(self) -> None:
        """Until all is finished, or nothing happens any more, or patience is at an end: the books tell."""
        for place, producer in enumerate(self.producers):
            if producer.wait(self.monkey.seconds + self.patience):
                raise RuntimeError((self.folder / f"p{place}.log").read_text()[-2000:])
        with suppress(TimeoutError):
            wait_until(lambda: not self._unmoved(), self.patience)
        self._await_calm()

    def _unmoved(self) -> int:
        """Rows that wait in the outbox."""
        with self.engine.connect() as connection:
            return connection.scalar(select(func.count()).select_from(self.table)) or 0

    def _await_calm(self) -> None:
        calm = _Calm(CALM)
        with suppress(TimeoutError):
            wait_until(lambda: calm.reached(self._progress()), self.patience)

    def _plan_some(self) -> Wishes:
        """Mail for a moment ahead, now that nobody disturbs: it must go at that moment, and soon after."""
        at = datetime.now(UTC) + timedelta(seconds=PLANNED_FOR)
        mails = [
            Message(to=f"planned-{number}@{DOMAIN}", subject="planned", text="chaos\n", send_at=at)
            for number in range(PLANNED)
        ]
        ids = [self.mailer.send(message) for message in mails]  # one by one: a batch goes in its order
        self._await_calm()
        return {
            pair: Wish(not_before=at.timestamp())
            for id, message in zip(ids, mails, strict=True)
            for pair in pairs(id, message)
        }

    def _progress(self) -> tuple[bool, object]:
        """Whether all is finished, and what changes until then."""
        stats = self.mailer.stats()
        return not sum(stats.states[state] for state in UNFINISHED), (stats.states, stats.tallies)

    def _books(self, planned: Wishes) -> Books:
        told = dict(planned)
        for place in range(PRODUCERS):
            told |= wishes(Path(self._journal(place)))
        books = self.mailer.books
        ledger = {
            (message.message_id, recipient.address): Fate(
                recipient.state,
                recipient.resends,
                message.finished_at.timestamp() if message.finished_at else 0.0,
            )
            for snapshot in books.batches(books._all_ids())
            for message in snapshot.messages()
            for recipient in message.recipients
        }
        return Books(told, ledger, self.relay.entries())


def _latest_try(books: Books, planned: Wishes) -> float:
    """By how many seconds the last of them was late when the relay first heard of it."""
    first = {entry.recipient: entry.time for entry in reversed(books.journal)}
    late = (first.get(recipient, inf) - wish.not_before for (_, recipient), wish in planned.items())
    return max(late, default=0.0)


class _Calm:
    """All is finished; or nothing has changed for so long that it never will be."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: object = None
        self._since = time.monotonic()

    def reached(self, progress: tuple[bool, object]) -> bool:
        finished, state = progress
        if state != self._last:
            self._last, self._since = state, time.monotonic()
        time.sleep(0.1)
        return finished or time.monotonic() - self._since > self._seconds
