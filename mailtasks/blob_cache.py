"""What a worker process has of attachments at the moment: fetched once for all threads, bounded in bytes.

The rules:

1. A window borrows all that it needs at once, or waits; so no two wait for what the other has.
2. What is lent stays, whatever it takes; what nobody has borrowed goes, the longest unused first, when room
   is needed. One window is always let in, however large it is.
3. Who comes while another thread fetches gets what that one gets, an error included. Errors aren't kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from mailtasks.pieces import Blob

Encoded: TypeAlias = tuple[bytes, ...]
"""An attachment as it stands in a message, in pieces that each end with a line."""


class NoRoom(Exception):
    """Other windows have all the room, and didn't return it in time."""


class _Entry:
    """One attachment: being fetched, or here."""

    __slots__ = ("borrowers", "error", "fetching", "pieces", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.borrowers = 0
        self.pieces: Encoded | None = None
        self.error: Exception | None = None
        self.fetching = threading.Lock()


class BlobCache:
    """Lends attachments.

    Args:
        most: bytes, encoded, that all of them together may take.
        fetch: brings one; may block, and may raise any exception, which each borrower is handed.
    """

    def __init__(self, most: int, fetch: Callable[[Blob], Encoded]) -> None:
        self._most = most
        self._fetch = fetch
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # those nobody has borrowed stand in front
        self._changed = threading.Condition()

    def fits(self, blobs: Iterable[Blob]) -> bool:
        """Whether a window with these isn't too large. One with a single attachment never is."""
        sizes = {blob.digest: blob.encoded_size for blob in blobs}
        return len(sizes) <= 1 or sum(sizes.values()) <= self._most

    @contextmanager
    def lend(self, blobs: Iterable[Blob], seconds: float) -> Iterator[Mapping[str, Encoded | Exception]]:
        """Have all of these for the length of a `with` block, by digest; what couldn't be had is an error.

        Args:
            seconds: to wait for room.

        Raises:
            NoRoom: there wasn't any.
        """
        wanted = {blob.digest: blob for blob in blobs}
        entries = self._enter(wanted, seconds)
        try:
            yield {digest: self._have(wanted[digest], entry) for digest, entry in entries.items()}
        finally:
            self._leave(entries)

    @property
    def size(self) -> int:
        """Bytes that all of them take now."""
        with self._changed:
            return sum(entry.size for entry in self._entries.values())

    def _enter(self, wanted: Mapping[str, Blob], seconds: float) -> dict[str, _Entry]:
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room(wanted), seconds):
                raise NoRoom
            for digest, blob in wanted.items():
                entry = self._entries.setdefault(digest, _Entry(blob.encoded_size))
                entry.borrowers += 1
                self._entries.move_to_end(digest)
            self._make_room()
            return {digest: self._entries[digest] for digest in wanted}

    def _has_room(self, wanted: Mapping[str, Blob]) -> bool:
        lent = sum(entry.size for entry in self._entries.values() if entry.borrowers)
        more = sum(blob.encoded_size for digest, blob in wanted.items() if not self._is_lent(digest))
        return not lent or not more or lent + more <= self._most

    def _is_lent(self, digest: str) -> bool:
        return digest in self._entries and self._entries[digest].borrowers > 0

    def _make_room(self) -> None:
        taken = sum(entry.size for entry in self._entries.values())
        for digest, entry in list(self._entries.items()):
            if taken <= self._most:
                return
            if not entry.borrowers:
                del self._entries[digest]
                taken -= entry.size

    def _have(self, blob: Blob, entry: _Entry) -> Encoded | Exception:
        with entry.fetching:
            if entry.pieces is None and entry.error is None:
                try:
                    entry.pieces = self._fetch(blob)
                except Exception as error:  # the borrowers tell what it means
                    entry.error = error
        return entry.error or entry.pieces or ()

    def _leave(self, entries: Mapping[str, _Entry]) -> None:
        with self._changed:
            for digest, entry in entries.items():
                entry.borrowers -= 1
                if not entry.borrowers and entry.pieces is None:
                    del self._entries[digest]
            self._make_room()
            self._changed.notify_all()
