"""A worker outlives whatever happens to Redis and to its connections; no task that it took is run twice.

A hint can be lost with the reply to a BRPOP when Redis ends; that is no affair of the worker's: what
stays undone is published again, as the ledger's `due` does, and only what was started counts as taken.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from celery import Celery

from mailtasks.local.processes import Child
from mailtasks.local.redis import LocalRedis
from mailtasks.testing import wait_until as wait_until_within

wait_until = partial(wait_until_within, timeout=30)  # seconds; other tests may run beside these

APP = """
import os, time
from celery import Celery

app = Celery("probe", broker=os.environ["BROKER"])
app.conf.update(
    task_acks_late=False,
    worker_prefetch_multiplier=int(os.environ["PREFETCH"]),
    task_ignore_result=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": 86400, "socket_timeout": 5, "socket_connect_timeout": 2,
        "queue_order_strategy": "sorted",
    },
)
if os.environ["CLASSES"] == "ours":
    from mailtasks import transport
    transport.install(app)


def work(number, seconds):
    with open(os.environ["BOOK"], "a") as book:
        book.write(f"{number}\\n")
    time.sleep(seconds)


@app.task(name="early")
def early(number, seconds=0.05):
    work(number, seconds)


@app.task(name="late", acks_late=True)
def late(number, seconds=0.05):
    work(number, seconds)


@app.task(name="limited", rate_limit="30/m")
def limited(number, seconds=0):
    work(number, seconds)
"""


class Bench:
    """A private Redis, a worker process beside it, and the book in which its tasks note that they start."""

    def __init__(
        self, redis: LocalRedis, folder: Path, *, classes: str = "ours", threads: int = 4, prefetch: int = 1
    ) -> None:
        (folder / "probe.py").write_text(APP)
        self.redis = redis
        self.book = folder / "book"
        self.log = folder / "worker.log"
        self.app = Celery("producer", broker=redis.url, set_as_current=False)
        self.sent = 0
        environment = {
            **os.environ,
            "BROKER": redis.url,
            "BOOK": str(self.book),
            "CLASSES": classes,
            "PREFETCH": str(prefetch),
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        }
        celery = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "probe",
            "worker",
            "-P",
            "threads",
            "-c",
            str(threads),
        ]
        options = ["-l", "INFO", "--without-mingle", "--without-gossip"]
        self.worker = Child([*celery, *options], environment=environment, output=self.log)
        wait_until(lambda: " ready." in self.said(), what="the worker's being ready")

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def send(self, task: str, **options: object) -> None:
        self.app.send_task(task, args=[self.sent], retry=False, **options)
        self.sent += 1

    def send_again(self, numbers: set[int]) -> None:
        for number in numbers:
            self.app.send_task("early", args=[number], retry=False)

    def runs(self) -> Counter[int]:
        return Counter(map(int, self.book.read_text().split())) if self.book.exists() else Counter()

    def undone(self) -> set[int]:
        return set(range(self.sent)) - set(self.runs())

    def unacked(self) -> int:
        with self.redis.client() as client:
            return client.hlen("unacked") + client.zcard("unacked_index")

    def wait_for(self, number: int) -> None:
        wait_until(lambda: len(self.runs()) >= number, what=f"the start of {number} tasks")

    def cut_connections(self) -> None:
        """Every connection breaks, while Redis itself goes on."""
        with self.redis.client() as client:
            for other in client.client_list():
                if int(other["id"]) != client.client_id():
                    client.client_kill_filter(_id=other["id"])

    def assert_alive_and_each_ran_once(self) -> None:
        assert self.worker.running, self.said()[-4000:]
        wait_until(lambda: not self.unacked(), what="the last acknowledgement")
        assert queue_length(self.redis) == 0
        assert max(self.runs().values()) == 1
        assert "CRITICAL" not in self.said()


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.worker.stop()


@pytest.fixture
def start(own_redis: LocalRedis, tmp_path: Path, benches: list[Bench]) -> Callable[..., Bench]:
    def start(**options: object) -> Bench:
        benches.append(Bench(own_redis, tmp_path, **options))
        return benches[-1]

    return start


@pytest.mark.parametrize("restarts", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_redis_restarts_under_load(start: Callable[..., Bench], own_redis: LocalRedis, restarts: int) -> None:
    bench = start()
    for turn in range(restarts):
        before = len(bench.runs())
        for _ in range(20):
            bench.send("early")
            bench.send("late")
        bench.wait_for(before + 6)
        (own_redis.kill if turn % 2 else own_redis.stop)()
        own_redis.start()
        wait_until(lambda before=before: len(bench.runs()) > before + 20, what="the worker's return")
    wait_until(lambda: queue_length(own_redis) == 0)
    wait_until(lambda: not bench.unacked())
    lost = bench.undone()
    assert len(lost) <= restarts
    bench.send_again(lost)
    bench.wait_for(bench.sent)
    bench.assert_alive_and_each_ran_once()


def test_redis_restarts_while_tasks_run_and_slots_are_free(
    start: Callable[..., Bench], own_redis: LocalRedis
) -> None:
    """Defect B: a BRPOP is under way, and something unacknowledged is in the worker's hands."""
    bench = start()
    bench.send("late", kwargs={"seconds": 1.0})
    bench.send("early", kwargs={"seconds": 1.0})
    bench.wait_for(2)
    own_redis.kill()
    own_redis.start()
    bench.send("early")
    bench.wait_for(3)
    bench.assert_alive_and_each_ran_once()


