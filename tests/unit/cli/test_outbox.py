from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

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
    ran = live("outbox", "run", "--once", "--json")
    assert (ran.code, ran.json, ran.err) == (0, NOTHING | {"accepted": 3}, "")
    with Mailer() as mailer:
        assert mailer.stats().accepted == 3
    lines = [line.split() for line in live("outbox", "run", "--once").out.splitlines()]
    assert lines == [["rows", *name.split("_"), "0"] for name in NOTHING]


def test_once_with_a_row_that_is_set_aside(live, shop, database_url, caplog):
    outbox, engine = shop
    with engine.begin() as connection:
        first = select(outbox.table.c.id).limit(1).scalar_subquery()
        connection.execute(outbox.table.update().where(outbox.table.c.id == first).values(content=b"no"))
    ran = live("outbox", "run", "--database", database_url, "--once", "--json")
    assert (ran.code, ran.json) == (1, NOTHING | {"accepted": 2, "aside": 1})


def test_the_table_may_have_another_name_and_a_schema(live, database_url):
    schema = "main" if database_url.startswith("sqlite") else "public"
    engine = create_engine(database_url)
    Outbox(name="mail", schema=schema).table.create(engine)
    engine.dispose()
    assert (
        live(
            "outbox", "run", "--database", database_url, "--table", f"{schema}.mail", "--once", "--json"
        ).json
        == NOTHING
    )
    assert (
        live("outbox", "run", "--database", database_url, "--table", "mail", "--once", "--json").json
        == NOTHING
    )


def test_a_table_that_isnt_there(live, database_url):
    ran = live("outbox", "run", "--database", database_url, "--table", "mail", "--once")
    assert ran.code == 1
    assert ran.err.startswith("mailtasks: there is no table mail in ")
    assert ran.err.endswith("; run the migration that makes it, or name your table with --table\n")


def test_no_database(live):
    ran = live("outbox", "run")
    assert ran.code == 2
    assert ran.err == "mailtasks: no database is named; set MAILTASKS_DATABASE_URL, or give --database URL\n"


