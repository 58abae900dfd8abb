"""What runs when no hint can be published: how much, in which order, and until when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mailtasks import stopgap as stopgap_module
from mailtasks.errors import StoreError
from mailtasks.message import PRIORITIES, Priority
from mailtasks.stopgap import Stopgap

URGENT, NORMAL, BULK = PRIORITIES
Run = Callable[[], None]


class Threads:
    """A worker's threads, which work when they are told to."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def work(self) -> None:
        while self.runs:
            self.runs.pop(0)()

    def __call__(self, run: Run) -> None:
        self.runs.append(run)


def make(
    threads: Threads,
    deliver: Callable[[str, Priority], object],
    number: int = 2,
    taken: Sequence[Priority] = (),
) -> Stopgap:
    return Stopgap(threads, deliver, number, lambda: taken or PRIORITIES)


def test_the_most_urgent_first_and_each_once() -> None:
    threads, delivered = Threads(), []
    stopgap = make(threads, lambda batch, priority: delivered.append((batch, priority)))
    stopgap.take([("a", BULK), ("b", NORMAL), ("c", URGENT), ("b", NORMAL)])
    threads.work()
    assert delivered == [("c", URGENT), ("b", NORMAL), ("a", BULK)]


def test_no_more_at_once_than_the_worker_has_threads() -> None:
    threads = Threads()
    stopgap = make(threads, lambda batch, priority: None, number=2)
    for batch in "abcde":
        stopgap.take([(batch, NORMAL)])
    assert len(threads.runs) == 2
    threads.work()
    stopgap.take([("f", NORMAL)])
    assert len(threads.runs) == 1


def test_what_comes_while_all_are_at_work_is_taken_by_them() -> None:
    threads, delivered = Threads(), []

    def deliver(batch: str, priority: Priority) -> None:
        delivered.append(batch)
        if len(batch) < 3:
            stopgap.take([(batch + "+", priority)])  # more of it can go, and that can't be hinted either

    stopgap = make(threads, deliver, number=1)
    stopgap.take([("a", NORMAL)])
    threads.work()
    assert delivered == ["a", "a+", "a++"]


def test_only_what_the_worker_takes_from() -> None:
    threads, delivered = Threads(), []
    stopgap = make(threads, lambda batch, priority: delivered.append(batch), taken=[URGENT, NORMAL])
    stopgap.take([("a", BULK), ("b", NORMAL)])
    threads.work()
    assert delivered == ["b"]


def test_what_has_no_room_is_left_to_the_pump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopgap_module, "KEPT", 3)
    threads, delivered = Threads(), []
    stopgap = make(threads, lambda batch, priority: delivered.append(batch))
    stopgap.take((str(number), BULK) for number in range(10))
    threads.work()
    assert delivered == ["0", "1", "2"]


@pytest.mark.parametrize("error", [StoreError("its records are damaged"), RuntimeError("a bug")])
def test_one_that_fails_stops_no_other(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    threads, delivered = Threads(), []

    def deliver(batch: str, priority: Priority) -> None:
        delivered.append(batch)
        if batch == "a":
            raise error

    stopgap = make(threads, deliver, number=1)
    stopgap.take([("a", NORMAL), ("b", NORMAL)])
    threads.work()
    assert delivered == ["a", "b"]
    assert "batch a could not be delivered" in caplog.text


def test_it_says_so_once_until_hints_can_be_published_again(caplog: pytest.LogCaptureFixture) -> None:
    threads = Threads()
    stopgap = make(threads, lambda batch, priority: None)
    for times in (1, 2):
        for batch in "abc":
            stopgap.take([(batch, NORMAL)])
            threads.work()
        assert caplog.text.count("hints can't be published; until they can, this worker delivers") == times
        stopgap.rest()


def test_what_else_the_worker_has_to_do_has_its_turn() -> None:
    threads, done = Threads(), []
    stopgap = make(threads, lambda batch, priority: done.append(batch), number=1)
    stopgap.take([("a", BULK), ("b", BULK)])
    threads(lambda: done.append("a task"))
    threads.work()
    assert done == ["a", "a task", "b"]


def test_room_is_what_it_would_still_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopgap_module, "KEPT", 3)
    threads = Threads()
    stopgap = make(threads, lambda batch, priority: None)
    assert stopgap.room() == 3
    stopgap.take([("a", BULK), ("b", URGENT)])
    assert stopgap.room() == 1
    threads.work()
    assert stopgap.room() == 3


def test_threads_that_are_gone_keep_no_place() -> None:
    delivered: list[str] = []
    pool = ThreadPoolExecutor(1)
    stopgap = Stopgap(pool.submit, lambda batch, priority: delivered.append(batch), 1, lambda: PRIORITIES)
    pool.shutdown()
    for batch in "ab":
        stopgap.take([(batch, NORMAL)])  # RuntimeError inside
    assert (delivered, stopgap._running) == ([], 0)


def test_a_stopped_one_forgets_and_takes_nothing() -> None:
    threads, delivered = Threads(), []

    def deliver(batch: str, priority: Priority) -> None:
        delivered.append(batch)
        stopgap.stop()
        stopgap.take([(batch, priority)])  # as a delivery does that may begin no more

    stopgap = make(threads, deliver, number=1)
    stopgap.take([("a", NORMAL), ("b", NORMAL)])
    threads.work()
    assert delivered == ["a"]


def test_many_threads_deliver_each_batch_once() -> None:
    delivered: list[str] = []
    done = threading.Event()
    wanted = [str(number) for number in range(150)]

    def deliver(batch: str, priority: Priority) -> None:
        delivered.append(batch)
        if len(delivered) == len(wanted):
            done.set()

    with ThreadPoolExecutor(4) as pool:
        stopgap = Stopgap(pool.submit, deliver, 4, lambda: PRIORITIES)
        for batch in wanted:
            stopgap.take([(batch, NORMAL)])
        assert done.wait(20)
    assert sorted(delivered) == sorted(wanted)
