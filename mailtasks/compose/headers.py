"""Header lines: folding, encoded words, address lists, parameters.

The rules:

1. Every function returns whole lines that end in CRLF. None holds another CR or LF, none is longer
   than 998 octets, and none longer than `WIDTH` unless a single word is.
2. A value that is text is encoded where a reader would take it for an encoded word, so that it arrives as
   it was given. A value of another kind (`mailtasks/fields.py`) is never encoded.
3. The output is ASCII, except for an address whose local part isn't (RFC 6532).

RFC 5322 2.1.1 and 2.2.3 (lines, folding), RFC 2047 (encoded words), RFC 2231 (parameters).
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import AnyStr, Final
from urllib.parse import quote

from mailtasks.address import Address, escaped, quoted
from mailtasks.fields import LONGEST_WORD, Kind, kind_of, list_id, mailboxes

WIDTH: Final = 76
"""RFC 2047 2 bounds a line that holds an encoded word at 76; RFC 5322 asks for 78 elsewhere."""

_WORD_LIMIT: Final = 75  # RFC 2047 2
_WORD_FRAME: Final = len("=?utf-8?q??=")
_Q_BONUS: Final = 5  # octets that Q may be longer, since people can read it; Python's email has the same
_LEAST_ROOM: Final = _WORD_FRAME + len("=F0=9F=8E=89")  # one character of four octets
_QUOTED_LIMIT: Final = 60  # a longer quoted string could not be folded within WIDTH

_ONE_LINE: Final = re.compile(r"[!-~]+(?: [!-~]+)*")
_PIECE: Final = re.compile(r"( +)([^ ]+)")
_PRINTABLE: Final = re.compile(r"[ -~]*")

# RFC 2047 5 (3): what may stand for itself wherever an encoded word may stand.
_Q_SAFE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/ ")
_Q: Final = [chr(octet).replace(" ", "_") if octet in _Q_SAFE else f"={octet:02X}" for octet in range(256)]
_ATTRIBUTE_SAFE: Final = "!#$&+-.^_`{|}~"  # RFC 2231 7 attribute-char, besides letters and digits


def given_header(name: str, values: str | tuple[str, ...]) -> str:
    """A header that a user has added, of the kind that its name has; once for each of its values."""
    write = _WRITERS[kind_of(name)]
    return "".join([write(name, value) for value in ((values,) if isinstance(values, str) else values)])


def text_header(name: str, value: str) -> str:
    """A header whose value is text."""
    if len(name) + 2 + len(value) <= WIDTH and _ONE_LINE.fullmatch(value) and "=?" not in value:
        return f"{name}: {value}\r\n"
    return fold(name, _text_pieces(value, _room(name)) or [" "])


def address_header(name: str, addresses: Iterable[Address]) -> str:
    """A header that lists one or more mailboxes (RFC 5322 3.4)."""
    pieces: list[str] = []
    for address in addresses:
        pieces += _mailbox(address, _room(name))
        pieces[-1] += ","
    pieces[-1] = pieces[-1].removesuffix(",")
    return fold(name, pieces)


def words_header(name: str, value: str) -> str:
    """A header that is folded at spaces and never encoded: its value is ASCII, and has a syntax."""
    return fold(name, map("".join, _PIECE.findall(" " + value)))


def _addresses_header(name: str, value: str) -> str:
    return address_header(name, mailboxes(value))


def _list_id_header(name: str, value: str) -> str:
    described, id = list_id(value)
    words = _phrase(described, _room(name)) if described else []
    return fold(name, [f" {word}" for word in [*words, f"<{id}>"]])


_WRITERS: Final[dict[Kind, Callable[[str, str], str]]] = {
    Kind.TEXT: text_header,
    Kind.WORDS: words_header,
    Kind.IDS: words_header,
    Kind.ADDRESSES: _addresses_header,
    Kind.MAILBOX: _addresses_header,
    Kind.URLS: words_header,
    Kind.LIST_ID: _list_id_header,
}


def parameter_header(name: str, value: str, parameter: str, text: str) -> str:
    """A header with one parameter that may be any text: `attachment; filename="a.pdf"`."""
    parts = [value, *_parameter(parameter, text)]
    return fold(name, [f" {part};" for part in parts[:-1]] + [f" {parts[-1]}"])


def fold(name: str, pieces: Iterable[str]) -> str:
    """The header in lines of at most `WIDTH`, broken before pieces, each of which begins with a space."""
    lines: list[str] = []
    line = start = f"{name}:"
    for piece in pieces:
        # Never right behind the name: some readers take the space that follows for text.
        if line is start or len(line) + len(piece) <= WIDTH:
            line += piece
        else:
            lines.append(line)
            line = piece
    return "\r\n".join([*lines, line, ""])


def encoded_words(text: str, room: int = _WORD_LIMIT) -> list[str]:
    """The text as RFC 2047 encoded words, in Q or, where clearly shorter, in B; the first within `room`."""
    octets = text.encode()
    whole = "".join([_Q[octet] for octet in octets])
    if len(whole) > (len(octets) + 2) // 3 * 4 + _Q_BONUS:
        return [f"=?utf-8?b?{_base64(chunk)}?=" for chunk in _b_chunks(text, room)]
    if len(whole) <= room - _WORD_FRAME:
        return [f"=?utf-8?q?{whole}?="]
    return [f"=?utf-8?q?{chunk}?=" for chunk in _q_chunks(text, room)]


def _room(name: str) -> int:
    """What an encoded word may take of the header's first line."""
    return max(WIDTH - len(name) - len(": "), _LEAST_ROOM)


