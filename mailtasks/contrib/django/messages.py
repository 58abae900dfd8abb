"""A message of Django's becomes one of ours: what its `message()` gives, and what was said about it.

The rules:

1. It goes as its `message()` has made it, so that subclasses with one of their own work.
2. `recipients()` says who gets it, `from_email` where bounces go; a Bcc header never leaves.
3. What our fields are is told by attributes, by headers `X-Mailtasks-*` and by the mailer's options, of which
   the first that says it wins. These headers never leave either.
4. Message-ID is ours, unless the application gave one; so is Date, where Django's would be wrong (`send_at`)
   or would make each repetition of a keyed message another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message as EmailObject
from typing import Any, Final

from django.core.mail import EmailMessage

from mailtasks.address import excerpt
from mailtasks.errors import MessageError
from mailtasks.kinds import Duration
from mailtasks.message import Message

PREFIX: Final = "x-mailtasks-"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _names_and_values(text: str) -> Mapping[str, str]:
    read = json.loads(text)
    if not isinstance(read, dict):
        raise ValueError
    return read


FIELDS: Final[Mapping[str, tuple[Callable[[str], Any], str]]] = {
    "priority": (str, "urgent, normal or bulk"),
    "send_at": (_moment, "a time such as 2030-01-31T09:00+01:00"),
    "expires_after": (Duration(0).read, "a duration such as 90s, 15m or 2h"),
    "tags": (_words, "words with commas between them"),
    "metadata": (_names_and_values, 'a JSON object such as {"order": "7"}'),
    "idempotency_key": (str, "a text"),
    "envelope_sender": (str, "an address"),
}
"""Each attribute of a message that is one of our fields, how its header is read, and what it should hold."""


def as_mail(message: Any, defaults: Mapping[str, Any]) -> Message:
    """One of ours, which sends it.

    Args:
        defaults: fields that hold where the message says nothing.

    Raises:
        ValueError: what Django refuses, such as a line end in a header (its BadHeaderError in 5.2), and what
            we refuse (a MessageError).
    """
    mime = message.message()
    fields = {"envelope_sender": str(message.from_email), **defaults, **_from_headers(mime)}
    fields |= {name: value for name in FIELDS if (value := getattr(message, name, None)) is not None}
    _leave_to_us(message, mime, fields)
    return Message(raw=mime, to=[str(one) for one in message.recipients()], **fields)


def _from_headers(mime: EmailObject[Any, Any]) -> dict[str, Any]:
    """What headers of ours say; they are taken out."""
    names = [name for name in mime.keys() if name.lower().startswith(PREFIX)]  # noqa: SIM118  (no dict)
    fields = {name: _read(name, _decoded(str(mime[name]))) for name in names}
    for name in names:
        del mime[name]
    return {_field(name): value for name, value in fields.items()}


def _field(header: str) -> str:
    return header.lower().removeprefix(PREFIX).replace("-", "_")


def _header(field: str) -> str:
    return f"{PREFIX}{field.replace('_', '-')}".title()


def _read(header: str, text: str) -> Any:
    if _field(header) not in FIELDS:
        known = ", ".join(map(_header, FIELDS))
        raise MessageError(f"there is no header {header}: use some of {known}")
    read, expected = FIELDS[_field(header)]
    try:
        return read(text.strip())
    except ValueError:
        raise MessageError(f"the header {header} is {excerpt(text)}: give {expected}") from None


def _decoded(text: str) -> str:
    """Django 5.2 has encoded what isn't ASCII."""
    try:
        return str(make_header(decode_header(text)))
    except (HeaderParseError, LookupError, ValueError):
        return text


def _leave_to_us(message: Any, mime: EmailObject[Any, Any], fields: Mapping[str, Any]) -> None:
    """Remove what Django made up by itself; a `message()` that isn't Django's may have signed it."""
    if getattr(message.message, "__func__", None) is not EmailMessage.message:
        return
    given = {name.lower() for name in message.extra_headers}
    if "message-id" not in given:
        del mime["Message-ID"]
    if "date" not in given and (fields.get("send_at") or fields.get("idempotency_key")):
        del mime["Date"]
