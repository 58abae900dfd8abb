"""One token for all threads of a process: fetched once, used until shortly before its end."""

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest

from mailtasks.relay import Relay
from mailtasks.reply import How
from mailtasks.smtp.token_sources import STOPS, Fetched, TokenUnavailable
from mailtasks.smtp.tokens import UNKNOWN_LIFE, Tokens


class Source:
    """Numbers its tokens; may be told to wait, or to fail."""

    def __init__(self, seconds=3600.0):
        self.seconds = seconds
        self.fetched = 0
        self.begun = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.failure = None
        self.interrupted = False

    def fetch(self, seconds):
        self.fetched += 1
        self.begun.set()
        self.go.wait(10)
        if self.failure:
            raise self.failure
        return Fetched(f"token{self.fetched}", self.seconds)

    def interrupt(self):
        self.interrupted = True
        self.go.set()


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tokens(source, clock):
    return Tokens(source, 5, clock)


def got(tokens):
    token = tokens.get()
    return token.value, token.fresh


def test_nothing_is_fetched_before_it_is_asked_for_and_then_it_is_kept(tokens, source):
    assert source.fetched == 0
    assert [got(tokens), got(tokens)] == [("token1", True), ("token1", False)]


@pytest.mark.parametrize(
    ("seconds", "used"), [(3600, 3540), (120, 60), (100, 50), (10, 5), (None, UNKNOWN_LIFE)]
)
def test_a_token_is_used_until_shortly_before_its_end(tokens, source, clock, seconds, used):
    source.seconds = seconds
    tokens.get()
    clock.now += used - 0.1
    assert got(tokens) == ("token1", False)
    clock.now += 0.2
    assert got(tokens) == ("token2", True)


def test_its_life_begins_when_it_was_asked_for(tokens, source, clock):
    source.go.clear()
    with ThreadPoolExecutor(1) as thread:
        getting = thread.submit(tokens.get)
        source.begun.wait(10)
        clock.now += 3500
        source.go.set()
        getting.result(10)
    clock.now += 41
    assert got(tokens) == ("token2", True)


def test_a_refused_token_is_forgotten_and_one_that_is_newer_isnt(tokens):
    old = tokens.get()
    tokens.drop(old)
    assert got(tokens) == ("token2", True)
    tokens.drop(old)
    assert got(tokens) == ("token2", False)


def waiters(tokens, source, number, wait_until):
    """Many threads that want a token while one fetches it, and what each gets or raises."""
    source.go.clear()

    def get():
        try:
            return got(tokens)
        except TokenUnavailable as error:
            return error

    pool = ThreadPoolExecutor(number)
    getting = [pool.submit(get) for _ in range(number)]
    source.begun.wait(10)
    wait_until(lambda: len(tokens._changed._waiters) == number - 1)
    return pool, getting


def test_one_thread_fetches_and_the_others_wait(tokens, source, wait_until):
    pool, getting = waiters(tokens, source, 8, wait_until)
    source.go.set()
    assert [each.result(10) for each in getting] == [("token1", True)] * 8
    assert source.fetched == 1
    pool.shutdown()


def test_a_failure_is_everybodys_and_the_next_one_tries_again(tokens, source, wait_until):
    source.failure = TokenUnavailable(How.UNSUITABLE, "the token command printed nothing")
    pool, getting = waiters(tokens, source, 4, wait_until)
    source.go.set()
    failures = [each.result(10) for each in getting]
    assert {(each.how, str(each)) for each in failures} == {
        (How.UNSUITABLE, "the token command printed nothing")
    }
    assert len(set(map(id, failures))) == 4  # a traceback belongs to one thread
    assert source.fetched == 1
    source.failure = None
    assert got(tokens) == ("token2", True)
    pool.shutdown()


def test_waiting_for_another_thread_has_an_end(source, wait_until):
    tokens = Tokens(source, 0.2)
    pool, getting = waiters(tokens, source, 2, wait_until)
    late = next(as_completed(getting, timeout=10)).result()
    source.go.set()
    assert (late.how, str(late)) == (How.TIMED_OUT, "another thread is still fetching the token")
    pool.shutdown()


def test_nobody_waits_for_a_fetch_that_a_signal_has_broken_off(tokens, source):
    source.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        tokens.get()
    source.failure = None
    assert got(tokens) == ("token2", True)


def test_an_interruption_wakes_everybody_and_ends_it(tokens, source, wait_until):
    pool, getting = waiters(tokens, source, 4, wait_until)
    tokens.interrupt()
    assert {(each.result(10).how, str(each.result(10))) for each in getting} == {(How.UNTOUCHED, STOPS)}
    assert source.interrupted
    with pytest.raises(TokenUnavailable, match=STOPS):
        tokens.get()
    pool.shutdown()


def test_no_repr_holds_a_token(tokens):
    assert repr(tokens.get()) == "Token(fresh=True)"
    assert "token1" not in repr(tokens)


def test_a_relay_without_a_token_has_none():
    assert Tokens.of(Relay.parse("smtp://ann:pw@h")) is None
    assert Tokens.of(Relay.parse("smtp://ann@h?token=a:b")) is not None
