from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import jinja2
import pytest

from mailtasks.compose.template.sandbox import Sandbox
from mailtasks.compose.template.sources import Part, Source, parse, read_part
from mailtasks.errors import TemplateError


def read(given, folder=None, loader=None) -> Part:
    return read_part("text", given, folder, loader)


def refused(given, folder=None, loader=None) -> str:
    with pytest.raises(TemplateError) as raised:
        read(given, folder, loader)
    return str(raised.value)


def test_a_string_is_a_template_itself():
    part = read("Hi {{ name }}")
    assert part.main == Source("text", "Hi {{ name }}")
    assert part.sources == {part.entry: part.main}


def test_a_path_is_a_file_and_what_it_includes_lies_beside_it(tmp_path):
    (tmp_path / "mail.txt").write_text("\ufeff{% include 'sub/foot.txt' %}", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/foot.txt").write_text("{% include 'more.txt' %}Grüße", encoding="utf-8")
    (tmp_path / "more.txt").write_text("-- ", encoding="utf-8")
    part = read(tmp_path / "mail.txt")
    assert {name: source.text for name, source in part.sources.items()} == {
        "mail.txt": "{% include 'sub/foot.txt' %}",
        "sub/foot.txt": "{% include 'more.txt' %}Grüße",
        "more.txt": "-- ",
    }
    assert part.main.where == str(tmp_path / "mail.txt")
    assert read(Path("mail.txt"), tmp_path) == part
    assert read("{% include 'more.txt' %}", tmp_path).sources["more.txt"].text == "-- "


def test_a_path_is_a_name_that_the_loader_knows():
    loader = jinja2.DictLoader({"mail": "{% extends 'layout' %}", "layout": "{% import 'm' as m %}", "m": ""})
    part = read(PurePosixPath("mail"), loader=loader)
    assert part.entry == "mail"
    assert sorted(part.sources) == ["layout", "m", "mail"]


def test_what_may_be_missing_may_be_missing():
    loader = jinja2.DictLoader({"b": "here"})
    assert len(read("{% include 'a' ignore missing %}", loader=loader).sources) == 1
    assert sorted(read("{% include ['a', 'b'] %}", loader=loader).sources) == ["<text>", "b"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("\n{% include 'a' %}", "text, line 2: there is no template 'a'; check the name and the folder"),
        (
            "{% include ['a', 'b'] %}",
            "text, line 1: there is no template 'a' or 'b'; check the name and the folder",
        ),
        (
            "{% include name %}",
            "text, line 1: what is included is named by an expression, so that it can't be looked "
            "for beforehand; "
            "write its name, or choose by {% if %}",
        ),
        ("a\n\0", "text, line 2: it holds '\\x00', which no text does; see whether it is the right file"),
        (
            "a\n{{ x",
            "text, line 2: unexpected end of template, expected 'end of print statement'; mend the "
            "template there",
        ),
        (
            "{% if x %}",
            "text, line 1: unexpected end of template; expected 'elif' or 'else' or 'endif'; the "
            "innermost block "
            "that needs to be closed is 'if'; mend the template there",
        ),
        ("{% foo %}", "text, line 1: encountered unknown tag 'foo'; mend the template there"),
    ],
)
def test_an_error_names_the_line(source, told):
    assert refused(source, loader=jinja2.DictLoader({})) == told
    assert refused(source).startswith(told[:30])


def test_what_is_nested_beyond_all_measure_is_refused():
    deep = "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"
    assert refused(deep) == "text: its loops and conditions are nested too deep; make it simpler"


def test_a_file_that_cant_be_read_is_told(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Hi\nGrüße".encode("latin-1"))
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    assert refused(tmp_path / "latin.txt") == (
        f"{tmp_path}/latin.txt, line 2: it isn't UTF-8 (octet 0xfc); save it as UTF-8"
    )
    assert refused(tmp_path / "logo.png").startswith(
        f"{tmp_path}/logo.png, line 1: it isn't UTF-8 (octet 0x89)"
    )
    assert refused(tmp_path / "none.txt") == f"text: '{tmp_path}/none.txt' isn't there; check the path"
    (tmp_path / "folder").mkdir()
    assert refused(tmp_path / "folder") == (
        f"{tmp_path}/folder: it can't be read: Is a directory; check the path"
    )


def test_nothing_above_the_folder_is_read(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "inner").mkdir()
    told = refused("{% include '../secret' %}", tmp_path / "inner")
    assert told == "text, line 1: there is no template '../secret'; check the name and the folder"
    assert refused(Path("../secret"), tmp_path / "inner") == "text: '../secret' isn't there; check the path"


def test_a_loader_that_fails_is_told():
    class Broken(jinja2.BaseLoader):
        def get_source(self, environment, template):
            raise KeyError("database")

    told = refused(PurePosixPath("mail"), loader=Broken())
    assert told == "mail: the loader can't read it: KeyError: 'database'; see to the loader"


def test_parse_names_the_source():
    with pytest.raises(TemplateError, match=re.escape("a.txt, line 3: ")) as raised:
        parse(Sandbox(html=False), Source("a.txt", "\n\n{{ }}"))
    assert (raised.value.where, raised.value.line) == ("a.txt", 3)
