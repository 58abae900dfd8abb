"""`recorded`: what mailers accept, in a list instead of a ledger. Behind the fixture `mailtasks_outbox`.

Whatever sends (`send`, `send_many`, `asend`, `send_mail.delay`, a web framework's calls, `on_commit`, an
outbox's relay) hands a `Mailer` composed batches, and that gives them to its `ledger`. There they are taken
down, for every mailer of the process, those that exist already and those that a test makes.

So everything before that is real: settings, checks, ids, the octets. What the stand-in does besides:

- a batch that comes again changes nothing, and an idempotency key with other content is a conflict;
- `status(id)` says `queued`, or `cancelled` after `cancel(id)`, which takes the mail out of the list.

What it doesn't: nothing is ever sent, so nothing fails or expires; no suppression list is asked, there is
always room, no hint is published, and what else needs a ledger (campaigns, `retry`, `stats`, …) is refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NoReturn, TypeAlias
from unittest.mock import patch

from mailtasks.errors import MailtasksError
from mailtasks.local.book import Parsed
from mailtasks.mailer import Mailer
from mailtasks.message import Priority
from mailtasks.pieces import base64_lines, pieces_of
from mailtasks.state import State
from mailtasks.store.books import Snapshot
from mailtasks.store.ledger import Acceptance, Ledger
from mailtasks.store.records import MessageRecord, NewBatch, moment

__all__ = ["Instead", "OutgoingMail", "other_parts", "recorded"]

Instead: TypeAlias = Callable[[Mailer, Any], Any]


@dataclass(frozen=True, slots=True)
class OutgoingMail(Parsed):
    """One message as it was accepted; `message`, `text` and `html` are what its content holds."""

    id: str
    message_id: str  # with its angle brackets
    sender: str  # of the envelope; "" is the null sender
    recipients: tuple[str, ...]  # of the envelope
    content: bytes = field(repr=False)  # as it goes to the relay, before dots are stuffed
    priority: Priority = Priority.NORMAL
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    send_at: datetime | None = None  # in UTC; None: at once
    expires_after: timedelta = timedelta()  # since then


@contextmanager
def recorded(*, stand_in: bool = True) -> Iterator[list[OutgoingMail]]:
    """Within the block, the list of all that mailers accept; for one test at a time.

    Args:
        stand_in: whether the list takes the ledger's place. If not, mail goes there as well.
    """
    mails: list[OutgoingMail] = []
    with other_parts(_standing_in(mails) if stand_in else {"ledger": partial(_Recording, mails)}):
        yield mails


def _standing_in(mails: list[OutgoingMail]) -> Mapping[str, Instead]:
    stand = _StandIn(mails)
    present = {name: lambda *_: stand for name in ("ledger", "books", "room", "blobs")}
    absent = {name: partial(_Absent, name) for name in ("redis", "campaigns", "events", "suppressions")}
    return {**present, **absent}


def other_parts(parts: Mapping[str, Instead]) -> AbstractContextManager[Any]:
    """Within the block, every mailer of the process has other parts than it has made itself.

    Args:
        parts: by the name of a mailer's attribute, what makes the other one of the mailer and its own.
    """
    made: dict[str, Any] = {name: _Part(name, instead) for name, instead in parts.items()}
    placed: AbstractContextManager[Any] = patch.multiple(Mailer, create=True, **made)
    return placed


class _Part:
    """Stands before the attribute of every mailer."""

    def __init__(self, name: str, instead: Instead) -> None:
        self._name = name
        self._instead = instead

    def __get__(self, mailer: Mailer | None, _: type[Mailer] | None = None) -> Any:
        return self if mailer is None else self._instead(mailer, vars(mailer)[self._name])

    def __set__(self, mailer: Mailer, made: Any) -> None:
        vars(mailer)[self._name] = made  # for later, when its own are wanted again


class _StandIn:
    """A ledger, its books, room and blobs, as far as accepting and asking for one message need them."""

    def __init__(self, mails: list[OutgoingMail]) -> None:
        self._mails = mails
        self._held: dict[str, Snapshot] = {}
        self._fingerprints: dict[str, str] = {}
        self._lock = threading.Lock()

    def demand(self, recipients: Mapping[Priority, int]) -> None:
        """There is room."""

    def demand_memory(self) -> None:
        """There is memory."""

    def bring(self, batches: Sequence[NewBatch]) -> None:
        """A batch has with it what its blobs stand for."""

    def held(self, batches: Sequence[str]) -> set[str]:
        """See `Ledger.held`."""
        return {id for id in batches if id in self._held}

    def accept(self, batches: Sequence[NewBatch]) -> list[tuple[Acceptance, bool]]:
        """See `Ledger.accept`. No hint is wanted."""
        with self._lock:
            return [(self._accepted(batch), False) for batch in batches]

    def _accepted(self, batch: NewBatch) -> Acceptance:
        if batch.id in self._held:
            same = self._fingerprints[batch.id] == batch.fingerprint
            return Acceptance.SAME if same else Acceptance.CONFLICT
        self._held[batch.id] = _snapshot(batch, time.time())
        self._fingerprints[batch.id] = batch.fingerprint
        self._mails += outgoing(batch)
        return Acceptance.NEW

    def cancel(self, batch: str, indices: Iterable[int]) -> int:
        """See `Ledger.cancel`."""
        with self._lock:
            if batch not in self._held:
                return -1
            seen, wanted = self._held[batch], set(indices)
            states = [
                State.CANCELLED if index in wanted else state for index, state in enumerate(seen.states)
            ]
            self._held[batch] = replace(seen, states=tuple(states))
            gone = {f"{batch}.{index}" for index in wanted}
            self._mails[:] = [mail for mail in self._mails if mail.id not in gone]
            return len(wanted)

    def batch(self, id: str) -> Snapshot | None:
        """See `Books.batch`."""
        return self._held.get(id)

    def batches(self, ids: Iterable[str]) -> Iterator[Snapshot]:
        """See `Books.batches`."""
        return (self._held[id] for id in ids if id in self._held)

    def __getattr__(self, name: str) -> NoReturn:
        raise _refused(name)


class _Absent:
    """A part that there isn't: whoever wants something of it is told so."""

    def __init__(self, name: str, *_: Any) -> None:
        self._name = name

    def close(self) -> None:
        """There is nothing to close."""

    def __getattr__(self, name: str) -> NoReturn:
        raise _refused(f"{self._name}.{name}")


