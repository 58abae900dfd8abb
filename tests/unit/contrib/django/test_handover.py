"""Mail goes if its transaction commits, and not otherwise."""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress

import django
import pytest
from django.core.mail import EmailMessage, get_connection
from django.db import transaction
from django.test import TestCase, override_settings
from django.utils.log import AdminEmailHandler

from mailtasks.contrib.django.backend import EmailBackend
from mailtasks.contrib.django.signals import handover_failed
from mailtasks.default import default_mailer
from mailtasks.errors import MessageTooLarge, StoreUnavailable, UnknownMessage
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.settings import Settings
from mailtasks.state import State


def message(**fields):
    return EmailMessage(**{"subject": "Hello", "body": "Thank you", "to": ["ann@example.com"]} | fields)


class Rollback(Exception):
    pass


@contextmanager
def rolled_back(using="default"):
    with suppress(Rollback), transaction.atomic(using=using):
        yield
        raise Rollback


def test_it_goes_when_the_transaction_commits(queue):
    mail = message()
    with transaction.atomic():
        assert mail.send() == 1
        [id] = mail.mailtasks_ids
        with pytest.raises(UnknownMessage):
            queue.status(id)
    assert queue.status(id).state is State.QUEUED


def test_nothing_goes_on_rollback(queue):
    with rolled_back():
        message().send()
    assert queue.stats().accepted == 0


class AtOnce(EmailBackend):
    def __init__(self, **options):
        super().__init__(on_commit=False, **options)


@pytest.mark.parametrize(("backend", "accepted"), [(EmailBackend, 0), (AtOnce, 1)])
def test_an_error_by_mail_outlives_a_rollback_if_its_mailer_doesnt_wait(backend, accepted, queue, override):
    override(ADMINS=["root@example.com"] if django.VERSION >= (6, 0) else [("Root", "root@example.com")])
    handler = AdminEmailHandler(email_backend=f"{backend.__module__}.{backend.__name__}")
    with rolled_back():
        handler.handle(logging.makeLogRecord({"levelname": "ERROR", "msg": "order failed"}))
    assert queue.stats().accepted == accepted


def test_a_savepoint_takes_its_mail_along(queue):
    kept, dropped, released = message(), message(), message()
    with transaction.atomic():
        kept.send()
        with rolled_back():
            dropped.send()
        with transaction.atomic():
            released.send()
    assert queue.stats().accepted == 2
    for mail in (kept, released):
        assert queue.status(*mail.mailtasks_ids)
    with pytest.raises(UnknownMessage):
        queue.status(*dropped.mailtasks_ids)


def test_a_list_stays_one_call(queue, monkeypatch):
    calls, send_many = [], queue.send_many
    monkeypatch.setattr(queue, "send_many", lambda *its, **more: calls.append(its) or send_many(*its, **more))
    with transaction.atomic():
        assert get_connection().send_messages([message(), message()]) == 2
    assert len(calls) == 1


def test_what_is_wrong_is_said_while_the_transaction_can_be_rolled_back(queue, override):
    override(MAILTASKS={"BROKER_URL": queue.settings.broker_url, "SIZE_LIMIT": 2000})
    with pytest.raises(MessageTooLarge, match="size_limit"), transaction.atomic():
        message(body="x\n" * 2000).send()
    assert queue.stats().accepted == 0


def test_it_is_off_for_all(queue, override):
    override(MAILTASKS={"BROKER_URL": queue.settings.broker_url, "ON_COMMIT": False})
    with rolled_back():
        message().send()
    assert default_mailer().stats().accepted == 1


@pytest.mark.parametrize(("by_setting", "by_mailer", "accepted"), [(True, False, 1), (False, True, 0)])
def test_a_mailer_decides_for_itself(by_setting, by_mailer, accepted, queue, override):
    override(MAILTASKS={"BROKER_URL": queue.settings.broker_url, "ON_COMMIT": by_setting})
    with rolled_back():
        get_connection(on_commit=by_mailer).send_messages([message()])
    assert default_mailer().stats().accepted == accepted


def test_the_database_may_be_another(queue):
    waits, goes = message(), message()
    with transaction.atomic(using="other"):
        get_connection(database="other").send_messages([waits])
        goes.send()
        assert queue.stats().accepted == 1
    assert queue.stats().accepted == 2


@pytest.fixture
def away(override):
    override(MAILTASKS={"BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"})


@pytest.fixture
def heard():
    heard = []

    def hear(**arguments):
        heard.append(arguments)

    handover_failed.connect(hear)
    yield heard
    handover_failed.disconnect(hear)


def test_a_hand_over_that_fails_is_logged_and_signalled(away, heard, caplog, redis_url):
    done = []
    with transaction.atomic():
        mail = message()
        assert mail.send() == 1
        transaction.on_commit(lambda: done.append(True))
    assert done, "what else waits for the commit is done"
    [record] = [record for record in caplog.records if record.name == "mailtasks.contrib.django.handover"]
    assert record.levelno == logging.ERROR
    begins, _, ends = record.getMessage().partition(f"): {mail.mailtasks_ids[0]}; ")
    assert begins.startswith("a transaction is committed, and mail of it could not be handed over (Redis at ")
    assert ends == (
        "it is lost, unless a receiver of handover_failed keeps it; MAILTASKS['OUTBOX'] would have kept it"
    )
    assert not record.exc_info
    [told] = heard
    assert told["sender"] is Mailer
    assert isinstance(told["error"], StoreUnavailable)
    assert list(told["ids"]) == mail.mailtasks_ids
    with Mailer(Settings(broker_url=redis_url)) as mailer:
        assert mailer.send_many(told["messages"], ids=told["ids"]) == mail.mailtasks_ids
        assert mailer.status(*mail.mailtasks_ids)


def test_a_receiver_that_fails_harms_nobody(away):
    def fail(**_):
        raise RuntimeError

    handover_failed.connect(fail)
    try:
        with transaction.atomic():
            message().send()
    finally:
        handover_failed.disconnect(fail)


@pytest.fixture
def _for_the_class(request, queue):
    request.cls.queue = queue


@pytest.mark.usefixtures("_for_the_class")
@override_settings(EMAIL_BACKEND="mailtasks.contrib.django.backend.EmailBackend")
class TestUnderTestCase(TestCase):
    def test_callbacks_can_be_captured_and_run(self):
        mail = message()
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            mail.send()
            assert self.queue.stats().accepted == 0
        assert len(callbacks) == 1
        assert self.queue.status(*mail.mailtasks_ids).state is State.QUEUED

    def test_the_tests_own_transaction_never_commits(self):
        with self.captureOnCommitCallbacks() as callbacks:
            message().send()
        assert len(callbacks) == 1
        assert self.queue.stats().accepted == 0
