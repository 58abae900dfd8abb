"""What SQLAlchemy's row store has beside the contract (`tests/unit/outbox/test_store.py`)."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from mailtasks.errors import DatabaseError
from mailtasks.outbox.store import LONGEST_LOCK
from mailtasks.sql import Outbox
from mailtasks.sql.store import Store

LIMIT = "SHOW idle_in_transaction_session_timeout"


def test_its_name_has_its_schema(engine):
    assert Store(Outbox(name="mail", schema="app").table, engine).name == "app.mail"


def test_a_table_that_isnt_there_is_named_by_an_option(engine):
    with pytest.raises(DatabaseError, match=r"or name your table with --table$"):
        Store(Outbox(name="mail").table, engine).check()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_locks_end_with_a_machine_that_has_vanished(engine, outbox):
    with engine.connect() as connection:
        before = connection.exec_driver_sql(LIMIT).scalar()
    with Store(outbox.table, engine).transaction() as rows:
        assert rows._connection.execute(text(LIMIT)).scalar() == f"{LONGEST_LOCK // 60}min"
    with engine.connect() as connection:
        assert connection.exec_driver_sql(LIMIT).scalar() == before
