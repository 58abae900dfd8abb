"""A `Message` becomes the bytes that a relay takes.

Python's `EmailMessage` would do, at twenty to forty times the price (`benchmarks/compose.py`), most
of it for parsing headers that are known to be right. The rules here:

1. Canonical lines: every line ends in CRLF, no CR or LF stands alone, none is longer than 998 octets.
2. 7-bit, so that any relay takes it, unless an address in a header needs SMTPUTF8, or something that was
   made elsewhere is 8-bit: a whole message, or one that is attached (`reencode.py` is for such).
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
from mailtasks.compose.headers import (
    address_header,
    given_header,
    parameter_header,
    text_header,
    words_header,
)
from mailtasks.errors import MessageTooLarge
from mailtasks.message import Alternative, Attachment, Message
from mailtasks.pieces import Blob, Content, OwnFile, base64_lines, joined, pieces_of, size_of
from mailtasks.ready import Head

_READABLE_GROWTH: Final = 2  # quoted-printable that more than doubles a text (CJK, Cyrillic) can't be read
# RFC 5322 2.1.1 asks for 78; "From " at a line's start is changed by mbox stores. Possessive (`++`), so that
# nothing is remembered of each line.
_SEVEN_BIT: Final = re.compile(rb"(?:(?!From )[\t -~]{0,78}\r\n)++")
_IDENTITY: Final = re.compile(rb"(?:[^\r\n\0]{0,998}\r\n)++")  # RFC 2045 2.7 and 2.8
_LATE_SPACE: Final = re.compile(rb"=(?:20|09)(?<=[^\r\n]{76})\r\n")

_BEFORE_HTML: Final = ("text/x-amp-html", "text/watch-html", "text/enriched", "text/markdown")
"""Alternatives for the few readers that know them: others would show the last part, which should be HTML."""


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
class Part:
    """A MIME entity: its Content- headers, and its body in lines that end in CRLF."""

    headers: str
    body: Content
    eight_bit: bool = False  # it holds a message or part that somebody else has made so


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
        sender: the From address, with or without a name; `message.sender` is not looked at, and neither is
            this nor what follows where a ready-made message has its own.
        message_id: with or without angle brackets.
        date: aware.
        size_limit: octets that the content may have.
        blob_threshold: octets from which an attachment is a blob; None: none is.

    Raises:
        MessageTooLarge: with both sizes.
    """
    if message.raw is not None:
        return _completed(message, message.raw, sender, message_id, date, size_limit)
    _check_given(message, size_limit)
    root = _root(message, _token(message_id), partial(attachment_part, blob_threshold=blob_threshold))
    head = "".join(
        [
            date_header(date.astimezone(UTC).replace(microsecond=0)),
            from_header(sender),
            *_address_headers(message),
            text_header("Subject", message.subject),
            f"Message-ID: <{message_id.strip('<>')}>\r\n",
            *(given_header(name, values) for name, values in message.headers.items()),
            "MIME-Version: 1.0\r\n",
            root.headers,
            "\r\n",
        ]
    )
    content = joined(head.encode(), root.body)
    _check_size(message, size_of(content), size_limit)
    return Composed(content, smtputf8=not (head.isascii() and _envelope_is_ascii(message)))


def _completed(
    message: Message, raw: bytes, sender: str, message_id: str, date: datetime, size_limit: int
) -> Composed:
    """A message that was given ready-made, with what is missing in front of it: nothing of it is changed."""
    _check_size(message, len(raw), size_limit)
    head = Head.of(raw)
    missing = {
        "Date": date_header(date.astimezone(UTC).replace(microsecond=0)),
        "From": from_header(sender),
        "Message-ID": f"Message-ID: <{message_id.strip('<>')}>\r\n",
    }
    added = "".join([line for name, line in missing.items() if head.value(name) is None])
    content = added.encode() + raw
    _check_size(message, len(content), size_limit)
    ascii = head.ascii and added.isascii() and _envelope_is_ascii(message)
    return Composed(content, smtputf8=not ascii)


@lru_cache(maxsize=16)  # a campaign composes many messages within one second
def date_header(date: datetime) -> str:
    """The Date of a moment that is aware, in UTC and without a fraction."""
    return f"Date: {format_datetime(date)}\r\n"


@lru_cache(maxsize=256)  # senders are few
def from_header(sender: str) -> str:
    """The From of an address, with or without a name."""
    return address_header("From", [parse(sender)])


