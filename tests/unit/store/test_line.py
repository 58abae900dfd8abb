"""One connection, many threads: everybody gets their own answers, whatever happens to the connection."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, get_ident
from typing import Any

import pytest
from hiredis import pack_command
from redis import Connection
from redis.exceptions import BusyLoadingError, ConnectionError, RedisError, ResponseError, TimeoutError

from mailtasks.local.redis import LocalRedis, free_port
from mailtasks.store import line as line_module
from mailtasks.store.connection import connect
from mailtasks.store.line import Line
from mailtasks.testing import wait_until
from mailtasks.testing.proxy import Proxy

TIMEOUT = 0.5
ROUND_TRIP = 0.2


@pytest.fixture
def line(server: LocalRedis) -> Iterator[Line]:
    with made(server.port) as made_line:
        yield made_line


@pytest.fixture
def slow(server: LocalRedis) -> Iterator[tuple[Line, Proxy]]:
    """Redis is some way off."""
    with Proxy("127.0.0.1", server.port, round_trip=ROUND_TRIP) as proxy, made(proxy.port, timeout=5) as far:
        far.ask([("PING",)])
        yield far, proxy


@contextmanager
def made(port: int, timeout: float = TIMEOUT) -> Iterator[Line]:
    redis = connect(f"redis://127.0.0.1:{port}/0", timeout=timeout, connect_timeout=timeout)
    yield Line(redis)
    redis.close()


def in_threads(calls: int, ask: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(calls) as threads:
        return list(threads.map(ask, range(calls)))


@contextmanager
def busy(line: Line) -> Iterator[None]:
    """Another thread talks."""
    talks, ends = Event(), Event()

    def talk() -> None:
        with line._talking:
            line._talker = get_ident()
            talks.set()
            ends.wait()
            line._talker = None
        line._wake_one()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(talk)
        talks.wait()
        try:
            yield
        finally:
            ends.set()


def outcome(line: Line, *command: str) -> Any:
    try:
        return line.ask([command])
    except (RedisError, KeyboardInterrupt) as error:
        return error


def test_answers_come_in_order(line: Line) -> None:
    assert line.ask([("ECHO", "one"), ("ECHO", b"two"), ("ECHO", 3)]) == [b"one", b"two", b"3"]
    assert line.ask([]) == []


def test_a_refused_command_is_answered_in_its_place(line: Line) -> None:
    first, refused, last = line.ask([("ECHO", "one"), ("NOSUCH",), ("ECHO", "two")])
    assert (first, last) == (b"one", b"two")
    assert isinstance(refused, ResponseError)


def test_who_comes_while_redis_is_loading_says_nothing_of_others(line: Line) -> None:
    loading = "return redis.error_reply('LOADING Redis is loading the dataset in memory')"
    refused, other = line.ask([("EVAL", loading, 0), ("ECHO", "done")])
    assert isinstance(refused, BusyLoadingError)
    assert other == b"done"


def test_everybody_gets_their_own(line: Line) -> None:
    def ask(thread: int) -> bool:
        mine = [f"{thread}:{number}" for number in range(3)]
        wanted = [text.encode() for text in mine]
        return all(line.ask([("ECHO", text) for text in mine]) == wanted for _ in range(100))

    assert all(in_threads(8, ask))


def test_what_is_asked_meanwhile_goes_out_together(slow: tuple[Line, Proxy]) -> None:
    line, _ = slow
    began = time.monotonic()
    answers = in_threads(20, lambda thread: line.ask([("ECHO", str(thread))]))
    assert answers == [[str(thread).encode()] for thread in range(20)]
    assert time.monotonic() - began < 5 * ROUND_TRIP


def test_nobody_waits_for_more_than_one_group_beside_their_own(slow: tuple[Line, Proxy]) -> None:
    line, _ = slow

    def longest(_: int) -> float:
        took = []
        for _ in range(6):
            began = time.monotonic()
            line.ask([("PING",)])
            took.append(time.monotonic() - began)
        return max(took)

    assert max(in_threads(4, longest)) < 3 * ROUND_TRIP


def test_a_cut_is_told_to_who_waited_and_the_next_call_connects_again(
    server: LocalRedis, slow: tuple[Line, Proxy]
) -> None:
    line, proxy = slow
    with ThreadPoolExecutor(1) as thread, server.client() as client:
        waiting = thread.submit(outcome, line, "BLPOP", "nothing", "60")
        wait_until(lambda: client.info("clients")["blocked_clients"])
        proxy.cut()
        assert isinstance(waiting.result(), ConnectionError)
    assert line.ask([("ECHO", "again")]) == [b"again"]


def test_nobody_listens() -> None:
    with made(free_port()) as line:
        for told in in_threads(4, lambda _: outcome(line, "PING")):
            assert isinstance(told, ConnectionError)
            assert "refused" in str(told)


def test_one_that_hangs_costs_nobody_more_than_one_timeout(own_redis: LocalRedis) -> None:
    with made(own_redis.port) as line:
        line.ask([("PING",)])
        os.kill(own_redis.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            told = in_threads(8, lambda _: outcome(line, "PING"))
            took = time.monotonic() - began
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)
        assert all(isinstance(each, TimeoutError) for each in told)
        assert took < 2 * TIMEOUT
        assert line.ask([("ECHO", "again")]) == [b"again"]


def test_each_has_an_error_of_their_own() -> None:
    """A traceback is written into an exception as it passes through a thread."""
    with made(free_port()) as line:
        told = in_threads(8, lambda _: outcome(line, "PING"))
    assert len({id(error) for error in told}) == 8


def test_who_talks_is_interrupted_and_the_others_are_told(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(2) as threads:
        with busy(line):
            both = [threads.submit(outcome, line, "PING") for _ in range(2)]
            wait_until(lambda: len(line._asked) == 2)
            monkeypatch.setattr(Connection, "read_response", interrupted)
        told = sorted((each.result() for each in both), key=str)
    monkeypatch.undo()
    assert isinstance(told[0], KeyboardInterrupt)
    assert isinstance(told[1], ConnectionError)
    assert str(told[1]) == "the thread that talked to Redis was interrupted"
    assert line.ask([("ECHO", "again")]) == [b"again"]


def test_who_talks_is_interrupted_before_anybody_is_told_of(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = line._take

    def take_and_be_interrupted(calls: list[Any]) -> None:
        take([])
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(line_module, "_PATIENCE", 0.1)
    with ThreadPoolExecutor(2) as threads:
        with busy(line):
            both = [threads.submit(outcome, line, "PING") for _ in range(2)]
            wait_until(lambda: len(line._asked) == 2)
            monkeypatch.setattr(line, "_take", take_and_be_interrupted)
        told = sorted((each.result() for each in both), key=str)
    assert isinstance(told[0], KeyboardInterrupt)
    assert isinstance(told[1], ConnectionError)
    assert line.ask([("ECHO", "again")]) == [b"again"]


def interrupted(*_: object, **__: object) -> object:
    raise KeyboardInterrupt


def test_who_waits_is_interrupted_and_nothing_is_asked_for_them(line: Line) -> None:
    def interrupt() -> None:
        wait_until(lambda: len(line._asked) == 1)
        os.kill(os.getpid(), signal.SIGINT)

    with busy(line), ThreadPoolExecutor(1) as thread:
        thread.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            line.ask([("SET", "unwanted", "1")])
        assert not line._asked


def test_a_handler_of_a_signal_asks_while_its_thread_talks(slow: tuple[Line, Proxy]) -> None:
    line, _ = slow
    heard: list[Any] = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(line.ask([("ECHO", "handler")])))
    try:
        signal.setitimer(signal.ITIMER_REAL, ROUND_TRIP / 2)
        assert line.ask([("ECHO", "main")]) == [b"main"]
    finally:
        signal.signal(signal.SIGALRM, before)
    assert heard == [[b"handler"]]


def test_the_client_is_closed_by_another_thread(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def close_under_it(*_: object, **__: object) -> object:
        raise TypeError("argument must be an int, or have a fileno() method")  # as redis-py does then

    monkeypatch.setattr(Connection, "read_response", close_under_it)
    with pytest.raises(ConnectionError, match="the connection was lost: argument must be an int"):
        line.ask([("PING",)])


# Who wants a replica to confirm


class Followed:
    """A Redis with a replica that can be held up."""

    def __init__(self, server: LocalRedis, replica: LocalRedis) -> None:
        self.replica = replica
        with server.client() as leading, replica.client() as following:
            leading.config_set("repl-diskless-sync-delay", 0)
            following.replicaof("127.0.0.1", server.port)
            wait_until(lambda: following.info("replication")["master_link_status"] == "up")
            leading.ping()
            assert leading.wait(1, 10_000) == 1, "a replica counts from its first acknowledgement on"

    @contextmanager
    def held_up(self) -> Iterator[None]:
        os.kill(self.replica.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.replica.pid, signal.SIGCONT)


@pytest.fixture
def followed(server: LocalRedis) -> Iterator[Followed]:
    with LocalRedis(binary=server.binary) as replica:
        yield Followed(server, replica)
        replica.kill()  # in good order it would end its first synchronisation before


def test_a_replica_confirms(line: Line, followed: Followed, server: LocalRedis) -> None:
    with made(server.port, timeout=10) as patient:
        assert patient.ask_confirmed([("SET", "mine", "1"), ("GET", "mine")], 5) == ([b"OK", b"1"], True)
    with followed.held_up():
        assert line.ask_confirmed([("SET", "mine", "2")], TIMEOUT / 2) == ([b"OK"], False)
        assert line.ask_confirmed([("SET", "mine", "3")], 0) == ([b"OK"], True)


def test_what_is_only_read_again_isnt_confirmed_before_it_was_written_there(
    line: Line, followed: Followed, server: LocalRedis
) -> None:
    """WAIT is about all that was written before the connection's last command, by whatever connection."""
    with followed.held_up(), made(server.port) as another:
        line.ask([("SET", "mine", "2")])
        assert another.ask_confirmed([("GET", "mine")], TIMEOUT / 2) == ([b"2"], False)
    with made(server.port, timeout=10) as patient:
        assert patient.ask_confirmed([("GET", "mine")], 5) == ([b"2"], True)


