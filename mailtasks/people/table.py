"""CSV: the rows of a table whose first line names the columns (RFC 4180, and what spreadsheets write).

The rules:

1. The columns are parted by comma, semicolon or tab: the first of these with which the first line has a
   column `email`.
2. The csv module reads the rows, strictly: behind a closing quote stands nothing but the end of the field. A
   quote within a field that doesn't begin with one is a character like others.
3. A row that is refused ends where it would have ended if read less strictly, which `_Scan` finds: no part of
   it is taken for a row. So a quote that isn't closed costs the rows up to the next quote, and is told.
4. A blank line is no row.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from io import StringIO
from itertools import chain
from typing import Any, Final

from mailtasks.address import plain
from mailtasks.errors import InputError
from mailtasks.people.row import (
    LONGEST,
    MOST_COLUMNS,
    Person,
    Reason,
    Rejected,
    Unusable,
    addressed,
    counted,
    is_email,
    named,
    usable,
)
from mailtasks.people.text import EMPTY, Text

DELIMITERS: Final = ",;\t"
_ENDS: Final = ("\n", "\r")


class Table:
    """The rows of a CSV file, to be read once.

    Attributes:
        columns: the names of the template's variables.

    Raises:
        InputError: if the first line doesn't name the columns as it must.
    """

    def __init__(self, text: Text, unusable: Unusable) -> None:
        self._name = text.name
        self._text = text
        self._lines = iter(text)
        self._record: list[str] = []  # the lines of the row that is being read
        self._line = 0  # how many came before it
        self._delimiter = _delimiter(text.head)
        names = self._header()
        self._where = self._email_column(names)
        self._names = names[: self._where] + names[self._where + 1 :]
        self._dropped = frozenset(name for name in self._names if not usable(name))
        self.columns = tuple(name for name in self._names if name not in self._dropped)
        self._refuse_twins()
        unusable.add(name for name in self._names if name in self._dropped)

    def __iter__(self) -> Iterator[Person | Rejected]:
        while True:
            try:
                yield from self._people()
                return
            except (csv.Error, _TooLarge) as error:
                yield self._skipped(error)

    def _people(self) -> Iterator[Person | Rejected]:
        """The rows up to one that can't be read. What is done here slows down every row."""
        names, where, width = self._names, self._where, len(self._names) + 1
        dropped, record, text = self._dropped, self._record, self._text
        for row in self._reader():
            line = self._line + 1
            self._line += len(record)
            nul = text.nul and "\0" in "".join(record)
            record.clear()
            if len(row) != width or nul:
                if row:
                    yield self._refused(line, row)
                continue
            address = row.pop(where)
            email = plain(address)
            fields: dict[str, Any] = dict(zip(names, row))  # noqa: B905 - being strict takes time
            if dropped:
                fields = {name: fields[name] for name in fields if name not in dropped}
            yield Person(line, email, fields) if email else addressed(line, address, fields)

    def _reader(self) -> Iterator[list[str]]:
        return csv.reader(self._feed(), delimiter=self._delimiter, strict=True)

    def _feed(self) -> Iterator[str]:
        """The lines for the csv module, which asks for another one within a row only if a quote is open."""
        record, size = self._record, 0
        for text in self._lines:
            size = size + len(text) if record else len(text)
            record.append(text)
            if size > LONGEST:
                raise _TooLarge
            yield text
        if record:
            scan = _Scan(self._delimiter)
            for number, text in enumerate(record, self._line + 1):
                scan.feed(text, number)
            raise self._unclosed(scan)

    def _refused(self, line: int, row: list[str]) -> Rejected:
        width = len(self._names) + 1
        if len(row) == width:
            return Rejected(line, Reason.NUL, "the row holds a NUL, which can't be mailed")
        what = f"the row has {counted(len(row), 'column')}, and the first line names {width:,}"
        return Rejected(line, Reason.COLUMNS, what + self._span(line))

    def _span(self, line: int) -> str:
        """Words on a row of several lines."""
        if self._line <= line:
            return ""
        return f"; it goes on to line {self._line}: is a quote not closed, or one too many?"

    def _skipped(self, error: Exception) -> Rejected:
        """Read on to the end of a row that can't be read."""
        first = self._line + 1
        scan = _Scan(self._delimiter)
        for text in chain(self._record, self._lines):
            ended = scan.feed(text, self._line + 1)
            self._line += text.endswith(_ENDS)
            if ended:
                break
        else:
            if scan.quoted:
                raise self._unclosed(scan)
        self._record.clear()
        return self._unreadable(first, error)

    def _unreadable(self, line: int, error: Exception) -> Rejected:
        if isinstance(error, _TooLarge):
            return Rejected(
                line, Reason.TOO_LARGE, f"the row has more than {LONGEST:,} characters{self._span(line)}"
            )
        if "limit" in str(error):
            what = f"a field has more than {csv.field_size_limit():,} characters{self._span(line)}"
            return Rejected(line, Reason.TOO_LARGE, what)
        what = "behind a closing quote stands something else than the end of the field"
        return Rejected(line, Reason.QUOTES, what + self._span(line))

    def _unclosed(self, scan: _Scan) -> InputError:
        return InputError(
            self._name,
            "the quote that opens a field here is never closed, so that all behind it would be one field; "
            "close it, or write it twice within a field in quotes if it is text",
            scan.opened,
        )

    def _header(self) -> list[str]:
        try:
            header = self._first_row()
        except _TooLarge:
            raise self._wrong_header(f"has more than {LONGEST:,} characters") from None
        except csv.Error as error:
            raise self._wrong_header(f"can't be read as CSV ({error})") from None
        if len(header) > MOST_COLUMNS:
            raise self._wrong_header(f"names {len(header):,} columns, and {MOST_COLUMNS:,} are the most")
        return [name.strip() for name in header]

    def _first_row(self) -> list[str]:
        for row in self._reader():
            self._line += len(self._record)
            self._record.clear()
            if row:
                return row
        raise InputError(self._name, EMPTY)

    def _wrong_header(self, what: str) -> InputError:
        reason = f"the first line should name the columns, and {what}; is this a table, with a row a person?"
        return InputError(self._name, reason, self._line + 1)

    def _email_column(self, names: list[str]) -> int:
        found = [number for number, name in enumerate(names) if is_email(name)]
        if len(found) == 1:
            return found[0]
        if found:
            reason = f"{named(names[it] for it in found)} may each be the column `email`; rename all but one"
        elif any("@" in name for name in names):
            reason = "the first line must name the columns, one of them `email`, and here stands an address"
        else:
            reason = f"there is no column `email`, only {named(names)}; name it so in the first line"
        raise InputError(self._name, reason, self._line)

    def _refuse_twins(self) -> None:
        twins = [name for name, times in Counter(self.columns).items() if times > 1]
        if twins:
            raise InputError(self._name, f"two columns are named {named(twins)}; rename one", self._line)


