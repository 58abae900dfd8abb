from __future__ import annotations

import threading
from functools import partial

import pytest
from sqlalchemy import create_engine

from mailtasks.errors import DatabaseError, StoreUnavailable
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.sql import Moved, Outbox
from mailtasks.sql import relay as module
from mailtasks.sql.relay import pause_after
from mailtasks.testing import wait_until as wait_until_within

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


def test_drain_moves_what_is_there(outbox, engine, mailer, write, rows):
    for number in range(5):
        write(mail(number))
    assert outbox.relay(engine, mailer).drain() == Moved(accepted=5)
    assert rows() == []
    assert mailer.stats().accepted == 5


def test_drain_needs_more_than_one_round(outbox, engine, mailer, write, monkeypatch):
    monkeypatch.setattr("mailtasks.sql.rows.ROWS_A_ROUND", 2)
    for number in range(5):
        write(mail(number))
    assert outbox.relay(engine, mailer).drain() == Moved(accepted=5)


def test_drain_says_what_is_away(outbox, engine, mailer, write):
    write(mail())
    with Mailer(broker_url=f"redis://127.0.0.1:{free_port()}/0") as away, pytest.raises(StoreUnavailable):
        outbox.relay(engine, away).drain()
    with pytest.raises(DatabaseError):
        outbox.relay(create_engine(f"postgresql+psycopg://127.0.0.1:{free_port()}/x"), mailer).drain()


def test_drain_says_that_there_is_no_table(engine, mailer):
    with pytest.raises(DatabaseError, match="there is no table elsewhere in "):
        Outbox(name="elsewhere").relay(engine, mailer).drain()


def test_run_waits_for_the_migration(engine, mailer, running, monkeypatch, caplog):
    monkeypatch.setattr(module, "pause_after", lambda failures: 0.05)
    outbox = Outbox(name="later", settings=mailer.settings)
    running(outbox.relay(engine, mailer, interval=0.05))
    wait_until(lambda: "the outbox later has to wait: there is no table later in " in caplog.text)
    outbox.table.create(engine)
    with engine.begin() as connection:
        outbox.send(connection, mail())
    wait_until(lambda: mailer.stats().accepted == 1)


def test_run_moves_what_comes_until_it_is_stopped(outbox, engine, mailer, write, running):
    running(outbox.relay(engine, mailer, interval=0.05))
    for number in range(1, 4):
        write(mail(number))
        wait_until(lambda number=number: mailer.stats().accepted == number)


def test_stop_ends_a_wait(outbox, engine, mailer, running):
    running(outbox.relay(engine, mailer, interval=3600))


def test_stop_before_run_is_heard(outbox, engine, mailer):
    relay = outbox.relay(engine, mailer)
    relay.stop()
    relay.run()


def test_run_outlives_a_redis_that_is_away(outbox, engine, own_redis, write, running, monkeypatch, caplog):
    monkeypatch.setattr(module, "pause_after", lambda failures: 0.05)
    own_redis.start()
    write(mail(1))
    with Mailer(broker_url=own_redis.url, default_from="shop@example.com") as mailer:
        own_redis.kill()
        running(outbox.relay(engine, mailer, interval=0.05))
        wait_until(lambda: "the outbox mailtasks_outbox has to wait: Redis at " in caplog.text)
        write(mail(2))
        own_redis.start()
        wait_until(lambda: mailer.stats().accepted == 2)
        wait_until(lambda: "the outbox mailtasks_outbox is being emptied again" in caplog.text)


def test_run_outlives_a_database_that_is_away(own_postgres, mailer, running, monkeypatch, caplog):
    monkeypatch.setattr(module, "pause_after", lambda failures: 0.05)
    outbox = Outbox(settings=mailer.settings)
    engine = create_engine(own_postgres.url)
    outbox.table.create(engine)
    own_postgres.stop()
    running(outbox.relay(engine, mailer, interval=0.05))
    wait_until(lambda: "has to wait: the database postgresql+psycopg://" in caplog.text)
    for number in (1, 2):
        own_postgres.start()
        engine.dispose()
        with engine.begin() as connection:
            outbox.send(connection, mail(number))
        wait_until(lambda number=number: mailer.stats().accepted == number)
        own_postgres.stop()
    engine.dispose()


def test_pauses_grow():
    assert [pause_after(failures) for failures in (0, 1, 2, 3, 4, 5, 100)] == [1, 2, 4, 8, 16, 30, 30]
