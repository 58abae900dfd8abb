"""The pool with fake sessions: what it lends, keeps, closes and counts."""

import threading
import time

import pytest

from mailtasks.errors import PoolTimeout, RelayError
from mailtasks.relay import Relay
from mailtasks.smtp.pool import SPREAD, Pool
from mailtasks.smtp.session import Timeouts

RELAY = Relay.parse("smtp://127.0.0.1:2525")


class Fake:
    """As much of a session as a pool touches."""

    def __init__(self):
        self.opened_at = time.monotonic()
        self.messages = 0
        self.usable = True
        self.alive = True
        self.closed = False

    def close(self, seconds=None):
        self.usable = self.alive = False
        self.closed = True


class Dial:
    """Makes fakes; remembers them; fails when told to."""

    def __init__(self):
        self.made = []
        self.error = None
        self.allowed = threading.Event()
        self.allowed.set()

    def __call__(self):
        assert self.allowed.wait(5)
        if self.error:
            raise self.error
        self.made.append(Fake())
        return self.made[-1]


@pytest.fixture
def dial():
    return Dial()


@pytest.fixture
def make(dial):
    pools = []

    def make(size=2, **options):
        given = {"max_messages": 1000, "lifetime": 300, "idle": 20, "timeouts": Timeouts()} | options
        pools.append(Pool(RELAY, size=size, connect=dial, **given))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def some(pool, **expected):
    stats = pool.stats()
    assert {name: stats[name] for name in expected} == expected


def test_a_connection_is_made_when_it_is_asked_for_and_used_again(make, dial):
    pool = make()
    assert dial.made == []
    for _ in range(3):
        with pool.lend(1) as session:
            session.messages += 2
    assert len(dial.made) == 1
    some(pool, lent=3, opened=1, messages=6, slots=1, idle=1, waiting=0)


def test_the_one_used_last_is_lent_first(make):
    pool = make()
    with pool.lend(1) as first, pool.lend(1) as second:
        pass
    with pool.lend(1) as again:
        assert again in {first, second}
    with pool.lend(1) as once_more:
        assert once_more is again


def test_no_more_than_size_and_then_a_sentence(make, dial):
    pool = make(size=1)
    with pool.lend(1):
        with pytest.raises(PoolTimeout) as raised, pool.lend(0.02):
            pass
        assert str(raised.value) == (
            "all 1 connections to the relay 127.0.0.1:2525 were lent for 0.02 s; "
            "try again later, or allow more connections"
        )
        some(pool, timeouts=1, waiting=0, slots=1)
    assert len(dial.made) == 1


def borrow(pool, results, timeout=5):
    """A thread that borrows once and notes what it got."""

    def work():
        try:
            with pool.lend(timeout) as session:
                results.append(session)
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_who_waits_gets_what_comes_back(make, dial, wait_until):
    pool, results = make(size=1), []
    with pool.lend(1) as session:
        thread = borrow(pool, results)
        wait_until(lambda: pool.stats()["waiting"] == 1)
    thread.join(5)
    assert results == [session]
    assert len(dial.made) == 1


def test_who_waits_may_dial_when_what_comes_back_is_broken(make, dial, wait_until):
    pool, results = make(size=1), []
    with pool.lend(1) as session:
        thread = borrow(pool, results)
        wait_until(lambda: pool.stats()["waiting"] == 1)
        session.usable = False
    thread.join(5)
    assert results == [dial.made[1]]
    some(pool, broken=1, opened=2, slots=1)


def test_who_waits_may_dial_when_another_could_not(make, dial, wait_until):
    pool, results = make(size=1), []
    dial.allowed.clear()
    dial.error = RelayError("no")
    threads = [borrow(pool, results)]
    wait_until(lambda: pool.stats()["slots"] == 1)
    threads.append(borrow(pool, results))
    wait_until(lambda: pool.stats()["waiting"] == 1)
    dial.allowed.set()
    for thread in threads:
        thread.join(5)
    assert [str(result) for result in results] == ["no", "no"]
    some(pool, failed=2, slots=0, lent=0)


def test_a_slot_is_not_handed_to_who_has_given_up(make):
    pool = make(size=1)
    with pool.lend(1) as session, pytest.raises(PoolTimeout), pool.lend(0.01):
        pass
    with pool.lend(1) as again:
        assert again is session


