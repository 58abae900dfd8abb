"""A real Flower beside a real worker: what it shows, and to whom."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from mailtasks.errors import SettingsError
from mailtasks.flower import MAX_TASKS, RECONNECT, _configure, _demand_login, _hear, run_flower
from mailtasks.local.processes import Child
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.publish import NORMAL_QUEUE
from mailtasks.settings import Settings
from mailtasks.testing import CatchingServer, LocalRedis, program
from mailtasks.testing import wait_until as wait_until_within

pytest.importorskip("flower", reason="Flower isn't installed; pip install 'mailtasks[flower]'")

wait_until = partial(wait_until_within, timeout=30)  # seconds; other tests may run beside these

APP = """
import os
from celery import Celery
from mailtasks import transport
from mailtasks.publish import queues

app = Celery("probe", broker=os.environ["MAILTASKS_BROKER_URL"])
app.conf.update(task_queues=queues(), task_ignore_result=True, worker_send_task_events=True)
transport.install(app)


@app.task(name="mailtasks.deliver")
def deliver(id):
    pass
"""

MAIN = """
import json, sys
from mailtasks.errors import SettingsError
from mailtasks.flower import run_flower
from mailtasks.settings import Settings

try:
    sys.exit(run_flower(Settings.load(), **json.loads(sys.argv[1])))
except SettingsError as error:
    sys.exit(f"mailtasks: {error}")
