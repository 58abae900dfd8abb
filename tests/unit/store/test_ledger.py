"""The moves, one by one, on a real Redis with a clock of our own."""

from __future__ import annotations

import copy
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mailtasks.errors import IllegalMove, StoreError, StoreUnavailable
from mailtasks.local.redis import LocalRedis
from mailtasks.message import PRIORITIES, Priority
from mailtasks.state import CODES, State
from mailtasks.status import Stray
from mailtasks.store import ledger as ledger_module
from mailtasks.store.connection import connect, where
from mailtasks.store.keys import new_batch_id
from mailtasks.store.ledger import Acceptance, Claim, Hint, Limits, Refusal, Released, Result, new_claim

from .bench import LIFETIME, OWNER, Bench, results, window

HOUR = 3600.0
UNKNOWN = "0" * 27

# Accept


def test_accept_takes_a_batch_and_wants_a_hint(bench: Bench) -> None:
    batch = bench.new(1, 2, 1)
    assert bench.ledger.accept([batch]) == [(Acceptance.NEW, True)]
    assert bench.states(batch.id) == "qqqq"
    assert bench.field(batch.id, "m") == b"1x1,2x1,1x1"
    assert bench.due(batch.id) == 10
    assert [bench.count(name) for name in ("accepted", "queued", "unfinished:bulk")] == [4, 4, 4]


def test_accept_again_changes_nothing(bench: Bench) -> None:
    batch = bench.new(3)
    bench.ledger.accept([batch])
    before = bench.everything()
    bench.later(5)
    assert bench.ledger.accept([batch, batch]) == [(Acceptance.SAME, True)] * 2
    assert bench.everything() == before


def test_accept_refuses_other_content_under_the_same_id(bench: Bench) -> None:
    batch = bench.new(1)
    other = bench.new(1, id=batch.id, fingerprint="other")
    assert bench.ledger.accept([batch, other]) == [(Acceptance.NEW, True), (Acceptance.CONFLICT, False)]
    assert bench.count("accepted") == 1


def test_a_long_batch_has_short_runs(bench: Bench) -> None:
    id = bench.accept(*[1] * 300)
    assert bench.field(id, "m") == b"1x300"
    assert len(bench.states(id)) == 300


def test_a_later_send_waits_without_a_hint(bench: Bench) -> None:
    batch = bench.new(send_at=bench.now / 1000 + 600)
    assert bench.ledger.accept([batch]) == [(Acceptance.NEW, False)]
    assert bench.due(batch.id) == 600
    assert bench.refused(batch.id) == Refusal.NOTHING
    assert bench.due(batch.id) == 600
    bench.later(600)
    assert bench.look() == [batch.id]
    assert len(bench.claim(batch.id).window) == 1
    assert bench.expires_in(batch.id) == LIFETIME


def test_the_margin_ends_with_the_maximum_age(bench: Bench) -> None:
    assert bench.due(bench.accept(lifetime=3.0)) == 3


# Claim and step


@pytest.mark.parametrize(("priority", "messages"), [("urgent", 1), ("normal", 4), ("bulk", 8)])
def test_a_window_is_as_wide_as_its_priority_says(bench: Bench, priority: str, messages: int) -> None:
    claim = bench.claim(bench.accept(*[1] * 10, priority=priority))
    assert len(claim.window) == messages
    assert bench.states(claim.batch) == "s" * messages + "q" * (10 - messages)


def test_a_window_is_no_wider_than_asked_for(bench: Bench) -> None:
    assert window(bench.claim(bench.accept(1, 2, 1, 1), most=2)) == [0, 1, 2]


def test_a_claim_holds_all_that_is_needed_to_send(bench: Bench) -> None:
    id = bench.accept(1, 2)
    bench.later(5)
    claim = bench.claim(id)
    first, second = claim.window
    assert (first.id, second.id) == (f"{id}.0", f"{id}.1")
    assert (first.body, second.record.subject) == (b"body 0", "subject 1")
    assert [one.address for one in second.recipients] == ["1@example.com", "2@example.com"]
    assert 59 < claim.remaining() <= 60


def test_a_lease_goes_on_while_the_machine_is_suspended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = bench.claim(bench.accept())
    woken = time.clock_gettime(time.CLOCK_BOOTTIME) + 70
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: woken}.__getitem__)
    assert claim.remaining() == 0


def test_the_rest_of_a_message_to_very_many_comes_with_the_next_window(bench: Bench) -> None:
    claim = bench.claim(bench.accept(1, 250))
    seen = []
    while True:
        seen.append(len(window(claim)))
        if bench.ledger.step(claim, OWNER, results(claim, State.SENT)):
            break
    assert seen == [101, 100, 50]
    assert bench.count("sent") == 251


def test_thousands_of_deferred_recipients_cost_few_calls(bench: Bench) -> None:
    id = bench.accept(2500)
    claim = bench.claim(id)
    while claim.window:
        told = [Result(index, State.DEFERRED, 50 + index / 100) for index in window(claim)]
        if bench.ledger.step(claim, OWNER, told):
            break
    bench.later(60)
    bench.redis.config_resetstat()
    claim = bench.claim(id)
    assert bench.ledger.step(claim, OWNER, results(claim, State.SENT)) is None
    calls = {name: row["calls"] for name, row in bench.redis.info("commandstats").items()}
    assert calls["cmdstat_hmget"] < 20
    assert calls.get("cmdstat_hget", 0) < 20


def test_a_batch_has_one_owner(bench: Bench) -> None:
    id = bench.accept(1, 1)
    bench.claim(id, most=1)
    assert bench.refused(id) == Refusal.TAKEN
    assert bench.ledger.park(id, OWNER).why is Refusal.TAKEN
    assert bench.refused(UNKNOWN) == Refusal.GONE


def test_a_finished_batch_has_nothing_to_claim_and_is_not_touched(bench: Bench) -> None:
    id = bench.accept()
    bench.settle(id, State.SENT)
    finished = bench.field(id, "f")
    bench.redis.expire(bench.keys.batch(id)[0], 500)
    bench.later(100)
    assert bench.refused(id) == Refusal.NOTHING
    assert bench.field(id, "f") == finished
    assert bench.lives(id)[0] <= 500


def test_each_result_becomes_the_recipients_state(bench: Bench) -> None:
    id = bench.accept(1, 1, 1, 1, 1, 1)
    bench.later(5)
    told = (
        State.SENT,
        State.DEFERRED,
        State.FAILED,
        State.IN_DOUBT,
        State.SUPPRESSED,
        State.QUEUED,
    )
    bench.settle(id, *told, delay=30)
    assert bench.states(id) == "+df?uq"
    assert [bench.count(state) for state in told] == [1] * 6
    tries = bench.tries(id, 0)
    assert (tries.attempts, tries.at, tries.reply, tries.relay) == (1, bench.now, "250 2.0.0 Ok", "mx:25")
    assert (tries.worker, tries.took) == (OWNER, 250)
    assert bench.tries(id, 1).due == bench.now + 30_000
    assert 5 not in bench.snapshot(id).tries


def test_an_attempt_that_does_not_count_leaves_the_number(bench: Bench) -> None:
    id = bench.accept()
    claim = bench.claim(id)
    bench.ledger.release(claim, OWNER, [Result(0, State.DEFERRED, 60, counted=False, reply="no relay")])
    assert (bench.tries(id).attempts, bench.tries(id).reply) == (0, "no relay")


def test_deferred_mail_is_due_at_its_time(bench: Bench) -> None:
    id = bench.accept(1, 1)
    claim = bench.claim(id)
    told = [Result(0, State.DEFERRED, 90), Result(1, State.DEFERRED, 40)]
    released = bench.ledger.release(claim, OWNER, told)
    assert (released.hint, bench.due(id)) == (False, 40)
    bench.later(39)
    assert bench.refused(id) == Refusal.NOTHING
    bench.later(1)
    assert bench.look() == [id]
    claim = bench.claim(id)
    assert window(claim) == [1]
    assert claim.window[0].recipients[0].attempts == 1
    bench.ledger.release(claim, OWNER, results(claim, State.SENT))
    assert bench.due(id) == 50


def test_the_next_attempt_comes_no_later_than_the_maximum_age(bench: Bench) -> None:
    id = bench.accept(lifetime=100.0)
    bench.settle(id, State.DEFERRED, delay=HOUR)
    assert bench.due(id) == 100


def test_what_is_left_is_hinted_again(bench: Bench) -> None:
    id = bench.accept(1, 1)
    released = bench.settle(id, State.SENT)
    assert (released.hint, released.priority, bench.due(id)) == (True, Priority.BULK, 10)


def test_a_body_goes_with_the_last_recipient_of_its_message(bench: Bench) -> None:
    id = bench.accept(2, 1)
    bench.settle(id, State.SENT, State.DEFERRED, State.SENT, delay=0.0)
    assert (bench.field(id, "c0"), bench.field(id, "c1")) == (b"=body 0", None)
    bench.settle(id, State.SENT)
    assert bench.field(id, "c0") is None


def test_what_is_not_settled_is_in_doubt(bench: Bench) -> None:
    id = bench.accept(1, 1, 1)
    claim = bench.claim(id, most=2)
    assert bench.ledger.step(claim, OWNER, [Result(0, State.SENT)]) is None
    assert bench.states(id) == "+?s"
    assert bench.tries(id, 1).reply == f"{OWNER} left it unsettled"


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ([Result(7, State.SENT)], "what isn't being sent can't become sent (batch {id}, recipient 7)"),
        ([Result(-1, State.SENT)], "what isn't being sent can't become sent (batch {id}, recipient -1)"),
        ([Result(2, State.SENT)], "what isn't being sent can't become sent (batch {id}, recipient 2)"),
        ([Result(2, State.QUEUED)], "what isn't being sent can't become queued (batch {id}, recipient 2)"),
        ([Result(0, State.CANCELLED)], "sending can't become cancelled (batch {id}, recipient 0)"),
        (
            [Result(0, State.FAILED), Result(0, State.QUEUED)],
            "what isn't being sent can't become queued (batch {id}, recipient 0)",
        ),
        (
            [Result(1, State.IN_DOUBT), Result(0, State.DEFERRED), Result(0, State.DEFERRED)],
            "what isn't being sent can't become deferred (batch {id}, recipient 0)",
        ),
    ],
)
@pytest.mark.parametrize("more", [True, False])
def test_an_illegal_result_changes_nothing(
    bench: Bench, told: list[Result], sentence: str, more: bool
) -> None:
    claim = bench.claim(bench.accept(1, 1, 1), most=2)
    before = bench.everything()
    move = bench.ledger.step if more else bench.ledger.release
    with pytest.raises(IllegalMove) as raised:
        move(claim, OWNER, told)
    assert str(raised.value) == sentence.format(id=claim.batch)
    assert bench.everything() == before


