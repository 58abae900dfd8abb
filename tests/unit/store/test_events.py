"""The stream of what happened to relays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mailtasks.errors import StoreUnavailable
from mailtasks.event import RelayEvent
from mailtasks.local.redis import free_port
from mailtasks.store import events
from mailtasks.store.connection import Client, connect
from mailtasks.store.events import Events
from mailtasks.store.keys import Keys


def event(reply: str = "421 4.7.0 slow down", domain: str = "example.com") -> RelayEvent:
    return RelayEvent("mx:25", domain, "closing", "pause", reply, "worker@here")


def test_events_are_read_newest_first_with_their_times(redis: Client) -> None:
    stream = Events(redis, Keys("test"))
    stream.record([event("one"), event("two", domain="")])
    stream.record([event("drei, Zürich")])
    times, found = zip(*stream.latest(), strict=True)
    assert found == (event("drei, Zürich"), event("two", domain=""), event("one"))
    assert all(abs(datetime.now(UTC) - at) < timedelta(seconds=30) for at in times)
    assert len(stream.latest(2)) == 2


def test_none_is_none(redis: Client) -> None:
    stream = Events(redis, Keys("test"))
    stream.record([])
    assert stream.latest() == []


def test_only_the_latest_are_kept(redis: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_KEPT", 100)
    stream = Events(redis, Keys("test"))
    for _ in range(10):
        stream.record([event()] * 100)
    assert 100 <= redis.xlen(Keys("test").events) <= 300


def test_away() -> None:
    redis = connect(f"redis://127.0.0.1:{free_port()}", timeout=1, connect_timeout=1)
    stream = Events(redis, Keys("test"))
    with pytest.raises(StoreUnavailable, match="can't be reached"):
        stream.record([event()])
    with pytest.raises(StoreUnavailable, match="can't be reached"):
        stream.latest()
