"""What a user asks to be mailed: `Message`, its `Attachment`s and its `Priority`.

The rules:

1. A `Message` that exists can be mailed: everything is checked and normalised when it is made, and
   an error's sentence names the field, shows the value and says what to do.
2. Nothing in it can end a header line or an SMTP command early: CR, LF and NUL are refused here.
3. It depends on nothing outside: attachments named by a path are read at once.
4. It knows neither Message-ID nor Date nor a default sender; those are fixed when it is accepted.
   One that is given ready-made (`raw`) may have them: then they are its own.
"""

from __future__ import annotations

import json
import mimetypes
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.message import Message as EmailObject
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

from mailtasks import fields, ready
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
_CHARSET: Final = re.compile(r'(?i); *charset="?([^";]*)')
_METHOD: Final = re.compile(r"(?im)^METHOD:([A-Z-]+)\s*$")
_UNTYPED: Final = "application/octet-stream"
_Item = TypeVar("_Item")

DSN_NOTIFY: Final = ("success", "failure", "delay")
"""What servers behind the relay can be asked to tell of (RFC 3461 4.1); or "never" of anything."""

DSN_RETURN: Final = ("full", "headers")
"""How much of a mail can be asked for in a notification that it failed (RFC 3461 4.3)."""

_OWN_HEADERS: Final = {
    "from": "use `sender`",
    "to": "use `to`",
    "cc": "use `cc`",
    "bcc": "use `bcc`",
    "resent-bcc": "use `bcc`",
    "reply-to": "use `reply_to`",
    "subject": "use `subject`",
    "return-path": "use `envelope_sender`",
    "date": "it is set when the message is accepted, or to `send_at`",
    "message-id": "it is made from the message's id when it is accepted",
    "mime-version": "it is set when the message is composed",
}
"""Headers that can't be given in `headers`, and what to do instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """The text in another form, of which the reader's program chooses: an invitation, AMP.

    Attributes:
        content: the text.
        content_type: such as "text/x-amp-html"; a charset that it names is the one it is sent in, which is
            UTF-8 by default.

    Raises:
        MessageError: if a field is not as described.
    """

    content: str = field(repr=False)
    content_type: str

    def __post_init__(self) -> None:
        _check_text("the alternative's content", self.content)
        if not (isinstance(self.content_type, str) and _CONTENT_TYPE.fullmatch(self.content_type)):
            raise MessageError(
                f"an alternative has the content_type {excerpt(self.content_type)}: "
                "give one such as 'text/calendar; method=REQUEST'"
            )
        if self.content_type.lower().startswith(("multipart/", "message/")):
            raise MessageError(
                f"an alternative has the content_type {excerpt(self.content_type)}, and is a text: "
                "attach messages and parts, or give the whole message as raw"
            )
        try:
            encoded = "\r\n".encode(self.charset), self.content.encode(self.charset)
        except (LookupError, UnicodeEncodeError) as error:
            raise MessageError(f"an alternative can't be sent in its charset: {error}; use utf-8") from None
        if encoded[0] != b"\r\n":  # RFC 2046 4.1.2
            raise MessageError(
                f"an alternative has the charset {self.charset}, which mail can't have; use utf-8"
            )

    @classmethod
    def calendar(cls, content: str) -> Alternative:
        """An invitation, an answer or a cancellation: a whole iCalendar object (RFC 5545, RFC 6047).

        Its METHOD is named in the content type, without which Outlook and Gmail take it for a file.

        Raises:
            MessageError: it has no METHOD.
        """
        method = _METHOD.search(_check_text("the calendar", content))
        if not method:
            raise MessageError(
                "the calendar has no METHOD: add one, such as METHOD:REQUEST for an invitation"
            )
        return cls(content=content, content_type=f"text/calendar; method={method[1].upper()}")

    @property
    def charset(self) -> str:
        """The charset that it is sent in."""
        named = _CHARSET.search(self.content_type)
        return named[1] if named else "utf-8"

    @property
    def media_type(self) -> str:
        """The type it is sent as, which names the charset."""
        named = _CHARSET.search(self.content_type)
        return self.content_type if named else f'{self.content_type}; charset="utf-8"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that travels with the message, or an image inside its HTML.

    Attributes:
        filename: as the reader sees it.
        content: the bytes; or an object of the standard library's `email`, which is kept as bytes and
            attached as a message (message/rfc822).
        content_type: such as "application/pdf"; None: guessed from the filename.
        cid: for an image inside the HTML, which shows it by `<img src="cid:...">`; None: attached.
        is_part: the content is a MIME part already, its headers and its body, and is sent as it is; see
            `from_part`.

    Raises:
        AttachmentError: if a field is not as described.
    """

    filename: str
    content: bytes = field(repr=False)
    content_type: str | None = None
    cid: str | None = None
    is_part: bool = False
    _digest: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given: object = self.content
        if isinstance(given, EmailObject):
            object.__setattr__(self, "content", ready.flattened(given, "the attached message"))
            object.__setattr__(self, "content_type", self.content_type or "message/rfc822")
        check_line("the attachment's filename", self.filename, AttachmentError)
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
        if self.is_part:
            object.__setattr__(
                self, "content", ready.part(self.content, f"the part {excerpt(self.filename)}")
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

    @classmethod
    def from_part(cls, part: EmailObject[Any, Any], filename: str | None = None) -> Attachment:
        """Take what `email` has made: a MIME part, such as a `MIMEImage`, as it is; a message as a message.

        Args:
            filename: if it names none itself.

        Raises:
            AttachmentError, MessageError: it can't be mailed as it is.
        """
        if "From" in part or "Date" in part:
            return cls(filename=filename or "message.eml", content=part)  # type: ignore[arg-type]
        return cls(
            filename=part.get_filename() or filename or "part",
            content=ready.flattened(part, "the attached part"),
            content_type=part.get_content_type(),
            cid=_content_id(part),
            is_part=True,
        )

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
        # A name is no URL, though it may look like one: "data:TYPE,x" would be taken for a type.
        guessed, compressed = mimetypes.guess_type(f"./{self.filename}")
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
        raw: instead of all that is mailed, the whole message as bytes, or as an object of the standard
            library's `email`; kept as bytes. `to`, `cc` and `bcc` then say who gets it, and are by default
            read from it; it is sent as it is, without its Bcc (`mailtasks/ready.py`).
        sender: the From header; None: the setting `default_from`.
        envelope_sender: where bounces go; None: the sender's address; "": nowhere (RFC 5321 4.5.5).
        alternatives: the text in yet other forms, as `Alternative` objects.
        attachments: `Attachment` objects, or paths of files, which are read at once, or parts and messages
            that the standard library's `email` has made.
        headers: further headers, each with a value or a list of values; those that mailtasks sets itself
            are refused, and what has a syntax is held to it (`mailtasks/fields.py`).
        priority: "urgent", "normal" or "bulk".
        send_at: not before this moment (aware, before 2100), which its Date then shows; None: now.
        expires_after: a timedelta or seconds, at most 3650 days, from accept or `send_at` on; then it
            isn't tried any more; None: the setting `max_age`.
        dsn_notify: when servers behind the relay should tell `envelope_sender` what became of the mail: some
            of "success", "failure" and "delay", or "never"; (): they decide. Asked for where the relay offers
            DSN (RFC 3461); where it doesn't, the mail goes all the same.
        dsn_return: what a notification of a failure should bring back: "full", "headers"; None: they decide.
        require_tls: only over TLS with a verified certificate, here and on the whole way: without a relay
            that offers REQUIRETLS (RFC 8689) the mail fails, unsent.
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
    raw: bytes | None = field(default=None, repr=False)
    sender: str | None = None
    envelope_sender: str | None = None
    alternatives: tuple[Alternative, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    headers: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict, hash=False)
    priority: Priority = Priority.NORMAL
    send_at: datetime | None = None
    expires_after: timedelta | None = None
    dsn_notify: tuple[str, ...] = ()
    dsn_return: str | None = None
    require_tls: bool = False
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
        raw: bytes | str | EmailObject[Any, Any] | None = None,
        sender: str | None = None,
        envelope_sender: str | None = None,
        alternatives: Sequence[Alternative] = (),
        attachments: Sequence[Attachment | str | os.PathLike[str] | EmailObject[Any, Any]] = (),
        headers: Mapping[str, str | Sequence[str]] = MappingProxyType({}),
        priority: Priority | str = Priority.NORMAL,
        send_at: datetime | None = None,
        expires_after: timedelta | float | None = None,
        dsn_notify: str | Sequence[str] = (),
        dsn_return: str | None = None,
        require_tls: bool = False,
        idempotency_key: str | None = None,
        tags: Sequence[str] = (),
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        keep = object.__setattr__  # the way into a frozen dataclass
        if raw is not None:
            _refuse_beside_raw(reply_to, subject, text, html, alternatives, attachments, headers)
            raw, to = _raw(raw, sender, to, cc or bcc)
        keep(self, "raw", raw)
        keep(self, "to", _addresses("to", to))
        keep(self, "cc", _addresses("cc", cc))
        keep(self, "bcc", _addresses("bcc", bcc))
        if not (self.to or self.cc or self.bcc):
            raise MessageError("a message needs at least one recipient: give one in to, cc or bcc")
        keep(self, "reply_to", _addresses("reply_to", reply_to))
        keep(self, "subject", check_line("subject", subject))
        keep(self, "text", None if text is None else _check_text("text", text))
        keep(self, "html", None if html is None else _check_text("html", html))
        keep(self, "sender", None if sender is None else str(_address("sender", sender)))
        keep(self, "envelope_sender", _envelope_sender(envelope_sender))
        keep(self, "alternatives", _alternatives(alternatives))
        keep(self, "attachments", _attachments(attachments))
        keep(self, "headers", _headers(headers))
        keep(self, "priority", _priority(priority))
        keep(self, "send_at", _send_at(send_at))
        keep(self, "expires_after", _expires_after(expires_after))
        keep(self, "dsn_notify", _dsn_notify(dsn_notify))
        keep(self, "dsn_return", _dsn_return(dsn_return))
        keep(self, "require_tls", _flag("require_tls", require_tls))
        keep(self, "idempotency_key", _idempotency_key(idempotency_key))
        keep(self, "tags", _tags(tags))
        keep(self, "metadata", _metadata(metadata))

    @property
    def recipients(self) -> tuple[str, ...]:
        """The envelope's recipients: bare addresses in wire form, each once, in order (to, cc, bcc)."""
        given = self.to + self.cc + self.bcc
        return tuple(dict.fromkeys(parse(text).address for text in given))

    def copies(self) -> list[Message]:
        """A message of its own for each recipient, whose To names nobody else: what `one_each` sends.

        An idempotency key becomes one for each, so that sending again, to more recipients even, sends to
        nobody twice.

        Raises:
            MessageError: it is ready-made, so that its To can't be changed.
        """
        if self.raw is not None:
            raise MessageError("a ready-made message has no copies: it is sent as it is; build one for each")
        written = {parse(text).address: text for text in reversed(self.to + self.cc + self.bcc)}
        return [
            replace(
                self, to=(written[one],), cc=(), bcc=(), idempotency_key=_key_for(one, self.idempotency_key)
            )
            for one in self.recipients
        ]

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
            "raw": None if self.raw is None else blake2b(self.raw).hexdigest(),
            "sender": self.sender,
            "envelope_sender": self.envelope_sender,
            "alternatives": tuple((other.content_type, other.content) for other in self.alternatives),
            "attachments": tuple(
                (file.filename, file.digest, file.content_type, file.cid) + ((True,) if file.is_part else ())
                for file in self.attachments
            ),
            "headers": dict(self.headers),
            "priority": self.priority.value,
            "dsn_notify": self.dsn_notify,
            "dsn_return": self.dsn_return,
            "require_tls": self.require_tls or None,
            "idempotency_key": self.idempotency_key,
            "tags": self.tags,
            "metadata": dict(self.metadata),
        }


