"""The URL by which a recipient unsubscribes in one click: what its template must be, and what it makes.

The rules:

1. It is https; http is for this machine, to try it out. And it differs from one recipient to the next, or
   nobody would know who clicked (both RFC 8058 3.1).
2. A value is percent-encoded where it is printed, its slashes too, so that it stays one piece of the URL.
   Only what begins the URL may be ready: a field that has the whole of it, or its beginning.
3. The header is never folded within the URL. So there is a longest one.

RFC 2369 (List-Unsubscribe), RFC 8058 (one click), RFC 3986 (URLs).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from jinja2 import nodes

from mailtasks.address import excerpt
from mailtasks.compose.template.budget import Refused
from mailtasks.compose.template.checks import names_in
from mailtasks.compose.template.sandbox import Sandbox
from mailtasks.compose.template.sources import Part, Source, parse
from mailtasks.errors import TemplateError
from mailtasks.fields import LONGEST_WORD

URL_NAME: Final = "unsubscribe_url"
"""The name by which the bodies and other headers have it."""

HEADERS: Final = frozenset(["list-unsubscribe", "list-unsubscribe-post"])
"""What it makes, in lower case."""

_LONGEST: Final = LONGEST_WORD - len("<>")
_HERE: Final = r"http://(?:localhost|127\.0\.0\.1)(?![^:/?#])"
_BEGINNING: Final = re.compile(rf"https://|{_HERE}", re.IGNORECASE)
_URL: Final = re.compile(
    rf"(?:https://(?:[a-z0-9][a-z0-9._-]*|\[[0-9a-f:.]+\])|{_HERE})(?::\d+)?(?:[/?#][!-;=?-~]*)?",
    re.IGNORECASE | re.ASCII,
)
_UNFIT: Final = re.compile(r"[^!-;=?-~]")
_ONE_CLICK: Final = "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
_HTTPS: Final = (
    "it must begin with https:// (RFC 8058 3.1), or with http://localhost or http://127.0.0.1 to be tried out"
)


def check_template(part: Part) -> None:
    """Look at the template of a URL.

    Raises:
        TemplateError: it can't make URLs by the rules above; with file and line.
    """
    ready: list[nodes.Node] = []
    for name, source in part.sources.items():
        tree = parse(Sandbox(html=False), source)
        if name == part.entry:
            ready = list(_first(tree.body))
            _check_beginning(source, ready)
        for output in tree.find_all(nodes.Output):
            for node in output.nodes:
                _check_piece(source, node, ready)
    if not names_in(part):
        raise TemplateError(
            part.main.where,
            None,
            "it is the same for everybody, so that a click couldn't tell who it was (RFC 8058 3.1); put in "
            "what does, such as {{ email|urlencode }}",
        )


def fault(url: str) -> str:
    """What is wrong with a URL that was rendered, and what to do; "": nothing."""
    if len(url) > _LONGEST:
        return (
            f"it has {len(url)} characters: give at most {_LONGEST}, since no header is folded within a URL"
        )
    if _URL.fullmatch(url):
        return ""
    unfit = _UNFIT.search(url)
    if unfit:
        return f"it holds {unfit[0]!r}, which no URL may: percent-encode it"
    return "it names no host: put one behind the //" if _BEGINNING.match(url) else _HTTPS


def header_lines(url: str) -> str:
    """The two headers of a URL that has no fault."""
    return f"List-Unsubscribe: <{url}>\r\n{_ONE_CLICK}"


def urlencode(value: Any) -> str:
    """The filter, stricter than Jinja2's: it lets no slash through, and nothing that is empty.

    Raises:
        Refused: there is nothing to encode.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        return _encoded(value)
    pairs = value.items() if isinstance(value, Mapping) else value
    return "&".join([f"{_encoded(name)}={_encoded(one)}" for name, one in pairs])


def _encoded(value: Any) -> str:
    if value is None or value == "":
        raise Refused(
            "a value of the URL is empty, so that it leads nowhere; give one, or leave it out by {% if %}"
        )
    return quote(str(value), safe="")


def _first(body: Iterable[nodes.Node]) -> Iterator[nodes.Node]:
    """With what the output may begin."""
    for node in body:
        if isinstance(node, nodes.Output):
            yield node.nodes[0]
        elif isinstance(node, nodes.If):
            for branch in (node.body, *[other.body for other in node.elif_], node.else_):
                yield from _first(branch)
        elif isinstance(node, nodes.Assign):
            continue
        return


def _check_beginning(source: Source, first: Iterable[nodes.Node]) -> None:
    for node in first:
        if isinstance(node, nodes.TemplateData) and not _BEGINNING.match(node.data):
            raise TemplateError(
                source.where, node.lineno, f"the URL begins with {excerpt(node.data)}; {_HTTPS}"
            )


def _check_piece(source: Source, node: nodes.Node, ready: list[nodes.Node]) -> None:
    if isinstance(node, nodes.TemplateData):
        unfit = _UNFIT.search(node.data)
        if unfit:
            line = node.lineno + node.data.count("\n", 0, unfit.start())
            raise TemplateError(
                source.where,
                line,
                f"it holds {unfit[0]!r}, which no URL may; percent-encode it, or take it out "
                "({%- and -%} take out what stands around them)",
            )
        return
    # By identity, for equal nodes stand at other places as well.
    if _is_encoded(node) or any(node is one for one in ready):
        return
    named = node.name if isinstance(node, nodes.Name) else "(...)"
    raise TemplateError(
        source.where,
        node.lineno,
        f"a value isn't percent-encoded, so that it could change the URL; write {{{{ {named}|urlencode }}}} "
        "(only what begins the URL may be ready)",
    )


def _is_encoded(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Filter) and node.name == "urlencode"
