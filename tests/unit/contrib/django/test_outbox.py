"""Django's mail by the outbox: in the transaction, without Redis, and out of there by the relay."""

from __future__ import annotations

import unittest
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage, get_connection, send_mail, send_mass_mail
from django.db import Error, connections, transaction
from django.test import TestCase, override_settings

from mailtasks.contrib.django import outbox as module
from mailtasks.contrib.django.backend import EmailBackend
from mailtasks.contrib.django.models import OutboxRow
from mailtasks.default import default_mailer, forget_default_mailer
from mailtasks.errors import IdempotencyConflict, SettingsError
from mailtasks.mailer import Mailer
from mailtasks.outbox.content import decode
from tests import djangos


def messages(count, **fields):
    return [EmailMessage("Hello", "Hi", to=[f"r{number}@example.com"], **fields) for number in range(count)]


def test_mail_is_a_row_and_redis_isnt_asked(outbox):
    [message] = messages(1)
    assert message.send() == 1
    [row] = outbox()
    assert message.mailtasks_ids == [f"{row.batch}.0"]
    assert (row.state, row.keep, row.size) == ("waiting", "until_accepted", len(row.content))
    assert abs(row.written_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert decode(bytes(row.content), row.batch).recipients == ("r0@example.com",)


def test_many_share_rows(outbox, django_queries):
    wanted = messages(250)
    with django_queries() as queries:
        assert EmailBackend().send_messages(wanted) == 250
    assert len(outbox()) == 3
    assert sum("INSERT" in one["sql"] for one in queries) == 1
    assert len({id for message in wanted for id in message.mailtasks_ids}) == 250


@pytest.fixture
def django_queries():
    from django.test.utils import CaptureQueriesContext

    return lambda: CaptureQueriesContext(connections["default"])


def test_nobody_to_send_to_is_nothing_written(outbox):
    assert EmailBackend().send_messages([EmailMessage("Hello", "Hi")]) == 0
    assert outbox() == []


def test_djangos_own_calls(outbox):
    assert send_mail("Hello", "Hi", None, ["ann@example.com"], html_message="<p>Hi</p>") == 1
    assert send_mass_mail([("Hello", "Hi", None, [f"r{n}@example.com"]) for n in range(3)]) == 3
    assert len(outbox()) == 2


@pytest.mark.parametrize("on_commit", [True, False])
def test_it_goes_with_its_transaction(outbox, on_commit):
    connection = get_connection(on_commit=on_commit)
    rolled_back(connection)
    assert outbox() == []
    with transaction.atomic():
        connection.send_messages(messages(1))
        rolled_back(connection)
    assert len(outbox()) == 1


def rolled_back(connection):
    with suppress(ZeroDivisionError), transaction.atomic():
        connection.send_messages(messages(1))
        raise ZeroDivisionError


def test_a_mailer_may_say_otherwise(override, outbox, queue):
    override(MAILTASKS={"OUTBOX": True, "BROKER_URL": queue.settings.broker_url})
    [direct] = messages(1)
    get_connection(outbox=False).send_messages([direct])
    assert (outbox(), default_mailer().status(*direct.mailtasks_ids).subject) == ([], "Hello")
    override(MAILTASKS={"BROKER_URL": queue.settings.broker_url})
    get_connection(outbox=True).send_messages(messages(1))
    get_connection().send_messages(messages(1))
    assert len(outbox()) == 1
    assert default_mailer().stats().accepted == 2


def test_how_long_rows_stay_is_said_by_the_same_word(override, outbox):
    get_connection(outbox="forever").send_messages(messages(1))
    override(MAILTASKS={"OUTBOX": "until_final"})
    get_connection().send_messages(messages(1))
    assert [row.keep for row in outbox()] == ["forever", "until_final"]


def test_the_database_may_be_another(outbox):
    with transaction.atomic(using="other"):
        get_connection(database="other").send_messages(messages(1))
        transaction.set_rollback(True, using="other")
    assert outbox("other") == []
    get_connection(database="other").send_messages(messages(1))
    assert (outbox(), len(outbox("other"))) == ([], 1)


class ElsewhereRouter:
    def db_for_write(self, model, **_):
        return "other"


def test_routers_arent_asked(outbox, override):
    override(DATABASE_ROUTERS=[ElsewhereRouter()])
    get_connection().send_messages(messages(1))
    assert (len(outbox()), outbox("other")) == (1, [])


def test_what_is_wrong_with_a_message_is_said_in_the_request(outbox):
    wrong = messages(2)
    wrong[1].priority = "asap"
    with pytest.raises(ValueError, match="asap"):
        EmailBackend(fail_silently=True).send_messages(wrong)
    for message in (keyed := messages(2)):
        message.idempotency_key = "k"
    with pytest.raises(IdempotencyConflict):
        EmailBackend().send_messages(keyed)
    assert outbox() == []


@pytest.mark.parametrize("fail_silently", [True, False])
def test_an_error_of_the_database_is_djangos(outbox, fail_silently, monkeypatch):
    [message] = messages(1)
    with monkeypatch.context() as patched:
        patched.setattr(OutboxRow._meta, "db_table", "nowhere")
        assert_djangos_error(message, fail_silently)
    assert not hasattr(message, "mailtasks_ids")


def assert_djangos_error(message, fail_silently):
    with pytest.raises(Error, match="nowhere"):
        EmailBackend(fail_silently=fail_silently).send_messages([message])


def test_without_the_app_it_is_said_what_to_do(outbox, override):
    from django.conf import settings

    override(INSTALLED_APPS=[app for app in settings.INSTALLED_APPS if not app.startswith("mailtasks")])
    with pytest.raises(
        ImproperlyConfigured,
        match=r"^the outbox is a table of the app 'mailtasks.contrib.django': "
        r"put that into INSTALLED_APPS and migrate\.",
    ):
        EmailBackend(outbox=True).send_messages(messages(1))


def test_a_wrong_setting_is_said(outbox, override):
    override(MAILTASKS={"OUTBOX": "always"})
    with pytest.raises(SettingsError, match=r"MAILTASKS\['OUTBOX'\] in Django's settings: 'always' is wrong"):
        EmailBackend(fail_silently=True).send_messages(messages(1))


# --- The relay


@pytest.fixture
def mailer(redis_url):
    with Mailer(broker_url=redis_url) as mailer:
        yield mailer


def test_the_relay_moves_what_is_there(outbox, mailer):
    wanted = messages(3)
    wanted[0].metadata = {"order": "7"}
    EmailBackend().send_messages(wanted)
    assert module.relay(mailer=mailer).drain().accepted == 1
    assert outbox() == []
    [id] = wanted[0].mailtasks_ids
    assert (mailer.status(id).subject, mailer.status(id).metadata) == ("Hello", {"order": "7"})


def test_the_relays_mailer_is_djangos(outbox, override, redis_url):
    override(MAILTASKS={"OUTBOX": True, "BROKER_URL": redis_url})
    EmailBackend(database="other").send_messages(messages(1))
    assert module.relay("other").drain().accepted == 1
    assert default_mailer().stats().accepted == 1
    forget_default_mailer()


def test_it_moves_nothing_of_a_transaction_that_isnt_over(outbox, mailer):
    with transaction.atomic():
        EmailBackend().send_messages(messages(1))
        with pytest.raises(RuntimeError, match="durable"):
            module.relay(mailer=mailer).drain()
    assert mailer.stats().accepted == 0
    assert len(outbox()) == 1


def test_a_test_case_works(outbox, mailer):
    class Case(TestCase):
        databases = ("default",)

        @override_settings(EMAIL_BACKEND=djangos.BACKEND)
        def test_mail(self):
            send_mail("Hello", "Hi", None, ["ann@example.com"])
            assert OutboxRow.objects.count() == 1
            assert module.relay(mailer=mailer).drain().accepted == 1
            assert OutboxRow.objects.count() == 0
            send_mail("Hello", "Hi", None, ["bob@example.com"])

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
    assert outbox() == [], "its transaction was rolled back"
