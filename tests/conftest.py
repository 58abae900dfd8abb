"""Fixtures for every test: real servers of our own, nothing left behind, and no silent skips.

- `redis_url`: an empty database on a private Redis that lives as long as the session (with
  pytest-xdist: one a worker). A test that stops or kills Redis takes `own_redis` instead.
- `sink`: a catching SMTP server, new for each test.
- `database_url`: an empty database, once in a SQLite file and once on a private PostgreSQL.
- `@pytest.mark.needs("smtp-sink")`: skipped, loudly, where the program isn't there. With
  MAILTASKS_NO_SKIP=1, as in CI, that and any other skip is a failure.
- `@pytest.mark.slow`: only with `--slow` or MAILTASKS_SLOW=1.
- When the session ends, no process that it started may be left: that is a failure, too.

Bytecode is kept, whatever the environment says. Tests start hundreds of processes, each of which would
compile all of mailtasks anew; and each worker of pytest-xdist would rewrite the assertions of all tests.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailtasks.local.processes import living
from mailtasks.testing import CatchingServer, LocalRedis, descendants, empty, program
from mailtasks.testing import wait_until as wait_for_condition
from tests.postgres import LocalPostgres, missing

NO_SKIP = os.environ.get("MAILTASKS_NO_SKIP") == "1"
SLOW = os.environ.get("MAILTASKS_SLOW") == "1"
INSTALLED_BY = {"smtp-sink": "postfix", "smtp-source": "postfix", "redis-server": "redis-server"}

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MARK = f"MAILTASKS_TEST_SESSION={os.getpid()}"
os.environ.update([MARK.split("=")])


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Torn down last, since it is set up first; a watcher may need some milliseconds to end."""
    yield
    with contextlib.suppress(TimeoutError):
        wait_for_condition(lambda: not descendants(MARK), timeout=5)
    left = sorted({*map(repr, living()), *descendants(MARK)})
    assert not left, "processes were left behind:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[LocalRedis]:
    with LocalRedis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: LocalRedis) -> str:
    return empty(redis_server.start())


@pytest.fixture
def own_redis() -> Iterator[LocalRedis]:
    with LocalRedis(fsync="always") as server:
        yield server


@pytest.fixture
def sink() -> Iterator[CatchingServer]:
    with CatchingServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[LocalPostgres]:
    if reason := missing():
        pytest.skip(reason)
    with LocalPostgres() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_app_stays_installed() -> Iterator[None]:
    """`mailtasks.send()` and `send_mail` go through the app that was installed last."""
    yield
    if module := sys.modules.get("mailtasks.celery"):
        module.__dict__["_installed"] = None


@pytest.fixture
def own_postgres() -> Iterator[LocalPostgres]:
    if reason := missing():
        pytest.skip(reason)
    with LocalPostgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        (tmp_path / "shop.db").touch()
        return f"sqlite:///{tmp_path / 'shop.db'}"
    server: LocalPostgres = request.getfixturevalue("postgres_server")
    return server.empty()


@pytest.fixture(scope="session")
def session_mark() -> str:
    return MARK


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., object]:
    return wait_for_condition


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", default=SLOW, help="run the slow tests, too")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Each worker of pytest-xdist begins with another folder; of the rest, others have made the bytecode."""
    config = session.config
    if hasattr(config, "workerinput") and config.args == config.getini("testpaths"):
        tests = Path(__file__).parent
        folders = sorted({str(tests / file.relative_to(tests).parts[0]) for file in tests.rglob("test_*.py")})
        number = int(config.workerinput["workerid"].removeprefix("gw"))
        begin = len(folders) * number // config.workerinput["workercount"]
        config.args = folders[begin:] + folders[:begin]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path)  # stable, and the same for every worker
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if program(name) is None:
                pytest.skip(f"{name} isn't there; install it: apt-get install {INSTALLED_BY.get(name, name)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    return _without_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    return _without_skip(report)


def _without_skip(report: Any) -> Any:
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"with MAILTASKS_NO_SKIP=1 a skip is a failure: {reason}"
    return report
