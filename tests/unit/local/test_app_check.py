"""An app is loaded as a worker would load it, and what it prints meanwhile is no verdict."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailtasks.local.app_check import why_not

SHOP = """
import os
from celery import Celery

print("No module named 'shop'")
app = Celery(os.environ["SHOP"])
"""

BUSY = """
import threading
from celery import Celery

threading.Thread(target=threading.Event().wait).start()
app = Celery("busy")
"""


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(SHOP)


def test_an_app_in_this_folder_that_is_talkative() -> None:
    assert why_not("shop", {**os.environ, "SHOP": "shop"}) == ""


def test_the_environment_counts() -> None:
    assert why_not("shop") == "KeyError: 'SHOP'"


def test_our_own_and_the_demos() -> None:
    assert why_not("mailtasks") == why_not("mailtasks.local.demo_app") == ""


def test_an_app_that_starts_a_thread(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    assert why_not("busy") == ""
