"""Django's calls, and what they come to in the ledger."""

from __future__ import annotations

import logging
import time

import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage, get_connection, mail_admins, send_mail, send_mass_mail

from mailtasks.contrib.django.backend import EmailBackend
from mailtasks.default import default_mailer, forget_default_mailer
from mailtasks.errors import SettingsError, StoreUnavailable
from mailtasks.local.redis import free_port
from mailtasks.message import Priority
from mailtasks.testing import LocalRedis
from mailtasks.testing.proxy import Proxy


def messages(count, **fields):
    return [EmailMessage("Hello", "Hi", to=[f"r{number}@example.com"], **fields) for number in range(count)]


def test_send_mail(queue):
    sent = send_mail("Hello", "Hi", None, ["ann@example.com"], html_message="<p>Hi</p>")
    assert (sent, type(sent)) == (1, int)
    assert queue.stats().accepted == 1


def test_send_mass_mail(queue):
    data = [("Hello", "Hi", "shop@example.com", [f"r{number}@example.com"]) for number in range(3)]
    assert send_mass_mail(data) == 3
    assert queue.stats().accepted == 3


def test_mail_admins(queue, override):
    override(ADMINS=[("Root", "root@example.com")])
    mail_admins("Fire", "In the server room")
    assert queue.stats().accepted == 1


def test_a_list_of_messages_becomes_few_batches(queue, monkeypatch):
    hinted = []
    monkeypatch.setattr(queue.publisher, "hint", lambda batches, **_: hinted.extend(batches))
    wanted = messages(250)
    assert EmailBackend().send_messages(wanted) == 250
    assert len(hinted) == 3
    assert len({id for message in wanted for id in message.mailtasks_ids}) == 250


def test_nobody_to_send_to_is_nothing_sent(queue):
    backend = EmailBackend()
    nobody, somebody = EmailMessage("Hello", "Hi"), messages(1)
    assert backend.send_messages([nobody]) == 0
    assert backend.send_messages([]) == 0
    assert backend.send_messages(iter([nobody, *somebody])) == 1
    assert not hasattr(nobody, "mailtasks_ids")


def test_one_that_is_wrong_leaves_nothing_half_sent(queue):
    wrong = EmailMessage("Hello", "Hi", to=["ann@example.com"])
    wrong.priority = "asap"
    with pytest.raises(ValueError, match="asap"):
        EmailBackend().send_messages([*messages(2), wrong])
    assert queue.stats().accepted == 0


def test_options_are_for_messages_that_say_nothing(queue):
    plain, urgent = messages(2)
    urgent.priority = "urgent"
    backend = EmailBackend(priority="bulk", tags=["news"], expires_after=60)
    with backend as connection:
        assert connection.send_messages([plain, urgent]) == 2
    first, second = (queue.status(*message.mailtasks_ids) for message in (plain, urgent))
    assert (first.priority, first.tags) == (Priority.BULK, ("news",))
    assert (second.priority, second.tags) == (Priority.URGENT, ("news",))


WRONG = {
    "priority": ("asap", "the priority 'asap' is unknown"),
    "expires_after": (-1, "expires_after=-1 is no time to live"),
    "tags": ("news", "tags must be a list"),
    "on_commit": ("yes", "on_commit is 'yes': give True, False or None"),
    "outbox": ("always", """outbox is 'always': expected True, False, "until_accepted", """),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_option_that_is_wrong(name):
    value, sentence = WRONG[name]
    with pytest.raises(ImproperlyConfigured, match=sentence):
        EmailBackend(**{name: value})


def test_an_option_that_is_none():
    known = "known are fail_silently, on_commit, outbox, database, priority, expires_after, tags"
    with pytest.raises(ImproperlyConfigured, match=f"there is no option 'priorty'; {known}"):
        get_connection(priorty="bulk")


def test_get_connection_takes_options(queue):
    connection = get_connection(priority="bulk")
    assert isinstance(connection, EmailBackend)
    [message] = messages(1)
    connection.send_messages([message])
    assert queue.status(*message.mailtasks_ids).priority is Priority.BULK


@pytest.fixture
def broker_away(override):
    override(MAILTASKS={"BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"})
    yield
    forget_default_mailer()


def test_the_broker_is_away(broker_away):
    [message] = messages(1)
    with pytest.raises(StoreUnavailable, match="is it running"):
        message.send()
    assert not hasattr(message, "mailtasks_ids")


def test_the_broker_is_away_and_nobody_minds(broker_away, caplog):
    assert send_mail("Hello", "Hi", None, ["ann@example.com"], fail_silently=True) == 0
    [record] = [record for record in caplog.records if record.name == "mailtasks.contrib.django.backend"]
    assert record.levelno == logging.ERROR
    assert "mails that could not be accepted: 1 (" in record.getMessage()


def test_what_is_wrong_with_a_message_is_said_all_the_same(broker_away):
    with pytest.raises(ValueError, match=r"newline|linefeed"):
        send_mail("Hello\nX: y", "Hi", None, ["ann@example.com"], fail_silently=True)


def test_a_broker_that_hangs_holds_up_a_request_for_the_stated_time(override, redis_url):
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    with Proxy("127.0.0.1", port) as proxy:
        proxy.hang()
        stated = {"REDIS_TIMEOUT": 0.1, "REDIS_CONNECT_TIMEOUT": 0.1}
        override(MAILTASKS={"BROKER_URL": f"redis://127.0.0.1:{proxy.port}/0", **stated})
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            messages(1)[0].send()
        assert time.monotonic() - began < 4 * 0.2 + 1
    forget_default_mailer()


def test_a_wrong_setting_is_said_with_fail_silently_too(override):
    override(MAILTASKS={"BROKER": "redis://127.0.0.1/0"})
    with pytest.raises(SettingsError, match="there is no such setting; did you mean broker_url"):
        send_mail("Hello", "Hi", None, ["ann@example.com"], fail_silently=True)


def test_through_the_app_that_was_installed(override, queue):
    from celery import Celery

    import mailtasks.celery

    with LocalRedis() as other:
        app = mailtasks.celery.install(Celery("proj", broker=other.url, set_as_current=False))
        [message] = messages(1)
        message.send()
        assert app.mailtasks.mailer.status(*message.mailtasks_ids)
        assert app.mailtasks.settings.broker_url == other.url
        app.mailtasks.mailer.close()
    assert queue.stats().accepted == 0


def test_beside_an_app_of_the_projects_own(queue, monkeypatch):
    from celery import Celery, _state

    with Celery("proj", broker="amqp://nowhere.invalid//", set_as_current=False) as app:
        monkeypatch.setattr(_state._tls, "current_app", app)
        [message] = messages(1)
        message.send()
    assert queue.status(*message.mailtasks_ids)
    assert queue.publisher.waiting(Priority.NORMAL) == 1


def test_the_outbox_of_djangos_runner_works_as_always(queue):
    from django.test.utils import setup_test_environment, teardown_test_environment

    setup_test_environment()
    try:
        [message] = messages(1)
        message.priority = "urgent"
        assert message.send() == 1
        assert [kept.subject for kept in mail.outbox] == ["Hello"]
    finally:
        teardown_test_environment()
    assert default_mailer().stats().accepted == 0
