"""Every error that mailtasks raises, as one tree.

::

    MailtasksError
    ├── SettingsError            a setting is wrong; the sentence names it and where it came from
    ├── MessageError             this message can't be mailed as it is; nothing was accepted
    │   ├── AddressError         an address is none, or holds what would break the dialogue
    │   ├── AttachmentError      an attachment isn't there or can't be read
    │   ├── MessageTooLarge      larger than the size limit
    │   ├── TemplateError        a template is wrong; the sentence names file and line
    │   └── RenderError          a template is right, and this recipient's fields don't fit it
    ├── InputError               a file of people can't be read, or not to its end; says where
    ├── IdempotencyConflict      the key was used before with other content
    ├── UnknownMessage           no such id: never accepted, or past its retention
    ├── CampaignError            a campaign can't be begun, or go on, as asked
    │   ├── CampaignConflict     one of that name was begun with another template or other options
    │   ├── InputChanged         its rows aren't those that were accepted before
    │   └── UnknownCampaign      there is none of that name
    ├── IllegalMove              a state can't become that state
    ├── StoreError               Redis didn't do what was asked
    │   └── StoreUnavailable     Redis is away, hangs, or is loading
    │       ├── MemoryFull       it is fuller than `memory_ceiling` allows; nothing was accepted
    │       ├── BlobsFull        attachments take as much of it as `blob_cap` allows; nothing was accepted
    │       ├── BlobStoreError   what holds attachments (a folder, an object store) is away or full
    │       ├── BacklogFull      too much of that priority waits already; nothing was accepted
    │       └── CommittedWithoutMail  … when a transaction had just been committed
    ├── DatabaseError            the database that holds the outbox is away, or refused what was asked
    ├── RelayError               a connection to a relay could not be had or kept
    │   ├── RelayUnavailable     no connection: DNS, refused, timed out, greeting, TLS, AUTH
    │   └── PoolTimeout          every connection was lent for too long
    └── DeliveryError            what a recipient's attempt ended with, for `autoretry_for`
        ├── TemporaryFailure     try again later
        └── PermanentFailure     refused for good

A sentence says what was wrong, where, and what to do. Nothing is left half done behind an error;
where that can't be known (a time-out), the error says so and carries what makes trying again safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class MailtasksError(Exception):
    """The root of the tree: `except MailtasksError` catches whatever this package raises itself."""


class SettingsError(MailtasksError, ValueError):
    """A setting is wrong. One line that names the setting, its source and what it should be."""


class MessageError(MailtasksError, ValueError):
    """A message can't be mailed as it is. Raised before anything is accepted."""


class AddressError(MessageError):
    """An address is none, or holds a character that would break headers or the SMTP dialogue."""


class AttachmentError(MessageError):
    """An attachment isn't there or can't be read."""


class MessageTooLarge(MessageError):
    """The message is larger than `size_limit` allows."""


class TemplateError(MessageError):
    """A template can't be mailed with, whoever it is for.

    Attributes:
        where: the file, or which of the template's sources.
        line: of it, from 1 on; None: the whole of it is meant.
        told: what is wrong, and what to do.
    """

    def __init__(self, where: str, line: int | None, told: str) -> None:
        self.where = where
        self.line = line
        self.told = told
        super().__init__(f"{place(where, line)}: {told}")


class RenderError(MessageError):
    """A template can't be rendered with the fields of one recipient. The others' mail isn't concerned.

    Attributes:
        recipient: whose mail it would have been.
    """

    def __init__(self, recipient: str, told: str) -> None:
        self.recipient = recipient
        super().__init__(f"the mail to {recipient}: {told}")


def place(where: str, line: int | None) -> str:
    """A place in a template, as an error names it."""
    return where if line is None else f"{where}, line {line}"


class InputError(MailtasksError, ValueError):
    """A file of people, or what else is read as one, is not what can be read, or breaks off.

    Attributes:
        source: the file, as errors name it.
        reason: what is wrong and what to do.
        line: where, from 1; None if it is no matter of a line.
        rows: how many came before it, and were given to the caller.
    """

    def __init__(self, source: str, reason: str, line: int | None = None, rows: int = 0) -> None:
        self.source = source
        self.reason = reason
        self.line = line
        self.rows = rows
        super().__init__(source, reason, line, rows)

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}, line {self.line}"
        before = {0: "", 1: " (1 row came before)"}.get(self.rows, f" ({self.rows:,} rows came before)")
        return f"{where}: {self.reason}{before}"


class IdempotencyConflict(MailtasksError):
    """The idempotency key was used before, for other content.

    Attributes:
        key: None if it is an id that was given again with other content.
        id: the message that holds the key.
        ids: of all messages of the call, if it got that far: the others are accepted under theirs.
    """

    def __init__(self, key: str | None, id: str, ids: Sequence[str] = ()) -> None:
        self.key = key
        self.id = id
        self.ids = tuple(ids)
        what = "the id" if key is None else f"idempotency key {key!r}"
        super().__init__(
            f"{what} was used before with other content, by message {id}; "
            f"use another {'id' if key is None else 'key'} for another mail"
        )


class UnknownMessage(MailtasksError, LookupError):
    """No such id: never accepted, or finished so long ago that its retention has ended.

    Attributes:
        ledger: the Redis that was asked, its password masked.
    """

    def __init__(self, id: str, ledger: str) -> None:
        self.id = id
        self.ledger = ledger
        super().__init__(
            f"no message {id!r} is known in {ledger}: "
            "it was never accepted there (it may wait in an outbox), or its retention has ended; "
            "check the id and whether that is the right Redis, or `mailtasks find ADDRESS`"
        )