def test_many_wait_for_a_replica_together(line: Line, followed: Followed) -> None:
    with followed.held_up():
        began = time.monotonic()
        told = in_threads(8, lambda thread: line.ask_confirmed([("SET", "mine", str(thread))], TIMEOUT / 2))
        assert time.monotonic() - began < 4 * TIMEOUT / 2
    assert told == [([b"OK"], False)] * 8


def test_who_doesnt_ask_for_confirmation_is_told_of_none(slow: tuple[Line, Proxy]) -> None:
    line, _ = slow
    told = in_threads(
        8, lambda thread: line.ask_confirmed([("SET", "mine", "1")], (thread % 2) * TIMEOUT / 5)
    )
    assert told == [([b"OK"], thread % 2 == 0) for thread in range(8)]


def test_a_redis_that_doesnt_know_wait_confirms_nothing(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailtasks.store.line._wait_for_replica", lambda _: pack_command(("NOSUCH",)))
    assert line.ask_confirmed([("ECHO", "one")], TIMEOUT / 2) == ([b"one"], False)
    assert line.ask([("ECHO", "two")]) == [b"two"]


def test_a_connection_to_who_has_become_a_replica_isnt_used_again(line: Line, server: LocalRedis) -> None:
    [before] = line.ask([("CLIENT", "ID")])
    line.ask([("REPLICAOF", "127.0.0.1", free_port())])
    [refused] = line.ask([("SET", "mine", "1")])
    line.ask([("REPLICAOF", "NO", "ONE")])
    assert "read only replica" in str(refused)
    assert line.ask([("CLIENT", "ID")]) != [before]


def test_a_fork_begins_anew(server: LocalRedis) -> None:
    """A web server that makes its mailer, then forks while another thread talks."""
    run = subprocess.run(
        [sys.executable, "-c", FORK, server.url], capture_output=True, text=True, timeout=30, check=True
    )
    assert run.stdout.split() == ["child", "parent"]


FORK = """
import os, sys, threading
from mailtasks.store import line as line_module
from mailtasks.store.connection import connect
from mailtasks.store.line import Line

line = Line(connect(sys.argv[1], timeout=5, connect_timeout=5))
line.ask([("PING",)])
def talk():
    line._talking.acquire()
    line._talker = threading.get_ident()
talks = threading.Thread(target=talk)  # and never ends to
talks.start()
talks.join()
child = os.fork()
if child == 0:
    print(line.ask([("ECHO", "child")])[0].decode(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent")
"""
