"""`on_commit`: mail that is sent when a session's outermost transaction has committed, and not otherwise.

The rules:

1. What is asked for belongs to the innermost transaction that is open, a SAVEPOINT or the outermost. If that
   is rolled back, the mail is dropped; if a SAVEPOINT is released, its mail becomes the enclosing one's.
2. Whatever is wrong with a message is said when it is asked for, so that the transaction can still be rolled
   back. What is left for the commit to fail at is Redis.
3. It is sent after the transaction has ended and its connection is back in the pool: a Redis that hangs
   holds no lock and no connection of the database.

A crash between the commit and the send loses the mail. Where that must not be, there is the outbox.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, scoped_session
from sqlalchemy.util import concurrency

from mailtasks import default_mailer
from mailtasks.errors import (
    CommittedWithoutMail,
    IdempotencyConflict,
    MailtasksError,
    MessageError,
    StoreUnavailable,
)
from mailtasks.message import Mailable, Message, as_message
from mailtasks.outbox.composing import composed
from mailtasks.sql.database import without_registry
from mailtasks.threads import in_thread

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session

    from mailtasks.mailer import Mailer

    AnySession = Session | scoped_session[Any] | AsyncSession | async_scoped_session[Any]

_KEY: Final = "mailtasks"  # in `session.info`


def on_commit(session: AnySession, *messages: Mailable, mailer: Mailer | None = None) -> list[str]:
    """Send messages when the session's outermost transaction has committed; drop them if it is rolled back.

    All messages of a transaction are sent in one `send_many`. A SAVEPOINT that is rolled back drops those
    that were asked for within it. If the session has no transaction yet, its next one begins here.

    Args:
        session: a `Session`, an `AsyncSession` or its `sync_session`, or a `scoped_session`.
        mailer: by default the one behind `mailtasks.send`.

    Returns:
        The ids that the messages will have, in order: for a column of yours, or to ask `status` later.

    Raises:
        MessageError: a message can't be mailed as it is; nothing of this call is sent.
        IdempotencyConflict: two messages of this transaction have one key and other content.

    The call that commits raises `CommittedWithoutMail`, a `StoreUnavailable`, if Redis is away: the
    transaction *is* committed then. It raises `IdempotencyConflict` if a key was used before for other mail.
    """
    pending = _pending(_plain(session))
    mailer = mailer or default_mailer()
    wanted = [as_message(message) for message in messages]
    packed, ids = composed(wanted, mailer.settings)
    pending.check_keys(wanted, ids)
    if packed:
        pending.ask(mailer, wanted, ids)
    return ids


def _plain(session: Any) -> Session:
    """The `Session` behind whatever wraps it."""
    session = without_registry(session)
    session = getattr(session, "sync_session", session)
    if not isinstance(session, Session):
        raise MessageError(
            f"on_commit takes a Session or an AsyncSession, not {type(session).__name__}; with a Connection "
            "use an Outbox, or send after its commit"
        )
    return session


def _pending(session: Session) -> _Pending:
    """What the session has to send; it listens to the session from its first use on."""
    if _KEY not in session.info:
        session.info[_KEY] = _Pending(session)
    pending: _Pending = session.info[_KEY]
    return pending


@dataclass(slots=True)
class _Asked:
    """What one call asked for."""

    within: SessionTransaction
    mailer: Mailer
    messages: Sequence[Message]
    ids: Sequence[str]


@dataclass(slots=True)
class _Batch:
    """What one mailer has to send at a commit."""

    messages: list[Message] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


class _Pending:
    """The mail of one session's transaction, and the ears that hear how that ends."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._asked: list[_Asked] = []
        self._committed: SessionTransaction | None = None
        event.listen(session, "after_commit", self._note_commit)
        event.listen(session, "after_transaction_end", self._end)

    def ask(self, mailer: Mailer, messages: Sequence[Message], ids: Sequence[str]) -> None:
        """Remember what is to be sent with the innermost transaction."""
        self._asked.append(_Asked(self._begun(), mailer, messages, tuple(ids)))

    def check_keys(self, messages: Sequence[Message], ids: Sequence[str]) -> None:
        """Refuse a key that this transaction has for another mail: at the commit it would be too late."""
        known = {id: message for asked in self._asked for message, id in _pairs(asked)}
        for message, id in zip(messages, ids, strict=True):
            key, other = message.idempotency_key, known.get(id)
            if key is not None and other and other.fingerprint() != message.fingerprint():
                raise IdempotencyConflict(key, id)

    def _begun(self) -> SessionTransaction:
        transaction = _innermost(self._session)
        if transaction is not None:
            return transaction
        if not self._session.autobegin:
            raise MessageError("the session has no transaction whose commit could send this; begin one first")
        return self._session.begin()  # as whatever is done first with a session does

    def _note_commit(self, session: Session) -> None:
        """SQLAlchemy says this of a SAVEPOINT, too, and while the transaction isn't over yet."""
        self._committed = _innermost(session)

    def _end(self, session: Session, transaction: SessionTransaction) -> None:
        """A transaction is over: committed, if that was noted; a flush has one of its own, with no mail."""
        committed = transaction is self._committed
        mine = [asked for asked in self._asked if asked.within is transaction]
        enclosing = _innermost(session)
        if committed and enclosing is not None:
            for asked in mine:
                asked.within = enclosing
            return
        self._asked = [asked for asked in self._asked if asked.within is not transaction]
        if committed and mine:
            _send(mine)


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


def _pairs(asked: _Asked) -> Sequence[tuple[Message, str]]:
    return list(zip(asked.messages, asked.ids, strict=True))


def _send(asked: Sequence[_Asked]) -> None:
    """One call a mailer; the first error is raised when all had their turn."""
    batches: dict[Mailer, _Batch] = {}
    for one in asked:
        batch = batches.setdefault(one.mailer, _Batch())
        batch.messages += one.messages
        batch.ids += one.ids
    errors = [error for mailer, batch in batches.items() if (error := _sent(mailer, batch))]
    if errors:
        raise errors[0]


def _sent(mailer: Mailer, batch: _Batch) -> MailtasksError | None:
    """Send; what went wrong is returned."""
    try:
        _call(lambda: mailer.send_many(batch.messages, ids=batch.ids))
    except StoreUnavailable as error:
        return CommittedWithoutMail(error, batch.messages, batch.ids)
    except MailtasksError as error:
        error.add_note("The transaction is committed.")
        return error
    return None


def _call(send: Callable[[], object]) -> None:
    """Call; under an AsyncSession in a thread, so that the event loop isn't held up."""
    if "greenlet" in sys.modules and concurrency.in_greenlet():
        # Its name since SQLAlchemy 2.1, and the one before.
        wait_for = getattr(concurrency, "await_", None) or concurrency.await_only
        wait_for(in_thread(send))
    else:
        send()
