"""What a user asks to be mailed: `Message`, its `Attachment`s and its `Priority`.

The rules:

1. A `Message` that exists can be mailed: everything is checked and normalised when it is made, and
   an error's sentence names the field, shows the value and says what to do.
2. Nothing in it can end a header line or an SMTP command early: CR, LF and NUL are refused here.
3. It depends on nothing outside: attachments named by a path are read at once.
4. It knows neither Message-ID nor Date nor a default sender; those are fixed when it is accepted.
"""

from __future__ import annotations

import json
import mimetypes
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from mailtasks.address import Address, excerpt, parse
from mailtasks.errors import AddressError, AttachmentError, MessageError


class Priority(StrEnum):
    """How soon a message is taken: each priority has a queue of its own."""

    URGENT = "urgent"  # a person waits: codes, password mails
    NORMAL = "normal"
    BULK = "bulk"  # campaigns


PRIORITIES: Final = tuple(Priority)
"""In the order in which they are taken."""

LONGEST: Final = timedelta(days=3650)
"""How long a mail may be tried, and any other duration be: a slip is refused, not kept for ever."""

MOMENTS: Final = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
"""Between these `send_at` must lie, so that no sum of times leaves what a datetime can hold."""

MAX_KEY_LENGTH: Final = 256
"""Characters of an idempotency key: room for four UUIDs, and small beside any message in Redis."""

_HEADER_NAME: Final = re.compile(r"[!-9;-~]{1,64}")  # RFC 5322 3.6.8 ftext; 64 leave room for a value
_LINE_ENDS: Final = re.compile(r"[\r\n\x00]")
_SURROGATES: Final = re.compile(r"[\ud800-\udfff]")
_WORD: Final = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+"  # RFC 2045 5.1
_CONTENT_TYPE: Final = re.compile(rf'{_WORD}/{_WORD}(; *{_WORD}=({_WORD}|"[ !#-\[\]-~]*"))*')
_CONTENT_ID: Final = re.compile(r"[!-;=?-~]+")  # what may stand between the angle brackets of RFC 2045 7
_UNTYPED: Final = "application/octet-stream"
_Item = TypeVar("_Item")

