"""Flask: the calls of Flask-Mail, and of Flask-Mailman as far as they are common, over the queue.

    from mailtasks.contrib.flask import Mail, Message

    mail = Mail(app)
    mail.send(Message("Hello", recipients=["ann@example.com"], body="Hi"))

Read it as a mail travels: `config` (Flask's configuration becomes our settings), `message` (what a view
builds; `attachment` and `standard` lay it out), `state` (what an application's mail needs), `connection` (it
is accepted, or only signalled), `mailman` (Flask-Mailman's names for the same), `mail` (the calls),
`commands` and `worker` (`flask mailtasks …`). What differs from Flask-Mail is in `docs/how-to/moving.md`.

Needs `pip install mailtasks[flask]`.
"""

from mailtasks.contrib.flask.attachment import Attachment
from mailtasks.contrib.flask.connection import Connection, email_dispatched, signals
from mailtasks.contrib.flask.mail import Mail, MailState
from mailtasks.contrib.flask.mailman import EmailMessage, EmailMultiAlternatives
from mailtasks.contrib.flask.message import BadHeaderError, IncompleteMessage, Message

__all__ = [
    "Attachment",
    "BadHeaderError",
    "Connection",
    "EmailMessage",
    "EmailMultiAlternatives",
    "IncompleteMessage",
    "Mail",
    "MailState",
    "Message",
    "email_dispatched",
    "signals",
]
