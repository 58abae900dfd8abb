"""`Message` as a Flask-Mail user builds it: changed at will until it is sent, and checked then.

The rules:

1. `mailable()` makes of it a `mailtasks.Message`, or refuses it: in the request, not in the worker.
2. It is laid out by our own composer, which stores equal attachments once. Only what that decides itself (a
   Date, a Message-ID or a charset of the user's) is built with the standard library and sent as it is.
3. What a message says about itself (`as_bytes`) is what `mailable` sends.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.message import Message as EmailObject
from email.utils import formatdate
from typing import Any, Final, Protocol

from flask import current_app, has_app_context

import mailtasks
from mailtasks.address import excerpt, parse
from mailtasks.compose.mime import compose
from mailtasks.contrib.flask.attachment import Attachment, as_ours, as_part
from mailtasks.contrib.flask.config import Person, person
from mailtasks.contrib.flask.standard import UTF_8, laid_out
from mailtasks.errors import MessageError
from mailtasks.message import Alternative, Priority, check_header_name
from mailtasks.pieces import pieces_of

_FIXED: Final = {"date": "Date", "message-id": "Message-ID"}  # headers that our composer makes itself

_MAIL_OPTIONS: Final[Mapping[str, tuple[str, Mapping[str, Any]] | None]] = {
    "BODY": None,  # the worker sees what the mail has and the relay offers, and says so itself
    "SMTPUTF8": None,
    "SIZE": None,
    "RET": ("dsn_return", {"FULL": "full", "HDRS": "headers"}),  # RFC 3461 4.3
    "REQUIRETLS": ("require_tls", {"": True}),  # RFC 8689 2
}
"""What may stand in `mail_options`: our field for it and what its values mean; None: needn't be said."""


class BadHeaderError(MessageError):
    """A line break in a subject, a sender or a recipient, which would begin another header."""


class IncompleteMessage(MessageError, AssertionError):
    """It has no recipients, or no sender and no default. Flask-Mail raises an AssertionError."""


class TakesMessages(Protocol):
    """What `mail.connect()` gives."""

    def send(self, message: Message) -> None:
        """Send one."""