def test_the_same_sent_twice_in_one_call_is_one(bench: Bench) -> None:
    id = bench.accept()
    claim = bench.claim(id)
    bench.ledger.step(claim, OWNER, results(claim, State.SENT) * 2)
    assert (bench.count("sent"), bench.count("duplicates"), bench.tries(id).attempts) == (1, 0, 1)


# Answers that are lost


def test_a_claim_whose_answer_was_lost_is_claimed_again(bench: Bench) -> None:
    id = bench.accept(1, 2, 1, 1)
    claim = bench.claim(id, most=2)
    lost = copy.copy(claim)
    lost.steps = 0
    bench.later(5)
    assert bench.ledger.step(lost, OWNER, (), most=2) is None
    assert lost.window == claim.window
    assert bench.states(id) == "sssqq"


def test_a_step_whose_answer_was_lost_is_made_once(bench: Bench) -> None:
    id = bench.accept(*[1] * 20)
    claim = bench.claim(id)
    told = results(claim, State.SENT, *[State.DEFERRED] * 7, delay=30)
    lost = copy.copy(claim)
    assert bench.ledger.step(lost, OWNER, told) is None
    before = bench.everything()
    assert bench.ledger.step(claim, OWNER, told) is None
    assert claim.window == lost.window
    assert bench.everything() == before


def test_a_release_whose_answer_was_lost_is_made_once(bench: Bench) -> None:
    id = bench.accept(1, 1)
    claim = bench.claim(id, most=1)
    told = results(claim, State.DEFERRED, delay=30)
    released = bench.ledger.release(copy.copy(claim), OWNER, told)
    before = bench.everything()
    again = bench.ledger.release(claim, OWNER, told)
    assert (again.why, again.hint) == (released.why, released.hint) == (Refusal.NOTHING, True)
    assert bench.everything() == before


def test_a_release_in_place_of_a_step_whose_answer_was_lost_gives_back_what_that_claimed(
    bench: Bench,
) -> None:
    id = bench.accept(1, 1)
    claim = bench.claim(id, most=1)
    told = results(claim, State.SENT)
    bench.ledger.step(copy.copy(claim), OWNER, told)
    assert bench.states(id) == "+s"
    bench.ledger.release(claim, OWNER, told)
    assert bench.states(id) == "+q"
    assert bench.count("doubts") == 0


def test_a_step_whose_answer_was_lost_until_its_lease_was_is_no_evidence(bench: Bench) -> None:
    id = bench.accept()
    claim = bench.claim(id)
    told = results(claim, State.SENT)
    bench.ledger.release(copy.copy(claim), OWNER, told)
    bench.refused(id)
    assert bench.ledger.release(claim, OWNER, told).why is Refusal.LOST
    assert (bench.count("duplicates"), bench.tries(id).attempts) == (0, 1)


def test_an_old_copy_of_a_step_changes_nothing_while_its_owner_sends_and_after_it_gave_back(
    bench: Bench,
) -> None:
    """One that the network held back, and that comes when its owner has long gone on."""
    claim = new_claim(bench.accept(1, 1, 1, 1))
    told: list[Result] = []
    copies: list[tuple[Claim, list[Result]]] = []
    for _ in range(3):
        older = copies.copy()
        copies.append((copy.copy(claim), told))
        assert bench.ledger.step(claim, OWNER, told, most=1) is None
        assert_lost(bench, older)
        told = results(claim, State.SENT)
    bench.ledger.release(claim, OWNER, told)
    assert bench.states(claim.batch) == "+++q"
    assert_lost(bench, copies)


def assert_lost(bench: Bench, copies: list[tuple[Claim, list[Result]]]) -> None:
    before = bench.everything()
    for move in (bench.ledger.step, bench.ledger.release):
        for claim, told in copies:
            released = move(copy.copy(claim), OWNER, told)
            assert released is not None
            assert (released.why, released.evidence) == (Refusal.LOST, 0)
    assert bench.everything() == before


# What Redis has forgotten


def forgotten_step(bench: Bench) -> Claim:
    """Who sends the second of three messages, though Redis has forgotten that it handed it out."""
    claim = bench.claim(bench.accept(1, 1, 1), most=1)
    memory = bench.memory()
    bench.ledger.step(claim, OWNER, results(claim, State.SENT), most=1)
    bench.recall(memory)
    assert (bench.states(claim.batch), window(claim)) == ("sqq", [1])
    return claim


def test_a_2xx_counts_though_redis_has_forgotten_who_was_sending(bench: Bench) -> None:
    claim = forgotten_step(bench)
    assert bench.ledger.step(claim, OWNER, results(claim, State.SENT)) is None
    assert (bench.states(claim.batch), window(claim)) == ("?+s", [2])
    assert bench.tries(claim.batch, 1).attempts == 1
    assert (bench.count("sent"), bench.count("duplicates"), bench.count("doubts")) == (1, 0, 1)


@pytest.mark.parametrize(
    "told", [State.DEFERRED, State.FAILED, State.QUEUED, State.SUPPRESSED, State.IN_DOUBT]
)
def test_nothing_else_counts_once_redis_has_forgotten_who_was_sending(bench: Bench, told: State) -> None:
    claim = forgotten_step(bench)
    bench.ledger.release(claim, OWNER, results(claim, told))
    assert bench.states(claim.batch) == "?qq"
    assert 1 not in bench.snapshot(claim.batch).tries
    assert window(bench.claim(claim.batch)) == [1, 2]


def test_a_2xx_counts_though_redis_has_forgotten_the_claim(bench: Bench) -> None:
    id = bench.accept(1, 1)
    memory = bench.memory()
    claim = bench.claim(id, most=1)
    bench.recall(memory)
    released = bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert released is not None
    assert (released.why, released.evidence) == (Refusal.LOST, 1)
    assert window(bench.claim(id)) == [1]


@pytest.mark.parametrize("nobody", [3, -1])
def test_what_never_was_is_refused_whatever_redis_has_forgotten(bench: Bench, nobody: int) -> None:
    claim = forgotten_step(bench)
    before = bench.everything()
    with pytest.raises(IllegalMove) as raised:
        bench.ledger.step(claim, OWNER, [*results(claim, State.SENT), Result(nobody, State.SENT)])
    assert str(raised.value).endswith(f"sent (batch {claim.batch}, recipient {nobody})")
    assert bench.everything() == before


@pytest.mark.parametrize("index", [0, 2])
def test_a_later_step_that_is_illegal_changes_nothing_if_nothing_was_forgotten(
    bench: Bench, index: int
) -> None:
    claim = bench.claim(bench.accept(1, 1, 1), most=1)
    bench.ledger.step(claim, OWNER, results(claim, State.FAILED), most=1)
    before = bench.everything()
    with pytest.raises(IllegalMove) as raised:
        bench.ledger.step(claim, OWNER, [*results(claim, State.SENT), Result(index, State.SENT)])
    assert str(raised.value) == (
        f"what isn't being sent can't become sent (batch {claim.batch}, recipient {index})"
    )
    assert bench.everything() == before


# Leases


def test_renewing_keeps_a_claim(bench: Bench) -> None:
    claims = [bench.claim(bench.accept()) for _ in range(3)]
    for _ in range(10):
        bench.pass_time(15)
        bench.ledger.renew(claims)
    assert not any(claim.lost for claim in claims)
    assert {bench.due(claim.batch) for claim in claims} == {60}
    bench.ledger.renew([])


def test_a_claim_that_lapsed_is_lost(bench: Bench) -> None:
    mine, other = bench.claim(bench.accept()), bench.claim(bench.accept())
    bench.pass_time(50)
    bench.ledger.renew([other])
    bench.pass_time(20)
    bench.ledger.renew([mine, other])
    assert (mine.lost, other.lost, mine.remaining()) == (True, False, 0)


def test_renewing_does_not_bring_back_a_batch_that_evidence_has_finished(bench: Bench) -> None:
    first, second = bench_with_two_owners(bench)
    bench.ledger.step(first, OWNER, results(first, State.SENT))
    bench.ledger.renew([second])
    assert not second.lost
    assert bench.due(second.batch, "normal") is None


@pytest.mark.parametrize(
    ("priority", "states"), [("urgent", "q"), ("normal", "q"), ("bulk", "?")], ids=lambda value: value
)
def test_a_lapsed_window_is_in_doubt_and_resent_once_if_so_decided(
    bench: Bench, priority: str, states: str
) -> None:
    id = bench.accept(priority=priority)
    bench.claim(id)
    hints = bench.pass_time(60)
    assert bench.states(id) == states
    assert hints == ([id] if states == "q" else [])
    assert bench.tries(id).reply == f"the lease of {OWNER} lapsed"
    if states == "q":
        bench.claim(id)
        assert bench.tries(id).resends == 1
        bench.pass_time(70)
        assert bench.states(id) == "?"


def test_only_the_window_is_in_doubt(bench: Bench) -> None:
    id = bench.accept(*[1] * 300)
    bench.claim(id)
    bench.pass_time(70)
    assert bench.states(id) == "?" * 8 + "q" * 292
    assert (bench.count("doubts"), bench.count("lapses")) == (8, 1)


def test_a_claim_that_lapsed_is_doubted_by_who_claims_next(bench: Bench) -> None:
    id = bench.accept(1, 1)
    bench.claim(id, most=1)
    bench.later(25)
    bench.look()
    bench.later(28)
    bench.look()
    bench.later(8)
    assert window(bench.claim(id)) == [1]
    assert bench.states(id) == "?s"


