"""A store of attachments that answers in time, or is away: what lies on a network may hang for ever.

The rules:

1. Each call runs in a thread of its own: neither a folder that hangs nor a library of fsspec's can be
   broken off.
2. A call that is late is given up, as if the store were away. What it stores all the same it deletes.
3. While several calls are late the store isn't asked at all: each would only cost another thread.
"""
# ruff: noqa: D102  (what the methods do is told in BlobStore)

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Generic, TypeVar

from mailtasks.errors import BlobStoreError
from mailtasks.settings import IN_REDIS
from mailtasks.store.blobs import BlobStore, open_store
from mailtasks.store.connection import Client
from mailtasks.store.keys import Keys

LATE_AT_MOST: Final = 4
"""Calls that may be late at once: more than one, since a single connection may have died on the way."""

Answer = TypeVar("Answer")


def open_timely(url: str, redis: Client, keys: Keys, seconds: float) -> BlobStore:
    """The store that the setting `blobs` names; Redis has time limits of its own.

    Args:
        seconds: see `TimelyBlobs`.

    Raises:
        SettingsError: what it needs isn't installed.
    """
    store = open_store(url, redis, keys)
    return store if store.kind == IN_REDIS else TimelyBlobs(store, seconds)


class TimelyBlobs:
    """A `BlobStore` around another one.

    Args:
        seconds: that it may take for one step: to store, to read a block, to look, to delete.
    """

    def __init__(self, store: BlobStore, seconds: float) -> None:
        self.kind = store.kind
        self.where = store.where
        self._store = store
        self._seconds = seconds
        self._late: list[threading.Thread] = []
        self._lock = threading.Lock()

    def put(self, name: str, content: bytes) -> None:
        self._ask(lambda: self._store.put(name, content), otherwise=lambda: self._store.delete(name))

    def read(self, name: str) -> Iterator[bytes]:
        blocks = self._store.read(name)
        while block := self._ask(partial(next, blocks, None)):
            yield block

    def holds(self, name: str, size: int) -> bool:
        return self._ask(lambda: self._store.holds(name, size))

    def delete(self, name: str) -> None:
        self._ask(lambda: self._store.delete(name))

    def _ask(self, act: Callable[[], Answer], otherwise: Callable[[], None] = lambda: None) -> Answer:
        """What `act` returns; `otherwise` is what follows if nobody waits for that any more."""
        with self._lock:
            self._late = [call for call in self._late if call.is_alive()]
            hangs = len(self._late) >= LATE_AT_MOST
        if hangs:
            raise BlobStoreError(
                f"{self.where} hangs: {LATE_AT_MOST} calls have had no answer; is it reachable?"
            )
        call = _Call(act, otherwise)
        call.start()
        call.join(self._seconds)
        if call.is_alive():
            call.given_up = True
            with self._lock:
                self._late.append(call)
            raise BlobStoreError(
                f"{self.where} hasn't answered within {self._seconds:g} s (timeout_blobs); is it reachable?"
            )
        return call.result()


class _Call(threading.Thread, Generic[Answer]):
    """One call, which may be given up."""

    def __init__(self, act: Callable[[], Answer], otherwise: Callable[[], None]) -> None:
        super().__init__(name="mailtasks attachments", daemon=True)
        self.given_up = False
        self._act = act
        self._otherwise = otherwise
        self._answers: list[Answer] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._answers.append(self._act())
            if self.given_up:
                self._otherwise()
        except BaseException as error:  # whoever waits raises it
            self._error = error

    def result(self) -> Answer:
        """What it has returned, or raised."""
        if self._error:
            raise self._error
        return self._answers[0]
