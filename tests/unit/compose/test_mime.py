from __future__ import annotations

import re
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.mime.image import MIMEImage
from email.mime.text import MIMEText
from quopri import decodestring

import pytest

from mailtasks.compose import Composed, compose, mime
from mailtasks.compose.reencode import to_seven_bit
from mailtasks.errors import MessageTooLarge
from mailtasks.message import Alternative, Attachment, Message
from mailtasks.pieces import Blob, size_of

DATE = datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
IMAGE = Attachment(filename="logo.png", content=b"\x89PNG", cid="logo")
FILE = Attachment(filename="a.pdf", content=b"%PDF" * 20)


def composed(message: Message, *, date: datetime = DATE, size_limit: int = 10**6) -> Composed:
    return compose(
        message,
        sender="Shop <shop@example.com>",
        message_id="1.0@shop.example",
        date=date,
        size_limit=size_limit,
    )


def body(text: str) -> tuple[str, bytes]:
    """The transfer encoding and the encoded body of a message of one text."""
    head, _, content = composed(Message(to="ann@example.com", text=text)).content.partition(b"\r\n\r\n")
    return head.rpartition(b"Content-Transfer-Encoding: ")[2].decode(), content


def structure(message: Message) -> str:
    def describe(part):
        inner = ", ".join(map(describe, part.iter_parts())) if part.is_multipart() else ""
        return part.get_content_type() + (f"({inner})" if inner else "")

    return describe(message_from_bytes(composed(message).content, policy=policy.default))


def test_the_whole_message():
    message = Message(
        to="Ann <ann@example.com>",
        cc="bob@example.com",
        bcc="hidden@example.com",
        reply_to="help@example.com",
        subject="Your code",
        text="1234",
        html="<p>Grüße, your code is 1234",
        headers={"X-Order": "4711"},
    )
    token = "d620dfbc0f68e8a97c8545ac"
    assert composed(message).content.decode() == (
        "Date: Thu, 02 Jan 2025 03:04:05 +0000\r\n"
        "From: Shop <shop@example.com>\r\n"
        "Reply-To: help@example.com\r\n"
        "To: Ann <ann@example.com>\r\n"
        "Cc: bob@example.com\r\n"
        "Subject: Your code\r\n"
        "Message-ID: <1.0@shop.example>\r\n"
        "X-Order: 4711\r\n"
        "MIME-Version: 1.0\r\n"
        "Content-Type: multipart/alternative;\r\n"
        f' boundary="=_alternative_{token}_0"\r\n'
        "\r\n"
        f"--=_alternative_{token}_0\r\n"
        'Content-Type: text/plain; charset="utf-8"\r\n'
        "Content-Transfer-Encoding: 7bit\r\n"
        "\r\n"
        "1234\r\n"
        "\r\n"
        f"--=_alternative_{token}_0\r\n"
        'Content-Type: text/html; charset="utf-8"\r\n'
        "Content-Transfer-Encoding: quoted-printable\r\n"
        "\r\n"
        "<p>Gr=C3=BC=C3=9Fe, your code is 1234\r\n"
        "\r\n"
        f"--=_alternative_{token}_0--\r\n"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "text/plain"),
        ({"text": "x"}, "text/plain"),
        ({"html": "x"}, "text/html"),
        ({"text": "x", "html": "x"}, "multipart/alternative(text/plain, text/html)"),
        ({"text": "x", "attachments": [FILE]}, "multipart/mixed(text/plain, application/pdf)"),
        ({"html": "x", "attachments": [IMAGE]}, "multipart/related(text/html, image/png)"),
        ({"text": "x", "attachments": [IMAGE]}, "multipart/mixed(text/plain, image/png)"),
        (
            {"text": "x", "html": "x", "attachments": [FILE, IMAGE]},
            "multipart/mixed(multipart/alternative(text/plain, "
            "multipart/related(text/html, image/png)), application/pdf)",
        ),
    ],
)
def test_parts_are_nested_only_where_needed(fields, expected):
    assert structure(Message(to="ann@example.com", **fields)) == expected


