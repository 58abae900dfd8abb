from __future__ import annotations

import sys

import pytest
from sqlalchemy import MetaData, Table, create_engine, text

from mailtasks.errors import DatabaseError, SettingsError
from mailtasks.local.redis import free_port
from mailtasks.sql.database import check_table, engine_for, reachable, where


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgresql://u:p@db/shop", "psycopg"),
        ("postgres://u:p@db/shop", "psycopg"),
        ("postgresql+asyncpg://u:p@db/shop", "psycopg"),
        ("postgresql+psycopg://u:p@db/shop", "psycopg"),
        ("sqlite://", "pysqlite"),
        ("sqlite+aiosqlite://", "pysqlite"),
    ],
)
def test_the_driver_is_one_that_blocks(url, driver):
    assert engine_for(url).driver == driver


@pytest.mark.parametrize("url", ["secret", "postgresql://u:secret@db:nan/x", "sqlite+pysqlcipher3://:secret"])
def test_what_cant_be_read_is_not_quoted(url):
    with pytest.raises(SettingsError, match=r"^database_url: ") as raised:
        engine_for(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["nodb://u:secret@h/x", "mysql+pymysql://u:secret@h/x"])
def test_a_driver_that_isnt_there(url):
    with pytest.raises(
        SettingsError, match=r"there is no driver for \S+; install one, such as psycopg"
    ) as raised:
        engine_for(url)
    assert "secret" not in str(raised.value)


def test_a_file_that_isnt_there_is_not_made(tmp_path):
    with pytest.raises(SettingsError, match=r"the SQLite file .*shop.db isn't there; name the one that"):
        engine_for(f"sqlite:///{tmp_path / 'shop.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_away():
    engine = engine_for(f"postgresql://ann:secret@127.0.0.1:{free_port()}/shop?sslpassword=hidden")
    with pytest.raises(DatabaseError) as raised, reachable(engine), engine.connect():
        pass
    said = str(raised.value)
    assert said.startswith("the database postgresql+psycopg://ann:***@127.0.0.1:")
    assert "Connection refused" in said
    assert said.endswith("is it running and reachable?")
    assert "secret" not in said
    assert "hidden" not in said
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_parameters_are_not_quoted(engine):
    with pytest.raises(DatabaseError) as raised, reachable(engine), engine.connect() as connection:
        connection.execute(text("INSERT INTO nowhere VALUES (:secret)"), {"secret": "Your code is 1234"})
    assert "1234" not in str(raised.value)
    assert "nowhere" in str(raised.value)


def test_other_errors_pass(engine):
    with pytest.raises(ZeroDivisionError), reachable(engine):
        raise ZeroDivisionError


def test_a_table_that_isnt_there(engine):
    table = Table("mail", MetaData())
    with pytest.raises(
        DatabaseError, match=r"^there is no table mail in \S+; run the migration that makes it"
    ):
        check_table(engine, table)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mail (id INTEGER)"))
    check_table(engine, table)


def test_where_hides_the_password():
    engine = create_engine("postgresql+psycopg://ann:secret@db/shop")
    assert where(engine) == "postgresql+psycopg://ann:***@db/shop"


def test_psycopg2_will_do_if_it_is_what_there_is(monkeypatch):
    from mailtasks.sql import database

    monkeypatch.setattr(database, "find_spec", lambda name: name == "psycopg2")
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(SettingsError, match=r"no driver for postgresql\+psycopg2;"):
        engine_for("postgresql://db/shop")
