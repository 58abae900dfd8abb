from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, select

from mailtasks.message import Message
from mailtasks.sql import rows as module
from mailtasks.sql.rows import Change, Rows, can_lock, limit_locks, stays

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def three(write):
    return [write(Message(to=f"r{n}@example.com", text="hi"))[0].partition(".")[0] for n in range(3)]


@pytest.fixture
def table(outbox):
    return Rows(outbox.table)


def test_what_waits_is_taken_in_order(engine, table, three):
    with engine.connect() as connection:
        taken = table.waiting(connection)
        assert [row.batch for row in taken] == three
        assert all(row.written_at.tzinfo for row in taken)
        assert table.due(connection, NOW) == []


def test_a_round_has_its_limits(engine, table, three, monkeypatch):
    monkeypatch.setattr(module, "ROWS_A_ROUND", 2)
    with engine.connect() as connection:
        assert len(table.waiting(connection)) == 2
    monkeypatch.setattr(module, "BYTES_A_ROUND", 1)
    with engine.connect() as connection:
        assert len(table.waiting(connection)) == 1


def test_changes(engine, table, three, rows):
    with engine.begin() as connection:
        first, second, third = table.waiting(connection)
        changes = [Change.deleted(first), Change.accepted(second, NOW, NOW), Change.aside(third, "no")]
        table.change(connection, changes)
    kept, aside = rows()
    assert (kept.state, aside.state, aside.error) == ("accepted", "aside", "no")
    with engine.begin() as connection:
        assert table.waiting(connection) == []
        assert table.due(connection, NOW - timedelta(seconds=1)) == []
        [due] = table.due(connection, NOW)
        assert (due.accepted_at, due.seen_at) == (NOW, NOW)
        later = NOW + timedelta(hours=1)
        table.change(connection, [Change.accepted(due, later, later)])
        [due] = table.due(connection, later)
        assert (due.accepted_at, due.seen_at) == (NOW, later)
        table.change(connection, [Change.final(due, later, {"a.0": "sent"})])
        assert table.due(connection, later) == []
    final, _ = rows()
    assert (final.state, final.outcome, final.look_at) == ("final", {"a.0": "sent"}, None)
    assert (final.final_at if final.final_at.tzinfo else final.final_at.replace(tzinfo=UTC)) == later


def test_what_was_refused_is_taken_apart(engine, table, three, rows):
    with engine.begin() as connection:
        first, second, _ = table.waiting(connection)
        assert first.patient_until is None
        change = Change.refused(first, "WRONGTYPE", NOW)
        table.change(connection, [change, Change.accepted(second, NOW, NOW)])
        assert [row.batch for row in table.waiting(connection)] == three[2:]
        [refused] = table.refused(connection)
        assert (refused.batch, refused.patient_until) == (three[0], NOW)
        [due] = table.due(connection, NOW)
        assert due.patient_until is None, "its look_at is another matter"
        table.change(connection, [Change.accepted(refused, NOW, NOW)])
    assert [(row.state, row.error) for row in rows()[:2]] == [("accepted", None)] * 2


def test_a_change_says_why_it_sets_a_row_aside(engine, table, three):
    with engine.connect() as connection:
        row, *_ = table.waiting(connection)
    assert Change.aside(row, "no").set_aside_for == "no"
    others = [Change.deleted(row), Change.refused(row, "no", NOW), Change.accepted(row, NOW, NOW)]
    assert [change.set_aside_for for change in others] == [None] * 3


def test_a_row_that_was_changed_meanwhile_is_left_alone(engine, table, three, rows):
    with engine.begin() as connection:
        seen = table.waiting(connection)
        table.change(connection, [Change.deleted(seen[0]), Change.aside(seen[1], "no")])
        table.change(connection, [Change.accepted(row, NOW, NOW) for row in seen])
    assert [row.state for row in rows()] == ["aside", "accepted"]


@pytest.mark.parametrize("change", [Change.deleted, lambda row: Change.accepted(row, NOW, NOW)])
def test_a_new_row_with_the_id_of_one_that_is_gone_is_left_alone(
    engine, outbox, table, three, rows, write, change
):
    """Another relay has moved the row while Redis was slow, and SQLite gave its id to the next mail."""
    with engine.begin() as connection:
        *_, last = table.waiting(connection)
    with engine.begin() as connection:
        connection.execute(outbox.table.delete())
    [new] = write(Message(to="new@example.com", text="hi"))
    with engine.begin() as connection:
        connection.execute(outbox.table.update().values(id=last.id))
        table.change(connection, [change(last)])
    [kept] = rows()
    assert (f"{kept.batch}.0", kept.id, kept.state) == (new, last.id, "waiting")


def test_locked_rows_are_passed_over_where_there_are_locks(engine, table, three):
    with engine.connect() as one, engine.connect() as other:
        assert can_lock(one) is (engine.dialect.name == "postgresql")
        assert len(table.waiting(one)) == 3
        assert len(table.waiting(other)) == (0 if can_lock(one) else 3)
        one.rollback()
        assert len(table.waiting(other)) == 3


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_locks_end_with_a_machine_that_has_vanished(engine):
    with engine.connect() as connection:
        before = connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar()
        limit_locks(connection)
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar() == "2min"
        connection.rollback()
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar() == before


def test_the_index_is_used(engine, outbox, table, three):
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *its: statements.append(its[2:4]))
    with engine.connect() as connection:
        table.waiting(connection)
        table.refused(connection)
        table.due(connection, NOW)
        sizes = [it for it in statements if "look_at" in it[0].partition("WHERE")[2]]
        assert len(sizes) == 3
        explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
        if explain == "EXPLAIN ":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, parameters in sizes:
            plan = str(connection.exec_driver_sql(explain + statement, parameters).all())
            assert "ix_mailtasks_outbox_due" in plan
            assert "TEMP B-TREE" not in plan
            assert "Sort" not in plan
        assert connection.execute(select(outbox.table.c.id)).all()


def test_stays():
    assert [stays(keep) for keep in ("until_accepted", "until_final", "forever")] == [False, True, True]
