"""Waiting for a condition: how often it is looked at, and what is said when it doesn't come."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mailtasks.testing import servers, wait_until


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds between two looks, at a clock that only these make go on."""
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 1000 + sum(pauses), sleep=pauses.append)
    monkeypatch.setattr(servers, "time", clock)
    return pauses


def test_what_is_there_already_is_returned_at_once(pauses: list[float]) -> None:
    assert wait_until(lambda: "here") == "here"
    assert pauses == []


def test_it_looks_often_at_first_and_less_often_later(pauses: list[float]) -> None:
    wait_until(lambda: sum(pauses) > 3)
    assert pauses[:10] == [0.01] * 10
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.05


def test_what_doesnt_come_in_time_is_named(pauses: list[float]) -> None:
    with pytest.raises(TimeoutError) as caught:
        wait_until(lambda: [], timeout=2, what="the mail")
    assert str(caught.value) == "the mail didn't come within 2 s; last: []"
    assert 2 < sum(pauses) < 2.1