@pytest.mark.parametrize(
    ("text", "encoding", "encoded"),
    [
        ("", "7bit", b"\r\n"),
        ("a\nb\r\nc\rd", "7bit", b"a\r\nb\r\nc\r\nd\r\n"),
        (".\n..", "7bit", b".\r\n..\r\n"),  # the SMTP layer stuffs dots
        ("ends\n\n", "7bit", b"ends\r\n\r\n"),
        ("x" * 78, "7bit", b"x" * 78 + b"\r\n"),
        ("x" * 79, "quoted-printable", b"x" * 75 + b"=\r\n" + b"x" * 4 + b"\r\n"),
        ("Grüße ", "quoted-printable", b"Gr=C3=BC=C3=9Fe=20\r\n"),
        ("ä long enough text\n.\n", "quoted-printable", b"=C3=A4 long enough text\r\n=2E\r\n"),
        ("From me", "quoted-printable", b"=46rom =\r\nme\r\n"),
        ("a bell rings:\a", "quoted-printable", b"a bell rings:=07\r\n"),
        ("日本語", "base64", b"5pel5pys6KqeDQo=\r\n"),
    ],
)
def test_a_text_takes_the_encoding_that_suits_it(text, encoding, encoded):
    assert body(text) == (encoding, encoded)


def test_from_at_the_start_of_a_broken_line_is_guarded_too():
    _, encoded = body("x" * 74 + "From here" + "y" * 30)
    assert b"\r\nFrom " not in encoded
    assert max(map(len, encoded.split(b"\r\n"))) <= 76


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({"to": "Jörg <ann@bücher.example>", "subject": "ä", "text": "日本語"}, False),
        ({"to": "jörg@example.com"}, True),
        ({"bcc": "jörg@example.com"}, True),
        ({"to": "a@b", "envelope_sender": "jörg@example.com"}, True),
        ({"to": "a@b", "reply_to": "jörg@example.com"}, True),
    ],
)
def test_smtputf8_is_asked_for_only_when_an_address_needs_it(fields, needed):
    assert composed(Message(**fields)).smtputf8 is needed


def test_a_header_that_needs_smtputf8_is_written_in_utf8():
    assert "\r\nTo: jörg@example.com\r\n".encode() in composed(Message(to="jörg@example.com")).content


def test_who_is_in_bcc_stands_nowhere():
    result = composed(Message(to="ann@example.com", bcc=["Bob <bob@example.net>", "jörg@example.net"]))
    assert b"example.net" not in result.content
    assert b"bcc" not in result.content.lower()


def test_the_date_is_written_in_utc_whatever_its_zone():
    elsewhere = DATE.astimezone(timezone(timedelta(hours=5, minutes=30)))
    message = Message(to="ann@example.com")
    assert composed(message, date=elsewhere) == composed(message)


def test_the_message_id_may_have_its_brackets():
    message = Message(to="ann@example.com")
    bracketed = compose(message, sender="a@b", message_id="<1@b>", date=DATE, size_limit=10**6)
    assert bracketed == compose(message, sender="a@b", message_id="1@b", date=DATE, size_limit=10**6)


def test_a_boundary_that_stands_in_a_part_is_not_used():
    taken = re.search(rb'boundary="(.*)"', composed(Message(to="a@b", text="x", html="x")).content)[1]
    content = composed(Message(to="a@b", text=f"--{taken.decode()}", html="x")).content
    boundary = re.search(rb'boundary="(.*)"', content)[1]
    assert boundary != taken
    assert content.count(boundary) == 4  # named, twice between, once at the end


@pytest.mark.parametrize("length", range(60, 80))
@pytest.mark.parametrize("space", [" ", "\t", "é ", "= "])
def test_a_space_at_the_end_of_a_long_line_makes_none_too_long(length, space):
    text = f"{'0' * length}{space}\r\nx\r\n".encode()
    octets = mime.quoted_printable(text)
    assert decodestring(octets) == text
    assert max(map(len, octets.split(b"\r\n"))) <= 76


def test_a_file_is_base64_in_lines_of_76():
    _, _, content = composed(Message(to="a@b", attachments=[FILE])).content.partition(b"application/pdf")
    assert b"Content-Transfer-Encoding: base64\r\n" in content
    assert b'Content-Disposition: attachment; filename="a.pdf"\r\n' in content
    lines = content.partition(b"\r\n\r\n")[2].split(b"\r\n")
    assert [len(line) for line in lines[:2]] == [76, 32]


def test_an_inline_image_has_its_id():
    content = composed(Message(to="a@b", html="<img src='cid:logo'>", attachments=[IMAGE])).content
    assert b"Content-ID: <logo>\r\n" in content
    assert b'Content-Disposition: inline; filename="logo.png"\r\n' in content


