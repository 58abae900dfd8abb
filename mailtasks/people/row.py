"""What a row becomes: a person, or the reason why none; and which names a template can use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, Final

import msgspec

from mailtasks.address import excerpt, parse
from mailtasks.errors import AddressError
from mailtasks.pieces import OwnFile

LONGEST: Final = 1_000_000
"""Characters of a row. Of a field of CSV the csv module takes 131,072, if nobody has told it otherwise."""

MOST_COLUMNS: Final = 16_384
"""As many as a sheet of a spreadsheet has."""

_MOST_TOLD: Final = 100
_EMAIL: Final = frozenset({"email", "emailaddress"})
_RESERVED: Final = frozenset({"and", "else", "if", "in", "is", "not", "or", "self"}) | frozenset(
    {"true", "false", "none", "True", "False", "None"}
)


class Reason(StrEnum):
    """Why a row can't be mailed."""

    NO_ADDRESS = "no address"
    BAD_ADDRESS = "bad address"
    COLUMNS = "too few or too many columns"
    TOO_LARGE = "too large"
    NUL = "holds a NUL"
    QUOTES = "quotes"
    NOT_AN_OBJECT = "not an object"
    BAD_FIELD = "a field that can't be mailed"
    INCOMPLETE = "a field is missing"
    BAD_FILE = "a file that can't be attached"
    REPEATED = "repeated"


class Person(msgspec.Struct, frozen=True):
    """One to be mailed.

    Attributes:
        line: of the file, from 1, where the row begins; of other sources the row's number.
        email: the address as it goes over the wire (`Address.address`).
        fields: the template's variables: what JSON can hold.
        display_name: what stood before an address in angle brackets; else "".
        files: of their own, once they were looked at (`mailtasks/campaign/files.py`).
    """

    line: int
    email: str
    fields: dict[str, Any]
    display_name: str = ""
    files: tuple[OwnFile, ...] = ()


class Rejected(msgspec.Struct, frozen=True):
    """One that can't be mailed.

    Attributes:
        line: as a person's.
        reason: for counting.
        what: a sentence for people, without the line.
    """

    line: int
    reason: Reason
    what: str


def is_email(name: str) -> bool:
    """Whether a column of this name holds the address.

    `email` and `email address` do, in upper or lower case, with hyphens, underscores or spaces, or without.
    """
    return re.sub(r"[\s_-]", "", name).casefold() in _EMAIL


def usable(name: str) -> bool:
    """Whether a template can name it: `{{ name }}`, without a meaning in Jinja of its own."""
    return name.isidentifier() and name not in _RESERVED


def addressed(line: int, text: object, fields: dict[str, Any]) -> Person | Rejected:
    """The person, if the text is an address that may be mailed; with a display name or without."""
    if text is None or (isinstance(text, str) and not text.strip()):
        return Rejected(line, Reason.NO_ADDRESS, "the row has no address")
    if not isinstance(text, str):
        return Rejected(line, Reason.BAD_ADDRESS, f"the address is of type {type(text).__name__} and no text")
    try:
        address = parse(text)
    except AddressError as error:
        return Rejected(line, Reason.BAD_ADDRESS, str(error))
    return Person(line, address.address, fields, address.display_name)


class Unusable:
    """The names that no template can use, a hundred at most; their fields are left out of all rows."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def add(self, names: Iterable[str]) -> None:
        """Remember them."""
        for name in names:
            if len(self._names) < _MOST_TOLD:
                self._names.setdefault(name)


def named(names: Iterable[str]) -> str:
    """The first few of some names, for an error."""
    listed = list(names)
    first = ", ".join(map(excerpt, listed[:8]))
    return first if len(listed) <= 8 else f"{first} and {len(listed) - 8:,} more"


def counted(number: int, what: str) -> str:
    """`1 column`, `2 columns`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
