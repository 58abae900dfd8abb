"""What an EmailMessage of Django's can hold arrives; what was said to us doesn't."""

from __future__ import annotations

import email.policy
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage as Standard
from email.mime.image import MIMEImage

import django
import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils.translation import gettext_lazy

from mailtasks.errors import AddressError, IdempotencyConflict, MessageError
from mailtasks.message import Priority

PIXEL = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"


def message(kind=EmailMessage, **fields):
    return kind(**{"subject": "Hello", "body": "How are you?\n", "to": ["ann@example.com"]} | fields)


def inline_image():
    if django.VERSION < (6, 0):
        image = MIMEImage(PIXEL, "gif")
        image["Content-ID"] = "<pixel>"
        image["Content-Disposition"] = "inline"
    else:
        from email.message import MIMEPart

        image = MIMEPart()
        image.set_content(PIXEL, "image", "gif", disposition="inline", cid="<pixel>")
    return image


def with_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    mail = message()
    mail.attach_file(tmp_path / name)
    return mail


def attached_message():
    inner = Standard()
    inner["From"], inner["To"], inner["Subject"] = "x@example.com", "y@example.com", "Inner"
    inner.set_content("Inside\n")
    return message(attachments=[("inner.eml", inner.as_bytes(), "message/rfc822")])


def encoded(**fields):
    mail = message(**fields)
    mail.encoding = "iso-8859-1"
    return mail


HELD = {
    "text": lambda _: message(),
    "no body": lambda _: message(body=""),
    "html": lambda _: setattr(mail := message(body="<p>Hi</p>\n"), "content_subtype", "html") or mail,
    "unicode": lambda _: message(subject="Grüße", body="Schöne Grüße\n", to=["Änne <ann@example.com>"]),
    "idna": lambda _: message(to=["ann@bücher.example"]),
    "long line": lambda _: message(body="ö" * 3000 + "\n"),
    "dots": lambda _: message(body=".\n..\nFrom here\n"),
    "lazy": lambda _: message(subject=gettext_lazy("Hello")),
    "cc and reply": lambda _: message(cc=["bob@example.com"], reply_to=["desk@example.com", "b@example.com"]),
    "headers": lambda _: message(headers={"X-Order": "7", "List-Id": "<shop.example.com>"}),
    "another From": lambda _: message(headers={"From": "Else <else@example.com>"}),
    "encoding": lambda _: encoded(body="Grüße\n", subject="Grüße"),
    "alternative": lambda _: message(
        EmailMultiAlternatives,
        alternatives=[("<p>Hi</p>", "text/html"), ("BEGIN:VCALENDAR", "text/calendar")],
    ),
    "attachments": lambda _: message(
        attachments=[("ö.txt", "Grüße\n", "text/plain"), ("a.pdf", b"%PDF-\xff", "application/pdf")]
    ),
    "file of text": lambda path: with_file(path, "notes.txt", "Grüße\n".encode()),
    "file of bytes": lambda path: with_file(path, "data.bin", bytes(range(256)) * 20),
    "inline image": lambda _: message(
        EmailMultiAlternatives,
        alternatives=[('<img src="cid:pixel">', "text/html")],
        attachments=[inline_image()],
    ),
    "image of old": lambda _: message(attachments=[MIMEImage(PIXEL, "gif")]),
    "line ends of a form": lambda _: message(body="One\r\ntwo\r\n"),
    "long html": lambda _: message(EmailMultiAlternatives, alternatives=[("<p>x</p>" * 500, "text/html")]),
    "message": lambda _: attached_message(),
    "message of Django's": lambda _: message(
        attachments=[("inner.eml", message(body="In\n"), "message/rfc822")]
    ),
}


def parts(mail):
    return [
        (
            part.get_content_type(),
            part.get_filename(),
            part["Content-ID"],
            part.get_content_charset(),
            body(part),
        )
        for part in mail.walk()
    ]


def body(part):
    content = None if part.is_multipart() else part.get_payload(decode=True)
    return content and content.replace(b"\r\n", b"\n") if part.get_content_maintype() == "text" else content


def headers(mail):
    given = {"date", "message-id", "content-type", "content-transfer-encoding"}
    return sorted((name.lower(), str(value)) for name, value in mail.items() if name.lower() not in given)


@pytest.mark.parametrize("make", HELD.values(), ids=HELD)
def test_what_it_holds_goes_through_unchanged(make, tmp_path, goes_out):
    mail = make(tmp_path)
    assert mail.send() == 1
    mime = mail.message()
    octets = mime.as_bytes() if django.VERSION < (6, 0) else mime.as_bytes(policy=email.policy.SMTP)
    expected, got = message_from_bytes(octets, policy=email.policy.default), goes_out(mail)
    assert parts(got) == parts(expected)
    assert headers(got) == headers(expected)


class Signed(EmailMultiAlternatives):
    def message(self, **options):
        mime = super().message(**options)
        mime["X-Signature"] = f"of {mime['Message-ID']}"
        return mime


def test_a_subclass_with_a_message_of_its_own_is_left_alone(goes_out):
    mail = message(Signed)
    mail.send()
    got = goes_out(mail)
    assert got["X-Signature"] == f"of {got['Message-ID']}"
    assert mail.mailtasks_ids[0] not in got["Message-ID"]


def test_bcc_gets_it_and_stands_nowhere(claimed, queue):
    mail = message(cc=["bob@example.com"], bcc=["Eve <eve@example.com>"], headers={"X-Order": "7"})
    mail.send()
    [id] = mail.mailtasks_ids
    got = [it.address for it in queue.status(id).recipients]
    assert got == ["ann@example.com", "bob@example.com", "eve@example.com"]
    assert b"eve@" not in claimed(id).body


