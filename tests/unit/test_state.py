"""The table of states is what the design says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtasks.state import BY_CODE, CODES, FINAL, MOVES, UNFINISHED, State, summarise

DESIGN = {
    "queued": "sending cancelled expired suppressed",
    "sending": "sent deferred failed suppressed queued in_doubt",
    "deferred": "sending queued cancelled expired failed suppressed",
    "sent": "",
    "failed": "queued",
    "expired": "queued",
    "in_doubt": "sent failed expired cancelled queued",
    "cancelled": "queued",
    "suppressed": "queued",
}


def test_the_moves_are_the_designs() -> None:
    assert {old: set(new) for old, new in MOVES.items()} == {
        old: set(new.split()) for old, new in DESIGN.items()
    }


def test_each_state_has_a_character_of_its_own() -> None:
    assert {BY_CODE[state.code] for state in State} == set(State)
    assert len(set(CODES.values())) == len(State)


def test_every_state_is_unfinished_or_final_or_held() -> None:
    assert UNFINISHED | FINAL | {State.IN_DOUBT} == set(State)
    assert not UNFINISHED & FINAL
    assert set(MOVES) == set(State)


@given(st.lists(st.sampled_from(State), min_size=1))
def test_a_summary_is_one_of_the_states_whatever_their_order(states: list[State]) -> None:
    assert summarise(states) in states
    assert summarise(states) is summarise(reversed(states))


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ("sent sent", "sent"),
        ("sent failed", "failed"),
        ("sent queued failed", "queued"),
        ("deferred queued", "deferred"),
        ("deferred sending", "sending"),
        ("sending in_doubt sent", "in_doubt"),
        ("cancelled sent", "cancelled"),
    ],
)
def test_the_most_telling_state_is_the_messages(states: str, told: str) -> None:
    assert summarise(State(name) for name in states.split()) is State(told)


def test_there_is_no_summary_of_nothing() -> None:
    with pytest.raises(ValueError, match=r"^a message has at least one recipient$"):
        summarise([])