class Message:
    """One mail, with Flask-Mail's fields and, by keyword, ours.

    Args:
        subject: one line, or folded as RFC 5322 has it.
        recipients: addresses, or pairs of name and address; so are `cc`, `bcc` and `sender`.
        body: the text.
        html: the HTML.
        alts: further forms of the text, by their subtype: {"calendar": …}.
        sender: None: `MAIL_DEFAULT_SENDER`.
        attachments: `Attachment` objects; see `attach`.
        reply_to: one address or a list.
        date: seconds since the epoch; None: when it is accepted, or `send_at`.
        charset: None: UTF-8.
        extra_headers: further headers.
        mail_options, rcpt_options: ESMTP's, as far as the queue keeps them: RET, REQUIRETLS; NOTIFY.
        priority, send_at, expires_after, tags, metadata, idempotency_key: as of `mailtasks.Message`.

    Attributes:
        mailtasks_ids: after it was sent, the id to ask `status` with; [] if sending is suppressed.
        msgId: a Message-ID of your own; None: made from the id, and the same over all retries.
    """

    def __init__(
        self,
        subject: str = "",
        recipients: Sequence[Person] | None = None,
        body: str | None = None,
        html: str | None = None,
        alts: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        sender: Person | None = None,
        cc: Sequence[Person] | None = None,
        bcc: Sequence[Person] | None = None,
        attachments: Sequence[Attachment | EmailObject[Any, Any]] | None = None,
        reply_to: Person | Sequence[Person] | None = None,
        date: float | None = None,
        charset: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        mail_options: Sequence[str] | None = None,
        rcpt_options: Sequence[str] | None = None,
        *,
        priority: Priority | str = Priority.NORMAL,
        send_at: datetime | None = None,
        expires_after: timedelta | float | None = None,
        tags: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        sender = sender or _default_sender()
        self.subject = subject
        self.recipients = _people("recipients", recipients)
        self.body = body
        self.alts = dict(alts or {})
        if html is not None:
            self.alts["html"] = html
        self.sender: Person | None = person(sender) if sender else None
        self.cc = _people("cc", cc)
        self.bcc = _people("bcc", bcc)
        self.attachments = list(attachments or [])
        self.reply_to = reply_to
        self.date = date
        self.charset = charset
        self.extra_headers = dict(extra_headers or {})
        self.mail_options = list(mail_options or [])
        self.rcpt_options = list(rcpt_options or [])
        self.priority = priority
        self.send_at = send_at
        self.expires_after = expires_after
        self.tags = tags
        self.metadata = dict(metadata or {})
        self.idempotency_key = idempotency_key
        self.msgId: str | None = None
        self.mailtasks_ids: list[str] = []
        self._stamp: float | None = None  # the date that sending has set, which isn't the user's own
        self._draft = secrets.token_hex(8)  # stands in its Message-ID until it has an id

    @property
    def html(self) -> str | None:
        """The HTML: that of `alts`."""
        return self.alts.get("html")

    @html.setter
    def html(self, value: str | None) -> None:
        self.alts.pop("html", None)
        if value is not None:
            self.alts["html"] = value

    @property
    def send_to(self) -> set[Person]:
        """Everybody who gets it: recipients, cc and bcc."""
        return {*self.recipients, *(self.cc or ()), *(self.bcc or ())}

    def add_recipient(self, recipient: Person) -> None:
        """One more."""
        self.recipients.append(recipient)

    def attach(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: bytes | str | None = None,
        disposition: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Add an `Attachment` of these fields."""
        self.attachments.append(Attachment(filename, content_type, data, disposition, headers))

    def has_bad_headers(self) -> bool:
        """Whether a line break stands where it would begin another header."""
        people = [self.sender, *_listed(self.reply_to), *self.recipients, *(self.cc or ()), *(self.bcc or ())]
        return any(_breaks(text) for one in people if one for text in _texts(one)) or not _is_folded(
            _text(self.subject) or ""
        )

    def send(self, connection: TakesMessages) -> None:
        """Send it through what `mail.connect()` gave."""
        connection.send(self)

    def note_sending(self, now: float) -> None:
        """It is being sent: from now on it has a date."""
        if self.date is None or self.date == self._stamp:
            self.date = self._stamp = now

    def mailable(
        self, envelope_from: str | None = None, *, ascii_names: bool | None = None
    ) -> mailtasks.Message:
        """What is sent: for `mailtasks.sql.on_commit`, or a `Mailer`.

        Args:
            envelope_from: where bounces go; None: to the sender.
            ascii_names: whether attachments' names become ASCII; None: as `MAIL_ASCII_ATTACHMENTS` says.

        Raises:
            IncompleteMessage: it has no recipients or no sender.
            BadHeaderError: a line break stands where it would begin another header.
            MessageError: it can't be mailed as it is.
        """
        self._demand_complete()
        names = _ascii_names() if ascii_names is None else ascii_names
        fields = {
            "to": _addressed(self.recipients),
            "cc": _addressed(self.cc),
            "bcc": _addressed(self.bcc),
            "envelope_sender": None if envelope_from is None else parse(person(envelope_from)).address,
            "priority": self.priority,
            "send_at": self.send_at,
            "expires_after": self.expires_after,
            "tags": self.tags,
            "metadata": self.metadata,
            "idempotency_key": self.idempotency_key,
            **self._extensions(),
        }
        headers, reply_to, fixed = self._headers()
        if fixed or self._charset not in UTF_8:
            for name in headers:
                check_header_name(name)
            return mailtasks.Message(raw=self._standard({**headers, **fixed}, reply_to, names), **fields)
        body, alts = self._forms()
        others = [
            Alternative(content=_text(content) or "", content_type=f"text/{subtype}")
            for subtype, content in alts.items()
            if subtype != "html"
        ]
        return mailtasks.Message(
            sender=person(self.sender or ""),
            reply_to=reply_to,
            subject=_unfolded(self.subject),
            text=_text(body),
            html=_text(alts.get("html")),
            alternatives=others,
            attachments=[as_ours(one, names) for one in self.attachments],
            headers=headers,
            **fields,
        )

    def as_bytes(self) -> bytes:
        """The mail as it is sent. Until it is, its Message-ID is one of a draft.

        Raises:
            As `mailable`.
        """
        message = self.mailable()
        sender = person(self.sender or "")
        domain = parse(sender).domain
        id = self.mailtasks_ids[-1] if self.mailtasks_ids else f"draft.{self._draft}"
        date = datetime.now(UTC) if self.date is None else datetime.fromtimestamp(self.date, UTC)
        composed = compose(
            message,
            sender=sender,
            message_id=f"{id}@{domain}",
            date=max(date, self.send_at or date),
            size_limit=sys.maxsize,
        )
        return b"".join(piece for piece in pieces_of(composed.content) if isinstance(piece, bytes))

    def as_string(self) -> str:
        """As `as_bytes`, for people."""
        return self.as_bytes().decode(errors="replace")

    def __str__(self) -> str:
        return self.as_string()

    def __bytes__(self) -> bytes:
        return self.as_bytes()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {excerpt(_text(self.subject))} to {len(self.send_to)}>"

    # How

    @property
    def _charset(self) -> str | None:
        return self.charset.lower() if self.charset else None

    def _forms(self) -> tuple[str | None, dict[str, str]]:
        """The text, and its other forms."""
        return self.body, self.alts

    def _demand_complete(self) -> None:
        if not self.send_to:
            raise IncompleteMessage("the message has no recipients: give some in recipients, cc or bcc")
        if not self.sender:
            raise IncompleteMessage("the message has no sender: give `sender`, or set MAIL_DEFAULT_SENDER")
        if self.has_bad_headers():
            raise BadHeaderError(
                "the subject, the sender, reply_to or a recipient holds a line break, which would begin "
                "another header: remove it"
            )

    def _headers(self) -> tuple[dict[str, str], list[str], dict[str, str]]:
        """Headers; who is answered; and what our composer would make itself, if the user has it."""
        given = {name: str(value) for name, value in (self.extra_headers or {}).items()}
        replies = _addressed(_listed(self.reply_to))
        if not replies:
            replies = [value for name, value in given.items() if name.lower() == "reply-to"]
        fixed = {_FIXED[name.lower()]: value for name, value in given.items() if name.lower() in _FIXED}
        if self.msgId:
            fixed["Message-ID"] = self.msgId
        if self.date is not None and self.date != self._stamp:
            fixed["Date"] = formatdate(self.date, localtime=True)
        others = {name: value for name, value in given.items() if name.lower() not in (*_FIXED, "reply-to")}
        return others, replies, fixed

    def _extensions(self) -> dict[str, Any]:
        """What `mail_options` and `rcpt_options` ask for, in our words."""
        found: dict[str, Any] = {}
        for option in self.mail_options or ():
            name, _, value = option.upper().partition("=")
            known = _MAIL_OPTIONS.get(name)
            if name not in _MAIL_OPTIONS or (known and value not in known[1]):
                raise MessageError(
                    f"mail_options can't have {excerpt(option)}: give RET=FULL, RET=HDRS or REQUIRETLS; "
                    "BODY, SIZE and SMTPUTF8 are said when the relay offers them"
                )
            if known:
                found[known[0]] = known[1][value]
        for option in self.rcpt_options or ():
            name, _, value = option.partition("=")
            if name.upper() != "NOTIFY" or not value:
                raise MessageError(
                    f"rcpt_options can't have {excerpt(option)}: give NOTIFY=SUCCESS, FAILURE, DELAY or NEVER"
                )
            found["dsn_notify"] = value.lower().split(",")
        return found

    def _standard(
        self, headers: Mapping[str, str], reply_to: Sequence[str], ascii_names: bool
    ) -> EmailObject[Any, Any]:
        body, alts = self._forms()
        return laid_out(
            forms=[
                (subtype, _text(content) or "")
                for subtype, content in (("plain", body), *alts.items())
                if content is not None
            ],
            parts=[as_part(one, ascii_names) for one in self.attachments],
            subject=_unfolded(self.subject),
            people={
                "From": [person(self.sender or "")],
                "To": _addressed(self.recipients),
                "Cc": _addressed(self.cc),
                "Reply-To": reply_to,
            },
            headers=headers,
            charset=self.charset or "utf-8",
        )


def _default_sender() -> Person | None:
    """Outside of an application its own is looked up when it is sent."""
    state = current_app.extensions.get("mail") if has_app_context() else None
    return state.default_sender if state else None


def _ascii_names() -> bool:
    state = current_app.extensions.get("mail") if has_app_context() else None
    return bool(state and state.ascii_attachments)


def _people(name: str, given: Sequence[Person] | None) -> list[Person]:
    if isinstance(given, str):
        raise MessageError(f"{name} must be a list, not {excerpt(given)}: put a single one in brackets")
    return list(given or [])


def _listed(given: Person | Sequence[Person] | None) -> list[Person]:
    if given is None or given == "":
        return []
    one: Any = given
    return [one] if isinstance(given, str | tuple) or not isinstance(given, Sequence) else list(given)


def _addressed(given: Sequence[Person] | None) -> list[str]:
    """Each once, in order."""
    return list(dict.fromkeys(person(one) for one in given or ()))


def _texts(one: Person) -> Iterable[str]:
    return map(str, one) if isinstance(one, tuple) else [str(one)]


def _breaks(text: str) -> bool:
    return "\r" in text or "\n" in text


def _is_folded(subject: str) -> bool:
    """Whether it is one line, or goes on after a line break as RFC 5322 2.2.3 says."""
    first, *others = subject.split("\r\n")
    goes_on = all(line[:1] in ("\t", " ") and line.strip() for line in others)
    return goes_on and (bool(first) or not others) and not any(map(_breaks, (first, *others)))


def _unfolded(subject: Any) -> str:
    return (_text(subject) or "").replace("\r\n", "")


def _text(given: Any) -> str | None:
    """A text, also of bytes, and of what becomes one late, such as a translation."""
    if given is None or isinstance(given, str):
        return given
    return given.decode() if isinstance(given, bytes) else str(given)
