"""Opens connections ahead, so that the first mail after a quiet time finds one.

The rules:

1. Nobody needs what is opened here. So a failure is nobody's failure: it is logged once, tried again after
   waits that grow, and never held against the relay or a mail.
2. A relay that closes unused connections early is asked for new ones ever more seldom, too.
3. A login that is refused isn't repeated every minute: accounts get locked, and tokens cost work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from mailtasks.reply import Stage
from mailtasks.smtp.session import ConnectFailed

log = logging.getLogger(__name__)

LOOK: Final = 1.0
"""Seconds between looks at what is kept warm: whether it lives, and whether enough is there."""

FIRST_PAUSE: Final = 1.0  # seconds until dialling is tried again, doubling
LONGEST_PAUSE: Final = 60.0
LONGEST_AFTER_LOGIN: Final = 3600.0


class _Pause:
    """A wait that is twice as long each time. The caller's lock guards it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends = 0.0
        self.seconds = 0.0

    @property
    def over(self) -> bool:
        return self._clock() >= self._ends

    def begin(self, longest: float) -> None:
        self.seconds = min(longest, self.seconds * 2 or FIRST_PAUSE)
        self._ends = self._clock() + self.seconds

    def forget(self) -> None:
        self.seconds = self._ends = 0.0


class Warmer:
    """A thread that dials whenever a connection is wanted ahead. Thread-safe.

    Args:
        relay: its name, for log lines.
        open_one: dials one if one is wanted, and says whether it did; raises what dialling raises.
        may_dial: False while the relay is to be left alone.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        relay: str,
        open_one: Callable[[], bool],
        may_dial: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._relay = relay
        self._open_one = open_one
        self._may_dial = may_dial
        self._lock = threading.Lock()
        self._after_failure = _Pause(clock)
        self._after_death = _Pause(clock)
        self._complained = False  # of a relay that closes unused connections early
        self._ended = False
        self._stirred = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mailtasks warmer {relay}", daemon=True)

    def start(self) -> None:
        """Begin; the first connections are dialled at once."""
        self._thread.start()

    def stir(self) -> None:
        """There may be too few connections now: look at once."""
        self._stirred.set()

    def stop(self) -> None:
        """Dial no more. What is being dialled is the caller's to break off."""
        self._ended = True
        self._stirred.set()

    def join(self, seconds: float) -> None:
        """Wait for the thread's end after `stop`, `seconds` at most."""
        self._thread.join(seconds)

    def worked(self) -> None:
        """A connection was dialled, by whomever."""
        with self._lock:
            failed = self._after_failure.seconds > 0
            self._after_failure.forget()
        if failed:
            log.info("connections to the relay %s are kept warm again", self._relay)

    def lived(self) -> None:
        """One that had waited was fit to be lent, or came to the end that we had set it."""
        if self._after_death.seconds:
            with self._lock:
                self._after_death.forget()

    def died(self) -> None:
        """The relay closed one that waited."""
        with self._lock:
            self._after_death.begin(LONGEST_PAUSE)
        if self._after_death.seconds >= LONGEST_PAUSE and not self._complained:
            self._complained = True
            log.warning(
                "the relay %s closes unused connections again and again, so that few are kept warm; "
                "set connection_idle to less than it allows",
                self._relay,
            )

    def _run(self) -> None:
        while not self._ended:
            if not self.open_if_due():
                self._stirred.wait(LOOK)
                self._stirred.clear()

    def open_if_due(self) -> bool:
        """Whether a connection was opened; not if none is wanted, if it is too early or came to nothing."""
        if not (self._after_failure.over and self._after_death.over and self._may_dial()):
            return False
        try:
            return self._open_one()
        except Exception as error:  # whatever it is, it will be tried again
            if not self._ended:
                self._failed(error)
            return False

    def _failed(self, error: Exception) -> None:
        at_login = isinstance(error, ConnectFailed) and error.failure.stage is Stage.AUTH
        if not self._after_failure.seconds:
            log.warning("nothing can be kept warm at the moment, and it is tried again: %s", error)
        with self._lock:
            self._after_failure.begin(LONGEST_AFTER_LOGIN if at_login else LONGEST_PAUSE)
