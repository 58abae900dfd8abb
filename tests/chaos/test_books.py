"""What the comparison of the three books calls lost, unexplained and too much in doubt."""

from __future__ import annotations

from collections import Counter

import pytest

from mailtasks.state import State
from tests.chaos.books import Books, Fate, Pair, Toll, complaints, table

ANN: Pair = ("<1@x>", "ann@example.com")


def books(state: State | None, caught: int, *, told: bool = True, resends: int = 0) -> Books:
    ledger = {} if state is None else {ANN: Fate(state, resends)}
    return Books(frozenset([ANN] if told else []), ledger, Counter({ANN: caught} if caught else {}))


@pytest.mark.parametrize(
    ("state", "caught", "resends"),
    [
        (State.SENT, 1, 0),
        (State.SENT, 2, 1),
        (State.FAILED, 0, 0),
        (State.FAILED, 1, 1),  # taken without our knowing, then refused
        (State.IN_DOUBT, 0, 0),
        (State.IN_DOUBT, 1, 0),
        (State.IN_DOUBT, 2, 1),
    ],
)
def test_what_the_guarantee_allows(state: State, caught: int, resends: int) -> None:
    assert complaints(books(state, caught, resends=resends), Toll()) == []


def test_accepted_and_not_told_is_fine() -> None:
    assert complaints(books(State.SENT, 1, told=False), Toll()) == []


@pytest.mark.parametrize(
    ("state", "caught", "resends", "sentence"),
    [
        (None, 0, 0, "was accepted by the producer's word, and the ledger doesn't know it"),
        (State.SENT, 0, 0, "is sent by the ledger's word, and was never caught"),
        (State.QUEUED, 0, 0, "came to no end: it is queued"),
        (State.SENT, 2, 0, "was caught 2 times and resent 0 times"),
        (State.SENT, 3, 1, "was caught 3 times and resent 1 times"),
        (State.SENT, 3, 2, "was resent 2 times, and once is the most"),
        (State.FAILED, 1, 0, "was caught, and is failed without ever having been in doubt"),
    ],
)
def test_what_it_rules_out(state: State | None, caught: int, resends: int, sentence: str) -> None:
    [complaint] = complaints(books(state, caught, resends=resends), Toll())
    assert complaint.endswith(sentence)


def test_caught_and_unknown_to_the_ledger() -> None:
    [complaint] = complaints(books(None, 1, told=False), Toll())
    assert complaint.endswith("was caught, and the ledger doesn't know it")


def test_more_in_doubt_than_the_kills_may_cost() -> None:
    toll = Toll(kills=2, window=8, threads=4, abandoned=65)
    assert complaints(books(State.SENT, 1), toll) == ["65 were abandoned; 2 kills may cost 64"]


def test_more_after_one_kill_than_it_may_cost() -> None:
    toll = Toll(kills=2, window=8, threads=4, abandoned=40, worst=33)
    assert complaints(books(State.SENT, 1), toll) == ["33 were abandoned after one kill, which may cost 32"]


def test_work_that_is_taken_up_too_late() -> None:
    [complaint] = complaints(books(State.SENT, 1), Toll(lease=3, slowest=7.1))
    assert complaint == "a kill's work was taken up after 7.1 s, and 7.0 are the most"


def test_something_that_only_a_sweep_has_found() -> None:
    [complaint] = complaints(books(State.SENT, 1), Toll(swept=2))
    assert complaint == "a sweep found 2 batches that nothing else would have taken up"


def test_the_table_has_it_all() -> None:
    text = table(
        books(State.SENT, 3, resends=1), Toll(kills=1, window=8, threads=4, abandoned=3, twice=1), {"seed": 7}
    )
    for row in (
        "| lost | 0 |",
        "| duplicates | 2 |",
        "by a resend out of doubt | 1 |",
        "by late evidence | 1 |",
        "not explained | 1 |",
        "never told | 3 (at most 32) |",
        "| seed | 7 |",
    ):
        assert row in text
