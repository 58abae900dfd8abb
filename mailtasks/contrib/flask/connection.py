"""What takes messages: `Connection` collects those of a block, and has them accepted in few batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from inspect import signature
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeAlias

from blinker import NamedSignal, Namespace
from flask import Flask

import mailtasks
from mailtasks import packing
from mailtasks.contrib.flask.config import Person
from mailtasks.contrib.flask.message import Message
from mailtasks.contrib.flask.state import AppMail
from mailtasks.errors import IdempotencyConflict, MailtasksError, MessageError, StoreError

log = logging.getLogger(__name__)


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


class Dispatched(NamedSignal):
    """Tells receivers as Flask-Mail's documentation has it, `(message, app=…)`, or as its 0.10 does it.

    That is `(app, message=…)`, for a receiver whose parameter `message` isn't its first.
    """

    def tell(self, message: Sendable, app: Flask) -> None:
        """Of a message of an application."""
        for receiver in () if self.is_muted else self.receivers_for(app):
            _, *others = [*signature(receiver).parameters, ""]
            if "message" in others:
                receiver(app, message=message)
            else:
                receiver(message, app=app)


email_dispatched: Final = Dispatched(
    "email-dispatched", doc="A message was accepted, or would have been if sending weren't suppressed."
)
signals: Final = Namespace({email_dispatched.name: email_dispatched})

_AT_ONCE: Final = 500
"""Messages that a connection collects: enough for few batches, and not a whole newsletter in memory."""


_Waiting: TypeAlias = tuple[Sendable, mailtasks.Message]
"""A message as the user has it, and as it was when it was sent."""


class Connection:
    """Collects messages within a `with` block and accepts them in few batches.

    A message that can't be mailed is refused by `send`; one that proves too large, or whose idempotency key
    has other mail, when the block ends. The others are accepted then, however it ends: whatever was sent
    before an error is sent.
    """

    def __init__(self, state: AppMail, *, fail_silently: bool = False) -> None:
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
            message.mailtasks_ids = packing.places([mailable])  # as if; for views that tell it
            email_dispatched.tell(message, state.app)
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
            email_dispatched.tell(message, self._state.app)
