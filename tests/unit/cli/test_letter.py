from datetime import UTC, datetime

from mailtasks.cli.letter import Letter
from mailtasks.compose.template import Template
from mailtasks.message import Attachment


def letter(**parts):
    given = {"subject": "Grüße, {{ name }}", "sender": "Jörg <news@example.com>", **parts}
    rendered = (
        Template(**given)
        .compile(["name"])
        .render(
            {"name": "Ann"},
            to="ann@example.com",
            message_id="1@example.com",
            date=datetime(2026, 3, 1, tzinfo=UTC),
        )
    )
    return Letter.of(rendered), rendered


def test_headers_are_decoded_and_those_of_mime_left_out():
    found, rendered = letter(text="Dear {{ name }}, ü", headers={"X-A": "{{ name }}"})
    assert found.headers == [
        ("Date", "Sun, 01 Mar 2026 00:00:00 +0000"),
        ("From", "Jörg <news@example.com>"),
        ("To", "ann@example.com"),
        ("Subject", "Grüße, Ann"),
        ("Message-ID", "<1@example.com>"),
        ("X-A", "Ann"),
    ]
    assert (found.text.strip(), found.html, found.attachments) == ("Dear Ann, ü", "", [])
    assert found.size == len(rendered.content)


def test_lines_have_the_text_and_mention_the_rest():
    found, _ = letter(
        text="Dear {{ name }}\n\tü\n",
        html="<p>{{ name }}</p>",
        attachments=[Attachment(filename="größe.txt", content=b"x")],
    )
    assert list(found.lines()) == [
        *(f"{name}: {value}" for name, value in found.headers),
        "",
        "Dear Ann",
        "        ü",
        "",
        f"(and HTML of {len(found.html)} characters; look at it with --test-to)",
        "(and the file größe.txt)",
    ]
    assert found.html.strip() == "<p>Ann</p>"


def test_as_json():
    found, _ = letter(html="<p>{{ name }}</p>", attachments=[Attachment(filename="a.txt", content=b"x")])
    told = found.as_dict()
    assert told["headers"][3] == ["Subject", "Grüße, Ann"]
    assert (told["text"].strip(), told["html"].strip(), told["attachments"]) == (
        "Ann",
        "<p>Ann</p>",
        ["a.txt"],
    )
    assert told["size"] == found.size


def test_a_mail_without_text():
    found, _ = letter(html="<p>{{ name }}</p>", text_from_html=False)
    assert (found.text, found.html.strip()) == ("", "<p>Ann</p>")
    assert list(found.lines())[-1].startswith("(and HTML of ")
