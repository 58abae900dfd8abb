"""Several worker processes: started, started again, stopped, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from celery import Celery

from mailtasks.local.processes import Child
from mailtasks.local.redis import LocalRedis
from mailtasks.publish import NORMAL_QUEUE
from mailtasks.testing import wait_until as wait_until_within

wait_until = partial(wait_until_within, timeout=30)  # seconds; other tests may run beside these

APP = """
import os, sys, time
from celery import Celery
from mailtasks import guard, transport
from mailtasks.publish import queues

if "DIE" in os.environ:
    sys.exit(int(os.environ["DIE"]))

app = Celery("probe", broker=os.environ["BROKER"])
app.conf.update(task_queues=queues(), task_ignore_result=True, worker_prefetch_multiplier=1)
transport.install(app)
guard.install(app)


@app.task(name="work")
def work(seconds):
    note("begun")
    time.sleep(seconds)
    note("done")


def note(what):
    with open(os.environ["BOOK"], "a") as book:
        book.write(what + "\\n")
"""

MAIN = """
import sys
from mailtasks.settings import Settings
from mailtasks.supervisor import Supervisor

sys.exit(Supervisor(Settings(), processes=1, concurrency=2, app="probe", grace=float(sys.argv[1])).run())
"""


class Team:
    """A supervisor with its processes, and the book in which their tasks take notes."""

    def __init__(self, redis: LocalRedis, folder: Path, *, grace: float = 20, **environment: str) -> None:
        (folder / "probe.py").write_text(APP)
        self.log, self._book = folder / "log", folder / "book"
        self._app = Celery("producer", broker=redis.url, set_as_current=False)
        self.supervisor = Child(
            [sys.executable, "-c", MAIN, str(grace)],
            environment={
                **os.environ,
                "BROKER": redis.url,
                "BOOK": str(self._book),
                "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
                **environment,
            },
            output=self.log,
        )

    def said(self) -> str:
        return self.log.read_text()

    def sentences(self) -> list[str]:
        return [line for line in self.said().splitlines() if line.startswith("mailtasks: ")]

    def notes(self) -> list[str]:
        return self._book.read_text().split() if self._book.exists() else []

    def send(self, seconds: float) -> None:
        self._app.send_task("work", args=[seconds], queue=NORMAL_QUEUE, retry=False)

    def processes(self) -> dict[str, int]:
        """The pid of each worker process by its role."""
        supervisor = self.supervisor.pid
        pids = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        words = {int(pid): Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in pids}
        names = {line[line.index("-n") + 1]: pid for pid, line in words.items() if "-n" in line}
        return {name.removesuffix(f"-{supervisor}@%h"): pid for name, pid in names.items()}

    def wait_until_ready(self, times: int = 2) -> None:
        wait_until(lambda: self.said().count(" ready.") >= times, what="the workers' being ready")


@pytest.fixture
def start(own_redis: LocalRedis, tmp_path: Path) -> Iterator[Callable[..., Team]]:
    teams: list[Team] = []

    def start(**options: object) -> Team:
        teams.append(Team(own_redis, tmp_path, **options))
        return teams[-1]

    yield start
    for team in teams:
        team.supervisor.kill()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_processes_are_started_started_again_and_stopped_in_good_order(start: Callable[..., Team]) -> None:
    team = start()
    team.wait_until_ready()
    first = team.processes()
    assert set(first) == {"urgent", "worker1"}
    assert team.said().count("exchange=mailtasks(direct) key=mailtasks-1-urgent") == 2
    assert team.said().count("exchange=mailtasks(direct) key=mailtasks-3-bulk") == 1

    os.kill(first["urgent"], signal.SIGKILL)
    team.wait_until_ready(3)
    second = team.processes()
    assert second["urgent"] != first["urgent"]
    assert second["worker1"] == first["worker1"]
    assert "mailtasks: urgent was ended by SIGKILL; " in team.said()
    assert "starting it again" in team.sentences()[-1]

    team.send(1.0)
    wait_until(lambda: team.notes() == ["begun"])
    assert team.supervisor.stop() == 0
    assert team.notes() == ["begun", "done"]
    assert team.sentences()[-1] == (
        "mailtasks: stopping: 2 processes finish what they are sending, for at most 20 s; "
        "a second signal kills them"
    )
    assert not any(map(is_running, second.values()))


def test_a_second_signal_kills(start: Callable[..., Team]) -> None:
    team = start()
    team.wait_until_ready()
    team.send(60)
    wait_until(lambda: team.notes() == ["begun"])
    team.supervisor.signal(signal.SIGINT)
    wait_until(lambda: "stopping: " in team.said())
    team.supervisor.signal(signal.SIGINT)
    assert team.supervisor.wait(30) == 1
    assert team.sentences()[-1].endswith(
        " was killed; the fate of what it was sending is known when its lease ends"
    )


def test_what_doesnt_end_in_time_is_killed(start: Callable[..., Team]) -> None:
    team = start(grace=0.5)
    team.wait_until_ready()
    team.send(60)
    wait_until(lambda: team.notes() == ["begun"])
    asked = time.monotonic()
    team.supervisor.terminate()
    assert team.supervisor.wait(30) == 1
    assert time.monotonic() - asked < 30
    assert " was killed; " in team.sentences()[-1]


def test_processes_end_in_good_order_when_their_supervisor_is_killed(start: Callable[..., Team]) -> None:
    team = start()
    team.wait_until_ready()
    processes = team.processes()
    team.send(1.0)
    wait_until(lambda: team.notes() == ["begun"])
    team.supervisor.kill()
    wait_until(lambda: not any(map(is_running, processes.values())), what="the end of the orphans")
    assert team.notes() == ["begun", "done"]


def test_a_process_that_dies_at_once_is_started_again_with_growing_pauses(start: Callable[..., Team]) -> None:
    team = start(DIE="1")
    sentence = (
        "mailtasks: worker1 ended with exit code 1; 2 in a row just after a start; starting it again in 2 s"
    )
    wait_until(lambda: sentence in team.sentences(), what="the end of the second start")


def test_what_cant_be_started_at_all_ends_the_supervisor(start: Callable[..., Team]) -> None:
    team = start(DIE="2")
    assert team.supervisor.wait(30) == 2
    assert any(
        line.endswith(" can't be started (exit code 2); see what it said above") for line in team.sentences()
    )


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["-P", "prefork"], marks=pytest.mark.slow),
        ["-P", "processes", "-c", "4"],
    ],
)
def test_a_users_own_app_cant_run_on_celerys_default_pool(
    redis_url: str, tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "probe.py").write_text(APP)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "celery", "-A", "probe", "worker", *options],
        env={**os.environ, "BROKER": redis_url, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.strip() == (
        "mailtasks: the prefork pool is not supported (connections and leases are shared by threads); "
        "start the worker with -P threads"
    )
