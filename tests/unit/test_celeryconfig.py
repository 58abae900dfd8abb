"""`celeryconfig.py`, the file that users copy, says what mailtasks does by itself."""

import importlib.util
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from mailtasks.celery import _WORKER_DEFAULTS
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.publish import DELIVER, configuration
from mailtasks.settings import Settings

FILE = Path(__file__).parents[2] / "celeryconfig.py"
LEFT_OUT = {"broker_url", "broker_use_ssl"}  # the broker is a setting of mailtasks


@pytest.fixture(scope="module")
def copied() -> ModuleType:
    spec = importlib.util.spec_from_file_location("copied_celeryconfig", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_says_everything_and_nothing_else(copied: ModuleType) -> None:
    ours = configuration(Settings()) | _WORKER_DEFAULTS
    theirs = {name: value for name, value in vars(copied).items() if name in ours or name.startswith("task_")}
    assert set(ours) - LEFT_OUT | {"task_annotations"} == set(theirs)
    for name in set(theirs) - {"task_annotations"}:
        assert theirs[name] == ours[name], name


def test_its_annotations_are_our_defaults(copied: ModuleType) -> None:
    annotations = dict(copied.task_annotations[DELIVER])
    assert annotations.pop("rate_limit") is None
    defaults = asdict(RetryPolicy())
    assert annotations == {name: defaults[name] for name in annotations}
