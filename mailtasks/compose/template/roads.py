"""How a template becomes an encoded body: by the fast road, or by the slow one.

The fast road renders quoted-printable at once. Static text is encoded when the template is compiled, a value
when it is rendered, each by itself, as if a line began there; a soft line break stands behind each that
doesn't end its line. So what a piece becomes doesn't depend on what stands around it.

The slow road renders the text, then encodes the whole. It is taken where a template looks at what it has
rendered (`_LOOKS`), which must be the text and not what it is encoded to; and where quoted-printable would
more than double the static text, which is then sent as base64.

Which one is decided when the template is compiled, by its tree. Measured for two bodies of 2 KB with four
values each: 29 µs by the fast road, 86 by the slow one (`benchmarks/templates.py`). Both yield what parses to
the same text:

1. A line end in a value is one by itself, in whichever way it was written.
2. The text ends with a line end.
3. A value that is None is an error: nobody wants to be greeted as that.

RFC 2045 6.7 (quoted-printable), 6.8 (base64).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeAlias, cast

from jinja2 import BaseLoader, Environment, TemplateNotFound, nodes
from jinja2 import Template as JinjaTemplate
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import TemplateSyntaxError
from markupsafe import escape

from mailtasks.compose.mime import canonical, quoted_printable
from mailtasks.compose.template.budget import Budget, Refused, weigh
from mailtasks.compose.template.html_text import text_of
from mailtasks.compose.template.sandbox import COUNTED, JOINED, STEP, Sandbox
from mailtasks.compose.template.sources import Part, parse, syntax_error, too_deep
from mailtasks.pieces import base64_lines

_LOOKS: Final = (
    nodes.AssignBlock,
    nodes.FilterBlock,
    nodes.CallBlock,
    nodes.Macro,
    nodes.Import,
    nodes.FromImport,
    nodes.EvalContextModifier,  # {% autoescape %}
)
"""Constructs that take what was rendered for a value, or change how values are escaped."""

_LOOKING_NAMES: Final = frozenset(["self", "super"])
"""Names that yield rendered text: `super()`, `self.title()`. And so does `loop(children)`, by recursion."""

_READABLE_GROWTH: Final = 2  # as for a message that isn't made from a template
_SOFT: Final = "=\r\n"
_NO_FILTERS: Final[Mapping[str, Callable[..., Any]]] = {}
_CHUNKS_A_LOOK: Final = 100  # at how much was rendered
_LINE_ENDS: Final = re.compile(r"\r\n?")

# What is its own quoted-printable, in one line that has room for the soft break's "=".
_PLAIN: Final = re.compile(r"(?!From )[ -<>-~]{1,75}")
_PLAIN_IN_HTML: Final = re.compile(r"(?!From )[ !#$%(-;?-~]{1,75}")  # nor does it hold what is escaped


class Renderer:
    """A compiled part, which renders plain text.

    Args:
        html: whether values are escaped.
        from_html: it is a text that was made of HTML, so that what was safe there must become text.
        filters: that stand instead of Jinja2's.

    Raises:
        TemplateError: Jinja2 finds something wrong.
    """

    def __init__(
        self,
        part: Part,
        *,
        html: bool = False,
        from_html: bool = False,
        filters: Mapping[str, Callable[..., Any]] = _NO_FILTERS,
    ) -> None:
        environment = _environment(part, _prepared, _plain_value, html=html, from_html=from_html)
        environment.filters |= filters
        self._template = _compiled(environment, part)

    def text(self, values: dict[str, Any], budget: Budget) -> str:
        """The text with these values, as `values_of` has them."""
        return _rendered(self._template, values, budget)


class Body:
    """A compiled part of the mail, which renders its encoded body.

    Attributes:
        encoding: its Content-Transfer-Encoding.
        fast: whether it takes the fast road.

    Raises:
        TemplateError: Jinja2 finds something wrong.
    """

    def __init__(self, part: Part, *, html: bool = False, from_html: bool = False) -> None:
        trees = [parse(Sandbox(html=html), source) for source in part.sources.values()]
        static = "".join(data.data for tree in trees for data in tree.find_all(nodes.TemplateData))
        octets = canonical(static.encode())
        readable = len(quoted_printable(octets)) <= len(octets) * _READABLE_GROWTH
        self.encoding = "quoted-printable" if readable else "base64"
        self.fast = readable and not any(map(_looks, trees))
        self._encode = quoted_printable if readable else base64_lines
        if not self.fast:
            self._renderer = Renderer(part, html=html, from_html=from_html)
            return
        value = _html_value if html else _text_value
        environment = _environment(part, _encoded, value, html=html, from_html=from_html)
        environment.code_generator_class = _Generator
        self._template = _compiled(environment, part)

    def render(self, values: dict[str, Any], budget: Budget) -> bytes:
        """The encoded body with these values, as `values_of` has them, in lines that end in CRLF."""
        if not self.fast:
            return self._encode(canonical(self._renderer.text(values, budget).encode()))
        body = _rendered(self._template, values, budget)
        # A soft break can't be the last; and a text without a line is an empty one.
        return (body if body.endswith("\r\n") and not body.endswith(_SOFT) else body + "\r\n").encode("ascii")


def values_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """All that a template's names may stand for, for all parts of one mail."""
    return {**_GLOBALS, **fields}


