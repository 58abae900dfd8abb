import os
import signal
import subprocess
import sys
import threading

import pytest

from mailtasks.local.processes import Child, living, told_to_end
from mailtasks.testing import wait_until

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [SLEEP[0], "-c", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP[2]}"]
PARENT = """
import subprocess, sys, time
from pathlib import Path
from mailtasks.local.processes import Child
child = Child(sys.argv[2:], output=subprocess.PIPE, debris=Path(sys.argv[1]))
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "Z"


def started(command):
    child = Child(command, output=subprocess.PIPE)
    assert child.stdout.readline() == "up\n"
    return child


def test_the_pid_is_the_commands_own():
    with Child([sys.executable, "-c", "import os; print(os.getpid())"], output=subprocess.PIPE) as child:
        assert int(child.stdout.readline()) == child.pid


def test_the_exit_code_is_the_commands_own():
    with Child([sys.executable, "-c", "raise SystemExit(7)"]) as child:
        assert child.wait(10) == 7


def test_a_command_that_is_not_there_has_the_shells_exit_code():
    with Child(["/no/such/program"]) as child:
        assert child.wait(10) == 127


def test_stop_asks_first():
    child = started(SLEEP)
    assert child.running
    assert child.stop() == -signal.SIGTERM
    assert not child.running


def test_stop_kills_what_does_not_listen():
    assert started(STUBBORN).stop(timeout=0.1) == -signal.SIGKILL


def test_stopping_twice_is_harmless():
    child = started(SLEEP)
    assert child.stop() == child.stop()


def test_living_tells_what_was_not_stopped():
    child = started(SLEEP)
    assert child in living()
    child.kill()
    assert child not in living()


def test_output_goes_to_a_file(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    with Child(
        [sys.executable, "-c", "import sys; print(1); print(2, file=sys.stderr)"], output=log
    ) as child:
        child.wait(10)
    assert sorted(log.read_text().split()) == ["1", "2", "before"]


def test_the_environment_is_what_was_given():
    command = ["/usr/bin/env"]
    with Child(command, environment={"ONLY": "this"}, output=subprocess.PIPE) as child:
        assert "ONLY=this\n" in child.stdout.readlines()


def test_ctrl_c_in_the_terminal_does_not_reach_a_child():
    with started(SLEEP) as child:
        assert os.getpgid(child.pid) != os.getpgid(0)


@pytest.mark.parametrize("command", [SLEEP, STUBBORN], ids=["listens", "stubborn"])
def test_a_child_dies_with_a_killed_parent(command, tmp_path):
    debris = tmp_path / "debris"
    debris.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(debris), *command], stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.kill()
    parent.communicate()
    wait_until(lambda: gone(pid), what="the child's end")
    wait_until(lambda: not debris.exists(), what="the removal of the debris")


def test_a_child_outlives_the_thread_that_started_it():
    started_here = []
    thread = threading.Thread(target=lambda: started_here.append(started(SLEEP)))
    thread.start()
    thread.join()
    with started_here[0] as child:
        assert child.running


def test_the_debris_of_a_child_that_was_stopped_is_left_to_its_parent(tmp_path):
    Child(SLEEP, debris=tmp_path).stop()
    assert tmp_path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_catches_the_signal_and_puts_the_handlers_back(number):
    before = signal.signal(number, signal.SIG_DFL)  # under `nohup` SIGHUP would be ignored
    try:
        with told_to_end() as told:
            assert not told.is_set()
            os.kill(os.getpid(), number)
            assert told.wait(5)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_what_nohup_asked_for_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with told_to_end() as told:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            assert told.wait(5)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
