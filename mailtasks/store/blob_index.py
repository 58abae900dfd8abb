"""Which attachments are stored, where, and who needs them: the ledger's side of it, one script a move.

The rules:

1. A producer asks first (`reserve`), stores what isn't there, and says so (`stored`). Then the batch is
   accepted, by the script that also writes down that it needs them; it is refused if one isn't stored.
2. Each copy is stored under a name of its own, so that deleting one never takes another away.
3. Whatever may lie in a store is known here: what is being stored, what is stored, what is to be deleted.
   A producer or a collector may be killed at any moment; the next collector goes on.
4. Nothing here touches a store; see `mailtasks.store.blobs`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mailtasks.store.connection import Client, Scripts, available, now_of
from mailtasks.store.keys import ID_LENGTH, Keys

BLOBS_A_CALL: Final = 200
"""Blobs that one call is about."""

LOOK_AT_MOST: Final = 20
"""Blobs that a look of the collector is about, and places that it deletes at once."""

HOLDERS_AT_MOST: Final = 50
"""Holders of a blob that one look is about; each may name a hundred messages."""


@dataclass(frozen=True, slots=True)
class Need:
    """A blob that batches need.

    Attributes:
        holders: which messages of which batches, as `NewBatch.references` says it.
        place: where it is to be stored, if it isn't: `KIND:NAME`.
        lost: a place where it was to be, and isn't.
    """

    digest: str
    size: int
    holders: tuple[str, ...]
    place: str
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Reserved:
    """What `reserve` says.

    Attributes:
        used: bytes that are stored in Redis.
        wanted: bytes that aren't stored anywhere yet.
        places: where each blob is, in order; "" if it isn't. None: there is no room for what isn't.
    """

    used: int
    wanted: int
    places: tuple[str, ...] | None


def new_place(kind: str, digest: str) -> str:
    """A place where nothing was stored before, nor will be by anybody else."""
    return f"{kind}:{digest}-{secrets.token_hex(8)}"


class BlobIndex:
    """The index of one shard.

    Args:
        redis: the ledger's client.
        margin: seconds after which a blob is looked at for the first time.
        grace: seconds for which a reservation lasts.
        cap: bytes in Redis; None where blobs are stored elsewhere.
        clock_key: for tests, see `scripts.text`.
    """

    def __init__(
        self,
        redis: Client,
        keys: Keys,
        *,
        margin: float,
        grace: float,
        cap: int | None,
        clock_key: str | None = None,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, clock_key)
        self._clock_key = clock_key
        self._standing = {
            "margin": round(margin * 1000),
            "grace": round(grace * 1000),
            "cap": cap or 0,
        }

    # Producers

    def reserve(self, needs: Sequence[Need]) -> Reserved:
        """Hold what is stored, and note where the rest will be.

        Raises:
            StoreUnavailable: Redis is away, or its memory is full.
        """
        places: list[str] = []
        used, wanted = 0, 0
        for some in _in_slices(needs):
            used, wanted, found = self._run("reserve", some, more=wanted)
            if len(found) < len(some):
                return Reserved(used, wanted, None)
            places += [place.decode() for place in found]
        return Reserved(used, wanted, tuple(places))

    def stored(self, needs: Sequence[Need]) -> list[str]:
        """They are stored at their places, and found from now on.

        Returns:
            For each "ok", "late" (the place was given up) or "full" (it isn't kept).

        Raises:
            StoreUnavailable: Redis is away, or its memory is full.
        """
        return [answer.decode() for some in _in_slices(needs) for answer in self._run("stored", some)]

    def _run(self, name: str, needs: Sequence[Need], **values: object) -> Any:
        rows = [(need.digest, need.size, need.place, need.lost, need.holders) for need in needs]
        keys = [*self._head(), *(self._keys.blob(need.digest) for need in needs)]
        argument = msgspec.msgpack.encode(self._standing | values | {"blobs": rows})
        with available(self._redis, before_accept=True):
            return self._scripts.run(name, keys, [argument])

    # Workers

    def places(self, digests: Sequence[str]) -> dict[str, str]:
        """Where blobs are; those that are stored nowhere are left out.

        Raises:
            StoreUnavailable: Redis is away.
        """
        with available(self._redis):
            found = self._redis.hmget(self._keys.blobs, digests) if digests else []
        return {
            digest: value.decode().split(" ", 2)[2]
            for digest, value in zip(digests, found, strict=True)
            if value is not None
        }

    # The collector

    def collect(self) -> tuple[list[str], bool]:
        """Let go of what is due and nobody needs.

        Returns:
            Places that are to be deleted, after which `forget` them; and whether there may be more to do now.

        Raises:
            StoreUnavailable: Redis is away.
        """
        digests, holders, astray = self._due()
        if not (digests or astray):
            return [], False
        rows, keys = [], self._head()
        for digest, held in zip(digests, holders, strict=True):
            rows.append((digest, [(holder, _ranges(holder)) for holder in held]))
            keys.append(self._keys.blob(digest))
            keys += [key for holder in held for key in self._keys.batch(holder[:ID_LENGTH])[:2]]
        argument = msgspec.msgpack.encode(self._standing | {"blobs": rows, "most": LOOK_AT_MOST})
        with available(self._redis):
            gone = [place.decode() for place in self._scripts.run("collect", keys, [argument])]
        is_full = len(digests) == LOOK_AT_MOST or len(gone) == LOOK_AT_MOST
        return gone, is_full or any(len(held) == HOLDERS_AT_MOST for held in holders)

    def _due(self) -> tuple[list[str], list[list[str]], int]:
        """Blobs to look at, their holders, and how many places are to be deleted."""
        keys = self._keys
        with available(self._redis):
            now = now_of(self._redis, self._clock_key)
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.zrangebyscore(keys.blobs_due, "-inf", now, start=0, num=LOOK_AT_MOST)
            pipeline.zcount(keys.blobs_coming, "-inf", now).zcount(keys.blobs_gone, "-inf", now)
            due, coming, gone = pipeline.execute()
            digests = [digest.decode() for digest in due]
            for digest in digests:
                pipeline.zrange(keys.blob(digest), 0, HOLDERS_AT_MOST - 1)
            holders = pipeline.execute() if digests else []
        return digests, [[holder.decode() for holder in held] for held in holders], coming + gone

    def forget(self, places: Sequence[str]) -> None:
        """They are deleted.

        Raises:
            StoreUnavailable: Redis is away; they will be deleted again, which does no harm.
        """
        if places:
            with available(self._redis):
                self._redis.zrem(self._keys.blobs_gone, *places)

    # Askers

    def count(self) -> dict[str, tuple[int, int]]:
        """How many are stored and how many bytes they have, by kind of place.

        Raises:
            StoreUnavailable: Redis is away.
        """
        with available(self._redis):
            counts = self._redis.hgetall(self._keys.counts)
        numbers = {name.decode(): int(value) for name, value in counts.items()}
        kinds = [name.removeprefix("blobs:") for name in numbers if name.startswith("blobs:")]
        return {kind: (numbers[f"blobs:{kind}"], numbers[f"blob_bytes:{kind}"]) for kind in sorted(kinds)}

    def waiting(self) -> tuple[int, int]:
        """How many places are being filled, and how many are to be emptied.

        Raises:
            StoreUnavailable: Redis is away.
        """
        with available(self._redis):
            return self._redis.zcard(self._keys.blobs_coming), self._redis.zcard(self._keys.blobs_gone)

    def _head(self) -> list[str]:
        keys = self._keys
        blobs = (keys.blobs, keys.blobs_due, keys.blobs_coming, keys.blobs_gone)
        return [*keys.head(int(time.time() // 60)), *blobs]


def _in_slices(needs: Sequence[Need]) -> Iterable[Sequence[Need]]:
    return (needs[start : start + BLOBS_A_CALL] for start in range(0, len(needs), BLOBS_A_CALL))


def _ranges(holder: str) -> list[int]:
    """`BATCH:0-9,12-12` → [0, 9, 12, 12]."""
    _, _, ranges = holder.partition(":")
    return [int(number) for each in ranges.split(",") for number in each.split("-")]