def encoded(text: str) -> str:
    """Text, whose lines end in LF, as quoted-printable that begins and ends where a line begins."""
    if not text:
        return ""
    octets = text.replace("\n", "\r\n").encode()
    if text.endswith("\n"):
        return quoted_printable(octets).decode("ascii")
    # Before a CRLF `b2a_qp` keeps to 75, so that there is room for a "=".
    return quoted_printable(octets + b"\r\n").decode("ascii").removesuffix("\r\n") + _SOFT


# Values

# What the sandbox leaves of Jinja2's own: `range` and such.
_GLOBALS: Final = dict(Sandbox(html=False).globals)


def _text_value(value: Any) -> str:
    text = value if type(value) is str else str(_printable(value))
    if _PLAIN.fullmatch(text):
        return text + _SOFT
    return encoded(_LINE_ENDS.sub("\n", text))


def _html_value(value: Any) -> str:
    if type(value) is str and _PLAIN_IN_HTML.fullmatch(value):
        return value + _SOFT
    text = "".join([escape(_printable(value))])  # a plain string again, whose methods escape nothing
    if _PLAIN.fullmatch(text):
        return text + _SOFT
    return encoded(_LINE_ENDS.sub("\n", text))


def _plain_value(value: Any) -> Any:
    if isinstance(value, str):
        weigh(value)
        return value if "\r" not in value else type(value)(_LINE_ENDS.sub("\n", value))
    return _printable(value)


def _printable(value: Any) -> Any:
    if value is None:
        raise Refused(
            "a value is None, which would stand there as a word; give one, or write {{ name or 'friend' }}"
        )
    return value


def _as_text(value: Any) -> str:
    return text_of(str(value))


def _as_it_is(value: Any, *options: Any, **more: Any) -> str:
    return str(value)


_HTML_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "safe": _as_text,
    **dict.fromkeys(("e", "escape", "forceescape", "urlize"), _as_it_is),
}
"""What filters for HTML do in a text."""


# Trees

_Change: TypeAlias = Callable[[nodes.Template], nodes.Template]


def _looks(tree: nodes.Template) -> bool:
    """Whether the slow road must be taken."""
    return (
        next(tree.find_all(_LOOKS), None) is not None
        or any(loop.recursive for loop in tree.find_all(nodes.For))
        or any(name.name in _LOOKING_NAMES for name in tree.find_all(nodes.Name))
    )


