"""Flask's calls as a user's type checker sees them. `mypy --strict` reads this file; nobody runs it."""

from __future__ import annotations

from typing import Any, assert_type

from flask import Flask

import mailtasks
from mailtasks import Mailer, Settings
from mailtasks.contrib.flask import (
    Attachment,
    Connection,
    EmailMessage,
    EmailMultiAlternatives,
    Mail,
    MailState,
    Message,
    email_dispatched,
)

app = Flask("shop")
mail = Mail(app)
assert_type(Mail().init_app(app), MailState)
assert_type(mail.mailer, Mailer)
assert_type(mail.settings, Settings)

message = Message(
    "Hello",
    ["ann@example.com", ("Bob", "bob@example.com")],
    sender=("Shop", "shop@example.com"),
    attachments=[Attachment("a.txt", "text/plain", b"1")],
    priority="urgent",
    expires_after=90,
)
message.html = "<b>Hi</b>"
message.attach("b.txt", data="text", headers={"Content-ID": "<b>"})
assert_type(message.mailtasks_ids, list[str])
assert_type(message.mailable(), mailtasks.Message)
assert_type(mail.send(message), int)
with mail.connect() as connection, mail.record_messages() as outbox:
    assert_type(connection, Connection)
    connection.send(message)
    assert_type(outbox, list[Any])

letter = EmailMultiAlternatives("Hello", "Hi", to=["ann@example.com"])
letter.attach_alternative("<b>Hi</b>", "text/html")
assert_type(letter.send(fail_silently=True), int)
mail.send(EmailMessage("Hello", to=["ann@example.com"]))


@email_dispatched.connect
def note(message: Message, app: Flask) -> None:
    """A receiver."""


Message("Hello", priority=1)  # type: ignore[arg-type]
Message("Hello", prority="urgent")  # type: ignore[call-arg]
Message("Hello", attachments=["a.txt"])  # type: ignore[list-item]
