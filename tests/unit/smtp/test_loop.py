"""The loop over real pairs of sockets: whose answer, whose error, who leads, and when time is up."""

import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from mailtasks.smtp.loop import LATE, READABLE, WRITABLE, Loop

PATIENCE = 10


@contextmanager
def pair():
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield near, far


def soon():
    return time.monotonic() + PATIENCE


def hear(near, sentences=1, deadline=None, threads=None):
    """A dialogue that reads so many bytes, one at a time."""
    heard = b""
    while len(heard) < sentences:
        yield READABLE, deadline or soon()
        if threads is not None:
            threads.add(threading.get_ident())
        heard += near.recv(1)
    return heard


def in_background(call, *arguments):
    """Start it in a thread; returns what waits for its result."""
    executor = ThreadPoolExecutor(1)
    future = executor.submit(call, *arguments)
    executor.shutdown(wait=False)
    return future


def held(loop):
    return len(loop._talks)


def test_a_dialogue_that_never_waits_is_over_at_once():
    def answer():
        return 42
        yield

    with pair() as (near, _):
        assert Loop().run(near.fileno(), answer()) == 42


def test_it_is_told_what_the_socket_is_ready_for():
    def look():
        first = yield READABLE | WRITABLE, soon()
        second = yield READABLE, soon()
        return first, second

    with pair() as (near, far):
        loop = Loop()
        threading.Timer(0.05, far.sendall, [b"x"]).start()
        assert loop.run(near.fileno(), look()) == (WRITABLE, READABLE)
        assert held(loop) == 0


def test_what_it_raises_is_raised():
    def fail():
        yield WRITABLE, soon()
        raise KeyError("mine")

    with pair() as (near, _):
        loop = Loop()
        with pytest.raises(KeyError, match="mine"):
            loop.run(near.fileno(), fail())
        assert loop.run(near.fileno(), iter_once()) is None


def iter_once():
    yield WRITABLE, soon()


def test_time_is_up():
    with pair() as (near, _):
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="no answer in time"):
            Loop().run(near.fileno(), hear(near, deadline=started + 0.05))
        assert 0.05 <= time.monotonic() - started < 0.05 + LATE


def test_what_is_there_is_read_though_time_was_up_before():
    with pair() as (near, far):
        far.sendall(b"x")
        assert Loop().run(near.fileno(), hear(near, deadline=time.monotonic() - 1)) == b"x"


def test_what_came_while_the_process_was_stopped_is_read_before_its_time_is_up(monkeypatch):
    """SIGSTOP for long, in the middle of a `select`, which then comes back with nothing."""
    with pair() as (near, far):
        loop = Loop()
        select = loop._selector.select

        def stopped(timeout=None):
            monkeypatch.undo()
            far.sendall(b"x")
            time.sleep(0.2)
            return []

        monkeypatch.setattr(loop._selector, "select", stopped)
        assert loop.run(near.fileno(), hear(near, deadline=time.monotonic() + 0.1)) == b"x"
        assert loop._selector.select == select


def test_a_timeout_may_be_answered_by_going_on():
    def insist():
        try:
            yield READABLE, time.monotonic()
        except TimeoutError:
            yield WRITABLE, soon()
            return "went on"

    with pair() as (near, _):
        assert Loop().run(near.fileno(), insist()) == "went on"


def test_one_thread_talks_for_all_and_the_next_takes_over(wait_until):
    loop, threads = Loop(), set()
    with pair() as (first, far_first), pair() as (second, far_second), pair() as (third, far_third):
        leader = in_background(loop.run, first.fileno(), hear(first, 2, threads=threads))
        wait_until(lambda: held(loop) == 1)
        others = [
            in_background(loop.run, near.fileno(), hear(near, 2, threads=threads)) for near in (second, third)
        ]
        wait_until(lambda: held(loop) == 3)
        for far in (far_first, far_second, far_third):
            far.sendall(b"a")
        wait_until(lambda: select_nothing(first, second, third))
        assert len(threads) == 1
        far_third.sendall(b"b")
        assert others[1].result(PATIENCE) == b"ab"
        assert len(threads) == 1
        far_first.sendall(b"b")
        assert leader.result(PATIENCE) == b"ab"
        far_second.sendall(b"b")
        assert others[0].result(PATIENCE) == b"ab"
        assert len(threads) == 2
        assert held(loop) == 0


def select_nothing(*sockets):
    for each in sockets:
        try:
            each.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        return False
    return True


def test_an_error_concerns_its_own_thread_only(wait_until):
    def fail(near):
        yield READABLE, soon()
        raise KeyError("theirs")

    loop = Loop()
    with pair() as (first, far_first), pair() as (second, far_second):
        leader = in_background(loop.run, first.fileno(), hear(first))
        wait_until(lambda: held(loop) == 1)
        failing = in_background(loop.run, second.fileno(), fail(second))
        wait_until(lambda: held(loop) == 2)
        far_second.sendall(b"x")
        with pytest.raises(KeyError, match="theirs"):
            failing.result(PATIENCE)
        far_first.sendall(b"y")
        assert leader.result(PATIENCE) == b"y"


def test_who_comes_later_and_has_less_time_is_hardly_late(wait_until):
    loop = Loop()
    with pair() as (first, far_first), pair() as (second, _):
        leader = in_background(loop.run, first.fileno(), hear(first))
        wait_until(lambda: held(loop) == 1)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            loop.run(second.fileno(), hear(second, deadline=started + 0.05))
        assert time.monotonic() - started < 0.05 + LATE + 1
        far_first.sendall(b"x")
        assert leader.result(PATIENCE) == b"x"


@pytest.mark.parametrize("leads", [True, False])
def test_a_thread_that_a_signal_interrupts_leaves_the_others_led(wait_until, leads):
    class Interrupted(Exception):
        pass

    def interrupt(*_):
        raise Interrupted

    loop = Loop()
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pair() as (near, _), pair() as (other, far_other):

            def also_wait():
                wait_until(lambda: held(loop) == (1 if leads else 0))
                return loop.run(other.fileno(), hear(other))

            waiting = in_background(also_wait)
            if not leads:
                wait_until(lambda: held(loop) == 1)

            def signal_when_both_wait():
                wait_until(lambda: held(loop) == 2)
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

            signalling = in_background(signal_when_both_wait)
            with pytest.raises(Interrupted):
                loop.run(near.fileno(), hear(near))
            signalling.result(PATIENCE)
            far_other.sendall(b"x")
            assert waiting.result(PATIENCE) == b"x"
            assert held(loop) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_each_thread_gets_its_own_answer_whatever_the_order():
    loop, dialogues = Loop(), 150

    def echo(far):
        while data := far.recv(100):
            far.sendall(data)

    def ask(near, question):
        near.send(question)
        heard = b""
        while len(heard) < len(question):
            yield READABLE, soon()
            heard += near.recv(random.randint(1, 4))
        return heard

    def talk(number):
        with pair() as (near, far):
            threading.Thread(target=echo, args=(far,), daemon=True).start()
            for turn in range(dialogues):
                question = f"{number}:{turn}".encode()
                assert loop.run(near.fileno(), ask(near, question)) == question
            far.shutdown(socket.SHUT_RDWR)
        return number

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(talk, range(16), timeout=60)) == list(range(16))
    assert held(loop) == 0
