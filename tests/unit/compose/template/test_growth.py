from __future__ import annotations

import pytest

from mailtasks.compose.template.budget import LimitReached, Limits, within
from mailtasks.compose.template.growth import bounded, check_call, check_operator, check_size
from mailtasks.compose.template.sandbox import Sandbox

NO_ROOM = "one operation of it may yield more than 10,000,000 characters or items"
TOO_WIDE = "a format asks for a width of six digits or more"
VALUES = {"name": "Ann", "long": "a b " * 50_000, "items": ["a", "b"], "order": 4_711_000_111}


def render(source) -> str:
    with within(Limits()):
        return Sandbox(html=False).from_string(source).render(VALUES)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ 'a' * 10**9 }}", NO_ROOM),
        ("{{ 10**9 * items }}", NO_ROOM),
        ("{{ 10**(10**8) }}", NO_ROOM),
        ("{{ (order ** 900) * (order ** 9000) }}", NO_ROOM),
        ("{{ long * 49 + long * 49 }}", NO_ROOM),
        ("{{ '%0999999999d' % 1 }}", TOO_WIDE),
        ("{{ '%0*d' % (10**9, 1) }}", TOO_WIDE),
        ("{{ name|center(10**9) }}", NO_ROOM),
        ("{{ name|indent(10**9) }}", NO_ROOM),
        ("{{ items|batch(10**9, 'x')|list }}", NO_ROOM),
        ("{{ items|slice(10**9)|list }}", NO_ROOM),
        ("{{ ('x' * 99999)|replace('x', 'y' * 99999) }}", NO_ROOM),
        ("{{ ('x y ' * 9999)|wordwrap(1, wrapstring='y' * 9999) }}", NO_ROOM),
        ("{{ ([1] * 9999)|join('y' * 9999) }}", NO_ROOM),
        ("{{ '%0999999999d'|format(1) }}", TOO_WIDE),
        ("{{ '%0*d'|format(10**9, 1) }}", TOO_WIDE),
        ("{{ name.center(10**9) }}", NO_ROOM),
        ("{{ name.zfill(10**9) }}", NO_ROOM),
        ("{{ ('x' * 99999).replace('x', 'y' * 99999) }}", NO_ROOM),
        ("{{ ('y' * 9999).join([''] * 9999) }}", NO_ROOM),
        ("{{ '{:>999999999}'.format(1) }}", TOO_WIDE),
        ("{{ '{:>{}}'.format(1, 10**9) }}", TOO_WIDE),
        ("{{ '{a:>{b}}'.format_map({'a': 1, 'b': 10**9}) }}", TOO_WIDE),
    ],
)
def test_what_would_make_a_giant_is_refused(source, told):
    with pytest.raises(LimitReached) as raised:
        render(source)
    assert str(raised.value) == told


def test_what_an_iterator_yields_is_counted_as_it_comes():
    for source in (
        "{{ range(99999)|map('center', 9999)|list|length }}",
        "{{ range(99999)|map('replace', '1', long)|join|length }}",
    ):
        with pytest.raises(LimitReached, match=r"^it renders to more than 10,000,000 characters$"):
            render(source)


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("{{ 'a' * 3 }}{{ 2 ** 10 }}{{ 2 ** -1 }}{{ 1 + 2 }}{{ [1] + [2] }}", "aaa10240.53[1, 2]"),
        (
            "{{ 7 % 4 }}{{ '%s!' % name }}{{ '%5s' % name }}{{ order * order }}",
            f"3Ann!  Ann{4_711_000_111**2}",
        ),
        (
            "{{ '%d' % order }}{{ '%d'|format(order) }}{{ '{:,}'.format(order) }}",
            "471100011147110001114,711,000,111",
        ),
        ("{{ '%*d' % (5, 1) }}{{ '{:>{}}'.format(1, 5) }}", "    1    1"),
        ("{{ name.center(7) }}|{{ name|center(7) }}|{{ name.zfill(5) }}", "  Ann  |  Ann  |00Ann"),
        ("{{ items|join(', ') }}{{ ','.join(items) }}{{ name|replace('n', 'm') }}", "a, ba,bAmm"),
        ("{{ items|batch(2)|list }}{{ items|slice(2)|list }}", "[['a', 'b']][['a'], ['b']]"),
        ("{{ long|wordwrap(79)|length > 99999 }}{{ long|replace(' ', '\\n')|length }}", "True200000"),
    ],
)
def test_what_is_within_bounds_is_what_it_is_elsewhere(source, rendered):
    assert render(source) == rendered


def test_the_checks_themselves():
    check_size(10_000_000)
    check_operator("+", "a", "b")
    check_operator("*", 2.5, 3)
    check_call("a".upper, [10**9])
    check_call(len, [10**9])
    assert sorted(bounded(Sandbox(html=False).filters)) == [
        *("batch", "center", "format", "indent", "join", "replace", "slice", "wordwrap")
    ]
