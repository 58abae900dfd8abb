import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from mailtasks.campaign import CampaignStatus
from mailtasks.cli import campaign_status
from mailtasks.cli.campaign_status import Pace, print_status, unsent, watch
from mailtasks.errors import StoreUnavailable
from mailtasks.state import State

ROOT = Path(__file__).parents[3]
BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def status(state="running", reason="", **states):
    counts = {one: states.get(one.value, 0) for one in State}
    return CampaignStatus("spring", state, sum(counts.values()), counts, BEGUN, reason)


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    one = Clock()
    monkeypatch.setattr(campaign_status, "time", one)
    return one


def campaign(*looks):
    """One that is found so, look after look."""
    left = iter(looks)

    def look():
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return SimpleNamespace(status=look)


# The rate


def test_the_pace_is_that_of_the_last_seconds():
    pace = Pace()
    pace.note(0, 0.0)
    assert (pace.a_second, pace.left(10)) == (0, None)
    for second in range(1, 41):
        pace.note(second * 10 if second <= 20 else 200 + (second - 20) * 100, float(second))
    assert pace.a_second == 100
    assert str(pace.left(4500)) == "0:00:45"
    pace.note(0, 41.0)
    assert pace.a_second == 0, "a retry has made less of it"


# Words


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            status(queued=30, sent=10, suppressed=2),
            "12 of 42 (28 %), 0/s, -; sent 10, deferred 0, failed 0, queued 30, suppressed 2",
        ),
        (
            status("paused", "lunch", queued=1000, failed=500),
            "500 of 1,500 (33 %), paused: lunch; sent 0, deferred 0, failed 500, queued 1,000",
        ),
        (status("finished", sent=1), "1 of 1 (100 %), finished; sent 1, deferred 0, failed 0"),
        (status("finished"), "0 of 0 (0 %), finished; sent 0, deferred 0, failed 0"),
    ],
)
def test_a_line(clock, capsys, found, line):
    over = status("finished", sent=1)
    watch(campaign(found, over))
    assert capsys.readouterr().err.splitlines()[0] == line


def test_who_should_have_got_it_and_hasnt():
    assert (
        unsent(status(sent=1, queued=2, suppressed=4, failed=8, expired=16, in_doubt=32, cancelled=64)) == 120
    )


def test_all_of_it(capsys):
    found = CampaignStatus(
        "spring",
        "paused",
        7,
        {one: {"sent": 3, "queued": 4}.get(one.value, 0) for one in State},
        BEGUN,
        "lunch",
        rate=2.5,
        subject="Hi {{ name }}",
        tags=("a", "b"),
        ends_at=BEGUN,
    )
    print_status(found)
    moment = BEGUN.astimezone().isoformat(sep=" ", timespec="seconds")
    assert [re.split("  +", line) for line in capsys.readouterr().out.splitlines()] == [
        ["campaign", "spring"],
        ["state", "paused (lunch)"],
        ["subject", "Hi {{ name }}"],
        ["priority", "bulk"],
        ["begun", moment],
        ["ends", moment],
        ["messages a second, at most", "2.5"],
        ["tags", "a, b"],
        [""],
        ["STATE", "PEOPLE"],
        ["queued", "4"],
        ["sent", "3"],
        ["all", "7"],
        ["`mailtasks campaign resume spring` lets it go on"],
    ]


def test_what_can_be_done_is_said(capsys):
    print_status(status("finished", sent=1, failed=1, in_doubt=1))
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "`mailtasks in-doubt list` shows whose mail may have arrived, and what can be done",
        "`mailtasks campaign failures spring` says why, `mailtasks campaign retry spring` tries again",
    ]


def test_one_that_was_interrupted_says_how_it_goes_on(capsys):
    print_status(status("open", queued=1))
    hint = "it takes more people: if `campaign send` was interrupted, the same command goes on with it"
    assert hint in capsys.readouterr().out.splitlines()


# Watching, without a terminal


def test_a_line_now_and_then_and_when_its_state_changes(clock, capsys):
    running = [status(queued=100 - number, sent=number) for number in range(30)]
    over = status("finished", sent=100)
    assert watch(campaign(*running, status("paused", queued=50, sent=50), over)) is over
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(";")[0] for line in lines] == [
        "0 of 100 (0 %), 0/s, -",
        "20 of 100 (20 %), 2/s, 0:00:40 left",
        "50 of 100 (50 %), paused",
        "100 of 100 (100 %), finished",
    ]
    assert set(clock.slept) == {0.5}


def test_redis_may_be_away_for_a_minute(clock, capsys):
    away = StoreUnavailable("Redis is away")
    over = status("finished", sent=1)
    assert watch(campaign(*[away] * 100, status(queued=1), *[away] * 100, over)) is over
    assert "0 of 1 (0 %), Redis can't be reached, waiting; " in capsys.readouterr().err
    with pytest.raises(StoreUnavailable, match="Redis is away"):
        watch(campaign(*[away] * 1000))
    assert clock.now - 1000 == pytest.approx(50 + 0.5 + 50 + 60, abs=1)


# On a terminal


SHOWN = """
import sys
from datetime import datetime, UTC
from mailtasks.campaign import CampaignStatus
from mailtasks.cli import campaign_status
from mailtasks.state import State

class Campaign:
    sent = 0
    def status(self):
        self.sent += 21
        counts = {one: {"queued": 42 - self.sent, "sent": self.sent}.get(one.value, 0) for one in State}
        state = "finished" if self.sent == 42 else "running"
        return CampaignStatus("spring", state, 42, counts, datetime.now(UTC))

campaign_status._LOOK = 0
campaign_status.watch(Campaign())
"""


@pytest.mark.parametrize("rich", [True, False])
def test_on_a_terminal_a_bar_grows_if_rich_is_there(rich):
    ours, its = pty.openpty()
    code = SHOWN if rich else f"import sys; sys.modules['rich.console'] = None\n{SHOWN}"
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", code], stderr=its, cwd=ROOT, env=environment) as process:
        os.close(its)
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:  # how Linux says that the other end of a terminal is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    for words in ("21 of 42 (50 %)", "42 of 42 (100 %), finished", "sent 42, deferred 0, failed 0"):
        assert words in shown.decode()
    assert ("\N{BOX DRAWINGS HEAVY HORIZONTAL}" * 30 in shown.decode()) is rich
