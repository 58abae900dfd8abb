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

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeAlias
from weakref import WeakSet

from blinker import Namespace
from celery import Celery
from flask import Flask, current_app

import mailtasks
from mailtasks.contrib.flask.commands import mailtasks_command
from mailtasks.contrib.flask.config import flag, settings_in
from mailtasks.contrib.flask.mailman import EmailMessage, EmailMultiAlternatives
from mailtasks.contrib.flask.message import Message, Person
from mailtasks.errors import IdempotencyConflict, MailtasksError, MessageError, SettingsError, StoreError
from mailtasks.installation import FRAMEWORKS, Installation, installation_of, is_installed, with_broker
from mailtasks.mailer import Mailer
from mailtasks.settings import Settings

log = logging.getLogger(__name__)

signals: Final = Namespace()
email_dispatched: Final = signals.signal(
    "email-dispatched",
    doc="A message was accepted, or would have been if sending weren't suppressed: `(message, app=…)`.",
)

_AT_ONCE: Final = 500
"""Messages that a connection collects: enough for few batches, and not a whole newsletter in memory."""


class Sendable(Protocol):
    """What a connection takes: a `Message`, or Flask-Mailman's."""

    sender: Person | None
    mailtasks_ids: list[str]

    def mailable(
        self, envelope_from: str | None = None, *, ascii_names: bool | None = None
    ) -> mailtasks.Message:
        """What is sent."""

    def note_sending(self, now: float) -> None:
        """It is being sent."""


_Waiting: TypeAlias = tuple[Sendable, mailtasks.Message]
"""A message as the user has it, and as it was when it was sent."""


class Connection:
    """Collects messages within a `with` block and accepts them in few batches.

    A message that can't be mailed is refused by `send`; one that proves too large, or whose idempotency key
    has other mail, when the block ends. The others are accepted then, however it ends: whatever was sent
    before an error is sent.
    """

    def __init__(self, state: MailState, *, fail_silently: bool = False) -> None:
        self._state = state
        self._fail_silently = fail_silently
        self._is_open = False
        self._waiting: list[_Waiting] = []

    def __enter__(self) -> Self:
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        self._hand_over()

    def send(self, message: Sendable, envelope_from: str | None = None) -> None:
        """Send a message when the block ends, or some hundred are together.

        Args:
            envelope_from: where bounces go; None: to the sender.

        Raises:
            MessageError: it can't be mailed as it is; the others are not concerned.
            StoreUnavailable: some hundred were together, and Redis is away.
        """
        if not self._is_open:
            raise MailtasksError(
                "the connection isn't open, so the message would never go; send within "
                "`with mail.connect() as connection:`"
            )
        state = self._state
        message.sender = message.sender or state.default_sender
        mailable = message.mailable(envelope_from, ascii_names=state.ascii_attachments)
        message.note_sending(time.time())
        message.mailtasks_ids = []
        if state.suppress:
            email_dispatched.send(message, app=state.app)
            return
        self._waiting.append((message, mailable))
        if len(self._waiting) >= _AT_ONCE:
            self._hand_over()

    def send_message(self, *args: Any, **fields: Any) -> None:
        """Send a `Message` of these fields."""
        self.send(Message(*args, **fields))

    def send_messages(self, messages: Iterable[Sendable]) -> int:
        """Flask-Mailman's: send them now, within a block or without one.

        Returns:
            How many; 0 if Redis is away and the connection fails silently, which is logged.
        """
        wanted = list(messages)
        was_open, self._is_open = self._is_open, True
        try:
            for message in wanted:
                self.send(message)
        finally:
            self._is_open = was_open
            accepted = self._hand_over()
        return len(wanted) if accepted else 0

    def _hand_over(self) -> bool:
        """Accept what was collected; whether it is."""
        waiting, self._waiting = self._waiting, []
        try:
            self._accept(waiting)
        except StoreError as error:
            if not self._fail_silently:
                raise
            log.error("mail was not accepted: messages=%d error=%s", len(waiting), error)
            return False
        return True

    def _accept(self, waiting: Sequence[_Waiting]) -> None:
        if not waiting:
            return
        try:
            ids = self._state.mailer.send_many([mailable for _, mailable in waiting])
        except IdempotencyConflict as error:
            pairs = zip(waiting, error.ids, strict=True)
            self._tell([(one, id) for one, id in pairs if one[1].idempotency_key != error.key])
            raise
        except MessageError:  # too large, which is seen when it is composed; nothing was accepted
            if len(waiting) > 1:
                self._accept_singly(waiting)
            raise
        self._tell(zip(waiting, ids, strict=True))

    def _accept_singly(self, waiting: Sequence[_Waiting]) -> None:
        """So that what can't be mailed doesn't take the others with it; it has been raised already."""
        for one in waiting:
            with suppress(MessageError, IdempotencyConflict):
                self._accept([one])

    def _tell(self, accepted: Iterable[tuple[_Waiting, str]]) -> None:
        for (message, _), id in accepted:
            message.mailtasks_ids.append(id)
            email_dispatched.send(message, app=self._state.app)