class _TooLarge(Exception):
    """The row has more than `LONGEST` characters."""


class _State(Enum):
    START = "of a field"
    FIELD = "in one without quotes, or behind a closing one"
    QUOTED = "in one with quotes"
    QUOTE = "behind a quote in it, which closes it or is the first of two"
    END = "of the row"


_MOVES: Final = {
    _State.START: {'"': _State.QUOTED, "delimiter": _State.START, "end": _State.END},
    _State.FIELD: {"delimiter": _State.START, "end": _State.END},
    _State.QUOTED: {'"': _State.QUOTE},
    _State.QUOTE: {'"': _State.QUOTED, "delimiter": _State.START, "end": _State.END},
}
"""What a character does. One that isn't named leads to `FIELD`; in quotes it is skipped."""

_SKIPPED: Final = {
    _State.START: r'(?:(?:[^"D\r\n][^D\r\n]*+)?+D)*+',  # whole fields without quotes
    _State.FIELD: r"[^D\r\n]*+",
    _State.QUOTED: r'(?:[^"]++|"")*+',
    _State.QUOTE: "",
}
"""What changes no state, D being the delimiter: all of it is passed over at once, as there may be much."""


class _Scan:
    """Finds the end of a row, piece by piece, in bounded memory.

    Attributes:
        opened: the line of the latest quote that opened a field.
    """

    def __init__(self, delimiter: str) -> None:
        self.opened = 0
        self._state = _State.START
        self._kinds = {'"': '"', delimiter: "delimiter", "\r": "end", "\n": "end"}
        self._skipped = {state: re.compile(it.replace("D", delimiter)) for state, it in _SKIPPED.items()}

    @property
    def quoted(self) -> bool:
        """Whether a quote is open."""
        return self._state is _State.QUOTED

    def feed(self, text: str, line: int) -> bool:
        """Whether the row ends with this piece, which is (of) one line."""
        at = self._after(text, 0)
        while at < len(text):
            before = self._state
            self._state = _MOVES[before].get(self._kinds.get(text[at], ""), _State.FIELD)
            if self._state is _State.END:
                return True
            if self._state is _State.QUOTED and before is _State.START:
                self.opened = line
            at = self._after(text, at + 1)
        return False

    def _after(self, text: str, at: int) -> int:
        """Where the next character stands that may change the state."""
        skipped = self._skipped[self._state].match(text, at)
        assert skipped  # it may be nothing
        return skipped.end()


def _delimiter(head: str) -> str:
    first = next(filter(str.strip, StringIO(head, newline="")), "")
    return next((it for it in DELIMITERS if any(map(is_email, _parted(first, it)))), ",")


def _parted(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
