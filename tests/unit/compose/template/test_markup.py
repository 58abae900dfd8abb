from __future__ import annotations

from mailtasks.compose.template.markup import Construct, Masked


def test_constructs_are_taken_apart_from_html():
    masked = Masked.of("<p>{{ a }}{% if b -%} x {%- endif %}{# not this #}{% raw %}{{ c }}{% endraw %}")
    assert masked.pieces == [
        "<p>",
        Construct("{{ a }}"),
        Construct("{% if b %}"),
        "x",
        Construct("{% endif %}"),
        "{{ c }}",
    ]
    assert [piece.keyword for piece in masked.pieces if isinstance(piece, Construct)] == ["", "if", "endif"]


def test_marks_stand_for_them_and_they_come_back():
    source = "<p title='{{ \"}}\" }}'>{% for x in y %}{{ x }}{% endfor %}"
    masked = Masked.of(source)
    html = masked.html()
    assert "{" not in html
    assert masked.restored(html) == source
    assert masked.restored(html.upper()) == "<P TITLE='{{ \"}}\" }}'>{% for x in y %}{{ x }}{% endfor %}"


def test_a_mark_may_depend_on_what_stands_before_it():
    masked = Masked.of("a{{ b }}c{{ d }}")
    seen: list[str] = []
    html = masked.html(lambda before, mark: seen.append(before) or f"[{mark}]")
    assert seen == ["a", f"{html.partition('c')[0]}c"]


def test_text_that_looks_like_a_construct_becomes_none():
    masked = Masked.of("{{ x }}")
    assert masked.restored("{{ y }} {% z %} {#") == "{{ '{' }}{ y }} {{ '{' }}% z %} {{ '{' }}#"
    assert masked.restored("{" + masked.html()) == "{{ '{' }}{{ x }}"
