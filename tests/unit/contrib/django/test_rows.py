"""What Django's row store has beside the contract (`tests/unit/outbox/test_store.py`)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections
from django.db.transaction import atomic

from mailtasks.contrib.django.rows import Store, known, stored
from mailtasks.errors import DatabaseError, SettingsError
from mailtasks.message import Message
from mailtasks.outbox.row import Change, Keep
from mailtasks.outbox.store import LONGEST_LOCK
from mailtasks.settings import Settings
from tests import djangos

NOW = datetime(2030, 7, 1, 12, tzinfo=UTC)
SETTINGS = Settings(default_from="shop@example.com")


@pytest.fixture
def store(database_url):
    with djangos.databases(shop=djangos.database(database_url)):
        with connections["shop"].schema_editor() as editor:
            editor.create_model(djangos.rows.OutboxRow)
        yield Store("shop")


def write(keep=Keep.FOREVER):
    mail = Message(to="ann@example.com", text="hi")
    return djangos.outbox.write([mail], SETTINGS, "shop", keep)


def test_the_index_is_used(store):
    write()
    connection = connections["shop"]
    ran = []

    def note(execute, sql, params, many, context):
        ran.append((sql, params))
        return execute(sql, params, many, context)

    with store.transaction() as rows, connection.cursor() as cursor:
        with connection.execute_wrapper(note):
            rows.waiting()
            rows.refused()
            rows.due(NOW)
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
        sizes = [it for it in ran if "look_at" in it[0].partition("WHERE")[2]]
        assert len(sizes) == 3
        for sql, params in sizes:
            assert ("FOR UPDATE SKIP LOCKED" in sql) is store.can_lock
            cursor.execute(f"EXPLAIN {'QUERY PLAN ' if connection.vendor == 'sqlite' else ''}{sql}", params)
            plan = str(cursor.fetchall())
            assert "ix_mailtasks_outbox_due" in plan
            assert "TEMP B-TREE" not in plan
            assert "Sort" not in plan


def test_a_transaction_of_its_own_or_none(store):
    with atomic(using="shop"), pytest.raises(RuntimeError, match="durable"), store.transaction():
        pass


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_locks_end_with_a_machine_that_has_vanished(store):
    def limit():
        with connections["shop"].cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            return cursor.fetchone()[0]

    before = limit()
    with store.transaction():
        assert limit() == f"{LONGEST_LOCK // 60}min"
    assert limit() == before


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_connection_that_the_server_has_ended_is_replaced(store, postgres_server):
    def count():
        with store.transaction() as rows:
            return sum(rows.status().rows.values())

    connections["shop"].close_at = None  # as with CONN_MAX_AGE = None
    assert count() == 0
    with postgres_server._connected() as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    with pytest.raises(DatabaseError, match=r"^the database 'shop' can't be used \("):
        count()
    assert count() == 0


def test_an_alias_that_isnt_there():
    with pytest.raises(
        SettingsError, match=r"^database 'shop': it is none of DATABASES; expected 'default' or 'other'$"
    ):
        Store("shop")
    assert Store().alias == "default"


def test_the_sentence_of_a_table_that_isnt_there(database_url):
    with (
        djangos.databases(shop=djangos.database(database_url)),
        pytest.raises(
            DatabaseError,
            match=r"^there is no table mailtasks_outbox in the database 'shop'; "
            r"run `manage.py migrate`, or name another of DATABASES$",
        ),
    ):
        Store("shop").check()


def test_moments_are_utc(override):
    assert stored(NOW) == known(NOW) == NOW
    assert [stored("x"), stored(None), known(None)] == ["x", None, None]
    override(USE_TZ=False, TIME_ZONE="Europe/Berlin")
    assert stored(NOW) == datetime(2030, 7, 1, 14)  # naive is what is meant
    assert known(stored(NOW)) == NOW
    assert known(stored(NOW)).utcoffset() == timedelta(0)


def test_a_project_without_zones(store, override):
    override(USE_TZ=False, TIME_ZONE="Europe/Berlin")
    connections["shop"].close()
    write()
    with store.transaction() as rows:
        [row] = rows.waiting()
        assert abs(row.written_at - datetime.now(UTC)) < timedelta(minutes=1)
        rows.change([Change.accepted(row, NOW, NOW)])
    with store.transaction() as rows:
        assert rows.due(NOW - timedelta(seconds=1)) == []
        [row] = rows.due(NOW)
        assert (row.accepted_at, row.look_at) == (NOW, NOW)