def test_without_sqlalchemy(live, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    ran = live("outbox", "run", "--database", "sqlite://")
    assert ran.code == 2
    assert ran.err == "mailtasks: the outbox needs SQLAlchemy; install mailtasks[sqlalchemy]\n"


@pytest.mark.parametrize(
    ("url", "code"),
    [("secret", 2), ("postgresql://ann:secret@127.0.0.1:nan/x", 2), ("nodb://a:secret@b/c", 2)],
)
def test_a_secret_is_not_said(live, monkeypatch, url, code):
    monkeypatch.setenv("MAILTASKS_DATABASE_URL", url)
    ran = live("outbox", "run", "--once")
    assert ran.code == code
    assert ran.err.startswith("mailtasks: database_url")
    assert "secret" not in ran.err


def test_a_database_that_is_away(live):
    ran = live(
        "outbox", "run", "--database", f"postgresql://ann:secret@127.0.0.1:{free_port()}/shop", "--once"
    )
    assert ran.code == 1
    assert ran.err.startswith("mailtasks: the database postgresql+psycopg://ann:***@127.0.0.1:")
    assert "secret" not in ran.err


def test_redis_that_is_away(nowhere, shop, database_url):
    ran = nowhere("outbox", "run", "--database", database_url, "--once")
    assert ran.code == 1
    assert ran.err.startswith("mailtasks: Redis at 127.0.0.1:")


def test_config_masks_the_password(live, monkeypatch):
    monkeypatch.setenv("MAILTASKS_DATABASE_URL", "postgresql://ann:secret@db/shop")
    assert "postgresql://ann:***@db/shop" in live("config").out


# --- What waits, and what was set aside


@pytest.fixture
def given(nowhere, shop, database_url, monkeypatch):
    """`mailtasks outbox …` of the shop's database, and no Redis."""
    monkeypatch.setenv("MAILTASKS_DATABASE_URL", database_url)
    return lambda *arguments: nowhere("outbox", *arguments)


@pytest.fixture
def change(shop):
    """Change rows by hand; without ids, all of them."""
    outbox, engine = shop

    def change(*ids, **values):
        statement = outbox.table.update().values(values)
        with engine.begin() as connection:
            connection.execute(statement.where(outbox.table.c.id.in_(ids)) if ids else statement)

    return change


@pytest.fixture
def states(shop):
    outbox, engine = shop

    def states():
        with engine.connect() as connection:
            return list(
                connection.execute(select(outbox.table.c.state).order_by(outbox.table.c.id)).scalars()
            )

    return states


EMPTY = {"waiting": 0, "accepted": 0, "final": 0, "aside": 0}


def test_status(given, change):
    ran = given("status")
    assert (ran.code, ran.err) == (0, "")
    *table, last = ran.out.splitlines()
    assert [line.split() for line in table] == [
        ["STATE", "ROWS"],
        *([state, "3" if state == "waiting" else "0"] for state in EMPTY),
    ]
    assert re.fullmatch(r"the oldest that waits was written 0:\d\d:\d\d ago, at \d{4}-.*", last)
    answer = given("status", "--json").json
    assert answer["rows"] == EMPTY | {"waiting": 3}
    assert datetime.fromisoformat(answer["waiting_since"]).utcoffset() == timedelta(0)
    assert 0 <= answer["waiting_seconds"] < 60


def test_status_of_nothing(given, shop):
    outbox, engine = shop
    with engine.begin() as connection:
        connection.execute(outbox.table.delete())
    ran = given("status", "--json")
    assert (ran.code, ran.json) == (
        0,
        {"rows": EMPTY, "waiting_since": None, "waiting_seconds": None},
    )
    assert "the oldest" not in given("status").out


def test_status_fails_if_a_row_waits_for_too_long(given, change):
    change(1, written_at=datetime.now(UTC) - timedelta(minutes=6))
    ran = given("status")
    assert ran.code == 1
    assert "the oldest that waits was written 0:06:0" in ran.out
    assert given("status", "--patience", "10m").code == 0


def test_status_fails_if_a_row_is_aside(given, change):
    change(2, state="aside", error="no")
    ran = given("status", "--json")
    assert (ran.code, ran.json["rows"]) == (1, EMPTY | {"waiting": 2, "aside": 1})


def test_list_of_nothing(given):
    ran = given("list")
    assert (ran.code, ran.out) == (0, "nothing is set aside\n")
    assert given("list", "--json").json == []


def test_list_says_whose_mail_it_is_and_why_and_nothing_of_what_it_says(given, change):
    change(2, state="aside", error="its key was used before")
    change(3, state="aside", error="its content can't be read", content=b"no")
    ran = given("list")
    assert (ran.code, ran.err) == (0, "")
    head, readable, other = (re.split("  +", line) for line in ran.out.splitlines())
    assert head == ["ROW", "BATCH", "WRITTEN", "MESSAGES", "TO", "REASON"]
    row, batch, _, *rest = readable
    assert (row, *rest) == ("2", "1", "r1@example.com", "its key was used before")
    assert other[3:] == ["-", "-", "its content can't be read"]
    one, unreadable = given("list", "--json").json
    assert datetime.fromisoformat(one.pop("written_at")).utcoffset() == timedelta(0)
    assert one == {
        "id": 2,
        "batch": batch,
        "messages": [f"{batch}.0"],
        "recipients": ["r1@example.com"],
        "error": "its key was used before",
    }
    assert (unreadable["messages"], unreadable["recipients"]) == ([], [])
    assert [row["id"] for row in given("list", "--limit", "1", "--json").json] == [2]


def test_retry_by_row(given, change, states):
    change(state="aside", error="no")
    ran = given("retry", 1, 3)
    assert (ran.code, ran.out, states()) == (0, "released 2 rows\n", ["waiting", "aside", "waiting"])
    ran = given("retry", 1, 2, 2, 17)
    assert ran.code == 1
    assert ran.out == "released 1 row\nrow 1 isn't set aside\nrow 17 isn't set aside\n"
    assert states() == ["waiting"] * 3
    assert given("retry", 2, "--json").json == {"released": 0, "left_alone": [2]}


def test_retry_of_all_asks_first(given, change, states, monkeypatch):
    change(1, 2, state="aside", error="no")
    refused = given("retry", "--all")
    assert refused.code == 2
    assert refused.err.startswith("mailtasks: --all asks first, and this is no terminal; add --yes.")
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    asked = given("retry", "--all")
    assert asked.code == 130
    assert asked.out.startswith("2 rows set aside\nRelease all of them? [y/N]: ")
    assert states() == ["aside", "aside", "waiting"]
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert given("retry", "--all").out.endswith("released 2 rows\n")
    assert states() == ["waiting"] * 3
    ran = given("retry", "--all", "--yes", "--json")
    assert (ran.code, ran.json) == (0, {"released": 0, "left_alone": []})


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("arguments", [(), (1, "--all")])
def test_retry_of_what_isnt_clear(given, change, states, arguments):
    change(state="aside", error="no")
    ran = given("retry", *arguments)
    assert ran.code == 2
    assert ran.err.startswith("mailtasks: Name rows, or all of them with --all.")
    assert states() == ["aside"] * 3


@pytest.mark.parametrize("row", ["no", "0", 2**63])
def test_retry_of_what_is_no_row(given, row):
    assert given("retry", row).code == 2


@pytest.mark.parametrize("command", [("status",), ("list",), ("retry", 1), ("retry", "--all", "--yes")])
def test_without_its_table_each_says_so(given, command):
    ran = given(*command, "--table", "mail")
    assert ran.code == 1
    assert ran.err.startswith("mailtasks: there is no table mail in ")


def test_the_mail_of_a_released_row_is_sent(live, given, change, database_url, redis_url, monkeypatch):
    change(state="aside", error="no")
    assert given("retry", "--all", "--yes").code == 0
    monkeypatch.setenv("MAILTASKS_BROKER_URL", redis_url)
    assert live("outbox", "run", "--once", "--json").json == NOTHING | {"accepted": 3}


# --- A process of its own


@pytest.fixture
def process(tmp_path, redis_url, database_url):
    """The relay as a process of its own."""
    started = []

    def start(*options, **environment):
        ours = {"MAILTASKS_BROKER_URL": redis_url, "MAILTASKS_DATABASE_URL": database_url, **environment}
        process = subprocess.Popen(
            [sys.executable, "-m", "mailtasks.cli", "outbox", "run", *options],
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


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
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
    live("outbox", "run", "--database", database_url, "--once")
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
    ran = live("outbox", "run", "--database", f"sqlite:///{tmp_path / 'typo.db'}", "--once")
    assert ran.code == 2
    assert not (tmp_path / "typo.db").exists()
    sqlite3.connect(tmp_path / "shop.db").close()
    assert (
        "there is no table"
        in live("outbox", "run", "--database", f"sqlite:///{tmp_path / 'shop.db'}", "--once").err
    )
