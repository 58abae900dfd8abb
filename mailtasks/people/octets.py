"""The octets of a file of people: opened, decompressed, counted, and their digest.

What it is compressed with is told by its first octets, not by its name.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from io import RawIOBase
from os import PathLike, fsdecode
from typing import BinaryIO, Final, Protocol, TypeAlias, runtime_checkable

from mailtasks.errors import InputError

BLOCK: Final = 1 << 16
"""Octets that are looked at before the first row is given, and read in one go."""


@runtime_checkable
class Readable(Protocol):
    """What gives octets."""

    def read(self, size: int, /) -> bytes | None:
        """Some more octets, at most so many; none at the end."""


def opened(path: str | PathLike[str]) -> tuple[BinaryIO, str]:
    """The file and its name; `-` is standard input.

    Raises:
        InputError: if it isn't there or can't be opened.
    """
    if path == "-":
        return sys.stdin.buffer, "standard input"
    name = fsdecode(path)
    try:
        return open(path, "rb"), name
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the name
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(name, f"can't be opened ({why}); check its path and that you may read it") from None


class Octets:
    """What a file holds, decompressed: the head, then the rest by iteration, once.

    Attributes:
        name: of the file, for errors.
        head: the first `BLOCK` octets, or all if there are fewer.
        failure: why there are no more than the head, if that is an error.
        complete: whether all was read.
        size: of what was read so far.
    """

    def __init__(self, file: Readable, name: str) -> None:
        self.name = name
        self.head = b""
        self.failure: InputError | None = None
        self.complete = False
        self.size = 0
        self._digest = sha256()
        try:
            self._read, self._errors = self._decompressed(_Peeked(file, name))
            while not self.complete and len(self.head) < BLOCK:
                self.head += self._piece()
        except InputError as error:
            self.failure = error

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of what was read so far."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        while not self.complete:
            yield self._piece()

    def _decompressed(self, file: _Peeked) -> tuple[_Read, _Errors]:
        start = self._caught(file.peek)
        for magic, decompressed in _COMPRESSED.items():
            if start.startswith(magic):
                return decompressed(file)
        return file.read, ()

    def _piece(self) -> bytes:
        """The next octets; none at the end."""
        piece = self._caught(lambda: self._read(BLOCK), *self._errors)
        self.complete = not piece
        self.size += len(piece)
        self._digest.update(piece)
        return piece

    def _caught(self, read: Callable[[], bytes], *damage: type[Exception]) -> bytes:
        try:
            return read()
        except EOFError:
            reason = "the compressed file breaks off here; get it again, in whole"
        except damage as error:
            reason = f"the compressed file is damaged here ({error}); get it again"
        except InputError:
            raise
        except (OSError, ValueError) as error:  # a ValueError is a closed file
            reason = f"can't be read on ({error}); nothing behind this was read"
        raise InputError(self.name, reason)


class _Peeked(RawIOBase):
    """A file into whose first octets somebody has looked."""

    def __init__(self, file: Readable, name: str) -> None:
        self.name = name
        self._take: Callable[[int], object] = getattr(file, "read1", file.read)
        self._head = b""

    def peek(self) -> bytes:
        """Some of the first octets: at least as many as tell what it is, if there are."""
        while len(self._head) < _LONGEST_MAGIC and (piece := self._taken(BLOCK)):
            self._head += piece
        return self._head

    def read(self, size: int = -1, /) -> bytes:
        """All over again, from the first octet."""
        if not self._head:
            return self._taken(size)
        piece, self._head = self._head[:size], self._head[size:]
        return piece

    def _taken(self, size: int) -> bytes:
        piece = self._take(size)
        if isinstance(piece, bytes):
            return piece
        if piece is None:
            reason = "has nothing to read just now, and doesn't wait for more; make it blocking"
        else:
            reason = f"gives {type(piece).__name__} and no bytes; open it in binary mode ('rb')"
        raise InputError(self.name, reason)


def _gzip(file: _Peeked) -> tuple[_Read, _Errors]:
    return gzip.GzipFile(fileobj=file, mode="rb").read1, (zlib.error, gzip.BadGzipFile)


def _zstd(file: _Peeked) -> tuple[_Read, _Errors]:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        advice = "`pip install mailtasks[zstd]` to read it, or give what `zstd -dc` writes"
        raise InputError(file.name, f"is compressed by zstd: {advice}") from None
    return zstd.ZstdFile(file, "rb").read1, (zstd.ZstdError,)


_Read: TypeAlias = Callable[[int], bytes]
_Errors: TypeAlias = tuple[type[Exception], ...]

_COMPRESSED: Final[Mapping[bytes, Callable[[_Peeked], tuple[_Read, _Errors]]]] = {
    b"\x1f\x8b": _gzip,  # RFC 1952 2.3.1
    b"\x28\xb5\x2f\xfd": _zstd,  # RFC 8878 3.1.1
}
_LONGEST_MAGIC: Final = max(map(len, _COMPRESSED))
