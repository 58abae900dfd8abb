"""The demo as a user runs it, on fewer rows, and every way in which it may end."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from mailtasks.testing import descendants, wait_until

ROOT = Path(__file__).parents[2]
RECIPIENTS = ROOT / "examples" / "recipients.csv"
COMMAND = [sys.executable, "-m", "mailtasks.cli", "demo"]
INTERRUPTED = 130
STARTING, SENDING = "Redis", "finished"  # words that it says then


@pytest.fixture
def some_rows(tmp_path):
    path = tmp_path / "some.csv"
    with RECIPIENTS.open() as lines:
        path.write_text("".join(itertools.islice(lines, 101)))
    return path


@pytest.fixture
def demo(tmp_path, some_rows):
    """Start the demo, with a folder for all that it writes, and a mark by which its processes are known."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    started = []

    def start(*arguments, recipients=some_rows, stdout=subprocess.PIPE, started_by=()):
        process = subprocess.Popen(
            [*started_by, *COMMAND, "--recipients", str(recipients), *arguments],
            # The relay is a setting of the user's that would mail people if the demo listened to it.
            env=os.environ
            | {"TMPDIR": str(folder), "DEMO": str(folder), "MAILTASKS_RELAY": "smtp://127.0.0.1:1"},
            cwd=ROOT,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    def child(word):
        """The process whose command holds the word; its watcher has the same words, and the leash."""
        lines = descendants(f"DEMO={folder}")
        return next(int(line.split()[0]) for line in lines if word in line and "leash" not in line)

    start.child = child
    start.left = lambda: descendants(f"DEMO={folder}") + [str(path) for path in folder.iterdir()]
    yield start
    for process in started:
        process.kill()
        process.wait()
    wait_until(lambda: not start.left(), timeout=60, what="the end of all that the demo has started")


def test_every_mail_ends_as_it_should_and_nothing_is_left(demo):
    process = demo("--once")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "Every mail ended as it should" in output
    assert "550 5.1.1 no such user here" in output
    assert demo.left() == []


@pytest.mark.slow
def test_the_whole_file(demo):
    process = demo("--once", recipients=RECIPIENTS)
    output, _ = process.communicate(timeout=110)
    assert process.returncode == 0, output
    assert demo.left() == []


def reached(process, word):
    return any(word in line for line in iter(process.stdout.readline, ""))


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (signal.SIGINT, STARTING),
        (signal.SIGTERM, SENDING),
        slow(signal.SIGTERM, STARTING),
        slow(signal.SIGHUP, STARTING),
        slow(signal.SIGHUP, SENDING),
    ],
)
def test_a_signal_ends_it_in_good_order(demo, number, word):
    process = demo()
    assert reached(process, word)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert demo.left() == []


@pytest.mark.slow  # Redis dies with it, and its workers wait for one before they give up
def test_killed_it_leaves_nothing_either(demo):
    process = demo()
    assert reached(process, SENDING)
    process.kill()
    process.communicate()
    wait_until(lambda: not demo.left(), timeout=60, what="the end of all that it had started")


@pytest.mark.parametrize(
    ("word", "part"),
    [("mailtasks.local.sink", "the catching server"), slow("--appendonly", "Redis")],
)
def test_a_part_that_ended_by_itself_is_named(demo, word, part):
    process = demo()
    assert reached(process, SENDING)
    os.kill(demo.child(word), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"mailtasks: {part} ended by itself, and so does the demo; start it anew\n" in output
    assert demo.left() == []


def test_as_json_it_is_one_document_on_a_terminal_too(demo):
    terminal, its_end = os.openpty()
    process = demo("--json", stdout=its_end)
    os.close(its_end)
    shown = b"".join(iter(lambda: read(terminal), b""))
    os.close(terminal)
    assert process.wait(60) == 0
    result = json.loads(shown)
    assert (result["wrong"], result["stats"]["states"]["sent"] > 90) == ([], True)
    assert result["failures"]["550 5.1.1 no such user here"] > 0
    assert demo.left() == []


def read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that the other end of a terminal is closed
        return b""


def shown_until_it_stays_up(terminal):
    shown = ""
    while "Ctrl-C ends everything" not in shown:
        shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


@pytest.mark.slow  # quick: tests/unit/local/test_demo.py
def test_it_ends_with_its_terminal(demo):
    terminal, its_end = os.openpty()
    process = demo(stdout=its_end)
    os.close(its_end)
    shown_until_it_stays_up(terminal)
    os.close(terminal)
    assert process.wait(60) == 0
    assert demo.left() == []


@pytest.mark.slow  # quick: tests/unit/local/test_demo.py
def test_it_ends_with_who_started_it(demo):
    terminal, its_end = os.openpty()
    process = demo(stdout=its_end, started_by=["sh", "-c", '"$@"; true', "sh"])
    os.close(its_end)
    shown_until_it_stays_up(terminal)
    process.kill()
    wait_until(lambda: not demo.left(), timeout=60, what="the end of all that it had started")
    os.close(terminal)


def test_on_a_terminal_it_stays_up_with_flower_until_ctrl_c(demo):
    terminal, its_end = os.openpty()
    process = demo(stdout=its_end)
    os.close(its_end)
    shown = shown_until_it_stays_up(terminal)
    assert "Every mail ended as it should" in shown
    flower = re.search(r"Flower shows the tasks at (http://127.0.0.1:\d+)", shown)[1]
    with urllib.request.urlopen(flower, timeout=10) as page:
        assert b"Flower" in page.read()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    os.close(terminal)
    assert demo.left() == []


def test_a_file_that_is_not_there_starts_nothing(demo, tmp_path):
    process = demo(recipients=tmp_path / "nobody.csv")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "can't be read: No such file or directory; name a CSV file of recipients" in output
    assert demo.left() == []
