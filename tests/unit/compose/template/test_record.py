from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import pytest

from mailtasks.compose.template import Template, TemplateRecord
from mailtasks.errors import AddressError, AttachmentError, MailtasksError, MessageError, TemplateError
from mailtasks.message import Attachment

FIELDS = ["name", "city"]
DATE = datetime(2025, 1, 2, tzinfo=UTC)


def template(**given) -> Template:
    if not given.keys() & {"text", "html"}:
        given["text"] = "Hi"
    return Template(**{"subject": "s", "sender": "News <n@example.com>", **given})


def refused(error=TemplateError, **given) -> str:
    with pytest.raises(MailtasksError) as raised:
        template(**given).load(FIELDS)
    assert type(raised.value) is error
    return str(raised.value)


def test_a_record_holds_all_that_is_needed(tmp_path):
    (tmp_path / "mail.html").write_text("{% extends 'layout.html' %}{% block b %}{{ name }}{% endblock %}")
    (tmp_path / "layout.html").write_text("<style>p{color:red}</style><p>{% block b %}{% endblock %}</p>")
    (tmp_path / "subject.txt").write_text("\nHi {{ name }}\n")
    record = template(
        subject=Path("subject.txt"),
        html=Path("mail.html"),
        folder=tmp_path,
        attachments=[Attachment(filename="a.png", content=b"x", cid="a")],
        attachment_fields=["city"],
        headers={"X-A": "{{ city }}"},
        inline_css=True,
    ).load(FIELDS)
    there = TemplateRecord.decode(record.encode())
    assert there == record
    given = {"name": "Ann", "city": "Köln"}
    for file in tmp_path.iterdir():
        file.unlink()
    mails = [
        it.compile().render(given, to="a@b.example", message_id="1@x", date=DATE) for it in (record, there)
    ]
    assert mails[0] == mails[1]
    assert mails[0].subject == "Hi Ann"
    assert b'style=3D"color: red;"' in mails[0].content


def test_another_process_makes_the_same_of_it():
    record = template(subject="{{ name }}", html="<p>{{ city }} <b>").load(FIELDS)
    code = (
        "import sys; from datetime import datetime, UTC; from mailtasks.compose.template import "
        "TemplateRecord\n"
        "record = TemplateRecord.decode(sys.stdin.buffer.read())\n"
        "mail = record.compile().render({'name': 'Änn', 'city': 'x'}, to='a@b.example', message_id='1@x',\n"
        "                               date=datetime(2025, 1, 2, tzinfo=UTC))\n"
        "sys.stdout.buffer.write(record.digest.encode() + mail.content)"
    )
    ran = subprocess.run([sys.executable, "-c", code], input=record.encode(), capture_output=True, check=True)
    here = record.compile().render(
        {"name": "Änn", "city": "x"}, to="a@b.example", message_id="1@x", date=DATE
    )
    assert ran.stdout == record.digest.encode() + here.content


def test_a_digest_is_that_of_the_content():
    first, same = (
        template(text="a", headers={"A": "1", "B": "2"}),
        template(text="a", headers={"B": "2", "A": "1"}),
    )
    digests = {
        it.load().digest for it in (first, template(text="b"), template(subject="t"), template(text="a"))
    }
    assert len(digests) == 4
    assert len(first.load().digest) == 32
    assert first.load().digest == first.load().digest
    assert (
        same.load().digest == first.load().digest
    )  # as msgpack sorts, and as headers may stand in any order


def test_the_text_is_made_of_the_html_once():
    record = template(html="<h1>Hi {{ name }}</h1>").load()
    assert record.text is not None
    assert (record.text.main.text, record.text_from_html) == ("# Hi {{ name }}\n\n", True)
    assert template(html="<p>", text="mine").load().text.main.text == "mine"
    assert template(html="<p>", text_from_html=False).load().text is None