def test_three_lapses_set_a_batch_aside_until_it_is_retried(bench: Bench) -> None:
    id = bench.accept(*[1] * 40)
    for _ in range(3):
        assert bench.waits(id) == set()
        bench.claim(id)
        bench.pass_time(70)
    assert bench.waits(id) == {"aside"}
    assert bench.refused(id) == Refusal.ASIDE
    assert bench.due(id) == pytest.approx(LIFETIME - 210)
    assert bench.pass_time(HOUR) == []
    assert bench.ledger.retry(id, {39: State.QUEUED}) == (1, 0)
    assert bench.look() == [id]
    assert window(bench.claim(id)) == list(range(24, 32))
    assert bench.waits(id) == set()


def test_what_was_tried_before_it_was_set_aside_is_retried_anew(bench: Bench) -> None:
    id = bench.accept(1, 1, 1, 1, priority="normal")
    bench.settle(id, *[State.IN_DOUBT] * 4)  # they are resent, and that was an attempt
    for _ in range(3):
        bench.claim(id, most=1)
        bench.pass_time(70)
    assert (bench.states(id), bench.tries(id, 3).attempts) == ("???q", 1)
    assert bench.ledger.retry(id, {3: State.QUEUED}) == (1, 0)
    assert bench.tries(id, 3).attempts == 0


def set_aside(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage() for record in caplog.records]
    return [sentence for sentence in said if "is set aside" in sentence]


def test_a_batch_that_is_set_aside_is_named_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    id = bench.accept(*[1] * 40)
    for _ in range(3):
        bench.claim(id)
        bench.pass_time(70)
    bench.pass_time(HOUR)
    assert set_aside(caplog) == [
        f"batch {id} is set aside, until somebody retries its messages: "
        "3 claims of it lapsed one after the other"
    ]


def test_lapses_between_which_something_was_settled_set_nothing_aside(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    id = bench.accept(*[1] * 100)
    for _ in range(4):
        bench.claim(id)
        bench.pass_time(70)
        bench.settle(id, State.SENT)
    assert (bench.count("lapses"), bench.waits(id)) == (4, set())
    assert set_aside(caplog) == []


def test_queued_mail_that_is_not_set_aside_is_not_retried(bench: Bench) -> None:
    assert bench.ledger.retry(bench.accept(), {0: State.QUEUED}) == (0, 0)


# Late evidence


def bench_with_two_owners(bench: Bench) -> tuple[Claim, Claim]:
    """A batch that its first owner has lost, and that another one is sending again."""
    id = bench.accept(priority="normal")
    first = bench.claim(id)
    bench.pass_time(70)
    return first, bench.claim(id)


@pytest.mark.parametrize("state", [state for state in State if state not in (State.SENT, State.SENDING)])
def test_late_sent_is_taken_whatever_has_become_of_it(bench: Bench, state: State) -> None:
    priority = "bulk" if state is State.IN_DOUBT else "normal"
    id = bench.accept(priority=priority)
    claim = bench.claim(id)
    bench.pass_time(70)
    bring_to(bench, id, state)
    assert bench.states(id) == state.code
    released = bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert released is not None
    assert (released.why, released.evidence) == (Refusal.LOST, 1)
    assert bench.states(id) == "+"
    assert (bench.count("sent"), bench.count("late_evidence"), bench.count("duplicates")) == (1, 1, 0)
    assert bench.count(f"unfinished:{priority}") == 0
    assert bench.due(id, priority) is None


def bring_to(bench: Bench, id: str, state: State) -> None:
    if state is State.CANCELLED:
        bench.ledger.cancel(id, [0])
    elif state is State.EXPIRED:
        bench.later(LIFETIME)
        bench.pass_time(70)
    elif state not in (State.QUEUED, State.IN_DOUBT):
        bench.settle(id, state, delay=HOUR)


def test_late_sent_settles_what_is_being_sent_again_and_is_not_undone(bench: Bench) -> None:
    first, second = bench_with_two_owners(bench)
    bench.ledger.step(first, OWNER, results(first, State.SENT))
    assert bench.states(second.batch) == "+"
    bench.ledger.step(second, OWNER, results(second, State.DEFERRED))
    assert bench.states(second.batch) == "+"
    assert bench.count("duplicates") == 0


def test_a_second_2xx_is_a_duplicate_whoever_comes_first(bench: Bench) -> None:
    first, second = bench_with_two_owners(bench)
    bench.ledger.step(second, OWNER, results(second, State.SENT))
    released = bench.ledger.step(first, OWNER, results(first, State.SENT))
    assert released is not None
    assert released.evidence == 0
    assert (bench.count("sent"), bench.count("duplicates")) == (1, 1)

    first, second = bench_with_two_owners(bench)
    bench.ledger.step(first, OWNER, results(first, State.SENT))
    bench.ledger.step(second, OWNER, results(second, State.SENT))
    assert (bench.count("sent"), bench.count("duplicates")) == (2, 2)


def test_late_evidence_is_counted_once_however_often_it_is_told(bench: Bench) -> None:
    claim = bench.claim(bench.accept())
    bench.pass_time(70)
    for evidence in (1, 0, 0):
        released = bench.ledger.release(copy.copy(claim), OWNER, results(claim, State.SENT))
        assert released.evidence == evidence
    assert (bench.count("late_evidence"), bench.count("duplicates")) == (1, 0)
    assert bench.tries(claim.batch).attempts == 1


def test_what_its_owner_never_began_is_freed_of_its_doubt(bench: Bench) -> None:
    """A worker that was stopped comes back: a window's rest isn't left for a person to look at."""
    claim = bench.claim(bench.accept(1, 1, 1))
    bench.pass_time(70)
    assert bench.states(claim.batch) == "???"
    assert bench.snapshot(claim.batch).finished
    released = bench.ledger.release(claim, OWNER, results(claim, State.SENT, State.QUEUED, State.IN_DOUBT))
    assert (released.why, released.evidence) == (Refusal.LOST, 2)
    assert bench.states(claim.batch) == "+q?"
    assert bench.count("late_evidence") == 2
    assert not bench.snapshot(claim.batch).finished
    assert bench.look() == [claim.batch]
    assert window(bench.claim(claim.batch)) == [1]


def test_it_is_not_freed_of_anybody_elses_doubt(bench: Bench) -> None:
    first = bench.claim(bench.accept(priority="normal"))
    bench.pass_time(70)  # in doubt, and resent
    bench.claim(first.batch)
    bench.pass_time(70)
    assert bench.states(first.batch) == "?"
    assert bench.ledger.release(first, OWNER, results(first, State.QUEUED)).evidence == 0
    assert bench.states(first.batch) == "?"


def test_an_earlier_window_of_the_same_claim_frees_nothing(bench: Bench) -> None:
    claim = bench.claim(bench.accept())
    earlier = copy.copy(claim)
    bench.ledger.step(claim, OWNER, results(claim, State.QUEUED))  # and it is claimed once more
    bench.pass_time(70)
    assert bench.ledger.release(earlier, OWNER, results(earlier, State.QUEUED)).evidence == 0
    assert bench.states(claim.batch) == "?"


@pytest.mark.parametrize("told", [State.DEFERRED, State.FAILED, State.SUPPRESSED, State.IN_DOUBT])
def test_nothing_else_that_is_late_is_taken(bench: Bench, told: State) -> None:
    claim = bench.claim(bench.accept())
    bench.pass_time(70)
    before = bench.everything()
    released = bench.ledger.release(claim, OWNER, results(claim, told))
    assert (released.why, released.evidence) == (Refusal.LOST, 0)
    assert bench.everything() == before


def test_late_evidence_for_nobody_is_refused(bench: Bench) -> None:
    claim = bench.claim(bench.accept())
    bench.pass_time(70)
    before = bench.everything()
    with pytest.raises(IllegalMove) as raised:
        bench.ledger.release(claim, OWNER, [Result(0, State.SENT), Result(5, State.SENT)])
    assert str(raised.value) == f"nothing can't become sent (batch {claim.batch}, recipient 5)"
    assert bench.everything() == before


# Time jumps


def test_after_a_stall_nothing_lapses_for_one_lease(bench: Bench) -> None:
    id = bench.accept()
    claim = bench.claim(id)
    bench.look()
    bench.later(70)
    assert bench.refused(id) == Refusal.TAKEN
    bench.look()
    assert bench.states(id) == "s"
    bench.ledger.renew([claim])
    assert not claim.lost
    bench.pass_time(55)
    assert bench.states(id) == "s"
    bench.pass_time(15)
    assert bench.states(id) == "?"


def test_after_a_stall_a_living_owner_goes_on(bench: Bench) -> None:
    claim = bench.claim(bench.accept(1, 1), most=1)
    bench.look()
    bench.later(HOUR)
    assert bench.ledger.step(claim, OWNER, results(claim, State.SENT)) is None
    assert bench.states(claim.batch) == "+s"


def test_after_a_stall_nothing_expires_for_one_lease(bench: Bench) -> None:
    id = bench.accept(lifetime=100.0)
    bench.look()
    bench.later(200)
    bench.look()
    assert bench.states(id) == "q"
    bench.pass_time(130)
    assert bench.states(id) == "x"


def test_after_a_stall_what_is_too_old_is_not_sent_either(bench: Bench) -> None:
    """Nobody worked for a while: a code that was good for a minute must not go out now."""
    id = bench.accept(lifetime=60.0)
    claim = bench.claim(bench.accept(1, 1, lifetime=60.0), most=1)
    bench.look()
    bench.later(200)
    assert bench.look() == []
    assert bench.ledger.claim(id, OWNER) == Released(Refusal.NOTHING, priority=Priority.BULK)
    released = bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert released == Released(Refusal.NOTHING, priority=Priority.BULK)
    assert (bench.states(id), bench.states(claim.batch)) == ("q", "+q")
    bench.pass_time(130)
    assert (bench.states(id), bench.states(claim.batch)) == ("x", "+x")


def test_a_stall_is_half_a_lease_or_two_looks_whichever_is_longer(bench: Bench) -> None:
    assert Limits(lease=60, pace=1).jump == 30
    assert Limits(lease=1, pace=1).jump == 2
    for _ in range(3):
        bench.later(30)
        bench.look()
    assert bench.redis.hget(bench.keys.steering, "quiet") is None
    bench.later(31)
    bench.look()
    assert int(bench.redis.hget(bench.keys.steering, "quiet")) == bench.now + 60_000


def test_leases_lapse_though_the_pump_is_slower_than_a_lease(bench: Bench) -> None:
    bench.limited(lease=1, pace=1)
    id = bench.accept()
    bench.claim(id)
    for _ in range(3):
        bench.later(1.2)
        bench.look()
    assert bench.states(id) == "?"


def test_a_clock_set_forth_and_back_is_quiet_for_one_lease_only(bench: Bench) -> None:
    bench.look()
    for jump in (HOUR, -HOUR):
        bench.later(jump)
        bench.look()
        assert int(bench.redis.hget(bench.keys.steering, "quiet")) == bench.now + 60_000
    id = bench.accept()
    bench.claim(id)
    bench.pass_time(60)
    assert bench.states(id) == "?"


def test_after_a_clock_was_set_back_a_dead_worker_is_missed_soon_and_planned_mail_stays_planned(
    bench: Bench,
) -> None:
    bench.look()
    dead = bench.claim(bench.accept()).batch
    planned = bench.accept(send_at=bench.now / 1000 + 600)
    bench.later(-HOUR)
    bench.pass_time(2 * 60)
    assert (bench.states(dead), bench.count("lapses")) == ("?", 1)
    assert bench.pass_time(HOUR + 600 - 2 * 60 - 1) == []
    assert bench.pass_time(1) == [planned]


def test_after_a_clock_was_set_back_nothing_lapses_or_expires_for_one_lease(bench: Bench) -> None:
    bench.look()
    living, dead = bench.claim(bench.accept()), bench.claim(bench.accept())
    bench.later(-HOUR)
    bench.look()
    old = bench.accept(lifetime=20.0)
    bench.pass_time(50)
    assert [bench.states(id) for id in (living.batch, dead.batch, old)] == ["s", "s", "q"]
    bench.ledger.renew([living])
    bench.pass_time(50)
    assert [bench.states(id) for id in (living.batch, dead.batch, old)] == ["s", "?", "x"]


# The maximum age


def test_what_is_too_old_expires(bench: Bench) -> None:
    id = bench.accept(1, 1, 1, lifetime=300.0)
    bench.settle(id, State.SENT, State.DEFERRED, delay=HOUR)
    bench.pass_time(310)
    assert bench.states(id) == "+xx"
    assert (bench.count("expired"), bench.due(id)) == (2, None)


def test_what_has_become_too_old_while_it_was_claimed_is_not_claimed_again(bench: Bench) -> None:
    id = bench.accept(1, 1, lifetime=50.0)
    claim = bench.claim(id, most=1)
    bench.pass_time(50)
    released = bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert released is not None
    assert (released.why, bench.due(id)) == (Refusal.NOTHING, None)
    assert bench.states(id) == "+x"


def test_doubt_does_not_expire_and_is_not_resent_when_too_old(bench: Bench) -> None:
    id = bench.accept(priority="urgent", lifetime=30.0)
    bench.claim(id)
    bench.pass_time(70)
    assert bench.states(id) == "?"
    bench.pass_time(300)
    assert bench.states(id) == "?"


# Hints


def test_a_lost_hint_is_made_again_and_ever_more_rarely(bench: Bench) -> None:
    id = bench.accept()
    waits = []
    for _ in range(12):
        waits.append(bench.due(id))
        bench.later(bench.due(id) or 0)
        assert bench.look() == [id]
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]


