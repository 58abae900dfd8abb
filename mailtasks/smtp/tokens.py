"""The token with which a process logs in to a relay: fetched when it is needed, once for all threads.

The rules:

1. A token is fetched before anything is dialled, in the thread that wants the connection: in a dialogue
   nothing may block. One thread fetches, the others wait for it; every wait has an end.
2. A token is used until shortly before it expires. One that a relay refuses is forgotten.
3. Neither a token nor anything that may hold one is in a repr, an error or a log. So what a command prints
   and what a function's exception says are told of, not quoted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mailtasks.relay import Relay
from mailtasks.reply import How
from mailtasks.smtp.token_sources import STOPS, Fetched, Source, TokenUnavailable, source_of

MARGIN: Final = 60.0
"""Seconds before its end at which a token isn't used any more; at most half of its life."""

UNKNOWN_LIFE: Final = 300.0
"""Seconds for which a token is used if its source doesn't say how long it is valid."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and where it comes from."""

    value: str = field(repr=False)
    fresh: bool  # fetched for this call, and not taken from the cache


@dataclass(slots=True)
class _Fetch:
    """One fetch, for which several threads may wait."""

    over: bool = False
    value: str = field(default="", repr=False)
    failure: TokenUnavailable | None = None


class Tokens:
    """The tokens of one relay in one process. Thread-safe; fetches none before one is asked for.

    Args:
        source: where they come from.
        timeout: seconds that a fetch may take.
        clock: monotonic seconds.
    """

    def __init__(self, source: Source, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._timeout = timeout
        self._clock = clock
        self._changed = threading.Condition()
        self._cached = ""
        self._good_until = 0.0
        self._fetch: _Fetch | None = None  # that is under way
        self._interrupted = False

    @classmethod
    def of(cls, relay: Relay) -> Tokens | None:
        """Those of a relay, or None if it logs in without one."""
        return cls(source_of(relay), relay.token_timeout) if relay.has_token else None

    def get(self) -> Token:
        """A token that is good for a while, from the cache or fetched now.

        Raises:
            TokenUnavailable: it couldn't be had, which says nothing about the mail that waits for it.
        """
        with self._changed:
            self._refuse_if_interrupted()
            if self._cached and self._clock() < self._good_until:
                return Token(self._cached, fresh=False)
            fetch, mine = self._fetch or _Fetch(), not self._fetch
            self._fetch = fetch
        if mine:
            self._carry_out(fetch)
        else:
            self._wait_for(fetch)
        if fetch.failure:
            raise TokenUnavailable(fetch.failure.how, str(fetch.failure))  # each thread raises its own
        return Token(fetch.value, fresh=True)

    def drop(self, token: Token) -> None:
        """It was refused: don't use it again."""
        with self._changed:
            if self._cached == token.value:
                self._cached = ""

    def interrupt(self) -> None:
        """The process stops: whoever waits for a token gets none, now and from now on."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()
        self._source.interrupt()

    def _carry_out(self, fetch: _Fetch) -> None:
        fetched: Fetched | None = None
        began = self._clock()
        try:
            fetched = self._source.fetch(self._timeout)
        except TokenUnavailable as error:
            fetch.failure = error
        finally:  # also if a signal's exception passes through: nobody must wait for this any more
            with self._changed:
                self._fetch, fetch.over = None, True
                if fetched:
                    fetch.value = self._cached = fetched.token
                    self._good_until = began + _used_for(fetched.seconds)
                elif not fetch.failure:
                    fetch.failure = TokenUnavailable(How.LOST, "fetching the token was broken off")
                self._changed.notify_all()
        with self._changed:
            self._refuse_if_interrupted()

    def _wait_for(self, fetch: _Fetch) -> None:
        with self._changed:
            # Longer than a fetch may take, so that usually its own failure is told.
            self._changed.wait_for(lambda: fetch.over or self._interrupted, self._timeout + 1)
            self._refuse_if_interrupted()
            if not fetch.over:
                raise TokenUnavailable(How.TIMED_OUT, "another thread is still fetching the token")

    def _refuse_if_interrupted(self) -> None:
        """Under the lock."""
        if self._interrupted:
            raise TokenUnavailable(How.UNTOUCHED, STOPS)


def _used_for(seconds: float | None) -> float:
    """For how long a token is used that is valid for so many seconds."""
    if seconds is None:
        return UNKNOWN_LIFE
    return max(seconds - MARGIN, seconds / 2)
