from __future__ import annotations

import sys

import jinja2
import pytest

from mailtasks.compose.template.css import with_styles_inlined
from mailtasks.compose.template.sources import read_part
from mailtasks.errors import TemplateError

STYLE = "<style>.a{color:red} @media print{.a{color:blue}}</style>"


def inlined(html, **files):
    part = with_styles_inlined(read_part("html", html, None, jinja2.DictLoader(files)))
    return part.main.text.replace(STYLE, "")


def refused(html) -> str:
    with pytest.raises(TemplateError) as raised:
        inlined(html)
    return str(raised.value)


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p class=a>x</p>", '<p class="a" style="color: red;">x</p>'),
        (
            "<p class='a {{ b }}' style='margin:{{ m }}'>{{ c }} &lt;</p>",
            '<p class="a {{ b }}" style="color: red;margin: {{ m }}">{{ c }} &lt;</p>',
        ),
        ("<p {% if b %}title='x'{% endif %}>y</p>", '<p {% if b %}title="x" {% endif %}>y</p>'),
        (
            "<table>{% for i in b %}<tr><td class='a'>x</td></tr>{% endfor %}</table>",
            '<table>{% for i in b %}<tr><td class="a" style="color: red;">x</td></tr>{% endfor %}</table>',
        ),
        ("<p>{% raw %}{{ x }}{% endraw %}{# gone #}</p>", "<p>{{ '{' }}{ x }}</p>"),
        (
            "<!-- {{ c }} --><p>{% if 1 < 2 %}x{% endif %}</p>",
            "<!-- {{ c }} --><p>{% if 1 < 2 %}x{% endif %}</p>",
        ),
        ("<textarea>{{ c }}</textarea>", "<textarea>{{ c }}</textarea>"),
    ],
)
def test_rules_go_into_elements_and_constructs_stay(html, expected):
    assert inlined(STYLE + html) == expected


def test_a_whole_document_stays_one():
    head = f"<head>{STYLE}<title>{{{{ t }}}}</title></head>"
    html = f"<!DOCTYPE html><html>{head}<body><p class=a>x</p></body></html>"
    assert inlined(html) == (
        "<!DOCTYPE html><html><head><title>{{ t }}</title></head><body>"
        '<p class="a" style="color: red;">x</p></body></html>'
    )


def test_what_stays_in_the_style_sheet():
    part = with_styles_inlined(read_part("html", f"{STYLE}<p>", None, None))
    assert "@media print{.a{color:blue}}" in part.main.text


def test_a_source_has_the_rules_of_the_others():
    child = "{% extends 'l' %}{% block b %}<b class='a'>{{ n }}</b>{% endblock %}"
    expected = '{% extends \'l\' %}{% block b %}<b class="a" style="color: red;">{{ n }}</b>{% endblock %}'
    assert inlined(child, l=STYLE + "<div>{% block b %}{% endblock %}</div>") == expected


@pytest.mark.parametrize(
    ("html", "told"),
    [
        (
            "<tr class=a><td>{{ x }}</td></tr>",
            "html: its styles can't be inlined, since <tr> wouldn't stay where it is; let the file "
            "hold whole "
            "elements, such as a table and not its rows, or leave inline_css out",
        ),
        (
            "<p {% if x %}class=a{% endif %}>",
            "html: its styles can't be inlined, since {% endif %} ends a value without quotes; put "
            "the value in quotes",
        ),
        (
            "<p class=a style='{{ x }}'>",
            "html: its styles can't be read: End of input; mend its style sheet, or the style "
            "attribute that is one "
            "expression",
        ),
        (
            "<p class='a' class='{{ x }}'>",
            "html: its styles can't be inlined, since {{ x }} wouldn't stay where it is; let the "
            "file hold whole "
            "elements, such as a table and not its rows, or leave inline_css out",
        ),
    ],
)
def test_what_would_be_lost_is_told(html, told):
    assert refused(STYLE + html) == told


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "css_inline", None)
    assert refused("<p>") == "html: inline_css needs css-inline: pip install mailtasks[css], or leave it out"
