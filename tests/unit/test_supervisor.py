"""What each process is told to do, and when one is started again."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from mailtasks.errors import SettingsError
from mailtasks.guard import LEASH
from mailtasks.settings import Settings
from mailtasks.supervisor import Supervisor, celery_command, pause_before, roles


def test_one_process_is_for_urgent_and_normal_mail_only() -> None:
    every = ("mailtasks-1-urgent", "mailtasks-2-normal", "mailtasks-3-bulk")
    assert roles(2) == {"urgent": every[:2], "worker1": every, "worker2": every}


def test_the_queues_are_those_of_the_namespace() -> None:
    assert roles(1, "shop")["urgent"] == ("shop-1-urgent", "shop-2-normal")


def test_the_command_line_of_a_process() -> None:
    node = f"urgent-{os.getpid()}@%h"  # two supervisors may share a host
    assert celery_command("proj", "urgent", ("a", "b"), ("-c", "4")) == (
        *(sys.executable, "-m", "celery", "-A", "proj", "worker", "-n", node, "-Q", "a,b"),
        *("--without-mingle", "--without-gossip", "-c", "4"),
    )


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (7, 30), (2000, 30)]
)
def test_a_process_that_dies_at_once_is_started_again_later_and_later(failures: int, seconds: float) -> None:
    assert pause_before(failures) == seconds


@pytest.mark.parametrize("name", ["processes", "concurrency"])
def test_fewer_than_one_is_refused(name: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Supervisor(Settings(), **{name: 0})
    assert str(refusal.value) == f"{name}: 0 is too few; expected at least 1"


def test_a_supervisor_that_doesnt_run_has_no_processes() -> None:
    assert Supervisor(Settings()).pids == {}
    assert LEASH not in os.environ


@pytest.mark.parametrize("asked_for", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_nohup_asked_for_stays_so(asked_for: signal.Handlers) -> None:
    before = signal.signal(signal.SIGHUP, asked_for)
    try:
        with Supervisor(Settings())._listening():
            heard = signal.getsignal(signal.SIGHUP)
            assert (heard is signal.SIG_IGN) == (asked_for is signal.SIG_IGN)
        assert signal.getsignal(signal.SIGHUP) is asked_for
    finally:
        signal.signal(signal.SIGHUP, before)
