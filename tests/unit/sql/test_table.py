from __future__ import annotations

import pytest
from sqlalchemy import MetaData, inspect
from sqlalchemy.orm import DeclarativeBase

from mailtasks.message import Message
from mailtasks.outbox.row import RowState
from mailtasks.sql import Keep, Outbox
from mailtasks.sql.table import outbox_table


class Base(DeclarativeBase):
    pass


outbox = Outbox(Base.metadata)


def test_it_is_made_with_the_users_other_tables(engine):
    Base.metadata.create_all(engine)
    found = inspect(engine)
    assert found.has_table("mailtasks_outbox")
    names = [column["name"] for column in found.get_columns("mailtasks_outbox")]
    assert names == [column.name for column in outbox.table.columns]
    [index] = found.get_indexes("mailtasks_outbox")
    assert index["column_names"] == ["state", "look_at", "id"]
    Base.metadata.drop_all(engine)


def test_an_id_is_never_given_twice(engine, outbox, write, rows):
    write(Message(to="ann@example.com", text="hi"))
    [first] = rows()
    with engine.begin() as connection:
        connection.execute(outbox.table.delete())
    write(Message(to="bob@example.com", text="hi"))
    [second] = rows()
    assert second.id > first.id


def test_it_has_the_name_and_the_schema_that_were_given():
    metadata = MetaData()
    table = outbox_table(metadata, "mail", "app")
    assert metadata.tables == {"app.mail": table}


@pytest.mark.parametrize("word", [*Keep, *RowState])
def test_every_word_has_room_in_its_column(word):
    assert len(word.value) <= 16
