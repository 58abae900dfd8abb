"""Large attachments, there and back: a producer brings, a worker fetches, the collector clears away.

An attachment of `blob_threshold` bytes or more isn't part of a batch's bodies. It is stored once, by its
content, wherever the setting `blobs` says. The order is what makes it safe: asked for, stored, said to be
stored, and only then needed by an accepted batch (`mailtasks.store.blob_index`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from typing import Final, TypeAlias

from mailtasks.blob_cache import Encoded
from mailtasks.errors import BlobsFull, BlobStoreError, StoreError
from mailtasks.pieces import Blob, base64_blocks
from mailtasks.settings import IN_REDIS, Settings
from mailtasks.status import BlobStatus
from mailtasks.store.blob_index import BlobIndex, Need, new_place
from mailtasks.store.blobs import BlobStore, Missing, RedisBlobs
from mailtasks.store.connection import Client
from mailtasks.store.keys import Keys
from mailtasks.store.records import NewBatch
from mailtasks.store.timely import open_timely

log = logging.getLogger(__name__)

BRINGS: Final = 3
"""Times that attachments may be gone again before their batch is accepted."""

_TRIES: Final = 3  # to store what others let go of meanwhile
_LOOKS_A_TICK: Final = 20
_Contents: TypeAlias = Mapping[str, Mapping[str, bytes]]
"""By digest what has that content, for one may be as long as a file that is read when it is wanted."""


class BlobLost(Exception):
    """An attachment isn't where it was stored, or isn't what it was. Its text is for `status`."""


class Blobs:
    """The attachments of one ledger. Thread-safe.

    Args:
        redis: the ledger's.
        demand: raises if Redis has no room for so many bytes more.
        clock_key: for tests, see `mailtasks.store.scripts.text`.
    """

    def __init__(
        self,
        redis: Client,
        keys: Keys,
        settings: Settings,
        demand: Callable[[int], None] = lambda size: None,
        clock_key: str | None = None,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._settings = settings
        self._demand = demand
        is_in_redis = settings.blobs == IN_REDIS
        self._index = BlobIndex(
            redis,
            keys,
            margin=settings.hint_margin,
            grace=settings.blob_grace,
            cap=settings.blob_cap if is_in_redis else None,
            clock_key=clock_key,
        )

    @cached_property
    def store(self) -> BlobStore:
        """Where they are stored now; opened at the first need.

        Raises:
            SettingsError: what it needs isn't installed.
        """
        return open_timely(self._settings.blobs, self._redis, self._keys, self._settings.timeout_blobs)

    # A producer

    def bring(self, batches: Sequence[NewBatch]) -> None:
        """Store what these batches need and isn't stored. All of it is held for `blob_grace`.

        Raises:
            BlobsFull, MemoryFull: Redis has no room for them.
            BlobStoreError: they can't be stored, or not in time.
            StoreUnavailable: Redis is away.
        """
        contents = {digest: batch.blobs for batch in batches for digest in batch.blobs}
        needs = self._needs(batches)
        for _ in range(_TRIES):
            if not needs:
                return
            needs = self._bring(needs, contents)
        if needs:
            raise BlobStoreError(
                f"{self.store.where} took longer than blob_grace = {self._settings.blob_grace:g} s for the "
                "attachments, so nothing was accepted; raise it, or send fewer at once"
            )

    def gone_again(self, ids: Sequence[str] = ()) -> BlobStoreError:
        """What to raise if they are, whenever they were brought.

        Args:
            ids: of messages that may be accepted all the same.
        """
        return BlobStoreError(
            "attachments are deleted as soon as they are stored, so their mail can't be accepted; "
            f"is blob_grace = {self._settings.blob_grace:g} s too short?",
            ids,
        )

    def _needs(self, batches: Sequence[NewBatch]) -> list[Need]:
        holders: dict[str, list[str]] = {}
        sizes: dict[str, int] = {}
        for batch in [batch for batch in batches if batch.blobs]:
            sizes |= {blob.digest: blob.size for _, blob in batch.needs()}
            for digest, holder in batch.references().items():
                holders.setdefault(digest, []).append(holder)
        return [
            Need(digest, sizes[digest], tuple(held), new_place(self.store.kind, digest))
            for digest, held in holders.items()
        ]

    def _bring(self, needs: Sequence[Need], contents: _Contents) -> list[Need]:
        """Returns those that must be brought again."""
        began = time.monotonic()
        reserved = self._index.reserve(needs)
        if reserved.places is None:
            raise BlobsFull(reserved.used, reserved.wanted, self._settings.blob_cap)
        found = list(zip(needs, reserved.places, strict=True))
        late = self._put([need for need, place in found if not place], contents, began)
        lost = [
            replace(need, place=new_place(self.store.kind, need.digest), lost=place)
            for need, place in found
            if place and not self._is_there(need, place)
        ]
        return late + lost

    def _put(self, missing: Sequence[Need], contents: _Contents, began: float) -> list[Need]:
        """Returns those that must be brought again: their place is given up, or would be soon."""
        if missing and self.store.kind == IN_REDIS:
            self._demand(sum(need.size for need in missing))
        put = []
        for need in missing:
            if time.monotonic() - began < self._settings.blob_grace:
                self.store.put(_name(need.place), contents[need.digest][need.digest])
                put.append(need)
        answers = list(zip(put, self._index.stored(put), strict=True))
        if full := [need.size for need, answer in answers if answer == "full"]:
            raise BlobsFull(self._index.count()[IN_REDIS][1], sum(full), self._settings.blob_cap)
        kept = {need.digest for need, answer in answers if answer == "ok"}
        return [
            replace(need, place=new_place(self.store.kind, need.digest))
            for need in missing
            if need.digest not in kept
        ]

    def _is_there(self, need: Need, place: str) -> bool:
        """A hand, or a Redis that was set back, may have left a place where nothing is."""
        store = self._store_of(place)
        return store is not None and store.holds(_name(place), need.size)

    # A worker

    def fetch(self, blob: Blob) -> Encoded:
        """An attachment as it stands in a message. Takes its size once, and a block's on the way.

        Raises:
            BlobLost: it isn't there, or isn't what it was.
            BlobStoreError, StoreUnavailable: that can't be told now.
        """
        place = self._index.places([blob.digest]).get(blob.digest)
        if place is None:
            raise BlobLost(f"the attachment {blob.name!r} isn't stored any more")
        store = self._store_of(place)
        if store is None:
            raise BlobStoreError(
                f"the attachment {blob.name!r} lies in a store of the kind {place.partition(':')[0]}, and "
                f"the setting `blobs` names {self.store.where}"
            )
        hashed = blake2b()
        try:
            encoded = tuple(base64_blocks(_hashing(store.read(_name(place)), hashed.update)))
        except Missing:
            raise BlobLost(f"the attachment {blob.name!r} isn't in {store.where} any more") from None
        if hashed.hexdigest()[: len(blob.digest)] != blob.digest:
            raise BlobLost(f"the attachment {blob.name!r} was changed in {store.where}")
        return encoded

    # The collector

    def collect(self, stopped: Callable[[], bool] = lambda: False) -> int:
        """Delete what nothing needs any more. To be called again and again, in every worker.

        Returns:
            How many places were emptied.

        Raises:
            StoreUnavailable: Redis is away. A store that is away is logged, and asked again.
        """
        deleted, more = 0, True
        for _ in range(_LOOKS_A_TICK):
            if not more or stopped():
                break
            places, more = self._index.collect()
            done = [place for place in places if self._delete(place)]
            self._index.forget(done)
            deleted += len(done)
        return deleted

    def _delete(self, place: str) -> bool:
        try:
            store = self._store_of(place)
            if store is None:
                raise BlobStoreError(f"{place} is not in {self.store.where}, which the setting `blobs` names")
            store.delete(_name(place))
        except StoreError as error:
            log.warning("an attachment that nothing needs any more can't be deleted: %s", error)
            return False
        return True

    # Askers

    def status(self) -> BlobStatus:
        """What is stored, and where.

        Raises:
            StoreUnavailable: Redis is away.
        """
        counts = self._index.count()
        stored, size = counts.pop(self.store.kind, (0, 0))
        coming, gone = self._index.waiting()
        return BlobStatus(
            where=self.store.where,
            stored=stored,
            bytes=size,
            cap=self._settings.blob_cap if self.store.kind == IN_REDIS else None,
            being_stored=coming,
            being_deleted=gone,
            elsewhere={kind: number for kind, (number, _) in counts.items() if number},
        )

    def _store_of(self, place: str) -> BlobStore | None:
        """The store that a place is in; None, if the settings name another."""
        kind = place.partition(":")[0]
        if kind == self.store.kind:
            return self.store
        return RedisBlobs(self._redis, self._keys) if kind == IN_REDIS else None


def _name(place: str) -> str:
    return place.partition(":")[2]


def _hashing(blocks: Iterable[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for block in blocks:
        update(block)
        yield block
