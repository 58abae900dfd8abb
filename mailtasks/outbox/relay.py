"""The relay: round after round, until it is told to stop. It outlives a Redis or a database that is away.

It keeps nothing in memory between two rounds, so it may be killed at any moment, and there may be several.
"""

from __future__ import annotations

import logging
import queue
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mailtasks.errors import DatabaseError, MailtasksError, StoreError
from mailtasks.outbox.mover import Moved, Mover
from mailtasks.outbox.store import RowStore

if TYPE_CHECKING:
    from mailtasks.mailer import Mailer

log = logging.getLogger(__name__)

INTERVAL: Final = 1.0
"""Seconds between two looks for new rows, when there were none."""

LONGEST_PAUSE: Final = 30.0  # seconds between two tries while something is away


class OutboxRelay:
    """Moves an outbox's rows into the ledger. Made by the `relay` of an outbox.

    Args:
        store: the outbox's table.
        mailer: whose ledger takes the mail.
        interval: seconds between two looks for new rows, when there were none.
    """

    def __init__(self, store: RowStore, mailer: Mailer, *, interval: float = INTERVAL) -> None:
        self._store = store
        self._mover = Mover(store, mailer)
        self._interval = interval
        self._stopped = False
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # may be rung by a signal's handler

    def run(self) -> None:
        """Move rows until `stop` is called.

        Redis or the database being away is logged and waited for, and so is a table that isn't there yet.
        """
        checked, failures = False, 0
        while not self._stopped:
            try:
                if not checked:
                    self._store.check()
                    checked = True
                moved = self._mover.move()
            except (DatabaseError, StoreError) as error:
                self._wait_out(error, failures)
                failures += 1
                continue
            if failures:
                log.warning("the outbox %s is being emptied again", self._store.name)
            failures = 0
            if not moved:
                self._wait(self._interval)

    def drain(self) -> Moved:
        """Move what is there now, and look at what is due; then return. For a cron job, or a test.

        Returns:
            What was done, in rows.

        Raises:
            DatabaseError: the database is away, or there is no such table.
            StoreUnavailable: Redis is away.
        """
        self._store.check()
        total = Moved()
        while (moved := self._mover.move()) and not self._stopped:
            total += moved
        return total + moved

    def stop(self) -> None:
        """Let `run` return when its round is done; callable from any thread and from a signal's handler."""
        self._stopped = True
        self._bell.put(None)

    def _wait_out(self, error: MailtasksError, failures: int) -> None:
        pause = pause_after(failures)
        log.warning("the outbox %s has to wait: %s (next try in %g s)", self._store.name, error, pause)
        self._wait(pause)

    def _wait(self, seconds: float) -> None:
        with suppress(queue.Empty):
            self._bell.get(timeout=seconds)


def pause_after(failures: int) -> float:
    """Seconds until the next try, after so many failures in a row before this one."""
    return min(LONGEST_PAUSE, 2.0 ** min(failures, 10))
