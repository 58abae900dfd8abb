from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes, policy

import pytest

from mailtasks.address import parse
from mailtasks.compose.template import CompiledTemplate, Rendered, Template
from mailtasks.errors import AddressError, MessageError, MessageTooLarge, RenderError
from mailtasks.message import Attachment
from mailtasks.pieces import Blob, OwnFile, base64_lines, blobs_in, filled, size_of

DATE = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
FIELDS = {"name": "Ann", "city": "Köln", "items": []}
IMAGE = Attachment(filename="logo.png", content=b"\x89PNG", cid="logo")
FILE = Attachment(filename="a.pdf", content=b"%PDF" * 20)


def template(**given) -> CompiledTemplate:
    if not given.keys() & {"text", "html"}:
        given["text"] = "Hi"
    return Template(**{"subject": "s", "sender": "News <n@example.com>", **given}).compile(FIELDS)


def render(made: CompiledTemplate, to="ann@example.com", **fields) -> Rendered:
    return made.render(FIELDS | fields, to=to, message_id="1@shop.example", date=DATE)


def refused(made: CompiledTemplate, to="ann@example.com", **fields) -> str:
    with pytest.raises(RenderError) as raised:
        render(made, to, **fields)
    assert raised.value.recipient == "ann@example.com"
    return str(raised.value)


def structure(content: bytes) -> str:
    def describe(part):
        inner = ", ".join(map(describe, part.iter_parts())) if part.is_multipart() else ""
        return part.get_content_type() + (f"({inner})" if inner else "")

    return describe(message_from_bytes(content, policy=policy.default))


def test_the_whole_message():
    made = template(
        subject="Hi {{ name }}",
        text="Hi {{ name }}\n",
        html="<p>{{ city }}</p>",
        reply_to="help@example.com",
        headers={"List-Unsubscribe": "<https://x.example/{{ name }}>", "Precedence": "bulk"},
    )
    found = render(made, "Änn <ann@example.com>")
    boundary = found.content.partition(b'boundary="')[2].partition(b'"')[0].decode()
    assert boundary.startswith("=_alternative_")
    assert found.content.decode() == (
        "Date: Thu, 02 Jan 2025 03:04:05 +0000\r\n"
        "From: News <n@example.com>\r\n"
        "To: =?utf-8?q?=C3=84nn?= <ann@example.com>\r\n"
        "Subject: Hi Ann\r\n"
        "Message-ID: <1@shop.example>\r\n"
        "List-Unsubscribe: <https://x.example/Ann>\r\n"
        "Reply-To: help@example.com\r\n"
        "Precedence: bulk\r\n"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/alternative;\r\n boundary="{boundary}"\r\n'
        "\r\n"
        f"--{boundary}\r\n"
        'Content-Type: text/plain; charset="utf-8"\r\n'
        "Content-Transfer-Encoding: quoted-printable\r\n"
        "\r\n"
        "Hi=20=\r\nAnn=\r\n\r\n"
        "\r\n"
        f"--{boundary}\r\n"
        'Content-Type: text/html; charset="utf-8"\r\n'
        "Content-Transfer-Encoding: quoted-printable\r\n"
        "\r\n"
        "<p>=\r\nK=C3=B6ln=\r\n</p>=\r\n\r\n"
        "\r\n"
        f"--{boundary}--\r\n"
    )
    assert not found.smtputf8
    assert found.subject == "Hi Ann"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"text": "t"}, "text/plain"),
        ({"html": "<p>", "text_from_html": False}, "text/html"),
        ({"html": "<p>"}, "multipart/alternative(text/plain, text/html)"),
        (
            {"html": "<p>", "attachments": [IMAGE]},
            "multipart/alternative(text/plain, multipart/related(text/html, image/png))",
        ),
        (
            {"html": "<p>", "attachments": [FILE, IMAGE]},
            "multipart/mixed(multipart/alternative(text/plain, multipart/related(text/html, image/png)), "
            "application/pdf)",
        ),
        ({"attachments": [IMAGE]}, "multipart/mixed(text/plain, image/png)"),
        (
            {"attachments": [FILE], "attachment_fields": ["city"]},
            "multipart/mixed(text/plain, application/pdf)",
        ),
        ({"attachment_fields": ["city"]}, "text/plain"),
    ],
)
def test_parts_are_laid_out_as_they_are_needed(given, expected):
    assert structure(render(template(**given)).content) == expected


