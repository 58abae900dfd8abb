"""The pool with fake sessions: what it lends, keeps, closes and counts."""

import threading
import time
from pathlib import Path

import pytest

import mailtasks
from mailtasks.errors import PoolTimeout, RelayError
from mailtasks.relay import Relay
from mailtasks.smtp import pool as pool_module
from mailtasks.smtp import warmer as warmer_module
from mailtasks.smtp.pool import SPREAD, Pool
from mailtasks.smtp.session import Timeouts

RELAY = Relay.parse("smtp://127.0.0.1:2525")


class Fake:
    """As much of a session as a pool touches."""

    def __init__(self):
        self.opened_at = time.monotonic()
        self.messages = 0
        self.rested = False
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
        self.tried = 0
        self.allowed = threading.Event()
        self.allowed.set()

    def __call__(self):
        self.tried += 1
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


def test_the_page_has_the_same_table():
    page = Path(mailtasks.__file__).parents[1] / "docs/reference/pool.md"
    told = [row.split(" | ") for row in page.read_text().splitlines() if row.startswith("| `")]
    rows = [line.strip().split("``") for line in Pool.stats.__doc__.splitlines() if "``" in line]
    assert [(name.strip("| `"), what.strip(" |")) for name, what in told] == [
        (name, what.strip()) for _, name, what in rows
    ]


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


# --- Kept warm --------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """What is looked at every second is looked at all the time."""
    for module in (pool_module, warmer_module):
        monkeypatch.setattr(module, "LOOK", 0.01)
    monkeypatch.setattr(warmer_module, "FIRST_PAUSE", 0.01)


@pytest.fixture
def warm(make, wait_until):
    """A pool that keeps some warm, once they are there."""

    def warm(number, **options):
        pool = make(warm=number, **options)
        pool.keep_warm()
        wait_until(lambda: pool.stats()["idle"] == number)
        return pool

    return warm


def rests(pool, number):
    """Whether so many are idle, and nothing else is open. (While it is looked at, none counts as idle.)"""
    stats = pool.stats()
    return stats["idle"] == stats["slots"] == number


def test_none_is_opened_ahead_before_that_is_asked_for(make, dial):
    pool = make(warm=2)
    with pool.lend(1):
        pass
    some(pool, opened=1, warmed=0)


def test_nothing_is_kept_warm_unless_a_number_says_so(make):
    before = threading.active_count()
    make().keep_warm()
    assert threading.active_count() == before


def test_as_many_are_opened_ahead_and_one_of_them_is_lent(warm, dial):
    pool = warm(2, size=4)
    with pool.lend(1) as session:
        assert session in dial.made
        assert session.rested
    some(pool, opened=2, warmed=2, lent=1)


def test_what_is_lent_counts_as_warm_and_no_more_are_opened(warm, dial):
    pool = warm(1, size=4)
    with pool.lend(1):
        assert not pool._open_ahead()
        with pool.lend(1):
            pass
    assert not pool._open_ahead()
    some(pool, opened=2, warmed=1)


def test_never_more_are_kept_warm_than_there_may_be(make, dial, wait_until):
    pool = make(warm=5, size=2)
    pool.keep_warm()
    pool.keep_warm()
    wait_until(lambda: rests(pool, 2))
    assert not pool._open_ahead()
    assert len(dial.made) == 2


def test_one_that_dies_while_idle_is_noticed_and_replaced(quick, warm, dial, wait_until):
    pool = warm(1)
    [first] = dial.made
    first.alive = False
    wait_until(lambda: len(dial.made) == 2 and rests(pool, 1))
    assert first.closed
    with pool.lend(1) as session:
        assert session is dial.made[1]
    some(pool, found_dead=1, warmed=2)


def test_one_that_was_idle_for_long_enough_is_replaced(quick, warm, dial, wait_until):
    pool = warm(1, idle=0.2)
    wait_until(lambda: len(dial.made) >= 3)
    assert dial.made[0].closed
    assert dial.made[1].closed
    assert sum(not each.closed for each in dial.made) <= 1
    lived = dial.made[1].opened_at - dial.made[0].opened_at
    assert lived > 0.2 * (1 - SPREAD)
    assert pool.stats()["idled"] >= 2


def test_it_is_replaced_at_once(quick, monkeypatch, warm, dial, wait_until):
    monkeypatch.setattr(warmer_module, "LOOK", 60)
    warm(1, idle=0.1)
    wait_until(lambda: len(dial.made) >= 3)


def test_one_that_died_delays_the_next_and_one_that_is_fit_ends_that(quick, warm, dial, wait_until):
    pool = warm(1)
    dial.made[0].alive = False
    wait_until(lambda: len(dial.made) == 2 and rests(pool, 1))
    assert pool._warmer._after_death.seconds == warmer_module.FIRST_PAUSE
    with pool.lend(1):
        pass
    assert pool._warmer._after_death.seconds == 0


def test_one_that_is_idle_as_long_as_it_may_ends_that_as_well(quick, warm, dial, wait_until):
    pool = warm(1, idle=0.2)
    pool._warmer.died()
    wait_until(lambda: pool.stats()["idled"])
    wait_until(lambda: pool._warmer._after_death.seconds == 0)


def test_a_borrowers_connection_says_that_the_relay_works_again(make, dial, wait_until):
    pool = make(size=2, warm=1)
    dial.error = RelayError("no")
    pool.keep_warm()
    wait_until(lambda: pool._warmer._after_failure.seconds)
    dial.error = None
    with pool.lend(1):
        assert pool._warmer._after_failure.seconds == 0


def test_one_that_grows_too_old_is_replaced(quick, warm, dial, wait_until):
    pool = warm(1)
    pool._expires[dial.made[0]] = time.monotonic()
    wait_until(lambda: len(dial.made) == 2 and rests(pool, 1))
    assert dial.made[0].closed
    some(pool, worn=1, warmed=2)