"""

LOGIN = "ann:let-me-in"
PAGES = ("/", "/workers", "/tasks", "/broker")
PROTECTED = (*PAGES, "/tasks/datatable", "/api/workers", "/api/tasks", "/api/queues/length")


def get(port: int, path: str, login: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if login:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()
    except urllib.error.URLError as nobody:
        return 0, str(nobody)


class Flowers:
    """Starts processes that all see the same broker, and ends them."""

    def __init__(self, broker: str, folder: Path, **settings: str) -> None:
        (folder / "probe.py").write_text(APP)
        self.folder = folder
        self.children: list[Child] = []
        self._environment = {
            **os.environ,
            "MAILTASKS_BROKER_URL": broker,
            **{f"MAILTASKS_{name.upper()}": value for name, value in settings.items()},
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        }

    def start(self, *command: str, log: str) -> Child:
        start_here = f"cd '{self.folder}' && exec \"$@\""
        self.children.append(
            Child(
                ["sh", "-c", start_here, "sh", sys.executable, *command],
                environment=self._environment,
                output=self.folder / log,
            )
        )
        return self.children[-1]

    def flower(self, log: str = "flower.log", **arguments: object) -> Child:
        return self.start("-c", MAIN, json.dumps(arguments), log=log)

    def worker(self) -> Child:
        options = ("-P", "threads", "-c", "2", "-n", "probe@%h", "--without-mingle", "--without-gossip")
        return self.start("-m", "celery", "-A", "probe", "worker", "-l", "INFO", *options, log="worker.log")

    def mail_worker(self) -> Child:
        """A worker of ours, with the tasks that deliver mail."""
        options = ("-P", "threads", "-c", "2", "--without-mingle", "--without-gossip")
        return self.start("-m", "celery", "-A", "mailtasks", "worker", "-l", "INFO", *options, log="mail.log")

    def said(self, log: str) -> str:
        return (self.folder / log).read_text()


@pytest.fixture
def flowers(redis_url: str, tmp_path: Path, sink: CatchingServer) -> Iterator[Flowers]:
    flowers = Flowers(redis_url, tmp_path, relay=sink.url)
    yield flowers
    for child in flowers.children:
        child.stop()


def test_on_loopback_without_a_login_the_pages_are_open_and_the_api_isnt(flowers: Flowers) -> None:
    port = free_port()
    flower = flowers.flower(port=port)
    wait_until(lambda: get(port, "/healthcheck")[0] == 200, what="Flower")
    assert {path: get(port, path)[0] for path in PAGES} == dict.fromkeys(PAGES, 200)
    assert get(port, "/api/tasks")[0] == 401
    assert f"Flower is at http://127.0.0.1:{port}, broker redis://" in flowers.said("flower.log")
    assert flower.stop() == 0
    assert not list(flowers.folder.glob("flower*.db")) + list(flowers.folder.glob("flower")), "no state file"


def test_with_a_login_everything_is_closed_to_others_and_the_tasks_are_shown(
    flowers: Flowers, redis_url: str
) -> None:
    port = free_port()
    flowers.flower(port=port, auth=LOGIN)
    flowers.worker()
    wait_until(lambda: get(port, "/healthcheck")[0] == 200, what="Flower")
    assert {path: get(port, path)[0] for path in PROTECTED} == dict.fromkeys(PROTECTED, 401)
    assert get(port, "/tasks", "ann:guess")[0] == 401
    wait_until(lambda: " ready." in flowers.said("worker.log"), what="the worker")
    id = Celery("producer", broker=redis_url, set_as_current=False).send_task(
        "mailtasks.deliver", args=["batch-1"], queue=NORMAL_QUEUE
    )
    tasks = wait_until(lambda: tasks_in(port, "SUCCESS"), what="the task in Flower's list")
    assert tasks[str(id)]["name"] == "mailtasks.deliver"
    assert get(port, "/tasks", LOGIN)[0] == 200


def tasks_in(port: int, state: str) -> dict[str, dict[str, str]]:
    tasks = json.loads(get(port, "/api/tasks", LOGIN)[1])
    return {id: task for id, task in tasks.items() if task["state"] == state}


def test_a_deferred_mail_is_shown_as_a_retry_and_nothing_private_with_it(
    flowers: Flowers, redis_url: str
) -> None:
    port = free_port()
    flowers.flower(port=port, auth=LOGIN)
    wait_until(lambda: get(port, "/healthcheck")[0] == 200, what="Flower")
    flowers.mail_worker()
    wait_until(
        lambda: json.loads(get(port, "/api/workers?status=true", LOGIN)[1]), what="the worker in Flower"
    )
    with Mailer(Settings(broker_url=redis_url, default_from="hush-sender@example.com")) as mailer:
        id = mailer.send(Message(to="defer@hush.example", subject="hush subject", text="hush text"))
    task = wait_until(lambda: tasks_in(port, "RETRY").get(id), what="the mail in Flower's list")
    assert task["name"] == "mailtasks.deliver"
    assert task["args"] == f"('{id.partition('.')[0]}',)"
    assert "451 4.3.0" in task["traceback"]
    shown = get(port, "/api/tasks", LOGIN)[1] + get(port, f"/task/{id}", LOGIN)[1]
    assert id in shown
    assert "hush" not in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_good_order_while_redis_is_away(
    own_redis: LocalRedis, tmp_path: Path, number: int
) -> None:
    flowers = Flowers(own_redis.url, tmp_path)
    with flowers.flower(port=free_port()) as flower:
        wait_until(lambda: flowers.said("flower.log").count("Inspect method") == 4, what="four answers")
        own_redis.kill()
        # Twice takes longer than the 5 s after which a thread that has been connected waits for Redis.
        wait_until(lambda: flowers.said("flower.log").count("no events can be heard") == 2)
        before = flowers.said("flower.log")
        flower.signal(number)
        assert flower.wait(10) == 0
    assert "Traceback" not in flowers.said("flower.log").removeprefix(before)


def test_it_listens_again_at_a_steady_pace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise SystemExit

    def connection() -> None:
        raise OSError("Connection refused")

    monkeypatch.setattr("mailtasks.flower.time.sleep", pause)
    with pytest.raises(SystemExit):
        _hear(SimpleNamespace(capp=SimpleNamespace(connection=connection)))
    assert pauses == [RECONNECT] * 5
    assert caplog.messages[-1] == "no events can be heard (Connection refused); trying again in 5 s"


def in_a_browser(port: int, path: str, profile: Path) -> str:
    """The page as it is once its scripts have run."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=5000")
    quiet = ("--disable-background-networking", "--disable-breakpad", f"--user-data-dir={profile}")
    browser = [program("chromium"), *options, *quiet, "--dump-dom", f"http://127.0.0.1:{port}{path}"]
    return subprocess.run(browser, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.needs("chromium")
def test_a_browser_shows_a_mails_task_and_nothing_private(
    road: Callable[..., Any], own_redis: LocalRedis, tmp_path: Path
) -> None:
    flowers, port, way = Flowers(own_redis.url, tmp_path), free_port(), road()
    with flowers.flower(port=port):
        wait_until(lambda: "Connected to redis" in flowers.said("flower.log"), what="its connection")
        way.start_worker("-E")
        (id,) = way.send(Message(to="Hush <hush@example.com>", subject="Whisper", text="A secret"))
        way.wait_for_end().agree()
        wait_until(lambda: "SUCCESS" in get(port, f"/task/{id}")[1], what="the task")
        for path in ("/tasks", f"/task/{id}"):
            page = in_a_browser(port, path, tmp_path / "profile")
            assert "mailtasks.deliver" in page
            assert id in page
            assert not re.search("hush|whisper|secret", page, re.IGNORECASE)


def test_without_a_login_it_binds_to_loopback_only(flowers: Flowers) -> None:
    assert flowers.flower(port=free_port(), address="0.0.0.0").wait(30) == 1
    assert flowers.said("flower.log").strip().splitlines()[-1] == (
        "mailtasks: Flower on 0.0.0.0 would be open to anybody who can reach it; "
        "give it a login (MAILTASKS_FLOWER_AUTH=USER:PASSWORD), or bind it to 127.0.0.1"
    )


def test_a_port_that_is_taken_is_told_in_one_sentence(flowers: Flowers, redis_url: str) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    assert flowers.flower(port=port).wait(30) == 1
    assert flowers.said("flower.log").strip().splitlines()[-1] == (
        f"mailtasks: Flower can't listen on 127.0.0.1:{port} (Address already in use); "
        "choose another port (MAILTASKS_FLOWER_PORT) or address"
    )


@pytest.mark.parametrize(
    "login", [{"basic_auth": [LOGIN], "auth": ""}, {"basic_auth": [], "auth": ".*@example.com"}]
)
def test_with_a_login_it_may_listen_everywhere(login: dict[str, object]) -> None:
    _demand_login(SimpleNamespace(address="", **login))


def test_what_could_open_the_door_or_fill_the_memory_isnt_left_to_flowers_options() -> None:
    options = SimpleNamespace(max_tasks=100_000, persistent=True, unix_socket="/tmp/flower", basic_auth=None)
    _configure(options, "127.0.0.1", 5555, LOGIN)
    assert vars(options) == {
        "address": "127.0.0.1",
        "port": 5555,
        "unix_socket": "",
        "max_tasks": MAX_TASKS,
        "persistent": False,
        "basic_auth": [LOGIN],
    }


def test_flowers_absence_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flower", None)
    with pytest.raises(SettingsError) as refusal:
        run_flower(Settings())
    assert str(refusal.value).startswith("Flower can't be imported (")
    assert str(refusal.value).endswith("); install it: pip install 'mailtasks[flower]'")
