"""A disk that stalls, or a machine that crashes: what Redis forgets of what it has acknowledged.

The stall is real: a sync that Redis has begun never ends (`tests/syncs.py`). Then Redis is killed, and
started again in the same folder.

A crash of the machine can't be had here. It is counted as the worst that it may do to a disk that keeps what
it has synced: the file of a Redis that was killed is cut off where the last sync that ended had begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailtasks.errors import StoreUnavailable, UnknownMessage
from mailtasks.local.redis import Fsync, LocalRedis
from mailtasks.message import Message
from mailtasks.state import State
from mailtasks.testing import CatchingProcess
from tests.syncs import Syncs

from .conftest import THREADS, Road, wait_until

MAILS = 100
WAITING = 60  # mails
UNWRITTEN = 12  # of them; more than the threads have claimed when Redis writes
UNDER_WAY = 12  # mails, a few of which are being sent
STALLED = 1.5  # seconds of sending
AT_MOST = 4.0  # seconds: two for which Redis goes on without the disk, and what a busy machine adds


class Stalling:
    """A Redis whose disk stalls, the road over it, and when which mail was accepted."""

    def __init__(self, redis: LocalRedis, road: Road, folder: Path) -> None:
        self.redis = redis
        self.road = road
        self.accepted: dict[str, float] = {}  # id: time.monotonic()
        self._log = folder / "syncs"

    def stall(self, *, after: int = 0) -> Syncs:
        return Syncs(self.redis.pid, self._log, let_through=after)

    def send(self, number: int = 1, name: str = "ann") -> None:
        for _ in range(number):
            to = f"{name}{len(self.accepted)}@example.com"
            id = self.road.mailer.send(Message(to=to, text="hello"))
            self.accepted[id] = time.monotonic()
            self.road.ids.append(id)

    def send_paused(self, number: int, name: str = "ann") -> None:
        """Accepted, and in Redis' file; a worker waits for the word."""
        self.road.start_worker()
        self.road.mailer.pause()
        self.send(number, name)

    def send_until(self, condition: Callable[[], object]) -> None:
        ends = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < ends
            self.send()

    def send_until_refused(self) -> None:
        with pytest.raises(StoreUnavailable):
            self.send_until(lambda: False)

    def wait_for_unwritten(self, number: int) -> None:
        """Until so many were sent since Redis wrote into its file in spite of the disk, or stalled."""
        written = self.persistence("aof_delayed_fsync")
        before = self.road.count(State.SENT)

        def are_unwritten() -> bool:
            nonlocal written, before
            sent = self.road.count(State.SENT)
            if (times := self.persistence("aof_delayed_fsync")) != written:
                written, before = times, self.road.count(State.SENT)
                return False
            return sent >= before + number

        wait_until(are_unwritten, what=f"the sending of {number} within two seconds")

    def repeated(self) -> tuple[int, int]:
        """Start Redis again, let all be sent; how many were caught twice then, and how many resent."""
        self.redis.start()
        self.road.mailer.resume()
        books = self.road.wait_for_end()
        assert books.states == {State.SENT: len(self.accepted)}
        return books.duplicates, self.road.mailer.stats().tallies["resends"]

    def persistence(self, what: str) -> int:
        with self.redis.client() as client:
            return client.info("persistence")[what]

    def forgotten(self) -> list[float]:
        """When those were accepted that the ledger doesn't know of."""
        return [when for id, when in self.accepted.items() if not self.knows(id)]

    def knows(self, id: str) -> bool:
        try:
            return bool(self.road.mailer.status(id))
        except UnknownMessage:
            return False


@pytest.fixture
def stalling(tmp_path: Path, roads: list[Road]) -> Iterator[Callable[[Fsync], Stalling]]:
    """Makes a Redis whose disk can be made to stall, and a road over it."""
    servers: list[LocalRedis] = []
    with CatchingProcess() as relay:

        def make(fsync: Fsync) -> Stalling:
            servers.append(LocalRedis(fsync=fsync).start())
            roads.append(Road(tmp_path, servers[-1], relay))
            return Stalling(servers[-1], roads[-1], tmp_path)

        yield make
        for road in roads:
            road.close()
        for server in servers:
            server.close()


