"""`manage.py mailtasks`."""

from __future__ import annotations

import json
import sys
from io import StringIO

import pytest
from celery import Celery
from django.core.mail import EmailMessage
from django.core.management import ManagementUtility, call_command
from django.core.management.base import CommandError

import mailtasks.celery


def manage(*words):
    with pytest.raises(SystemExit) as ended:
        ManagementUtility(["manage.py", "mailtasks", *words]).execute()
    return ended.value.code


def test_it_has_djangos_settings(queue, capsys):
    mail = EmailMessage("Hello", "Hi", to=["ann@example.com"])
    mail.send()
    assert manage("status", *mail.mailtasks_ids, "--json") == 0
    assert json.loads(capsys.readouterr().out)["subject"] == "Hello"


@pytest.mark.parametrize(
    "options", [["--settings", "proj.settings"], ["--settings=proj.settings", "--pythonpath=."]]
)
def test_djangos_own_options_may_stand_in_front(options, queue, capsys, monkeypatch):
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert manage(*options, "config", "--changed", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)) == ["broker_url"]


@pytest.mark.parametrize(
    ("words", "code"), [(["nonsense"], 2), (["status", "unknown.0"], 1), (["--help"], 0)]
)
def test_exit_codes_are_its_own(words, code, queue, capsys):
    assert manage(*words) == code


def test_a_wrong_setting_is_said_in_a_line(override, capsys):
    override(MAILTASKS={"lease": 9})
    assert manage("config") == 2
    assert capsys.readouterr().err == (
        "manage.py mailtasks: MAILTASKS['lease'] in Django's settings: write the name in capitals, 'LEASE'\n"
    )


def test_it_looks_where_an_installed_app_sends(queue, capsys):
    app = mailtasks.celery.install(Celery("proj", broker="redis://127.0.0.1:1/5", set_as_current=False))
    assert app.mailtasks.settings.broker_url == "redis://127.0.0.1:1/5"
    assert manage("config", "--json") == 0
    settings = json.loads(capsys.readouterr().out)
    assert [settings[name]["value"] for name in ("broker_url", "store_url")] == ["redis://127.0.0.1:1/5"] * 2


def test_it_can_be_called(queue):
    out = StringIO()
    call_command("mailtasks", "config", "--changed", "--json", stdout=out)
    assert list(json.loads(out.getvalue())) == ["broker_url"]
    with pytest.raises(CommandError, match="mailtasks nonsense ended with exit code 2") as failed:
        call_command("mailtasks", "nonsense")
    assert failed.value.returncode == 2


def test_it_is_in_djangos_help(capsys):
    ManagementUtility(["manage.py", "help", "mailtasks"]).execute()
    assert "a queue that loses nothing" in capsys.readouterr().out