_OWN_HEADERS: Final = {
    "from": "use `sender`",
    "to": "use `to`",
    "cc": "use `cc`",
    "bcc": "use `bcc`",
    "reply-to": "use `reply_to`",
    "subject": "use `subject`",
    "return-path": "use `envelope_sender`",
    "date": "it is set when the message is accepted",
    "message-id": "it is made from the message's id when it is accepted",
    "mime-version": "it is set when the message is composed",
}
"""Headers that can't be given in `headers`, and what to do instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that travels with the message, or an image inside its HTML.

    Attributes:
        filename: as the reader sees it.
        content: the bytes.
        content_type: such as "application/pdf"; None: guessed from the filename.
        cid: for an image inside the HTML, which shows it by `<img src="cid:...">`; None: attached.

    Raises:
        AttachmentError: if a field is not as described.
    """

    filename: str
    content: bytes = field(repr=False)
    content_type: str | None = None
    cid: str | None = None
    _digest: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_line("the attachment's filename", self.filename, AttachmentError)
        if not self.filename:
            raise AttachmentError("an attachment needs a filename: the reader saves it under that name")
        if not isinstance(self.content, bytes | bytearray | memoryview):
            raise AttachmentError(
                f"the attachment {excerpt(self.filename)} holds {type(self.content).__name__}, not bytes: "
                "encode text first, or give a path"
            )
        object.__setattr__(self, "content", bytes(self.content))
        self._check_pattern(
            "content_type", _CONTENT_TYPE, "give one such as 'application/pdf', below 256 characters"
        )
        self._check_pattern("cid", _CONTENT_ID, "give below 256 printable ASCII characters, no space, < or >")

    @classmethod
    def from_path(
        cls,
        path: str | os.PathLike[str],
        filename: str | None = None,
        content_type: str | None = None,
        cid: str | None = None,
    ) -> Attachment:
        """Read a file now; `filename` is by default the path's last part.

        Raises:
            AttachmentError: if the file isn't there or can't be read.
        """
        try:
            content = Path(path).read_bytes()
        except (OSError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AttachmentError(
                f"the attachment {excerpt(path)} can't be read: {reason}; check the path"
            ) from error
        return cls(filename=filename or Path(path).name, content=content, content_type=content_type, cid=cid)

    @property
    def digest(self) -> str:
        """128 hex digits over the content (BLAKE2b); computed once, however many messages it goes with."""
        if not self._digest:
            object.__setattr__(self, "_digest", blake2b(self.content).hexdigest())
        return self._digest

    @property
    def media_type(self) -> str:
        """The type it is sent as: the given one, or the one that this machine's table has for its name."""
        if self.content_type:
            return self.content_type
        guessed, compressed = mimetypes.guess_type(self.filename)
        return _UNTYPED if compressed or not guessed else guessed

    def _check_pattern(self, name: str, pattern: re.Pattern[str], remedy: str) -> None:
        value = getattr(self, name)
        if value is not None and not (
            isinstance(value, str) and len(value) < 256 and pattern.fullmatch(value)
        ):
            raise AttachmentError(
                f"the attachment {excerpt(self.filename)} has the {name} {excerpt(value)}: {remedy}"
            )


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Message:
    """One mail to one or more recipients. `__init__` says what it takes, the fields what it keeps.

    Attributes:
        to, cc, bcc: recipients, as `ann@example.com` or `Ann <ann@example.com>`; one or more. Those
            in `bcc` get the mail and stand in no header.
        reply_to: where answers should go.
        subject: one line.
        text, html: the bodies; with both, the reader's program chooses; with neither, an empty text.
        sender: the From header; None: the setting `default_from`.
        envelope_sender: where bounces go; None: the sender's address; "": nowhere (RFC 5321 4.5.5).
        attachments: `Attachment` objects, or paths of files, which are read at once.
        headers: further headers; those that mailtasks sets itself are refused.
        priority: "urgent", "normal" or "bulk".
        send_at: not before this moment (aware, before 2100); None: now.
        expires_after: a timedelta or seconds, at most 3650 days, from accept or `send_at` on; then it
            isn't tried any more; None: the setting `max_age`.
        idempotency_key: sending twice with the same key sends one mail, at the first call's times; at most
            256 characters.
        tags: your own words, kept with the message, not mailed.
        metadata: your own names and values, kept with the message, not mailed.

    Raises:
        AddressError, AttachmentError, MessageError: with a sentence that names the field.
    """

    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    reply_to: tuple[str, ...] = ()
    subject: str = ""
    text: str | None = field(default=None, repr=False)
    html: str | None = field(default=None, repr=False)
    sender: str | None = None
    envelope_sender: str | None = None
    attachments: tuple[Attachment, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    priority: Priority = Priority.NORMAL
    send_at: datetime | None = None
    expires_after: timedelta | None = None
    idempotency_key: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)

    def __init__(
        self,
        *,
        to: str | Sequence[str] = (),
        cc: str | Sequence[str] = (),
        bcc: str | Sequence[str] = (),
        reply_to: str | Sequence[str] = (),
        subject: str = "",
        text: str | None = None,
        html: str | None = None,
        sender: str | None = None,
        envelope_sender: str | None = None,
        attachments: Sequence[Attachment | str | os.PathLike[str]] = (),
        headers: Mapping[str, str] = MappingProxyType({}),
        priority: Priority | str = Priority.NORMAL,
        send_at: datetime | None = None,
        expires_after: timedelta | float | None = None,
        idempotency_key: str | None = None,
        tags: Sequence[str] = (),
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        keep = object.__setattr__  # the way into a frozen dataclass
        keep(self, "to", _addresses("to", to))
        keep(self, "cc", _addresses("cc", cc))
        keep(self, "bcc", _addresses("bcc", bcc))
        if not (self.to or self.cc or self.bcc):
            raise MessageError("a message needs at least one recipient: give one in to, cc or bcc")
        keep(self, "reply_to", _addresses("reply_to", reply_to))
        keep(self, "subject", _check_line("subject", subject))
        keep(self, "text", None if text is None else _check_text("text", text))
        keep(self, "html", None if html is None else _check_text("html", html))
        keep(self, "sender", None if sender is None else str(_address("sender", sender)))
        keep(self, "envelope_sender", _envelope_sender(envelope_sender))
        keep(self, "attachments", _attachments(attachments))
        keep(self, "headers", _headers(headers))
        keep(self, "priority", _priority(priority))
        keep(self, "send_at", _send_at(send_at))
        keep(self, "expires_after", _expires_after(expires_after))
        keep(self, "idempotency_key", _idempotency_key(idempotency_key))
        keep(self, "tags", _tags(tags))
        keep(self, "metadata", _metadata(metadata))

    @property
    def recipients(self) -> tuple[str, ...]:
        """The envelope's recipients: bare addresses in wire form, each once, in order (to, cc, bcc)."""
        given = self.to + self.cc + self.bcc
        return tuple(dict.fromkeys(parse(text).address for text in given))

    def fingerprint(self) -> str:
        """32 hex digits over what is mailed, and to whom: equal for equal content, in every process.

        When it is sent isn't content: who repeats a call "in five minutes" means the same mail.
        """
        # What isn't set is left out, so that a field that a later version adds changes no fingerprint.
        given = {name: value for name, value in self._canonical().items() if value not in (None, (), {})}
        canonical = json.dumps(given, sort_keys=True, separators=(",", ":"))
        return blake2b(canonical.encode("ascii"), digest_size=16, person=b"mailtasks").hexdigest()

    def _canonical(self) -> dict[str, object]:
        return {
            "to": self.to,
            "cc": self.cc,
            "bcc": self.bcc,
            "reply_to": self.reply_to,
            "subject": self.subject,
            "text": self.text,
            "html": self.html,
            "sender": self.sender,
            "envelope_sender": self.envelope_sender,
            "attachments": tuple(
                (file.filename, file.digest, file.content_type, file.cid) for file in self.attachments
            ),
            "headers": dict(self.headers),
            "priority": self.priority.value,
            "idempotency_key": self.idempotency_key,
            "tags": self.tags,
            "metadata": dict(self.metadata),
        }


def _check_text(name: str, value: str, error: type[MessageError] = MessageError) -> str:
    if not isinstance(value, str):
        raise error(f"{name} must be a string, not {type(value).__name__}")
    if not value.isascii() and _SURROGATES.search(value):
        raise error(f"{name} holds a surrogate, which can't be mailed: decode the text with its real charset")
    return value


def _check_line(name: str, value: str, error: type[MessageError] = MessageError) -> str:
    ended = _LINE_ENDS.search(_check_text(name, value, error))
    if ended:
        raise error(
            f"{name} holds {ended[0]!r}, which would end its line: {excerpt(value)}; "
            "remove line breaks and NUL"
        )
    return value


def _address(name: str, text: str) -> Address:
    try:
        return parse(text)
    except AddressError as error:
        raise AddressError(f"{name}: {error}") from None


def _addresses(name: str, given: str | Sequence[str]) -> tuple[str, ...]:
    """Each address in the one spelling that `str(Address)` has."""
    texts = (given,) if isinstance(given, str) else _listed(name, given)
    return tuple([str(_address(name, text)) for text in texts])


def _listed(name: str, given: Iterable[_Item]) -> tuple[_Item, ...]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise MessageError(f"{name} must be a list, not {excerpt(given)}: put a single one in brackets")
    return tuple(given)


def _envelope_sender(given: str | None) -> str | None:
    return _address("envelope_sender", given).address if given else given


def _attachments(given: Sequence[Attachment | str | os.PathLike[str]]) -> tuple[Attachment, ...]:
    return tuple(
        file if isinstance(file, Attachment) else Attachment.from_path(file)
        for file in _listed("attachments", given)
    )


def _headers(given: Mapping[str, str]) -> Mapping[str, str]:
    headers = _mapping("headers", given, _check_line)
    for name in headers:
        _check_header_name(name)
    return headers


def _check_header_name(name: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise MessageError(
            f"headers: {excerpt(name)} is no header name: give 1 to 64 printable ASCII characters "
            "without spaces and colons"
        )
    lower = name.lower()
    remedy = _OWN_HEADERS.get(lower) or (lower.startswith("content-") and "the bodies and attachments set it")
    if remedy:
        raise MessageError(f"headers: {name} can't be given here: {remedy}")


def _metadata(given: Mapping[str, str]) -> Mapping[str, str]:
    return _mapping("metadata", given, _check_text)


def _mapping(name: str, given: Mapping[str, str], check: Callable[[str, str], str]) -> dict[str, str]:
    """A copy whose names and values were checked."""
    if not isinstance(given, Mapping):
        raise MessageError(f"{name} must map names to strings, not be {excerpt(given)}")
    return {check(f"{name}: a name", key): check(f"{name}: {key}", value) for key, value in given.items()}


def _priority(given: Priority | str) -> Priority:
    try:
        return Priority(given)
    except ValueError:
        known = ", ".join(PRIORITIES)
        raise MessageError(f"the priority {excerpt(given)} is unknown: use one of {known}") from None


def _send_at(given: datetime | None) -> datetime | None:
    if given is None:
        return None
    if not isinstance(given, datetime):
        raise MessageError(f"send_at must be a datetime, not {excerpt(given)}")
    if given.utcoffset() is None:
        raise MessageError(
            f"send_at={given.isoformat()} has no time zone: add one, for instance "
            "datetime.now(UTC) + timedelta(hours=1), or local.astimezone()"
        )
    first, last = MOMENTS
    if not first <= given < last:
        raise MessageError(
            f"send_at={given.isoformat()} is out of range: "
            f"give a time from {first.year} on and before {last.year}"
        )
    return given


def _expires_after(given: timedelta | float | None) -> timedelta | None:
    if given is None:
        return None
    try:
        duration = given if isinstance(given, timedelta) else timedelta(seconds=given)
    except (TypeError, ValueError, OverflowError):
        duration = timedelta(0)
    if isinstance(given, bool) or not timedelta(0) < duration <= LONGEST:
        raise MessageError(
            f"expires_after={given} is no time to live: give a timedelta or a number of seconds, "
            f"more than 0 and at most {LONGEST.days} days"
        )
    return duration


def _idempotency_key(given: str | None) -> str | None:
    if given is None:
        return None
    if not 1 <= len(_check_text("idempotency_key", given)) <= MAX_KEY_LENGTH:
        raise MessageError(
            f"the idempotency_key {excerpt(given)} has {len(given)} characters: "
            f"give 1 to {MAX_KEY_LENGTH}, or leave it out"
        )
    return given


def _tags(given: Sequence[str]) -> tuple[str, ...]:
    tags = tuple(_check_line("a tag", tag) for tag in _listed("tags", given))
    if "" in tags:
        raise MessageError("a tag is empty: give it a name or leave it out")
    return tags
