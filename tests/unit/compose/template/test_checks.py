from __future__ import annotations

import jinja2
import pytest

from mailtasks.compose.template.checks import asked_for, check_names, check_part, is_bare, names_in
from mailtasks.compose.template.sandbox import Sandbox
from mailtasks.compose.template.sources import read_part
from mailtasks.errors import TemplateError


def check(source, fields=("name", "city"), **files):
    part = read_part("text", source, None, jinja2.DictLoader(files))
    check_part(Sandbox(html=False), part)
    check_names(asked_for(part), fields)


def refused(source, fields=("name", "city"), **files) -> str:
    with pytest.raises(TemplateError) as raised:
        check(source, fields, **files)
    return str(raised.value)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "Hi\n{{ nam }}",
            "text, line 2: nothing gives 'nam' (did you mean 'name'?); the fields are: city, name",
        ),
        ("{% if zzz %}{% endif %}", "text, line 1: nothing gives 'zzz'; the fields are: city, name"),
        (
            "{% for x in name %}{% endfor %}{{ x }}",
            "text, line 1: nothing gives 'x'; the fields are: city, name",
        ),
        (
            "{{ name.__class__ }}",
            "text, line 1: a template may not ask for '__class__': what begins with an underscore isn't for "
            "templates; leave it out",
        ),
        (
            "\n{{ name|uper }}",
            "text, line 2: there is no filter 'uper' (did you mean 'upper'?); Jinja2's manual lists them",
        ),
        ("{{ name is bar }}", "text, line 1: there is no test 'bar'; Jinja2's manual lists them"),
        (
            "{% block a %}{% endblock %}\n{% block a %}{% endblock %}",
            "text, line 2: block 'a' defined twice; mend the template there",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(source, told):
    assert refused(source) == told


@pytest.mark.parametrize(
    "source",
    [
        "{{ name['__class__'] }}",
        "{{ name|attr('_x') }}",
        "{{ name|map(attribute='a.__class__')|list }}",
        "{{ name|groupby('__class__') }}",
        "{{ name|sort(attribute='__class__') }}",
    ],
)
def test_an_attribute_that_is_named_in_words_is_seen(source):
    assert "a template may not ask for " in refused(source)


def test_a_filter_is_missed_where_it_would_never_be_used():
    assert refused("{% if false %}{{ name|foo }}{% endif %}").startswith(
        "text, line 1: there is no filter 'foo'"
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ range(3)|list }}{{ namespace(a=1).a }}",
        "{% for x in name %}{{ loop.index }}{{ x }}{% endfor %}",
        "{% if nick is defined %}{{ nick }}{% endif %}",
        "{{ nick|default('you') }}",
        "{% macro m(a, b=1) %}{{ a }}{{ caller() }}{{ varargs }}{% endmacro %}{{ m(1) }}",
        "{% block a %}{{ self.a }}{{ super() }}{% endblock %}",
        "{% if name %}{% set who = name %}{% else %}{% set who %}you{% endset %}{% endif %}{{ who }}",
    ],
)
def test_names_that_something_gives_are_none_of_the_fields(source):
    check(source)


def test_what_one_source_assigns_another_may_use():
    check("{% for row in name %}{% include 'row' %}{% endfor %}", row="{{ row }}")
    check("{% import 'm' as m %}{% include 'a' %}", m="{% macro x() %}{% endmacro %}", a="{{ m.x() }}")
    check("{% extends 'l' %}{% set title = name %}", l="{{ title }}")
    assert refused("{% include 'row' %}", row="\n{{ row }}").startswith("row, line 2: nothing gives 'row'")


def test_an_error_lists_some_of_the_fields():
    assert refused("{{ x }}", ()) == "text, line 1: nothing gives 'x'; the fields are: none"
    many = [f"column{number:02}" for number in range(30)]
    assert refused("{{ x }}", many).endswith("column18, column19 and 10 more")


def test_the_names_that_a_part_asks_for():
    part = read_part(
        "text", "{{ a }}{% set b = 1 %}{{ b }}{% include 'x' %}", None, jinja2.DictLoader({"x": "{{ c }}"})
    )
    assert names_in(part) == {"a", "c"}


@pytest.mark.parametrize(
    ("given", "filter", "expected"),
    [
        ("Hi {{ a }}, {{ b }}!", None, True),
        ("{{ a }}", None, True),
        ("https://x.example/{{ a|urlencode }}/{{ b|urlencode }}", "urlencode", True),
        ("Hi {{ a|upper }}", None, False),
        ("Hi {{ a.b }}", None, False),
        ("{% if a %}Hi{% endif %}", None, False),
        ("{% set a = 1 %}{{ a }}", None, False),
        ("{{ a }}\n{{ b }}", None, False),
        ("{{ a|urlencode }}", "urlencode", True),
        ("https://x.example/{{ a }}", "urlencode", False),
        ("https://x.example/{{ a|upper|urlencode }}", "urlencode", False),
        ("{% include 'x' %}", None, False),
    ],
)
def test_what_is_text_and_names_alone(given, filter, expected):
    part = read_part("subject", given, None, jinja2.DictLoader({"x": "{{ c }}"}))
    assert is_bare(part, filter) is expected
