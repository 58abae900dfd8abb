"""The stream of relay events: the latest ten thousand, for people now and for limits later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

from mailtasks.event import RelayEvent
from mailtasks.store.connection import Client, available
from mailtasks.store.keys import Keys

_KEPT: Final = 10_000


class Events:
    """Appends to, and reads, one shard's stream."""

    def __init__(self, redis: Client, keys: Keys) -> None:
        self._redis = redis
        self._key = keys.events

    def record(self, events: Sequence[RelayEvent]) -> None:
        """Append events, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for event in events:
            pipeline.xadd(self._key, asdict(event), maxlen=_KEPT, approximate=True)
        with available(self._redis):
            pipeline.execute()

    def latest(self, most: int = 100) -> list[tuple[datetime, RelayEvent]]:
        """The latest events with their times, newest first."""
        with available(self._redis):
            entries = self._redis.xrevrange(self._key, count=most)
        return [
            (
                datetime.fromtimestamp(int(id.split(b"-")[0]) / 1000, UTC),
                RelayEvent(**{field.decode(): value.decode() for field, value in fields.items()}),
            )
            for id, fields in entries
        ]