def test_a_claim_makes_hints_frequent_again(bench: Bench) -> None:
    id = bench.accept(1, 1)
    for _ in range(5):
        bench.later(bench.due(id) or 0)
        bench.look()
    bench.settle(id, State.SENT)
    assert bench.due(id) == 10


def test_a_hint_that_may_be_waiting_in_a_long_queue_is_not_made_again(bench: Bench) -> None:
    id = bench.accept()
    for _ in range(359):
        bench.later(10)
        assert bench.look(bulk=True) == []
    bench.later(10)
    assert bench.look(bulk=True) == [id]


@pytest.mark.parametrize(("later", "overtaken"), [(9, False), (11, True)])
def test_a_hint_that_others_have_overtaken_by_a_margin_is_made_again_before_them(
    bench: Bench, later: float, overtaken: bool
) -> None:
    """It was in the hands of a worker that died."""
    id, accepted = bench.accept(), bench.now / 1000
    bench.later(15)
    hints = bench.ledger.look([id], {Priority.BULK: 1.0}, {Priority.BULK: accepted + later})
    assert hints == [Hint(id, Priority.BULK, first=True)] * overtaken
    bench.later(30)  # of a hint that was just made again, others say nothing
    assert bench.ledger.look([id], {Priority.BULK: 1.0}, {Priority.BULK: accepted + later}) == []


def test_a_hint_that_was_made_again_is_judged_by_its_last_one(bench: Bench) -> None:
    """Copies of the first may come to the queue's end long after."""
    id = bench.accept()
    bench.settle(id, State.DEFERRED, delay=100)
    bench.pass_time(100)
    second = bench.now / 1000
    bench.later(15)
    assert bench.ledger.look([id], {Priority.BULK: 1.0}, {Priority.BULK: second + 5}) == []


def test_what_a_dead_worker_had_claimed_is_hinted_before_the_others(bench: Bench) -> None:
    id = bench.accept(priority="urgent")
    bench.claim(id)
    bench.pass_time(59)
    bench.later(2)
    assert bench.ledger.look([id], {}) == [Hint(id, Priority.URGENT, first=True)]


def test_the_longer_a_queue_takes_the_later_what_may_wait_in_it_is_looked_at_again(bench: Bench) -> None:
    id = bench.accept()
    for seconds, wait in ((5.0, 10), (30.0, 30)):
        bench.later(bench.due(id) or 0)
        assert bench.look(bulk=seconds) == []
        assert bench.due(id) == wait


def test_only_the_long_queue_waits(bench: Bench) -> None:
    bulk, urgent = bench.accept(), bench.accept(priority="urgent")
    bench.later(10)
    assert bench.look(bulk=True) == [urgent]
    assert bench.due(bulk) == 10


def test_a_first_hint_is_made_though_the_queue_is_long(bench: Bench) -> None:
    id = bench.accept(send_at=bench.now / 1000 + 5)
    bench.later(5)
    assert bench.look(bulk=True) == [id]


def test_two_pumps_make_one_hint(bench: Bench) -> None:
    id = bench.accept()
    bench.later(10)
    due = bench.ledger.due()
    assert bench.ledger.look(due, {}) == [Hint(id, Priority.BULK)]
    assert bench.ledger.look(due, {}) == []


def test_the_most_urgent_are_due_first_and_not_too_many(bench: Bench) -> None:
    bench.ledger.accept([bench.new(priority="bulk") for _ in range(150)])
    urgent = [bench.accept(priority="urgent") for _ in range(100)]
    bench.later(10)
    due = bench.ledger.due()
    assert len(due) == 200
    assert set(due[:100]) == set(urgent)


def test_thousands_of_urgent_batches_that_are_due_leave_room_for_others(bench: Bench) -> None:
    for _ in range(8):
        bench.ledger.accept([bench.new(priority="urgent") for _ in range(1000)])
    normal, bulk = ({bench.accept(priority=priority) for _ in range(150)} for priority in ("normal", "bulk"))
    bench.later(10)
    due = bench.ledger.due()
    assert [len({*due} & each) for each in (normal, bulk)] == [50, 50]
    assert len(due) == 200
    assert not {*due[:100]} & (normal | bulk)


@pytest.mark.parametrize("priority", PRIORITIES)
def test_what_others_do_not_need_is_room_for_one(bench: Bench, priority: str) -> None:
    bench.ledger.accept([bench.new(priority=priority) for _ in range(300)])
    others = [bench.accept(priority=other) for other in PRIORITIES if other != priority]
    bench.later(10)
    due = bench.ledger.due()
    assert {*others} <= {*due}
    assert len({*due}) == 200


def test_a_batch_that_has_gone_is_due_no_more(bench: Bench) -> None:
    id = bench.accept()
    bench.redis.delete(*bench.keys.batch(id))
    bench.later(10)
    assert bench.look() == []
    assert bench.due(id) is None


# Gates


@pytest.mark.parametrize("what", ["all", "bulk"])
def test_a_pause_holds_what_is_accepted_looked_at_and_claimed(bench: Bench, what: str) -> None:
    looked, claimed, stepped = bench.accept(), bench.accept(), bench.accept(1, 1)
    claim = bench.claim(stepped, most=1)
    bench.ledger.pause(what)
    accepted = bench.new()
    assert bench.ledger.accept([accepted]) == [(Acceptance.NEW, False)]
    assert bench.refused(claimed) == Refusal.PAUSED
    released = bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert released is not None
    assert released.why is Refusal.PAUSED
    bench.later(10)
    assert bench.look() == []
    waiting = [looked, claimed, stepped, accepted.id]
    assert [bench.waits(id) for id in waiting] == [{"pause"}] * 4
    assert all((bench.due(id) or 0) > HOUR for id in waiting)
    assert bench.ledger.resume(what) is True
    assert bench.ledger.resume(what) is False
    assert sorted(bench.look()) == sorted(waiting)
    assert [bench.waits(id) for id in waiting] == [set()] * 4


def test_a_pause_of_one_priority_leaves_the_others(bench: Bench) -> None:
    bench.ledger.pause("bulk")
    assert bench.refused(bench.accept()) == Refusal.PAUSED
    bench.claim(bench.accept(priority="urgent"))


def test_resuming_all_ends_every_pause(bench: Bench) -> None:
    for what in ("all", *PRIORITIES):
        bench.ledger.pause(what)
    ids = [bench.accept(priority=priority) for priority in PRIORITIES]
    bench.ledger.resume("all")
    assert sorted(bench.look()) == sorted(ids)


def test_resuming_one_priority_does_not_end_the_pause_of_all(bench: Bench) -> None:
    bench.ledger.pause("all")
    bench.ledger.pause("bulk")
    id = bench.accept()
    bench.ledger.resume("bulk")
    assert bench.look() == []
    assert bench.waits(id) == {"pause"}