def _address_headers(message: Message) -> Iterator[str]:
    for name, texts in (("Reply-To", message.reply_to), ("To", message.to), ("Cc", message.cc)):
        if texts:
            yield address_header(name, map(parse, texts))


def _envelope_is_ascii(message: Message) -> bool:
    """Whether addresses that stand in no header of ours can do without SMTPUTF8."""
    hidden = [*message.bcc, *filter(None, [message.envelope_sender])]
    if message.raw is not None:
        hidden += message.to + message.cc
    return all(parse(text).ascii_ok for text in hidden)


def _token(message_id: str) -> str:
    return blake2b(message_id.encode(), digest_size=12).hexdigest()


def _check_given(message: Message, limit: int) -> None:
    """Before anything is encoded: what is too large already would only be larger."""
    given = given_size(message)
    if given > limit:
        raise _too_large(message, f"the message has {given:,} bytes, and more once it is composed", limit)


def given_size(message: Message) -> int:
    """About how many bytes the message has before it is composed: at most as many as then."""
    if message.raw is not None:
        return len(message.raw)
    size = len(message.text or "") + len(message.html or "")
    for other in message.alternatives:
        size += len(other.content)
    for file in message.attachments:
        size += len(file.content)
    return size


def _check_size(message: Message, size: int, limit: int) -> None:
    if size > limit:
        given = given_size(message)
        before = f", {given:,} of them before it was composed" if given != size else ""
        told = f"the composed message has {size:,} bytes{before}"
        raise _too_large(message, told, limit)


def _too_large(message: Message, told: str, limit: int) -> MessageTooLarge:
    remedy = "make its attachments smaller, link to them" if message.attachments else "make it shorter"
    return MessageTooLarge(f"{told}; the size limit is {limit:,}: {remedy}, or raise `size_limit`")


_Attach: TypeAlias = Callable[[Attachment], Part]


def _root(message: Message, token: str, attach: _Attach) -> Part:
    """mixed(alternative(text, related(html, inline images)), attachments), each only where needed."""
    inline = [file for file in message.attachments if file.cid and message.html is not None]
    attached = [file for file in message.attachments if file not in inline]
    root = _bodies(message, inline, token, attach)
    return multipart("mixed", [root, *map(attach, attached)], token) if attached else root


def _bodies(message: Message, inline: Sequence[Attachment], token: str, attach: _Attach) -> Part:
    """RFC 2046 5.1.4: the plainest first, and last the one that a reader should prefer."""
    if message.html is None and not message.alternatives:
        return _text("plain", message.text or "")
    before = [_alternative(it) for it in message.alternatives if _stands_before_html(it)]
    after = [_alternative(it) for it in message.alternatives if not _stands_before_html(it)]
    text = [] if message.text is None else [_text("plain", message.text)]
    html = [] if message.html is None else [_html(message.html, inline, token, attach)]
    forms = [*text, *before, *html, *after]
    return forms[0] if len(forms) == 1 else multipart("alternative", forms, token)


def _stands_before_html(other: Alternative) -> bool:
    return other.content_type.lower().startswith(_BEFORE_HTML)


def _html(html: str, inline: Sequence[Attachment], token: str, attach: _Attach) -> Part:
    part = _text("html", html)
    return multipart("related", [part, *map(attach, inline)], token) if inline else part


def _alternative(other: Alternative) -> Part:
    encoding, body = _encode_text(canonical(other.content.encode(other.charset)))
    return Part(
        f"{words_header('Content-Type', other.media_type)}Content-Transfer-Encoding: {encoding}\r\n", body
    )


def multipart(kind: str, parts: Sequence[Part], token: str) -> Part:
    """The parts in one, with a boundary that stands in none of them."""
    boundary = _boundary(kind, parts, token)
    # RFC 2387 3.1 wants the root's type named.
    root_type = ' type="text/html";' if kind == "related" else ""
    eight_bit = True in [part.eight_bit for part in parts]
    encoding = "Content-Transfer-Encoding: 8bit\r\n" if eight_bit else ""  # RFC 2045 6.4
    delimited: list[Content] = []
    for part in parts:
        delimited += [f"--{boundary}\r\n{part.headers}\r\n".encode(), part.body, b"\r\n"]
    return Part(
        f'Content-Type: multipart/{kind};{root_type}\r\n boundary="{boundary}"\r\n{encoding}',
        joined(*delimited, f"--{boundary}--\r\n".encode()),
        eight_bit,
    )


