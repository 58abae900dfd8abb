"""`docs/how-to/testing.md` as a reader runs it: a conftest.py, and tests that pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import mailtasks
from mailtasks.local.faults import CONVENTION
from mailtasks.settings import PREFIX
from tests.pages import fences

PAGE = Path(mailtasks.__file__).parents[1] / "docs" / "how-to" / "testing.md"


def test_the_pages_tests_pass(tmp_path: Path) -> None:
    files = [code for language, code in fences(PAGE) if language == "python"]
    for name, code in zip(
        ("conftest.py", "test_signup.py", "test_delivery.py", "test_dialogue.py"), files, strict=True
    ):
        (tmp_path / name).write_text(code)
    kept = ("MAILTASKS_TEST_SESSION",)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)],
        cwd=tmp_path,
        env={
            name: value
            for name, value in os.environ.items()
            if name in kept or not name.startswith((PREFIX, "PYTEST_"))
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, "11 passed" in ran.stdout) == (0, True), ran.stdout


def test_its_table_has_all_words() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("| word |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`([\w-]+)`", table)) == sorted(CONVENTION)