def test_a_loader_and_strings_go_together():
    loader = jinja2.DictLoader({"foot": "-- {{ city }}"})
    record = template(text="Hi {% include 'foot' %}", loader=loader).load(FIELDS)
    mail = record.compile().render({"city": "x"}, to="a@b.example", message_id="1@x", date=DATE)
    assert b"-- =\r\nx=\r\n" in mail.content.replace(b"--=20=", b"-- =")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"sender": None}, "the template: it has no sender; give one"),
        ({"text": None}, "the template: it has no body; give text, html or both"),
        ({"text": 5}, "text: it must be a string or a path, not int"),
        ({"subject": None}, "subject: it must be a string or a path, not NoneType"),
        ({"subject": " "}, "subject: it renders to nothing; give it a text for every case"),
        ({"subject": "a\nb"}, "subject: it renders to two lines: 'a\\nb'; make it one"),
        (
            {"subject": "{{ 1 / 0 }}"},
            "subject, line 1: ZeroDivisionError: division by zero; see whether the field is of the "
            "kind that the "
            "template expects",
        ),
        (
            {"subject": "{{ nme }}"},
            "subject, line 1: nothing gives 'nme' (did you mean 'name'?); the fields are: city, name",
        ),
        ({"headers": {"X-A": "{{ x }}"}}, "X-A, line 1: nothing gives 'x'; the fields are: city, name"),
        (
            {"headers": {"List-Unsubscribe": "https://x.example"}},
            "List-Unsubscribe: headers: List-Unsubscribe holds 'https://x.example': put each URL in "
            "angle brackets, "
            "and commas between them, as in '<https://example.com/u/1>, <mailto:u@example.com>' (RFC 2369)",
        ),
        (
            {"attachment_fields": ["bill"]},
            "attachment_fields: there is no field 'bill'; give one, or leave it out",
        ),
        (
            {"html": "just text"},
            "html, line 1: it holds no HTML, not a single tag; give it as text, or see whether it is "
            "the right file",
        ),
        (
            {"html": "<p {% if name %}>{% endif %}"},
            "html: no text can be made of it, since conditions or loops begin in a tag and end "
            "elsewhere; give `text`, "
            "or text_from_html=False",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(given, told):
    assert refused(**given) == told


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"text": "Hi"}, set()),
        ({"subject": "{{ a }}", "text": "{{ b.c }}", "headers": {"X-A": "{{ d }}"}}, {"a", "b", "d"}),
        ({"html": "<p>{{ a }}"}, {"a"}),
        ({"html": "<p title='{{ a }}'>", "inline_css": True}, {"a"}),
        ({"text": "{% if a %}{% endif %}{% for x in b %}{{ x }}{{ loop.index }}{% endfor %}"}, {"a", "b"}),
        ({"text": "{{ a|default('you') }}{% if b is defined %}{{ b }}{% endif %}{{ c|d('') }}"}, set()),
        ({"text": "{{ a|default('you') }}", "subject": "{{ a }}"}, {"a"}),
        ({"text": "{% set a = 1 %}{{ a }}{% with b = c %}{{ b }}{% endwith %}"}, {"c"}),
        ({"text": "{% if a %}{% set b = 1 %}{% else %}{% set b = 2 %}{% endif %}{{ b }}"}, {"a"}),
        (
            {"text": "{% macro m(x) %}{{ x }}{{ y }}{% endmacro %}{{ m(range(3)|list) }}{{ namespace() }}"},
            {"y"},
        ),
        ({"text": "{% include 'f' %}", "loader": jinja2.DictLoader({"f": "{{ a }}"})}, {"a"}),
        ({"text": "{{ email }}", "attachment_fields": ["bill", "terms"]}, {"bill", "terms"}),
        ({"text": "{{ unsubscribe_url }}"}, {"unsubscribe_url"}),
        ({"text": "{{ unsubscribe_url }}", "unsubscribe": "https://x.example/{{ a|urlencode }}"}, {"a"}),
        ({"text": "{{ unsubscribe_url }}", "unsubscribe": "{{ unsubscribe_url }}"}, {"unsubscribe_url"}),
    ],
)
def test_the_names_that_fields_must_have_are_those_without_which_it_is_refused(given, names):
    record = TemplateRecord.decode(template(**given).load().encode())
    assert record.required_names == names
    record.compile(names)
    for name in names:
        with pytest.raises(TemplateError, match=rf"(nothing gives|there is no field) '{name}'"):
            record.compile(names - {name})


def test_a_file_that_the_html_shows_by_its_name_is_an_image_in_it():
    files = [Attachment(filename=name, content=b"x") for name in ("logo.png", "back.png", "a.pdf")]
    html = '<IMG SRC=CID:logo.png><p style="background: url(cid:back.png)">'
    record = template(html=html, attachments=files).load(FIELDS)
    assert [file.cid for file in record.attachments] == ["logo.png", "back.png", None]
    assert "has the cid 'my logo.png': give below 256 printable" in refused(
        AttachmentError,
        html="<img src='cid:my%20logo.png'>",
        attachments=[Attachment(filename="my logo.png", content=b"x")],
    )


def test_what_the_html_shows_must_be_attached():
    assert refused(html="<p>cid:that is text\n<img src='cid:logo.png'>") == (
        "html, line 2: it shows cid:logo.png, and no file has that name or cid; attach it"
    )


def test_what_is_no_template_is_told_as_for_a_message():
    assert refused(AddressError, sender="x").startswith("sender: 'x' is no mail address")
    assert refused(AddressError, reply_to="x").startswith("reply_to: 'x' is no mail address")
    assert refused(AttachmentError, attachments=["nope.pdf"]).startswith(
        "the attachment 'nope.pdf' can't be read"
    )
    assert refused(MessageError, headers={"Subject": "x"}) == (
        "headers: Subject can't be given here: use `subject`"
    )
    assert refused(MessageError, headers={"A B": "x"}).startswith("headers: 'A B' is no header name")


def test_lines_are_those_of_the_file_though_the_html_was_changed(tmp_path):
    (tmp_path / "m.html").write_text("<style>p{color:red}</style>\n<p\n\n\nclass=x>\n{{ nme }}")
    told = refused(html=tmp_path / "m.html", inline_css=True)
    assert told.startswith(f"{tmp_path}/m.html, line 6: nothing gives 'nme'")


def test_a_record_that_comes_from_elsewhere_is_looked_at_again():
    record = template(text="{{ nme }}").load()
    with pytest.raises(TemplateError, match=r"^text, line 1: nothing gives 'nme'"):
        record.compile(FIELDS)
