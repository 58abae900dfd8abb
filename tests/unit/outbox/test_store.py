"""What every row store promises."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mailtasks.errors import DatabaseError
from mailtasks.local.redis import free_port
from mailtasks.message import Message
from mailtasks.outbox import report, row
from mailtasks.outbox.report import OutboxStatus
from mailtasks.outbox.row import Change, RowState
from mailtasks.outbox.store import unusable
from tests.outboxes import table_at

NOW = datetime(2030, 1, 1, tzinfo=UTC)
EMPTY = dict.fromkeys(RowState, 0)


def mail(number):
    return Message(to=f"r{number}@example.com", text="hi")


@pytest.fixture
def three(write):
    return [write(mail(number))[0].partition(".")[0] for number in range(3)]


def waiting(store):
    with store.transaction() as rows:
        return rows.waiting()


def test_what_waits_is_taken_in_order(store, three):
    with store.transaction() as rows:
        taken = rows.waiting()
        assert [row.batch for row in taken] == three
        assert all(row.written_at.utcoffset() == timedelta(0) for row in taken)
        assert all(type(row.content) is bytes for row in taken)
        assert rows.due(NOW) == rows.refused() == []


def test_a_round_has_its_limits(store, table, three, monkeypatch):
    monkeypatch.setattr(table.rows_module, "ROWS_A_ROUND", 2)
    assert len(waiting(store)) == 2
    monkeypatch.setattr(row, "BYTES_A_ROUND", 1)
    assert len(waiting(store)) == 1


def test_changes(store, three, rows):
    with store.transaction() as taken:
        first, second, third = taken.waiting()
        changes = [Change.deleted(first), Change.accepted(second, NOW, NOW), Change.aside(third, "no")]
        taken.change(changes)
    kept, aside = rows()
    assert (kept.state, aside.state, aside.error) == ("accepted", "aside", "no")
    with store.transaction() as taken:
        assert taken.waiting() == []
        assert taken.due(NOW - timedelta(seconds=1)) == []
        [due] = taken.due(NOW)
        assert (due.accepted_at, due.seen_at) == (NOW, NOW)
        later = NOW + timedelta(hours=1)
        taken.change([Change.accepted(due, later, later)])
        [due] = taken.due(later)
        assert (due.accepted_at, due.seen_at) == (NOW, later)
        taken.change([Change.final(due, later, {"a.0": "sent"})])
        assert taken.due(later) == []
    final, _ = rows()
    assert (final.state, final.outcome, final.look_at, final.final_at) == (
        "final",
        {"a.0": "sent"},
        None,
        later,
    )


def test_what_was_refused_is_taken_apart(store, three, rows):
    with store.transaction() as taken:
        first, second, _ = taken.waiting()
        assert first.patient_until is None
        taken.change([Change.refused(first, "WRONGTYPE", NOW), Change.accepted(second, NOW, NOW)])
        assert [row.batch for row in taken.waiting()] == three[2:]
        [refused] = taken.refused()
        assert (refused.batch, refused.patient_until) == (three[0], NOW)
        [due] = taken.due(NOW)
        assert due.batch == three[1]
        taken.change([Change.accepted(refused, NOW, NOW)])
    assert [(row.state, row.error) for row in rows()[:2]] == [("accepted", None)] * 2


def test_a_row_that_was_changed_meanwhile_is_left_alone(store, three, rows):
    with store.transaction() as taken:
        seen = taken.waiting()
        taken.change([Change.deleted(seen[0]), Change.aside(seen[1], "no")])
        taken.change([Change.accepted(row, NOW, NOW) for row in seen])
        taken.change([Change.deleted(row) for row in seen])
    assert [row.state for row in rows()] == ["aside", "accepted"]


@pytest.mark.parametrize("change", [Change.deleted, lambda row: Change.accepted(row, NOW, NOW)])
def test_a_new_row_with_the_id_of_one_that_is_gone_is_left_alone(store, table, three, rows, write, change):
    """Another relay has moved the row while Redis was slow, and a hand has let ids begin anew."""
    last = waiting(store)[-1]
    table.execute("DELETE FROM mailtasks_outbox")
    [new] = write(mail(9))
    table.execute(f"UPDATE mailtasks_outbox SET id = {last.id}")
    with store.transaction() as taken:
        taken.change([change(last)])
    [kept] = rows()
    assert (f"{kept.batch}.0", kept.id, kept.state) == (new, last.id, "waiting")


def test_locked_rows_are_passed_over_where_there_are_locks(store, table, three, database_url):
    other = table.other_store()
    assert store.can_lock is database_url.startswith("postgresql")
    with store.transaction() as taken:
        assert len(taken.waiting()) == 3
        assert len(waiting(other)) == (0 if store.can_lock else 3)
    assert len(waiting(other)) == 3


def test_what_raises_is_rolled_back(store, three, rows):
    with pytest.raises(ZeroDivisionError):
        _fail_within(store)
    assert len(rows()) == 3


def _fail_within(store):
    with store.transaction() as taken:
        taken.change([Change.deleted(row) for row in taken.waiting()])
        raise ZeroDivisionError


# --- For people


def test_its_name(store):
    assert store.name == "mailtasks_outbox"


def test_a_table_that_isnt_there(empty_database):
    store = empty_database.store()
    with pytest.raises(DatabaseError, match=r"^there is no table mailtasks_outbox in .*; run .*migrat"):
        store.check()
    empty_database.create()
    store.check()


def test_the_status_of_an_outbox_that_is_empty(store):
    with store.transaction() as rows:
        assert rows.status() == OutboxStatus(EMPTY, None, None)


def test_rows_are_counted_by_state_and_the_oldest_that_waits_is_told(store, write, change):
    for number in range(5):
        write(mail(number))
    hour = datetime.now(UTC) - timedelta(hours=1)
    change(1, state="aside", error="no", written_at=hour - timedelta(days=1))
    change(2, state="final", written_at=hour - timedelta(days=2))
    change(4, written_at=hour)
    with store.transaction() as rows:
        status = rows.status()
    assert status.rows == EMPTY | {RowState.WAITING: 3, RowState.ASIDE: 1, RowState.FINAL: 1}
    assert status.waiting_since == hour


def test_what_is_aside_is_told_in_order_and_read_bit_by_bit(store, table, write, change, monkeypatch):
    monkeypatch.setattr(table.rows_module, "ROWS_AT_ONCE", 2)
    ids = [write(mail(number))[0] for number in range(1, 6)]
    for number in range(2, 6):
        change(number, state="aside", error="no")
    change(5, content=b"no", error=None)
    with store.transaction() as rows:
        told = list(rows.aside())
    assert [(it.id, it.messages, it.recipients, it.error) for it in told] == [
        *((number, (ids[number - 1],), (f"r{number}@example.com",), "no") for number in range(2, 5)),
        (5, (), (), ""),
    ]
    assert all(abs(it.written_at - datetime.now(UTC)) < timedelta(minutes=1) for it in told)
    assert report.ROWS_AT_ONCE > 2


def test_retry_releases_what_was_set_aside(store, three, change, rows):
    change(state="aside", error="no")
    with store.transaction() as table:
        assert table.retry(1, 99) == 1
        assert table.retry() == 2
        assert table.retry() == 0
    assert {(row.state, row.error) for row in rows()} == {("waiting", None)}
    assert all(row.seen_at for row in rows())


# --- Errors


def test_a_database_that_is_away(road):
    with table_at(road, f"postgresql+psycopg://ann:secret@127.0.0.1:{free_port()}/shop") as table:
        for ask in (table.store().check, lambda: waiting(table.store())):
            with pytest.raises(DatabaseError) as raised:
                ask()
            said = str(raised.value)
            assert "can't be used (" in said
            assert "Connection refused" in said
            assert said.endswith("is it running and reachable?")
            assert "secret" not in said
            assert raised.value.__cause__ is None
            assert raised.value.__suppress_context__


def test_after_an_error_the_next_transaction_works(store, table, three):
    with pytest.raises(DatabaseError, match=r"can't be used \(.*mailtasks_outbox"):
        _rename_within(store, table)
    table.execute("ALTER TABLE renamed RENAME TO mailtasks_outbox")
    assert len(waiting(store)) == 3


def _rename_within(store, table):
    table.execute("ALTER TABLE mailtasks_outbox RENAME TO renamed")
    with store.transaction() as rows:
        rows.waiting()


def test_an_error_has_what_the_driver_said_in_one_line_and_no_password():
    said = ValueError("no route\n to postgresql://ann:secret@db/shop" + "x" * 400)
    error = unusable("'shop'", said)
    assert str(error).startswith(
        "the database 'shop' can't be used (no route to postgresql://ann:***@db/shop"
    )
    assert len(str(error)) < 400
    assert "(ValueError)" in str(unusable("'shop'", ValueError()))
