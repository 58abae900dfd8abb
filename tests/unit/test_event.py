"""Relay events: recorded as they are, read back the same, and as hashable data."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from mailtasks.event import RelayEvent
from mailtasks.mailer import Mailer
from mailtasks.settings import Settings

EVENT = RelayEvent("mx:25", "example.com", "policy_refused", "suspend, alert", "550 5.7.1 no", "w@here")


def test_recorded_and_read_back_newest_first(redis_url: str) -> None:
    with Mailer(Settings(broker_url=redis_url)) as mailer:
        other = RelayEvent("mx:25", "", "unreachable", "suspend", "connection refused", "w@here")
        mailer.events.record([EVENT, other])
        latest = mailer.events.latest()
        assert [event for _, event in latest] == [other, EVENT]
        assert [event for _, event in mailer.events.latest(1)] == [other]


def test_alike_events_count_once_in_a_set() -> None:
    assert len({EVENT, RelayEvent("mx:25", "example.com", "policy_refused", "suspend, alert",
                                  "550 5.7.1 no", "w@here")}) == 1  # fmt: skip
    with pytest.raises(FrozenInstanceError):
        EVENT.relay = "other"  # type: ignore[misc]
