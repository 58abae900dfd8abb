"""`MAILERS`, as Django has it from 6.1 on. Older ones don't collect this file."""

from __future__ import annotations

import pytest
from django.core import mail
from django.core.checks import run_checks
from django.core.mail import EmailMessage, InvalidMailer, mailers, send_mail
from django.db import transaction

from mailtasks.contrib.django.backend import EmailBackend
from mailtasks.message import Priority
from tests.djangos import BACKEND

MAILERS = {
    "default": {"BACKEND": BACKEND},
    "news": {"BACKEND": BACKEND, "OPTIONS": {"priority": "bulk", "tags": ["news"], "on_commit": False}},
    "wrong": {"BACKEND": BACKEND, "OPTIONS": {"priority": "asap"}},
    "unknown": {"BACKEND": BACKEND, "OPTIONS": {"prioritty": "bulk"}},
}


@pytest.fixture(autouse=True)
def _mailers(override):
    override(MAILERS=MAILERS)


def test_several_aliases(queue):
    first, second = (EmailMessage("Hello", "Hi", to=["ann@example.com"]) for _ in range(2))
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
    assert backend.send_messages([EmailMessage("Hello", "Hi", to=["ann@example.com"])]) == 1


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
    ],
)
def test_an_option_that_is_wrong_or_unknown(alias, sentence):
    with pytest.raises(InvalidMailer, match=sentence):
        mailers[alias]
    assert any(message.id == "mailtasks.E002" and alias in message.msg for message in run_checks())


def test_fail_silently_as_an_option(override):
    options = {"fail_silently": True}
    override(
        MAILERS={"default": {"BACKEND": BACKEND, "OPTIONS": options}},
        MAILTASKS={"BROKER_URL": "redis://127.0.0.1:1/0"},
    )
    assert EmailMessage("Hello", "Hi", to=["ann@example.com"]).send() == 0


def test_the_test_runner_replaces_every_mailer(queue):
    from django.test.utils import setup_test_environment, teardown_test_environment

    setup_test_environment()
    try:
        assert EmailMessage("Hello", "Hi", to=["ann@example.com"]).send(using="news") == 1
        assert [kept.sent_using for kept in mail.outbox] == ["news"]
    finally:
        teardown_test_environment()
    assert queue.stats().accepted == 0
