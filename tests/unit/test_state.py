"""The table of states is what the design says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtasks.errors import IllegalMove
from mailtasks.state import BY_CODE, CODES, FINAL, MOVES, UNFINISHED, State, check_move, summarise

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


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_a_move_is_legal_if_the_design_says_so(old: State, new: State) -> None:
    if new in DESIGN[old].split():
        check_move(old, new)
    else:
        with pytest.raises(IllegalMove, match=f"^{old} can't become {new}; it may become "):
            check_move(old, new)


def test_an_illegal_move_says_what_would_be_legal() -> None:
    with pytest.raises(IllegalMove) as raised:
        check_move(State.FAILED, State.SENT)
    assert str(raised.value) == "failed can't become sent; it may become queued"
    with pytest.raises(IllegalMove) as raised:
        check_move(State.SENT, State.QUEUED)
    assert str(raised.value) == "sent can't become queued; it may become nothing"


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