def _text_pieces(value: str, room: int) -> list[str]:
    """Words as they are where they can be, runs of others as encoded words (RFC 2047 5 (1))."""
    words = _PIECE.findall(" " + value)
    if value.strip(" ") != value or any(len(space) + len(word) > LONGEST_WORD for space, word in words):
        return [f" {word}" for word in encoded_words(value, room)]
    pieces: list[str] = []
    for foreign, group in groupby(words, key=_is_foreign):
        run = list(group)
        pieces += _foreign_pieces(run, room) if foreign else map("".join, run)
    return pieces


def _is_foreign(piece: tuple[str, str]) -> bool:
    return not _ONE_LINE.fullmatch(piece[1]) or "=?" in piece[1]


def _foreign_pieces(run: list[tuple[str, str]], room: int) -> list[str]:
    # The space between two encoded words is no text (RFC 2047 6.2): what separates the run's words
    # is encoded with them, what stands before it isn't.
    first, *others = encoded_words("".join(map("".join, run)).lstrip(" "), room)
    return [run[0][0] + first, *(f" {word}" for word in others)]


def _mailbox(address: Address, room: int) -> list[str]:
    if not address.display_name:
        return [f" {address.address}"]
    return [*(f" {word}" for word in _phrase(address.display_name, room)), f" <{address.address}>"]


def _phrase(name: str, room: int) -> list[str]:
    written = quoted(name)
    if len(written) <= _QUOTED_LIMIT and _PRINTABLE.fullmatch(written) and "=?" not in name:
        return [written]
    return encoded_words(name, room)


def _parameter(name: str, text: str) -> list[str]:
    """`name="text"`, or RFC 2231's `name*=` or `name*0*=`, `name*1*=`, each short enough for a line."""
    if len(text) <= _QUOTED_LIMIT and _PRINTABLE.fullmatch(text) and "=?" not in text:
        return [f'{name}="{escaped(text)}"']
    octets = [quote(character, safe=_ATTRIBUTE_SAFE) for character in text]
    chunks = list(_packed(octets, _QUOTED_LIMIT - len("utf-8''"), _QUOTED_LIMIT))
    chunks[0] = f"utf-8''{chunks[0]}"
    if len(chunks) == 1:
        return [f"{name}*={chunks[0]}"]
    return [f"{name}*{number}*={chunk}" for number, chunk in enumerate(chunks)]


def _q_chunks(text: str, room: int) -> Iterator[str]:
    units = ["".join([_Q[octet] for octet in character.encode()]) for character in text]
    return _packed(units, room - _WORD_FRAME, _WORD_LIMIT - _WORD_FRAME)


def _b_chunks(text: str, room: int) -> Iterator[bytes]:
    units = [character.encode() for character in text]
    return _packed(units, (room - _WORD_FRAME) // 4 * 3, (_WORD_LIMIT - _WORD_FRAME) // 4 * 3)


def _base64(octets: bytes) -> str:
    return b2a_base64(octets, newline=False).decode("ascii")


def _packed(units: Iterable[AnyStr], first: int, others: int) -> Iterator[AnyStr]:
    """Units joined to chunks of at most `first`, then `others`: no character is torn (RFC 2047 5)."""
    chunk: list[AnyStr] = []
    free = first
    for unit in units:
        if chunk and len(unit) > free:
            yield chunk[0][:0].join(chunk)
            chunk, free = [], others
        chunk.append(unit)
        free -= len(unit)
    yield chunk[0][:0].join(chunk)
