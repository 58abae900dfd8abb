"""What SQLAlchemy's row store has beside the contract (`tests/unit/outbox/test_store.py`)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from mailtasks.message import Message
from mailtasks.outbox.row import Change
from mailtasks.sql.rows import Rows

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def three(write):
    return [write(Message(to=f"r{n}@example.com", text="hi"))[0].partition(".")[0] for n in range(3)]


def test_the_index_is_used(engine, outbox, three):
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *its: statements.append(its[2:4]))
    with engine.connect() as connection:
        table = Rows(outbox.table, connection)
        table.waiting()
        table.refused()
        table.due(NOW)
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


def test_a_session_will_do(engine, outbox, three):
    with Session(engine) as session:
        rows = Rows(outbox.table, session)
        first, *_ = rows.waiting()
        rows.change([Change.aside(first, "no")])
        assert [row.id for row in rows.aside()] == [first.id]
        assert rows.retry() == 1
