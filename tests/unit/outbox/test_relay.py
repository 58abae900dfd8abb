from __future__ import annotations

import threading
from functools import partial

import pytest

from mailtasks.errors import DatabaseError, StoreUnavailable
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.outbox import relay as module
from mailtasks.outbox.mover import Moved
from mailtasks.outbox.relay import OutboxRelay, pause_after
from mailtasks.testing import wait_until as wait_until_within
from tests.outboxes import table_at

wait_until = partial(wait_until_within, timeout=30)


def mail(number=1, **fields):
    return Message(to=f"r{number}@example.com", text="hi", **fields)


@pytest.fixture
def running():
    """Run relays in threads, and see that they end."""
    started = []

    def run(relay):
        thread = threading.Thread(target=relay.run, daemon=True)
        thread.start()
        started.append((relay, thread))

    yield run
    for relay, thread in started:
        relay.stop()
        thread.join(10)
        assert not thread.is_alive()


def test_drain_moves_what_is_there(store, mailer, write, rows):
    for number in range(5):
        write(mail(number))
    assert OutboxRelay(store, mailer).drain() == Moved(accepted=5)
    assert rows() == []
    assert mailer.stats().accepted == 5


def test_drain_needs_more_than_one_round(store, mailer, write, table, monkeypatch):
    monkeypatch.setattr(table.rows_module, "ROWS_A_ROUND", 2)
    for number in range(5):
        write(mail(number))
    assert OutboxRelay(store, mailer).drain() == Moved(accepted=5)


def test_drain_says_that_redis_is_away(store, write):
    write(mail())
    with Mailer(broker_url=f"redis://127.0.0.1:{free_port()}/0") as away, pytest.raises(StoreUnavailable):
        OutboxRelay(store, away).drain()


def test_drain_says_that_the_database_is_away(road, mailer):
    url = f"postgresql+psycopg://127.0.0.1:{free_port()}/x"
    with table_at(road, url) as nowhere, pytest.raises(DatabaseError):
        OutboxRelay(nowhere.store(), mailer).drain()


def test_drain_says_that_there_is_no_table(empty_database, mailer):
    with pytest.raises(DatabaseError, match="there is no table mailtasks_outbox in "):
        OutboxRelay(empty_database.store(), mailer).drain()


def test_run_waits_for_the_migration(empty_database, mailer, running, monkeypatch, caplog):
    monkeypatch.setattr(module, "pause_after", lambda failures: 0.05)
    running(OutboxRelay(empty_database.store(), mailer, interval=0.05))
    sentence = "the outbox mailtasks_outbox has to wait: there is no table mailtasks_outbox in "
    wait_until(lambda: sentence in caplog.text)
    empty_database.create()
    empty_database.write(mail())
    wait_until(lambda: mailer.stats().accepted == 1)


def test_run_moves_what_comes_until_it_is_stopped(store, mailer, write, running):
    running(OutboxRelay(store, mailer, interval=0.05))
    for number in range(1, 4):
        write(mail(number))
        wait_until(lambda number=number: mailer.stats().accepted == number)


def test_stop_ends_a_wait(store, mailer, running):
    running(OutboxRelay(store, mailer, interval=3600))


def test_stop_before_run_is_heard(store, mailer):
    relay = OutboxRelay(store, mailer)
    relay.stop()
    relay.run()


def test_run_outlives_a_redis_that_is_away(store, own_redis, write, running, monkeypatch, caplog):
    monkeypatch.setattr(module, "pause_after", lambda failures: 0.05)
    own_redis.start()
    write(mail(1))
    with Mailer(broker_url=own_redis.url, default_from="shop@example.com") as mailer:
        own_redis.kill()
        running(OutboxRelay(store, mailer, interval=0.05))
        wait_until(lambda: "the outbox mailtasks_outbox has to wait: Redis at " in caplog.text)
        write(mail(2))
        own_redis.start()
        wait_until(lambda: mailer.stats().accepted == 2)
        wait_until(lambda: "the outbox mailtasks_outbox is being emptied again" in caplog.text)


def test_run_outlives_a_database_that_is_away(road, own_postgres, mailer, running, monkeypatch, caplog):
    monkeypatch.setattr(module, "pause_after", lambda failures: 0.05)
    with table_at(road, own_postgres.url) as table:
        table.create()
        own_postgres.stop()
        running(OutboxRelay(table.store(), mailer, interval=0.05))
        wait_until(lambda: "has to wait: the database " in caplog.text)
        for number in (1, 2):
            own_postgres.start()
            table.let_go()
            table.write(mail(number))
            wait_until(lambda number=number: mailer.stats().accepted == number)
            own_postgres.stop()


def test_pauses_grow():
    assert [pause_after(failures) for failures in (0, 1, 2, 3, 4, 5, 100)] == [1, 2, 4, 8, 16, 30, 30]
