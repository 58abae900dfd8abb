"""What Flask-Mail's documentation promises of a `Message`, and what becomes of it."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage as StandardMessage

import pytest

from mailtasks.contrib.flask import Attachment, BadHeaderError, IncompleteMessage, Message
from mailtasks.errors import AddressError, AttachmentError, MessageError

pytestmark = pytest.mark.usefixtures("app")


def message(**fields):
    return Message("Hello", ["ann@example.com"], **{"body": "Hi", **fields})


def parsed(made: Message) -> StandardMessage:
    return email.message_from_bytes(bytes(made), policy=email.policy.default)


# --- What it holds -----------------------------------------------------------------------------------


def test_recipients_at_once_or_one_by_one():
    made = Message(subject="Hello")
    assert made.recipients == []
    made.recipients = ["you@example.com"]
    made.add_recipient("somebodyelse@example.com")
    assert made.recipients == ["you@example.com", "somebodyelse@example.com"]
    assert parsed(made)["To"] == "you@example.com, somebodyelse@example.com"


def test_the_default_sender_is_that_of_the_config(app):
    assert message().sender == "shop@example.com"
    app.extensions["mail"].default_sender = ("The Shop", "shop@example.com")
    assert message().sender == "The Shop <shop@example.com>"
    assert message(sender="me@example.com").sender == "me@example.com"


def test_a_pair_is_name_and_address():
    assert message(sender=("Me", "me@example.com")).sender == "Me <me@example.com>"
    made = message(sender=("Doe, Ann", "ann@example.com"), cc=[("Jörg", "joerg@example.com")])
    assert parsed(made)["From"] == '"Doe, Ann" <ann@example.com>'
    assert parsed(made)["Cc"] == "Jörg <joerg@example.com>"


def test_everybody_who_gets_it_once():
    made = message(cc=["cc@example.com"], bcc=["bcc@example.com"])
    made.add_recipient("cc@example.com")
    assert made.send_to == {"ann@example.com", "cc@example.com", "bcc@example.com"}
    assert made.mailable().recipients == ("ann@example.com", "cc@example.com", "bcc@example.com")
    assert parsed(made)["Cc"] == "cc@example.com"
    assert b"bcc@example.com" not in bytes(made)


def test_reply_to_is_one_or_a_list_or_a_header():
    assert parsed(message(reply_to="Help <help@example.com>"))["Reply-To"] == "Help <help@example.com>"
    assert parsed(message(reply_to=["a@example.com", "b@example.com"]))["Reply-To"].count("@") == 2
    assert parsed(message(extra_headers={"Reply-To": "help@example.com"}))["Reply-To"] == "help@example.com"


def test_body_and_html():
    made = message()
    made.html = "<b>Hi</b>"
    assert made.alts == {"html": "<b>Hi</b>"}
    body = parsed(made)
    assert body.get_content_type() == "multipart/alternative"
    assert [part.get_content().strip() for part in body.iter_parts()] == ["Hi", "<b>Hi</b>"]
    made.html = None
    assert parsed(made).get_content_type() == "text/plain"


def test_alternatives_by_subtype():
    made = message(alts={"html": "<b>Hi</b>", "x-amp-html": "<html amp4email>"})
    assert made.html == "<b>Hi</b>"
    types = [part.get_content_type() for part in parsed(made).iter_parts()]
    assert sorted(types) == ["text/html", "text/plain", "text/x-amp-html"]
    assert Message("Hello", alts=[("calendar", "BEGIN")]).alts == {"calendar": "BEGIN"}


def test_what_becomes_a_text_late():
    class Late:
        def __str__(self) -> str:
            return "Grüße"

    made = Message(Late(), ["ann@example.com"], Late(), html=b"<b>Hi</b>")
    assert parsed(made)["Subject"] == "Grüße"
    assert parsed(made).get_body(("plain",)).get_content().strip() == "Grüße"


def test_a_date_of_its_own():
    assert parsed(message(date=86_400))["Date"].datetime == datetime(1970, 1, 2, tzinfo=UTC)


def test_a_message_id_of_its_own():
    made = message()
    assert str(parsed(made)["Message-ID"]).endswith("@example.com>")
    made.msgId = "<mine@example.com>"
    assert parsed(made)["Message-ID"] == "<mine@example.com>"
    named = message(extra_headers={"message-id": "<other@example.com>"})
    assert parsed(named)["Message-ID"] == "<other@example.com>"


def test_a_charset_of_its_own():
    made = Message(
        "表題", ["ann@example.com"], "内容", charset="shift_jis", sender=("送信者", "me@example.com")
    )
    made.reply_to = ("返信先", "help@example.com")
    made.attach("a.txt", "text/plain", b"attached")
    raw = bytes(made)
    assert raw.count(b"=?iso-2022-jp?") == 3, "subject, sender, reply-to"
    assert b"utf-8" not in raw
    assert parsed(made).get_body().get_content().strip() == "内容"
    assert parsed(made)["Subject"] == "表題"
    assert parsed(made)["From"] == "送信者 <me@example.com>"
    ascii = message(charset="us-ascii", html="<h1>hello</h1>", alts={})
    assert b'text/html; charset="us-ascii"' in bytes(ascii)


def test_a_long_line_in_a_charset_of_its_own_is_broken_softly():
    made = message(charset="iso-8859-1", body="ä" * 3000)
    assert max(map(len, bytes(made).splitlines())) <= 998
    assert parsed(made).get_content().strip() == "ä" * 3000


def test_further_headers():
    made = message(extra_headers={"X-Order": 7})
    assert parsed(made)["X-Order"] == "7"
    made.date = 0
    assert parsed(made)["X-Order"] == "7"


def test_it_is_shown_as_it_is_sent():
    made = message(html="<b>Hi</b>", date=1.0)
    assert made.as_string() == str(made) == made.as_bytes().decode() == bytes(made).decode()
    assert bytes(made).endswith(b"\r\n")
    assert repr(made) == "<Message 'Hello' to 1>"


# --- Attachments -------------------------------------------------------------------------------------


def test_attach():
    made = message()
    made.attach("image.png", "image/png", b"png")
    made.attach(data=b"bare", content_type="text/plain")
    made.attach("notes.txt", data="Grüße")
    first, _, _ = made.attachments
    assert (first.filename, first.content_type, first.data, first.disposition) == (
        *("image.png", "image/png", b"png"),
        "attachment",
    )
    parts = list(parsed(made).iter_attachments())
    assert [part.get_filename() for part in parts] == ["image.png", None, "notes.txt"]
    assert [part.get_payload(decode=True) for part in parts] == [b"png", b"bare", "Grüße".encode()]
    assert [part.get_content_type() for part in parts] == ["image/png", "text/plain", "text/plain"]


@pytest.mark.parametrize(
    ("filename", "data", "content_type"),
    [
        ("a.pdf", b"%PDF", "application/pdf"),
        ("unknown", "a text", "text/plain"),
        ("unknown", b"bytes", "application/octet-stream"),
        (None, "a text", "text/plain"),
        (None, b"bytes", "application/octet-stream"),
    ],
)
def test_a_type_that_isnt_given_is_guessed(filename, data, content_type):
    made = message(attachments=[Attachment(filename, data=data)])
    assert made.attachments[0].content_type == content_type
    [part] = parsed(made).iter_attachments()
    assert part.get_content_type() == content_type


def test_an_equal_attachment_is_stored_once_for_all_mails():
    made = message(attachments=[Attachment("a.pdf", "application/pdf", b"%PDF")])
    [file] = made.mailable().attachments
    assert not file.is_part
    assert file.content == b"%PDF"


def test_an_image_in_the_html_has_a_header_of_its_own():
    made = message(html='<img src="cid:logo">')
    made.attach("logo.png", "image/png", b"png", "inline", {"Content-ID": "<logo>"})
    made.attach("data.csv", "text/csv", b"1", headers=[("X-Rows", "1")])
    parts = {part.get_filename(): part for part in parsed(made).walk() if part.get_filename()}
    assert parts["logo.png"]["Content-ID"] == "<logo>"
    assert parts["logo.png"].get_content_disposition() == "inline"
    assert parts["data.csv"]["X-Rows"] == "1"


@pytest.mark.parametrize("date", [None, 0.0], ids=["composed", "ready-made"])
def test_filenames_become_ascii_if_the_config_says_so(app, date):
    made = message(date=date)
    made.attach("ünicödeß ←.→ ✓.txt", "text/plain", b"1")
    made.attach("ünicöde.txt", "text/plain", b"1", "inline")
    assert [part.get_filename() for part in parsed(made).walk()][2:] == ["ünicödeß ←.→ ✓.txt", "ünicöde.txt"]
    app.extensions["mail"].ascii_attachments = True
    assert [part.get_filename() for part in parsed(made).walk()][2:] == ["unicode . .txt", "unicode.txt"]


def test_an_attached_message_stays_one():
    for date in (None, 0.0):
        made = message(date=date)
        made.attach("hello.eml", "message/rfc822", b"From: a@example.com\r\nSubject: inner\r\n\r\nhi\r\n")
        [part] = parsed(made).iter_attachments()
        assert part.get_content_type() == "message/rfc822"
        assert part.get_content()["Subject"] == "inner"


# --- Options and what is ours ------------------------------------------------------------------------


def test_options_that_the_queue_keeps():
    made = message(
        mail_options=["BODY=8BITMIME", "SMTPUTF8", "SIZE=9", "RET=HDRS", "requiretls"],
        rcpt_options=["NOTIFY=SUCCESS,FAILURE"],
    )
    sent = made.mailable()
    assert (sent.dsn_return, sent.dsn_notify, sent.require_tls) == ("headers", ("success", "failure"), True)
    assert message().mail_options == message().rcpt_options == []


def test_what_is_ours_can_be_given_or_set():
    soon = datetime.now(UTC) + timedelta(hours=1)
    made = message(priority="urgent", send_at=soon, expires_after=90, tags=["signup"], idempotency_key="k")
    made.metadata["user"] = "7"
    sent = made.mailable()
    assert (sent.priority, sent.send_at, sent.expires_after) == ("urgent", soon, timedelta(seconds=90))
    assert (sent.tags, sent.metadata, sent.idempotency_key) == (("signup",), {"user": "7"}, "k")


def test_equal_messages_are_equal_for_an_idempotency_key():
    def one(**fields):
        made = message(idempotency_key="k", charset="iso-8859-1", html="<b>Hi</b>", **fields)
        made.attach("a.txt", "text/plain", b"1")
        return made.mailable().fingerprint()

    assert one() == one() != one(priority="urgent")


# --- What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        (
            {"recipients": []},
            IncompleteMessage,
            "the message has no recipients: give some in recipients, cc or bcc",
        ),
        (
            {"subject": "a\r\n"},
            BadHeaderError,
            "the subject, the sender, reply_to or a recipient holds a line ",
        ),
        ({"subject": "a\nBcc: b"}, BadHeaderError, "the subject, the sender"),
        ({"subject": "a\r\n b\r\n "}, BadHeaderError, "the subject, the sender"),
        ({"subject": "a\r\n b\r\n\n"}, BadHeaderError, "the subject, the sender"),
        ({"subject": "\r\n b"}, BadHeaderError, "the subject, the sender"),
        ({"sender": "me@example.com\r\n"}, BadHeaderError, "the subject, the sender"),
        ({"sender": ("Me\nBcc: x", "me@example.com")}, BadHeaderError, "the subject, the sender"),
        ({"reply_to": "me@example.com\r"}, BadHeaderError, "the subject, the sender"),
        ({"recipients": ["to\r\n@example.com"]}, BadHeaderError, "the subject, the sender"),
        ({"recipients": [("To\n", "to@example.com")]}, BadHeaderError, "the subject, the sender"),
        ({"cc": ["to\n@example.com"]}, BadHeaderError, "the subject, the sender"),
        ({"bcc": ["to\n@example.com"]}, BadHeaderError, "the subject, the sender"),
        ({"recipients": ["ann"]}, AddressError, "to: 'ann' is no mail address"),
        ({"extra_headers": {"X-A": "a\nb"}}, MessageError, r"headers: X-A holds '\n'"),
        ({"extra_headers": {"X-A": "a\nb"}, "date": 0}, MessageError, r"extra_headers: X-A holds '\n'"),
        ({"extra_headers": {"To": "a@example.com"}}, MessageError, "headers: To can't be given here"),
        ({"extra_headers": {"To": "a@example.com"}, "date": 0}, MessageError, "headers: To can't be given"),
        ({"charset": "klingon"}, MessageError, "the message can't be written in the charset 'klingon': "),
        ({"charset": "us-ascii", "body": "ä"}, MessageError, "the message can't be written in the charset"),
        ({"mail_options": ["ENVID=7"]}, MessageError, "mail_options can't have 'ENVID=7': give RET=FULL"),
        ({"mail_options": ["RET=HALF"]}, MessageError, "mail_options can't have 'RET=HALF': give RET=FULL"),
        ({"rcpt_options": ["ORCPT=a"]}, MessageError, "rcpt_options can't have 'ORCPT=a': give NOTIFY="),
        ({"attachments": ["a.txt"]}, AttachmentError, "attachments holds 'a.txt': make it an Attachment"),
        (
            {"attachments": [Attachment("a.txt")]},
            AttachmentError,
            "the attachment 'a.txt' holds NoneType, not bytes",
        ),
        (
            {"attachments": [Attachment("a\n.txt", "text/plain", b"1", "inline")]},
            AttachmentError,
            r"the attachment's filename holds '\n'",
        ),
        (
            {"attachments": [Attachment("a.txt", "text/plain", b"1", "inline\n")]},
            AttachmentError,
            r"the attachment's disposition holds '\n'",
        ),
        (
            {"attachments": [Attachment("a.txt", "text/plain", b"1", headers={"X": "\n"})]},
            AttachmentError,
            r"the header X of the attachment holds '\n'",
        ),
    ],
)
def test_what_cant_be_mailed(mail, fields, error, sentence):
    made = Message(**{"subject": "Hello", "recipients": ["ann@example.com"], "body": "Hi", **fields})
    with pytest.raises(error) as caught:
        mail.send(made)
    assert str(caught.value).startswith(sentence)
    assert mail.mailer.stats().accepted == 0
    assert made.mailtasks_ids == []


def test_a_list_is_a_list():
    with pytest.raises(
        MessageError, match=r"^recipients must be a list, not 'ann@example.com': put a single"
    ):
        Message("Hello", "ann@example.com")


def test_who_expects_flask_mails_errors_gets_them(app, mail):
    app.extensions["mail"].default_sender = None
    with pytest.raises(
        AssertionError, match=r"^the message has no sender: give `sender`, or set MAIL_DEFAULT_S"
    ):
        mail.send(message())
    assert message(sender="a@example.com\n").has_bad_headers()
    assert issubclass(BadHeaderError, ValueError)


def test_a_folded_subject_is_one_line():
    made = message()
    made.subject = "one\r\n two\r\n three \r\n \tfour"
    assert not made.has_bad_headers()
    assert parsed(made)["Subject"] == "one two three  \tfour"
