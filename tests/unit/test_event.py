"""Relay events: recorded as they are, read back the same, and as hashable data; news, and when it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import FrozenInstanceError

import pytest

from mailtasks.event import Attempt, RelayEvent, attempt_listeners, tell, telling_afterwards
from mailtasks.mailer import Mailer
from mailtasks.settings import Settings
from mailtasks.state import State

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


NEWS = Attempt("1.0", "ann@example.com", State.SENT, "250 ok", 1, (), {})


@pytest.fixture
def heard() -> Iterator[list[Attempt]]:
    heard: list[Attempt] = []
    attempt_listeners.append(heard.extend)
    yield heard
    attempt_listeners.remove(heard.extend)


def test_what_is_told_in_a_block_is_told_behind_it_however_it_ends(heard: list[Attempt]) -> None:
    with suppress(ZeroDivisionError), telling_afterwards():
        tell([NEWS])
        with telling_afterwards():
            tell([NEWS])
        assert heard == []
        raise ZeroDivisionError
    assert heard == [NEWS, NEWS]


def test_another_thread_tells_at_once(heard: list[Attempt]) -> None:
    with telling_afterwards(), ThreadPoolExecutor(1) as thread:
        thread.submit(tell, [NEWS]).result()
        assert heard == [NEWS]


def test_whoever_is_given_tells() -> None:
    told: list[Sequence[Attempt]] = []
    with telling_afterwards(told.append):
        pass
    assert told == [], "there was no news"
    with telling_afterwards(told.append):
        tell([NEWS])
    assert told == [[NEWS]]
