"""Rows become batches: what is accepted, kept and sent together.

The rules:

1. The same rows in the same order make the same batches, so that who begins again can pass over what is
   accepted. Rows with other files are others.
2. A batch has a few hundred rows. One that would take more than a megabyte is parted in two. Where rows have
   files it has a few rows, since a batch is accepted when all that it needs is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any, Final, Protocol

import msgspec

from mailtasks.errors import MessageError
from mailtasks.pieces import OwnFile
from mailtasks.store import records
from mailtasks.store.keys import PRINT_LENGTH

ROWS_A_BATCH: Final = 300
"""Few enough that a batch is soon through, many enough that what a batch costs is next to nothing a row."""

ROWS_WITH_FILES_A_BATCH: Final = 10
"""With the default settings their files fit into Redis together, however large each may be."""

_BYTES_A_BATCH: Final = 1_000_000  # of the rows' values; Redis moves them in one piece


class Row(Protocol):
    """One who is to be mailed; `mailtasks.people.Person` is one."""

    @property
    def email(self) -> str:
        """The address as it goes over the wire."""
        ...

    @property
    def fields(self) -> Mapping[str, Any]:
        """What the template's names stand for; what JSON can hold. Its address is `email` there."""
        ...

    @property
    def files(self) -> tuple[OwnFile, ...]:
        """Its own."""
        ...


class RowBatch(msgspec.Struct, frozen=True, array_like=True):
    """Rows as they are kept in the ledger.

    Attributes:
        emails: one a row.
        values: their fields, and their files if they have any, packed (`records.encode_values`).
        fingerprint: of both.
        print_without_files: of addresses and fields only.
        files: one a row; (): no row has any.
    """

    emails: tuple[str, ...]
    values: bytes
    fingerprint: str
    print_without_files: str
    files: tuple[tuple[OwnFile, ...], ...] = ()


def batched(rows: Iterable[Row], size: int = ROWS_A_BATCH) -> Iterator[RowBatch]:
    """Rows as batches of at most `size`.

    Raises:
        MessageError: a row holds what can't be kept.
    """
    left, number = iter(rows), 0
    while part := tuple(islice(left, size)):
        yield from _parted(part, number + 1)
        number += len(part)


def _parted(rows: Sequence[Row], first: int) -> Iterator[RowBatch]:
    values = _values(rows, first)
    if len(values) > _BYTES_A_BATCH and len(rows) > 1:
        half = len(rows) // 2
        yield from _parted(rows[:half], first)
        yield from _parted(rows[half:], first + half)
        return
    emails = tuple(row.email for row in rows)
    files = tuple(row.files for row in rows)
    print_ = _print(emails, values)
    if not any(files):
        yield RowBatch(emails, records.pack(values), print_, print_)
        return
    values = records.with_files(values, files)
    yield RowBatch(emails, records.pack(values), _print(emails, values), print_, files)


def _print(emails: Sequence[str], values: bytes) -> str:
    return blake2b(msgspec.json.encode(emails) + values, digest_size=PRINT_LENGTH // 2).hexdigest()


def _values(rows: Sequence[Row], first: int) -> bytes:
    try:
        return records.encode_values([row.fields for row in rows])
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(
            f"of the rows {first:,} to {first + len(rows) - 1:,} one holds what can't be kept ({error}); "
            "give texts, numbers, lists and the like"
        ) from None