Mailable: TypeAlias = "Message | EmailObject[Any, Any]"
"""What can be sent: a message, or one that the standard library's `email` has made."""


def as_message(given: Mailable) -> Message:
    """The message itself, or one that sends an `email.message.EmailMessage` as it is.

    Raises:
        MessageError: it is neither, or can't be mailed.
    """
    if isinstance(given, Message):
        return given
    if isinstance(given, EmailObject):
        return Message(raw=given)
    raise MessageError(f"{excerpt(given)} is no message: make it a mailtasks.Message")


def _refuse_beside_raw(*given: object) -> None:
    names = ("reply_to", "subject", "text", "html", "alternatives", "attachments", "headers")
    for name, value in zip(names, given, strict=True):
        if value:
            raise MessageError(
                f"{name} can't be given beside raw, which is the whole message: write it there"
            )


def _raw(
    given: bytes | str | EmailObject[Any, Any], sender: str | None, to: str | Sequence[str], others: object
) -> tuple[bytes, str | Sequence[str]]:
    """The octets, and the recipients that are given or read from them."""
    content = ready.octets(given)
    head = ready.Head.of(content)
    if sender is not None and head.sender is not None:
        raise MessageError("sender can't be given beside raw, whose From says it; use `envelope_sender`")
    return ready.without_bcc(content), to if to or others else head.recipients()


