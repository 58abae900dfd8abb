"""What the comparison of the three books calls lost, unexplained, untried, untimely and too much in doubt."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mailtasks.local.book import Entry
from mailtasks.state import State
from tests.chaos.books import Books, Ending, Fate, Kill, Pair, Toll, Wish, complaints, left_open, table

ANN: Pair = ("<1@x>", "ann@example.com")
OK = "250 2.0.0 ok"
NO_SUCH_USER = Entry(50, None, "", ANN[1], "550 5.1.1 no such user here", False)


def tried(pair: Pair, time: float = 100, verdict: str = OK, accepted: bool = True) -> Entry:
    return Entry(time, pair[0], "", pair[1], verdict, accepted)


def books(
    state: State | None,
    caught: int,
    *,
    told: bool = True,
    resends: int = 0,
    finished: float = 0,
    pair: Pair = ANN,
    wish: Wish = Wish(),  # noqa: B008  (it is frozen)
    more: Sequence[Entry] = (),
) -> Books:
    ledger = {} if state is None else {pair: Fate(state, resends, finished)}
    return Books({pair: wish} if told else {}, ledger, [*[tried(pair)] * caught, *more])


FINE = books(State.SENT, 1)


@pytest.mark.parametrize(
    ("state", "caught", "resends"),
    [
        (State.SENT, 1, 0),
        (State.SENT, 2, 1),
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
        (State.FAILED, 0, 0, "is failed, and the relay never refused it"),
        (State.EXPIRED, 0, 0, "is expired, and nobody asked for that"),
        (State.CANCELLED, 0, 0, "is cancelled, and nobody asked for that"),
        (State.SUPPRESSED, 0, 0, "is suppressed, and nobody asked for that"),
    ],
)
def test_what_it_rules_out(state: State | None, caught: int, resends: int, sentence: str) -> None:
    [complaint] = complaints(books(state, caught, resends=resends), Toll())
    assert complaint.endswith(sentence)


def test_caught_and_unknown_to_the_ledger() -> None:
    [complaint] = complaints(books(None, 1, told=False), Toll())
    assert complaint.endswith("was caught, and the ledger doesn't know it")


def test_caught_and_failed() -> None:
    [complaint] = complaints(books(State.FAILED, 1, more=[NO_SUCH_USER]), Toll())
    assert complaint.endswith("was caught, and is failed without ever having been in doubt")


@pytest.mark.parametrize(
    ("resends", "refusal"),
    [
        (0, NO_SUCH_USER),
        (0, tried(ANN, 100, "554 5.7.1 the content looks like spam", False)),
        (1, NO_SUCH_USER),  # taken without our knowing, then refused
    ],
)
def test_failed_by_the_relays_word_is_fine(resends: int, refusal: Entry) -> None:
    assert complaints(books(State.FAILED, resends, resends=resends, more=[refusal]), Toll()) == []


@pytest.mark.parametrize(
    "refusal",
    [
        tried(ANN, 100, "451 4.3.0 try again later", False),
        tried(("<1@x>", "bob@example.com"), 100, "554 5.7.1 the content looks like spam", False),
        tried(("<2@x>", ANN[1]), 100, "554 5.7.1 the content looks like spam", False),
    ],
)
def test_a_deferral_or_anothers_refusal_is_none(refusal: Entry) -> None:
    [complaint] = complaints(books(State.FAILED, 0, more=[refusal]), Toll())
    assert complaint.endswith("is failed, and the relay never refused it")


@pytest.mark.parametrize(("state", "word"), [(State.EXPIRED, "brief"), (State.CANCELLED, "regretted")])
@pytest.mark.parametrize("told", [True, False])
def test_what_was_asked_for_is_fine(state: State, word: str, told: bool) -> None:
    pair = ("<1@x>", f"ann-{word}@example.com")
    assert complaints(books(state, 0, pair=pair, told=told, finished=100), Toll()) == []


@pytest.mark.parametrize(
    ("state", "caught", "finished", "wish", "sentence"),
    [
        (State.SENT, 1, 101, Wish(not_before=103), "was caught 3.0 s before its time"),
        (State.EXPIRED, 0, 101, Wish(expires=105), "expired 4.0 s before its time"),
        (State.SENT, 1, 101, Wish(cancelled=True), "was cancelled by the producer's word, and caught"),
    ],
)
def test_what_is_against_a_wish(
    state: State, caught: int, finished: float, wish: Wish, sentence: str
) -> None:
    pair = ("<1@x>", "ann-brief@example.com")
    [complaint] = complaints(books(state, caught, pair=pair, finished=finished, wish=wish), Toll())
    assert complaint.endswith(sentence)


@pytest.mark.parametrize(
    ("state", "caught", "resends", "wish"),
    [
        (State.SENT, 1, 0, Wish(not_before=100)),
        (State.EXPIRED, 0, 0, Wish(expires=99)),
        (State.CANCELLED, 0, 0, Wish(cancelled=True)),
        (State.CANCELLED, 1, 1, Wish(cancelled=True)),  # the first was in doubt, the second cancelled
    ],
)
def test_what_is_by_a_wish(state: State, caught: int, resends: int, wish: Wish) -> None:
    pair = ("<1@x>", f"ann-{'regretted' if wish.cancelled else 'brief'}@example.com")
    kept = books(state, caught, pair=pair, resends=resends, finished=100, wish=wish)
    assert complaints(kept, Toll()) == []


def test_tried_during_a_pause() -> None:
    [complaint] = complaints(FINE, Toll(pauses=[(10, 20), (99, 101)]))
    assert complaint.endswith("was tried while everything was paused")
    assert complaints(FINE, Toll(pauses=[(10, 20), (101, 103)])) == []


def test_more_in_doubt_than_the_kills_may_cost() -> None:
    toll = Toll(kills=[Kill(), Kill()], window=8, threads=4, abandoned=65, doubts=65)
    assert complaints(FINE, toll) == ["65 were abandoned; 2 kills may cost 64"]


def test_more_after_one_kill_than_it_may_cost() -> None:
    toll = Toll(kills=[Kill(abandoned=33), Kill(7)], window=8, threads=4, abandoned=40, doubts=40)
    assert complaints(FINE, toll) == ["33 were abandoned after one kill, which may cost 32"]


def test_doubt_that_is_nobodys_doing() -> None:
    toll = Toll(kills=[Kill()], window=8, threads=4, abandoned=5, doubts=10, cut_off=2)
    assert complaints(FINE, toll) == [
        "5 came into doubt though nobody was killed; relay and wire account for 4"
    ]
    assert (
        complaints(books(State.SENT, 1, more=[tried(ANN, verdict="no answer", accepted=False)]), toll) == []
    )


@pytest.mark.parametrize(
    ("message_id", "verdict", "most"),
    [
        ("<1@x>", OK, 0),
        ("<1@x>", "451 4.3.0 no room at the moment", 0),
        (None, "550 5.1.1 no such user here", 0),
        ("<1@x>", "no answer", 1),
        (None, "no answer", 2),  # the answer to the mail before was still on its way
        ("<1@x>", "?\x01 what the cat typed", 1),
        ("<1@x>", f"{OK}\r\n{OK}", 1),
        ("<1@x>", f"{OK}, closing", 1),
    ],
)
def test_what_the_relay_leaves_open(message_id: str | None, verdict: str, most: int) -> None:
    assert left_open([Entry(0, message_id, "", "ann@example.com", verdict, False)]) == most


def test_work_that_is_taken_up_too_late() -> None:
    in_time, late = Kill(1, 5.9, due=3), Kill(1, 6.1, due=3)
    [complaint] = complaints(FINE, Toll(kills=[in_time, late], threads=4, abandoned=2, doubts=2))
    assert complaint == "a kill's work was taken up after 6.1 s, and 6.0 are the most"


def test_kills_that_hit_nobody() -> None:
    assert complaints(FINE, Toll(kills=[Kill()] * 2)) == []
    assert complaints(FINE, Toll(kills=[Kill()] * 3)) == [
        "3 kills hit nobody at work, so they have shown nothing"
    ]


def test_a_worker_that_did_not_end_in_good_order() -> None:
    assert complaints(FINE, Toll(endings=[Ending(), Ending(code=-9, abandoned=3)])) == [
        "a worker that was told to end ended with -9",
        "a worker that was told to end left 3 in doubt or claimed",
    ]


def test_something_that_only_a_sweep_has_found() -> None:
    [complaint] = complaints(FINE, Toll(swept=2))
    assert complaint == "a sweep found 2 batches that nothing else would have taken up"


def test_planned_mail_that_is_late() -> None:
    [complaint] = complaints(FINE, Toll(planned_late=4.2))
    assert complaint == "mail was tried 4.2 s after its time, and 4.0 are the most"


def test_the_table_has_it_all() -> None:
    toll = Toll(kills=[Kill(3, 2.5, due=3)], window=8, threads=4, abandoned=3, doubts=4, twice=1, cut_off=3)
    text = table(books(State.SENT, 3, resends=1), toll, {"seed": 7})
    for row in (
        "| lost | 0 |",
        "| duplicates | 2 |",
        "by a resend out of doubt | 1 |",
        "by late evidence | 1 |",
        "not explained | 1 |",
        "failed without a refusal | 0 |",
        "never told | 3 (at most 32) |",
        "the most for one kill | 3 (at most 32) |",
        "relay or the wire | 1 (at most 6) |",
        "taken up or held | 2.5 s (at most 6.0 s) |",
        "| seed | 7 |",
    ):
        assert row in text
