"""`docs/how-to/commit-and-send.md` as a reader runs it: every block, in order, in one process."""

from __future__ import annotations

import re
import sqlite3
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mailtasks
from mailtasks.cli import run
from mailtasks.settings import SETTINGS
from tests.pages import fences

PAGE = Path(mailtasks.__file__).parents[1] / "docs" / "how-to" / "commit-and-send.md"


@pytest.fixture
def reader(tmp_path, redis_url, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for setting in SETTINGS.values():
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.setenv("MAILTASKS_BROKER_URL", redis_url)
    monkeypatch.setenv("MAILTASKS_DEFAULT_FROM", "shop@example.com")
    monkeypatch.setattr("mailtasks.default._default", None)
    yield monkeypatch
    mailtasks.default_mailer().close()


def test_the_page_does_what_it_says(reader, capfd):
    (Path.cwd() / "shop.db").touch()
    module = ModuleType("page")
    reader.setitem(sys.modules, "page", module)  # where SQLAlchemy looks up what annotations name
    names, answers = vars(module), []
    for language, code in fences(PAGE):
        if language == "python":
            exec(compile(code, PAGE.name, "exec", dont_inherit=True), names)
        elif language == "sh":
            type_in(code, reader)
        elif language == "sql":
            with sqlite3.connect("shop.db") as connection:
                answers += connection.execute(code).fetchall()
            connection.close()
    names["engine"].dispose()

    assert mailtasks.default_mailer().stats().accepted == 3, "two on commit, the bill by the relay"
    said = capfd.readouterr().out
    assert said.splitlines()[0].split() == ["rows", "accepted", "1"]
    assert "\nthe oldest that waits was written 0:00:" in said
    assert said.endswith("\nnothing is set aside\nreleased 0 rows\n")
    with sqlite3.connect("shop.db") as connection:
        sent = [id for (id,) in connection.execute("SELECT mail FROM orders")]
        assert len(sent) == 3
        kept = connection.execute("SELECT batch, keep, state FROM mailtasks_outbox").fetchall()
    connection.close()
    assert all(mailtasks.status(id) for id in sent)
    assert kept == [(names["kept"].partition(".")[0], "until_final", "waiting")]
    assert [answer[0] for answer in answers] == [1], "one waits"


def type_in(code, reader):
    for line in code.splitlines():
        if assignment := re.fullmatch(r"export (\w+)=(\S+)", line):
            reader.setenv(*assignment.groups())
        else:
            program, *words = line.split()
            assert program == "mailtasks"
            assert run(words) == 0
