"""Closing, acknowledging and requeuing without a server, and with one that refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest
from celery import Celery
from kombu import Exchange, Queue
from kombu.transport import TRANSPORT_ALIASES, memory
from kombu.transport import redis as kombu_redis

from mailtasks import transport
from mailtasks.local.redis import LocalRedis
from mailtasks.testing.sentinels import WatchedRedis

QUEUE = Queue("letters", Exchange("post"), routing_key="letters")
BROADCAST = Queue("news", Exchange("news", type="fanout"), auto_delete=True)


def installed(url: str, **options: object) -> Celery:
    app = Celery("probe", broker=url, set_as_current=False, **options)
    transport.install(app)
    return app


# --- install() --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:6380/1", "redis://:**@host:6380/1"),
        ("redis+socket:///run/redis.sock", "redis+socket:///run/redis.sock"),
        ("redis://first;redis://second", "redis://:**@first:6379//"),
    ],
)
def test_a_redis_url_gets_our_transport(url: str, shown: str) -> None:
    app = installed(url)
    for connection in (app.connection_for_read(), app.connection_for_write(), app.connection().clone()):
        assert connection.get_transport_cls() is transport.Transport
        assert connection.as_uri() == shown


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("sentinel://:secret@a;sentinel://b/1?master_name=m&sentinel_password=pw", {}),
        (
            "sentinel://:secret@a:26379/1;sentinel://:secret@b:26379/1",
            {"master_name": "m", "sentinel_kwargs": {"password": "pw"}},
        ),
    ],
)
def test_sentinels_may_be_named_in_our_notation_and_in_celerys(url: str, options: dict) -> None:
    app = installed(url)
    app.conf.broker_transport_options = options
    for connection in (app.connection_for_read(), app.connection_for_write(), app.connection().clone()):
        assert connection.get_transport_cls() is transport.SentinelTransport
        assert connection.as_uri() == "sentinel://:**@a:26379/1"
        assert connection.alt == [f"sentinel://:secret@{host}:26379/1" for host in "ab"]
        assert connection.transport_options["master_name"] == "m"
        assert connection.transport_options["sentinel_kwargs"]["password"] == "pw"


def test_a_url_with_tls_still_means_tls() -> None:
    connection = installed("rediss://host/0?ssl_cert_reqs=required").connection_for_read()
    assert connection.get_transport_cls() is transport.Transport
    assert connection.ssl["ssl_cert_reqs"].name == "CERT_REQUIRED"


def test_the_next_server_after_a_failover_gets_our_transport_too() -> None:
    connection = installed("redis://first;redis://second").connection_for_read()
    connection.maybe_switch_next()
    assert connection.hostname == "second"
    assert connection.get_transport_cls() is transport.Transport


def test_another_transport_is_left_alone() -> None:
    assert installed("memory://").connection_for_read().get_transport_cls() is memory.Transport


def test_other_apps_keep_kombus_classes() -> None:
    installed("redis://host")
    other = Celery("other", broker="redis://host", set_as_current=False)
    assert other.connection_for_read().get_transport_cls() is kombu_redis.Transport
    assert other.conf.worker_consumer == "celery.worker.consumer:Consumer"
    assert TRANSPORT_ALIASES["redis"] == "kombu.transport.redis:Transport"


def test_install_neither_loads_the_configuration_nor_minds_being_called_again() -> None:
    app = Celery("late", set_as_current=False)
    transport.install(app)
    transport.install(app)
    assert not app.configured
    app.config_from_object({"broker_url": "redis://configured-later"})
    assert app.conf.worker_consumer == transport.CONSUMER
    assert app.connection_for_read().hostname == "configured-later"


# --- The consumer -----------------------------------------------------------------------------------


def test_celerys_rate_limit_is_for_the_users_own_tasks_only() -> None:
    consumer = object.__new__(transport.Consumer)
    assert consumer.bucket_for_task(SimpleNamespace(name="mailtasks.deliver", rate_limit="10/m")) is None
    assert consumer.bucket_for_task(SimpleNamespace(name="shop.resize", rate_limit="60/m")).fill_rate == 1.0
    assert consumer.bucket_for_task(SimpleNamespace(name="shop.resize", rate_limit=None)) is None


# --- The channel ------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[LocalRedis]:
    with LocalRedis(fsync="no") as redis:
        yield redis


class Taker:
    """A consumer with one message taken and, as in an idle worker, a BRPOP under way."""

    def __init__(self, server: LocalRedis | WatchedRedis) -> None:
        options = {"socket_timeout": 2, "socket_connect_timeout": 1}
        self.app = installed(server.url)
        self.app.conf.broker_transport_options = options
        self.connection = self.app.connection_for_read()
        self.channel = self.connection.default_channel
        self.transport = self.connection.transport
        self.messages: list = []
        consumer = self.connection.Consumer([QUEUE, BROADCAST], on_message=self.messages.append)
        consumer.consume()

    def put(self, body: str) -> None:
        with self.app.connection_for_write() as connection:
            connection.Producer().publish(
                body, exchange=QUEUE.exchange, routing_key="letters", declare=[QUEUE]
            )

    def take(self) -> object:
        while not self.messages:
            self.connection.drain_events(timeout=5)
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=0.05)
        assert self.channel._in_poll, "a BRPOP is under way"
        return self.messages.pop()

    def lose(self, server: LocalRedis) -> None:
        """What the worker's consumer does about a connection that broke."""
        server.kill()
        self.channel.do_restore = False
        self.connection.collect(socket_timeout=1)


