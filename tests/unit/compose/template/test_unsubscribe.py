from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage

import msgspec
import pytest

from mailtasks.compose.template import CompiledTemplate, Template, TemplateRecord
from mailtasks.errors import MessageError, RenderError, TemplateError

DATE = datetime(2025, 1, 2, tzinfo=UTC)
URL = "https://news.example/u/{{ token|urlencode }}"


def load(unsubscribe=URL, fields=("token",), **given) -> TemplateRecord:
    given.setdefault("text", "Hi")
    return Template(subject="s", sender="n@news.example", unsubscribe=unsubscribe, **given).load(fields)


def mail(made: CompiledTemplate, **fields) -> EmailMessage:
    found = made.render(fields, to="Änn <ann+x@example.com>", message_id="1@x", date=DATE)
    parsed = message_from_bytes(found.content, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def url(unsubscribe, **fields) -> str:
    found = mail(load(unsubscribe, fields).compile(), **fields)["List-Unsubscribe"]
    assert found[0] + found[-1] == "<>"
    return found[1:-1]


def not_loaded(unsubscribe, **given) -> str:
    with pytest.raises(TemplateError) as raised:
        load(unsubscribe, ["token", "link"], **given)
    return str(raised.value)


def not_rendered(unsubscribe, **fields) -> str:
    with pytest.raises(RenderError) as raised:
        url(unsubscribe, **fields)
    assert raised.value.recipient == "ann+x@example.com"
    return str(raised.value).removeprefix("the mail to ann+x@example.com: ")


def test_the_two_headers_stand_in_each_mail_as_they_are():
    found = load().compile().render({"token": "a1"}, to="ann@example.com", message_id="1@x", date=DATE)
    assert (
        b"\r\nList-Unsubscribe: <https://news.example/u/a1>\r\n"
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    ) in found.content
    assert found.content.count(b"List-Unsubscribe") == 3


def test_bodies_and_headers_have_it_as_a_name():
    record = load(
        URL + "?a=1&b={{ email|urlencode }}",
        html="<p><a href='{{ unsubscribe_url }}'>Leave</a>",
        text="Leave: {{ unsubscribe_url }}\n",
        headers={"X-Leave": "{{ unsubscribe_url }}"},
    )
    found = mail(record.compile(), token="t")
    expected = "https://news.example/u/t?a=1&b=ann%2Bx%40example.com"
    text, html = [part.get_content().strip() for part in found.iter_parts()]
    assert text == f"Leave: {expected}"
    assert html == f"<p><a href='{expected.replace('&', '&amp;')}'>Leave</a>"
    assert found["X-Leave"] == expected


def test_the_text_that_is_made_of_the_html_has_the_link():
    record = Template(
        subject="s", sender="a@b.example", html="<a href='{{ unsubscribe_url }}'>Leave</a>", unsubscribe=URL
    ).load(["token"])
    text, _ = mail(record.compile(), token="t").iter_parts()
    assert text.get_content().strip() == "Leave <https://news.example/u/t>"


def test_the_subject_is_rendered_before_there_is_a_url():
    with pytest.raises(TemplateError, match=r"^subject, line 1: nothing gives 'unsubscribe_url'; "):
        Template(subject="{{ unsubscribe_url }}", sender="a@b.example", text="t", unsubscribe=URL).load(
            ["token"]
        )


def test_without_it_the_name_is_one_like_any_other():
    record = load(None, ["unsubscribe_url"], text="{{ unsubscribe_url }}\n")
    found = mail(record.compile(), unsubscribe_url="mine")
    assert (found.get_content().strip(), found["List-Unsubscribe"]) == ("mine", None)
    with pytest.raises(TemplateError, match=r"^text, line 1: nothing gives 'unsubscribe_url'; "):
        load(None, text="{{ unsubscribe_url }}")


def test_a_field_of_that_name_may_be_the_url():
    assert url("{{ unsubscribe_url }}", unsubscribe_url="https://x.example/u/1") == "https://x.example/u/1"


def test_it_travels_to_workers_and_older_records_are_read(tmp_path):
    (tmp_path / "url.txt").write_text(f"\n{URL}\n")
    record = load(tmp_path / "url.txt")
    there = TemplateRecord.decode(record.encode())
    (tmp_path / "url.txt").unlink()
    assert mail(there.compile(), token="t")["List-Unsubscribe"] == "<https://news.example/u/t>"

    older = msgspec.msgpack.encode(msgspec.msgpack.decode(load(None).encode())[:-1])
    assert TemplateRecord.decode(older) == load(None)


@pytest.mark.parametrize(
    ("unsubscribe", "fields", "expected"),
    [
        (URL, {"token": "a/../b c?&#<>ä"}, "https://news.example/u/a%2F..%2Fb%20c%3F%26%23%3C%3E%C3%A4"),
        (URL, {"token": 4711}, "https://news.example/u/4711"),
        (
            "https://x.example/?{{ {'t': token, 'e': email}|urlencode }}",
            {"token": "a/b c"},
            "https://x.example/?t=a%2Fb%20c&e=ann%2Bx%40example.com",
        ),
        ("{{ link }}", {"link": "HTTPS://x.example:8443/u?a=b"}, "HTTPS://x.example:8443/u?a=b"),
        ("{{ base }}/{{ token|urlencode }}", {"base": "https://[::1]", "token": 1}, "https://[::1]/1"),
        ("{# which #}{{ link or base }}", {"link": "", "base": "https://x"}, "https://x"),
        (
            "{% set other = link %}{% if other %}{{ other }}{% else %}" + URL + "{% endif %}",
            {"link": "", "token": "t"},
            "https://news.example/u/t",
        ),
        ("http://localhost:8000/{{ token|urlencode }}", {"token": 1}, "http://localhost:8000/1"),
        ("{{ link }}", {"link": "http://127.0.0.1/1"}, "http://127.0.0.1/1"),
        ("https://{{ token|urlencode }}.x.example/u", {"token": "eu"}, "https://eu.x.example/u"),
    ],
)
def test_a_value_stays_one_piece_of_the_url(unsubscribe, fields, expected):
    assert url(unsubscribe, **fields) == expected


def test_the_longest_is_not_folded_and_a_longer_one_is_refused():
    longest = "https://x.example/" + "a" * (898 - 18)
    found = (
        load("{{ link }}", ["link"])
        .compile()
        .render({"link": longest}, to="a@b.example", message_id="1@x", date=DATE)
    )
    assert f"\r\nList-Unsubscribe: <{longest}>\r\n".encode() in found.content
    assert not_rendered("{{ link }}", link=longest + "a").endswith(
        "; it has 899 characters: give at most 898, since no header is folded within a URL"
    )


HTTPS = (
    "it must begin with https:// (RFC 8058 3.1), or with http://localhost or http://127.0.0.1 to be tried out"
)


@pytest.mark.parametrize(
    ("unsubscribe", "told"),
    [
        (
            "https://x.example/\n{{ token }}",
            "unsubscribe, line 1: it holds '\\n', which no URL may; percent-encode it, or take it out "
            "({%- and -%} take out what stands around them)",
        ),
        (
            "https://x.example/{{ token }}",
            "unsubscribe, line 1: a value isn't percent-encoded, so that it could change the URL; write "
            "{{ token|urlencode }} (only what begins the URL may be ready)",
        ),
        (
            "https://x.example/{{- 'a' -}}\n{{ token|urlencode|upper }}",
            "unsubscribe, line 1: a value isn't percent-encoded, so that it could change the URL; write "
            "{{ (...)|urlencode }} (only what begins the URL may be ready)",
        ),
        (
            "{{ link }}/{{ token|urlencode -}}\n\n{{ link }}",
            "unsubscribe, line 3: a value isn't percent-encoded, so that it could change the URL; write "
            "{{ link|urlencode }} (only what begins the URL may be ready)",
        ),
        (
            "http://x.example/" + URL,
            f"unsubscribe, line 1: the URL begins with 'http://x.example/https://news.example/u/'; {HTTPS}",
        ),
        (
            "{% if token %}" + URL + "{% else %}mailto:{{ token|urlencode }}{% endif %}",
            f"unsubscribe, line 1: the URL begins with 'mailto:'; {HTTPS}",
        ),
        (
            "http://localhost.example/{{ token|urlencode }}",
            f"unsubscribe, line 1: the URL begins with 'http://localhost.example/'; {HTTPS}",
        ),
        (
            "https://x.example/u",
            "unsubscribe: it is the same for everybody, so that a click couldn't tell who it was "
            "(RFC 8058 3.1); put in what does, such as {{ email|urlencode }}",
        ),
        (
            "https://x.example/{{ tokn|urlencode }}",
            "unsubscribe, line 1: nothing gives 'tokn' (did you mean 'token'?); the fields are: link, token",
        ),
        (5, "unsubscribe: it must be a string or a path, not int"),
        (
            "",
            "unsubscribe: it is the same for everybody, so that a click couldn't tell who it was "
            "(RFC 8058 3.1); put in what does, such as {{ email|urlencode }}",
        ),
    ],
)
def test_what_is_wrong_is_told_when_it_is_loaded(unsubscribe, told):
    assert not_loaded(unsubscribe) == told


def test_a_file_is_named_with_its_line(tmp_path):
    (tmp_path / "u.txt").write_text("{% if token -%}\nhttps://x.example/{{ token }}\n{%- endif %}")
    told = not_loaded(tmp_path / "u.txt")
    assert told.startswith(f"{tmp_path}/u.txt, line 2: a value isn't percent-encoded")


@pytest.mark.parametrize("name", ["List-Unsubscribe", "list-unsubscribe-POST"])
def test_its_headers_cannot_be_given_as_well(name):
    with pytest.raises(MessageError) as raised:
        load(headers={name: "<https://x.example>"})
    assert str(raised.value) == (
        f"headers: {name} can't be given beside `unsubscribe`, which makes it: leave one out"
    )


EMPTY = "a value of the URL is empty, so that it leads nowhere; give one, or leave it out by {% if %}"
UNFIT = "which no URL may: percent-encode it"


@pytest.mark.parametrize(
    ("unsubscribe", "fields", "told"),
    [
        (URL, {"token": ""}, f"unsubscribe, line 1: {EMPTY}"),
        (URL, {"token": None}, f"unsubscribe, line 1: {EMPTY}"),
        ("https://x/?{{ {'t': token}|urlencode }}", {"token": None}, f"unsubscribe, line 1: {EMPTY}"),
        ("{{ link }}", {"link": ""}, "unsubscribe renders to nothing; give it a text for every case"),
        (
            "{{ link }}",
            {"link": "https://x.example/a b"},
            f"unsubscribe renders to 'https://x.example/a b'; it holds ' ', {UNFIT}",
        ),
        (
            "{{ link }}",
            {"link": "https://x.example/\t"},
            f"unsubscribe renders to 'https://x.example/\\t'; it holds '\\t', {UNFIT}",
        ),
        (
            "{{ link }}",
            {"link": "https://bücher.example/"},
            f"unsubscribe renders to 'https://bücher.example/'; it holds 'ü', {UNFIT}",
        ),
        (
            "{{ link }}",
            {"link": "https://x.example/>, <mailto:a@b.example"},
            f"unsubscribe renders to 'https://x.example/>, <mailto:a@b.example'; it holds '>', {UNFIT}",
        ),
        (
            "{{ link }}",
            {"link": "https://x.example/\r\nBcc: a"},
            "unsubscribe would be broken by the field 'link', which holds '\\r': "
            "'https://x.example/\\r\\nBcc: a'; remove line breaks and NUL from it",
        ),
        (
            "{{ link }}",
            {"link": "mailto:a@b.example"},
            f"unsubscribe renders to 'mailto:a@b.example'; {HTTPS}",
        ),
        (
            "{{ link }}",
            {"link": "http://localhost@x.example/"},
            f"unsubscribe renders to 'http://localhost@x.example/'; {HTTPS}",
        ),
        (
            "{{ link }}",
            {"link": "https:///u"},
            "unsubscribe renders to 'https:///u'; it names no host: put one behind the //",
        ),
        (
            "https://{{ token|urlencode }}/u",
            {"token": "a/b"},
            "unsubscribe renders to 'https://a%2Fb/u'; it names no host: put one behind the //",
        ),
    ],
)
def test_what_is_no_url_is_that_recipients_error(unsubscribe, fields, told):
    assert not_rendered(unsubscribe, **fields) == told