Make = Callable[[Fsync], Stalling]
Note = Callable[[str, object], None]


def test_everysec_forgets_what_was_accepted_while_the_disk_stalled(
    stalling: Make, record_property: Note
) -> None:
    """Up to two seconds of it: then Redis waits for the disk no longer."""
    way = stalling("everysec")
    with way.stall() as syncs:
        way.send_until(lambda: syncs.held)
        way.send_until(lambda: way.persistence("aof_delayed_fsync"))
        ends = time.monotonic() + STALLED
        way.send_until(lambda: time.monotonic() > ends)
        way.send_until(lambda: way.persistence("aof_buffer_length"))
        killed = time.monotonic()
        way.redis.kill()
    way.redis.start()
    forgotten = way.forgotten()
    record_property("forgotten", f"{len(forgotten)} of {len(way.accepted)}")
    assert 0 < len(forgotten) < len(way.accepted)
    assert killed - min(forgotten) < AT_MOST


def test_always_forgets_nothing_when_the_disk_stalls(stalling: Make, record_property: Note) -> None:
    """Nothing is acknowledged while it does."""
    way = stalling("always")
    with way.stall(after=MAILS) as syncs:
        way.send_until_refused()
        assert syncs.held
        way.redis.kill()
    way.redis.start()
    record_property("forgotten", f"{len(way.forgotten())} of {len(way.accepted)}")
    assert way.accepted
    assert not way.forgotten()
    assert way.road.mailer.stats().accepted - len(way.accepted) in {0, 1}, "the refused one may be in"


def test_everysec_repeats_what_was_sent_while_the_disk_stalled(stalling: Make, record_property: Note) -> None:
    """Neither the claim nor its end was written, so that the ledger has nothing to be in doubt about."""
    way = stalling("everysec")
    way.send_paused(WAITING)
    with way.stall() as syncs:
        wait_until(lambda: syncs.held)
        way.road.mailer.resume()
        way.wait_for_unwritten(UNWRITTEN)
        way.redis.kill()
    repeated, resent = way.repeated()
    record_property("repeated", f"{repeated} of {WAITING}, {resent} resent")
    assert repeated > resent


def test_always_repeats_nothing_unseen_when_the_disk_stalls(stalling: Make, record_property: Note) -> None:
    """What was recorded stays so; what couldn't be is recorded later, or it is in doubt, and resent."""
    way = stalling("always")
    way.send_paused(UNDER_WAY, "slow")
    way.road.mailer.resume()
    way.road.wait_for_sent(THREADS)
    with way.stall() as syncs:
        wait_until(lambda: syncs.held and "can't be told of batch" in way.road.said())
        way.redis.kill()
    repeated, resent = way.repeated()
    record_property("repeated", f"{repeated} of {UNDER_WAY}, {resent} resent")
    assert repeated <= resent <= THREADS


def test_everysec_forgets_a_second_when_the_machine_crashes(stalling: Make, record_property: Note) -> None:
    """Or what was accepted since the last sync began."""
    way = stalling("everysec")
    with way.stall(after=1) as syncs:
        way.send_until(lambda: syncs.held)
        way.send()
        way.redis.kill()
    syncs.done[-1].forget_the_rest()
    way.redis.start()
    forgotten = way.forgotten()
    record_property("forgotten", f"{len(forgotten)} of {len(way.accepted)}")
    assert forgotten
    assert max(way.accepted.values()) - min(forgotten) < AT_MOST


def test_always_forgets_nothing_when_the_machine_crashes(stalling: Make, record_property: Note) -> None:
    way = stalling("always")
    with way.stall(after=MAILS) as syncs:
        way.send_until_refused()
        way.redis.kill()
    assert len(syncs.done) == MAILS
    syncs.done[-1].forget_the_rest()
    way.redis.start()
    record_property("forgotten", f"{len(way.forgotten())} of {len(way.accepted)}")
    assert way.accepted
    assert not way.forgotten()