def test_recipients_decide(queue):
    class Redirected(EmailMessage):
        def recipients(self):
            return ["desk@example.com"]

    mail = message(Redirected)
    mail.send()
    assert [it.address for it in queue.status(*mail.mailtasks_ids).recipients] == ["desk@example.com"]


def test_bounces_go_to_from_email_or_where_the_message_says(claimed):
    first, second = (
        message(from_email="Desk <desk@example.com>", headers={"From": "x@example.com"}),
        message(),
    )
    second.envelope_sender = "bounces@example.com"
    for mail, expected in ((first, "desk@example.com"), (second, "bounces@example.com")):
        mail.send()
        assert claimed(*mail.mailtasks_ids).record.sender == expected


AT = datetime(2030, 1, 31, 9, 0, tzinfo=UTC)
SAID = {
    "priority": ("urgent", "urgent", Priority.URGENT),
    "send_at": (AT, "2030-01-31T09:00+00:00", AT),
    "tags": (["a", "b"], "a, b", ("a", "b")),
    "metadata": ({"order": "7"}, '{"order": "7"}', {"order": "7"}),
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("by_header", [False, True])
def test_what_is_said_of_one_message(name, by_header, queue, claimed):
    value, header, expected = SAID[name]
    mail = message(headers={f"X-Mailtasks-{name.replace('_', '-').title()}": header} if by_header else {})
    if not by_header:
        setattr(mail, name, value)
    mail.send()
    [id] = mail.mailtasks_ids
    assert getattr(queue.status(id), name) == expected
    if name != "send_at":  # that isn't due
        assert b"mailtasks-" not in claimed(id).body.lower()


def test_a_time_to_live(queue):
    by_attribute, by_header = message(), message(headers={"x-mailtasks-expires-after": "2h"})
    by_attribute.expires_after = timedelta(hours=2)
    for mail in (by_attribute, by_header):
        mail.send()
        status = queue.status(*mail.mailtasks_ids)
        assert status.expires_at - status.accepted_at == timedelta(hours=2)


def test_an_attribute_is_stronger_than_a_header(queue):
    mail = message(headers={"X-Mailtasks-Priority": "bulk"})
    mail.priority = "urgent"
    mail.send()
    assert queue.status(*mail.mailtasks_ids).priority is Priority.URGENT


def test_tags_in_a_header_may_be_in_any_language(queue):
    mail = message(headers={"X-Mailtasks-Tags": "Grüße, Rechnungen"})
    mail.send()
    assert queue.status(*mail.mailtasks_ids).tags == ("Grüße", "Rechnungen")


@pytest.mark.parametrize("kind", [EmailMessage, EmailMultiAlternatives])
def test_a_key_makes_one_mail_of_two(kind, queue):
    def keyed(body="Thank you"):
        mail = message(kind, body=body, attachments=[("a.txt", "a", "text/plain")])
        mail.idempotency_key = "order-7"
        return mail

    first, again = keyed(), keyed()
    assert (first.send(), again.send()) == (1, 1)
    assert first.mailtasks_ids == again.mailtasks_ids
    assert queue.stats().accepted == 1
    with pytest.raises(IdempotencyConflict, match="order-7"):
        keyed("Something else").send()


def test_message_id_is_ours_and_date_djangos_unless_they_are_given(goes_out, override):
    ours, given = (
        message(),
        message(headers={"message-id": "<1@example.com>", "DATE": "Mon, 1 Jan 2024 00:00:00 +0000"}),
    )
    override(EMAIL_USE_LOCALTIME=True, TIME_ZONE="Asia/Tokyo")
    for mail in (ours, given):
        mail.send()
    ours, expected = goes_out(ours), ours.mailtasks_ids[0]
    assert expected in ours["Message-ID"]
    assert ours["Date"].endswith("+0900")
    given = goes_out(given)
    assert (given["Message-ID"], given["Date"]) == ("<1@example.com>", "Mon, 01 Jan 2024 00:00:00 +0000")


REFUSED = {
    "X-Mailtasks-Prioritty": (
        "urgent",
        r"there is no header X-Mailtasks-Prioritty: use some of X-Mailtasks-Priority, X-Mailtasks-Send-At, ",
    ),
    "X-Mailtasks-Priority": ("asap", "the priority 'asap' is unknown: use one of urgent, normal, bulk"),
    "X-Mailtasks-Send-At": (
        "tomorrow",
        r"the header X-Mailtasks-Send-At is 'tomorrow': give a time such as 2030-01-31T09:00\+01:00",
    ),
    "X-Mailtasks-Expires-After": ("soon", "is 'soon': give a duration such as 90s, 15m or 2h"),
    "X-Mailtasks-Metadata": ("7", "is '7': give a JSON object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_header_that_is_wrong_is_refused_at_once(name, queue):
    value, sentence = REFUSED[name]
    with pytest.raises(MessageError, match=sentence):
        message(headers={name: value}).send()
    assert queue.stats().accepted == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"subject": "Hello\nBcc: eve@example.com"},
        {"to": ["ann@example.com\nBcc: eve@example.com"]},
        {"from_email": "shop@example.com\r\nX: y"},
        {"headers": {"X-Order": "7\nX: y"}},
        {"bcc": ["eve@example.com\r\nRCPT TO:<x@example.com>"]},
    ],
)
def test_what_would_break_a_header_is_refused_in_the_request(fields, queue):
    with pytest.raises(ValueError, match=r"newline|linefeed|line|address|Invalid"):
        message(**fields).send()
    assert queue.stats().accepted == 0


def test_an_address_that_is_none(queue):
    with pytest.raises(AddressError, match="nobody"):
        message(bcc=["nobody"]).send()
