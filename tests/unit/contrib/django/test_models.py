"""The table: what Django makes is what the model says, and what SQLAlchemy's side makes."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connections
from sqlalchemy import MetaData, create_engine, inspect

from mailtasks.contrib.django.models import OutboxRow
from mailtasks.message import Message
from mailtasks.outbox.row import Keep, RowState
from mailtasks.sql import Outbox
from mailtasks.sql.table import outbox_table
from tests import djangos


def test_migrations_are_complete():
    out = StringIO()
    call_command("makemigrations", "mailtasks", check=True, dry_run=True, stdout=out)
    assert "No changes detected" in out.getvalue()


@pytest.fixture
def migrated(database_url):
    """An empty database with the migration, by its URL."""
    with djangos.databases(shop=djangos.database(database_url)):
        call_command("migrate", "mailtasks", database="shop", verbosity=0)
        yield database_url


def test_the_columns_are_those_of_the_other_side(migrated):
    engine = create_engine(migrated)
    ours = outbox_table(MetaData())
    found = {column["name"]: column for column in inspect(engine).get_columns("mailtasks_outbox")}
    assert list(found) == [column.name for column in ours.columns]
    assert [it["nullable"] for it in found.values()] == [column.nullable for column in ours.columns]
    assert [it["name"] for it in inspect(engine).get_indexes("mailtasks_outbox")] == [
        "ix_mailtasks_outbox_due"
    ]
    engine.dispose()


def test_the_migration_can_be_taken_back(migrated):
    call_command("migrate", "mailtasks", "zero", database="shop", verbosity=0)
    assert "mailtasks_outbox" not in connections["shop"].introspection.table_names()


def test_every_word_has_a_label():
    fields = {field.name: dict(field.choices) for field in OutboxRow._meta.fields if field.choices}
    assert fields["state"].keys() == set(RowState)
    assert fields["keep"].keys() == set(Keep)


def test_nobody_may_write_or_change_a_row_by_hand():
    assert OutboxRow._meta.default_permissions == ("view", "delete")
    assert dict(OutboxRow._meta.permissions).keys() == {"retry_outboxrow", "view_content"}


def test_it_says_which_row_it_is():
    assert str(OutboxRow(id=7)) == "row 7"


@pytest.mark.parametrize("writer", ["django", "sqlalchemy"])
def test_either_sides_relay_moves_what_the_other_has_written(writer, migrated, queue):
    engine, outbox = create_engine(migrated), Outbox(settings=queue.settings)
    mail = Message(to="ann@example.com", sender="shop@example.com", text="hi")
    if writer == "django":
        [id] = djangos.outbox.write([mail], queue.settings, "shop", Keep.FOREVER)
        assert outbox.relay(engine, queue).drain().accepted == 1
        with engine.begin() as connection:
            connection.execute(outbox.table.update().values(outcome={id: "sent"}, state="final"))
        assert OutboxRow.objects.using("shop").get().outcome == {id: "sent"}
    else:
        with engine.begin() as connection:
            [id] = outbox.send(connection, mail)
        assert djangos.outbox.relay("shop", queue).drain().accepted == 1
    assert queue.status(id).recipients[0].address == "ann@example.com"
    engine.dispose()
