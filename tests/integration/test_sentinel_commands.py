"""The commands, given the URL of three sentinels: what they say and do before and after a failover."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mailtasks.errors import StoreUnavailable
from mailtasks.local.processes import Child
from mailtasks.local.redis import free_port
from mailtasks.message import Message
from mailtasks.publish import NORMAL_QUEUE
from mailtasks.state import State
from mailtasks.testing import CatchingProcess
from mailtasks.testing.sentinels import WatchedRedis

from .conftest import Road, wait_until
from .test_flower import LOGIN, get, tasks_in

MAILS = 10  # at each time
STOP_TIMEOUT = 40.0  # seconds; the supervisor gives its processes 30


class Commands:
    """Commands that run beside a Redis which sentinels watch."""

    def __init__(self, road: Road) -> None:
        self.road = road
        self.running: list[Child] = []
        self.new: set[str] = set()

    def start(self, *words: str) -> Child:
        program = [sys.executable, "-m", "mailtasks.cli", *words]
        there = ["sh", "-c", f"cd '{self.road.folder}' && exec \"$@\"", "sh", *program]
        log = self.road.folder / f"{words[0]}.log"
        self.running.append(Child(there, environment=self.road.environment(), output=log))
        wait_until(log.exists)
        return self.running[-1]

    def said(self, command: str) -> str:
        return (self.road.folder / f"{command}.log").read_text()

    def start_worker(self) -> Child:
        child = self.start("worker", "--processes", "1", "--concurrency", "2")
        wait_until(lambda: self.said("worker").count(" ready.") == 2, what="both processes")
        return child

    def send(self, name: str) -> None:
        self.road.send_singly([Message(to=f"{name}{n}@example.com", text="hello") for n in range(MAILS)])

    def send_one(self) -> bool:
        """Whether there is a master that takes it."""
        with suppress(StoreUnavailable):
            self.new |= {*self.road.send(Message(to="first@example.com", text="hello"))}
            return True
        return False


@pytest.fixture
def watched() -> Iterator[WatchedRedis]:
    with WatchedRedis() as watched:
        yield watched


@pytest.fixture
def commands(tmp_path: Path, watched: WatchedRedis, roads: list[Road]) -> Iterator[Commands]:
    with CatchingProcess() as relay:
        roads.append(Road(tmp_path, watched, relay, flower_auth=LOGIN))
        commands = Commands(roads[-1])
        yield commands
        for child in commands.running:
            child.stop(STOP_TIMEOUT)
        roads[-1].close()


def fail_over(watched: WatchedRedis) -> None:
    watched.master.kill()
    watched.wait_for_failover()


def test_worker_goes_on_after_a_failover(commands: Commands, watched: WatchedRedis) -> None:
    """With the same processes: none ends, so the supervisor has nothing to do. `check` and `queue` see it."""
    supervisor = commands.start_worker()
    commands.send("before")
    commands.road.wait_for_sent(MAILS)
    assert_well(commands)
    watched.synchronise()
    fail_over(watched)
    wait_until(commands.send_one, what="a new master for the producer")
    commands.send("after")
    books = commands.road.wait_for_end()
    books.agree()
    assert books.states == {State.SENT: 2 * MAILS + 1}
    assert_well(commands)
    assert supervisor.stop(STOP_TIMEOUT) == 0
    assert commands.said("worker").count(" ready.") == 2
    assert "starting it again" not in commands.said("worker")


def assert_well(commands: Commands) -> None:
    check = commands.road.command("check")
    assert re.search(r"ok +store +sentinel://.* answers", check)
    assert re.search(r"ok +store: role +takes writes", check)
    assert re.search(r"ok +workers +answer, and take mail", check)
    assert "nothing waits" in commands.road.command("queue")


def test_flower_shows_tasks_and_queues_after_a_failover(commands: Commands, watched: WatchedRedis) -> None:
    worker, port = commands.start_worker(), free_port()
    flower = commands.start("flower", "--port", str(port))
    wait_until(lambda: sees_new_mail(commands, port), what="a mail in Flower's list")
    watched.synchronise()
    fail_over(watched)
    commands.new.clear()
    wait_until(lambda: sees_new_mail(commands, port), what="a later mail in its list")
    commands.road.wait_for_end()
    assert worker.stop(STOP_TIMEOUT) == 0
    commands.send("nobody")
    assert waiting(port) == {NORMAL_QUEUE: MAILS}
    assert flower.stop() == 0


def sees_new_mail(commands: Commands, port: int) -> bool:
    """Whether Flower shows one of those that were sent since; it may have begun to listen after the first."""
    commands.send_one()
    return get(port, "/healthcheck")[0] == 200 and bool(tasks_in(port, "SUCCESS").keys() & commands.new)


def waiting(port: int) -> dict[str, int]:
    """The queues in which Flower sees something."""
    queues = json.loads(get(port, "/api/queues/length", LOGIN)[1])["active_queues"]
    return {queue["name"]: queue["messages"] for queue in queues if queue["messages"]}
