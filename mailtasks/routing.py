"""Which relay now: one, for the time being, with a pool of connections and a memory for being down."""

from __future__ import annotations

import threading
import time
from typing import Final

from mailtasks.reply import Outcome
from mailtasks.settings import Settings
from mailtasks.smtp.pool import Pool
from mailtasks.smtp.session import Timeouts

FIRST_PAUSE: Final = 1.0  # seconds a relay that could not be reached is left alone, doubling
LONGEST_PAUSE: Final = 60.0  # about a minute, as the reply table has it


class Route:
    """A relay: its pool, and whether it is worth trying.

    Many threads meet a dead relay at once; one failed connection is enough to tell the others.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._lock = threading.Lock()
        self._pause = 0.0
        self._closed_until = 0.0
        self._failure: Outcome | None = None

    @property
    def relay(self) -> str:
        """`host:port`."""
        return self.pool.relay.name

    def closed(self) -> Outcome | None:
        """What happened to the attempt for which it is left alone at the moment; None if it isn't."""
        with self._lock:
            return self._failure if time.monotonic() < self._closed_until else None

    def failed(self, failure: Outcome) -> None:
        """A connection could not be had: leave the relay alone for a while, longer each time."""
        with self._lock:
            if time.monotonic() >= self._closed_until:
                self._pause = min(LONGEST_PAUSE, self._pause * 2 or FIRST_PAUSE)
                self._closed_until = time.monotonic() + self._pause
                self._failure = failure

    def worked(self) -> None:
        """A connection was had."""
        with self._lock:
            self._pause = 0.0

    def keep_warm(self) -> None:
        """Keep as many connections open as the settings say, but open none while the relay is left alone.

        What becomes of that says nothing about whether the relay is worth trying.
        """
        self.pool.keep_warm(lambda: self.closed() is None)


def open_route(settings: Settings, threads: int) -> Route:
    """The route to the relay that the settings name.

    Args:
        threads: of this process; each may use one connection.
    """
    timeouts = Timeouts(
        connect=settings.timeout_connect,
        greeting=settings.timeout_greeting,
        ehlo=settings.timeout_command,
        auth=settings.timeout_command,
        mail=settings.timeout_command,
        rcpt=settings.timeout_command,
        data=settings.timeout_data,
        block=settings.timeout_block,
        dot=settings.timeout_dot,
    )
    # A relay that lets everybody wait may hold all threads, for want of another that could use them.
    pool = Pool(
        settings.relay,
        size=settings.pool_size or threads,
        max_messages=settings.connection_messages,
        lifetime=settings.connection_lifetime,
        idle=settings.connection_idle,
        warm=settings.pool_warm,
        timeouts=timeouts,
        hello_name=settings.hello_name,
    )
    return Route(pool)
