"""`docs/how-to/django.md` as a reader runs it: every block, in order."""

from __future__ import annotations

import unittest
from pathlib import Path
from types import ModuleType

import django
import pytest
from django.conf import settings
from django.core.management import call_command
from django.test.utils import setup_test_environment, teardown_test_environment

import mailtasks
from tests.pages import fences

PAGE = Path(mailtasks.__file__).parents[1] / "docs" / "how-to" / "django.md"
SETTINGS = {"EMAIL_BACKEND", "INSTALLED_APPS", "MAILTASKS", "MAILERS"}


def test_the_page_does_what_it_says(outbox, queue, override, capsys):
    page = ModuleType("page")
    names = vars(page)
    names["INSTALLED_APPS"] = []
    for language, code in fences(PAGE):
        if language == "console":
            type_in(code)
            continue
        exec(compile(code, PAGE.name, "exec", dont_inherit=True), names)
        said = {name: names.pop(name) for name in SETTINGS & names.keys() if name != "INSTALLED_APPS"}
        if said:
            set_up(said, names["INSTALLED_APPS"], queue, override)

    assert [row.state for row in outbox()] == ["waiting"] * 2, "a bill, a welcome"
    call_command("mailtasks", "outbox", "run", "--once")
    [id] = names["message"].mailtasks_ids
    assert mailtasks.status(id).subject == "Ja, Ann, welcome"
    assert "queued urgent" in capsys.readouterr().out
    assert mailtasks.default_mailer().stats().accepted == 4, "and before these a code, an order"
    assert names["unsent"] == []
    assert passes(names["Greeting"])
    assert passes(names["Delivery"])
    if django.VERSION < (6, 1):
        assert passes(names["Ordering"])


def set_up(said, apps, queue, override):
    """As the page has it, only that Redis is the tests'; MAILERS are for a Django that knows them."""
    assert set(apps) <= set(settings.INSTALLED_APPS)
    if "MAILTASKS" in said:
        said["MAILTASKS"] |= {"BROKER_URL": queue.settings.broker_url}
    if django.VERSION < (6, 1):
        said.pop("MAILERS", None)
    override(**said)
    call_command("check")


def type_in(code):
    for line in code.splitlines():
        assert line.startswith("$ python manage.py ")
        call_command(*line.removeprefix("$ python manage.py ").split())


def passes(case):
    setup_test_environment()
    try:
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    finally:
        teardown_test_environment()
    return result.testsRun == 1 and result.wasSuccessful()


@pytest.fixture(autouse=True)
def _no_receiver_stays():
    from mailtasks.contrib.django.signals import handover_failed, message_failed

    before = [(signal, list(signal.receivers)) for signal in (handover_failed, message_failed)]
    yield
    for signal, receivers in before:
        signal.receivers[:] = receivers
