from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes, policy

import pytest

from mailtasks.compose import Composed, compose
from mailtasks.errors import MessageTooLarge
from mailtasks.message import Attachment, Message
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
    ("content", "sent_as"),
    [
        (b"Subject: x\n\nhello\n", "message/rfc822"),
        ("Subject: x\n\nGrüße\n".encode(), "application/octet-stream"),
        (b"Subject: x\n\n" + b"x" * 999, "application/octet-stream"),
        (b"Subject: x\n\n\0", "application/octet-stream"),
    ],
)
def test_an_attached_message_is_not_encoded_or_not_called_one(content, sent_as):
    message = Message(to="a@b", attachments=[Attachment(filename="old.eml", content=content)])
    part = list(message_from_bytes(composed(message).content, policy=policy.default).iter_parts())[1]
    assert part.get_content_type() == sent_as
    assert part["Content-Transfer-Encoding"] == ("7bit" if sent_as == "message/rfc822" else "base64")


def test_too_large_says_both_sizes():
    message = Message(to="a@b", attachments=[Attachment(filename="a.pdf", content=bytes(3000))])
    size = len(composed(message).content)
    assert len(composed(message, size_limit=size).content) == size
    with pytest.raises(MessageTooLarge) as caught:
        composed(message, size_limit=size - 1)
    assert str(caught.value) == (
        f"the composed message has {size:,} bytes, the size limit is {size - 1:,}: "
        "make its attachments smaller, link to them, or raise `size_limit`"
    )


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