def _boundary(kind: str, parts: Sequence[Part], token: str) -> str:
    """One that stands in none of the parts (RFC 2046 5.1.1), nor begins another of this message.

    In base64, and so in a blob, there is no underscore.
    """
    pieces = [piece for part in parts for piece in pieces_of(part.body) if isinstance(piece, bytes)]
    candidates = (f"=_{kind}_{token}_{number}" for number in count())
    return next(name for name in candidates if not any(name.encode() in piece for piece in pieces))


def _text(subtype: str, text: str) -> Part:
    encoding, body = _encode_text(canonical(text.encode()))
    return Part(
        f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n', body
    )


def _encode_text(body: bytes) -> tuple[str, bytes]:
    if _SEVEN_BIT.fullmatch(body):
        return "7bit", body
    quoted = quoted_printable(body)
    if len(quoted) > len(body) * _READABLE_GROWTH:
        return "base64", base64_lines(body)
    return "quoted-printable", quoted


def canonical(octets: bytes) -> bytes:
    """Lines that end in CRLF, the last one too, whatever they ended in (RFC 2046 4.1.1)."""
    # Not by splitting: a hundred bytes for each line is too much for a text of millions of lines.
    lines = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return (lines if lines.endswith(b"\n") else lines + b"\n").replace(b"\n", b"\r\n")


def quoted_printable(body: bytes) -> bytes:
    """RFC 2045 6.7, and no line that a mail store or a relay would take for its own.

    `b2a_qp` guards spaces at a line's end and lone dots; "From " is left to us. What follows it goes
    to a line of its own, so that none gets longer than 76; and so does a space at the end of a long line,
    of which `b2a_qp` makes one of 77.
    """
    encoded = b"\r\n" + _LATE_SPACE.sub(rb"=\r\n\g<0>", b2a_qp(body))
    while b"\r\nFrom " in encoded:
        encoded = encoded.replace(b"\r\nFrom ", b"\r\n=46rom =\r\n")
    return encoded[2:]


def attachment_part(file: Attachment, blob_threshold: int | None) -> Part:
    """A file as a MIME part; a `Blob` stands for it from the threshold's octets on."""
    if file.is_part:
        return _ready_part(file.content)
    media_type, encoding, body = _encode_file(file, blob_threshold)
    return Part(_file_headers(media_type, encoding, file.filename, file.cid), body, encoding == "8bit")


def own_file_part(file: OwnFile) -> Part:
    """A file that is stored apart already as a MIME part."""
    body: Content = (file,) if file.size else base64_lines(b"")
    return Part(_file_headers(file.media_type, "base64", file.name), body)


def _file_headers(media_type: str, encoding: str, filename: str, cid: str | None = None) -> str:
    return "".join(
        [
            words_header("Content-Type", media_type),
            f"Content-Transfer-Encoding: {encoding}\r\n",
            f"Content-ID: <{cid}>\r\n" if cid else "",
            parameter_header("Content-Disposition", "inline" if cid else "attachment", "filename", filename),
        ]
    )


def _ready_part(content: bytes) -> Part:
    head, _, body = content.partition(b"\r\n\r\n")
    return Part(f"{head.decode('ascii')}\r\n", body, not body.isascii())


def _encode_file(file: Attachment, blob_threshold: int | None) -> tuple[str, str, Content]:
    """Content type, transfer encoding and body.

    A message must not be encoded (RFC 2046 5.2.1), nor may a multipart. One that can travel as it is does,
    any other as a file without a type, so that its bytes, and signatures over them, stay what they are.
    """
    kind = file.media_type.lower()
    if not kind.startswith(("message/", "multipart/")):
        return file.media_type, "base64", _base64(file, blob_threshold)
    lines = canonical(file.content)
    head = lines.partition(b"\r\n\r\n")[0]
    if kind.startswith("message/rfc822") and head.isascii() and _IDENTITY.fullmatch(lines):
        return file.media_type, "7bit" if lines.isascii() else "8bit", lines
    return "application/octet-stream", "base64", _base64(file, blob_threshold)


def _base64(file: Attachment, blob_threshold: int | None) -> Content:
    if blob_threshold is None or len(file.content) < max(1, blob_threshold):
        return base64_lines(file.content)
    return (Blob(blob_digest(file), len(file.content), file.filename),)


def blob_digest(file: Attachment) -> str:
    """By what a blob is known: 256 bits of the content's digest."""
    return file.digest[:64]