class _Sending:
    """The calls that `Mail` and `app.extensions["mail"]` have in common."""

    def _state(self) -> MailState:
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


class MailState(_Sending):
    """What one application's mail needs: `app.extensions["mail"]`. May be changed, in tests for instance.

    Attributes:
        app: whose it is.
        default_sender: of messages that name none.
        suppress: whether messages are only checked and signalled.
        ascii_attachments: whether attachments' names become ASCII.
        framework: what Flask's configuration says of our settings.
        own_settings: all of them, from every source.
    """

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.framework = settings_in(app.config)
        self.own_settings = Settings.load(framework=self.framework)
        self.default_sender: Person | None = self.own_settings.default_from
        suppressed = flag(app.config, "MAIL_SUPPRESS_SEND")
        self.suppress = app.testing if suppressed is None else suppressed
        self.ascii_attachments = bool(flag(app.config, "MAIL_ASCII_ATTACHMENTS"))
        self._mailer: Mailer | None = None
        self._lock = threading.Lock()

    @property
    def celery(self) -> Celery | None:
        """The application's Celery, if mail goes through it."""
        celery = self.app.extensions.get("celery")
        return celery if is_installed(celery) else None

    @property
    def settings(self) -> Settings:
        """Those that mail is sent with: with the broker of the application's Celery, if it goes through that.

        Raises:
            SettingsError: they name another broker than that Celery.
        """
        return self.own_settings if self.celery is None else self._installation(self.celery).settings

    @property
    def mailer(self) -> Mailer:
        """The way in, for whatever else it does: `status`, `cancel`, a campaign. Made on first use."""
        if (celery := self.celery) is not None:
            return self._installation(celery).mailer
        with self._lock:
            self._mailer = self._mailer or Mailer(self.own_settings)
            return self._mailer

    def _installation(self, celery: Celery) -> Installation:
        installation = installation_of(celery)
        if not installation.was_given_settings:
            settings = installation.settings
            if settings != with_broker(self.own_settings, settings.broker_url):
                raise SettingsError(
                    f"the Celery app {celery.main!r} has read its settings before Mail was told of the Flask "
                    "app, so it doesn't know Flask's config; call `mail.init_app(app)` and set "
                    "app.extensions['celery'] first"
                )
        return installation

    def _state(self) -> MailState:
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
        _states.add(state)
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


_states: Final[WeakSet[MailState]] = WeakSet()


def _settings_of(celery: Celery) -> Settings | None:
    """Those of the Flask application whose Celery it is."""
    for state in list(_states):
        if state.app.extensions.get("celery") is celery:
            return state.own_settings
    return None


FRAMEWORKS.append(_settings_of)
