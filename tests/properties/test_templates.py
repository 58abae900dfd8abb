"""What a template renders parses to what Jinja2 and `email` say it should be, by either road.

The judges are Python's `email` for the message, and a plain Jinja2 environment for the text.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import PurePosixPath
from quopri import decodestring
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import jinja2
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mailtasks.address import parse
from mailtasks.compose.template import CompiledTemplate, Template, TemplateRecord
from mailtasks.compose.template.css import with_styles_inlined
from mailtasks.compose.template.html_text import text_of, text_template
from mailtasks.compose.template.roads import encoded
from mailtasks.compose.template.sources import read_part
from mailtasks.errors import RenderError, TemplateError
from tests.properties.test_compose import (
    attachments,
    check_no_defects,
    content,
    mailboxes,
    people,
    subjects,
    unix,
)

DATE = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
FIELDS = ("name", "thing", "number", "items", "flag")

anything = st.text(st.characters(exclude_categories=["Cs"]))
AWKWARD = [
    *(
        "",
        " ",
        "=",
        ".",
        "\n",
        "\r\n",
        "\r",
        "\0",
        "From ",
        "From",
        "x ",
        " .\n",
        "\n.\n",
        "=3D",
        "=\r\n",
        "--=_",
    ),
    *("a" * 74, "a" * 75, "a" * 76, "a" * 77, "ä" * 26, "日本", "\u2028", "<b>&'\"", "{{ name }}"),
]
awkward = st.sampled_from(AWKWARD)
values = anything | st.lists(awkward, max_size=6).map("".join)
# What a template's source may hold as itself: no control characters, and nothing that Jinja2 reads.
static = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"], exclude_characters="{}#%"))
    | awkward.filter(lambda text: not re.search("[{\0]", text)),
    max_size=3,
).map("".join)
fields = st.fixed_dictionaries(
    {
        "name": values,
        "thing": values,
        "number": st.integers() | st.floats(allow_nan=False),
        "items": st.lists(values, max_size=3),
        "flag": st.booleans(),
    }
)

GIVEN = {"name": "", "thing": "", "number": 1, "items": [], "flag": True}

EXPRESSIONS = [
    "{{ name }}",
    "{{ thing }}",
    "{{ number }}",
    "{{ name|upper }}",
    "{{ name|e }}",
    "{{ thing|safe }}",
    "{{ name ~ '<' ~ thing|safe ~ number }}",
    "{{ '<b>' + name }}",
    "{{ 'constant <&> = ' }}",
    "{{ items|join(', ') }}",
    "{{ 'a' if flag else thing }}",
    "{{ {'name': name}.name }}",
    "{# a comment #}",
    "{%- if flag -%} ",
    "{% raw %}{{ raw }} = {% endraw %}",
]
WRAPPERS = [
    "{% for item in items %}{{ item }}{{ loop.index }}",
    "{% for item in items %}{{ loop.cycle('a', 'b') }}{% if loop.last %}.{% endif %}",
    "{% if flag %}",
    "{% with x = name %}{{ x }}",
    "{% block outer %}",
]
LOOKING = [
    "{% set kept %}{{ name }} = {{ thing }}{% endset %}{{ kept }}{{ kept|length }}",
    "{% filter upper %}{{ name }} = x{% endfilter %}",
    "{% macro m(x) %}<i>{{ x }}</i>={% endmacro %}{{ m(name) }}{{ m(thing)|length }}",
    "{% macro c() %}[{{ caller() }}]{% endmacro %}{% call c() %}{{ name }} ={% endcall %}",
    "{% autoescape false %}{{ name }}{% endautoescape %}",
    "{% block title %}= {{ name }}{% endblock %}{{ self.title() }}",
    "{% for one in [['<', ['=']], ['>', []]] recursive %}{{ one[0] }}{% if one[1] %}"
    "{{ loop([[one[1][0], []]]) }}{% endif %}{% endfor %}",
]
ENDS = {"for": "{% endfor %}", "if": "{% endif %}", "with": "{% endwith %}", "block": "{% endblock %}"}


def closed(parts: list[str]) -> str:
    """Parts in one, each statement that was opened ended; a block only once."""
    text, ends = "", []
    for part in parts:
        if "block outer" in part and "block outer" in text:
            continue
        text += part
        opened = re.match(r"\{%-? (for|if|with|block outer)", part)
        if opened and not re.search(r"\{%-? end(for|with|block)", part):
            ends.append(ENDS[opened[1].split()[0]])
    return text + "".join(reversed(ends))


pieces = static | st.sampled_from(EXPRESSIONS + WRAPPERS)
sources = st.lists(pieces, min_size=1, max_size=8).map(closed)
looking_sources = st.tuples(sources, st.sampled_from(LOOKING), static).map("".join)


def rendered(template: CompiledTemplate, given: dict[str, object], to: str = "ann@example.com") -> bytes:
    found = template.render(given, to=to, message_id="1@shop.example", date=DATE).content
    assert isinstance(found, bytes)
    return found


def read(octets: bytes) -> EmailMessage:
    found = BytesParser(policy=policy.default).parsebytes(octets)
    assert isinstance(found, EmailMessage)
    check_no_defects(found)
    return found


def plain(source: str, given: dict[str, object], *, html: bool, **sources: str) -> str:
    """What Jinja2 itself makes of it; a line end in a value is one by itself."""
    environment = jinja2.Environment(
        autoescape=html, undefined=jinja2.StrictUndefined, loader=jinja2.DictLoader(sources)
    )
    return environment.from_string(source).render(lines_ended(given))


def lines_ended(value: object) -> object:
    if isinstance(value, str):
        return re.sub(r"\r\n?", "\n", value)
    if isinstance(value, list):
        return [lines_ended(item) for item in value]
    return {key: lines_ended(item) for key, item in value.items()} if isinstance(value, dict) else value


def check(text: str, html: str, given: dict[str, object]) -> CompiledTemplate:
    record = Template(subject="s", sender="shop@example.com", text=text, html=html).load(FIELDS)
    template = TemplateRecord.decode(record.encode()).compile()
    octets = rendered(template, given)
    body = octets.partition(b"\r\n\r\n")[2]
    assert max(map(len, body.split(b"\r\n"))) <= 76
    assert octets.isascii()
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0|\nFrom ", octets)
    [one, other] = read(octets).iter_parts()
    assert content(one) == unix(plain(text, given, html=False))
    assert content(other) == unix(plain(html, given, html=True))
    return template


def is_html(source: str) -> bool:
    return "{{" in source or bool(re.search("<[a-zA-Z!/]", source))


@given(sources, sources, fields)
@example("Hi {{ name }}", "{{ name }}{{ thing }}\n", GIVEN | {"name": "x ", "thing": "\r"})
@example("a" * 76 + "{{ name }}", "ä" * 26 + "{{ name }}", GIVEN | {"name": "b" * 76})
def test_the_fast_road_renders_what_jinja_does(text, html, given):
    assume(is_html(html))
    template = check(text, html, given)
    for name, encoding in body_encodings(template, given).items():
        assert template.fast[name] == (encoding == "quoted-printable")


def body_encodings(template: CompiledTemplate, given: dict[str, object]) -> dict[str, str]:
    parts = read(rendered(template, given)).iter_parts()
    return dict(zip(("text", "html"), [part["Content-Transfer-Encoding"] for part in parts], strict=True))


@given(looking_sources, looking_sources, fields)
@settings(max_examples=50)
def test_so_does_the_slow_road(text, html, given):
    assume(is_html(html))
    template = check(text, html, given)
    assert template.fast == {"text": False, "html": False}


@given(sources | looking_sources, sources, fields)
@settings(max_examples=50)
def test_the_names_that_are_required_are_enough(text, html, given):
    assume(is_html(html))
    record = Template(subject="s", sender="shop@example.com", text=text, html=html).load()
    record.check(record.required_names)
    rendered(record.compile(), {name: given[name] for name in record.required_names})


@given(sources, static, fields)
@settings(max_examples=50)
def test_so_do_includes_and_inheritance(block, around, given):
    layout = f"<p>{around}{{% block body %}}{around}{{% endblock %}}{{% include 'foot' %}}"
    child = f"{{% extends 'layout' %}}ignored{{% block body %}}<{block}>{{% endblock %}}"
    files = {"layout": layout, "foot": f"{around}={{{{ name }}}}", "child": child}
    loader = jinja2.DictLoader(files)
    template = Template(
        subject="s",
        sender="shop@example.com",
        html=PurePosixPath("child"),
        loader=loader,
        text_from_html=False,
    ).compile(FIELDS)
    mail = read(rendered(template, given))
    assert content(mail) == unix(plain(child, given, html=True, **files))


@given(static, st.text(st.characters(codec="utf-8", exclude_characters="\r")))
@example("", "a" * 76)
@example("", "From From From ")
@example("", "=" * 30 + "\n.")
@example("", " ")
def test_a_piece_is_encoded_by_itself(before, text):
    before = before.replace("\r", "")
    octets = (encoded(before) + encoded(text)).encode("ascii")
    assert max(map(len, octets.split(b"\r\n"))) <= 76
    assert octets == b"" or octets.endswith(b"\r\n")
    assert decodestring(octets) == (before + text).replace("\n", "\r\n").encode()


@given(subjects, subjects, mailboxes, mailboxes)
def test_subject_and_names_arrive(before, name, to, sender):
    before = re.sub("[{}#%]", "", before).strip()
    assume((before + name).strip() and not re.search("[\x00-\x1f\x7f\ufdd0\ufdd1]", before))
    template = Template(
        subject=before + "{{ name }}",
        sender=sender,
        reply_to=sender,
        text="{{ name }}",
        headers={"X-Note": "{{ name }}.", "X-Fixed": "always"},
    ).compile(["name"])
    octets = rendered(template, {"name": name}, to)
    mail = read(octets)
    assert mail["Subject"] == before + name
    assert mail["X-Note"] == name + "."
    assert mail["X-Fixed"] == "always"
    assert people(octets, "To") == [parse(to)]
    assert people(octets, "From") == people(octets, "Reply-To") == [parse(sender)]
    assert content(mail) == unix(name)


@given(values, st.sampled_from("\r\n\0"), values)
@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("subject", "Hi {{ name }}"),
        ("X-Note", "{{ name }}"),
        ("List-Unsubscribe", "<https://x.example/{{ name }}>"),
    ],
)
def test_no_field_ends_a_header(where, line, before, end, after):
    lines = {"subject": "s", where: line}
    template = Template(subject=lines.pop("subject"), sender="a@example.com", text="t", headers=lines)
    told = f"^the mail to ann@example.com: {where} would be broken by the field 'name', which holds "
    with pytest.raises(RenderError, match=told):
        rendered(template.compile(["name"]), {"name": before + end + after})


@given(values, values, st.sampled_from(["", "a" * 80]))
@example("a/b", "=?utf-8?q?x?=", "")
@example("%", ",", "a" * 80)
def test_an_unsubscribe_url_arrives(token, thing, more):
    query = "?t={{ thing|urlencode }}&m={{ email|urlencode }}"
    template = Template(
        subject="s",
        sender="shop@example.com",
        text="{{ unsubscribe_url }}",
        html="<a href='{{ unsubscribe_url }}'>",
        headers={"X-Link": "{{ unsubscribe_url }}"},
        unsubscribe=f"https://x.example/{more}/{{{{ name|urlencode }}}}{query}",
    ).compile(["name", "thing"])
    url = f"https://x.example/{more}/{quote(token, safe='')}?t={quote(thing, safe='')}&m=ann%40example.com"
    try:
        octets = rendered(template, {"name": token, "thing": thing})
    except RenderError:
        assert not token or not thing or len(url) > 898
        return
    mail = read(octets)
    assert mail["List-Unsubscribe"] == f"<{url}>"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail["X-Link"] == url
    [text, html] = mail.iter_parts()
    assert content(text) == unix(url)
    assert content(html) == unix(f"<a href='{url.replace('&', '&amp;')}'>")
    assert unquote(urlsplit(url).path.rpartition("/")[2]) == token
    assert dict(parse_qsl(urlsplit(url).query)) == {"t": thing, "m": "ann@example.com"}


def files(at_most):
    """Each cid once, as it has to be."""
    return st.lists(attachments, max_size=at_most, unique_by=lambda file: file.cid or id(file))


@given(files(3), files(2), fields)
@settings(max_examples=30)
def test_files_arrive(common, own, given):
    template = Template(
        subject="s",
        sender="shop@example.com",
        text="t {{ name }}",
        html="<p>{{ name }}",
        attachments=common,
        attachment_fields=["thing"],
    ).compile(FIELDS)
    found = template.render(given, to="ann@example.com", message_id="1@x", date=DATE, attachments=own)
    mail = read(found.content)
    leaves = [part for part in mail.walk() if not part.is_multipart()]
    assert sorted((part.get_filename(), part.get_payload(decode=True)) for part in leaves[2:]) == sorted(
        (file.filename, file.content) for file in [*common, *own]
    )
    assert content(leaves[0]) == unix(f"t {lines_ended(given['name'])}")


HTML = [
    *("<p>", "</p>", "<ul>", "<li>", "</li>", "</ul>", "<br>", "<h1>", "</h1>", "<td>", "</td>", "<tr>"),
    *("<table>", "</table>", "<style>", "</style>", "<!--", "-->", "<img alt='{{ name }}'>"),
    *("<a href='https://x.example/{{ name }}'>", "</a>", "&lt;", "&#123;", "&#123;&#123;", "&amp;"),
    *("{% for item in items %}", "{{ item }}", "{% endfor %}"),
]
html_pieces = st.sampled_from(HTML)


@given(st.lists(static | html_pieces | st.sampled_from(EXPRESSIONS), max_size=10).map("".join))
def test_a_text_is_made_of_any_html_or_refused(html):
    template = Template(subject="s", sender="shop@example.com", html=html)
    try:
        record = template.load()
    except TemplateError:
        return
    # Whatever it is, it is a template, and only asks for what the HTML asks for.
    names = jinja2.meta.find_undeclared_variables
    tree = jinja2.Environment().parse
    assert names(tree(text_template(html))) <= names(tree(html)) | {"item"}
    assert record.text is not None


WORDS = ["{{ name }}", "text", " two  words ", "&lt;&amp;", "&#123;{ name }}", ""]
INLINE = [
    *(
        "<b>{}</b>",
        "{}<br>",
        "<a href='https://x.example/?{{{{ name }}}}'>{}</a>",
        "<!-- {{{{ name }}}} -->{}",
    ),
    *('<i title="{{{{ name }}}}">{}</i>', "{} "),
]
PHRASES = ["<p>{}</p>", "<h2>{}</h2>", "<pre> {}\n </pre>"]  # which hold no blocks
BLOCKS = [
    *("<div class=a>{}</div>", "<ul><li>{}</li><li>x</li></ul>", "<ol><li>{}</li></ol>"),
    "<table><tr><td>{}</td><td>y</td></tr></table>",
]


def filled(shape: str, inner: str, after: str) -> str:
    return shape.format(inner) + after


words = st.sampled_from(WORDS)
phrases = st.builds(filled, st.sampled_from(INLINE), words, words) | words
blocks = st.recursive(
    st.builds(filled, st.sampled_from(PHRASES), phrases, phrases),
    lambda inner: st.builds(filled, st.sampled_from(BLOCKS), inner, inner),
    max_leaves=8,
)
shaped = st.recursive(
    words,
    lambda inner: st.builds(filled, st.sampled_from(INLINE + PHRASES + BLOCKS), inner, inner),
    max_leaves=8,
)


@given(shaped)
def test_the_text_of_the_template_is_the_text_of_the_mail(html):
    given = {"name": "Ann"}
    assert plain(text_template(html), given, html=False).strip("\n") == text_of(plain(html, given, html=True))


@given(blocks, st.booleans())
def test_styles_change_no_text(html, flag):
    source = f"<style>.a{{color:red}}</style>{{% if flag %}}{html}{{% endif %}}{html}"
    part = with_styles_inlined(read_part("html", source, None, None))
    given = {"name": "Ann", "flag": flag}
    assert text_of(plain(part.main.text, given, html=True)) == text_of(plain(source, given, html=True))
    assert part.main.text.count("color: red") == source.count("class=a")
