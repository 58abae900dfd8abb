from __future__ import annotations

import threading
from itertools import count

import pytest

from mailtasks.compose.template.budget import Budget, LimitReached, Limits, current, weigh, within


def test_a_budget_runs_out_of_steps():
    budget = Budget(Limits(steps=2))
    budget.step()
    budget.step()
    with pytest.raises(LimitReached) as raised:
        budget.step()
    assert str(raised.value) == "it takes more than 2 steps (turns of loops, calls, includes)"


def test_and_of_characters():
    budget = Budget(Limits(characters=5))
    budget.spend(5)
    with pytest.raises(LimitReached) as raised:
        budget.spend(1)
    assert str(raised.value) == "it renders to more than 5 characters"


def test_and_of_the_threads_own_time():
    budget = Budget(Limits(steps=10**9, seconds=0.01))

    def work() -> None:
        for _ in count():
            budget.step()

    with pytest.raises(LimitReached) as raised:
        work()
    assert str(raised.value) == "it takes more than 0.01 s"
    assert budget.steps > 0


def test_the_budget_is_that_of_the_innermost_rendering_of_a_thread():
    seen: list[Budget] = []
    with within(Limits()) as outer:
        with within(Limits()) as inner:
            assert current() is inner
        assert current() is outer

        def other() -> None:
            with within(Limits()):
                seen.append(current())

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert current() is outer
    assert seen[0] is not outer


def test_text_is_weighed_where_something_is_rendered():
    assert weigh("abc") == "abc"
    with within(Limits(characters=5)) as budget:
        assert weigh(["abcdef"]) == ["abcdef"]
        assert weigh("abc") == "abc"
        assert budget.characters == 2
