"""`manage.py mailtasks`."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from celery import Celery
from django.core.mail import EmailMessage
from django.core.management import ManagementUtility, call_command
from django.core.management.base import CommandError

import mailtasks.celery
from mailtasks.contrib.django.backend import EmailBackend
from mailtasks.default import default_mailer


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
def test_djangos_own_options_may_stand_anywhere(options, queue, capsys, monkeypatch):
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for words in ([*options, "config", "--changed", "--json"], ["config", "--changed", "--json", *options]):
        assert manage(*words) == 0
        assert list(json.loads(capsys.readouterr().out)) == ["broker_url", "default_from"]


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
    assert list(json.loads(out.getvalue())) == ["broker_url", "default_from"]
    with pytest.raises(CommandError, match="mailtasks nonsense ended with exit code 2") as failed:
        call_command("mailtasks", "nonsense")
    assert failed.value.returncode == 2


def test_it_is_in_djangos_help(capsys):
    ManagementUtility(["manage.py", "help", "mailtasks"]).execute()
    assert "a queue that loses nothing" in capsys.readouterr().out


# --- The outbox, in a database of Django's


@pytest.fixture
def written(outbox, override, redis_url):
    """Three rows of the outbox, and a Redis for its relay."""
    for number in range(3):
        EmailMessage("Hello", "Hi", to=[f"r{number}@example.com"]).send()
    override(MAILTASKS={"OUTBOX": True, "BROKER_URL": redis_url})
    return outbox


def answer(capsys, *words):
    code = manage("outbox", *words, "--json")
    return code, json.loads(capsys.readouterr().out)


def test_the_outbox_is_emptied(written, capsys):
    first = written()[0]
    type(first).objects.filter(pk=first.pk).update(content=b"no")
    code, moved = answer(capsys, "run", "--once")
    assert (code, moved["accepted"], moved["aside"]) == (1, 2, 1)
    assert default_mailer().stats().accepted == 2
    assert [row.state for row in written()] == ["aside"]


def test_the_outbox_is_told_of_and_retried(written, capsys):
    first, *_ = rows = written()
    type(first).objects.filter(pk=first.pk).update(state="aside", error="no")
    code, status = answer(capsys, "status")
    assert (code, status["rows"]["waiting"], status["rows"]["aside"]) == (1, 2, 1)
    code, [aside] = answer(capsys, "list")
    assert (code, aside["id"], aside["recipients"], aside["error"]) == (0, first.pk, ["r0@example.com"], "no")
    found = answer(capsys, "retry", str(first.pk), str(rows[1].pk))
    assert found == (1, {"released": 1, "left_alone": [rows[1].pk]})
    assert {row.state for row in written()} == {"waiting"}


def test_check_looks_into_the_outbox_and_names_commands_as_they_are_called(written, capsys):
    first = written()[0]
    type(first).objects.filter(pk=first.pk).update(state="aside", error="no")
    assert manage("check") == 1
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "fail outbox 1 row set aside" in said
    assert "-> `manage.py mailtasks outbox list` says why" in said
    assert "-> start them: `manage.py mailtasks worker`" in said


def test_the_outbox_may_be_in_another_of_djangos_databases(written, capsys):
    EmailBackend(database="other").send_messages([EmailMessage("Hello", "Hi", to=["ann@example.com"])])
    assert answer(capsys, "status", "--database", "other")[1]["rows"]["waiting"] == 1
    assert manage("outbox", "status", "--database", "nowhere") == 2
    said = capsys.readouterr().err
    assert said == "mailtasks: database 'nowhere': it is none of DATABASES; expected 'default' or 'other'\n"


def test_a_table_is_for_a_url(written, database_url, capsys):
    assert manage("outbox", "status", "--table", "mail") == 2
    assert "--table is for a database that --database names by its URL." in capsys.readouterr().err
    assert manage("outbox", "status", "--database", database_url, "--table", "mail") == 1
    assert "there is no table mail in " in capsys.readouterr().err


def test_django_needs_no_sqlalchemy_for_it():
    code = (
        "import sys; sys.modules['sqlalchemy'] = None; from tests import djangos;"
        "from django.core.management import call_command as call; call('migrate', 'mailtasks', verbosity=0);"
        "call('mailtasks', 'outbox', 'status'); call('mailtasks', 'outbox', 'list')"
    )
    root = Path(mailtasks.__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "nothing is set aside" in ran.stdout