def test_a_recipient_may_have_files_of_its_own():
    made = template(html="<p>", attachments=[FILE], attachment_fields=["city"])
    own = Attachment(filename="bill.txt", content=b"4711")
    first = made.render(FIELDS, to="ann@example.com", message_id="1@x", date=DATE, attachments=[own])
    assert structure(first.content) == (
        "multipart/mixed(multipart/alternative(text/plain, text/html), application/pdf, text/plain)"
    )
    # One of the template's own mails may be attached, though the boundaries within are the same.
    eml = Attachment(filename="old.eml", content=first.content, content_type="message/rfc822")
    second = made.render(FIELDS, to="ann@example.com", message_id="2@x", date=DATE, attachments=[eml])
    assert structure(second.content).endswith(f"application/pdf, message/rfc822({structure(first.content)}))")


@pytest.mark.parametrize("content", [b"4711", b""])
def test_what_is_stored_of_them_makes_the_same_mail(content):
    made = template(attachments=[FILE], attachment_fields=["city"])
    file = Attachment(filename="bill.txt", content=content)
    stored = OwnFile(file.digest[:64], len(content), "bill.txt", "text/plain", "may/bill.txt")
    whole, parted = (
        made.render(FIELDS, to="ann@example.com", message_id="1@x", date=DATE, attachments=[own]).content
        for own in (file, stored)
    )
    assert blobs_in(parted) == ([stored] if content else []), "of nothing there is nothing to store"
    filled_in = filled(parted, {stored.digest: (base64_lines(content),)})
    assert (filled_in if isinstance(filled_in, bytes) else b"".join(filled_in)) == whole
    assert size_of(parted) == len(whole)


def test_files_of_ones_own_must_be_foreseen():
    with pytest.raises(MessageError) as raised:
        template().render(FIELDS, to="a@b.example", message_id="1@x", date=DATE, attachments=[FILE])
    assert str(raised.value) == "the template has no attachment_fields, so that no mail has files of its own"


def test_a_large_file_is_a_blob():
    record = Template(subject="s", sender="n@example.com", text="{{ name }}", attachments=[FILE]).load()
    content = render(record.compile(blob_threshold=10)).content
    assert isinstance(content, tuple)
    assert [type(piece) for piece in content] == [bytes, Blob, bytes]
    assert (content[1].size, content[1].name) == (80, "a.pdf")


def test_the_same_fields_give_the_same_bytes():
    made, again = template(html="<p>{{ name }}"), template(html="<p>{{ name }}")
    assert render(made) == render(made) == render(again)
    assert render(template(html="<p>{{ city }}")).content != render(made).content


def test_smtputf8_is_asked_for_where_an_address_needs_it():
    made = template(subject="{{ city }}")
    assert not render(made).smtputf8
    assert render(made, "jörg@example.com").smtputf8
    assert render(made, parse("jörg@example.com")).smtputf8


