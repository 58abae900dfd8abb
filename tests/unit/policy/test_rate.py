"""Rates as Celery writes them, and a bucket that never gives more than its rate."""

from __future__ import annotations

import pytest
from celery.utils.time import rate as celerys_rate
from hypothesis import given
from hypothesis import strategies as st

from mailtasks.errors import SettingsError
from mailtasks.policy.rate import TokenBucket, parse_rate


@pytest.mark.parametrize("given_rate", ["10/s", "100/m", "500/h", "0.5/s", "7", 10, 2.5, 0, "0/m"])
def test_a_rate_means_what_it_means_to_celery(given_rate: str | float) -> None:
    assert parse_rate(given_rate) == (celerys_rate(given_rate) or None)


@pytest.mark.parametrize("nothing", [None, "", 0, "0", "0/s"])
def test_no_rate_is_no_limit(nothing: str | int | None) -> None:
    assert parse_rate(nothing) is None


@pytest.mark.parametrize("wrong", ["fast", "10/d", "-1/s", "1/s/s", "/m", "1e3/s", True])
def test_what_is_no_rate_is_refused_in_one_sentence(wrong: str | bool) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_rate(wrong)
    assert str(caught.value) == (
        f"task_annotations: rate_limit {wrong!r} is no rate; "
        'expected a text such as "10/s", "100/m" or "500/h"'
    )


Steps = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=40)


@given(rate=st.floats(0.01, 200), steps=Steps)
def test_never_more_than_the_rate_in_any_interval(rate: float, steps: list[tuple[float, int, int]]) -> None:
    """What is taken between two moments, less what is given back, is at most rate x time + capacity."""
    bucket, now = TokenBucket(rate), 1000.0
    spent: list[tuple[float, int]] = []
    for wait, most, unused in steps:
        now += wait
        taken = bucket.take(most, now)
        assert 0 <= taken <= most
        unused = min(unused, taken)
        bucket.give_back(unused)
        spent.append((now, taken - unused))
    for first, (begin, _) in enumerate(spent):
        total = 0
        for end, amount in spent[first:]:
            total += amount
            assert total <= rate * (end - begin) + bucket.capacity + 1e-6


@given(rate=st.floats(0.01, 200), waits=st.lists(st.floats(0, 5), max_size=30))
def test_asking_takes_nothing(rate: float, waits: list[float]) -> None:
    bucket, now = TokenBucket(rate), 0.0
    for wait in waits:
        now += wait
        assert bucket.available(now) == bucket.available(now)
        assert bucket.take(0, now) == 0


@pytest.mark.parametrize("rate", [0.3, 1.0, 7.3])
def test_a_rate_is_reached_in_the_long_run(rate: float) -> None:
    """Looked at every 0.26 s, as the pump does."""
    bucket = TokenBucket(rate)
    assert sum(bucket.take(50, tick * 0.26) for tick in range(4000)) == pytest.approx(rate * 1040, abs=2)


def test_a_second_of_a_fast_rate_and_one_more_is_the_largest_burst() -> None:
    bucket = TokenBucket(20)
    assert bucket.take(100, 0) == 1
    assert bucket.take(100, 60) == 21
    assert bucket.take(100, 60) == 0
