"""8-bit MIME becomes 7-bit, for a relay that doesn't offer 8BITMIME (RFC 6152 3).

What this package composes itself is 7-bit; what it was given ready-made may not be. The rules:

1. A part that is 7-bit stays as it is, octet for octet. One that isn't is encoded as quoted-printable or
   base64, and its Content-Transfer-Encoding says so; nothing else in its headers is changed.
2. Multiparts and attached messages are never encoded (RFC 2045 6.4, RFC 2046 5.2.1): what is in them is.
3. What a signature covers isn't changed: a multipart/signed with 8-bit text, and a message with a
   DKIM-Signature, are refused. A DKIM-Signature of a message that is attached is broken by it, though: nobody
   checks that one.
4. A reader decodes to the same content before and after.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from email.message import Message as EmailObject
from email.parser import BytesHeaderParser
from typing import Final

from mailtasks.compose.mime import quoted_printable
from mailtasks.pieces import base64_lines

_DEEPEST: Final = 50  # entities within each other; readers give up earlier
_ENCODING: Final = re.compile(rb"(?im)^Content-Transfer-Encoding[ \t]*:.*\r\n(?:[ \t].*\r\n)*")
_IDENTITIES: Final = ("", "7bit", "8bit", "binary")  # what leaves a body as it is (RFC 2045 6.2)
_READABLE: Final = 2  # quoted-printable that more than doubles a text can't be read
_HEAD: Final = re.compile(rb"(?:[!-9;-~]+:.*\r\n(?:[ \t].*\r\n)*)*\r\n")
_SIGNED: Final = ("multipart/signed", "multipart/encrypted")

_parser: Final = BytesHeaderParser()


def to_seven_bit(content: bytes) -> bytes:
    """The message with all that is 8-bit in it encoded; itself, if nothing is.

    Args:
        content: RFC 5322 and MIME, in lines that end in CRLF.

    Raises:
        ValueError: it can't be converted; the sentence says why.
    """
    if content.isascii():
        return content
    entity = _Entity.read(content)
    if entity.headers.get("DKIM-Signature") is not None:
        raise ValueError(
            "it has a DKIM-Signature, which a conversion to 7-bit would break: encode its parts before "
            "signing, or use a relay that offers 8BITMIME"
        )
    return _message(entity, (), 0)


class _Entity:
    """Head and body of a message or of a part; the head with the empty line that ends it."""

    __slots__ = ("body", "head", "headers")

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head = head
        self.body = body
        self.headers: EmailObject[str, str] = _parser.parsebytes(head)

    @classmethod
    def read(cls, content: bytes) -> _Entity:
        if content.startswith(b"\r\n"):
            return cls(b"\r\n", content[2:])
        head, ended, body = content.partition(b"\r\n\r\n")
        return cls(head + ended, body)

    def with_encoding(self, name: bytes, body: bytes, *, is_message: bool = False) -> bytes:
        """The entity with another body and the encoding that it now has."""
        head = _ENCODING.sub(b"", self.head)
        version = b"" if not is_message or "MIME-Version" in self.headers else b"MIME-Version: 1.0\r\n"
        end = len(head) - len(b"\r\n")
        return b"%b%bContent-Transfer-Encoding: %b\r\n%b%b" % (head[:end], version, name, head[end:], body)

    @property
    def encoding(self) -> str:
        return str(self.headers.get("Content-Transfer-Encoding", "")).strip().lower()


def _message(entity: _Entity, boundaries: tuple[bytes, ...], depth: int) -> bytes:
    return _converted(entity, "text/plain", boundaries, depth, is_message=True)


def _converted(
    entity: _Entity, default: str, boundaries: tuple[bytes, ...], depth: int, *, is_message: bool = False
) -> bytes:
    """One entity.

    Args:
        default: its type, if it names none.
        boundaries: those of the multiparts around it, which no line of it may begin with.
    """
    if depth > _DEEPEST:
        raise ValueError(f"its parts are nested more than {_DEEPEST} deep: use a relay that offers 8BITMIME")
    if not entity.head.isascii():
        raise ValueError(
            "a header of it isn't ASCII, which 7-bit can't say: encode it as RFC 2047 and RFC 2231 say"
        )
    if entity.body.isascii():
        return entity.head + entity.body
    if not _HEAD.fullmatch(entity.head):
        raise ValueError("the headers of a part of it can't be told from its text: mend it")
    entity.headers.set_default_type(default)
    kind = entity.headers.get_content_type()
    if entity.encoding not in _IDENTITIES:
        raise ValueError(
            f"a part of it is 8-bit, though it says that it is encoded as {entity.encoding}: mend it"
        )
    convert = next((it for prefix, it in _WAYS if kind.startswith(prefix)), _leaf)
    return convert(entity, boundaries, depth, is_message)


def _signed(entity: _Entity, boundaries: tuple[bytes, ...], depth: int, is_message: bool) -> bytes:
    raise ValueError(
        f"it holds a {entity.headers.get_content_type()} with 8-bit text, whose signature a conversion to "
        "7-bit would break: encode the text before signing (RFC 3156 3), or use a relay that offers 8BITMIME"
    )


def _multipart(entity: _Entity, boundaries: tuple[bytes, ...], depth: int, is_message: bool) -> bytes:
    boundary = (entity.headers.get_boundary() or "").encode("ascii", "replace")
    digest = entity.headers.get_content_type() == "multipart/digest"
    default = "message/rfc822" if digest else "text/plain"  # RFC 2046 5.1.5
    preamble, delimited, epilogue = _parts(boundary, entity.body)
    if not (preamble + epilogue).isascii():
        raise ValueError("the text before or after the parts of a multipart in it is 8-bit: leave that out")
    converted = [
        delimiter + _converted(_Entity.read(part), default, (*boundaries, boundary), depth + 1)
        for delimiter, part in delimited
    ]
    return entity.with_encoding(b"7bit", b"".join([preamble, *converted, epilogue]), is_message=is_message)


def _parts(boundary: bytes, body: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    """What stands before, the parts with the delimiters before them, and the last one with what follows it.

    RFC 2046 5.1.1: the line end before a delimiter is the delimiter's.
    """
    lines = re.finditer(rb"(?:\A|\r\n)--%b(--)?[ \t]*(?=\r\n|\Z)" % re.escape(boundary), body)
    found = list(lines) if boundary else []
    last = next((number for number, delimiter in enumerate(found) if delimiter[1]), None)
    if last is None:
        raise ValueError("a multipart in it has no boundary, or isn't ended by it: mend it")
    starts = [delimiter.start() for delimiter in found]
    delimited: list[tuple[bytes, bytes]] = []
    for delimiter, end in zip(found[:last], starts[1:], strict=False):
        start = min(delimiter.end() + len(b"\r\n"), end)
        delimited.append((body[delimiter.start() : start], body[start:end]))
    return body[: starts[0]], delimited, body[starts[last] :]


def _attached_message(entity: _Entity, boundaries: tuple[bytes, ...], depth: int, is_message: bool) -> bytes:
    inner = _message(_Entity.read(entity.body), boundaries, depth + 1)
    return entity.with_encoding(b"7bit", inner, is_message=is_message)


def _other_message(entity: _Entity, boundaries: tuple[bytes, ...], depth: int, is_message: bool) -> bytes:
    raise ValueError(
        f"it holds a {entity.headers.get_content_type()} with 8-bit text, which RFC 2045 6.4 forbids to "
        "encode: use a relay that offers 8BITMIME"
    )


def _leaf(entity: _Entity, boundaries: tuple[bytes, ...], depth: int, is_message: bool) -> bytes:
    if entity.headers.get_content_maintype() == "text":
        encoded = quoted_printable(entity.body)
        torn = any(b"--" + boundary in encoded for boundary in boundaries)
        if not torn and len(encoded) <= len(entity.body) * _READABLE:
            return entity.with_encoding(b"quoted-printable", encoded, is_message=is_message)
    return entity.with_encoding(b"base64", base64_lines(entity.body), is_message=is_message)


_WAYS: Final[tuple[tuple[str, Callable[[_Entity, tuple[bytes, ...], int, bool], bytes]], ...]] = (
    *((kind, _signed) for kind in _SIGNED),
    ("multipart/", _multipart),
    ("message/rfc822", _attached_message),
    ("message/global", _leaf),  # RFC 6532 3.7: may be encoded
    ("message/", _other_message),
)
"""What is done with an 8-bit entity whose type begins so; the first that fits. All others are leaves."""
