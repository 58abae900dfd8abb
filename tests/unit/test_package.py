"""What `import mailtasks` costs and starts: nothing; and the module's own functions."""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import mailtasks
from mailtasks.errors import SettingsError
from mailtasks.testing import wait_until

ROOT = Path(mailtasks.__file__).parents[1]
FRAMEWORKS = {
    *("celery", "kombu", "redis", "django", "flask", "rich", "click", "flower", "tornado", "jinja2"),
    *("sqlalchemy", "fsspec"),
    *("asyncio", "ssl", "multiprocessing"),
}

PROBE = """
import sys, threading
import mailtasks
mailtasks.Message(to="ann@example.com", text="hi")
print(*{name.partition(".")[0] for name in sys.modules})
print(*(thread.name for thread in threading.enumerate()))
"""


def test_importing_it_starts_nothing_and_imports_no_framework() -> None:
    ran = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    modules, threads = ran.stdout.splitlines()
    loaded = set(modules.split())
    assert "mailtasks" in loaded
    assert loaded & FRAMEWORKS == set()
    assert threads == "MainThread"
    assert ran.stderr == ""


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    base = set(map(distribution, project["dependencies"]))
    optional = {
        distribution(line)
        for name in ("cli", "flower", "embedded", "sqlalchemy", "blobs", "zstd", "css", "django", "flask")
        for line in extras[name]
    }
    distributions = packages_distributions()
    imported = {
        distribution(name)
        for module in imported_modules()
        for name in distributions.get(module, ())
        if module != "mailtasks"
    }
    assert imported == base | optional


def distribution(requirement: str) -> str:
    """Its name, in the one spelling that all of its spellings stand for."""
    match = re.match(r"[\w.-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def imported_modules() -> set[str]:
    """The first part of each module that the package imports, wherever in a file it does."""
    names: list[str] = []
    for path in (ROOT / "mailtasks").glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_every_public_name_is_there() -> None:
    for name in mailtasks.__all__:
        assert getattr(mailtasks, name) is not None
    with pytest.raises(AttributeError, match="module 'mailtasks' has no attribute 'sendd'"):
        mailtasks.sendd  # noqa: B018


@pytest.fixture
def default(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default mailer that this test alone sees."""
    monkeypatch.setenv("MAILTASKS_BROKER_URL", redis_url)
    monkeypatch.setenv("MAILTASKS_DEFAULT_FROM", "shop@example.com")
    monkeypatch.setattr("mailtasks.default._default", None)


@pytest.mark.usefixtures("default")
def test_the_modules_functions_use_one_default_mailer() -> None:
    message = mailtasks.Message(to="ann@example.com", text="hi")
    id = mailtasks.send(message)
    other = asyncio.run(mailtasks.asend(message))
    more = mailtasks.send_many([message, message])
    more += asyncio.run(mailtasks.asend_many([message]))
    assert mailtasks.default_mailer().stats().accepted == 5 == len({id, other, *more})
    assert asyncio.run(mailtasks.astatus(other)).id == other
    assert mailtasks.status(id).state is mailtasks.State.QUEUED
    assert mailtasks.cancel(id) == 1
    assert mailtasks.retry(id).retried == 1
    assert mailtasks.send(message, id=id) == id
    assert wait_until(lambda: mailtasks.status(id).state is mailtasks.State.QUEUED)
    mailtasks.default_mailer().close()


def test_a_wrong_setting_is_said_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILTASKS_LEASE", "soon")
    monkeypatch.setattr("mailtasks.default._default", None)
    with pytest.raises(SettingsError, match=r"^lease \(environment MAILTASKS_LEASE\): 'soon' is wrong; "):
        mailtasks.send(mailtasks.Message(to="ann@example.com", text="hi"))
