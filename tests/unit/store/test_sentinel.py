"""Who is asked for the master, in what order, and what a person reads when nobody knows."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from mailtasks.errors import StoreUnavailable
from mailtasks.local.redis import LocalRedis, free_port
from mailtasks.sentinels import parse_sentinels
from mailtasks.state import State
from mailtasks.store.connection import Client, available, connect
from mailtasks.store.ledger import Acceptance
from mailtasks.store.sentinel import sentinels_of
from mailtasks.testing.sentinels import WatchedRedis

from .bench import OWNER, Bench, results

TIMEOUT = 0.5
AFTER = "is a failover under way? else see that they run, and are given the right name and login"


@pytest.fixture(scope="module")
def watched() -> Iterator[WatchedRedis]:
    with WatchedRedis() as watched:
        yield watched


def client(url: str) -> Client:
    return connect(url, timeout=TIMEOUT, connect_timeout=TIMEOUT)


def refusal(url: str) -> str:
    redis = client(url)
    with pytest.raises(StoreUnavailable) as raised, available(redis, ["1.0"]):
        redis.get("x")
    assert raised.value.ids == ()
    return str(raised.value)


def test_the_sentinels_lead_to_the_master(watched: WatchedRedis) -> None:
    redis = client(watched.url)
    assert redis.info("replication")["role"] == "master"
    assert redis.connection_pool.master_address == ("127.0.0.1", watched.master.port)
    assert sentinels_of(redis) == parse_sentinels(watched.url)
    redis.close()


def test_sentinels_that_are_away_are_passed_over_and_asked_last_then(watched: WatchedRedis) -> None:
    away = free_port()
    redis = client(watched.url.replace("sentinel://", f"sentinel://127.0.0.1:{away};sentinel://", 1))
    assert redis.ping()
    manager = redis.connection_pool.sentinel_manager
    assert manager._last is manager.sentinels[1]
    assert len(manager.sentinels) == 4
    redis.close()


def test_no_connection_to_a_sentinel_is_kept(watched: WatchedRedis) -> None:
    redis = client(watched.url)
    redis.ping()
    pool = redis.connection_pool.sentinel_manager.sentinels[0].connection_pool
    assert [connection._sock for connection in pool._available_connections] == [None]
    redis.close()


def test_nobody_listens() -> None:
    port = free_port()
    assert refusal(f"sentinel://:secret@127.0.0.1:{port}?master_name=m&sentinel_password=secret") == (
        f"Redis at m/0 of the sentinels 127.0.0.1:{port} can't be used (no sentinel knows where it is: "
        f"127.0.0.1:{port}: Error 111 connecting to 127.0.0.1:{port}. Connection refused), so nothing was "
        f"accepted; {AFTER}"
    )


def test_another_name(watched: WatchedRedis) -> None:
    port = watched.ports[0]
    url = f"sentinel://127.0.0.1:{port}?master_name=yours"
    assert f"(no sentinel knows where it is: 127.0.0.1:{port}: no such master_name), so" in refusal(url)


def test_no_sentinel_but_a_redis(redis_server: LocalRedis) -> None:
    told = refusal(f"sentinel://127.0.0.1:{redis_server.port}?master_name=m")
    assert f"127.0.0.1:{redis_server.port}: unknown command 'SENTINEL'" in told
    assert told.endswith(AFTER)


@pytest.mark.parametrize(
    ("login", "told"),
    [
        ("", "HELLO must be called with the client already authenticated"),
        ("&sentinel_password=wrong", "invalid username-password pair"),
    ],
)
def test_a_login_that_a_sentinel_wants(own_redis: LocalRedis, login: str, told: str) -> None:
    """A Redis asks for it as a sentinel does."""
    with own_redis.client() as there:
        there.config_set("requirepass", "secret")
    sentence = refusal(f"sentinel://127.0.0.1:{own_redis.port}?master_name=m{login}")
    assert f"127.0.0.1:{own_redis.port}: {told}" in sentence
    assert sentence.endswith(AFTER)
    assert "=wrong" not in sentence


def test_a_sentinel_that_hangs_costs_one_timeout(watched: WatchedRedis) -> None:
    redis = client(watched.url)
    os.kill(watched.sentinels[0].pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert redis.ping()
        assert TIMEOUT < time.monotonic() - began < 2 * TIMEOUT + 0.3
    finally:
        os.kill(watched.sentinels[0].pid, signal.SIGCONT)
    redis.close()


@pytest.mark.parametrize("program", ["path", "embedded"])
def test_the_ledger_finds_the_new_master_and_the_old_one_lives_on_as_a_replica(
    program: str, redis_server: LocalRedis, embedded_server: LocalRedis
) -> None:
    binary = (redis_server if program == "path" else embedded_server).binary
    with WatchedRedis(binary=binary) as watched:
        redis = client(watched.url)
        bench = Bench(redis)
        id = bench.accept()
        watched.synchronise()
        old = watched.master
        watched.fail_over()
        watched.wait_for_failover()
        watched.wait_for_return(old)
        claim = bench.claim(id)
        assert bench.ledger.accept([bench.new()]) == [(Acceptance.NEW, True)]
        bench.ledger.release(claim, OWNER, results(claim, State.SENT))
        assert bench.states(id) == State.SENT.code
        assert redis.connection_pool.master_address == ("127.0.0.1", watched.master.port)
        redis.close()


def test_a_master_that_is_made_a_replica_by_hand_is_left_at_once(watched: WatchedRedis) -> None:
    """Nobody ends our connection to it then, as sentinels do; its refusal does."""
    redis = client(watched.url)
    bench = Bench(redis)
    bench.accept()
    old = watched.master
    with old.client() as there:
        there.replicaof("127.0.0.1", next(it for it in watched.servers if it is not old).port)
        with pytest.raises(StoreUnavailable, match=r"so (nothing was accepted|it is not known)"):
            bench.accept()
        there.replicaof("NO", "ONE")
    bench.accept()
    redis.close()
