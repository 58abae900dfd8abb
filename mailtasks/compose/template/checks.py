"""What is wrong in a template is found by looking at it: before it is accepted, and with file and line.

- A name that nothing gives: no field, and nothing that a template of this part assigns or loops over. One
  that is asked about (`{% if x is defined %}`, `{{ x|default("…") }}`) may be missing.
- What the sandbox would refuse: attributes that begin with an underscore.
- Filters and tests that there aren't, also where Jinja2 would say so only when it gets there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.meta import find_undeclared_variables

from mailtasks.compose.template.sandbox import Sandbox
from mailtasks.compose.template.sources import Part, Source, parse, syntax_error
from mailtasks.errors import TemplateError

_ASKED_FILTERS: Final = frozenset(["default", "d"])
_ASKED_TESTS: Final = frozenset(["defined", "undefined"])
_SETS: Final = (nodes.Assign, nodes.AssignBlock)
_BY_NAME: Final = {
    "attr": 0,
    "map": None,
    "groupby": 0,
    "sort": None,
    "unique": None,
    "sum": 0,
    "min": None,
    "max": None,
}
"""Filters that take an attribute's name, and which of their arguments it is; or by keyword only."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A name that a template asks for, and that a field must give."""

    name: str
    source: Source
    line: int


def check_part(environment: Environment, part: Part) -> None:
    """Look at all sources of a part, but not at the names that they ask for.

    Args:
        environment: in which they will run.

    Raises:
        TemplateError: something in it is wrong.
    """
    for source in part.sources.values():
        _check_tree(environment, source, parse(environment, source))


def is_bare(part: Part, filter: str | None = None) -> bool:
    """Whether a part is nothing but text of one line and names, all as they are, or all through one filter.

    Raises:
        TemplateError: Jinja2 finds something wrong.
    """
    [*trees] = _trees(part).values()
    body = [node.nodes if isinstance(node, nodes.Output) else [node] for node in trees[0].body]
    pieces = [piece for it in body for piece in it]
    return len(trees) == 1 and all(_is_text_or_name(it, filter) for it in pieces)


def _is_text_or_name(piece: nodes.Node, filter: str | None) -> bool:
    if isinstance(piece, nodes.TemplateData):
        return piece.data.isprintable()
    if filter is None:
        return isinstance(piece, nodes.Name)
    return isinstance(piece, nodes.Filter) and piece.name == filter and isinstance(piece.node, nodes.Name)


def asked_for(part: Part) -> list[Asked]:
    """What the fields must give to a part: for each source the names in the order of their lines.

    Names that the part assigns aren't there, nor those that it asks about, nor what Jinja2 gives itself.

    Raises:
        TemplateError: Jinja2 finds something wrong.
    """
    trees = _trees(part)
    asked_about = _asked_about(trees.values())
    return [
        asked
        for key, tree in trees.items()
        for asked in _asked(
            part.sources[key],
            tree,
            asked_about | _set_in_a_branch(tree) | _assigned(trees[other] for other in trees if other != key),
        )
    ]


def check_names(asked: Iterable[Asked], fields: Iterable[str]) -> None:
    """Refuse a name that no field gives.

    Raises:
        TemplateError: there is one; it tells the first.
    """
    known = sorted(fields)
    for one in asked:
        if one.name not in known:
            listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
            raise TemplateError(
                one.source.where,
                one.line,
                f"nothing gives {one.name!r}{_near(one.name, known)}; the fields are: {listed or 'none'}",
            )


def names_in(part: Part) -> frozenset[str]:
    """The names that a part asks for, fields or not."""
    return frozenset(
        name for key, tree in _trees(part).items() for name in _undeclared(part.sources[key], tree)
    )


def _trees(part: Part) -> dict[str, nodes.Template]:
    environment = Sandbox(html=False)
    return {key: parse(environment, source) for key, source in part.sources.items()}


def _undeclared(source: Source, tree: nodes.Template) -> set[str]:
    try:
        return find_undeclared_variables(tree)
    except TemplateSyntaxError as error:  # as for two blocks of one name
        raise syntax_error(source, error) from None


def _check_tree(environment: Environment, source: Source, tree: nodes.Template) -> None:
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        kind, known = (
            ("filter", environment.filters) if isinstance(node, nodes.Filter) else ("test", environment.tests)
        )
        if node.name not in known:
            raise TemplateError(
                source.where,
                node.lineno,
                f"there is no {kind} {node.name!r}{_near(node.name, known)}; Jinja2's manual lists them",
            )
    for asking, name in _attributes(tree):
        if any(part.startswith("_") for part in name.split(".")):
            raise TemplateError(
                source.where,
                asking.lineno,
                f"a template may not ask for {name!r}: what begins with an underscore isn't for templates; "
                "leave it out",
            )


def _attributes(tree: nodes.Template) -> Iterator[tuple[nodes.Node, str]]:
    """What is asked for by a name that can be read in the template."""
    for node in tree.find_all(nodes.Getattr):
        yield node, node.attr
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.arg, nodes.Const) and str(item.arg.value).startswith("__"):
            yield item, str(item.arg.value)
    for call in tree.find_all(nodes.Filter):
        for name in _named_attributes(call):
            yield call, name


def _named_attributes(call: nodes.Filter) -> Iterator[str]:
    if call.name not in _BY_NAME:
        return
    place = _BY_NAME[call.name]
    given: list[nodes.Node] = [pair.value for pair in call.kwargs if pair.key == "attribute"]
    given += [] if place is None else call.args[place : place + 1]
    for node in given:
        if isinstance(node, nodes.Const) and isinstance(node.value, str):
            yield node.value


def _asked_about(trees: Iterable[nodes.Template]) -> frozenset[str]:
    """Names that a template provides for the lack of."""
    names: set[str] = set()
    for tree in trees:
        for node in tree.find_all((nodes.Filter, nodes.Test)):
            asked = _ASKED_FILTERS if isinstance(node, nodes.Filter) else _ASKED_TESTS
            if node.name in asked and isinstance(node.node, nodes.Name):
                names.add(node.node.name)
    return frozenset(names)


def _assigned(trees: Iterable[nodes.Node]) -> frozenset[str]:
    """Names that are given within these, as by other templates, by which an included one is reached."""
    names: set[str] = set()
    for tree in trees:
        names |= {node.name for node in tree.find_all(nodes.Name) if node.ctx in ("store", "param")}
        names |= {node.name for node in tree.find_all(nodes.Macro)}
        names |= {node.target for node in tree.find_all(nodes.Import)}
        for node in tree.find_all(nodes.FromImport):
            names |= {name if isinstance(name, str) else name[1] for name in node.names}
    return frozenset(names)


def _set_in_a_branch(tree: nodes.Template) -> frozenset[str]:
    """Names that one way through a template sets: where it took another, Jinja2 asks the fields for them."""
    branches = tree.find_all(nodes.If)
    return _assigned(node for branch in branches for node in branch.find_all(_SETS))


def _asked(source: Source, tree: nodes.Template, given: frozenset[str]) -> list[Asked]:
    unknown = _undeclared(source, tree) - given
    lines: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        if node.name in unknown:
            lines[node.name] = min(node.lineno, lines.get(node.name, node.lineno))
    return sorted((Asked(name, source, line) for name, line in lines.items()), key=lambda it: it.line)


def _near(name: str, known: Mapping[str, object] | list[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
