"""Which Python `make test-django` takes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import newer_python
from tests.newer_python import candidates, first_that_runs


def test_the_one_that_is_named_is_the_only_one(tmp_path):
    assert list(candidates({"PYTHON_DJANGO": "/usr/bin/python4"}, tmp_path)) == ["/usr/bin/python4"]


@pytest.mark.parametrize("root", [None, "root"])
def test_the_newest_first_on_the_path_or_of_pyenv(root, tmp_path):
    for version in ("3.11.7", "3.13.0", "3.13.1"):
        (tmp_path / (root or ".pyenv") / "versions" / version / "bin").mkdir(parents=True)
        (tmp_path / (root or ".pyenv") / "versions" / version / "bin" / "python").touch()
    found = list(candidates({"PYENV_ROOT": str(tmp_path / root)} if root else {}, tmp_path))
    names = [
        path.removeprefix(str(tmp_path)).partition("versions/")[2].removesuffix("/bin/python") or path
        for path in found
    ]
    assert names == ["python3.14", "python3.13", "3.13.1", "3.13.0", "python3.12"]


def test_one_that_doesnt_run_or_is_older_is_passed_over(tmp_path, monkeypatch):
    shim = tmp_path / "python3.13"
    shim.write_text("#!/bin/sh\necho not installed >&2\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setattr(
        newer_python, "_ASKED", newer_python._ASKED.replace(str(newer_python.VERSIONS), "['0.0']")
    )
    assert first_that_runs([str(tmp_path / "none"), str(shim), sys.executable]) is None
    own = ".".join(map(str, sys.version_info[:2]))
    monkeypatch.setattr(newer_python, "_ASKED", newer_python._ASKED.replace("0.0", own))
    assert first_that_runs([str(shim), sys.executable]) == sys.executable


def test_none_is_said_loudly():
    environ = os.environ | {"PYTHON_DJANGO": "/nowhere/python"}
    ran = subprocess.run([sys.executable, newer_python.__file__], capture_output=True, text=True, env=environ)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "Django 6 is NOT TESTED here: it needs Python 3.12 or later" in ran.stderr
    assert "PYTHON_DJANGO" in ran.stderr
