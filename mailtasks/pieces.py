"""What a composed message consists of: bytes, and attachments that are stored apart from it.

A large attachment isn't in a message's bytes. A `Blob` stands in its place and says what was left out; the
worker puts that in when it sends, as base64.

The rules:

1. Every piece ends with a line, so that what is done line by line can be done piece by piece.
2. Sizes are computed: nothing is encoded only to be measured.
3. Equal content has an equal digest, and is stored once, whatever it is called.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, TypeAlias, cast

import msgspec

BLOCK: Final = 57 * 16_384
"""Bytes that are read, encoded and written in one go: whole lines of base64 (57 bytes make 76)."""

_WIDTH: Final = 76  # RFC 2045 6.8
_ROOM_A_LINE: Final = 57


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """An attachment's content, stored apart."""

    digest: str  # 64 hex digits over it
    size: int  # bytes, before they are encoded
    name: str  # of the file, for people

    @property
    def encoded_size(self) -> int:
        """Bytes that it takes in the message."""
        return base64_size(self.size)


class OwnFile(Blob, frozen=True, array_like=True):
    """A file of one recipient's own, stored apart whatever its size; an empty one isn't stored."""

    media_type: str  # with which it is sent
    path: str  # as the recipient's row names it


Piece: TypeAlias = bytes | Blob
Content: TypeAlias = bytes | tuple[Piece, ...]
"""A composed message, or a part of one; bytes, if it holds no blob."""


def joined(*contents: Content) -> Content:
    """One after the other; bytes that come to stand together are one piece."""
    if tuple not in map(type, contents):  # as in nearly all messages
        return b"".join(cast(tuple[bytes, ...], contents))
    pieces: list[Piece] = []
    together: list[bytes] = []
    for piece in chain.from_iterable(map(pieces_of, contents)):
        if isinstance(piece, bytes):
            together.append(piece)
        else:
            pieces += [*filter(None, [b"".join(together)]), piece]
            together = []
    last = b"".join(together)
    return (*pieces, *filter(None, [last])) if pieces else last


def pieces_of(content: Content) -> tuple[Piece, ...]:
    """Its pieces, also if it is one."""
    return (content,) if isinstance(content, bytes) else content


def blobs_in(content: Content) -> list[Blob]:
    """What is to be put in, in order."""
    return [] if isinstance(content, bytes) else [piece for piece in content if isinstance(piece, Blob)]


def size_of(content: Content) -> int:
    """Bytes of the whole, as it is sent."""
    if isinstance(content, bytes):
        return len(content)
    return sum(len(piece) if isinstance(piece, bytes) else piece.encoded_size for piece in content)


def filled(content: Content, encoded: Mapping[str, tuple[bytes, ...]]) -> bytes | tuple[bytes, ...]:
    """The content with everything in its place, nothing of it copied.

    Args:
        encoded: what the blobs stand for, by digest, in base64.
    """
    if isinstance(content, bytes):
        return content
    whole: list[bytes] = []
    for piece in content:
        whole += (piece,) if isinstance(piece, bytes) else encoded[piece.digest]
    return tuple(whole)


def base64_size(size: int) -> int:
    """Bytes that `base64_lines` makes of so many."""
    encoded = (size + 2) // 3 * 4
    return encoded + 2 * max(1, -(-encoded // _WIDTH))


def base64_lines(octets: bytes) -> bytes:
    """As base64 in lines that end in CRLF, the last one too; at least one line (RFC 2045 6.8)."""
    if len(octets) > BLOCK:
        return b"".join(base64_blocks([octets]))
    encoded = b2a_base64(octets, newline=False)
    lines = [encoded[at : at + _WIDTH] for at in range(0, len(encoded), _WIDTH)]
    return b"\r\n".join([*lines, b""]) or b"\r\n"


def base64_blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same, bit by bit: lines by lines cost several times their size for a moment."""
    rest = b""
    for chunk in chunks:
        for start in range(0, len(chunk), BLOCK):
            block = rest + chunk[start : start + BLOCK]
            whole = len(block) - len(block) % _ROOM_A_LINE
            rest = block[whole:]
            if whole:
                yield base64_lines(block[:whole])
    if rest:
        yield base64_lines(rest)
