"""How many messages a process may send now."""

from __future__ import annotations

from mailtasks.limiter import Limiter
from mailtasks.message import Priority


def test_what_nothing_was_sent_for_comes_back() -> None:
    limiter = Limiter()
    limiter.set_rate(0.001)  # so slow that time plays no part
    assert limiter.available() == 1
    assert limiter.take(5, Priority.NORMAL) == 1
    assert limiter.available() == 0
    limiter.give_back(1)
    assert limiter.available() == 1
    limiter.take(1, Priority.NORMAL)
    limiter.set_rate(0.001)
    assert limiter.available() == 0, "the same rate again changes nothing"


def test_without_a_rate_there_is_no_limit() -> None:
    limiter = Limiter()
    assert (limiter.available(), limiter.take(7, Priority.NORMAL)) == (None, 7)
    limiter.set_rate(0.001)
    limiter.set_rate(None)
    limiter.give_back(7)
    assert (limiter.available(), limiter.take(7, Priority.NORMAL)) == (None, 7)


def test_what_is_kept_for_a_priority_goes_to_no_lower_one() -> None:
    limiter = Limiter()
    limiter.set_rate(0.001)
    limiter.keep_for(Priority.NORMAL)
    assert limiter.take(1, Priority.BULK) == 0
    assert limiter.take(1, Priority.NORMAL) == 1
    limiter.give_back(1)
    limiter.keep_for(None)
    assert limiter.take(1, Priority.BULK) == 1
