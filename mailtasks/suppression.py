"""An address that gets no mail, and files of them: what the suppression list holds, comes from and goes to.

A file is CSV with a column `email`, and `reason`, `source` and `time` if they are known, or has one address a
line. The rules:

1. A line that can't be used is told of with its number, and keeps no other from being read.
2. What `write` has written, `read` reads back unchanged.
3. A row is a line: neither grows a row beyond it, so that a quote that isn't closed costs one row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from mailtasks import address
from mailtasks.errors import AddressError, MessageError

OPERATOR: Final = "operator"
IMPORT: Final = "import"
BOUNCE: Final = "bounce"
UNSUBSCRIBE: Final = "unsubscribe"
COMPLAINT: Final = "complaint"
SOURCES: Final = (OPERATOR, IMPORT, BOUNCE, UNSUBSCRIBE, COMPLAINT)
"""Who puts addresses on the list. Other words may be used as well; these have a meaning here."""

LONGEST_REASON: Final = 300
"""Characters of a reason that are kept."""

COLUMNS: Final = ("email", "reason", "source", "time")
_SEPARATORS: Final = ",;\t"
_SOURCE: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_NOT_UTF8: Final = "it isn't UTF-8; save the file with that encoding"
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Suppression:
    """An address that is on the suppression list, or is to be put on it.

    Attributes:
        address: as `mailtasks.address.mailbox` has it.
        reason: one line, at most 300 characters; may be "".
        source: a word, see `SOURCES`.
        added_at: None, if it is to be put there: that is now.
    """

    address: str
    reason: str = ""
    source: str = OPERATOR
    added_at: datetime | None = None

    @property
    def sentence(self) -> str:
        """Why and since when, in the place of a reply."""
        since = f" since {self.added_at:%Y-%m-%d %H:%M} UTC" if self.added_at else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"on the suppression list{since} ({self.source}){reason}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        at = self.added_at.isoformat(timespec="milliseconds") if self.added_at else None
        return asdict(self) | {"added_at": at}


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that can't be used."""

    number: int  # the first line is 1
    why: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.why}"


def suppression(
    text: str, reason: str = "", source: str = OPERATOR, added_at: datetime | None = None
) -> Suppression:
    """One to be put on the list, checked.

    Args:
        text: an address, with or without a display name.

    Raises:
        AddressError: it is none.
        MessageError: the source is no word, or the time has no offset from UTC.
    """
    if not _SOURCE.fullmatch(source):
        raise MessageError(
            f"{address.excerpt(source)} is no source of a suppression: write one word, in lower case and "
            f"of at most 32 letters, such as {', '.join(SOURCES)}"
        )
    if added_at is not None and added_at.utcoffset() is None:
        raise MessageError(f"the time {added_at.isoformat()} has no offset from UTC: add one, such as +00:00")
    mailbox = address.mailbox(address.parse(text).address)
    return Suppression(mailbox, one_line(reason), source, added_at and added_at.astimezone(UTC))


def one_line(reason: str) -> str:
    """A reason as it is kept."""
    return " ".join(reason.split())[:LONGEST_REASON]


def read(lines: Iterable[str], name: str) -> Iterator[Suppression | BadLine]:
    """What a file holds, line by line.

    Args:
        lines: of text; octets that are no UTF-8 may stand there as surrogates (`errors="surrogateescape"`).
        name: of the file, for errors.

    Raises:
        MessageError: its first line has neither a column `email` nor an address, or isn't UTF-8. At once.
    """
    numbered = ((number, line.strip(" \r\n")) for number, line in enumerate(lines, 1))  # a tab may separate
    filled = ((number, line) for number, line in numbered if line.strip())
    first = next(filled, None)
    if first is None:
        return iter(())
    number, line = first
    line = line.removeprefix("\ufeff")
    if _SURROGATES.search(line):
        raise MessageError(f"{name}, line {number}: {_NOT_UTF8}")
    for separator in _SEPARATORS:
        columns = _columns(line, separator)
        if "email" in columns:
            return _rows(filled, columns, separator)
    if "@" not in line:
        raise MessageError(
            f"{name}, line {number}: {address.excerpt(line)} is no address and names no column `email`; "
            "give CSV with such a column, or one address a line"
        )
    return _addresses([(number, line)], filled)


def _columns(line: str, separator: str) -> list[str]:
    """The names in a first line; one that means the address is `email`."""
    names = [re.sub(r"[\s_-]", "", name.strip().strip('"')).lower() for name in line.split(separator)]
    return ["email" if name == "emailaddress" else name for name in names]


def _addresses(*parts: Iterable[tuple[int, str]]) -> Iterator[Suppression | BadLine]:
    for part in parts:
        for number, line in part:
            yield _read(number, {"email": line})


def _rows(
    lines: Iterable[tuple[int, str]], columns: Sequence[str], separator: str
) -> Iterator[Suppression | BadLine]:
    for number, line in lines:
        try:
            [cells] = csv.reader([line], delimiter=separator, strict=True)
        except (csv.Error, ValueError) as error:
            yield BadLine(number, f"the row can't be read ({error}); look at its quotes")
            continue
        if len(cells) > len(columns):
            yield BadLine(number, f"the row has {len(cells)} fields, and the first line names {len(columns)}")
            continue
        yield _read(number, dict(zip(columns, cells, strict=False)))


def _read(number: int, cells: dict[str, str]) -> Suppression | BadLine:
    if _SURROGATES.search("".join(cells.values())):
        return BadLine(number, _NOT_UTF8)
    try:
        return suppression(
            cells.get("email", ""),
            cells.get("reason", ""),
            cells.get("source", "").strip() or IMPORT,
            _time(cells.get("time", "").strip()),
        )
    except (AddressError, MessageError) as error:
        return BadLine(number, str(error))


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise MessageError(
            f"{address.excerpt(text)} is no time: write one such as 2030-01-31T09:00:00+00:00"
        ) from None


def write(entries: Iterable[Suppression], file: TextIO) -> int:
    """Write CSV that `read` reads back; returns how many entries it has."""
    rows, number = csv.writer(file, lineterminator="\n"), 0
    rows.writerow(COLUMNS)
    for number, it in enumerate(entries, 1):  # noqa: B007 - it is used when they have ended
        at = it.added_at.isoformat(timespec="milliseconds") if it.added_at else ""
        rows.writerow((it.address, it.reason, it.source, at))
    return number
