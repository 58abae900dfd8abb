"""What a Flask-Mailman user calls."""

from __future__ import annotations

import email
import logging
from email.mime.image import MIMEImage

import pytest

from mailtasks.contrib.flask import EmailMessage, EmailMultiAlternatives, Mail
from mailtasks.errors import MessageError, StoreUnavailable
from mailtasks.local.redis import free_port
from mailtasks.state import State


@pytest.mark.usefixtures("app")
def test_its_fields_by_place_and_by_name():
    made = EmailMessage(
        "Hello",
        "Body",
        ("Me", "me@example.com"),
        ["to@example.com"],
        ["bcc@example.com"],
        reply_to=["help@example.com"],
        cc=["cc@example.com"],
        headers={"Message-ID": "<foo@example.com>", "X-A": "1"},
        priority="urgent",
    )
    assert (made.to, made.from_email) == (["to@example.com"], "Me <me@example.com>")
    sent = made.message()
    assert {name: sent[name] for name in ("Subject", "To", "Cc", "Reply-To", "Message-ID", "X-A", "Bcc")} == {
        "Subject": "Hello",
        "To": "to@example.com",
        "Cc": "cc@example.com",
        "Reply-To": "help@example.com",
        "Message-ID": "<foo@example.com>",
        "X-A": "1",
        "Bcc": None,
    }
    assert sent.get_content().strip() == "Body"
    assert made.mailable().priority == "urgent"
    made.to, made.from_email, made.encoding = ["you@example.com"], "you@example.com", "iso-8859-1"
    assert made.message()["To"] == made.message()["From"] == "you@example.com"
    assert made.message().get_content_charset() == "iso-8859-1"


@pytest.mark.usefixtures("app")
def test_a_body_in_html():
    made = EmailMessage("Hello", "<b>Hi</b>", to=["to@example.com"])
    made.content_subtype = "html"
    assert made.message().get_content_type() == "text/html"
    assert made.message().get_content().strip() == "<b>Hi</b>"


@pytest.mark.usefixtures("app")
def test_alternatives():
    made = EmailMultiAlternatives("Hello", "Hi", to=["to@example.com"], alternatives=[("A", "text/calendar")])
    made.attach_alternative("<b>Hi</b>", "text/html")
    assert made.alternatives == [("A", "text/calendar"), ("<b>Hi</b>", "text/html")]
    types = {part.get_content_type() for part in made.message().walk()}
    assert types == {"multipart/alternative", "text/plain", "text/html", "text/calendar"}
    with pytest.raises(
        MessageError, match=r"^an alternative has the type 'image/png', and is a text: give content"
    ):
        made.attach_alternative("x", "image/png")


@pytest.mark.usefixtures("app")
def test_attachments(tmp_path):
    (tmp_path / "file.txt").write_text("file")
    image = MIMEImage(b"png", "png")
    made = EmailMessage(
        "Hello", "Hi", to=["to@example.com"], attachments=[("a.txt", "text", "text/plain"), image]
    )
    made.attach("b.pdf", b"%PDF")
    made.attach_file(tmp_path / "file.txt")
    made.attach("c.eml", EmailMessage("inner", "hi", to=["x@example.com"]))
    parts = list(made.message().iter_attachments())
    assert [part.get_content_type() for part in parts] == [
        *("text/plain", "image/png", "application/pdf", "text/plain"),
        "message/rfc822",
    ]
    assert parts[-1].get_content()["Subject"] == "inner"
    with pytest.raises(ValueError, match=r"^the attachment 'd' has no content: give some"):
        made.attach("d")
    with pytest.raises(ValueError, match=r"^a part has content and type already: give it alone"):
        made.attach(image, b"x")


@pytest.mark.usefixtures("app")
def test_a_from_that_is_shown_and_another_that_gets_bounces():
    made = EmailMessage("Hello", from_email="bounces@example.com", to=["to@example.com"])
    made.extra_headers["From"] = "Ann <ann@example.com>"
    sent = made.mailable()
    assert (sent.sender, sent.envelope_sender) == ("Ann <ann@example.com>", "bounces@example.com")


@pytest.mark.usefixtures("app")
def test_lists_are_lists():
    with pytest.raises(
        TypeError, match=r"^cc must be a list or a tuple, not 'a@example.com': put it in brackets"
    ):
        EmailMessage(to=["to@example.com"], cc="a@example.com")


def test_the_ways_to_send(mail):
    made = EmailMessage("Hello", "Hi", to=["to@example.com"])
    assert made.send() == 1
    assert mail.mailer.status(made.mailtasks_ids[0]).state is State.QUEUED
    assert mail.send(made) == 1
    assert mail.send(EmailMessage("Hello")) == EmailMessage("Hello").send() == 0, "to nobody"
    assert mail.send_mail("Hello", "Hi", None, ["a@example.com", "b@example.com"], html_message="<b>") == 1
    mass = [("Hello", "Hi", "me@example.com", ["a@example.com"]), ("Hello", "Hi", None, ["b@example.com"])]
    assert mail.send_mass_mail(mass) == 2
    with mail.get_connection() as connection:
        assert connection.send_messages([made, made]) == 2
        held = EmailMessage("Hello", "Hi", to=["to@example.com"], connection=connection)
        assert held.send() == 1
    assert mail.mailer.stats().accepted == 9


def test_with_testing_it_is_recorded(make_app):
    app = make_app(TESTING=True)
    mail = Mail()
    with app.app_context(), mail.record_messages() as outbox:
        assert mail.send_mail("Hello", "Hi", None, ["a@example.com"]) == 1
    assert [one.subject for one in outbox] == ["Hello"]


def test_in_silence_redis_away_is_logged(make_app, caplog):
    app = make_app(MAILTASKS_BROKER_URL=f"redis://127.0.0.1:{free_port()}/0")
    mail = Mail()
    with app.app_context():
        with pytest.raises(StoreUnavailable):
            mail.send_mail("Hello", "Hi", None, ["a@example.com"])
        assert mail.send_mail("Hello", "Hi", None, ["a@example.com"], fail_silently=True) == 0
        assert EmailMessage("Hello", to=["a@example.com"]).send(fail_silently=True) == 0
        with pytest.raises(MessageError):
            EmailMessage("Hello\n", to=["a@example.com"]).send(fail_silently=True)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all(line.startswith("mail was not accepted: messages=1 error=Redis at") for line in errors)


def test_an_attached_part_is_as_email_made_it(app):
    part = email.message_from_string("Content-Type: text/x-own\n\nown\n")
    made = EmailMessage("Hello", "Hi", to=["to@example.com"], attachments=[part])
    assert [it.get_content_type() for it in made.message().iter_parts()] == ["text/plain", "text/x-own"]
