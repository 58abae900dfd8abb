"""Which pools are refused, what each process is told to do, and when one is started again."""

from __future__ import annotations

import os
import sys

import pytest
from celery import Celery
from celery.concurrency import prefork, solo, thread

from mailtasks import worker
from mailtasks.errors import SettingsError
from mailtasks.settings import Settings
from mailtasks.worker import Supervisor, celery_command, pause_before, refuse_pool, roles


def pool_of(module: str) -> type:
    return type("TaskPool", (), {"__module__": f"celery.concurrency.{module}"})


@pytest.mark.parametrize(
    ("pool", "name"),
    [(prefork.TaskPool, "prefork"), (pool_of("eventlet"), "eventlet"), (pool_of("gevent"), "gevent")],
)
def test_a_pool_without_threads_is_refused_in_one_sentence(
    pool: type, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        refuse_pool(pool)
    assert refusal.value.code == 2
    assert capsys.readouterr().err == (
        f"mailtasks: the {name} pool is not supported (connections and leases are shared by threads); "
        "start the worker with -P threads\n"
    )


@pytest.mark.parametrize("pool", [thread.TaskPool, solo.TaskPool, type("Own", (thread.TaskPool,), {})])
def test_threads_and_for_debugging_solo_may_run(pool: type) -> None:
    refuse_pool(pool)


def test_install_guards_this_app_only_and_once() -> None:
    app, other = Celery("guarded", set_as_current=False), Celery("other", set_as_current=False)
    worker.install(app)
    worker.install(app)
    assert app.steps["worker"] == {worker.Guard}
    assert other.steps["worker"] == set()


def test_without_a_supervisor_there_is_no_leash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(worker.LEASH, raising=False)
    worker.obey_leash()


def test_one_process_is_for_urgent_and_normal_mail_only() -> None:
    every = ("mailtasks-1-urgent", "mailtasks-2-normal", "mailtasks-3-bulk")
    assert roles(2) == {"urgent": every[:2], "worker1": every, "worker2": every}


def test_the_queues_are_those_of_the_namespace() -> None:
    assert roles(1, "shop")["urgent"] == ("shop-1-urgent", "shop-2-normal")


def test_the_command_line_of_a_process() -> None:
    assert celery_command("proj", "urgent", ("a", "b"), ("-c", "4")) == (
        *(sys.executable, "-m", "celery", "-A", "proj", "worker", "-n", "urgent@%h", "-Q", "a,b"),
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
    assert worker.LEASH not in os.environ
