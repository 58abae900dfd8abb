"""The demo as a user runs it, on fewer rows, and every way in which it may end."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mailtasks.testing import descendants, wait_until

ROOT = Path(__file__).parents[2]
RECIPIENTS = ROOT / "examples" / "recipients.csv"
COMMAND = [sys.executable, "-m", "mailtasks.cli", "demo"]
INTERRUPTED = 130
CLOSE_TO_START = "Relay"  # what is said when everything but Flower and the workers runs


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

    def start(*arguments, recipients=some_rows):
        mark = f"DEMO={folder}"
        environment = dict(os.environ, TMPDIR=str(folder), DEMO=str(folder))
        # A setting of the user's that would mail real people if the demo listened to it.
        environment["MAILTASKS_RELAY"] = "smtp://127.0.0.1:1"
        process = subprocess.Popen(
            [*COMMAND, "--recipients", str(recipients), *arguments],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        process.left = lambda: descendants(mark) + [str(path) for path in folder.iterdir()]
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    wait_until(
        lambda: not any(process.left() for process in started), timeout=60, what="the end of its processes"
    )


def test_every_mail_ends_as_it_should_and_nothing_is_left(demo):
    process = demo("--once")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "Every mail ended as it should" in output
    assert "550 5.1.1 no such user here" in output
    assert process.left() == []


@pytest.mark.slow
def test_the_whole_file(demo):
    process = demo("--once", recipients=RECIPIENTS)
    output, _ = process.communicate(timeout=110)
    assert process.returncode == 0, output
    assert process.left() == []


def reached(process, word):
    return any(word in line for line in iter(process.stdout.readline, ""))


@pytest.mark.parametrize("word", ["Redis", "finished"], ids=["starting", "sending"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_good_order(demo, number, word):
    process = demo()
    assert reached(process, word)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert process.left() == []


def test_killed_it_leaves_nothing_either(demo):
    process = demo()
    assert reached(process, "finished")
    process.kill()
    process.communicate()
    wait_until(lambda: not process.left(), timeout=60, what="the end of all that it had started")


def test_a_file_that_is_not_there_starts_nothing(demo, tmp_path):
    process = demo(recipients=tmp_path / "nobody.csv")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "can't be read: No such file or directory; name a CSV file of recipients" in output
    assert process.left() == []
