"""`read`: people from a file, standard input or Python, as a stream."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from hashlib import sha256
from os import PathLike
from typing import Self, TypeAlias

from mailtasks.errors import InputError
from mailtasks.people.objects import of_lines, of_mappings
from mailtasks.people.octets import Octets, Readable, opened
from mailtasks.people.row import Person, Rejected, Unusable
from mailtasks.people.table import Table
from mailtasks.people.text import Text

Source: TypeAlias = str | PathLike[str] | Readable | Iterable[object]


def read(source: Source, *, encoding: str | None = None, name: str | None = None) -> People:
    """People from a file of CSV or JSON Lines, plain or compressed by gzip or zstd, or from Python.

    What it is, is told by how it begins: JSON Lines by `{`, anything else is CSV. Memory doesn't grow with
    the rows. What can be known from the first 64 KiB is an error at once, not when the rows are read.

    Args:
        source: a path; `-` for standard input; what was opened in binary mode; or mappings with a key
            `email`, such as dicts or the rows of a SQLAlchemy query.
        encoding: of a file; by default UTF-8, or UTF-16 if a byte order mark says so.
        name: by which errors call the source; by default the file's.

    Raises:
        InputError: if it can't be opened, is empty, binary, wrongly encoded or has no column `email`.
    """
    if isinstance(source, str | PathLike):
        file, known_as = opened(source)
        people = None
        try:
            people = _of_file(file, name or known_as, encoding)
        finally:
            if people is None:
                file.close()
        people.closing = file.close if source != "-" else None
        return people
    if isinstance(source, Readable):
        known_as = getattr(source, "name", "")
        return _of_file(
            source, name or (known_as if isinstance(known_as, str) else "") or "the file", encoding
        )
    return _of_rows(source, name or "the rows")


class People:
    """What `read` returns: an iterable of `Person` and `Rejected`, which can be read once.

    Iterating raises `InputError` where the source breaks off; what came before it was given.

    Attributes:
        name: of the source, as errors have it.
        columns: of CSV, the names of the template's variables; None of other sources, whose rows differ.
        rows: how many were read. It is up to date when the iteration has ended.
        finished: whether all were read.
    """

    def __init__(
        self,
        name: str,
        rows: Iterable[Person | Rejected],
        digest: Callable[[], str],
        unusable: Unusable,
        columns: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.columns = columns
        self.rows = 0
        self.finished = False
        self.closing: Callable[[], None] | None = None
        self._unusable = unusable
        self._digest = digest
        self._rows = self._counted(rows)

    @property
    def unusable(self) -> tuple[str, ...]:
        """Names that no template can use, such as `first name`, at most a hundred; their fields are left out.

        Of CSV they are known before the first row.
        """
        return tuple(self._unusable)

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the content that was read so far: of all, when `finished`.

        Of a file it is over the octets without their compression; of rows from Python over what they say.
        """
        return self._digest()

    def close(self) -> None:
        """Close the file, if `read` opened it."""
        self._rows.close()
        if self.closing:
            self.closing()

    def __iter__(self) -> Iterator[Person | Rejected]:
        return self._rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _counted(self, rows: Iterable[Person | Rejected]) -> Generator[Person | Rejected]:
        number = 0
        try:
            for number, row in enumerate(rows, 1):  # noqa: B007 - it is used when they have ended
                yield row
            self.finished = True
        except InputError as error:
            error.rows = number
            raise
        finally:
            self.rows = number


def _of_file(file: Readable, name: str, encoding: str | None) -> People:
    octets = Octets(file, name)
    text = Text(octets, encoding)
    unusable = Unusable()
    start = text.head.lstrip()[:1]
    if start == "[":
        raise InputError(
            name, "is one array of JSON; write JSON Lines, an object a line (`jq -c '.[]'` does)", 1
        )
    if start == "{":
        return People(name, of_lines(text, unusable), lambda: octets.digest, unusable)
    table = Table(text, unusable)
    return People(name, table, lambda: octets.digest, unusable, table.columns)


def _of_rows(rows: Iterable[object], name: str) -> People:
    digest = sha256()
    unusable = Unusable()
    return People(name, of_mappings(rows, unusable, digest.update), digest.hexdigest, unusable)