def test_one_that_comes_back_broken_is_replaced(quick, warm, dial, wait_until):
    pool = warm(1)
    with pool.lend(1) as session:
        session.usable = False
    wait_until(lambda: len(dial.made) == 2 and rests(pool, 1))
    some(pool, broken=1, warmed=2)


def test_times_of_idleness_differ_and_none_is_longer_than_allowed(make):
    pool = make(size=50, idle=100)
    before = time.monotonic()
    for session in [pool._borrow(1) for _ in range(50)]:
        pool._give_back(session)
    ends = [each.until for each in pool._idle]
    assert max(ends) - min(ends) > 100 * SPREAD / 2
    assert min(ends) >= before + 100 * (1 - SPREAD)
    assert max(ends) <= time.monotonic() + 100


def test_looking_after_idle_ones_keeps_their_order(make):
    pool = make(size=3)
    for session in [pool._borrow(1) for _ in range(3)]:
        pool._give_back(session)
    before = [each.session for each in pool._idle]
    before[1].alive = False
    assert pool._take_faulty() == [(before[1], "found_dead")]
    assert [each.session for each in pool._idle] == [before[0], before[2]]
    pool._discard(before[1])


def test_who_comes_while_idle_ones_are_looked_at_gets_one_back(make, wait_until):
    pool, results = make(size=1), []
    with pool.lend(1) as session:
        pass
    with pool._lock:
        looked_at = list(pool._idle)
        pool._idle.clear()
    thread = borrow(pool, results)
    wait_until(lambda: pool.stats()["waiting"] == 1)
    pool._put_back(looked_at)
    thread.join(5)
    assert results == [session]


def test_what_is_looked_at_while_the_pool_closes_is_closed(make):
    pool = make()
    with pool.lend(1) as session:
        pass
    with pool._lock:
        looked_at = list(pool._idle)
        pool._idle.clear()
    pool.close()
    pool._put_back(looked_at)
    assert session.closed
    some(pool, slots=0, idle=0)


def test_none_is_opened_while_the_relay_is_left_alone(quick, make, dial, wait_until):
    asked, left_alone = [], True

    def may_dial():
        asked.append(left_alone)
        return not left_alone

    pool = make(warm=1)
    pool.keep_warm(may_dial)
    wait_until(lambda: len(asked) > 3)
    assert dial.tried == 0
    left_alone = False
    wait_until(lambda: rests(pool, 1))


def test_a_borrower_gets_the_connection_that_is_being_dialled_ahead(make, dial, wait_until):
    pool, results = make(size=1, warm=1), []
    dial.allowed.clear()
    pool.keep_warm()
    wait_until(lambda: dial.tried)
    thread = borrow(pool, results)
    wait_until(lambda: pool.stats()["waiting"] == 1)
    dial.allowed.set()
    thread.join(5)
    assert results == dial.made
    some(pool, opened=1, warmed=1, lent=1)


def test_a_borrower_who_waits_for_it_hears_of_its_failure_and_the_next_may_dial(make, dial, wait_until):
    pool, results = make(size=1, warm=1), []
    dial.allowed.clear()
    dial.error = RelayError("no")
    pool.keep_warm()
    wait_until(lambda: dial.tried)
    threads = []
    for number in (1, 2):
        threads.append(borrow(pool, results))
        wait_until(lambda number=number: pool.stats()["waiting"] == number)
    dial.allowed.set()
    for thread in threads:
        thread.join(5)
    assert [str(result) for result in results] == ["no", "no"]
    assert dial.tried == 2
    some(pool, failed=2, slots=0, lent=0)


def test_a_borrower_who_has_room_dials_without_waiting_for_it(make, dial, wait_until):
    pool, results = make(size=2, warm=1), []
    dial.allowed.clear()
    pool.keep_warm()
    wait_until(lambda: dial.tried == 1)
    thread = borrow(pool, results)
    wait_until(lambda: dial.tried == 2)
    dial.allowed.set()
    thread.join(5)
    assert len(results) == 1


def test_after_an_interruption_none_is_opened_ahead(quick, warm, dial, wait_until):
    pool = warm(1)
    pool.interrupt()
    pool._warmer.join(5)
    dial.made[0].alive = False
    wait_until(lambda: pool.stats()["slots"] == 0)
    assert not pool._warmer._thread.is_alive()
    assert len(dial.made) == 1


def test_closing_ends_it_and_leaves_no_thread(quick, warm, dial):
    before = threading.active_count()
    pool = warm(2)
    pool.keep_warm()
    assert threading.active_count() == before + 2
    pool.close()
    assert threading.active_count() == before
    assert all(each.closed for each in dial.made)
    pool.keep_warm()
    assert not pool._open_ahead()
    some(pool, slots=0, idle=0)


def test_closing_waits_for_what_is_dialled_ahead(make, dial, wait_until):
    before = threading.active_count()
    pool = make(warm=1)
    dial.allowed.clear()
    pool.keep_warm()
    wait_until(lambda: dial.tried)
    release = threading.Timer(0.1, dial.allowed.set)
    release.start()
    pool.close(5)
    release.join()
    assert threading.active_count() == before
    some(pool, slots=0)


def test_what_is_dialled_ahead_while_the_pool_closes_is_closed(make, dial, wait_until):
    pool = make(warm=1)
    dial.allowed.clear()
    pool.keep_warm()
    wait_until(lambda: dial.tried)
    pool.close(0)
    dial.allowed.set()
    wait_until(lambda: dial.made and dial.made[0].closed)
    wait_until(lambda: pool.stats()["slots"] == 0)
