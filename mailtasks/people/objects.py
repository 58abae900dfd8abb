"""JSON Lines, and rows from Python: what has names for its values already.

A row from Python is a mapping, or has one under `_mapping`, as a row of a SQLAlchemy query does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from math import isfinite
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from mailtasks.address import plain
from mailtasks.people.row import (
    LONGEST,
    MOST_COLUMNS,
    Person,
    Reason,
    Rejected,
    Unusable,
    addressed,
    is_email,
    named,
    usable,
)
from mailtasks.people.text import Text

DEEPEST: Final = 32
"""Lists and objects within each other, in a field."""

_SHAPES: Final = 256  # sets of names that are remembered
_NARROW: Final = 128  # names in one of them
_MOST: Final = f"{LONGEST:,} are the most"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_Rows: TypeAlias = Iterator[Person | Rejected]
_ENDS: Final = ("\n", "\r")
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


def of_lines(text: Text, unusable: Unusable) -> _Rows:
    """The rows of JSON Lines: an object a line, `email` in it. A blank line is no row."""
    shapes = _Shapes(unusable)
    number, cut = 1, False
    for line in text:
        if len(line) > LONGEST or cut:
            if not cut:
                yield Rejected(number, Reason.TOO_LARGE, f"the row has more than {LONGEST:,} characters")
            cut = not line.endswith(_ENDS)
        elif not line.isspace():
            yield _of_line(number, line, shapes)
        number += not cut


def of_mappings(rows: Iterable[object], unusable: Unusable, digest: Callable[[bytes], object]) -> _Rows:
    """The rows from Python. The digest is given what each row says, for there is no file to have one."""
    shapes = _Shapes(unusable)
    for number, row in enumerate(rows, 1):
        read = _of_mapping(number, getattr(row, "_mapping", row), shapes)
        said = _encode(_said(read))
        digest(said)
        if len(said) > LONGEST:
            read = Rejected(
                number, Reason.TOO_LARGE, f"the row has {len(said):,} octets as JSON, and {_MOST}"
            )
        yield read


def _said(read: Person | Rejected) -> list[object]:
    if isinstance(read, Person):
        return [read.email, read.display_name, read.fields]
    return [read.reason, read.what]


def _of_line(number: int, line: str, shapes: _Shapes) -> Person | Rejected:
    try:
        row = _decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        return Rejected(number, Reason.NOT_AN_OBJECT, f"the line is no object of JSON: {error}")
    return _of_mapping(number, row, shapes)


def _of_mapping(number: int, row: object, shapes: _Shapes) -> Person | Rejected:
    if not isinstance(row, Mapping):
        what = f"the row is of type {type(row).__name__}, and no object with names for its values"
        return Rejected(number, Reason.NOT_AN_OBJECT, what)
    shape = shapes.of(tuple(row))
    if isinstance(shape, _Refusal):
        return Rejected(number, *shape)
    fields: dict[str, Any] = {}
    try:
        for name in shape.names:
            fields[name] = _mailable(row[name], DEEPEST)
    except _Unmailable as error:
        return Rejected(number, error.reason, f"the field {name!r} {error}")
    text = row[shape.email]
    email = plain(text) if isinstance(text, str) else None
    return Person(number, email, fields) if email else addressed(number, text, fields)


class _Shape(NamedTuple):
    """What the names of a row say: which holds the address, and which are for the template."""

    email: str
    names: tuple[str, ...]


class _Refusal(NamedTuple):
    """Why no row of such names can be mailed."""

    reason: Reason
    what: str


class _Shapes:
    """The shape for a row's names, found out once for all rows that are alike."""

    def __init__(self, unusable: Unusable) -> None:
        self._unusable = unusable
        self._known: dict[tuple[str, ...], _Shape | _Refusal] = {}

    def of(self, names: tuple[str, ...]) -> _Shape | _Refusal:
        shape = self._known.get(names)
        if shape is None:
            shape = self._found_out(names)
            if len(names) <= _NARROW and len(self._known) < _SHAPES:
                self._known[names] = shape
        return shape

    def _found_out(self, names: tuple[str, ...]) -> _Shape | _Refusal:
        if len(names) > MOST_COLUMNS:
            return _Refusal(
                Reason.COLUMNS, f"the row has {len(names):,} fields, and {MOST_COLUMNS:,} are the most"
            )
        if not all(isinstance(name, str) for name in names):
            return _Refusal(Reason.NOT_AN_OBJECT, "the row has a name that is no text")
        emails = [name for name in names if is_email(name)]
        if not emails:
            return _Refusal(
                Reason.NO_ADDRESS, f"the row has no field `email`, only {named(names) or 'nothing'}"
            )
        if len(emails) > 1:
            return _Refusal(
                Reason.COLUMNS, f"any of {named(emails)} may be the field `email`; rename all but one"
            )
        others = [name for name in names if name != emails[0]]
        self._unusable.add(name for name in others if not usable(name))
        return _Shape(emails[0], tuple(filter(usable, others)))


class _Unmailable(Exception):
    """A value can't be mailed."""

    def __init__(self, what: str, reason: Reason = Reason.BAD_FIELD) -> None:
        self.reason = reason
        super().__init__(what)


def _mailable(value: object, depth: int) -> Any:
    """The value as JSON would hold it."""
    make = _KINDS.get(type(value)) or _kin(value)
    return make(value, depth)


def _kin(value: object) -> Callable[[Any, int], Any]:
    for kind, make in _KINDS.items():
        if isinstance(value, kind):
            return make
    raise _Unmailable(f"is of type {type(value).__name__}; make it a text or a number")


def _text(value: str, _depth: int) -> str:
    if "\0" in value:
        raise _Unmailable("holds a NUL, which can't be mailed", Reason.NUL)
    if not value.isascii() and _SURROGATE.search(value):
        raise _Unmailable("holds a surrogate, which can't be mailed; decode the text with its real encoding")
    return str(value)


def _integer(value: int, _depth: int) -> int:
    if not -(1 << 63) <= value < 1 << 64:
        raise _Unmailable("is a number of more than 64 bits; make it a text")
    return int(value)


def _float(value: float, _depth: int) -> float:
    if not isfinite(value):
        raise _Unmailable(f"is {value}, which is no number")
    return float(value)


def _array(value: Iterable[object], depth: int) -> list[Any]:
    _check_depth(depth)
    return [_mailable(it, depth - 1) for it in value]


def _object(value: Mapping[object, object], depth: int) -> dict[str, Any]:
    _check_depth(depth)
    if not all(isinstance(name, str) for name in value):
        raise _Unmailable("has a name within it that is no text")
    return {_text(str(name), depth): _mailable(it, depth - 1) for name, it in value.items()}


def _check_depth(depth: int) -> None:
    if not depth:
        raise _Unmailable(f"has lists or objects more than {DEEPEST} deep within each other")


def _as_it_is(value: object, _depth: int) -> object:
    return value


def _written(value: object, _depth: int) -> str:
    return str(value)


_KINDS: Final[Mapping[type, Callable[[Any, int], Any]]] = {
    str: _text,
    bool: _as_it_is,
    int: _integer,
    float: _float,
    type(None): _as_it_is,
    list: _array,
    tuple: _array,
    Mapping: _object,
    date: _written,
    time: _written,
    Decimal: _written,
    UUID: _written,
}
"""How a value of each type becomes one of JSON: of subclasses, the first that fits."""