def _check_text(name: str, value: str, error: type[MessageError] = MessageError) -> str:
    if not isinstance(value, str):
        raise error(f"{name} must be a string, not {type(value).__name__}")
    if not value.isascii() and _SURROGATES.search(value):
        raise error(f"{name} holds a surrogate, which can't be mailed: decode the text with its real charset")
    return value


def check_line(name: str, value: str, error: type[MessageError] = MessageError) -> str:
    """The value, which ends no line; `name` is what an error calls it."""
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
    return given if given is None or given == "" else _address("envelope_sender", given).address


def _alternatives(given: Sequence[Alternative]) -> tuple[Alternative, ...]:
    alternatives = _listed("alternatives", given)
    for other in alternatives:
        if not isinstance(other, Alternative):
            raise MessageError(f"alternatives holds {excerpt(other)}: make it a mailtasks.Alternative")
    return alternatives


def _content_id(part: EmailObject[Any, Any]) -> str | None:
    """The cid of an image that `email` has made; None, if it has none that an HTML could name."""
    written = str(part.get("Content-ID", "")).strip().removeprefix("<").removesuffix(">")
    return written if len(written) < 256 and _CONTENT_ID.fullmatch(written) else None


def _attachments(
    given: Sequence[Attachment | str | os.PathLike[str] | EmailObject[Any, Any]],
) -> tuple[Attachment, ...]:
    attachments = tuple(_attachment(file) for file in _listed("attachments", given))
    named: dict[str, str] = {}
    for file in attachments:
        if file.cid and file.cid in named:
            raise AttachmentError(
                f"the attachments {excerpt(named[file.cid])} and {excerpt(file.filename)} both have the cid "
                f"{excerpt(file.cid)}: give each its own, since the HTML can show only one by it"
            )
        named |= {file.cid: file.filename} if file.cid else {}
    return attachments


