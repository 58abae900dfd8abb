"""Waiting as Celery would, with Celery's own function beside it."""

from __future__ import annotations

import random
from unittest.mock import patch

import pytest
from celery.utils.time import get_exponential_backoff_interval
from hypothesis import given
from hypothesis import strategies as st

from mailtasks.errors import DeliveryError, PermanentFailure, SettingsError, TemporaryFailure
from mailtasks.policy.backoff import RetryPolicy


def celerys(retry_backoff: float, retry_backoff_max: int, retries: int) -> int:
    """What `autoretry_for` computes in celery/app/autoretry.py, without the jitter."""
    factor = int(max(1.0, retry_backoff))
    return get_exponential_backoff_interval(
        factor=factor, retries=retries, maximum=retry_backoff_max, full_jitter=False
    )


@given(
    retry_backoff=st.one_of(st.just(True), st.floats(0.1, 5000), st.integers(1, 5000)),
    longest=st.integers(0, 100_000),
    retries=st.integers(0, 40),
)
def test_the_same_wait_as_celerys(retry_backoff: float, longest: int, retries: int) -> None:
    policy = RetryPolicy(retry_backoff=retry_backoff, retry_backoff_max=longest, retry_jitter=False)
    assert policy.delay(retries + 1, random.random) == celerys(retry_backoff, longest, retries)


@given(attempts=st.integers(0, 1000), chance=st.floats(0, 1))
def test_full_jitter_stays_between_nothing_and_the_wait(attempts: int, chance: float) -> None:
    wait = RetryPolicy(retry_jitter=False).delay(attempts, random.random)
    assert 0 <= RetryPolicy().delay(attempts, lambda: chance) <= wait <= 3600


def test_celerys_jitter_is_full_too() -> None:
    """So `retry_jitter=True` may mean what Celery means by it."""
    with patch("celery.utils.time.random.randrange", side_effect=lambda stop: stop - 1) as drawn:
        assert get_exponential_backoff_interval(60, 2, 3600, full_jitter=True) == 240
    drawn.assert_called_once_with(241)


@pytest.mark.parametrize("off", [0, False])
def test_without_back_off_the_default_delay_stands(off: float) -> None:
    policy = RetryPolicy(retry_backoff=off, default_retry_delay=7)
    assert [policy.delay(n, random.random) for n in (1, 2, 9)] == [7, 7, 7]


def test_retry_kwargs_are_celerys() -> None:
    """Its `max_retries` is stronger than the task's; its `countdown` gives way to a back-off that was set."""
    annotated = RetryPolicy.annotated
    kwargs = {"max_retries": 3, "countdown": 10}
    assert annotated({"retry_kwargs": kwargs, "max_retries": 9}).max_retries == 3
    assert annotated({"retry_kwargs": {"max_retries": None}, "max_retries": 9}).max_retries == 9
    assert annotated({"retry_kwargs": kwargs}).delay(5, random.random) == 10
    backing_off = annotated({"retry_kwargs": kwargs, "retry_backoff": 5, "retry_jitter": False})
    assert backing_off.delay(3, random.random) == 20
    assert annotated({"retry_kwargs": {}}) == annotated({}) == RetryPolicy()


@pytest.mark.parametrize("wrong", [{"eta": 5}, {"countdown": -1}, {"max_retries": "three"}, 3])
def test_what_retry_kwargs_cant_hold(wrong: object) -> None:
    with pytest.raises(SettingsError) as caught:
        RetryPolicy.annotated({"retry_kwargs": wrong})
    assert str(caught.value) == (
        f"task_annotations: retry_kwargs is {wrong!r}; "
        "expected max_retries and countdown (seconds, at least 0), and nothing else"
    )


def test_without_a_limit_it_is_never_exhausted() -> None:
    assert not RetryPolicy().is_exhausted(10_000)
    assert not RetryPolicy(max_retries=3).is_exhausted(3)
    assert RetryPolicy(max_retries=3).is_exhausted(4)


def test_only_temporary_failures_are_retried_by_default() -> None:
    policy = RetryPolicy()
    assert policy.retries(TemporaryFailure)
    assert not policy.retries(PermanentFailure)
    assert not policy.retries(DeliveryError)
