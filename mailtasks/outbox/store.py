"""What the relay, and who asks, must be able to do with the table, by whatever speaks to the database.

The rules for who implements it:

1. Where the database can, rows are locked as they are taken, and those that another relay has are passed
   over. Where it can't, as in SQLite, two relays may take the same rows. That costs time and breaks nothing,
   since the ledger takes a batch once.
2. A change is made only to a row that still has the batch and the state it was taken with.
3. Every error of the database is a DatabaseError, with no password in it, and no mail: only what the driver
   said is passed on. After one, the next transaction has a connection that works, if the database does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Final, Protocol

from mailtasks.errors import DatabaseError
from mailtasks.outbox.report import OutboxStatus, RowAside
from mailtasks.outbox.row import Change, Row
from mailtasks.relay import mask_url

LONGEST_LOCK: Final = 120  # seconds; a round waits for Redis for a fraction of that, if it hangs
LIMIT_LOCKS: Final = f"SET LOCAL idle_in_transaction_session_timeout = {LONGEST_LOCK * 1000}"
"""PostgreSQL then lets go of the rows of a relay whose machine has vanished; TCP alone notices that after two
hours."""

_LONGEST_REASON: Final = 300  # characters


class Rows(Protocol):
    """The table, within a transaction."""

    def waiting(self) -> list[Row]:
        """Take what waits and was never refused, the oldest first, as much as goes in one round."""
        ...

    def refused(self) -> list[Row]:
        """Take what waits and has been refused before, apart: others must not stand behind it."""
        ...

    def due(self, now: datetime) -> list[Row]:
        """Take what is accepted and due to be looked at."""
        ...

    def change(self, changes: Sequence[Change]) -> None:
        """Delete and update rows."""
        ...

    def status(self) -> OutboxStatus:
        """Count the rows by their state, and say since when the oldest that waits does."""
        ...

    def aside(self) -> Iterator[RowAside]:
        """What can't be moved, the oldest first, read bit by bit."""
        ...

    def retry(self, *ids: int) -> int:
        """Release what was set aside, all or by id; how many rows."""
        ...


class RowStore(Protocol):
    """An outbox's table in its database."""

    @property
    def name(self) -> str:
        """The table's, for people."""
        ...

    @property
    def can_lock(self) -> bool:
        """Whether rows are locked as they are taken, until the transaction's end."""
        ...

    def check(self) -> None:
        """Look whether the table is there.

        Raises:
            DatabaseError: it isn't, or the database is away.
        """
        ...

    def transaction(self) -> AbstractContextManager[Rows]:
        """A transaction, committed at the end of the block, and rolled back if that raises.

        Raises:
            DatabaseError: the database is away, or refused what was asked.
        """
        ...


def unusable(where: str, said: object) -> DatabaseError:
    """The error to raise, without a cause: a traceback would print a statement's parameters.

    Args:
        where: the database, for people; no password.
        said: what the driver did.
    """
    text = " ".join(str(said).split())
    reason = mask_url(text[:_LONGEST_REASON]) or type(said).__name__
    return DatabaseError(f"the database {where} can't be used ({reason}); is it running and reachable?")