def _prepared(tree: nodes.Template) -> nodes.Template:
    """The tree with what holds the limits in it, where output may go to a variable."""
    return _limited(tree, seen=False)


def _encoded(tree: nodes.Template) -> nodes.Template:
    """The same with encoded static text, where all output is seen."""
    for data in tree.find_all(nodes.TemplateData):
        data.data = encoded(data.data)
    return _limited(tree, seen=True)


def _limited(tree: nodes.Template, *, seen: bool) -> nodes.Template:
    for loop in tree.find_all(nodes.For):
        characters = 0 if seen else sum(len(data.data) for data in _data(loop.body))
        loop.iter = _filter(loop.iter, COUNTED, nodes.Const(characters))
    _replace_all(tree)
    return tree


def _data(body: Iterable[nodes.Node]) -> Iterator[nodes.TemplateData]:
    for node in body:
        if isinstance(node, nodes.TemplateData):
            yield node
        yield from node.find_all(nodes.TemplateData)


def _replace_all(node: nodes.Node) -> None:
    """Put a step in front of each include, and a filter for each `~`."""
    for name, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, name, [new for child in value for new in _replaced(child)])
        elif isinstance(value, nodes.Node):
            setattr(node, name, _replaced(value)[-1])


def _replaced(child: Any) -> list[Any]:
    if not isinstance(child, nodes.Node):
        return [child]
    _replace_all(child)
    if isinstance(child, nodes.Include):
        step = _filter(nodes.Const("", lineno=child.lineno), STEP)
        return [nodes.ExprStmt(step, lineno=child.lineno), child]
    if isinstance(child, nodes.Concat):
        return [_filter(nodes.List(child.nodes, lineno=child.lineno), JOINED)]
    return [child]


def _filter(node: nodes.Node, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, list(arguments), [], None, None, lineno=node.lineno)


# Compiling and running


def _environment(
    part: Part, change: _Change, finalize: Callable[[Any], Any], *, html: bool, from_html: bool
) -> Sandbox:
    environment = Sandbox(html=html, finalize=finalize, loader=_Loader(part, change))
    if from_html:
        environment.filters |= _HTML_FILTERS
    return environment


class _Generator(CodeGenerator):
    """`finalize` has escaped the value already, and encoded it: escaping must not follow, nor `str`."""

    def _output_child_pre(self, node: nodes.Expr, frame: Any, finalize: Any) -> None:
        self.write(finalize.src)

    def _output_child_post(self, node: nodes.Expr, frame: Any, finalize: Any) -> None:
        self.write(")")


class _Loader(BaseLoader):
    """The sources of a part; their trees are changed before they are compiled."""

    def __init__(self, part: Part, change: _Change) -> None:
        self._part = part
        self._change = change

    def load(self, environment: Environment, name: str, globals: Any = None) -> JinjaTemplate:
        """The compiled source."""
        source = self._part.sources.get(name)
        if source is None:  # an include that may be missing was
            raise TemplateNotFound(name)
        try:
            tree = self._change(parse(environment, source))
            tree.set_environment(environment)
            code = environment.compile(tree, name, source.where)
        except TemplateSyntaxError as error:
            raise syntax_error(source, error) from None
        except (SyntaxError, RecursionError, MemoryError):  # Python's own, of what Jinja2 made
            raise too_deep(source) from None
        return JinjaTemplate.from_code(environment, code, globals or {})


def _compiled(environment: Sandbox, part: Part) -> JinjaTemplate:
    for name in part.sources:  # all, so that nothing is found later
        environment.get_template(name)
    return environment.get_template(part.entry)


def _rendered(template: JinjaTemplate, values: dict[str, Any], budget: Budget) -> str:
    rendered: list[str] = []
    chunks = template.root_render_func(template.new_context(values, shared=True))
    while some := list(islice(chunks, _CHUNKS_A_LOOK)):
        budget.spend(sum(map(len, some)))
        rendered += some
    return "".join(rendered)
