"""Renews every claim of this process, each quarter of a lease, from one thread.

So a thread may wait the ten minutes that a relay has to answer a dot, under a lease of one minute.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mailtasks.errors import StoreError
from mailtasks.store.ledger import Claim, Ledger, lease_clock

log = logging.getLogger(__name__)

_STOP_TIMEOUT: Final = 20.0  # seconds; a keeper that waits for a Redis that hangs is left behind


class Keeper:
    """Keeps claims alive while they are held. Its thread starts with the first claim.

    A claim past its `give_up` isn't renewed any more, so that a wedged thread can't hold it for ever.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._claims: dict[str, Claim] = {}  # by token
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def keeping(self, claim: Claim) -> Iterator[None]:
        """Renew the claim for the length of a `with` block."""
        with self._lock:
            self._claims[claim.token] = claim
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mailtasks-keeper", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._claims[claim.token]

    def renew(self) -> None:
        """Renew all claims now, in one call. Redis being away is logged; the leases then run out."""
        with self._lock:
            claims = [claim for claim in self._claims.values() if not claim.lost]
        current = [claim for claim in claims if lease_clock() < claim.give_up]
        try:
            self._ledger.renew(current)
        except StoreError as error:
            log.warning("%d leases could not be renewed: %s", len(current), error)
        with self._lock:
            lost = [claim for claim in current if claim.lost and claim.token in self._claims]
        for claim in lost:
            if claim.stepping:  # it is being given back, or is told so itself
                continue
            log.warning(
                "the lease of batch %s was lost; what it has not begun is left to others", claim.batch
            )

    def stop(self) -> None:
        """End the thread; claims that are still held run out by themselves."""
        self._stopped.set()
        if self._thread:
            self._thread.join(_STOP_TIMEOUT)

    def _run(self) -> None:
        while not self._stopped.wait(self._ledger.limits.lease / 4):
            try:
                self.renew()
            except Exception:  # a thread that dies lets every lease lapse; whatever it is, it is logged
                log.exception("the keeper stumbled, and goes on")
