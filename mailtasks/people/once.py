"""The same address twice is mailed once, however many addresses there are.

`Once` remembers addresses in a few megabytes of memory and a temporary file. The rules:

1. What is remembered of an address is 64 bits of a keyed hash of it, and the line where it first stood.
2. An address is new if the filter doesn't know it: a Bloom filter of fixed size, which knows all that was
   ever remembered and a few more. Only for what the filter knows is the file read.
3. The latest addresses are in a dict; when it is full they go to the file, each to the bucket that its hash
   names. A bucket has a place of its own in the file, in which it grows: the file is sparse, and has no name.

Two addresses of one hash would be taken for one, and the second not be mailed. Among n addresses the odds
that this happens at all are n² / 2⁶⁵: 1 to 370,000 for ten million, 1 to 37 million for one million.
"""

from __future__ import annotations

import os
import secrets
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from tempfile import TemporaryFile
from typing import BinaryIO, Final, Self

from mailtasks.address import mailbox
from mailtasks.errors import InputError
from mailtasks.people.row import Person, Reason, Rejected

_FILE: Final = "the temporary file that remembers addresses"
_LATEST: Final = 1 << 15  # addresses in the dict, which take less than 5 MB there
_BUCKETS: Final = 1 << 10
_LAST_BUCKET: Final = _BUCKETS - 1
_ROOM: Final = 1 << 22  # octets for each bucket: 262,144 addresses
_ENTRY: Final = 16  # octets: the hash, then the line
_WORDS: Final = 1 << 20  # of 64 bits, in the filter: 8 MB
_LAST_WORD: Final = _WORDS - 1
_MARKS: Final = tuple(1 << (it & 63) | 1 << (it >> 6) | 1 << (it * 37 >> 3 & 63) for it in range(1 << 12))
"""What a hash sets in its word: three bits, or fewer."""


class Once:
    """Passes on each address the first time, and rejects it from then on.

    It may be used for several sources, one after the other. Close it, or use it as a context manager.

    Raises:
        InputError: if the temporary file can't be written.
    """

    def __init__(self) -> None:
        self._hash = _keyed_hash()
        self._filter = memoryview(bytearray(_WORDS * 8)).cast("Q")
        self._latest: dict[int, int] = {}
        self._file: BinaryIO | None = None  # until there are more than fit into the dict
        self._used = [0] * _BUCKETS  # octets of each bucket

    def of(self, rows: Iterable[Person | Rejected]) -> Iterator[Person | Rejected]:
        """The same rows, those with a repeated address as `Rejected`."""
        for row in rows:
            if isinstance(row, Person) and (before := self.line_before(row.email, row.line)) is not None:
                what = f"{row.email} stands in line {before} already, and is mailed once"
                yield Rejected(row.line, Reason.REPEATED, what)
            else:
                yield row

    def line_before(self, email: str, line: int) -> int | None:
        """Where the address stood first; None if this is the first time, which is then remembered."""
        key = self._hash(mailbox(email))
        latest = self._latest
        if key in latest:
            return latest[key]
        word, mark = key & _LAST_WORD, _MARKS[key >> 20 & 4095]
        marks = self._filter[word]
        if marks & mark == mark and (before := self._filed(key)) is not None:
            return before
        self._filter[word] = marks | mark
        latest[key] = line
        if len(latest) >= _LATEST:
            self._file_away()
        return None

    def close(self) -> None:
        """Remove the temporary file."""
        if self._file:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _filed(self, key: int) -> int | None:
        """The line that the file has for a hash."""
        number = key >> 32 & _LAST_BUCKET
        if not self._file or not self._used[number]:
            return None
        bucket = os.pread(self._file.fileno(), self._used[number], number * _ROOM)
        wanted = array("q", [key]).tobytes()
        at = bucket.find(wanted)
        while at > 0 and at % _ENTRY:  # among other octets, by chance
            at = bucket.find(wanted, at + 1)
        return None if at < 0 else array("q", bucket[at + 8 : at + _ENTRY])[0]

    def _file_away(self) -> None:
        """Write the latest addresses to their buckets."""
        buckets: list[list[int]] = [[] for _ in range(_BUCKETS)]
        for entry in self._latest.items():
            buckets[entry[0] >> 32 & _LAST_BUCKET] += entry
        try:
            self._file = self._file or TemporaryFile(buffering=0)  # noqa: SIM115 - close() closes it
            for number, entries in enumerate(buckets):
                self._append(number, array("q", entries).tobytes())
        except OSError as error:
            advice = "make room for 16 bytes an address, or name another folder in TMPDIR"
            raise InputError(_FILE, f"can't be written ({error}); {advice}") from None
        self._latest.clear()

    def _append(self, number: int, entries: bytes) -> None:
        at = self._used[number]
        if at + len(entries) > _ROOM:
            raise OSError(f"it holds {sum(self._used) // _ENTRY:,} addresses and can hold no more")
        assert self._file
        written = os.pwrite(self._file.fileno(), entries, number * _ROOM + at)
        if written < len(entries):
            raise OSError("the disk is full")
        self._used[number] += written


def _keyed_hash() -> Callable[[str], int]:
    """A hash of 64 bits, as a signed number, with a key of its own.

    Python's own of a text is SipHash, which is made for this and costs a fraction of BLAKE2; where it isn't,
    BLAKE2 it is. The salt is a key as well where PYTHONHASHSEED has made Python's known.
    """
    if sys.hash_info.hash_bits == 64 and sys.hash_info.algorithm.startswith("siphash"):
        salt = secrets.token_hex(8)
        return lambda text: hash(salt + text)
    key = secrets.token_bytes(16)

    def keyed(text: str) -> int:
        digest = blake2b(text.encode(), digest_size=8, key=key).digest()
        return int.from_bytes(digest, "little", signed=True)

    return keyed