@pytest.mark.slow
def test_celerys_own_classes_still_need_us(start: Callable[..., Bench], own_redis: LocalRedis) -> None:
    """Should this fail, kombu was repaired: see what of `mailtasks.transport` can go."""
    bench = start(classes="celery's")
    bench.send("late", kwargs={"seconds": 3.0})
    bench.wait_for(1)
    own_redis.kill()
    assert bench.worker.wait(30) == 1
    assert "'NoneType' object has no attribute 'hostname'" in bench.said()


def test_connections_break_while_redis_goes_on(start: Callable[..., Bench]) -> None:
    """Defect C: what the threads work on isn't run a second time; nor is what waits for a thread."""
    bench = start(threads=2, prefetch=3)
    for _ in range(6):
        bench.send("late", kwargs={"seconds": 0.3})
    bench.wait_for(2)
    bench.cut_connections()
    bench.wait_for(6)
    bench.assert_alive_and_each_ran_once()


def test_what_waits_for_its_time_or_for_celerys_rate_limit_survives_a_break(
    start: Callable[..., Bench],
) -> None:
    bench = start(prefetch=2)
    bench.worker.signal(signal.SIGSTOP)  # so that all come at once, and nothing is over before the last does
    bench.send("early", countdown=3)
    for _ in range(3):
        bench.send("limited")
    bench.worker.signal(signal.SIGCONT)
    wait_until(lambda: bench.unacked() >= 6, what="an ETA task and two limited ones in the worker's hands")
    bench.cut_connections()
    bench.wait_for(4)
    bench.assert_alive_and_each_ran_once()


def test_what_a_stopping_worker_leaves_undone_goes_back_even_after_a_break(
    start: Callable[..., Bench], own_redis: LocalRedis
) -> None:
    bench = start(threads=1, prefetch=3)
    for _ in range(3):
        bench.send("late", kwargs={"seconds": 1.5})
    wait_until(lambda: bench.unacked() == 6)
    bench.cut_connections()
    wait_until(lambda: bench.said().count("Connected to") == 2)
    assert bench.worker.stop() == 0
    assert sum(bench.runs().values()) + queue_length(own_redis) == 3
    assert bench.unacked() == 0


def test_a_redis_without_memory_slows_a_worker_and_doesnt_end_it(
    start: Callable[..., Bench], own_redis: LocalRedis
) -> None:
    bench = start(threads=2)
    bench.worker.signal(signal.SIGSTOP)  # until there is no memory any more
    for _ in range(60):
        bench.send("early")
    with own_redis.client() as client:
        client.config_set("maxmemory", 1)
        bench.worker.signal(signal.SIGCONT)
        bench.wait_for(12)
        bench.cut_connections()
        wait_until(lambda: "Redis refuses to work, trying again" in bench.said())
        client.config_set("maxmemory", 0)
    bench.wait_for(60)
    bench.assert_alive_and_each_ran_once()


def queue_length(redis: LocalRedis) -> int:
    with redis.client() as client:
        return client.llen("celery")