def _attachment(file: Attachment | str | os.PathLike[str] | EmailObject[Any, Any]) -> Attachment:
    if isinstance(file, Attachment):
        return file
    return Attachment.from_part(file) if isinstance(file, EmailObject) else Attachment.from_path(file)


def _headers(given: Mapping[str, str | Sequence[str]]) -> Mapping[str, str | tuple[str, ...]]:
    headers = {name: _header(name, value) for name, value in _demand_mapping("headers", given).items()}
    known: dict[str, str] = {}
    for name in headers:
        if known.setdefault(name.lower(), name) != name:
            raise MessageError(
                f"headers: {known[name.lower()]} and {name} are one header: give one, with a list of values"
            )
    return headers


def _header(name: str, given: str | Sequence[str]) -> str | tuple[str, ...]:
    """One value, or, if it stands there several times, all of them."""
    check_header_name(check_line("headers: a name", name))
    several: Sequence[Any] = given if isinstance(given, list | tuple) else [given]
    if not several:
        raise MessageError(f"headers: {name} is given an empty list: leave it out")
    values = [check_line(f"headers: {name}", value) for value in several]
    checked = fields.checked(name, values)
    return checked if len(checked) > 1 else checked[0]


def check_header_name(name: str) -> None:
    """Refuse what is no header's name, and headers that mailtasks sets itself."""
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
    return {
        check(f"{name}: a name", key): check(f"{name}: {key}", value)
        for key, value in _demand_mapping(name, given).items()
    }


def _demand_mapping(name: str, given: Mapping[str, _Item]) -> Mapping[str, _Item]:
    if not isinstance(given, Mapping):
        raise MessageError(f"{name} must map names to strings, not be {excerpt(given)}")
    return given


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


def _dsn_notify(given: str | Sequence[str]) -> tuple[str, ...]:
    """In one order, each once."""
    words = (given,) if isinstance(given, str) else _listed("dsn_notify", given)
    if words == ("never",):
        return words
    for word in words:
        if word not in DSN_NOTIFY:
            raise MessageError(
                f"dsn_notify can't have {excerpt(word)} here: "
                f"give some of {', '.join(DSN_NOTIFY)}, or never alone"
            )
    return tuple(word for word in DSN_NOTIFY if word in words)


def _dsn_return(given: str | None) -> str | None:
    if given is not None and given not in DSN_RETURN:
        raise MessageError(f"dsn_return={excerpt(given)} is unknown: give {' or '.join(DSN_RETURN)}, or None")
    return given


def _flag(name: str, given: bool) -> bool:
    if not isinstance(given, bool):
        raise MessageError(f"{name} must be True or False, not {excerpt(given)}")
    return given


def _idempotency_key(given: str | None) -> str | None:
    if given is None:
        return None
    if not 1 <= len(_check_text("idempotency_key", given)) <= MAX_KEY_LENGTH:
        raise MessageError(
            f"the idempotency_key {excerpt(given)} has {len(given)} characters: "
            f"give 1 to {MAX_KEY_LENGTH}, or leave it out"
        )
    return given


def _key_for(recipient: str, key: str | None) -> str | None:
    """A key for one recipient's copy; people may read it in an error, unless it would be too long."""
    if key is None:
        return None
    text = f"{key} for {recipient}"
    if len(text) <= MAX_KEY_LENGTH:
        return text
    return blake2b(text.encode(), digest_size=32, person=b"mailtasks").hexdigest()


def _tags(given: Sequence[str]) -> tuple[str, ...]:
    tags = tuple(check_line("a tag", tag) for tag in _listed("tags", given))
    if "" in tags:
        raise MessageError("a tag is empty: give it a name or leave it out")
    return tags
