"""What a person reads when Redis is away, hangs, breaks off or refuses; and that trying again is safe."""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis.exceptions import ConnectionError, NoScriptError, ResponseError

from mailtasks.errors import IllegalMove, StoreError, StoreUnavailable
from mailtasks.local.redis import LocalRedis, free_port
from mailtasks.state import State
from mailtasks.store.connection import Client, Scripts, available, connect, where
from mailtasks.store.ledger import Acceptance, Ledger
from mailtasks.testing import wait_until
from mailtasks.testing.proxy import Proxy

from .bench import LIMITS, OWNER, Bench

TIMEOUT = 0.5
NOT_KNOWN = "so it is not known whether it accepted {}; try again with the ids"


def client(port: int) -> Client:
    return connect(f"redis://127.0.0.1:{port}/0", timeout=TIMEOUT, connect_timeout=TIMEOUT)


@pytest.fixture
def own(own_redis: LocalRedis) -> Iterator[Bench]:
    redis = client(own_redis.port)
    yield Bench(redis)
    redis.close()


@pytest.fixture
def proxy(own_redis: LocalRedis) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", own_redis.port) as proxy:
        yield proxy


@pytest.fixture
def behind_proxy(proxy: Proxy) -> Iterator[Bench]:
    redis = client(proxy.port)
    yield Bench(redis)
    redis.close()


@contextmanager
def frozen(server: LocalRedis) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@contextmanager
def set_to(redis: Client, name: str, value: str) -> Iterator[None]:
    before = redis.config_get(name)[name]
    redis.config_set(name, value)
    try:
        yield
    finally:
        redis.config_set(name, before)


# Away


def test_nobody_listens() -> None:
    port = free_port()
    bench_redis = client(port)
    with pytest.raises(StoreUnavailable) as raised, available(bench_redis, ["1.0"]):
        bench_redis.get("x")
    assert str(raised.value) == (
        f"Redis at 127.0.0.1:{port}/0 can't be reached (Error 111 connecting to 127.0.0.1:{port}. "
        "Connection refused), so nothing was accepted; is it running and reachable?"
    )
    assert raised.value.ids == ()


def test_nobody_listens_to_a_question() -> None:
    port = free_port()
    redis = client(port)
    with pytest.raises(StoreUnavailable) as raised, available(redis):
        redis.get("x")
    assert str(raised.value).startswith(f"Redis at 127.0.0.1:{port}/0 can't be reached (Error 111 ")
    assert str(raised.value).endswith("); is it running and reachable?")


def test_redis_was_killed(own: Bench, own_redis: LocalRedis) -> None:
    id = own.accept()
    own_redis.kill()
    with pytest.raises(StoreUnavailable, match=r"can't be reached .* so nothing was accepted"):
        own.accept()
    with pytest.raises(StoreUnavailable, match="can't be reached "):
        own.ledger.claim(id, OWNER)
    own_redis.start()
    own.claim(id)


def test_redis_was_restarted_and_nobody_notices(own: Bench, own_redis: LocalRedis) -> None:
    """The connections that were open are dead, and the scripts are forgotten."""
    id = own.accept()
    own_redis.kill()
    own_redis.start()
    claim = own.claim(id)
    own_redis.kill()
    own_redis.start()
    assert own.ledger.accept([own.new()]) == [(Acceptance.NEW, True)]
    assert own.ledger.release(claim, OWNER, ()).priority == "bulk"


# Not known


def test_redis_hangs(own: Bench, own_redis: LocalRedis) -> None:
    first, second = own.new(), own.new()
    with frozen(own_redis):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as raised:
            own.ledger.accept([first, second])
        assert time.monotonic() - began < 2 * (TIMEOUT + TIMEOUT)
    assert str(raised.value).startswith(
        f"Redis at 127.0.0.1:{own_redis.port}/0 didn't answer (Timeout reading from"
    )
    assert NOT_KNOWN.format("2 messages") in str(raised.value)
    assert raised.value.ids == (f"{first.id}.0", f"{second.id}.0")
    answers = own.ledger.accept([first, second])
    assert {acceptance for acceptance, _ in answers} <= {Acceptance.NEW, Acceptance.SAME}
    assert own.count("accepted") == 2


def test_an_answer_that_comes_too_late_is_nobody_elses(own: Bench, own_redis: LocalRedis) -> None:
    own.accept()
    with frozen(own_redis), pytest.raises(StoreUnavailable) as raised:
        own.ledger.claim("0" * 27, OWNER)
    assert str(raised.value).endswith("); is it running and reachable?")
    assert own.redis.echo("mine") == b"mine"
    assert own.claim(own.accept()).window


def test_a_connection_that_hangs_up_is_used_once_more_and_accepts_once(
    behind_proxy: Bench, proxy: Proxy
) -> None:
    behind_proxy.accept()
    proxy.cut()
    behind_proxy.accept()
    assert behind_proxy.count("accepted") == 2


