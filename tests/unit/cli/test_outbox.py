from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy import create_engine, select

from mailtasks.cli import outbox as module
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.settings import Settings
from mailtasks.sql import Outbox
from mailtasks.testing import wait_until

NOTHING = {"accepted": 0, "accepted_again": 0, "ended": 0, "pending": 0, "aside": 0}


@pytest.fixture
def shop(database_url, monkeypatch):
    """A database with an outbox of a few mails, which is the setting."""
    outbox = Outbox(settings=Settings(default_from="shop@example.com"))
    engine = create_engine(database_url)
    outbox.table.create(engine)
    with engine.begin() as connection:
        for number in range(3):
            outbox.send(connection, Message(to=f"r{number}@example.com", text="hi"))
    yield outbox, engine
    engine.dispose()


def test_once(live, shop, database_url, monkeypatch):
    monkeypatch.setenv("MAILTASKS_DATABASE_URL", database_url)
    ran = live("outbox", "--once", "--json")
    assert (ran.code, ran.json, ran.err) == (0, NOTHING | {"accepted": 3}, "")
    with Mailer() as mailer:
        assert mailer.stats().accepted == 3
    lines = [line.split() for line in live("outbox", "--once").out.splitlines()]
    assert lines == [["rows", *name.split("_"), "0"] for name in NOTHING]


def test_once_with_a_row_that_is_set_aside(live, shop, database_url, caplog):
    outbox, engine = shop
    with engine.begin() as connection:
        first = select(outbox.table.c.id).limit(1).scalar_subquery()
        connection.execute(outbox.table.update().where(outbox.table.c.id == first).values(content=b"no"))
    ran = live("outbox", database_url, "--once", "--json")
    assert (ran.code, ran.json) == (1, NOTHING | {"accepted": 2, "aside": 1})


def test_the_table_may_have_another_name_and_a_schema(live, database_url):
    schema = "main" if database_url.startswith("sqlite") else "public"
    engine = create_engine(database_url)
    Outbox(name="mail", schema=schema).table.create(engine)
    engine.dispose()
    assert live("outbox", database_url, "--table", f"{schema}.mail", "--once", "--json").json == NOTHING
    assert live("outbox", database_url, "--table", "mail", "--once", "--json").json == NOTHING


def test_a_table_that_isnt_there(live, database_url):
    ran = live("outbox", database_url, "--table", "mail", "--once")
    assert ran.code == 1
    assert ran.err.startswith("mailtasks: there is no table mail in ")
    assert ran.err.endswith("; run the migration that makes it, or name your table with --table\n")


def test_no_database(live):
    ran = live("outbox")
    assert ran.code == 2
    assert ran.err == "mailtasks: no database is named; set MAILTASKS_DATABASE_URL, or give its URL\n"


def test_without_sqlalchemy(live, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    ran = live("outbox", "sqlite://")
    assert ran.code == 2
    assert ran.err == "mailtasks: the outbox needs SQLAlchemy; install mailtasks[sqlalchemy]\n"


@pytest.mark.parametrize(
    ("url", "code"),
    [("secret", 2), ("postgresql://ann:secret@127.0.0.1:nan/x", 2), ("nodb://a:secret@b/c", 2)],
)
def test_a_secret_is_not_said(live, monkeypatch, url, code):
    monkeypatch.setenv("MAILTASKS_DATABASE_URL", url)
    ran = live("outbox", "--once")
    assert ran.code == code
    assert ran.err.startswith("mailtasks: database_url")
    assert "secret" not in ran.err


def test_a_database_that_is_away(live):
    ran = live("outbox", f"postgresql://ann:secret@127.0.0.1:{free_port()}/shop", "--once")
    assert ran.code == 1
    assert ran.err.startswith("mailtasks: the database postgresql+psycopg://ann:***@127.0.0.1:")
    assert "secret" not in ran.err


def test_redis_that_is_away(nowhere, shop, database_url):
    ran = nowhere("outbox", database_url, "--once")
    assert ran.code == 1
    assert ran.err.startswith("mailtasks: Redis at 127.0.0.1:")


def test_config_masks_the_password(live, monkeypatch):
    monkeypatch.setenv("MAILTASKS_DATABASE_URL", "postgresql://ann:secret@db/shop")
    assert "postgresql://ann:***@db/shop" in live("config").out


@pytest.fixture
def process(tmp_path, redis_url, database_url):
    """The relay as a process of its own."""
    started = []

    def start(*options, **environment):
        ours = {"MAILTASKS_BROKER_URL": redis_url, "MAILTASKS_DATABASE_URL": database_url, **environment}
        process = subprocess.Popen(
            [sys.executable, "-m", "mailtasks.cli", "outbox", *options],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **ours},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(process, shop, redis_url, number):
    running = process("--interval", "1h")
    with Mailer(broker_url=redis_url) as mailer:
        wait_until(lambda: mailer.stats().accepted == 3, timeout=30)
    running.send_signal(number)
    assert running.wait(15) == 0
    assert running.stderr.read() == ""


def test_its_log_says_what_it_waits_for(process, shop):
    away = f"redis://127.0.0.1:{free_port()}/0"
    running = process(MAILTASKS_BROKER_URL=away, MAILTASKS_LOG_FORMAT="json")
    line = json.loads(running.stderr.readline())
    assert line["level"] == "warning"
    assert line["message"].startswith("the outbox mailtasks_outbox has to wait: Redis at 127.0.0.1:")
    assert line["message"].endswith("(next try in 1 s)")
    running.terminate()
    assert running.wait(15) == 0
    text = process(MAILTASKS_BROKER_URL=away).stderr.readline()
    assert " WARNING the outbox mailtasks_outbox has to wait: " in text


def test_signal_handlers_are_put_back(live, shop, database_url):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    live("outbox", database_url, "--once")
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]


def test_a_second_signal_has_its_usual_meaning():
    told = []
    with module._ended_by_signals(lambda: told.append(1)):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert told == [1]


@pytest.fixture(autouse=True)
def _quiet():
    """Whatever handler the command added to our logger."""
    logger = logging.getLogger("mailtasks")
    before = list(logger.handlers), logger.level
    yield
    logger.handlers[:], logger.level = before


def test_sqlites_file_is_not_made(live, tmp_path):
    ran = live("outbox", f"sqlite:///{tmp_path / 'typo.db'}", "--once")
    assert ran.code == 2
    assert not (tmp_path / "typo.db").exists()
    sqlite3.connect(tmp_path / "shop.db").close()
    assert "there is no table" in live("outbox", f"sqlite:///{tmp_path / 'shop.db'}", "--once").err
