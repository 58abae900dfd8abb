"""What `manage.py check` says."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from mailtasks.contrib.django import checks
from mailtasks.contrib.django.backend import EmailBackend


def found(*, of="mailtasks."):
    return {message.id: message for message in run_checks() if message.id.startswith(of)}


def test_nothing_is_wrong(override):
    override(MAILTASKS={"LEASE": 90})
    assert found() == {}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"LEASES": 1}, "leases (Django's settings): there is no such setting; did you mean lease?"),
        (
            {"ON_COMMIT": 1},
            "MAILTASKS['ON_COMMIT'] in Django's settings: '1' (int) is wrong; expected True or False",
        ),
        (
            {"OUTBOX": "always"},
            "MAILTASKS['OUTBOX'] in Django's settings: 'always' is wrong; expected True, False, "
            '"until_accepted", "until_final" or "forever"',
        ),
    ],
)
def test_a_wrong_setting(override, given, sentence):
    override(MAILTASKS=given)
    error = found()["mailtasks.E001"]
    assert error.msg == sentence
    assert error.hint == "Correct it where it stands."
    with pytest.raises(SystemCheckError, match=r"mailtasks\.E001"):
        call_command("check")


@pytest.mark.parametrize("name", ["EmailBackend", "AtOnce"])
def test_a_relay_that_only_django_knows(name, override, monkeypatch):
    shop = ModuleType("shop_mail")
    shop.EmailBackend, shop.AtOnce = EmailBackend, type("AtOnce", (EmailBackend,), {})
    monkeypatch.setitem(sys.modules, "shop_mail", shop)
    override(EMAIL_HOST="smtp.example.com", MAILTASKS={}, EMAIL_BACKEND=f"shop_mail.{name}")
    warning = found()["mailtasks.W001"]
    assert "EMAIL_HOST is 'smtp.example.com', but mail goes to the relay smtp://127.0.0.1:25" in warning.msg
    assert 'MAILTASKS["RELAY"]' in warning.hint


@pytest.mark.parametrize(
    "settings",
    [
        {"EMAIL_HOST": "smtp.example.com", "MAILTASKS": {"RELAY": "smtp://smtp.example.com"}},
        {"EMAIL_HOST": "smtp.example.com", "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend"},
        {"EMAIL_HOST": "smtp.example.com", "EMAIL_BACKEND": "nowhere.EmailBackend"},
        {"EMAIL_HOST": "smtp.example.com", "MAILTASKS": {"LEASE": "wrong"}},
    ],
)
def test_no_warning_where_there_is_no_reason(settings, override):
    override(**settings)
    assert "mailtasks.W001" not in found()


class NowhereRouter:
    def allow_migrate(self, db, app_label, **_):
        return False if app_label == "mailtasks" else None


def test_an_outbox_whose_table_is_kept_out(override):
    override(MAILTASKS={"OUTBOX": True})
    assert found() == {}
    override(DATABASE_ROUTERS=[NowhereRouter()])
    assert found()["mailtasks.E003"].msg == (
        "The outbox is to be in the database 'default', and DATABASE_ROUTERS keep its table out; "
        "let them migrate the app 'mailtasks' there."
    )
    override(MAILTASKS={})
    assert found() == {}


def test_an_outbox_in_a_database_that_isnt_there(override, monkeypatch):
    monkeypatch.setattr(checks, "_outboxes", lambda: {"bills", "default"})
    assert found()["mailtasks.E003"].msg == (
        "The outbox is to be in the database 'bills', which is none of DATABASES."
    )