def test_the_line_breaks_after_redis_took_it(own_redis: LocalRedis, own: Bench) -> None:
    with Proxy("127.0.0.1", own_redis.port, round_trip=0.2) as slow:
        redis = connect(f"redis://127.0.0.1:{slow.port}/0", timeout=5, connect_timeout=5)
        far = Bench(redis)
        far.accept()
        batch = far.new()

        def cut_before_the_answer_arrives() -> None:
            wait_until(lambda: own.count("accepted") == 2)
            own_redis.kill()
            slow.cut()

        cutter = threading.Thread(target=cut_before_the_answer_arrives)
        cutter.start()
        with pytest.raises(StoreUnavailable) as raised:
            far.ledger.accept([batch])
        cutter.join()
        redis.close()
    assert NOT_KNOWN.format("1 message") in str(raised.value)
    assert raised.value.ids == (f"{batch.id}.0",)
    own_redis.start()
    assert own.ledger.accept([batch]) == [(Acceptance.SAME, True)]
    assert own.count("accepted") == 2


def test_a_line_that_breaks_after_long_is_not_tried_again() -> None:
    """So that a call ends within the time that is stated."""
    with hanging_up_after(TIMEOUT * 1.2) as (port, calls):
        redis = connect(
            f"redis://127.0.0.1:{port}/0?protocol=2", timeout=2 * TIMEOUT, connect_timeout=TIMEOUT
        )
        scripts = Scripts(redis)
        scripts._timeout = TIMEOUT
        with pytest.raises(ConnectionError):
            scripts.run("renew", [], [])
        redis.close()
    assert len(calls) == 1


@contextmanager
def hanging_up_after(seconds: float) -> Iterator[tuple[int, list[float]]]:
    """A server that greets, and hangs up so long after it is asked something."""
    calls: list[float] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(65536):
                if b"EVALSHA" in data:
                    calls.append(time.monotonic())
                    time.sleep(seconds)
                    return
                self.request.sendall(b"+OK\r\n" * data.count(b"*"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1], calls
        server.shutdown()
        thread.join()


# Refused


def test_memory_is_full(bench: Bench) -> None:
    with set_to(bench.redis, "maxmemory", "1"), pytest.raises(StoreUnavailable) as raised:
        bench.accept()
    told = str(raised.value)
    assert told.startswith(f"Redis at {where(bench.redis)} can't be used (")
    assert told.endswith(
        "command not allowed when used memory > 'maxmemory'), so nothing was accepted; "
        "its memory is full; give it more, and keep finished mail for less long"
    )
    assert raised.value.ids == ()


def test_it_is_a_replica(bench: Bench) -> None:
    id = bench.accept()
    bench.redis.replicaof("127.0.0.1", free_port())
    try:
        with pytest.raises(StoreUnavailable) as accepting:
            bench.accept()
        with pytest.raises(StoreUnavailable) as claiming:
            bench.ledger.claim(id, OWNER)
    finally:
        bench.redis.replicaof("NO", "ONE")
    assert "You can't write against a read only replica), so nothing was accepted; " in str(accepting.value)
    assert str(claiming.value).endswith("a read only replica); it is a replica; use the URL of the primary")


def test_it_wants_its_replicas(bench: Bench) -> None:
    id = bench.accept()
    with set_to(bench.redis, "min-replicas-to-write", "1"), pytest.raises(StoreUnavailable) as raised:
        bench.ledger.claim(id, OWNER)
    assert str(raised.value).endswith(
        "NOREPLICAS Not enough good replicas to write); "
        "it accepts no writes without its replicas; are they running?"
    )


def test_it_has_too_many_clients(bench: Bench, server: LocalRedis) -> None:
    with set_to(bench.redis, "maxclients", "1"):
        other = client(server.port)
        with pytest.raises(StoreUnavailable) as raised, available(other):
            other.get("x")
    assert str(raised.value).endswith(
        "(max number of clients reached); it has too many clients; raise its `maxclients`"
    )


def test_it_is_loading(server: LocalRedis) -> None:
    """A Redis that says so, without gigabytes of data."""
    with answering(b"-LOADING Redis is loading the dataset in memory\r\n") as port:
        redis = connect(f"redis://127.0.0.1:{port}/0?protocol=2", timeout=TIMEOUT, connect_timeout=TIMEOUT)
        with pytest.raises(StoreUnavailable) as raised, available(redis, ["1.0"]):
            redis.get("x")
        redis.close()
    assert str(raised.value) == (
        f"Redis at 127.0.0.1:{port}/0 can't be used (Redis is loading the dataset in memory), "
        "so nothing was accepted; it is reading its data; try again in a moment"
    )
    assert raised.value.ids == ()


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server that says the same to everything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while connection.recv(65536):
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    ("login", "sentence"),
    [
        ("", "so nothing was accepted; put user and password into its URL"),
        (
            ":wrong@",
            "(invalid username-password pair or user is disabled), so nothing was accepted; "
            "put the right user and password into its URL",
        ),
    ],
)
def test_it_wants_a_password(bench: Bench, server: LocalRedis, login: str, sentence: str) -> None:
    with set_to(bench.redis, "requirepass", "secret"):
        other = connect(f"redis://{login}127.0.0.1:{server.port}/0", timeout=5, connect_timeout=5)
        with pytest.raises(StoreUnavailable) as raised:
            Ledger(other, bench.keys, LIMITS).accept([bench.new()])
        other.close()
    assert sentence in str(raised.value)
    assert "wrong" not in str(raised.value)