BROKEN_HEADERS = [
    (
        {"subject": "{{ name }}"},
        {"name": " "},
        "subject renders to nothing; give it a text for every case",
    ),
    (
        {"subject": "{% if name %}a\nb{% endif %}"},
        {},
        "subject renders to two lines: 'a\\nb'; make it one",
    ),
    (
        {"subject": "Hi {{ name }}"},
        {"name": "a\r\nBcc: x@y.example"},
        "subject would be broken by the field 'name', which holds '\\r': 'a\\r\\nBcc: "
        "x@y.example'; remove line "
        "breaks and NUL from it",
    ),
    (
        {"headers": {"X-A": "{{ city }}"}},
        {"city": "\0"},
        "X-A would be broken by the field 'city', which holds '\\x00': '\\x00'; remove line "
        "breaks and NUL from it",
    ),
    (
        {"subject": "{{ name }}"},
        {"name": "\ud800"},
        "subject renders to a surrogate, which can't be mailed: see to the encoding of the fields",
    ),
    (
        {"headers": {"List-Unsubscribe": "<https://x.example/{{ city }}>"}},
        {},
        "headers: List-Unsubscribe holds '<https://x.example/Köln>': give printable ASCII, for "
        "what this header "
        "says is read by programs, which decode nothing there",
    ),
    (
        {"unsubscribe": "{{ city }}"},
        {},
        "unsubscribe renders to 'Köln'; it holds 'ö', which no URL may: percent-encode it",
    ),
    (
        {"unsubscribe": "https://x.example/{{ city|urlencode }}"},
        {"city": "ö" * 200},
        "unsubscribe renders to 'https://x.example/%C3%B6%C3%B6%C3%B6%C3%B6%C3%B6%C3%B6%C3...'; it has 1218 "
        "characters: give at most 898, since no header is folded within a URL",
    ),
]
BROKEN_BODIES = [
    (
        {"text": "a\n{{ name }}"},
        {"name": "\ud800"},
        "text, line 2: a field holds a surrogate, which can't be mailed: decode it with its real charset",
    ),
    (
        {"html": "a\n{{ name }}<p>"},
        {"name": None},
        "html, line 2: a value is None, which would stand there as a word; give one, or write "
        "{{ name or 'friend' }}",
    ),
    (
        {"text": "{{ name.first }}"},
        {},
        "text, line 1: 'str object' has no attribute 'first'; give the field, or leave it out of "
        "the template",
    ),
    (
        {"text": "\n\n{{ name + 1 }}"},
        {},
        'text, line 3: TypeError: can only concatenate str (not "int") to str; see whether the field is '
        "of the kind that the template expects",
    ),
]


@pytest.mark.parametrize(("given", "fields", "told"), BROKEN_HEADERS + BROKEN_BODIES)
def test_what_does_not_fit_is_told_with_the_recipient(given, fields, told):
    assert refused(template(**given), **fields) == f"the mail to ann@example.com: {told}"


@pytest.mark.parametrize(("given", "fields", "told"), BROKEN_HEADERS)
def test_what_breaks_a_header_is_told_without_rendering_the_rest(given, fields, told):
    made = template(**given, text="{{ 1 // 0 }}")
    with pytest.raises(RenderError) as raised:
        made.check_headers(FIELDS | fields, to="ann@example.com")
    assert str(raised.value) == f"the mail to ann@example.com: {told}"


def test_headers_that_fit_and_those_that_need_no_look():
    given = {"subject": "Hi {{ name }}", "unsubscribe": "https://x.example/{{ email|urlencode }}"}
    template(**given).check_headers(FIELDS, to="ann@example.com")
    template(**given).check_headers({"name": "Ann, who is ä " + 60 * "x"}, to="ann@example.com")
    with pytest.raises(RenderError, match="'name' is undefined"):
        template(**given).check_headers({}, to="ann@example.com")


def test_a_field_that_is_missing_is_told():
    made = template(text="{{ name }}")
    with pytest.raises(RenderError) as raised:
        made.render({}, to="ann@example.com", message_id="1@x", date=DATE)
    assert str(raised.value) == (
        "the mail to ann@example.com: text, line 1: 'name' is undefined; give the field, or leave it "
        "out of the template"
    )


def test_the_line_is_that_of_the_file_that_was_included(tmp_path):
    (tmp_path / "mail.html").write_text("<p>\n{% include 'row.html' %}")
    (tmp_path / "row.html").write_text("\n\n{{ name.x }}")
    told = refused(template(html=tmp_path / "mail.html"))
    assert told.startswith(f"the mail to ann@example.com: {tmp_path}/row.html, line 3: 'str object' has no ")


def test_no_recipient_no_mail():
    with pytest.raises(AddressError, match=r"^'nobody' is no mail address: "):
        render(template(), "nobody")


def test_a_mail_that_is_too_large_is_told():
    with pytest.raises(MessageTooLarge) as raised:
        template().render(FIELDS, to="a@b.example", message_id="1@x", date=DATE, size_limit=100)
    assert str(raised.value) == (
        "the mail to a@b.example has 231 bytes; the size limit is 100: make the template or its "
        "attachments smaller, "
        "or raise `size_limit`"
    )