def _refused(what: str) -> Exception:
    if what.startswith("__"):
        return AttributeError(what)
    return MailtasksError(
        f"{what.lstrip('_')} needs a ledger, and a test with mailtasks_outbox alone has none; "
        "let it have the fixture mailtasks_redis or mailtasks_worker as well"
    )


class _Recording:
    """A ledger that takes down what is new to it."""

    def __init__(self, mails: list[OutgoingMail], _: Mailer, ledger: Ledger) -> None:
        self._ledger = ledger
        self._mails = mails

    def accept(self, batches: Sequence[NewBatch]) -> list[tuple[Acceptance, bool]]:
        """See `Ledger.accept`."""
        answers = self._ledger.accept(batches)
        for batch, (answer, _) in zip(batches, answers, strict=True):
            if answer is Acceptance.NEW:
                self._mails += outgoing(batch)
        return answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


def outgoing(batch: NewBatch) -> list[OutgoingMail]:
    """The messages of a batch; not of a campaign's, which are rendered by workers."""
    return [
        _outgoing(batch, number, record, indices)
        for number, record, indices in batch.record.ranges()
        if batch.record.campaign is None
    ]


def _outgoing(batch: NewBatch, number: int, record: MessageRecord, indices: range) -> OutgoingMail:
    pieces = pieces_of(batch.bodies[number])
    return OutgoingMail(
        id=f"{batch.id}.{indices.start}",
        message_id=record.message_id,
        sender=record.sender,
        recipients=batch.recipients[indices.start : indices.stop],
        content=b"".join(
            piece if isinstance(piece, bytes) else base64_lines(batch.blobs[piece.digest]) for piece in pieces
        ),
        priority=batch.priority,
        tags=record.tags,
        metadata=record.metadata,
        send_at=moment(batch.send_at) if batch.send_at else None,
        expires_after=timedelta(seconds=batch.lifetime),
    )


def _snapshot(batch: NewBatch, now: float) -> Snapshot:
    begins = max(now, batch.send_at)
    return Snapshot(
        id=batch.id,
        priority=batch.priority,
        accepted=now,
        not_before=begins,
        expires=begins + batch.lifetime,
        finished=None,
        owner="",
        record=batch.record,
        recipients=batch.recipients,
        states=(State.QUEUED,) * len(batch.recipients),
        tries={},
    )