# What Redis says otherwise


def test_a_key_of_another_type(bench: Bench) -> None:
    bench.redis.set(bench.keys.counts, "mine")
    with pytest.raises(StoreError) as raised:
        bench.books.stats()
    assert str(raised.value).startswith(f"Redis at {where(bench.redis)} answered 'WRONGTYPE Operation")
    assert str(raised.value).endswith("is it of version 6.2 or later, and were its keys left alone?")
    assert not isinstance(raised.value, StoreUnavailable)


def test_our_scripts_errors_are_told_without_where_they_happened(bench: Bench) -> None:
    claim = bench.claim(bench.accept())
    with pytest.raises(IllegalMove) as raised:
        bench.ledger.retry(claim.batch, {0: State.SENDING})
    assert str(raised.value) == f"sending can't be retried (batch {claim.batch}, recipient 0)"


def test_other_errors_pass_through(redis: Client) -> None:
    with pytest.raises(ZeroDivisionError), available(redis):
        _ = 1 / 0


# Scripts


def test_many_calls_load_a_forgotten_script_once(bench: Bench) -> None:
    bench.redis.script_flush()
    assert bench.ledger.accept([bench.new() for _ in range(50)]) == [(Acceptance.NEW, True)] * 50
    assert bench.count("accepted") == 50


def test_a_script_that_was_forgotten_half_way_is_loaded_and_all_is_called_again() -> None:
    half = [[b"new", 1], NoScriptError("No matching script")]
    assert run_many(half, [[b"same", 1], [b"new", 1]]) == [[b"same", 1], [b"new", 1]]


def test_what_was_refused_in_part_is_called_again() -> None:
    half = [[b"new", 1], ConnectionError("Redis is loading the dataset in memory")]
    assert run_many(half, [[b"same", 1], [b"new", 1]]) == [[b"same", 1], [b"new", 1]]


def test_what_stays_refused_in_part_is_not_said_to_be_refused() -> None:
    half: list[object] = [[b"new", 1], ConnectionError("Redis is loading the dataset in memory")]
    with pytest.raises(ConnectionError, match=r"^only 1 of 2 calls were carried out$"):
        run_many(half, half)


def test_what_is_refused_altogether_says_why() -> None:
    refused: list[object] = [ResponseError("NOREPLICAS Not enough good replicas to write")] * 2
    with pytest.raises(ResponseError, match=r"^NOREPLICAS"):
        run_many(refused)


def test_a_script_that_a_replica_refuses_is_called_once_more() -> None:
    """By then the sentinels, or DNS, may lead to the new primary."""
    assert run_many([READ_ONLY], [[b"new", 1]]) == [[b"new", 1]]


def test_what_is_refused_by_a_replica_and_then_not_answered_is_not_known() -> None:
    with pytest.raises(ConnectionError, match=r"^only 1 of 2 calls were carried out$"):
        run_many([READ_ONLY, READ_ONLY], [[b"new", 1], ConnectionError("Redis is loading the dataset")])


def test_what_is_not_answered_and_then_refused_is_not_known() -> None:
    half: list[object] = [[b"new", 1], ConnectionError("Redis is loading the dataset in memory")]
    with pytest.raises(ConnectionError, match=r"^only 1 of 2 calls were carried out$"):
        run_many(half, [READ_ONLY, READ_ONLY])


READ_ONLY = ResponseError("You can't write against a read only replica")


def run_many(*answers: list[object]) -> list[object]:
    class Line:
        def ask_confirmed(self, _: list[tuple[object, ...]], seconds: float) -> tuple[list[object], bool]:
            return left.pop(0), True

        def ask(self, _: list[tuple[object, ...]]) -> list[object]:
            return [b"digest"]

    left = list(answers)
    scripts = Scripts(connect("redis://", timeout=1, connect_timeout=1))
    scripts._line = Line()  # type: ignore[assignment]
    return scripts.run_many("accept", [([], []), ([], [])])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://ann:secret@example.com:6380/2", "example.com:6380/2"),
        ("redis://example.com", "example.com:6379/0"),
        ("rediss://:secret@example.com/1", "example.com:6379/1"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
        (
            "sentinel://:secret@a;sentinel://b:5/2?master_name=mymaster",
            "mymaster/2 of the sentinels a:26379, b:5",
        ),
    ],
)
def test_where_names_the_server_without_its_password(url: str, shown: str) -> None:
    assert where(connect(url, timeout=1, connect_timeout=1)) == shown
