"""What is told of recipients without an attempt of theirs: at accept, by a step, by a look."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from mailtasks.event import Attempt, attempt_listeners
from mailtasks.state import State
from mailtasks.store.ledger import Acceptance
from mailtasks.store.suppressions import Suppressions

from .bench import LIFETIME, OWNER, Bench, results
from .test_campaigns import Plays


@pytest.fixture
def heard() -> Iterator[list[Attempt]]:
    heard: list[Attempt] = []
    attempt_listeners.append(heard.extend)
    yield heard
    attempt_listeners.remove(heard.extend)


def short(heard: list[Attempt]) -> list[tuple[str, State, int, str]]:
    return [(it.recipient, it.state, it.attempt, it.reply) for it in heard]


def test_who_expires_while_nobody_looks_is_told_by_a_look(bench: Bench, heard: list[Attempt]) -> None:
    id = bench.accept(1, 2, lifetime=600.0)
    bench.settle(id, State.DEFERRED, State.SENT, State.DEFERRED, reply="451 4.3.0 later", delay=300)
    bench.pass_time(600)
    assert short(heard) == [
        ("0@example.com", State.EXPIRED, 1, "451 4.3.0 later"),
        ("2@example.com", State.EXPIRED, 1, "451 4.3.0 later"),
    ]
    assert [it.id for it in heard] == [f"{id}.0", f"{id}.1"], "the second message's own id"
    bench.pass_time(60)
    assert len(heard) == 2, "once"


def test_what_was_never_tried_has_no_attempt(bench: Bench, heard: list[Attempt]) -> None:
    bench.accept(lifetime=600.0)
    bench.pass_time(600)
    assert short(heard) == [("0@example.com", State.EXPIRED, 0, "")]


def test_tags_and_metadata_come_along(bench: Bench, heard: list[Attempt]) -> None:
    batch = bench.new(lifetime=60.0)
    [message] = batch.record.messages
    message = msgspec.structs.replace(message, tags=("a",), metadata={"order": "7"})
    bench.ledger.accept(
        [msgspec.structs.replace(batch, record=msgspec.structs.replace(batch.record, messages=(message,)))]
    )
    bench.pass_time(60)
    assert [(it.tags, it.metadata) for it in heard] == [(("a",), {"order": "7"})]


def test_who_expires_is_told_by_a_worker_that_comes_first(bench: Bench, heard: list[Attempt]) -> None:
    id = bench.accept(lifetime=20.0)
    bench.look()
    bench.later(25)
    assert bench.refused(id) == "nothing"
    assert short(heard) == [("0@example.com", State.EXPIRED, 0, "")]


def test_a_row_of_a_campaign_is_told_though_nothing_of_it_is_kept(bench: Bench, heard: list[Attempt]) -> None:
    plays = Plays(bench)
    [id] = plays.accept(plays.begin(), rows=2)
    plays.feed()
    bench.pass_time(LIFETIME + 60)
    assert bench.field(id, "r") is None
    assert short(heard) == [
        ("0.0@example.com", State.EXPIRED, 0, ""),
        ("0.1@example.com", State.EXPIRED, 0, ""),
    ]
    assert [it.metadata for it in heard] == [{"campaign": "spring"}] * 2


def test_who_is_on_the_suppression_list_is_told_at_accept(bench: Bench, heard: list[Attempt]) -> None:
    Suppressions(bench.ledger).add("1@example.com", reason="asked")
    batch = bench.new(1, 2)
    assert bench.ledger.accept([batch]) == [(Acceptance.NEW, True)]
    assert short(heard) == [("1@example.com", State.SUPPRESSED, 0, "asked")]
    bench.ledger.accept([batch])
    assert len(heard) == 1, "the same batch is no news"


def test_who_came_on_it_later_is_told_by_the_step_that_suppresses(bench: Bench, heard: list[Attempt]) -> None:
    id = bench.accept(*[1] * 20)
    Suppressions(bench.ledger).add("0@example.com", "15@example.com", reason="asked")
    claim = bench.claim(id)
    assert heard == [], "not before the ledger knows"
    bench.ledger.step(claim, OWNER, results(claim, *[State.SENT] * 7))
    assert short(heard) == [
        ("0@example.com", State.SUPPRESSED, 0, "asked"),
        ("15@example.com", State.SUPPRESSED, 0, "asked"),
    ]


@pytest.mark.parametrize("entry", [["x", 0, 7], ["x", 0, None], ["x", 0], ["x"], []])
def test_a_reason_that_a_hand_has_spoilt(bench: Bench, heard: list[Attempt], entry: list[object]) -> None:
    bench.redis.hset(bench.keys.suppressed, "0@example.com", msgspec.msgpack.encode(entry))
    bench.accept()
    assert short(heard) == [("0@example.com", State.SUPPRESSED, 0, "")]


@pytest.mark.parametrize("priority", ["urgent", "bulk"])
def test_a_window_whose_owner_is_silent_is_in_doubt(
    bench: Bench, priority: str, heard: list[Attempt]
) -> None:
    """Whether it is resent or held."""
    bench.claim(bench.accept(priority=priority))
    bench.pass_time(60)
    assert short(heard) == [("0@example.com", State.IN_DOUBT, 0, f"the lease of {OWNER} lapsed")]


def test_a_lapse_that_who_claims_next_finds_is_told_once(bench: Bench, heard: list[Attempt]) -> None:
    id = bench.accept(1, 1)
    bench.claim(id, most=1)
    for seconds in (25, 28, 8):
        bench.look()
        bench.later(seconds)
    bench.claim(id)
    assert short(heard) == [("0@example.com", State.IN_DOUBT, 0, f"the lease of {OWNER} lapsed")]


def test_what_its_owner_left_unsettled_is_told(bench: Bench, heard: list[Attempt]) -> None:
    claim = bench.claim(bench.accept(1, 1))
    bench.ledger.release(claim, OWNER, results(claim, State.SENT, State.SENT)[:1])
    assert short(heard) == [("1@example.com", State.IN_DOUBT, 0, f"{OWNER} left it unsettled")]


def test_what_a_late_owner_tells_of_isnt_in_doubt(bench: Bench, heard: list[Attempt]) -> None:
    claim = bench.claim(bench.accept(1, 1, 1, priority="bulk"))
    bench.later(60)
    given = results(claim, State.SENT, State.QUEUED, State.SENT)[:2]  # of the third it knows nothing
    bench.ledger.step(claim, OWNER, given)
    assert bench.states(claim.batch) == "+q?"
    assert [(it.recipient, it.state) for it in heard] == [("2@example.com", State.IN_DOUBT)]


def test_records_that_a_hand_has_spoilt_stop_nobody(
    bench: Bench, heard: list[Attempt], caplog: pytest.LogCaptureFixture
) -> None:
    id, other = bench.accept(lifetime=60.0), bench.accept(lifetime=60.0)
    bench.redis.hset(bench.keys.batch(id)[0], "r", "x")
    bench.pass_time(60)
    assert (bench.states(id), bench.states(other)) == ("x", "x")
    assert [it.id for it in heard] == [f"{other}.0"]
    assert f"what became of recipients of batch {id} can't be told" in caplog.text


@pytest.fixture
def silence() -> Iterator[None]:
    """Nobody listens, whatever other tests have brought in."""
    before = attempt_listeners[:]
    attempt_listeners.clear()
    yield
    attempt_listeners[:] = before


@pytest.mark.usefixtures("silence")
def test_where_nobody_listens_nothing_is_asked_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    argument = bench.ledger._argument

    def note(**values: object) -> bytes:
        asked.append(values.get("tell"))
        return argument(**values)

    monkeypatch.setattr(bench.ledger, "_argument", note)
    bench.claim(bench.accept())
    bench.look()
    assert asked == [False] * 3
