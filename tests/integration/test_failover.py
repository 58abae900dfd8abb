"""Sentinels make a replica the master: who finds it, and what is lost and repeated by then.

Replication is asynchronous, so what a failover forgets depends on luck. Here it doesn't: the replicas are cut
off before the master is killed, and what it does in between is what they never hear of.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mailtasks.errors import StoreUnavailable
from mailtasks.message import Message
from mailtasks.publish import producing_app
from mailtasks.state import State
from mailtasks.testing import CatchingProcess, LocalRedis
from mailtasks.testing.sentinels import WatchedRedis

from .conftest import Pair, Road, wait_until

EARLY = 200  # sent, and every replica knows
WAITING = 60  # accepted, and every replica knows; sent while the replicas are cut off
LATE = 30  # accepted while the replicas are cut off


@pytest.fixture
def watched() -> Iterator[WatchedRedis]:
    with WatchedRedis() as watched:
        yield watched


@pytest.fixture
def failing_road(tmp_path: Path, watched: WatchedRedis, roads: list[Road]) -> Iterator[Callable[..., Road]]:
    """Makes a road over a Redis that fails over, with two workers."""
    with CatchingProcess() as relay:

        def make(**options: object) -> Road:
            roads.append(Road(tmp_path, watched, relay, **options))
            for _ in range(2):
                roads[-1].start_worker()
            return roads[-1]

        yield make
        for road in roads:
            road.close()


def mails(number: int, name: str) -> list[Message]:
    return [Message(to=f"{name}{n}@example.com", subject=f"{n}", text="hello") for n in range(number)]


class Promises:
    """What a producer was told is accepted, and the errors after which it tried again with the ids."""

    def __init__(self, road: Road) -> None:
        self.road = road
        self.pairs: dict[Pair, str] = {}
        self.refusals: list[str] = []

    def send(self, messages: Sequence[Message], within: float = 0) -> tuple[str, ...]:
        """Returns the ids of an error, if it was still one after `within` seconds."""
        ids: tuple[str, ...] = ()
        ends = time.monotonic() + within
        while True:
            try:
                self.keep(messages, self.road.mailer.send_many(messages, ids=ids or None))
            except StoreUnavailable as error:
                self.refusals.append(str(error))
                ids = error.ids or ids
                if time.monotonic() > ends:
                    return ids
                time.sleep(0.1)
            else:
                return ()

    def keep(self, messages: Sequence[Message], ids: Sequence[str]) -> None:
        self.road.ids += ids
        for message, id in zip(messages, ids, strict=True):
            self.pairs[f"<{id}@example.com>", message.to[0]] = id

    def compare(self) -> tuple[int, int, int]:
        """How many that were promised are lost, how many were caught twice, and how many resent."""
        books = self.road.wait_for_end()
        missing = [pair for pair in self.pairs if pair not in books.caught]
        assert {pair for pair in self.pairs if pair not in books.ledger} >= set(missing)
        assert set(books.ledger.values()) == {State.SENT}
        assert books.caught.keys() <= self.pairs.keys(), "caught, and nobody was told that it is accepted"
        return len(missing), books.duplicates, self.road.mailer.stats().tallies["resends"]


@pytest.mark.parametrize(("durability", "lost", "repeated"), [("primary", LATE, WAITING), ("replica", 0, 0)])
def test_what_a_failover_loses_and_repeats(
    failing_road: Callable[..., Road], watched: WatchedRedis, durability: str, lost: int, repeated: int
) -> None:
    road = failing_road(durability=durability)
    promises = Promises(road)
    promises.send(mails(EARLY, "early"))
    road.wait_for_sent(EARLY)
    road.mailer.pause()
    promises.send(mails(WAITING, "waiting"))
    watched.synchronise()

    watched.hold_back()
    road.mailer.resume()
    if durability == "primary":
        road.wait_for_sent(EARLY + WAITING)
    else:
        wait_until(lambda: "no replica confirmed the claim" in road.said(0) + road.said(1))
    road.mailer.pause()
    ids = promises.send(late := mails(LATE, "late"))
    assert len(ids) == (LATE if durability == "replica" else 0)

    watched.master.kill()
    watched.wait_for_failover()
    if ids:
        promises.keep(late, road.mailer.send_many(late, ids=ids))
    road.mailer.resume()
    assert promises.compare() == (lost, repeated, 0)


def test_killed_under_load_nothing_that_was_promised_is_lost(
    failing_road: Callable[..., Road], watched: WatchedRedis
) -> None:
    road = failing_road(durability="replica")
    promises = Promises(road)
    enough = threading.Event()

    def produce() -> None:
        for number in range(2000):
            promises.send([Message(to=f"ann{number}@example.com", text="hello")], within=30)
            if enough.is_set():
                return

    producer = threading.Thread(target=produce)
    producer.start()
    road.wait_for_sent(200)
    watched.master.kill()
    watched.wait_for_failover()
    before = len(promises.pairs)
    wait_until(lambda: len(promises.pairs) > before + 50, what="the producer's going on")
    enough.set()
    producer.join()
    lost, repeated, resent = promises.compare()
    assert promises.refusals
    assert lost == 0
    assert repeated <= resent, "caught twice, and not for being in doubt"


def kill(master: LocalRedis) -> None:
    master.kill()


def stop(master: LocalRedis) -> None:
    os.kill(master.pid, signal.SIGSTOP)


@pytest.mark.parametrize("end", [stop, pytest.param(kill, marks=pytest.mark.slow)])
def test_workers_and_producers_find_the_new_master_by_themselves(
    failing_road: Callable[..., Road], watched: WatchedRedis, end: Callable[[LocalRedis], None]
) -> None:
    """Hints, too: the pump would find the mail only after a minute."""
    road = failing_road(hint_margin=60)
    road.send(*mails(20, "before"))
    road.wait_for_sent(20)
    app = producing_app(road.mailer.settings)
    old = watched.master
    end(old)
    try:
        watched.wait_for_failover()
        wait_until(lambda: answering(app) == 2, what="both workers' answer to remote control")
    finally:
        if old.running:
            os.kill(old.pid, signal.SIGCONT)
    old.start()
    watched.wait_for_return(old)
    road.send(*mails(20, "after"))
    road.wait_for_sent(40)
    assert heard(app, road) >= 1
    assert all(worker.running for worker in road.workers)
    assert road.wait_for_end().states == Counter({State.SENT: 41})


def answering(app: object) -> int:
    try:
        return len(app.control.ping(timeout=1))
    except Exception:  # whatever a transport raises while there is no master
        return 0


def heard(app: object, road: Road) -> int:
    """How many mails Flower would hear of."""
    seen: list[object] = []

    def note(event: object) -> None:
        seen.append(event)
        receiver.should_stop = True

    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"task-succeeded": note})
        sender = threading.Timer(0.5, lambda: road.send(*mails(1, "heard")))
        sender.start()
        receiver.capture(limit=None, timeout=None, wakeup=False)
        sender.join()
    return len(seen)