def test_resume_opens_more_than_one_call_can(bench: Bench) -> None:
    bench.ledger.pause("all")
    bench.ledger.accept([bench.new() for _ in range(2001)])
    bench.ledger.resume("all")
    assert bench.redis.zcount(bench.keys.due(Priority.BULK), "-inf", bench.now) == 2001


@pytest.mark.parametrize("waiting", [3, 2001])
def test_who_resumes_may_die_before_the_gates_are_open(
    bench: Bench, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.ledger.pause("all")
    batches = [bench.new() for _ in range(waiting)]
    bench.ledger.accept(batches)
    monkeypatch.setattr(bench.ledger, "open", dies)
    with pytest.raises(KeyboardInterrupt):
        bench.ledger.resume("all")
    hinted = {id for _ in range(20) for id in bench.look()}
    assert hinted == {batch.id for batch in batches}


def dies(*_: object) -> int:
    raise KeyboardInterrupt


def test_a_later_send_that_was_paused_is_sent_at_its_time(bench: Bench) -> None:
    bench.ledger.pause("all")
    id = bench.accept(send_at=bench.now / 1000 + 600)
    bench.ledger.resume("all")
    assert bench.look() == []
    assert bench.due(id) == 600


def test_what_is_paused_expires_in_time(bench: Bench) -> None:
    bench.ledger.pause("all")
    id = bench.accept(lifetime=100.0)
    bench.pass_time(110)
    assert (bench.states(id), bench.waits(id)) == ("x", set())


def test_what_the_rate_does_not_allow_waits_for_its_gate_in_order(bench: Bench) -> None:
    first, second = bench.accept(), bench.accept(1, 1)
    bench.ledger.park(first, OWNER)
    bench.later(1)
    claim = bench.claim(second, most=1)
    released = bench.ledger.release(claim, OWNER, results(claim, State.SENT), rated=True)
    assert (released.why, released.hint) == (Refusal.NOTHING, False)
    assert bench.pass_time(HOUR) == []
    assert bench.ledger.open("rate", Priority.BULK, 1) == 1
    assert bench.look() == [first]
    assert bench.ledger.open("rate", Priority.BULK, 5) == 1
    assert bench.look() == [second]


def test_what_the_rate_holds_again_and_again_is_hinted_each_time_as_if_for_the_first(bench: Bench) -> None:
    id = bench.accept()
    for _ in range(5):
        bench.ledger.park(id, OWNER)
        bench.ledger.open("rate", Priority.BULK, 1)
        assert bench.look() == [id]
        assert bench.due(id) == 10


def test_what_a_gate_lets_through_is_hinted_though_the_queue_is_long(bench: Bench) -> None:
    rated, paused = bench.accept(), bench.accept()
    bench.ledger.park(rated, OWNER)
    bench.ledger.pause("bulk")
    assert bench.pass_time(10) == []
    bench.ledger.resume("bulk")
    bench.ledger.open("rate", Priority.BULK, 1)
    assert sorted(bench.look(bulk=30.0)) == sorted([rated, paused])


def test_what_can_not_be_sent_yet_does_not_wait_for_the_rate(bench: Bench) -> None:
    id = bench.accept()
    claim = bench.claim(id)
    bench.ledger.release(claim, OWNER, results(claim, State.DEFERRED, delay=30), rated=True)
    assert (bench.waits(id), bench.due(id)) == (set(), 30)


def test_what_is_claimed_or_finished_waits_at_no_gate(bench: Bench) -> None:
    id, other = bench.accept(), bench.accept()
    bench.ledger.park(id, OWNER)
    bench.ledger.park(other, OWNER)
    bench.claim(id)
    bench.ledger.cancel(other, [0])
    assert (bench.waits(id), bench.waits(other)) == (set(), set())
    assert bench.ledger.open("rate", Priority.BULK, 5) == 0
    assert bench.due(id) == 60


# The operator


def test_cancel_takes_what_is_neither_being_sent_nor_final(bench: Bench) -> None:
    id = bench.accept(1, 1, 1, 1)
    bench.settle(id, State.SENT, State.DEFERRED, delay=HOUR)
    bench.claim(id, most=1)
    assert bench.states(id) == "+dsq"
    assert bench.ledger.cancel(id, range(4)) == 2
    assert bench.states(id) == "+csc"
    assert bench.due(id) == 60
    assert bench.ledger.cancel(id, [*range(4), 17]) == 2  # said again, it is as true
    assert bench.ledger.cancel(id, [0, 2]) == 0  # sent, and being sent
    assert bench.ledger.cancel(UNKNOWN, [0]) == -1


def test_an_owner_goes_on_after_a_cancel(bench: Bench) -> None:
    id = bench.accept(1, 1)
    claim = bench.claim(id, most=1)
    bench.ledger.cancel(id, [0, 1])
    assert bench.ledger.step(claim, OWNER, results(claim, State.SENT)) is not None
    assert bench.states(id) == "+c"
    assert bench.lives(id)[0] > 0


RETRIABLE = (State.FAILED, State.EXPIRED, State.CANCELLED, State.SUPPRESSED, State.DEFERRED, State.IN_DOUBT)


@pytest.mark.parametrize("state", RETRIABLE)
def test_retry_queues_again_and_keeps_what_would_vanish(bench: Bench, state: State) -> None:
    id = bench.accept()
    if state is State.IN_DOUBT:
        bench.settle(id, state)
    bring_to(bench, id, state)
    bench.later(500)
    assert bench.ledger.retry(id, {0: state}) == (1, 0)
    assert bench.ledger.retry(id, {0: state}) == (0, 0)
    assert (bench.states(id), bench.field(id, "f")) == ("q", None)
    assert {-1} >= set(bench.lives(id)) - {-2}
    assert bench.tries(id).attempts == 0
    assert bench.look() == [id]
    bench.claim(id)
    assert bench.expires_in(id) == LIFETIME
    assert bench.count("accepted") == 1


def test_retry_leaves_planned_mail_planned(bench: Bench) -> None:
    id = bench.accept(1, 1, send_at=bench.now / 1000 + 600)
    assert bench.ledger.cancel(id, [0]) == 1
    assert bench.ledger.retry(id, {0: State.CANCELLED}) == (1, 0)
    assert bench.due(id) == 600
    assert bench.snapshot(id).expires == pytest.approx(bench.now / 1000 + 600 + LIFETIME)


def test_retry_leaves_what_has_moved_on(bench: Bench) -> None:
    id = bench.accept(1, 1)
    bench.settle(id, State.SENT, State.FAILED)
    assert bench.ledger.retry(id, {0: State.FAILED, 1: State.EXPIRED, 9: State.FAILED}) == (0, 0)
    assert bench.states(id) == "+f"
    assert bench.ledger.retry(UNKNOWN, {0: State.FAILED}) == (-1, 0)


def test_retry_of_what_is_sent_or_being_sent_is_refused(bench: Bench) -> None:
    id = bench.accept(1, 1)
    bench.settle(id, State.SENT)
    bench.claim(id)
    before = bench.everything()
    for index, state in enumerate((State.SENT, State.SENDING)):
        with pytest.raises(IllegalMove) as raised:
            bench.ledger.retry(id, {index: state})
        assert str(raised.value) == f"{state} can't be retried (batch {id}, recipient {index})"
    assert bench.everything() == before


def test_retry_says_what_has_no_body_any_more(bench: Bench) -> None:
    id = bench.accept(1, 1)
    bench.settle(id, State.FAILED, State.FAILED)
    bench.redis.hdel(bench.keys.batch(id)[0], "c0")
    assert bench.ledger.retry(id, {0: State.FAILED, 1: State.FAILED}) == (1, 1)
    assert bench.states(id) == "fq"


def test_retry_of_a_message_to_very_many(bench: Bench) -> None:
    id = bench.accept(6000)
    bench.ledger.cancel(id, range(6000))
    assert bench.ledger.retry(id, dict.fromkeys(range(6000), State.CANCELLED)) == (6000, 0)
    assert bench.count("queued") == 6000


def test_retry_leaves_the_lease_of_who_is_sending(bench: Bench) -> None:
    id = bench.accept(1, 1)
    bench.settle(id, State.FAILED)
    claim = bench.claim(id)
    bench.ledger.retry(id, {0: State.FAILED})
    assert (bench.states(id), bench.due(id)) == ("qs", 60)
    assert bench.ledger.step(claim, OWNER, results(claim, State.SENT)) is None


# Doubt that a person settles


def in_doubt(bench: Bench, *sizes: int, **more: object) -> str:
    id = bench.accept(*sizes, **more)
    bench.settle(id, *[State.IN_DOUBT] * sum(sizes or (1,)), reply="lost")
    return id


@pytest.mark.parametrize("state", [State.SENT, State.FAILED])
def test_a_person_settles_doubt_and_its_retention_begins(bench: Bench, state: State) -> None:
    id = in_doubt(bench, 1, 1)
    assert bench.ledger.settle(id, [0, 7], state, "by hand") == 1
    assert bench.ledger.settle(id, [0], state, "by hand") == 0
    assert bench.ledger.settle(UNKNOWN, [0], state, "by hand") == -1
    assert (bench.states(id), bench.lives(id)) == (state.code + "?", [-1, -1, -1])
    assert bench.tries(id).reply == "by hand; lost"
    assert bench.ledger.settle(id, [0, 1], state, "by hand") == 1
    assert all(990 < seconds <= 1000 for seconds in bench.lives(id))
    assert bench.redis.zscore(bench.keys.listed(State.IN_DOUBT), id) is None
    counted = [
        bench.count(name) for name in (state, "in_doubt", "in_doubt:bulk", "settled", "held", "doubts")
    ]
    assert counted == [2, 0, 0, 2, 2, 2]
    assert (bench.field(id, "c0") is None) is (state is State.SENT)


def test_settling_doubt_does_not_change_when_the_rest_is_looked_at(bench: Bench) -> None:
    id = bench.accept(1, 1)
    bench.settle(id, State.IN_DOUBT, State.DEFERRED, delay=90)
    bench.ledger.settle(id, [0], State.FAILED, "by hand")
    assert (bench.states(id), bench.due(id), bench.lives(id)) == ("fd", 90, [-1, -1, -1])


def test_settling_takes_only_what_the_table_of_moves_allows(bench: Bench) -> None:
    id = in_doubt(bench)
    with pytest.raises(IllegalMove):
        bench.ledger.settle(id, [0], State.DEFERRED, "by hand")
    assert bench.states(id) == "?"


def test_an_answer_that_comes_after_a_person_said_so_is_no_second_mail(bench: Bench) -> None:
    id = bench.accept(1, 1)
    claim = bench.claim(id)
    bench.pass_time(70)
    bench.ledger.settle(id, [0], State.SENT, "by hand")
    bench.ledger.settle(id, [1], State.FAILED, "by hand")
    for _ in range(2):
        released = bench.ledger.step(claim, OWNER, results(claim, State.SENT))
        assert released is not None
    assert (bench.states(id), bench.tries(id).reply) == ("++", "250 2.0.0 Ok")
    assert [bench.count(name) for name in ("late_evidence", "duplicates", "settled")] == [1, 0, 2]


def test_held_doubt_is_told_of_though_the_figures_were_reset(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    in_doubt(bench)
    bench.redis.delete(bench.keys.counts)
    bench.look()
    assert "held in doubt: 1 recipients" in caplog.text


@pytest.mark.parametrize("priority", ["urgent", "bulk"])
def test_what_a_person_resent_and_is_in_doubt_again_is_held(bench: Bench, priority: str) -> None:
    id = bench.accept(priority=priority, lifetime=50.0)
    bench.claim(id)
    bench.pass_time(70)  # too old to be resent by policy
    assert bench.states(id) == "?"
    assert bench.ledger.retry(id, {0: State.IN_DOUBT}) == (1, 0)
    assert bench.look() == [id]
    bench.settle(id, State.IN_DOUBT)
    assert (bench.states(id), bench.tries(id).resends) == ("?", 1)
    assert [bench.count(name) for name in ("doubts", "resends", "held")] == [2, 1, 2]


def test_doubt_knows_where_it_arose(bench: Bench) -> None:
    id = bench.accept(1, 1)
    claim = new_claim(id, "mx.example.com:25")
    assert bench.ledger.step(claim, OWNER, (), most=1) is None
    bench.pass_time(70)
    assert bench.states(id) == "?q"
    tries = bench.tries(id)
    assert (tries.relay, tries.worker, tries.reply) == (
        "mx.example.com:25",
        OWNER,
        f"the lease of {OWNER} lapsed",
    )
    assert bench.field(id, "y") is None


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of held doubt since the last call: how many, how many newly."""
    said = [record for record in caplog.records if record.getMessage().startswith("held in doubt")]
    caplog.clear()
    assert {record.levelno for record in said} <= {logging.ERROR}
    return [" ".join(re.findall(r"\d+", record.getMessage())) for record in said]


def test_held_doubt_is_told_of_when_it_is_new_and_each_hour_until_it_is_settled(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.look()
    assert told(caplog) == []
    first = in_doubt(bench, 1, 1)
    bench.look()
    bench.look()
    assert told(caplog) == ["2 2"]
    second = in_doubt(bench)
    bench.pass_time(50)
    assert told(caplog) == []  # not more than a line a minute, however much there is
    bench.pass_time(20)
    assert told(caplog) == ["3 1"]
    bench.pass_time(3580)
    assert told(caplog) == []
    bench.pass_time(3 * HOUR)
    assert told(caplog) == ["3 0"] * 3
    bench.ledger.settle(first, [0, 1], State.SENT, "by hand")
    bench.pass_time(HOUR)
    assert told(caplog) == ["1 0"]
    bench.ledger.settle(second, [0], State.SENT, "by hand")
    bench.pass_time(2 * HOUR)
    assert told(caplog) == []


def test_of_many_pumps_one_tells(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    in_doubt(bench)
    for _ in range(3):
        Bench.look(bench)
    assert len(told(caplog)) == 1


def test_doubt_that_is_resent_by_policy_is_not_held(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.settle(bench.accept(priority="urgent"), State.IN_DOUBT)
    bench.look()
    assert (told(caplog), bench.count("held")) == ([], 0)


def test_held_doubt_is_kept_for_ever(bench: Bench) -> None:
    """Neither retention nor the maximum age removes it, though it shares a batch with what is over."""
    id = bench.accept(1, 1, 1, lifetime=5000.0)
    bench.settle(id, State.IN_DOUBT, State.FAILED, State.DEFERRED, delay=HOUR)
    for _ in range(3):
        bench.pass_time(4000)
        bench.settle(bench.accept(), State.FAILED)  # drops what is past from the lists
        bench.settle(bench.accept(priority="urgent"), State.IN_DOUBT)
    assert bench.states(id) == "?fx"
    assert set(bench.lives(id)) == {-1}
    assert bench.due(id) is None
    assert id in [snapshot.id for snapshot in bench.books.listed(State.IN_DOUBT)]
    assert bench.count("in_doubt:bulk") == 1
    bench.ledger.settle(id, [0], State.FAILED, "by hand")
    assert all(990 < seconds <= 1000 for seconds in bench.lives(id))


# The sweep

STRAY = {
    "not due": "it is unfinished, and was never to be looked at again",
    "no lease": "it was being sent under no lease",
    "overdue": "it was due long ago, and nothing came of it",
    "too old": "it is unfinished past its maximum age",
    "too late": "it was to be looked at long after its time",
    "vanishing": "it is neither finished nor settled, and was to vanish",
    "kept": "it is finished, and would have been kept for ever",
    "unlisted": "it holds doubt, and was listed nowhere",
    "remains": "its record is gone, and what belongs to it would have been kept for ever",
}


def swept(bench: Bench, id: str, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """The sweep finds this batch, once, and says so."""
    before = bench.count("swept")
    assert bench.ledger.sweep() == [Stray(id, STRAY[what])]
    assert bench.count("swept") == before + 1
    said = [record for record in caplog.records if record.getMessage().startswith("the sweep found")]
    assert [(record.levelno, record.getMessage()) for record in said] == [
        (logging.ERROR, f"the sweep found batch {id}: {STRAY[what]}")
    ]
    caplog.clear()
    bench.look()
    assert bench.ledger.sweep() == []


def due_at(bench: Bench, id: str, seconds: float) -> None:
    bench.redis.zadd(bench.keys.due(Priority.BULK), {id: bench.now + seconds * 1000})


def test_what_is_not_due_is_found(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    id, other = bench.accept(), bench.accept()
    bench.redis.zrem(bench.keys.due(Priority.BULK), id)
    swept(bench, id, "not due", caplog)
    bench.later(10)
    bench.look()
    assert [bench.due(one) is None for one in (id, other)] == [False, False]


def test_what_is_being_sent_under_no_lease_is_found_and_in_doubt(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    claim = bench.claim(bench.accept(1, 1), most=1)
    bench.redis.hdel(bench.keys.batch(claim.batch)[0], "t", "l", "o")
    swept(bench, claim.batch, "no lease", caplog)
    assert bench.states(claim.batch) == "?q"
    assert bench.tries(claim.batch).reply == "the lease of nobody lapsed"
    released = bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert released is not None
    assert (released.why, released.evidence) == (Refusal.LOST, 1)


def test_what_was_due_long_ago_is_found_while_a_pump_looks(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.look()
    id = bench.accept()
    bench.later(1000)
    assert bench.ledger.sweep() == []  # nobody looks
    for _ in range(6):
        bench.ledger.look([], {})
        assert bench.ledger.sweep() == []  # time has jumped: it may be about to be looked at
        bench.later(10)
    bench.ledger.look([], {})
    swept(bench, id, "overdue", caplog)
    assert bench.claim(id).window


def test_what_is_filed_anew_under_a_time_that_is_past_is_not_overdue(bench: Bench) -> None:
    bench.look()
    id = bench.accept(1, 1)
    bench.claim(id, most=1)
    bench.later(200)
    bench.look()  # time has jumped: the claim gets another lease's length
    for _ in range(6):
        bench.later(10)
        bench.ledger.look([], {})
    bench.ledger.cancel(id, [1])
    assert (bench.due(id), bench.ledger.sweep()) == (0, [])
    bench.look()
    assert bench.states(id) == "?c"


def test_what_waits_its_turn_behind_many_is_not_overdue(bench: Bench) -> None:
    ids = [bench.accept() for _ in range(60)]
    for number, id in enumerate(ids):
        due_at(bench, id, -1000 + number)
    bench.look()
    for number, id in enumerate(ids):
        due_at(bench, id, -1000 + number)
    assert {stray.batch for stray in bench.ledger.sweep()} == set(ids[:50])


def test_what_is_past_its_maximum_age_is_found(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    id = bench.accept(lifetime=50.0)
    bench.look()
    due_at(bench, id, 5 * HOUR)
    assert bench.pass_time(60) == []
    swept(bench, id, "too old", caplog)
    assert bench.states(id) == "x"


@pytest.mark.parametrize("way", ["gate", "deferred", "planned"])
def test_what_would_be_looked_at_too_late_is_found(
    bench: Bench, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    bench.look()
    id = bench.accept(send_at=bench.now / 1000 + 600 if way == "planned" else 0)
    if way == "gate":
        bench.ledger.park(id, OWNER)
        assert bench.ledger.sweep() == []
        bench.redis.zrem(bench.keys.gate("rate", Priority.BULK), id)
    else:
        if way == "deferred":
            bench.settle(id, State.DEFERRED, delay=600)
        assert bench.ledger.sweep() == []
        due_at(bench, id, 5 * HOUR)
    swept(bench, id, "too late", caplog)
    assert bench.due(id) == (10 if way == "gate" else 600)


def test_a_lease_that_would_be_looked_at_too_late_is_found(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.look()
    claim = bench.claim(bench.accept())
    due_at(bench, claim.batch, 5 * HOUR)
    swept(bench, claim.batch, "too late", caplog)
    assert bench.due(claim.batch) == 60


@pytest.mark.parametrize("state", [State.QUEUED, State.IN_DOUBT])
@pytest.mark.parametrize("which", [0, 1])
def test_what_would_vanish_is_found_and_kept(
    bench: Bench, caplog: pytest.LogCaptureFixture, state: State, which: int
) -> None:
    id = bench.accept(1, 1)
    bench.settle(id, state, State.FAILED)
    bench.redis.expire(bench.keys.batch(id)[which], 500)
    swept(bench, id, "vanishing", caplog)
    assert bench.lives(id) == [-1, -1, -1]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_finished_and_would_never_vanish_is_found(
    bench: Bench, caplog: pytest.LogCaptureFixture, which: int
) -> None:
    id = bench.accept()
    bench.settle(id, State.FAILED)
    bench.redis.persist(bench.keys.batch(id)[which])
    swept(bench, id, "kept", caplog)
    assert all(990 < seconds <= 1000 for seconds in bench.lives(id))


def test_doubt_that_is_listed_nowhere_is_found(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    id = in_doubt(bench)
    bench.redis.zrem(bench.keys.listed(State.IN_DOUBT), id)
    swept(bench, id, "unlisted", caplog)
    assert [snapshot.id for snapshot in bench.books.listed(State.IN_DOUBT)] == [id]


def test_what_a_hand_left_of_a_batch_is_found_and_goes(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    id = bench.accept(1, 1)
    bench.settle(id, State.DEFERRED)
    bench.redis.delete(bench.keys.batch(id)[0])
    swept(bench, id, "remains", caplog)
    gone, *left = bench.lives(id)
    assert gone == -2
    assert all(990 < seconds <= 1000 for seconds in left)


def test_while_no_hint_can_be_published_what_waits_is_no_fault(bench: Bench) -> None:
    id = bench.accept()
    for _ in range(30):
        bench.later(10)
        assert bench.ledger.look([id], {}, room=dict.fromkeys(PRIORITIES, 0)) == []
        assert bench.due(id) == 0
    assert bench.ledger.sweep() == []
    assert bench.ledger.look([id], {}, room={Priority.BULK: 1}) == [Hint(id, Priority.BULK)]
    for _ in range(30):
        bench.later(10)
        bench.ledger.look([], {})
    assert [stray.batch for stray in bench.ledger.sweep()] == [id]


def test_a_damaged_batch_that_nobody_would_look_at_is_found_and_set_aside(bench: Bench) -> None:
    id = bench.accept()
    DAMAGE["no age"](bench, id)
    assert bench.ledger.sweep() == []  # it is due, and set aside then
    bench.redis.zrem(bench.keys.due(Priority.BULK), id)
    [stray] = bench.ledger.sweep()
    assert (stray.batch, f"the records of batch {id} are damaged" in stray.found) == (id, True)
    bench.look()
    assert bench.waits(id, "normal") == {"aside"}
    assert bench.ledger.sweep() == []
    over = bench.accept()
    bench.settle(over, State.SENT)
    DAMAGE["no age"](bench, over)
    assert bench.ledger.sweep() == []  # it goes by itself


def test_a_damaged_batch_keeps_no_other_from_being_swept(bench: Bench) -> None:
    ids = [bench.accept() for _ in range(3)]
    bench.redis.set(bench.keys.batch(ids[1])[2], "x")
    bench.redis.zrem(bench.keys.due(Priority.BULK), *ids)
    assert {stray.batch for stray in bench.ledger.sweep()} == set(ids)
    assert bench.count("swept") == 3


def test_pumps_sweep_by_turns_a_little_at_a_time_and_a_round_an_hour(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "SWEPT_AT_ONCE", 50)
    ids = [bench.accept() for _ in range(200)]
    bench.redis.zrem(bench.keys.due(Priority.BULK), *ids)
    found = [len(bench.ledger.sweep_on()) for _ in range(30)]
    assert sum(found) == 200
    assert max(found) < 100
    bench.redis.zrem(bench.keys.due(Priority.BULK), *ids)
    bench.pass_time(HOUR - 10)
    assert bench.ledger.sweep_on() == []
    bench.later(10)
    assert len(bench.ledger.sweep_on()) > 0


def test_a_pump_that_dies_in_its_turn_loses_it_after_a_lease(bench: Bench) -> None:
    id = bench.accept()
    bench.redis.zrem(bench.keys.due(Priority.BULK), id)
    assert bench.ledger.run("turn", []) == b"0"
    assert bench.ledger.sweep_on() == []
    bench.later(60)
    assert [stray.batch for stray in bench.ledger.sweep_on()] == [id]


def test_a_clock_that_was_set_back_does_not_stop_the_sweep(bench: Bench) -> None:
    assert bench.ledger.sweep_on() == []
    bench.later(-2 * HOUR)
    id = bench.accept()
    bench.redis.zrem(bench.keys.due(Priority.BULK), id)
    assert [stray.batch for stray in bench.ledger.sweep_on()] == [id]


def test_what_was_left_to_itself_for_long_is_not_astray(bench: Bench) -> None:
    """Workers were away for a day; planned, paused, deferred, claimed and doubtful mail was there."""
    bench.look()
    bench.accept(send_at=bench.now / 1000 + 3 * HOUR)
    bench.settle(bench.accept(), State.DEFERRED, delay=HOUR)
    bench.ledger.park(bench.accept(), OWNER)
    bench.claim(bench.accept())
    in_doubt(bench)
    bench.accept(lifetime=HOUR)
    bench.ledger.pause("urgent")
    bench.accept(priority="urgent")
    bench.later(24 * HOUR)
    for _ in range(100):
        assert bench.ledger.sweep() == []
        bench.look()
        bench.later(10)
    assert bench.count("swept") == 0


# Later


def test_mail_for_next_week_survives_a_restart_of_everything_and_is_hinted_in_time(
    own_redis: LocalRedis,
) -> None:
    def anew() -> Bench:
        return Bench(connect(own_redis.url, timeout=5, connect_timeout=5))

    before = anew()
    moment = before.start + 7 * 24 * HOUR * 1000
    id, cancelled = (before.accept(send_at=moment / 1000) for _ in range(2))
    before.look()
    before.redis.close()
    own_redis.kill()
    own_redis.start()
    bench = anew()
    bench.later(7 * 24 * HOUR - 5.5)  # nobody was there meanwhile
    late = []
    for _ in range(10):
        late += [(bench.now - moment) / 1000 for hinted in bench.look() if hinted == id]
        bench.later(1)
    assert 0 <= late[0] <= 2
    assert bench.ledger.cancel(cancelled, [0]) == 1
    assert len(bench.claim(id).window) == 1
    assert bench.refused(cancelled) == Refusal.NOTHING
    bench.redis.close()


def test_planned_mail_can_be_cancelled_until_it_is_claimed(bench: Bench) -> None:
    hinted, claimed = (bench.accept(send_at=bench.now / 1000 + 600) for _ in range(2))
    bench.pass_time(600)
    claim = bench.claim(claimed)
    assert [bench.ledger.cancel(id, [0]) for id in (hinted, claimed)] == [1, 0]
    assert bench.refused(hinted) == Refusal.NOTHING
    bench.ledger.release(claim, OWNER, results(claim, State.SENT))
    assert [bench.states(id) for id in (hinted, claimed)] == ["c", "+"]


# Retention


def test_finished_batches_go_after_their_retention(bench: Bench) -> None:
    id = bench.accept()
    assert bench.lives(id) == [-1, -1, -2]
    bench.settle(id, State.SENT)
    assert all(990 < seconds <= 1000 for seconds in bench.lives(id))
    assert bench.field(id, "f") == str(bench.now).encode()


def test_doubt_is_held_until_it_is_settled(bench: Bench) -> None:
    id = bench.accept(1, 1)
    claim = bench.claim(id)
    bench.pass_time(70)
    assert (bench.states(id), bench.lives(id), bench.due(id)) == ("??", [-1, -1, -1], None)
    bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert all(990 < seconds <= 1000 for seconds in bench.lives(id))
    assert bench.redis.zscore(bench.keys.listed(State.IN_DOUBT), id) is None


def test_the_lists_of_what_may_need_a_person_forget_what_is_gone(bench: Bench) -> None:
    key = bench.keys.listed(State.FAILED)
    first = bench.accept(lifetime=100.0)
    bench.settle(first, State.FAILED)
    bench.later(1101)
    second = bench.accept(lifetime=100.0)
    bench.settle(second, State.FAILED)
    assert bench.redis.zrange(key, 0, -1) == [second.encode()]


def test_a_batch_is_listed_as_long_as_it_is_kept(bench: Bench) -> None:
    """Even if it failed in part long before it was finished."""
    first = bench.accept(1, 1, lifetime=5000.0)
    bench.settle(first, State.FAILED, State.DEFERRED, delay=4000.0)
    bench.later(4500)
    bench.settle(first, State.SENT)
    bench.later(999)
    bench.settle(bench.accept(lifetime=10.0), State.FAILED)
    assert first.encode() in bench.redis.zrange(bench.keys.listed(State.FAILED), 0, -1)


@pytest.mark.parametrize("lifetime", [10.0, LIFETIME])
def test_a_batch_is_listed_until_it_is_surely_gone_whatever_the_age_of_others(
    bench: Bench, lifetime: float
) -> None:
    key = bench.keys.listed(State.FAILED)
    id = bench.accept(1, 1, lifetime=5000.0)
    bench.settle(id, State.FAILED)

    def is_listed() -> bool:
        bench.settle(bench.accept(lifetime=lifetime), State.FAILED)
        return bench.redis.zscore(key, id) is not None

    bench.later(4000)
    assert is_listed()
    bench.settle(id, State.SENT)
    bench.later(999)
    assert is_listed()
    bench.later(2)
    assert not is_listed()


# What a hand has damaged


def spoil(*commands: tuple[str, int, str, str]) -> Callable[[Bench, str], None]:
    def do(bench: Bench, id: str) -> None:
        for command, which, *arguments in commands:
            key = bench.keys.batch(id)[which]
            bench.redis.execute_command(command, key, *[word for word in arguments if word])

    return do


DAMAGE = {
    "no states": spoil(("DEL", 1, "", "")),
    "too few states": spoil(("SET", 1, "q", "")),
    "states are a hash": spoil(("DEL", 1, "", ""), ("HSET", 1, "a", "b")),
    "tries are a string": spoil(("SET", 2, "x", "")),
    "the batch is a string": spoil(("SET", 0, "x", "")),
    "no priority": spoil(("HDEL", 0, "p", "")),
    "another priority": spoil(("HSET", 0, "p", "soon")),
    "no sizes": spoil(("HDEL", 0, "m", "")),
    "no age": spoil(("HSET", 0, "x", "tomorrow")),
    "no accept time": spoil(("HDEL", 0, "a", "")),
    "a lease of words": spoil(("HSET", 0, "l", "long")),
}


@pytest.mark.parametrize("tries", ["x", b"\x93\x01\x02\x03", b"\x99" + b"\xa1a" * 9])
def test_what_is_known_of_an_attempt_may_be_spoilt_and_the_mail_goes_on(bench: Bench, tries: Any) -> None:
    id = bench.accept(1, 1, 1)
    claim = bench.claim(id)
    for index in range(3):
        bench.redis.hset(bench.keys.batch(id)[2], index, tries)
    given = [State.SENT, State.DEFERRED, State.IN_DOUBT]
    bench.ledger.release(claim, OWNER, results(claim, *given, delay=10))
    assert bench.states(id) == "+d?"
    bench.redis.hset(bench.keys.batch(id)[2], 1, tries)
    bench.later(10)
    assert bench.look() == [id]
    bench.settle(id, State.SENT)
    assert bench.states(id) == "++?"


def test_a_claim_whose_last_step_a_hand_has_deleted_lapses_all_the_same(bench: Bench) -> None:
    id = bench.claim(bench.accept()).batch
    bench.redis.hdel(bench.keys.batch(id)[0], "u")
    bench.pass_time(61)
    assert (bench.states(id), bench.count("lapses")) == ("?", 1)


@pytest.mark.parametrize(
    "spoilt",
    [
        ("HSET", "counts", "queued", "many"),
        ("SET", "counts", "x"),
        ("DEL", "counts"),
        ("HSET", "steering", "looked", "lately"),
        ("HSET", "steering", "quiet", "yes"),
        ("SET", "due:bulk", "x"),
    ],
    ids=" ".join,
)
def test_what_all_share_may_be_spoilt_and_mail_goes_on(bench: Bench, spoilt: tuple[str, ...]) -> None:
    command, key, *more = spoilt
    bench.redis.delete(key := f"{bench.keys.tag}:{key}")
    bench.redis.execute_command(command, key, *more)
    id = bench.accept(priority="urgent")
    bench.later(10)
    assert bench.look() == [id]
    bench.settle(id, State.SENT)
    assert bench.states(id) == "+"


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_batch_is_set_aside_and_troubles_no_other(
    bench: Bench, damage: Callable[[Bench, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    before, damaged, after = bench.accept(1, 1), bench.accept(1, 1), bench.accept(1, 1)
    damage(bench, damaged)
    bench.later(10)
    due = bench.ledger.due()
    assert [hint.batch for hint in bench.ledger.look([before, damaged, after], {})] == [before, after]
    assert damaged in due
    assert (bench.waits(damaged), bench.due(damaged)) == ({"aside"}, HOUR)
    assert f"batch {damaged} is set aside, until somebody retries its messages: " in caplog.text
    with pytest.raises(StoreError):
        bench.ledger.claim(damaged, OWNER)
    assert bench.count("queued") == 6


def test_a_batch_that_was_mended_goes_on(bench: Bench) -> None:
    id = bench.accept()
    bench.redis.delete(bench.keys.batch(id)[1])
    bench.later(10)
    bench.look()
    bench.redis.set(bench.keys.batch(id)[1], "q")
    bench.later(HOUR)
    assert bench.look() == [id]
    bench.claim(id)
    assert bench.waits(id) == set()


@pytest.mark.parametrize("damage", ["the batch is a string", "another priority", "a lease of words"])
def test_a_damaged_batch_loses_its_own_lease_only(bench: Bench, damage: str) -> None:
    claims = [bench.claim(bench.accept(1, 1)) for _ in range(3)]
    DAMAGE[damage](bench, claims[1].batch)
    bench.ledger.renew(claims)
    assert [claim.lost for claim in claims] == [False, True, False]


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("c0", None, "ValueError('it is missing, or packed in an unknown way')"),
        ("c0", "!x", "ValueError('it is missing, or packed in an unknown way')"),
        ("c0", "zx", "Error -5 while decompressing data"),
        ("h", None, "ValueError('it is missing, or packed in an unknown way')"),
        ("h", "={}", "missing required field `messages`"),
        ("h", '={"messages":[]}', "ValueError('its header names other messages than its states')"),
        ("r", "=[]", "IndexError('tuple index out of range')"),
    ],
)
def test_a_batch_that_can_not_be_read_is_set_aside_unsent(
    bench: Bench, field: str, value: str | None, why: str
) -> None:
    id = bench.accept(1, 1)
    key = bench.keys.batch(id)[0]
    bench.redis.hdel(key, field)
    if value:
        bench.redis.hset(key, field, value)
    with pytest.raises(StoreError) as raised:
        bench.ledger.claim(id, OWNER)
    told = str(raised.value)
    assert told.startswith(f"batch {id} can't be read (")
    assert why in told
    assert told.endswith(f"), so it is set aside; mend the fields of {key}, then retry its messages")
    assert (bench.states(id), bench.waits(id), bench.count("doubts")) == ("qq", {"aside"}, 0)
    assert bench.pass_time(100) == []


def test_records_that_are_damaged_name_the_batch(bench: Bench) -> None:
    id = bench.accept()
    bench.redis.delete(bench.keys.batch(id)[1])
    with pytest.raises(StoreError) as raised:
        bench.ledger.cancel(id, [0])
    assert str(raised.value) == f"the records of batch {id} are damaged; mend them, or delete its keys"


def test_a_lost_retry_time_is_now(bench: Bench) -> None:
    id = bench.accept()
    bench.settle(id, State.DEFERRED, delay=HOUR)
    bench.redis.delete(bench.keys.batch(id)[2])
    bench.redis.hdel(bench.keys.batch(id)[0], "n")
    assert window(bench.claim(id)) == [0]


def test_an_answer_of_another_version_is_said_to_be_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.ledger, "_run_confirmed", lambda *_, **__: ([b"postponed", 0], True))
    with pytest.raises(StoreError) as raised:
        bench.ledger.claim(new_batch_id(), OWNER)
    assert str(raised.value) == (
        "the ledger answered b'postponed', which this version doesn't know; are all workers of one version?"
    )


# A full Redis


def test_a_full_redis_accepts_nothing_and_settles_everything(bench: Bench) -> None:
    ids = [bench.accept(1, 1) for _ in range(4)]
    bench.settle(ids[2], State.FAILED)
    bench.redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable) as raised:
            bench.accept()
        claim = bench.claim(ids[0])
        bench.ledger.renew([claim])
        bench.ledger.step(claim, OWNER, results(claim, State.SENT))
        assert bench.ledger.cancel(ids[1], [0, 1]) == 2
        assert bench.ledger.retry(ids[2], {0: State.FAILED}) == (1, 0)
        bench.ledger.park(ids[3], OWNER)
        assert bench.ledger.open("rate", Priority.BULK, 1) == 1
        assert sorted(bench.look()) == sorted(ids[2:])
    finally:
        bench.redis.config_set("maxmemory", "0")
    assert "used memory > 'maxmemory'), so nothing was accepted; its memory is full" in str(raised.value)
    assert raised.value.ids == ()
    assert bench.states(ids[0]) == "++"


# Figures


def test_response_times_are_counted_from_when_a_mail_was_to_go(bench: Bench) -> None:
    id = bench.accept(1, 1, send_at=bench.now / 1000 + 600)
    bench.later(602)
    bench.settle(id, State.SENT, State.SENT)
    (minute,) = [key for key in bench.redis.keys("{test:0}:minute:*") if bench.redis.hexists(key, "sent")]
    figures = {name.decode(): int(value) for name, value in bench.redis.hgetall(minute).items()}
    assert figures["rt_ms:bulk"] == 4000
    (bucket,) = [name for name in figures if name.startswith("rt:bulk:")]
    assert 2000 <= 1.1 ** int(bucket.removeprefix("rt:bulk:")) < 2200
    assert 0 < bench.redis.ttl(minute) <= 86_400


def test_every_state_has_its_letter_in_the_ledger() -> None:
    assert set(CODES) == set(State)


def test_limits_can_be_replaced() -> None:
    assert replace(Limits(), lease=2).lease == 2


@pytest.fixture(autouse=True)
def _errors_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


# A replica that has to confirm, and doesn't: there is none


def test_an_accept_that_no_replica_confirms_may_be_repeated(bench: Bench) -> None:
    bench.limited(confirm=0.05)
    batch = bench.new(1, 1)
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as raised:
            bench.ledger.accept([batch])
        assert str(raised.value) == (
            f"Redis at {where(bench.redis)} accepted 2 messages, but no replica confirmed that within "
            "0.05 s, so a failover may forget it; try again with the ids that this error carries or with "
            "idempotency keys (then nothing is sent twice), or ask `status` for them: "
            f"{batch.id}.0, {batch.id}.1"
        )
        assert raised.value.ids == (f"{batch.id}.0", f"{batch.id}.1")
        assert raised.value.unanswered
    assert bench.count("accepted") == 2
    bench.limited()
    assert bench.ledger.accept([batch]) == [(Acceptance.SAME, True)]


def test_a_claim_says_whether_a_replica_has_confirmed_it(bench: Bench) -> None:
    id = bench.accept(*[1] * 20)
    claim = bench.claim(id)
    assert claim.confirmed
    bench.limited(confirm=0.05)
    bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert not claim.confirmed, "the next window was claimed when the last was settled"
    assert bench.states(id).count(State.SENT.code) == 8
    claim.steps -= 1  # as if its answer had been lost
    bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert not claim.confirmed
    assert bench.ledger.release(claim, OWNER, results(claim, State.QUEUED)).hint
    assert bench.states(id) == State.SENT.code * 8 + State.QUEUED.code * 12
