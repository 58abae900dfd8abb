"""A `Message` becomes the bytes that a relay takes.

Python's `EmailMessage` would do, at twenty to forty times the price (`benchmarks/compose.py`), most
of it for parsing headers that are known to be right. The rules here:

1. Canonical lines: every line ends in CRLF, no CR or LF stands alone, none is longer than 998 octets.
2. 7-bit, so that any relay takes it, unless an address in a header needs SMTPUTF8.
3. Who is in `bcc` stands nowhere.
4. The same message, id and date give the same bytes, boundaries included.
5. A large attachment isn't encoded here: a `Blob` stands for it.

RFC 5322 (message), RFC 2045 to 2047 (MIME), RFC 2183 (disposition), RFC 2387 (related), RFC 6532 (UTF-8).
"""

from __future__ import annotations

import re
from binascii import b2a_qp
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import count
from typing import Final, TypeAlias

from mailtasks.address import parse
from mailtasks.compose.headers import address_header, parameter_header, text_header
from mailtasks.errors import MessageTooLarge
from mailtasks.message import Attachment, Message
from mailtasks.pieces import Blob, Content, base64_lines, joined, pieces_of, size_of

_READABLE_GROWTH: Final = 2  # quoted-printable that more than doubles a text (CJK, Cyrillic) can't be read
# RFC 5322 2.1.1 asks for 78; "From " at a line's start is changed by mbox stores.
_SEVEN_BIT: Final = re.compile(rb"(?:(?!From )[\t -~]{0,78}\r\n)+")
_IDENTITY: Final = re.compile(rb"(?:[\t -~]{0,998}\r\n)+")


@dataclass(frozen=True, slots=True)
class Composed:
    """A message as it goes over the wire.

    Attributes:
        content: RFC 5322, canonical CRLF lines, 7-bit unless a header needed UTF-8; in pieces, if a large
            attachment is to be put in.
        smtputf8: the relay must offer SMTPUTF8, for a header or for an envelope address.
    """

    content: Content
    smtputf8: bool


@dataclass(frozen=True, slots=True)
class _Part:
    """A MIME entity: its Content- headers, and its body in lines that end in CRLF."""

    headers: str
    body: Content


def compose(
    message: Message,
    *,
    sender: str,
    message_id: str,
    date: datetime,
    size_limit: int,
    blob_threshold: int | None = None,
) -> Composed:
    """Lay the message out.

    Args:
        sender: the From address, with or without a name; `message.sender` is not looked at.
        message_id: with or without angle brackets.
        date: aware.
        size_limit: octets that the content may have.
        blob_threshold: octets from which an attachment is a blob; None: none is.

    Raises:
        MessageTooLarge: with both sizes.
    """
    root = _root(message, _token(message_id), partial(_attachment, blob_threshold=blob_threshold))
    head = "".join(
        [
            _date_header(date.astimezone(UTC).replace(microsecond=0)),
            _from_header(sender),
            *_address_headers(message),
            text_header("Subject", message.subject),
            f"Message-ID: <{message_id.strip('<>')}>\r\n",
            *(text_header(name, value) for name, value in message.headers.items()),
            "MIME-Version: 1.0\r\n",
            root.headers,
            "\r\n",
        ]
    )
    content = joined(head.encode(), root.body)
    _check_size(message, size_of(content), size_limit)
    return Composed(content, smtputf8=not (head.isascii() and _envelope_is_ascii(message)))


@lru_cache(maxsize=16)  # a campaign composes many messages within one second
def _date_header(date: datetime) -> str:
    return f"Date: {format_datetime(date)}\r\n"


@lru_cache(maxsize=256)  # senders are few
def _from_header(sender: str) -> str:
    return address_header("From", [parse(sender)])


def _address_headers(message: Message) -> Iterator[str]:
    for name, texts in (("Reply-To", message.reply_to), ("To", message.to), ("Cc", message.cc)):
        if texts:
            yield address_header(name, map(parse, texts))


def _envelope_is_ascii(message: Message) -> bool:
    """Whether bcc and the envelope's sender, which stand in no header, can do without SMTPUTF8."""
    hidden = [*message.bcc, *filter(None, [message.envelope_sender])]
    return all(parse(text).ascii_ok for text in hidden)


def _token(message_id: str) -> str:
    return blake2b(message_id.encode(), digest_size=12).hexdigest()


def _check_size(message: Message, size: int, limit: int) -> None:
    if size > limit:
        remedy = "make its attachments smaller, link to them" if message.attachments else "make it shorter"
        raise MessageTooLarge(
            f"the composed message has {size:,} bytes, the size limit is {limit:,}: "
            f"{remedy}, or raise `size_limit`"
        )


_Attach: TypeAlias = Callable[[Attachment], _Part]


