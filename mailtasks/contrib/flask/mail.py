"""`Mail`: Flask-Mail's calls, which accept mail in the ledger instead of talking to a mail server.

The rules:

1. The configuration is read when `Mail` is told of the application, as Flask-Mail reads it; a wrong setting
   stops it there. Nothing is connected to before the first mail.
2. `send` returns when the ledger has the mail. What Flask-Mail refuses is refused where it does, sending
   suppressed or not.
3. Is the application's Celery one that `mailtasks.celery.install` was called for, then mail goes through it,
   and it gets these settings, in workers as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, current_app

from mailtasks.contrib.flask.commands import mailtasks_command
from mailtasks.contrib.flask.config import Person
from mailtasks.contrib.flask.connection import Connection, email_dispatched
from mailtasks.contrib.flask.mailman import EmailMessage, EmailMultiAlternatives
from mailtasks.contrib.flask.message import Message
from mailtasks.contrib.flask.state import AppMail
from mailtasks.mailer import Mailer
from mailtasks.settings import Settings


class _Sending:
    """The calls that `Mail` and `app.extensions["mail"]` have in common."""

    def _state(self) -> AppMail:
        raise NotImplementedError

    def send(self, message: Message | EmailMessage, fail_silently: bool = False) -> int:
        """Send one message: when this returns, the ledger has it.

        Args:
            fail_silently: Flask-Mailman's; log it if Redis is away.

        Returns:
            How many were accepted: 1, or 0.

        Raises:
            MessageError: it can't be mailed as it is.
            StoreUnavailable: Redis is away; said within the time that `Mailer.send` states.
        """
        if isinstance(message, EmailMessage):
            return message.send_through(message.connection or self.get_connection(fail_silently))
        with Connection(self._state(), fail_silently=fail_silently) as connection:
            message.send(connection)
        return 1 if message.mailtasks_ids or self._state().suppress else 0

    def send_message(self, *args: Any, **fields: Any) -> None:
        """Send a `Message` of these fields."""
        self.send(Message(*args, **fields))

    def connect(self) -> Connection:
        """A block in which many messages are sent, accepted in few batches."""
        return Connection(self._state())

    @contextmanager
    def record_messages(self) -> Iterator[list[Any]]:
        """Within the block, the list of all messages that were sent; for tests."""
        outbox: list[Any] = []

        def record(message: Any, **_: Any) -> None:
            outbox.append(message)

        with email_dispatched.connected_to(record):
            yield outbox

    # Flask-Mailman's

    def get_connection(self, fail_silently: bool = False) -> Connection:
        """Flask-Mailman's `connect`."""
        return Connection(self._state(), fail_silently=fail_silently)

    def send_mail(
        self,
        subject: str,
        body: str,
        from_email: Person | None,
        recipient_list: Iterable[Person],
        fail_silently: bool = False,
        connection: Connection | None = None,
        html_message: str | None = None,
    ) -> int:
        """Flask-Mailman's: send one mail to all of a list, who see each other; returns how many mails."""
        message = EmailMultiAlternatives(subject, body, from_email, list(recipient_list))
        if html_message:
            message.attach_alternative(html_message, "text/html")
        return message.send_through(connection or self.get_connection(fail_silently))

    def send_mass_mail(
        self,
        datatuple: Iterable[tuple[str, str, Person | None, Iterable[Person]]],
        fail_silently: bool = False,
        connection: Connection | None = None,
    ) -> int:
        """Flask-Mailman's: send mails of (subject, body, from_email, recipients); returns how many."""
        messages = [
            EmailMessage(subject, body, sender, list(recipients))
            for subject, body, sender, recipients in datatuple
        ]
        return (connection or self.get_connection(fail_silently)).send_messages(messages)


class MailState(_Sending, AppMail):
    """`app.extensions["mail"]`: what one application's mail needs, with the calls of `Mail`."""

    def _state(self) -> AppMail:
        return self


class Mail(_Sending):
    """Flask-Mail's `Mail`.

    Args:
        app: whose configuration counts, whatever the current application is. None: that of the current
            application, each of which is to be made known by `init_app`.

    Raises:
        SettingsError: a setting is wrong.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self.app = app
        self.state = self.init_app(app) if app is not None else None

    def init_app(self, app: Flask) -> MailState:
        """Read an application's configuration; give it `flask mailtasks`, and `app.extensions["mail"]`.

        Raises:
            SettingsError: a setting is wrong.
        """
        state = MailState(app)
        app.extensions["mail"] = state
        app.cli.add_command(mailtasks_command)
        return state

    @property
    def mailer(self) -> Mailer:
        """The way in of the application: `mail.mailer.status(id)`."""
        return self._state().mailer

    @property
    def settings(self) -> Settings:
        """The settings of the application."""
        return self._state().settings

    def _state(self) -> MailState:
        app = self.app or current_app
        try:
            state: MailState = app.extensions["mail"]
        except KeyError:
            raise RuntimeError(
                f"the Flask app {app.name!r} doesn't know mailtasks; call mail.init_app(app)"
            ) from None
        return state
