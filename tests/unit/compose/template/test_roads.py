from __future__ import annotations

from base64 import b64decode
from quopri import decodestring

import jinja2
import pytest

from mailtasks.compose.template.budget import Limits, Refused, within
from mailtasks.compose.template.roads import Body, Renderer, encoded, values_of
from mailtasks.compose.template.sources import read_part
from mailtasks.errors import TemplateError

VALUES = values_of({"name": "Änn", "items": ["a", "b"], "n": 3, "markup": "<b>"})


def body(source, **options) -> Body:
    loader = jinja2.DictLoader(
        {"layout": "[{% block b %}{% endblock %}]", "m": "{% macro m() %}x{% endmacro %}"}
    )
    return Body(read_part("text", source, None, loader), **options)


def rendered(found: Body) -> bytes:
    with within(Limits()) as budget:
        return found.render(VALUES, budget)


@pytest.mark.parametrize(
    "source",
    [
        "{{ name }}",
        "{% for i in items %}{{ loop.index }}{{ loop.cycle('a', 'b') }}{% endfor %}",
        "{% if n %}{{ name|upper ~ n }}{% endif %}",
        "{% set x = name %}{% with y = x %}{{ y }}{% endwith %}",
        "{% extends 'layout' %}{% block b %}{{ name }}{% endblock %}",
        "{% include 'layout' %}",
        "{% raw %}{{ }}{% endraw %}",
    ],
)
def test_the_fast_road_is_taken_where_nothing_looks_at_what_was_rendered(source):
    assert body(source).fast
    assert body(source, html=True).fast


@pytest.mark.parametrize(
    "source",
    [
        "{% set x %}a{% endset %}{{ x }}",
        "{% filter upper %}a{% endfilter %}",
        "{% macro m() %}a{% endmacro %}{{ m() }}",
        "{% import 'm' as m %}{{ m.m() }}",
        "{% from 'm' import m %}{{ m() }}",
        "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}a{% endcall %}",
        "{% autoescape false %}a{% endautoescape %}",
        "{% extends 'layout' %}{% block b %}{{ super() }}{% endblock %}",
        "{% block b %}a{% endblock %}{{ self.b() }}",
        "{% set s = self %}{% block b %}a{% endblock %}{{ s.b() }}",
        "{% for i in items recursive %}{{ loop([]) }}{% endfor %}",
    ],
)
def test_the_slow_road_is_taken_where_something_does(source):
    assert not body(source).fast
    assert not body(source, html=True).fast


def test_the_fast_road_breaks_lines_softly_behind_each_piece():
    assert (
        rendered(body("Hi {{ name }}, {{ n }}\n!")) == b"Hi=20=\r\n=C3=84nn=\r\n,=20=\r\n3=\r\n\r\n!=\r\n\r\n"
    )
    assert rendered(body("<{{ markup }}>", html=True)) == b"<=\r\n&lt;b&gt;=\r\n>=\r\n\r\n"
    assert rendered(body("")) == b"\r\n"


@pytest.mark.parametrize("looking", ["", "{% set x %}{% endset %}"])
@pytest.mark.parametrize(
    ("value", "escaped"), [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")]
)
def test_each_character_that_means_something_in_html_is_escaped_there_alone(looking, value, escaped):
    for html, expected in ((True, escaped), (False, value)):
        with within(Limits()) as budget:
            octets = body(looking + "{{ name }}", html=html).render({"name": value}, budget)
        assert decodestring(octets).decode() == expected + "\r\n"


def test_the_slow_road_encodes_the_whole():
    source = "{% set x %}{% endset %}Hi {{ name }}, {{ n }}\n!"
    assert rendered(body(source)) == b"Hi =C3=84nn, 3\r\n!\r\n"


def test_a_text_of_which_quoted_printable_is_unreadable_is_base64():
    found = body("日本語の手紙です。{{ name }}")
    assert (found.encoding, found.fast) == ("base64", False)
    assert b64decode(rendered(found)) == "日本語の手紙です。Änn\r\n".encode()
    assert body("Grüße {{ name }}").encoding == "quoted-printable"


def test_what_is_safe_in_html_is_text_in_the_text_made_of_it():
    source = "{{ markup|safe }}{{ '<p>a<p>b'|safe }} {{ markup|e }} {{ '&'|escape }} {{ 'x.org'|urlize(20) }}"
    assert decodestring(rendered(body(source, from_html=True))) == b"a\r\nb <b> & x.org\r\n"


@pytest.mark.parametrize("source", ["{{ nothing }}", "{% set x %}{{ nothing }}{% endset %}"])
@pytest.mark.parametrize("html", [True, False])
def test_none_is_printed_nowhere(source, html):
    with within(Limits()) as budget, pytest.raises(Refused) as raised:
        body(source, html=html).render(VALUES | {"nothing": None}, budget)
    assert str(raised.value) == (
        "a value is None, which would stand there as a word; give one, or write {{ name or 'friend' }}"
    )


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ""),
        ("a", "a=\r\n"),
        ("a\n", "a\r\n"),
        ("a \n.\nFrom x", "a=20\r\n=2E\r\n=46rom =\r\nx=\r\n"),
        ("=", "=3D=\r\n"),
        ("x" * 75, "x" * 75 + "=\r\n"),
        ("x" * 76, "x" * 75 + "=\r\nx=\r\n"),
        ("x" * 73 + "ä", "x" * 73 + "=\r\n=C3=A4=\r\n"),
        ("x" * 70 + "ä", "x" * 70 + "=C3=\r\n=A4=\r\n"),
    ],
)
def test_a_piece_begins_and_ends_where_a_line_begins(text, lines):
    assert encoded(text) == lines


def test_renderers_render_text():
    with within(Limits()) as budget:
        part = read_part("s", "{{ name }} {{ markup }}\n", None, None)
        assert Renderer(part).text(VALUES, budget) == "Änn <b>"
        assert Renderer(part, html=True).text(VALUES, budget) == "Änn &lt;b&gt;"


def test_what_only_python_finds_too_deep_is_told():
    deep = "{% for i in items %}" * 25 + "{% endfor %}" * 25
    with pytest.raises(TemplateError) as raised:
        body(deep)
    assert str(raised.value) == "text: its loops and conditions are nested too deep; make it simpler"
