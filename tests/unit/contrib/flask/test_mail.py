"""`Mail`: several applications, sending, blocks, what tests see, one Celery or none, Redis away."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from celery import Celery, Task
from flask import Flask, current_app

import mailtasks.celery
from mailtasks.contrib.flask import BadHeaderError, Mail, Message, email_dispatched
from mailtasks.errors import (
    IdempotencyConflict,
    MailtasksError,
    MessageTooLarge,
    SettingsError,
    StoreUnavailable,
)
from mailtasks.local.redis import free_port
from mailtasks.state import State


def message(**fields):
    return Message(**{"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi", **fields})


def celery_init_app(app: Flask) -> Celery:
    """As Flask's documentation has it, and one line."""

    class FlaskTask(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    mailtasks.celery.install(celery_app)
    app.extensions["celery"] = celery_app
    return celery_app


# --- Applications ------------------------------------------------------------------------------------


def test_one_application_or_several(make_app, redis_url):
    """`Mail(app)` is that app's; after `init_app` it is the current one that counts."""
    one = make_app("one", MAILTASKS_BROKER_URL=redis_url, MAILTASKS_NAMESPACE="one")
    two = make_app("two", MAILTASKS_BROKER_URL=redis_url, MAILTASKS_NAMESPACE="two", TESTING=True)
    mail, own = Mail(), Mail(one)
    assert mail.state is None
    assert own.state is one.extensions["mail"]
    with two.app_context():
        assert mail.settings.namespace == "two"
        assert own.settings.namespace == "one"
        mail.send(message())
        own.send(message())
    assert own.mailer.stats().accepted == 1
    own.mailer.close()


def test_outside_of_an_application_mail_of_an_app_can_be_sent(make_app, redis_url):
    app = make_app(MAILTASKS_BROKER_URL=redis_url)
    mail = Mail(app)
    sent = message()
    mail.send(sent)
    assert mail.mailer.status(sent.mailtasks_ids[0]).state is State.QUEUED
    mail.mailer.close()


def test_an_application_that_wasnt_told():
    with (
        Flask("other").app_context(),
        pytest.raises(
            RuntimeError, match=r"^the Flask app 'other' doesn't know mailtasks; call mail.init_app"
        ),
    ):
        Mail().send(message(sender="me@example.com"))


def test_making_it_connects_to_nothing():
    app = Flask("shop")
    app.config["MAILTASKS_BROKER_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    assert Mail(app).state is app.extensions["mail"]


def test_the_base_imports_no_flask():
    code = "import sys, mailtasks, mailtasks.celery, mailtasks.cli; print('flask' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


# --- Sending -----------------------------------------------------------------------------------------


def test_send_returns_when_the_ledger_has_it(mail):
    sent = message(priority="urgent", tags=["signup"])
    assert mail.send(sent) == 1
    [id] = sent.mailtasks_ids
    status = mail.mailer.status(id)
    assert (status.state, status.priority, status.subject) == (State.QUEUED, "urgent", "Hello")
    assert sent.date is not None


def test_send_message_takes_a_messages_fields(mail):
    with mail.record_messages() as outbox:
        mail.send_message("Hello", recipients=["ann@example.com"], body="Hi")
    assert [one.subject for one in outbox] == ["Hello"]
    assert mail.mailer.status(outbox[0].mailtasks_ids[0]).state is State.QUEUED


def test_one_message_sent_twice_is_two_mails_but_for_its_key(mail):
    sent = message()
    ids = set()
    for recipient in ("ann@example.com", "bob@example.com"):
        sent.recipients = [recipient]
        mail.send(sent)
        ids |= set(sent.mailtasks_ids)
    assert len(ids) == 2
    assert len({mail.mailer.status(id).message_id for id in ids}) == 2
    keyed = [message(idempotency_key="order-7") for _ in range(2)]
    for one in keyed:
        mail.send(one)
    assert keyed[0].mailtasks_ids == keyed[1].mailtasks_ids


def test_a_block_is_accepted_in_few_batches_when_it_ends(mail):
    with mail.connect() as connection:
        for number in range(100):
            connection.send(message(recipients=[f"user{number}@example.com"]))
        connection.send_message("Hello", ["last@example.com"], "Hi")
        assert mail.mailer.stats().accepted == 0
    assert mail.mailer.stats().accepted == 101
    assert sum(queue.batches for queue in mail.mailer.queue()) == 2


def test_a_long_block_isnt_kept_in_memory(mail, monkeypatch):
    monkeypatch.setattr("mailtasks.contrib.flask.connection._AT_ONCE", 2)
    with mail.connect() as connection:
        for accepted in (0, 2, 2):
            connection.send(message())
            assert mail.mailer.stats().accepted in (accepted, accepted + 2 - accepted % 2)
        assert mail.mailer.stats().accepted == 2
    assert mail.mailer.stats().accepted == 3


def test_an_error_in_a_block_stops_what_comes_after_it(mail):
    """As with Flask-Mail, what was sent before it is sent."""
    sent = message()

    def block():
        with mail.connect() as connection:
            connection.send(sent)
            connection.send(message(reply_to="a\n"))

    with pytest.raises(BadHeaderError):
        block()
    assert mail.mailer.stats().accepted == 1 == len(sent.mailtasks_ids)


def test_one_that_proves_too_large_takes_no_other_with_it(mail):
    before, large, after = message(), message(), message()
    large.attach("large.bin", data=b"x" * 8_000_000)

    def block():
        with mail.connect() as connection:
            for one in (before, large, after):
                connection.send(one)

    with pytest.raises(MessageTooLarge, match=r"^the composed message has 10,94"):
        block()
    assert mail.mailer.stats().accepted == 2
    assert [len(one.mailtasks_ids) for one in (before, large, after)] == [1, 0, 1]


def test_one_whose_key_has_other_mail_takes_no_other_with_it(mail):
    mail.send(message(idempotency_key="order-7"))
    fine, other = message(), message(idempotency_key="order-7", subject="Changed")

    def block():
        with mail.connect() as connection:
            connection.send(fine)
            connection.send(other)

    with (
        mail.record_messages() as outbox,
        pytest.raises(IdempotencyConflict, match=r"'order-7' was used before"),
    ):
        block()
    assert outbox == [fine]
    assert mail.mailer.status(fine.mailtasks_ids[0]).state is State.QUEUED
    assert other.mailtasks_ids == []


def test_a_message_changed_after_it_was_sent_goes_as_it_was(mail):
    sent = message()
    with mail.connect() as connection:
        connection.send(sent)
        sent.subject = "Changed"
        connection.send(sent)
    subjects = [mail.mailer.status(id).subject for id in sent.mailtasks_ids]
    assert subjects == ["Hello", "Changed"]


def test_a_connection_that_isnt_open_loses_nothing(mail):
    with pytest.raises(
        MailtasksError, match=r"^the connection isn't open, so the message would never go; send w"
    ):
        mail.connect().send(message())


def test_where_bounces_go(mail, monkeypatch):
    accepted = []
    monkeypatch.setattr(mail.mailer, "send_many", lambda messages: accepted.extend(messages) or ["b.0"])
    with mail.connect() as connection:
        connection.send(message(), "Bounces <bounces@example.com>")
    assert accepted[0].envelope_sender == "bounces@example.com"
    assert accepted[0].sender == "shop@example.com"


def test_a_subclass_may_send_itself_otherwise(mail):
    class Loud(Message):
        def send(self, connection):
            self.subject = str(self.subject).upper()
            connection.send(self)

    loud = Loud("Hello", ["ann@example.com"])
    mail.send(loud)
    assert mail.mailer.status(loud.mailtasks_ids[0]).subject == "HELLO"


# --- Tests of users ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "suppressed"),
    [
        ({}, False),
        ({"TESTING": True}, True),
        ({"TESTING": True, "MAIL_SUPPRESS_SEND": False}, False),
        ({"MAIL_SUPPRESS_SEND": True}, True),
        ({"MAIL_SUPPRESS_SEND": "true"}, True),
    ],
)
def test_sending_is_suppressed_in_tests_or_on_request(make_app, redis_url, config, suppressed):
    app = make_app(MAILTASKS_BROKER_URL=redis_url, **config)
    mail = Mail()
    with app.app_context(), mail.record_messages() as outbox:
        sent = message()
        mail.send(sent)
        assert outbox == [sent]
        assert sent.date is not None
        assert mail.mailer.stats().accepted == (0 if suppressed else 1)
        assert len(sent.mailtasks_ids) == 1, "a view may tell it"


def test_suppressed_a_block_records_at_once_and_needs_no_redis(make_app):
    app = make_app(TESTING=True, MAILTASKS_BROKER_URL=f"redis://127.0.0.1:{free_port()}/0")
    mail = Mail()
    with app.app_context(), mail.record_messages() as outbox, mail.connect() as connection:
        connection.send(message())
        assert len(outbox) == 1
        with pytest.raises(BadHeaderError):
            connection.send(message(subject="a\n"))


def test_the_signal_tells_message_and_application(app, mail):
    heard = []

    def listen(message, app):
        heard.append((message.subject, message.mailtasks_ids, app))

    with email_dispatched.connected_to(listen):
        sent = message()
        mail.send(sent)
        with pytest.raises(BadHeaderError):
            mail.send(message(subject="a\n"))
    mail.send(message())
    assert heard == [("Hello", sent.mailtasks_ids, current_app._get_current_object())]


def test_a_receiver_as_flask_mail_0_10_calls_it(app, mail):
    heard = []

    def by_name(sender, message, **_):
        heard.append((sender, message.subject))

    def documented(message, app):
        heard.append((app, message.subject))

    def of_another(sender, message):
        heard.append("never")

    current = current_app._get_current_object()
    email_dispatched.connect(by_name, current)
    email_dispatched.connect(of_another, Flask("other"))
    with (
        email_dispatched.connected_to(documented),
        email_dispatched.connected_to(lambda *_, **more: heard.append(more)),
    ):
        mail.send(message())
    email_dispatched.disconnect(by_name, current)
    assert (current, "Hello") in heard
    assert heard.count((current, "Hello")) == 2
    assert {"app": current} in heard
    assert len(heard) == 3


# --- Redis away --------------------------------------------------------------------------------------


def test_redis_away_is_said_in_time(make_app):
    app = make_app(
        MAILTASKS_BROKER_URL=f"redis://127.0.0.1:{free_port()}/0",
        MAILTASKS={"REDIS_TIMEOUT": 0.5, "REDIS_CONNECT_TIMEOUT": 0.5},
        MAIL_SERVER="mx.example.com",
        MAIL_USERNAME="me",
        MAIL_PASSWORD="s3cret",
    )
    mail = Mail()
    with app.app_context():
        sent, before = message(), time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            mail.send(sent)
        assert time.monotonic() - before < 4
        assert sent.mailtasks_ids == []
        assert "s3cret" not in str(caught.value)
        with pytest.raises(StoreUnavailable), mail.connect() as connection:
            connection.send(sent)


def test_no_password_gets_into_redis(make_app, redis_url, redis_server):
    app = make_app(
        MAILTASKS_BROKER_URL=redis_url,
        MAIL_SERVER="mx.example.com",
        MAIL_USERNAME="me",
        MAIL_PASSWORD="s3cret-of-the-relay",
    )
    with app.app_context():
        Mail().send(message())
    with redis_server.client() as client:
        dumped = b"".join(client.dump(key) or b"" for key in client.scan_iter())
    assert b"s3cret" not in dumped
    assert dumped


# --- Celery ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["celery", "mail"])
def test_the_applications_celery_gets_mail_and_flasks_settings(redis_url, first):
    app = Flask("shop")
    app.config.update(
        CELERY={"broker_url": redis_url, "task_ignore_result": True},
        MAIL_SERVER="mx.example.com",
        MAIL_DEFAULT_SENDER="shop@example.com",
        MAILTASKS_NAMESPACE="shop",
    )
    mail = Mail()
    steps = [lambda: celery_init_app(app), lambda: mail.init_app(app)]
    for step in steps if first == "celery" else reversed(steps):
        step()
    installation = app.extensions["celery"].mailtasks
    assert installation.settings.relay.host == "mx.example.com", "what a worker of it sends through"
    with app.app_context():
        sent = message()
        mail.send(sent)
        assert mail.mailer is installation.mailer
        assert mail.settings.broker_url == redis_url
        assert mailtasks.status(sent.mailtasks_ids[0]).state is State.QUEUED
    installation.mailer.close()


def test_each_celery_gets_the_settings_of_its_own_application(redis_url):
    apps = [Flask(name) for name in ("one", "two")]
    for app in apps:
        app.config.update(CELERY={"broker_url": redis_url}, MAILTASKS_NAMESPACE=app.name)
        Mail(app)
        celery_init_app(app)
    found = [app.extensions["celery"].mailtasks.settings for app in apps]
    assert [settings.namespace for settings in found] == ["one", "two"]
    assert {settings.source("namespace") for settings in found} == {"Flask's config"}
    other = mailtasks.celery.install(Celery("none's", broker=redis_url, set_as_current=False))
    assert other.mailtasks.settings.source("namespace") == "default"


def test_a_celery_that_read_its_settings_too_early_is_told(redis_url):
    app = Flask("shop")
    app.config.update(CELERY={"broker_url": redis_url}, MAIL_SERVER="mx.example.com")
    _ = celery_init_app(app).mailtasks.settings
    mail = Mail(app)
    with pytest.raises(
        SettingsError, match=r"^the Celery app 'shop' has read its settings before Mail was told"
    ):
        _ = mail.mailer


def test_a_celery_that_mail_doesnt_go_through_stays_beside(make_app, redis_url):
    app = make_app(MAILTASKS_BROKER_URL=redis_url)
    app.extensions["celery"] = Celery("other", broker="redis://nowhere.invalid", set_as_current=False)
    with app.app_context():
        Mail().send(message())
        assert app.extensions["mail"].celery is None
        assert Mail().mailer.stats().accepted == 1


def test_another_broker_than_celerys_is_refused(redis_url):
    app = Flask("shop")
    app.config.update(CELERY={"broker_url": redis_url}, MAILTASKS_BROKER_URL="redis://:s3cret@elsewhere/0")
    celery_init_app(app)
    mail = Mail(app)
    with pytest.raises(
        SettingsError, match=r"^broker_url \(Flask's config\): redis://:\*\*\*@elsewhere/0 is not the"
    ):
        _ = mail.settings