@pytest.mark.parametrize(
    ("content", "sent_as", "encoding"),
    [
        (b"Subject: x\n\nhello\n", "message/rfc822", "7bit"),
        ("Subject: x\n\nGrüße\n".encode(), "message/rfc822", "8bit"),
        ("Subject: Grüße\n\nhello\n".encode(), "application/octet-stream", "base64"),
        (b"Subject: x\n\n" + b"x" * 999, "application/octet-stream", "base64"),
        (b"Subject: x\n\n\0", "application/octet-stream", "base64"),
    ],
)
def test_an_attached_message_is_not_encoded_or_not_called_one(content, sent_as, encoding):
    message = Message(to="a@b", attachments=[Attachment(filename="old.eml", content=content)])
    mail = message_from_bytes(composed(message).content, policy=policy.default)
    part = list(mail.iter_parts())[1]
    assert (part.get_content_type(), part["Content-Transfer-Encoding"]) == (sent_as, encoding)
    # RFC 2045 6.4: what is around it says so, too.
    assert mail["Content-Transfer-Encoding"] == ("8bit" if encoding == "8bit" else None)


INVITATION = "BEGIN:VCALENDAR\r\nMETHOD:request\r\nSUMMARY:Grüße\r\nEND:VCALENDAR\r\n"


def test_the_last_alternative_is_the_one_to_prefer():
    others = [
        Alternative.calendar(INVITATION),
        Alternative(content="<html amp4email>", content_type="Text/X-AMP-HTML"),
    ]
    assert structure(Message(to="a@b", text="x", html="x", alternatives=others)) == (
        "multipart/alternative(text/plain, text/x-amp-html, text/html, text/calendar)"
    )
    assert structure(Message(to="a@b", html="x", attachments=[IMAGE, FILE], alternatives=others[:1])) == (
        "multipart/mixed(multipart/alternative(multipart/related(text/html, image/png), text/calendar), "
        "application/pdf)"
    )
    assert structure(Message(to="a@b", alternatives=others[:1])) == "text/calendar"


def test_an_invitation_names_its_method():
    content = composed(Message(to="a@b", text="x", alternatives=[Alternative.calendar(INVITATION)])).content
    assert b'\r\nContent-Type: text/calendar; method=REQUEST; charset="utf-8"\r\n' in content
    assert b"SUMMARY:Gr=C3=BC=C3=9Fe\r\n" in content


def test_an_alternative_may_have_another_charset():
    other = Alternative(content="日本語", content_type="text/plain; charset=ISO-2022-JP")
    found = message_from_bytes(
        composed(Message(to="a@b", alternatives=[other])).content, policy=policy.default
    )
    assert (found.get_content_charset(), found.get_content()) == ("iso-2022-jp", "日本語\r\n")


def test_another_parameter_is_no_charset():
    other = Alternative(content="é", content_type="text/x-a; x-charset=latin-1")
    assert (
        b'text/x-a; x-charset=latin-1; charset="utf-8"\r\n'
        in composed(Message(to="a@b", alternatives=[other])).content
    )


def test_an_image_that_email_has_made_is_inline_if_it_has_an_id():
    image = MIMEImage(b"x", "png")
    image["Content-ID"] = "<logo>"
    shown = Message(to="a@b", html='<img src="cid:logo">', attachments=[image])
    assert structure(shown) == "multipart/related(text/html, image/png)"
    assert composed(shown).content.count(b"Content-ID: <logo>\r\n") == 1
    del image["Content-ID"]
    assert (
        structure(Message(to="a@b", html="x", attachments=[image])) == "multipart/mixed(text/html, image/png)"
    )


def test_a_part_that_email_has_made_is_attached_as_it_is():
    part = MIMEText("Grüße", "csv", "iso-8859-1")
    part["Content-Description"] = "figures"
    part.add_header("Content-Disposition", "attachment", filename="a.csv")
    whole = composed(Message(to="a@b", text="x", attachments=[part]))
    assert part.as_bytes().replace(b"\n", b"\r\n") in whole.content
    [found] = message_from_bytes(whole.content, policy=policy.default).iter_attachments()
    assert (found.get_content(), found.get_filename()) == ("Grüße", "a.csv")


def test_a_message_that_email_has_made_is_attached_as_a_message():
    inner = EmailMessage()
    inner["From"], inner["Subject"] = "a@b", "Grüße"
    inner.set_content("Grüße\n")
    for file in (inner, Attachment(filename="message.eml", content=inner)):
        whole = composed(Message(to="a@b", text="x", attachments=[file]))
        [found] = message_from_bytes(whole.content, policy=policy.default).iter_attachments()
        assert (found.get_content_type(), found.get_filename()) == ("message/rfc822", "message.eml")
        assert (found.get_content()["Subject"], found.get_content().get_content()) == ("Grüße", "Grüße\r\n")
        assert to_seven_bit(whole.content).isascii()