def _root(message: Message, token: str, attach: _Attach) -> _Part:
    """mixed(alternative(text, related(html, inline images)), attachments), each only where needed."""
    inline = [file for file in message.attachments if file.cid and message.html is not None]
    attached = [file for file in message.attachments if file not in inline]
    root = _bodies(message, inline, token, attach)
    return _multipart("mixed", [root, *map(attach, attached)], token) if attached else root


def _bodies(message: Message, inline: Sequence[Attachment], token: str, attach: _Attach) -> _Part:
    if message.html is None:
        return _text("plain", message.text or "")
    html = _text("html", message.html)
    if inline:
        html = _multipart("related", [html, *map(attach, inline)], token)
    if message.text is None:
        return html
    return _multipart("alternative", [_text("plain", message.text), html], token)


def _multipart(kind: str, parts: Sequence[_Part], token: str) -> _Part:
    boundary = _boundary(kind, parts, token)
    # RFC 2387 3.1 wants the root's type named.
    root_type = ' type="text/html";' if kind == "related" else ""
    delimited: list[Content] = []
    for part in parts:
        delimited += [f"--{boundary}\r\n{part.headers}\r\n".encode(), part.body, b"\r\n"]
    return _Part(
        f'Content-Type: multipart/{kind};{root_type}\r\n boundary="{boundary}"\r\n',
        joined(*delimited, f"--{boundary}--\r\n".encode()),
    )


def _boundary(kind: str, parts: Sequence[_Part], token: str) -> str:
    """One that stands in none of the parts (RFC 2046 5.1.1), nor begins another of this message.

    In base64, and so in a blob, there is no underscore.
    """
    pieces = [piece for part in parts for piece in pieces_of(part.body) if isinstance(piece, bytes)]
    candidates = (f"=_{kind}_{token}_{number}" for number in count())
    return next(name for name in candidates if not any(name.encode() in piece for piece in pieces))


def _text(subtype: str, text: str) -> _Part:
    encoding, body = _encode_text(_canonical(text.encode()))
    return _Part(
        f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n', body
    )


def _encode_text(body: bytes) -> tuple[str, bytes]:
    if _SEVEN_BIT.fullmatch(body):
        return "7bit", body
    quoted = _quoted_printable(body)
    if len(quoted) > len(body) * _READABLE_GROWTH:
        return "base64", base64_lines(body)
    return "quoted-printable", quoted


def _canonical(octets: bytes) -> bytes:
    """Lines that end in CRLF, the last one too, whatever they ended in (RFC 2046 4.1.1)."""
    return b"\r\n".join([*octets.splitlines(), b""]) or b"\r\n"


def _quoted_printable(body: bytes) -> bytes:
    """RFC 2045 6.7, and no line that a mail store or a relay would take for its own.

    `b2a_qp` guards spaces at a line's end and lone dots; "From " is left to us. What follows it goes
    to a line of its own, so that none gets longer than 76.
    """
    encoded = b"\r\n" + b2a_qp(body)
    while b"\r\nFrom " in encoded:
        encoded = encoded.replace(b"\r\nFrom ", b"\r\n=46rom =\r\n")
    return encoded[2:]


def _attachment(file: Attachment, blob_threshold: int | None) -> _Part:
    media_type, encoding, body = _encode_file(file, blob_threshold)
    return _Part(
        "".join(
            [
                text_header("Content-Type", media_type),
                f"Content-Transfer-Encoding: {encoding}\r\n",
                f"Content-ID: <{file.cid}>\r\n" if file.cid else "",
                parameter_header(
                    "Content-Disposition", "inline" if file.cid else "attachment", "filename", file.filename
                ),
            ]
        ),
        body,
    )


def _encode_file(file: Attachment, blob_threshold: int | None) -> tuple[str, str, Content]:
    """Content type, transfer encoding and body.

    A message or multipart must not be encoded (RFC 2045 6.4). One that is 7-bit travels as it is, any
    other as a file without a type, so that its bytes, and signatures over them, stay what they are.
    """
    if not file.media_type.lower().startswith(("message/", "multipart/")):
        return file.media_type, "base64", _base64(file, blob_threshold)
    canonical = _canonical(file.content)
    if file.media_type.lower().startswith("message/rfc822") and _IDENTITY.fullmatch(canonical):
        return file.media_type, "7bit", canonical
    return "application/octet-stream", "base64", _base64(file, blob_threshold)


def _base64(file: Attachment, blob_threshold: int | None) -> Content:
    if blob_threshold is None or len(file.content) < max(1, blob_threshold):
        return base64_lines(file.content)
    return (Blob(blob_digest(file), len(file.content), file.filename),)


def blob_digest(file: Attachment) -> str:
    """By what a blob is known: 256 bits of the content's digest."""
    return file.digest[:64]
