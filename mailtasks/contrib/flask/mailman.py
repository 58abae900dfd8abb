"""Flask-Mailman's messages: other names, and another order of arguments, for what `Message` holds.

What people call is here: `EmailMessage`, `EmailMultiAlternatives`, and `send_mail`, `send_mass_mail` and
`get_connection` of `Mail`. What isn't: backends, of which the queue is the only one, and a login by call.
"""
# ruff: noqa: D102  (properties that are another name for one of `Message` are told in the class)

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from email.message import EmailMessage as StandardMessage
from email.message import Message as EmailObject
from email.parser import BytesParser
from email.policy import SMTP
from pathlib import Path
from typing import Any

from flask import current_app

import mailtasks
from mailtasks.address import excerpt
from mailtasks.contrib.flask.attachment import Attachment
from mailtasks.contrib.flask.config import Person, person
from mailtasks.contrib.flask.connection import Connection
from mailtasks.contrib.flask.message import Message
from mailtasks.errors import MessageError


class EmailMessage(Message):
    """One mail, with the fields of Flask-Mailman and Django, and by keyword ours.

    Args:
        subject: one line.
        body: the text, or with `content_subtype = "html"` the HTML.
        from_email: the `sender`; None: `MAIL_DEFAULT_SENDER`.
        to: the `recipients`.
        bcc, cc, reply_to: lists of addresses.
        connection: what `send` uses; None: one of its own.
        attachments: of (filename, content, mimetype), or parts that `email` has made.
        headers: the `extra_headers`; a From is shown, and `from_email` gets the bounces.
        **ours: as of `Message`: priority, send_at, expires_after, tags, metadata, idempotency_key.
    """

    content_subtype = "plain"

    def __init__(
        self,
        subject: str = "",
        body: str | None = "",
        from_email: Person | None = None,
        to: Sequence[Person] | None = None,
        bcc: Sequence[Person] | None = None,
        connection: Connection | None = None,
        attachments: Iterable[Any] | None = None,
        headers: Mapping[str, str] | None = None,
        cc: Sequence[Person] | None = None,
        reply_to: Sequence[Person] | None = None,
        **ours: Any,
    ) -> None:
        for name, given in (("to", to), ("cc", cc), ("bcc", bcc), ("reply_to", reply_to)):
            if isinstance(given, str):
                raise TypeError(f"{name} must be a list or a tuple, not {excerpt(given)}: put it in brackets")
        super().__init__(
            subject,
            to,
            body,
            sender=from_email,
            cc=cc,
            bcc=bcc,
            reply_to=list(reply_to or []),
            extra_headers=headers,
            **ours,
        )
        self.connection = connection
        for one in attachments or ():
            self.attach(*([one] if isinstance(one, EmailObject | Attachment) else one))

    @property
    def to(self) -> list[Person]:
        return self.recipients

    @to.setter
    def to(self, value: Sequence[Person]) -> None:
        self.recipients = list(value)

    @property
    def from_email(self) -> Person | None:
        return self.sender

    @from_email.setter
    def from_email(self, value: Person | None) -> None:
        self.sender = value

    @property
    def encoding(self) -> str | None:
        return self.charset

    @encoding.setter
    def encoding(self, value: str | None) -> None:
        self.charset = value

    def attach(  # type: ignore[override]  # Flask-Mailman has content and type the other way round
        self,
        filename: str | EmailObject[Any, Any] | Attachment | None = None,
        content: Any = None,
        mimetype: str | None = None,
    ) -> None:
        """Attach a file of that name, content (bytes, a text, or a message) and type; or a part as it is."""
        if isinstance(filename, EmailObject | Attachment):
            if content is not None or mimetype is not None:
                raise ValueError("a part has content and type already: give it alone")
            self.attachments.append(filename)
        elif content is None:
            raise ValueError(f"the attachment {excerpt(filename)} has no content: give some")
        else:
            content = content.message() if isinstance(content, EmailMessage) else content
            if isinstance(content, EmailObject):
                content = content.as_bytes()
                mimetype = mimetype or "message/rfc822"
            self.attachments.append(Attachment(filename, mimetype, content))

    def attach_file(self, path: str | Path, mimetype: str | None = None) -> None:
        """Attach a file, which is read now."""
        file = mailtasks.Attachment.from_path(path)
        self.attachments.append(Attachment(file.filename, mimetype, file.content))

    def mailable(
        self, envelope_from: str | None = None, *, ascii_names: bool | None = None
    ) -> mailtasks.Message:
        """As `Message.mailable`."""
        shown = {name.lower(): value for name, value in self.extra_headers.items()}.get("from")
        if not shown:
            return super().mailable(envelope_from, ascii_names=ascii_names)
        other = copy(self)
        other.extra_headers = {
            name: value for name, value in self.extra_headers.items() if name.lower() != "from"
        }
        other.sender = shown
        return other.mailable(envelope_from or person(self.sender or shown), ascii_names=ascii_names)

    def message(self) -> StandardMessage:
        """The mail as an object of the standard library's `email`."""
        return BytesParser(StandardMessage, policy=SMTP).parsebytes(self.as_bytes())

    def send(self, fail_silently: bool = False) -> int:  # type: ignore[override]  # as Flask-Mailman has it
        """Send it; returns how many mails were accepted, 1 or 0.

        Raises:
            MessageError: it can't be mailed as it is.
            StoreUnavailable: Redis is away; with `fail_silently` that is logged.
        """
        if self.connection is not None:
            return self.send_through(self.connection)
        try:
            state = current_app.extensions["mail"]
        except KeyError:
            raise RuntimeError(
                "the current Flask app doesn't know mailtasks; call mail.init_app(app)"
            ) from None
        return self.send_through(state.get_connection(fail_silently))

    def send_through(self, connection: Connection) -> int:
        """Send it by a connection, now; to nobody, if it has no recipients. Returns how many, 1 or 0."""
        return connection.send_messages([self]) if self.send_to else 0

    def _forms(self) -> tuple[str | None, dict[str, str]]:
        body, others = super()._forms()
        return (None, {"html": body or "", **others}) if self.content_subtype == "html" else (body, others)


class EmailMultiAlternatives(EmailMessage):
    """An `EmailMessage` with its text in other forms, too: `alternatives`, of (content, mimetype)."""

    def __init__(
        self,
        subject: str = "",
        body: str | None = "",
        from_email: Person | None = None,
        to: Sequence[Person] | None = None,
        bcc: Sequence[Person] | None = None,
        connection: Connection | None = None,
        attachments: Iterable[Any] | None = None,
        headers: Mapping[str, str] | None = None,
        alternatives: Iterable[tuple[str, str]] | None = None,
        cc: Sequence[Person] | None = None,
        reply_to: Sequence[Person] | None = None,
        **ours: Any,
    ) -> None:
        super().__init__(
            subject, body, from_email, to, bcc, connection, attachments, headers, cc, reply_to, **ours
        )
        for content, mimetype in alternatives or ():
            self.attach_alternative(content, mimetype)

    @property
    def alternatives(self) -> list[tuple[str, str]]:
        return [(content, f"text/{subtype}") for subtype, content in self.alts.items()]

    def attach_alternative(self, content: str, mimetype: str) -> None:
        """Add a form of the text, such as ("<p>Hi</p>", "text/html").

        Raises:
            MessageError: it is no text.
        """
        kind, _, subtype = (mimetype or "").partition("/")
        if content is None or kind != "text" or not subtype:
            raise MessageError(
                f"an alternative has the type {excerpt(mimetype)}, and is a text: give content and a type "
                "such as 'text/html', and attach whatever else"
            )
        self.alts[subtype] = content
