"""`docs/how-to/campaigns.md` and `templates.md`: each block is run, in order, and says what stands there."""

from __future__ import annotations

import shlex
import sqlite3
from pathlib import Path

import pytest

import mailtasks
from mailtasks import cli
from mailtasks.campaign import Campaign
from mailtasks.mailer import Mailer
from mailtasks.settings import Settings
from tests.pages import fences

HOW_TO = Path(mailtasks.__file__).parents[1] / "docs" / "how-to"
FILES = {"csv": "people.csv", "html": "letter.html"}


def test_the_page_of_campaigns(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAILTASKS_BROKER_URL", redis_url)
    monkeypatch.setattr("mailtasks.default._default", None)
    with sqlite3.connect("shop.db") as shop:
        shop.execute("CREATE TABLE customers (email, name, city, newsletter)")
        shop.execute("INSERT INTO customers VALUES ('eve@example.com', 'Eve', 'Porto', TRUE)")
    shop.close()
    names: dict[str, object] = {}
    for language, code in fences(HOW_TO / "campaigns.md"):
        match language:
            case "python":
                exec(code, names)
            case "console":
                for command, said in commands(code):
                    assert cli.run(command) == 0
                    assert said in capsys.readouterr().out
            case _:
                Path(FILES[language]).write_text(code)
    capsys.readouterr()
    with Mailer(Settings(broker_url=redis_url)) as mailer:
        found = {it.name: it.status() for it in Campaign.all(mailer)}
    assert {name: status.rows for name, status in found.items()} == {"spring": 2, "summer": 2, "autumn": 1}
    assert found["spring"].state == "cancelled"
    mailtasks.default_mailer().close()


def commands(code: str) -> list[tuple[list[str], str]]:
    """Each command of a block, and the line that stands below it."""
    found: list[tuple[list[str], str]] = []
    for line in code.splitlines():
        if line.startswith("$ "):
            words = shlex.split(line.partition(" > ")[0])
            assert words[:2] == ["$", "mailtasks"]
            found.append((words[2:], ""))
        else:
            found[-1] = (found[-1][0], line)
    return found


def test_the_page_of_templates(capsys: pytest.CaptureFixture[str]) -> None:
    [(_, code)] = fences(HOW_TO / "templates.md")
    exec(code, {})
    assert capsys.readouterr().out == "1 offer for Ann\n"
