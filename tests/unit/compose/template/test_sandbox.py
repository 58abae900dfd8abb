from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mailtasks.compose.template import Template
from mailtasks.compose.template.sandbox import Sandbox
from mailtasks.errors import RenderError

FIELDS = {"name": "Ann", "items": ["a", "b"], "row": {"x": 1}}
NO_ROOM = (
    "one operation of it may yield more than 10,000,000 characters or items; let it do less, or raise the "
    "limit"
)
TOO_MUCH = "it renders to more than 10,000,000 characters; let it do less, or raise the limit"
TOO_LONG = (
    "it takes more than 100,000 steps (turns of loops, calls, includes); let it do less, or raise the limit"
)
FOR_EVER = "the template calls or includes itself for ever; end it by a condition"


def render(source):
    template = Template(subject="s", sender="a@example.com", text=source).compile(FIELDS)
    found = template.render(FIELDS, to="ann@example.com", message_id="1@x", date=datetime.now(UTC))
    return found.content.partition(b"\r\n\r\n")[2].replace(b"=\r\n", b"").strip()


def refused(source) -> str:
    with pytest.raises(RenderError) as raised:
        render(source)
    return str(raised.value).partition(": text, line 1: ")[2] or str(raised.value)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "{% for i in range(10**9) %}{% endfor %}",
            "range() would yield more than 100,000 numbers; let it do less, or raise the limit",
        ),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", TOO_LONG),
        (
            "{% for i in range(9999) %}{% for j in range(9999) %}{{ [].copy() }}{% endfor %}{% endfor %}",
            TOO_LONG,
        ),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", FOR_EVER),
        (
            "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
            TOO_LONG,
        ),
        ("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", FOR_EVER),
        ("{% set x %}{% for i in range(99999) %}" + "x" * 999 + "{% endfor %}{% endset %}", TOO_MUCH),
        (
            "{% set n = 'x' * 9999 %}{% set x %}{% for i in range(9999) %}{{ n }}{% endfor %}{% endset %}",
            TOO_MUCH,
        ),
        (
            "{% macro m() %}"
            + "x" * 9999
            + "{% endmacro %}{% for i in range(9999) %}{% if m() %}{% endif %}{% endfor %}",
            TOO_MUCH,
        ),
        (
            "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            NO_ROOM,
        ),
        (
            "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
            NO_ROOM,
        ),
        (
            "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
            NO_ROOM,
        ),
    ],
)
def test_a_template_that_would_take_too_much_ends(source, told):
    assert refused(source) == told


def test_what_is_rendered_is_counted_wherever_it_is():
    source = "{% for i in range(99999) %}" + "x" * 999 + "{% endfor %}"
    assert refused(source) == f"the mail to ann@example.com: text: {TOO_MUCH}"


def test_includes_are_steps(tmp_path):
    (tmp_path / "a").write_text("{% include 'a' %}")
    assert refused(tmp_path / "a") == f"the mail to ann@example.com: {tmp_path}/a, line 1: {FOR_EVER}"
    for number in range(30):
        more = f"{{% include 'b{number + 1}' %}}" if number < 29 else ""
        (tmp_path / f"b{number}").write_text(more * 2)
    assert refused(tmp_path / "b0").endswith(f"line 1: {TOO_LONG}")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ name['__cl' ~ 'ass__'] }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ name|attr('__cl' ~ 'ass__') }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ '{0.__class__}'.format(name) }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ items.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"),
        ("{{ row.update(x=2) }}", "access to attribute 'update' of 'dict' object is unsafe"),
    ],
)
def test_what_the_sandbox_forbids_is_told_when_it_is_reached(source, told):
    assert refused(source) == f"{told}; leave it out of the template"


def test_nothing_that_was_given_is_changed():
    for source in ("{{ items.append(1) }}", "{{ row.clear() }}", "{{ items.sort(reverse=true) }}"):
        refused(source)
    assert FIELDS == {"name": "Ann", "items": ["a", "b"], "row": {"x": 1}}


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("{{ name ~ 1 ~ items }}", b"Ann1['a', 'b']"),
        (
            "{% for x in range(3) %}{{ x }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{% endfor %}",
            b"0False331False322True31",
        ),
        ("{% for x in [] %}{% else %}none{% endfor %}", b"none"),
        ("{% for key, value in row.items() %}{{ key }}{{ value }}{% endfor %}", b"x1"),
        ("{% for x in items if x != 'a' %}{{ loop.index }}{{ x }}{% endfor %}", b"1b"),
    ],
)
def test_what_is_within_bounds_is_what_it_is_elsewhere(source, rendered):
    assert render(source) == rendered


def test_a_template_has_no_more_globals_than_it_needs():
    assert sorted(Sandbox(html=True).globals) == ["cycler", "dict", "joiner", "namespace", "range"]
