"""People are read and checked, all of them, before anybody is accepted.

A file may break off at its last line, and standard input can be read but once. So what is read waits, as
batches that are ready for the ledger, in a temporary file: a fraction of the input's size, and no memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import chain, islice
from tempfile import TemporaryFile
from typing import BinaryIO, Final, Self

import msgspec

from mailtasks.campaign.batches import ROWS_A_BATCH, ROWS_WITH_FILES_A_BATCH, RowBatch, batched
from mailtasks.campaign.files import OwnFiles
from mailtasks.compose.template import CompiledTemplate
from mailtasks.errors import InputError, RenderError
from mailtasks.people import Once, Person, Reason, Rejected
from mailtasks.people.row import named

_FIRST_PEOPLE: Final = 3  # whose mail is tried before anything is accepted
_TOLD: Final = 100
_FILE: Final = "the temporary file that keeps rows until they are accepted"
_LENGTH: Final = 4  # octets before each batch, with how many it has
_decoder: Final = msgspec.msgpack.Decoder(RowBatch)


class Gathered:
    """People who can be mailed: an iterable of `RowBatch`, as often as it is wanted. Close it.

    Attributes:
        people: how many.
        rejected: how many rows can't be mailed, by reason.
        told: the first hundred of these.
        first: the first few people.
    """

    def __init__(self) -> None:
        self.people = 0
        self.rejected: Counter[Reason] = Counter()
        self.told: list[Rejected] = []
        self.first: list[Person] = []
        self._hash = blake2b(digest_size=8)
        self._file: BinaryIO | None = None

    @property
    def digest(self) -> str:
        """16 hex digits over addresses and fields: the same people in the same order have the same.

        Not over their files: who begins again, some files being others by now, must find what he began.
        """
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[RowBatch]:
        file = self._file
        if file is None:
            return
        file.seek(0)
        while length := file.read(_LENGTH):
            yield _decoder.decode(file.read(int.from_bytes(length, "little")))

    def keep(self, batch: RowBatch) -> None:
        """Keep one more.

        Raises:
            InputError: the temporary file can't be written.
        """
        encoded = msgspec.msgpack.encode(batch)
        try:
            self._file = self._file or TemporaryFile()  # noqa: SIM115 - close() closes it
            self._file.write(len(encoded).to_bytes(_LENGTH, "little") + encoded)
            self._file.flush()  # a disk that is full says so here, and not when it is read again
        except OSError as error:
            raise InputError(
                _FILE, f"can't be written ({error}); make room, or name another folder in TMPDIR"
            ) from None
        self.people += len(batch.emails)
        self._hash.update(batch.print_without_files.encode())

    def reject(self, row: Rejected) -> None:
        """Count one that can't be mailed."""
        self.rejected[row.reason] += 1
        if len(self.told) < _TOLD:
            self.told.append(row)

    def close(self) -> None:
        """Remove the temporary file."""
        if self._file:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def gather(
    rows: Iterable[Person | Rejected],
    required: frozenset[str] = frozenset(),
    *,
    template: CompiledTemplate | None = None,
    files: OwnFiles | None = None,
    rejected: Callable[[Rejected], object] = lambda row: None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Gathered:
    """Read all rows; each address passes once.

    Args:
        required: fields that each row must have.
        template: whose headers each row must fit; None: it isn't looked at.
        files: what looks at those that rows name; None: they name none.
        rejected: is given each row that can't be mailed, as it is read.
        progress: is told, again and again, how many people were read.

    Raises:
        InputError: the rows break off, or a temporary file can't be written.
    """
    gathered = Gathered()
    try:
        with Once() as once:
            complete = _complete(rows, required) if required else rows
            fit = _fitting(complete, template) if template else complete
            people = _people(once.of(files.of(fit) if files else fit), gathered, rejected)
            gathered.first = list(islice(people, _FIRST_PEOPLE))
            size = ROWS_WITH_FILES_A_BATCH if files else ROWS_A_BATCH
            for batch in batched(chain(gathered.first, people), size):
                gathered.keep(batch)
                progress(gathered.people)
    except BaseException:
        gathered.close()
        raise
    return gathered


def _complete(rows: Iterable[Person | Rejected], required: frozenset[str]) -> Iterator[Person | Rejected]:
    for row in rows:
        if isinstance(row, Person) and not required <= row.fields.keys():
            lacking = named(sorted(required - row.fields.keys()))
            yield Rejected(row.line, Reason.INCOMPLETE, f"the row has no {lacking}, which the template needs")
        else:
            yield row


def _fitting(rows: Iterable[Person | Rejected], template: CompiledTemplate) -> Iterator[Person | Rejected]:
    for row in rows:
        if isinstance(row, Person):
            try:
                template.check_headers(row.fields, to=row.email)
            except RenderError as error:
                yield Rejected(row.line, Reason.BAD_FIELD, str(error))
                continue
        yield row


def _people(
    rows: Iterable[Person | Rejected], gathered: Gathered, rejected: Callable[[Rejected], object]
) -> Iterator[Person]:
    for row in rows:
        if isinstance(row, Person):
            yield row
        else:
            gathered.reject(row)
            rejected(row)
