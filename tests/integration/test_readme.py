"""The README and the tutorial as a reader runs them: every block, in order, against real servers."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

import mailtasks
from mailtasks.local.processes import Child
from mailtasks.mailer import Mailer
from mailtasks.settings import PREFIX, Settings
from mailtasks.state import State
from mailtasks.testing import CatchingServer
from mailtasks.testing import wait_until as wait_until_within
from tests.pages import fences

wait_until = partial(wait_until_within, timeout=45)  # seconds; other tests may run beside these

pytestmark = pytest.mark.timeout(300)  # dozens of commands, each a process that imports what it needs

ROOT = Path(mailtasks.__file__).parents[1]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
KEEP_ENVIRONMENT = """
python -c 'import json, os; json.dump(dict(os.environ), open(os.environ["AFTER"], "w"))'
"""


def typed(page: Path, beginning: str) -> str:
    """The line of a console block that begins like this."""
    lines = "".join(code for language, code in fences(page) if language == "console").splitlines()
    return next(line[2:] for line in lines if line.startswith(f"$ {beginning}"))


class Reader:
    """Types what a page says, block by block, in a folder; what a shell exports holds for the next block.

    A `console` block isn't typed: it installs something, or runs until it is told to end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        programs = folder / "bin"
        programs.mkdir()
        for name, words in {"mailtasks": "-m mailtasks.cli", "python": "", "celery": "-m celery"}.items():
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
            script.chmod(0o755)
        ours = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self.environment = ours | {
            "PATH": f"{programs}{os.pathsep}{ours['PATH']}",
            "PYTHONPATH": str(ROOT),
            "AFTER": str(folder / "environment.json"),
            "MAILTASKS_TEST_SESSION": os.environ["MAILTASKS_TEST_SESSION"],
        }

    def read(self, page: Path, settle: Callable[[], object]) -> None:
        for language, code in fences(page):
            if language in TYPISTS:
                self.said.append(TYPISTS[language](self, code))
                settle()

    def python(self, code: str) -> str:
        return self._run([sys.executable, "-c", code])

    def shell(self, code: str) -> str:
        said = self._run(["bash", "-c", f"set -euo pipefail -o allexport\n{code}{KEEP_ENVIRONMENT}"])
        self.environment = json.loads((self.folder / "environment.json").read_text())
        return said

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}"
        return done.stdout

    def start(self, line: str) -> Child:
        """What runs until it is told to end."""
        program, *words = shlex.split(line)
        command = [str(self.folder / "bin" / program), *words]
        return Child(command, environment=self.environment, output=self.log)

    @property
    def log(self) -> Path:
        return self.folder / "log"


TYPISTS = {"python": Reader.python, "sh": Reader.shell}


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.chdir(tmp_path)
    return Reader(tmp_path)


@pytest.fixture
def mailer_of() -> Iterator[Callable[[str], Mailer]]:
    made: list[Mailer] = []

    def make(url: str) -> Mailer:
        made.append(Mailer(Settings(broker_url=url)))
        return made[-1]

    yield make
    for mailer in made:
        mailer.close()


def settled(mailer: Mailer, planned: int = 0) -> bool:
    """Whether nothing waits for a worker or is in its hands, but what is planned for later."""
    states = mailer.stats().states
    return states[State.QUEUED] <= planned and states[State.SENDING] == 0


def test_the_readme(reader, redis_url, sink: CatchingServer, mailer_of):
    sender = shlex.split(typed(README, "export MAILTASKS_DEFAULT_FROM"))[1].partition("=")[2]
    reader.environment |= {
        "MAILTASKS_BROKER_URL": redis_url,
        "MAILTASKS_RELAY": sink.url,
        "MAILTASKS_DEFAULT_FROM": sender,
    }
    mailer = mailer_of(redis_url)
    began = datetime.now(UTC).replace(microsecond=0)
    with reader.start(typed(README, "celery -A")):
        wait_until(lambda: " ready." in reader.log.read_text(), what="the worker's being ready")
        reader.read(README, lambda: wait_until(lambda: settled(mailer, planned=1), what="the mail's end"))
    assert Counter(to for mail in sink.messages for to in mail.recipients) == {"ann@example.com": 3}
    assert all(f"From: {sender}".encode() in mail.content for mail in sink.messages)
    [later] = mailer.find("bob@example.com")
    assert later.state is State.QUEUED
    assert began <= later.send_at - timedelta(minutes=10) <= datetime.now(UTC)
    assert "It works" not in reader.log.read_text()


def test_the_settings_that_the_readme_exports():
    lines = "".join(code for language, code in fences(README) if language == "console")
    words = shlex.split(lines)
    exported = dict(word.split("=", 1) for word in words if word.startswith(PREFIX))
    settings = Settings.load(environ=exported)
    assert settings.relay.tls == "required"
    assert settings.default_from == "The Shop <shop@example.com>"


def test_the_tutorial(reader, mailer_of):
    with reader.start(typed(TUTORIAL, "mailtasks up")) as up:
        exports = partial(re.findall, r"^ +export (\w+)=(\S+)$", flags=re.MULTILINE)
        wait_until(lambda: len(exports(reader.log.read_text())) == 2, what="the two lines to paste")
        reader.environment |= dict(exports(reader.log.read_text()))
        mailer = mailer_of(reader.environment["MAILTASKS_BROKER_URL"])
        reader.read(TUTORIAL, lambda: wait_until(lambda: settled(mailer), what="the mail's end"))
        states = {state: count for state, count in mailer.stats().states.items() if count}
        assert states == {State.SENT: 25, State.FAILED: 1}
        up.terminate()
        assert up.wait(40) == 0
    said = "\n".join(reader.said)
    for words in (
        *("deferred", "451 4.7.1 greylisted", "550 5.1.1", "would retry 1 recipient"),
        *("in_doubt", "settled 1 recipient as sent"),
    ):
        assert words in said
    twice = reader.said[-2].splitlines()
    assert len([line for line in twice if line.endswith(".eml")]) == 2
