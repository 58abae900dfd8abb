from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from mailtasks.message import Message
from mailtasks.sql import OutboxStatus, RowAside
from mailtasks.sql import report as module
from mailtasks.sql.table import RowState

EMPTY = dict.fromkeys(RowState, 0)


@pytest.fixture
def change(engine, outbox):
    """Change a row by hand."""

    def change(id, **values):
        with engine.begin() as connection:
            connection.execute(outbox.table.update().where(outbox.table.c.id == id).values(values))

    return change


def mail(*to):
    return Message(to=to, subject="Your code", text="is 1234")


def test_the_status_of_an_outbox_that_is_empty(engine, outbox):
    with engine.connect() as connection:
        status = outbox.status(connection)
    assert status == OutboxStatus(EMPTY, None, None)
    assert status.aside == 0


def test_rows_are_counted_by_state_and_the_oldest_that_waits_is_told(engine, outbox, write, change):
    for number in range(5):
        write(mail(f"r{number}@example.com"))
    hour = datetime.now(UTC) - timedelta(hours=1)
    change(1, state="aside", error="no", written_at=hour - timedelta(days=1))
    change(2, state="final", written_at=hour - timedelta(days=2))
    change(4, written_at=hour)
    with Session(engine) as session:
        status = outbox.status(session)
    assert status.rows == EMPTY | {RowState.WAITING: 3, RowState.ASIDE: 1, RowState.FINAL: 1}
    assert status.aside == 1
    assert status.waiting_since == hour
    assert 3600 <= status.waiting_seconds < 3660


def test_a_writer_whose_clock_is_ahead_makes_no_negative_age(engine, outbox, write, change):
    write(mail("ann@example.com"))
    change(1, written_at=datetime.now(UTC) + timedelta(hours=1))
    with engine.connect() as connection:
        assert outbox.status(connection).waiting_seconds == 0


def test_what_is_aside_is_told_with_whose_mail_it_is(engine, outbox, write, change, rows):
    ids = write(mail("ann@example.com", "bob@example.com"), mail("cy@example.com"))
    write(mail("dan@example.com"))
    change(1, state="aside", error="no")
    with engine.connect() as connection:
        [row] = outbox.aside(connection)
    assert abs(row.written_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert row == RowAside(
        id=1,
        batch=rows()[0].batch,
        written_at=row.written_at,
        messages=tuple(ids),
        recipients=("ann@example.com", "bob@example.com", "cy@example.com"),
        error="no",
    )


def test_a_row_that_cant_be_read_is_told_all_the_same(engine, outbox, write, change):
    write(mail("ann@example.com"))
    change(1, state="aside", error=None, content=b"no")
    with engine.connect() as connection:
        [row] = outbox.aside(connection)
    assert (row.messages, row.recipients, row.error) == ((), (), "")


def test_many_are_read_bit_by_bit_and_in_order(engine, outbox, write, change, monkeypatch):
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 2)
    for number in range(1, 6):
        write(mail(f"r{number}@example.com"))
        change(number, state="aside", error="no")
    with Session(engine) as session:
        assert [row.id for row in outbox.aside(session)] == [1, 2, 3, 4, 5]