@pytest.fixture
def taker(server: LocalRedis) -> Taker:
    taker = Taker(server)
    taker.put("hello")
    return taker


def test_a_channel_is_closed_though_the_server_is_gone(taker: Taker, server: LocalRedis) -> None:
    taker.take()
    server.kill()
    taker.channel.close()
    assert taker.channel.closed
    assert taker.channel.connection is None
    assert taker.channel not in taker.transport.channels
    assert not taker.transport.cycle._channels
    taker.channel.close()


def test_what_was_taken_is_acknowledged_when_the_server_is_back(taker: Taker, server: LocalRedis) -> None:
    message = taker.take()
    taker.lose(server)
    server.start()
    message.ack()
    with server.client() as client:
        assert client.hlen("unacked") == client.zcard("unacked_index") == client.llen("letters") == 0
    assert taker.channel.qos.settled


def test_what_was_taken_isnt_put_back_by_closing(taker: Taker, server: LocalRedis) -> None:
    taker.take()
    taker.lose(server)
    server.start()
    with server.client() as client:
        assert client.hlen("unacked") == 1
        assert client.llen("letters") == 0
    assert not taker.channel.qos.settled


def test_what_was_taken_can_be_requeued_when_the_server_is_back(taker: Taker, server: LocalRedis) -> None:
    message = taker.take()
    taker.lose(server)
    server.start()
    message.requeue()
    with server.client() as client:
        assert client.hlen("unacked") == 0
        assert client.llen("letters") == 1


def test_a_rejected_hint_is_forgotten(taker: Taker, server: LocalRedis) -> None:
    message = taker.take()
    taker.channel.qos._hints.add(message.delivery_tag)  # as if it were one
    message.reject()
    assert taker.channel.qos._hints == set()
    assert taker.channel.qos.settled


def test_an_acknowledgement_that_cant_be_said_is_said_with_the_next(taker: Taker, server: LocalRedis) -> None:
    first = taker.take()
    taker.put("second")
    second = taker.take()
    server.kill()
    first.ack()
    assert not taker.channel.qos.settled
    server.start()
    second.ack()
    with server.client() as client:
        assert client.hlen("unacked") == 0
    assert taker.channel.qos.settled
    taker.connection.close()


def test_a_message_is_taken_though_redis_is_out_of_memory(
    taker: Taker, server: LocalRedis, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        message = taker.take()
        assert client.hlen("unacked") == 0
        assert "Redis keeps no copy of message" in caplog.text
        message.ack()
        client.config_set("maxmemory", 0)
    assert taker.channel.qos.settled
    taker.connection.close()


def test_the_sweep_for_abandoned_messages_waits_while_redis_refuses(taker: Taker, server: LocalRedis) -> None:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        taker.channel.qos.restore_visible(interval=1)
        client.config_set("maxmemory", 0)
    taker.connection.close()


# --- A Redis that sentinels watch -------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["ack", "requeue"])
def test_what_was_taken_is_finished_at_the_new_master(answer: str) -> None:
    """By a channel that was closed when the old one was lost, and so has forgotten its connection."""
    with WatchedRedis() as watched:
        taker = Taker(watched)
        taker.put("hello")
        message = taker.take()
        watched.synchronise()
        taker.lose(watched.master)
        watched.wait_for_failover()
        with watched.master.client() as client:
            assert client.hlen("unacked") == 1
            getattr(message, answer)()
            assert client.hlen("unacked") == 0
            assert client.llen("letters") == (answer == "requeue")
        taker.channel._disconnect_pools()