def test_dialling_holds_up_nobody_else(make, dial):
    pool = make(size=2)
    with pool.lend(1):
        pass
    with pool.lend(1) as first:
        dial.allowed.clear()
        results = []
        thread = borrow(pool, results)
    with pool.lend(1) as other:
        assert other is first
    dial.allowed.set()
    thread.join(5)
    assert len(results) == 1


def test_a_dead_one_is_noticed_before_it_is_lent(make, dial):
    pool = make()
    with pool.lend(1) as session:
        pass
    session.alive = False
    with pool.lend(1) as other:
        assert other is not session
    assert session.closed
    some(pool, found_dead=1, opened=2, slots=1)


def test_a_broken_one_is_not_kept(make):
    pool = make()
    with pool.lend(1) as session:
        session.usable = False
    assert session.closed
    some(pool, broken=1, slots=0, idle=0)


def test_an_exception_in_the_block_passes_through_and_the_connection_comes_back(make):
    def fail(session):
        raise KeyError(session)

    pool = make()
    with pytest.raises(KeyError), pool.lend(1) as session:
        fail(session)
    some(pool, slots=1, idle=1)


def test_a_connection_is_worn_after_so_many_messages(make):
    pool = make(max_messages=10)
    with pool.lend(1) as session:
        session.messages = 10
    assert session.closed
    some(pool, worn=1, slots=0)


def test_a_connection_is_worn_after_its_lifetime_and_they_differ(make):
    pool = make(size=50, lifetime=100)
    borrowed = [pool._borrow(1) for _ in range(50)]
    lifetimes = {pool._expires[session] - session.opened_at for session in borrowed}
    assert len(lifetimes) == 50
    assert min(lifetimes) >= 100 * (1 - SPREAD)
    assert max(lifetimes) <= 100 * (1 + SPREAD)
    pool._expires[borrowed[0]] = time.monotonic()
    for session in borrowed:
        pool._give_back(session)
    assert [session.closed for session in borrowed] == [True] + [False] * 49
    some(pool, worn=1, idle=49)


def test_one_that_grew_old_while_idle_is_not_lent(make):
    pool = make()
    with pool.lend(1) as session:
        pass
    pool._expires[session] = time.monotonic()
    with pool.lend(1) as other:
        assert other is not session
    assert session.closed


def test_an_idle_one_is_closed_in_time(make, wait_until):
    pool = make(idle=0.05)
    with pool.lend(1) as session:
        pass
    wait_until(lambda: session.closed)
    wait_until(lambda: pool.stats()["slots"] == 0)
    some(pool, idled=1, idle=0)


def test_closing_refuses_wakes_who_waits_and_closes_what_comes_back(make, wait_until):
    pool, results = make(size=1), []
    with pool.lend(1) as lent:
        waiting = borrow(pool, results)
        wait_until(lambda: pool.stats()["waiting"] == 1)
        pool.close()
        waiting.join(5)
        assert not lent.closed
    assert lent.closed
    sentence = "the pool of connections to the relay 127.0.0.1:2525 is closed; make a new one"
    assert [str(result) for result in results] == [sentence]
    with pytest.raises(RelayError) as raised, pool.lend(1):
        pass
    assert str(raised.value) == sentence
    some(pool, slots=0, idle=0, waiting=0, timeouts=0)


def test_closing_closes_what_is_idle(make):
    pool = make()
    with pool.lend(1) as session:
        pass
    pool.close()
    assert session.closed
    some(pool, slots=0, idle=0)


def test_closing_leaves_no_thread(make):
    before = threading.active_count()
    pool = make()
    with pool.lend(1):
        pass
    assert threading.active_count() == before + 1
    pool.close()
    assert threading.active_count() == before


def test_the_table_in_the_docstring_is_what_stats_returns(make):
    rows = [line.strip() for line in Pool.stats.__doc__.splitlines() if line.strip().startswith("``")]
    assert [row.split("``")[1] for row in rows] == list(make().stats())


def test_many_threads_share_few_connections(make, dial):
    pool, served = make(size=3), []
    lent, most = set(), []

    def work():
        for _ in range(50):
            with pool.lend(10) as session:
                assert session not in lent
                lent.add(session)
                most.append(len(lent))
                session.usable = len(served) % 17 != 0
                lent.discard(session)
                served.append(session)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(served) == 600
    assert max(most) <= 3
    stats = pool.stats()
    assert stats["lent"] == 600
    assert stats["slots"] == stats["idle"] == stats["opened"] - stats["broken"]