@pytest.mark.parametrize("length", [998, 999, 100_000])
def test_a_long_line_arrives(length):
    content = composed(Message(to="a@b", text="x" * length)).content
    assert max(map(len, content.split(b"\r\n"))) <= 78
    assert message_from_bytes(content, policy=policy.default).get_content() == "x" * length + "\r\n"


@pytest.mark.parametrize("kind", ["text", "message"])
def test_many_lines_cost_little_more_than_their_size(kind):
    lines = "\n" * 200_000
    inner = Attachment(filename="a.eml", content=b"Subject: x\n" + lines.encode())
    message = Message(to="a@b", text=lines) if kind == "text" else Message(to="a@b", attachments=[inner])
    tracemalloc.start()
    try:
        content = composed(message).content
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(content) > 400_000
    assert peak < 10 * len(content)


def test_too_large_says_both_sizes():
    message = Message(to="a@b", attachments=[Attachment(filename="a.pdf", content=bytes(3000))])
    size = len(composed(message).content)
    assert len(composed(message, size_limit=size).content) == size
    with pytest.raises(MessageTooLarge) as caught:
        composed(message, size_limit=size - 1)
    assert str(caught.value) == (
        f"the composed message has {size:,} bytes, 3,000 of them before it was composed; the size limit is "
        f"{size - 1:,}: make its attachments smaller, link to them, or raise `size_limit`"
    )


def test_what_is_too_large_already_is_not_composed(monkeypatch):
    monkeypatch.setattr(mime, "_root", None)
    message = Message(to="a@b", text="x", html="y", attachments=[FILE])
    with pytest.raises(MessageTooLarge) as caught:
        composed(message, size_limit=81)
    assert str(caught.value) == (
        "the message has 82 bytes, and more once it is composed; the size limit is 81: "
        "make its attachments smaller, link to them, or raise `size_limit`"
    )


def test_a_ready_made_message_has_a_limit_too():
    raw = b"From: a@b\r\nTo: c@d\r\n\r\nx\r\n"
    with pytest.raises(
        MessageTooLarge, match=r"^the composed message has 25 bytes; the size limit is 24: make"
    ):
        composed(Message(raw=raw), size_limit=24)
    with pytest.raises(MessageTooLarge, match=r"^the composed message has 96 bytes, 25 of them before"):
        composed(Message(raw=raw), size_limit=25)


def test_what_is_missing_in_a_ready_made_message_stands_in_front():
    raw = b"To: c@d\r\nDate: today\r\n\r\nx\r\n"
    assert composed(Message(raw=raw)).content == (
        b"From: Shop <shop@example.com>\r\nMessage-ID: <1.0@shop.example>\r\n" + raw
    )


@pytest.mark.parametrize(
    ("raw", "needed"),
    [
        ("From: a@b\nTo: c@d\nSubject: Grüße\n\n", True),
        ("From: a@b\nTo: c@d\n\nGrüße\n", False),
        ("From: a@b\nBcc: jörg@example.com\n\nx\n", True),
    ],
)
def test_a_ready_made_message_needs_smtputf8_for_its_headers(raw, needed):
    assert composed(Message(raw=raw)).smtputf8 is needed


def test_a_large_attachment_is_a_blob_between_its_headers_and_the_next_boundary():
    message = Message(to="ann@example.com", text="hi", attachments=[FILE, IMAGE])
    result = compose(
        message, sender="s@x.example", message_id="1@x", date=DATE, size_limit=10**6, blob_threshold=80
    )
    head, blob, tail = result.content
    assert head.endswith(b"filename=a.pdf\r\n\r\n") or head.endswith(b'filename="a.pdf"\r\n\r\n')
    assert blob == Blob(FILE.digest[:64], 80, "a.pdf")
    assert tail.startswith(b"\r\n--=_mixed_")
    assert size_of(result.content) == len(
        compose(message, sender="s@x.example", message_id="1@x", date=DATE, size_limit=10**6).content
    )


def test_a_blob_counts_for_the_size_limit_without_being_encoded():
    message = Message(to="ann@example.com", attachments=[FILE])
    with pytest.raises(MessageTooLarge, match="the size limit is 400"):
        compose(message, sender="s@x", message_id="1@x", date=DATE, size_limit=400, blob_threshold=1)