class CampaignError(MailtasksError):
    """A campaign can't be begun, or go on, as asked."""


class CampaignConflict(CampaignError):
    """A campaign of that name was begun with another template or other options.

    Attributes:
        name: the campaign's.
        fields: what is different.
    """

    def __init__(self, name: str, fields: Sequence[str]) -> None:
        self.name = name
        self.fields = tuple(fields)
        super().__init__(
            f"the campaign {name!r} was begun with other values of {', '.join(fields)}; give those of "
            "then to take it up, or another name to another campaign"
        )


class InputChanged(CampaignError):
    """The rows aren't those that were accepted before. Nothing of the changed ones was accepted.

    Attributes:
        name: the campaign's.
        row: the first that may be another, from 1.
    """

    def __init__(self, name: str, row: int, what: str) -> None:
        self.name = name
        self.row = row
        super().__init__(
            f"the input of campaign {name!r} has changed: {what}; give the rows of then, in their order, or "
            "send the others under another name"
        )


class UnknownCampaign(CampaignError, LookupError):
    """There is no campaign of that name.

    Attributes:
        name: that was asked for.
    """

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        there = (
            f"there are {', '.join(known[:10])}{', …' if len(known) > 10 else ''}"
            if known
            else "there is none"
        )
        super().__init__(f"no campaign is called {name!r}; {there}")


class IllegalMove(MailtasksError):
    """A state was asked to become one that the table in `mailtasks.state` doesn't allow."""


class StoreError(MailtasksError):
    """Redis answered, but not with what was asked for.

    Attributes:
        unanswered: whether there was no answer, so that what was asked for may have been done all the same.
    """

    unanswered = False


class StoreUnavailable(StoreError, ConnectionError):
    """Redis is away, hangs or is still loading.

    Attributes:
        ids: the messages whose acceptance is not known, because the connection broke or timed
            out after the request was written. Trying again with these ids (`send(message, id=…)`), or
            with idempotency keys, is safe; `status(id)` tells whether Redis took one.
    """

    def __init__(self, message: str, ids: Sequence[str] = (), *, unanswered: bool = False) -> None:
        self.ids = tuple(ids)
        self.unanswered = unanswered
        super().__init__(message)


class MemoryFull(StoreUnavailable):
    """Redis is fuller than `memory_ceiling` allows, so nothing was accepted. Delivery goes on."""


class BlobsFull(StoreUnavailable):
    """Attachments take as much of Redis as `blob_cap` allows, so nothing was accepted. Delivery goes on.

    Attributes:
        used: bytes of all that are stored.
        wanted: bytes of those that are not.
        cap: how many there may be.
    """

    def __init__(self, used: int, wanted: int, cap: int) -> None:
        self.used = used
        self.wanted = wanted
        self.cap = cap
        super().__init__(
            f"attachments take {used:,} bytes of Redis, and {wanted:,} more would exceed blob_cap = {cap:,}, "
            "so nothing was accepted; try again when the workers have sent more, raise it, or let `blobs` "
            "name a folder or an object store"
        )


class BlobStoreError(StoreUnavailable):
    """What holds attachments did not do what was asked: it is away, full, read-only, or was never there.

    Raised at accept, nothing was accepted, and nothing half written is left. At a worker it isn't raised:
    the mail is tried again.
    """


class BacklogFull(StoreUnavailable):
    """More mail of one priority would wait than `backlog_PRIORITY` allows, so nothing was accepted.

    Attributes:
        priority: which.
        waiting: recipients of it that aren't finished.
        most: how many there may be.
    """

    def __init__(self, priority: str, waiting: int, wanted: int, most: int) -> None:
        self.priority = priority
        self.waiting = waiting
        self.most = most
        advice = "send fewer at once" if wanted > most else "try again later, or start more workers"
        super().__init__(
            f"{waiting:,} recipients of {priority} mail are waiting and {wanted:,} more would exceed "
            f"backlog_{priority} = {most:,}, so nothing was accepted; {advice}"
        )


class CommittedWithoutMail(StoreUnavailable):
    """A transaction is committed, and the mail that was to be sent with it couldn't be accepted.

    Raised by the call that committed. Don't repeat the transaction; `send_many(messages, ids=ids)` is safe.

    Attributes:
        messages: those that were asked for in the transaction.
        ids: theirs, in order, as `on_commit` returned them.
    """

    def __init__(self, reason: StoreUnavailable, messages: Sequence[Any], ids: Sequence[str]) -> None:
        self.messages = tuple(messages)
        mails = "1 mail" if len(ids) == 1 else f"{len(ids)} mails"
        super().__init__(
            f"the transaction is committed, but not known to be sent with it: {mails}; don't repeat it, "
            f"but call send_many with this error's messages and ids ({reason})",
            ids,
            unanswered=reason.unanswered,
        )


class DatabaseError(MailtasksError):
    """The database that holds the outbox is away, or didn't do what was asked of it."""


class RelayError(MailtasksError):
    """A connection to a relay could not be had or kept."""


class RelayUnavailable(RelayError):
    """No usable connection: the name, the port, the greeting, TLS or the login failed.

    Which of them is told by the `failure` that the SMTP layer attaches (`mailtasks.reply.Outcome`).
    """


class PoolTimeout(RelayError):
    """Every connection to the relay was lent for longer than the caller was ready to wait."""


class DeliveryError(MailtasksError):
    """What an attempt for one recipient ended with; `autoretry_for` in `task_annotations` names these."""


class TemporaryFailure(DeliveryError):
    """The relay asked to try again later, or could not be reached."""


class PermanentFailure(DeliveryError):
    """The relay refused the recipient or the message for good."""
