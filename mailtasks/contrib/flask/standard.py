"""A whole mail, built with the standard library: for what our composer decides itself, such as a charset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from email.charset import QP, Charset
from email.header import Header
from email.message import Message as EmailObject
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import formataddr
from typing import Any, Final

from mailtasks.address import excerpt, parse
from mailtasks.errors import MessageError
from mailtasks.message import check_line
from mailtasks.ready import LONGEST_LINE

UTF_8: Final = (None, "utf-8", "utf8")


def laid_out(
    *,
    forms: Sequence[tuple[str, str]],
    parts: Sequence[EmailObject[Any, Any]],
    subject: str,
    people: Mapping[str, Iterable[str]],
    headers: Mapping[str, str],
    charset: str,
) -> EmailObject[Any, Any]:
    """A mail of these.

    Args:
        forms: its texts, each with its subtype, the plainest first.
        parts: what is attached.
        people: the addresses of each header that has some.
        headers: further ones.

    Raises:
        MessageError: the charset is unknown or lacks a character, or a header holds a line break.
    """
    try:
        root = _body(forms, charset)
        if parts:
            root = _multipart("mixed", [root, *parts])
        root["Subject"] = subject if subject.isascii() else Header(subject, charset, header_name="Subject")
        for name, addresses in people.items():
            if shown := ", ".join(_in_charset(one, charset) for one in addresses):
                root[name] = shown
    except (LookupError, UnicodeError) as error:
        raise MessageError(
            f"the message can't be written in the charset {excerpt(charset)}: {error}; leave it out, "
            "which means UTF-8"
        ) from None
    for name, value in headers.items():
        root[name] = check_line(f"extra_headers: {name}", value)
    return root


def _body(forms: Sequence[tuple[str, str]], charset: str) -> EmailObject[Any, Any]:
    texts = [_mime_text(content, subtype, charset) for subtype, content in forms or [("plain", "")]]
    return texts[0] if len(texts) == 1 else _multipart("alternative", texts)


def _multipart(subtype: str, parts: Iterable[EmailObject[Any, Any]]) -> MIMEMultipart:
    multipart = MIMEMultipart(subtype)
    for part in parts:
        multipart.attach(part)
    return multipart


def _mime_text(text: str, subtype: str, charset: str) -> MIMEText:
    known = Charset(charset)
    has_long_lines = any(len(line.encode(charset)) > LONGEST_LINE for line in text.splitlines())
    if has_long_lines or charset.lower() in UTF_8:
        known.body_encoding = QP  # makes long lines short, and leaves what is ASCII readable
    return MIMEText(text, subtype, known)  # type: ignore[arg-type]  # a Charset is taken as well


def _in_charset(text: str, charset: str) -> str:
    address = parse(text)
    return formataddr((address.display_name, address.address), charset)
