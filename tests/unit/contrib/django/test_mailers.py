"""`MAILERS`, as Django has it from 6.1 on. Older ones don't collect this file."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.core import mail
from django.core.checks import run_checks
from django.core.mail import EmailMessage, InvalidMailer, MailerDoesNotExist, mailers, send_mail
from django.db import transaction
from django.utils.deprecation import RemovedInDjango2028Warning
from django.utils.log import AdminEmailHandler

from mailtasks.contrib.django.backend import EmailBackend
from mailtasks.message import Priority
from tests.djangos import BACKEND

MAILERS = {
    "default": {"BACKEND": BACKEND},
    "news": {"BACKEND": BACKEND, "OPTIONS": {"priority": "bulk", "tags": ["news"], "on_commit": False}},
    "wrong": {"BACKEND": BACKEND, "OPTIONS": {"priority": "asap"}},
    "unknown": {"BACKEND": BACKEND, "OPTIONS": {"prioritty": "bulk"}},
    "named": {"BACKEND": BACKEND, "OPTIONS": {"alias": "other"}},
}


@pytest.fixture(autouse=True)
def _mailers(override):
    override(MAILERS=MAILERS)


def message(**fields):
    return EmailMessage("Hello", "Hi", to=["ann@example.com"], **fields)


def test_several_aliases(queue):
    first, second = message(), message()
    with transaction.atomic():
        assert (first.send(), second.send(using="news")) == (1, 1)
        assert queue.stats().accepted == 1, "news doesn't wait for the commit"
    assert queue.status(*first.mailtasks_ids).priority is Priority.NORMAL
    news = queue.status(*second.mailtasks_ids)
    assert (news.priority, news.tags) == (Priority.BULK, ("news",))


def test_using_and_a_mailer_itself(queue):
    assert send_mail("Hello", "Hi", None, ["ann@example.com"], using="news") == 1
    backend = mailers["news"]
    assert isinstance(backend, EmailBackend)
    assert (backend.alias, backend.fail_silently) == ("news", False)
    assert backend.send_messages([message()]) == 1


def test_the_outbox_of_one_mailer(outbox, override, queue):
    override(
        MAILERS=MAILERS | {"bills": {"BACKEND": BACKEND, "OPTIONS": {"outbox": "forever"}}},
        MAILTASKS={"BROKER_URL": queue.settings.broker_url},
    )
    bill, other = (EmailMessage("Hello", "Hi", to=["ann@example.com"]) for _ in range(2))
    assert (bill.send(using="bills"), other.send()) == (1, 1)
    [row] = outbox()
    assert (bill.mailtasks_ids, row.keep) == ([f"{row.batch}.0"], "forever")


@pytest.mark.parametrize(
    ("alias", "sentence"),
    [
        ("wrong", r"MAILERS\['wrong'\]: the priority 'asap' is unknown: use one of urgent, normal, bulk\."),
        ("unknown", r"MAILERS\['unknown'\]: Unknown options 'prioritty'\."),
        ("named", r"MAILERS\['named'\]: OPTIONS must not define 'alias'\."),
    ],
)
def test_an_option_that_is_wrong_or_unknown(alias, sentence):
    with pytest.raises(InvalidMailer, match=sentence):
        mailers[alias]
    assert any(message.id == "mailtasks.E002" and alias in message.msg for message in run_checks())


def test_aliases_are_looked_up(queue):
    assert list(mailers) == list(MAILERS)
    assert "news" in mailers
    assert mailers.default.alias == "default"
    assert mailers["news"] is not mailers["news"], "each look-up makes one"
    assert mailers.get("nowhere") is None
    for look_up in (lambda: mailers["nowhere"], lambda: message().send(using="nowhere")):
        with pytest.raises(MailerDoesNotExist, match="nowhere"):
            look_up()
    assert queue.stats().accepted == 0


def test_whatever_sends_can_use_another(queue, override):
    override(ADMINS=["root@example.com"], MANAGERS=["boss@example.com"])
    assert mail.send_mass_mail([("Hello", "Hi", None, ["ann@example.com"])] * 2, using="news") == 2
    mail.mail_admins("Fire", "In the server room", using="news")
    mail.mail_managers("Fire", "In the server room", using="news")
    AdminEmailHandler(using="news").send_mail("Fire", "In the server room")
    assert [queue.publisher.waiting(priority) for priority in (Priority.BULK, Priority.NORMAL)] == [4, 0]


DEPRECATED = {
    "fail_silently": lambda: message().send(fail_silently=True),
    "of a call": lambda: send_mail("Hello", "Hi", None, ["ann@example.com"], fail_silently=True),
    "connection": lambda: message(connection=mail.get_connection(fail_silently=True)).send(),
    "login": lambda: send_mail("Hello", "Hi", None, ["ann@example.com"], auth_user="a", auth_password="b"),
}


@pytest.mark.parametrize("name", DEPRECATED)
def test_what_django_has_deprecated_still_works(name, queue, override):
    with pytest.warns(RemovedInDjango2028Warning):
        assert DEPRECATED[name]() == 1
    if name != "login":
        override(MAILTASKS={"BROKER_URL": "redis://127.0.0.1:1/0"})
        with pytest.warns(RemovedInDjango2028Warning):
            assert DEPRECATED[name]() == 0


def test_silence_and_an_alias_contradict_each_other(queue):
    with pytest.raises(TypeError, match="fail_silently"), pytest.warns(RemovedInDjango2028Warning):
        message().send(fail_silently=True, using="news")


def test_settings_that_mailers_replace_are_not_read(queue, settings_of_old):
    message().send()
    assert [check for check in run_checks() if check.id in ("mailtasks.E001", "mailtasks.W001")] == []
    assert settings_of_old == []


@pytest.fixture
def settings_of_old(monkeypatch):
    """What is read of EMAIL_HOST and its like, which Django refuses to give once there are MAILERS."""
    read, look_up = [], type(settings).__getattr__

    def note(self, name):
        if name.startswith("EMAIL_") and name not in ("EMAIL_SUBJECT_PREFIX", "EMAIL_USE_LOCALTIME"):
            read.append(name)
        return look_up(self, name)

    monkeypatch.setattr(type(settings), "__getattr__", note)
    return read


def test_fail_silently_as_an_option(override):
    options = {"fail_silently": True}
    override(
        MAILERS={"default": {"BACKEND": BACKEND, "OPTIONS": options}},
        MAILTASKS={"BROKER_URL": "redis://127.0.0.1:1/0"},
    )
    assert message().send() == 0


def test_the_test_runner_replaces_every_mailer(queue):
    from django.test.utils import setup_test_environment, teardown_test_environment

    setup_test_environment()
    try:
        assert message().send(using="news") == 1
        assert [kept.sent_using for kept in mail.outbox] == ["news"]
    finally:
        teardown_test_environment()
    assert queue.stats().accepted == 0


def test_an_outbox_in_a_database_that_isnt_there(override):
    options = {"outbox": True, "database": "bills"}
    override(MAILERS=MAILERS | {"bills": {"BACKEND": BACKEND, "OPTIONS": options}})
    assert [message.msg for message in run_checks() if message.id == "mailtasks.E003"] == [
        "The outbox is to be in the database 'bills', which is none of DATABASES."
    ]
