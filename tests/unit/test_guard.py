"""Which pools are refused, and what a worker without a supervisor does."""

from __future__ import annotations

import pytest
from celery import Celery
from celery.concurrency import prefork, solo, thread

from mailtasks import guard
from mailtasks.guard import refuse_pool


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
    guard.install(app)
    guard.install(app)
    assert app.steps["worker"] == {guard.Guard}
    assert other.steps["worker"] == set()


def test_without_a_supervisor_there_is_no_leash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(guard.LEASH, raising=False)
    guard.obey_leash()
