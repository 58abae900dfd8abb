"""What can be read from the ledger."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from mailtasks.errors import StoreError
from mailtasks.message import PRIORITIES, Priority
from mailtasks.state import State
from mailtasks.store.books import TALLIES
from mailtasks.store.ledger import Ledger

from .bench import LIFETIME, LIMITS, OWNER, Bench, results

START = datetime.fromtimestamp(1_700_000_000, UTC)


def test_an_unknown_batch_is_none(bench: Bench) -> None:
    assert bench.books.batch("0" * 27) is None
    assert list(bench.books.batches(["0" * 27])) == []


def test_a_batch_as_it_is_accepted(bench: Bench) -> None:
    id = bench.accept(1, 2, send_at=bench.now / 1000 + 600)
    first, second = bench.snapshot(id).messages()
    assert (first.id, second.id) == (f"{id}.0", f"{id}.1")
    assert (second.subject, second.message_id, second.priority) == ("subject 1", "<1@x>", Priority.BULK)
    assert [recipient.address for recipient in second.recipients] == ["1@example.com", "2@example.com"]
    assert (first.accepted_at, first.send_at) == (START, START + timedelta(seconds=600))
    assert first.expires_at == START + timedelta(seconds=600 + LIFETIME)
    assert (first.state, first.attempts, first.reply, first.claimed_by) == (State.QUEUED, 0, "", "")
    assert first.finished_at is None


def test_a_batch_that_was_tried(bench: Bench) -> None:
    id = bench.accept(3)
    bench.later(5)
    bench.settle(id, State.SENT, State.DEFERRED, State.FAILED, delay=60, reply="451 4.2.0 later")
    (message,) = bench.snapshot(id).messages()
    sent, deferred, failed = message.recipients
    at = START + timedelta(seconds=5)
    assert (sent.attempts, sent.reply, sent.relay, sent.worker) == (1, "451 4.2.0 later", "mx:25", OWNER)
    assert (sent.tried_at, sent.took, sent.next_attempt) == (at, 0.25, None)
    assert deferred.next_attempt == at + timedelta(seconds=60)
    assert failed.state is State.FAILED
    assert (message.state, message.reply) == (State.DEFERRED, "451 4.2.0 later")


def test_a_batch_that_is_being_sent_and_one_that_is_finished(bench: Bench) -> None:
    id = bench.accept(1, 1)
    claim = bench.claim(id, most=1)
    assert {message.claimed_by for message in bench.snapshot(id).messages()} == {OWNER}
    bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    bench.later(7)
    bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    message = bench.snapshot(id).message_of(1)
    assert message is not None
    assert (message.claimed_by, message.finished_at) == ("", START + timedelta(seconds=7))


def test_what_is_resent_says_so(bench: Bench) -> None:
    id = bench.accept(priority="urgent")
    bench.claim(id)
    bench.pass_time(60)
    message = bench.snapshot(id).message_of(0)
    assert message is not None
    assert (message.recipients[0].resends, message.recipients[0].took) == (1, 0)


def test_an_index_between_messages_is_its_messages_and_none_beyond(bench: Bench) -> None:
    snapshot = bench.snapshot(bench.accept(1, 3))
    message = snapshot.message_of(2)
    assert message is not None
    assert message.id == f"{snapshot.id}.1"
    assert snapshot.message_of(4) is None


def test_many_batches_are_read_in_order(bench: Bench) -> None:
    ids = [bench.accept() for _ in range(5)] * 210
    assert [snapshot.id for snapshot in bench.books.batches(ids)] == ids


def test_what_may_need_a_person_is_listed_latest_first(bench: Bench) -> None:
    ids = []
    for state in (State.FAILED, State.IN_DOUBT, State.FAILED):
        bench.later(1)
        ids.append(bench.accept())
        bench.settle(ids[-1], state)
    assert [snapshot.id for snapshot in bench.books.listed(State.FAILED)] == [ids[2], ids[0]]
    assert [snapshot.id for snapshot in bench.books.listed(State.IN_DOUBT)] == [ids[1]]
    assert list(bench.books.listed(State.EXPIRED)) == []


def test_what_failed_beside_a_held_doubt_is_listed_as_long_as_that_is_kept(bench: Bench) -> None:
    id = bench.accept(1, 1)
    bench.settle(id, State.FAILED, State.IN_DOUBT)
    bench.pass_time(2 * 1000)  # seconds; the retention is 1000
    other = bench.accept()
    bench.settle(other, State.FAILED)  # drops from the list what is surely gone
    assert {snapshot.id for snapshot in bench.books.listed(State.FAILED)} == {id, other}


def test_what_was_set_aside_is_told_with_what_a_retry_acts_upon(bench: Bench) -> None:
    lapsed = bench.accept(*[1] * 40)
    for _ in range(3):  # each leaves a window of eight in doubt
        bench.claim(lapsed)
        bench.pass_time(70)
    damaged = bench.accept(1)
    bench.redis.hdel(bench.keys.batch(damaged)[0], "r")
    with pytest.raises(StoreError):
        bench.ledger.claim(damaged, OWNER)
    first, second = bench.books.set_aside(Priority.BULK)
    assert (first.id, first.lapses, first.priority) == (f"{lapsed}.24", 3, Priority.BULK)
    assert (second.id, second.lapses) == (f"{damaged}.0", 0)
    assert first.set_aside_at < second.set_aside_at == datetime.fromtimestamp(bench.now / 1000, UTC)
    assert bench.books.queue(Priority.BULK, 0).waiting == {"aside": 2}
    assert bench.books.set_aside(Priority.URGENT) == []
    bench.redis.delete(*bench.keys.batch(damaged))
    assert [batch.id for batch in bench.books.set_aside(Priority.BULK)] == [f"{lapsed}.24"]
    assert bench.books.queue(Priority.BULK, 0).waiting == {"aside": 1}


@pytest.mark.parametrize("wrong", ["states", "batch"])
def test_what_was_set_aside_is_told_whatever_its_records_are(bench: Bench, wrong: str) -> None:
    id = bench.accept(1, 1)
    bench.redis.zadd(bench.keys.gate("aside", Priority.BULK), {id: bench.now})
    key = bench.keys.batch(id)[wrong == "states"]
    bench.redis.delete(key)
    bench.redis.lpush(key, "x")
    [batch] = bench.books.set_aside(Priority.BULK)
    assert (batch.id, batch.lapses) == (f"{id}.0", 0)


def test_find_reads_every_batch_whatever_the_case(bench: Bench) -> None:
    ids = [bench.accept(1, 2) for _ in range(3)]
    other = Bench(bench.redis)
    other.keys = type(other.keys)("test-not")
    Ledger(bench.redis, other.keys, LIMITS).accept([bench.new(3)])
    found = sorted(message.id for message in bench.books.find("2@EXAMPLE.com"))
    assert found == sorted(f"{id}.1" for id in ids)
    assert list(bench.books.find("nobody@example.com")) == []


def test_what_is_paused_since_when(bench: Bench) -> None:
    assert bench.books.paused() == {}
    bench.ledger.pause("all")
    bench.later(5)
    bench.ledger.pause("urgent")
    bench.look()
    assert bench.books.paused() == {"all": START, "urgent": START + timedelta(seconds=5)}


def test_the_queue_of_a_priority(bench: Bench) -> None:
    bench.ledger = Ledger(bench.redis, bench.keys, LIMITS)  # with the clock that the books compare with
    before = datetime.now(UTC) - timedelta(seconds=5)
    ids = [bench.accept(2, 1), bench.accept()]
    bench.accept(send_at=time.time() + 600)
    bench.ledger.park(ids[1], OWNER)
    queue = bench.books.queue(Priority.BULK, hints=7)
    assert (queue.recipients, queue.batches, queue.due, queue.hints) == (5, 3, 0, 7)
    assert (queue.paused, queue.waiting) == (False, {"rate": 1})
    assert queue.oldest is not None
    assert before < queue.oldest < datetime.now(UTC) + timedelta(seconds=5)
    assert queue.next_due is not None
    assert queue.next_due > queue.oldest
    bench.ledger.pause("all")
    assert bench.books.queue(Priority.URGENT, hints=0).paused
    bench.ledger.open("rate", Priority.BULK, 1)
    assert bench.books.queue(Priority.BULK, hints=0).due == 1


@pytest.mark.parametrize("gate", ["pause", "aside", "rate"])
def test_what_waits_behind_a_gate_has_no_time(bench: Bench, gate: str) -> None:
    due = bench.keys.due(Priority.BULK)
    held, later = bench.accept(), bench.accept(send_at=bench.now / 1000 + 2 * LIFETIME)
    bench.redis.zadd(bench.keys.gate(gate, Priority.BULK), {held: bench.now})
    bench.redis.zadd(due, {held: bench.now + LIFETIME * 1000})
    assert bench.books.queue(Priority.BULK, hints=0).next_due == START + timedelta(seconds=2 * LIFETIME)
    bench.redis.zadd(bench.keys.gate(gate, Priority.BULK), {later: bench.now})
    assert bench.books.queue(Priority.BULK, hints=0).next_due is None


def test_an_empty_queue(bench: Bench) -> None:
    queue = bench.books.queue(Priority.URGENT, hints=0)
    assert (queue.recipients, queue.batches, queue.oldest, queue.next_due, queue.waiting) == (
        0,
        0,
        None,
        None,
        {},
    )


def test_the_figures(bench: Bench) -> None:
    bench.ledger = Ledger(bench.redis, bench.keys, LIMITS)
    urgent = bench.accept(2, priority="urgent")
    bench.settle(urgent, State.SENT, State.FAILED)
    bulk = bench.accept(1, 1, 1)
    bench.settle(bulk, State.SENT, State.DEFERRED, State.IN_DOUBT, delay=60)
    stats = bench.books.stats()
    assert stats.accepted == sum(stats.states.values()) == 5
    assert (stats.states[State.SENT], stats.states[State.DEFERRED], stats.states[State.QUEUED]) == (2, 1, 0)
    assert stats.tallies == {**dict.fromkeys(TALLIES, 0), "doubts": 1, "held": 1}
    assert (stats.sent_last_hour, stats.failed_last_hour, stats.deferrals_last_hour) == (2, 1, 1)
    assert stats.success_rate == pytest.approx(2 / 3)
    assert stats.response_times["all"].count == 2
    assert stats.response_times["urgent"].count == stats.response_times["bulk"].count == 1
    assert stats.response_times["normal"].median is None
    times = stats.response_times["bulk"]
    assert times.average is not None
    assert times.percentile_95 is not None
    assert 0 <= times.average <= times.percentile_95 < 30


def test_no_figures_yet(bench: Bench) -> None:
    stats = bench.books.stats()
    assert (stats.accepted, stats.success_rate, stats.sent_per_second) == (0, None, 0)
    assert set(stats.response_times) == {"all", *PRIORITIES}


def test_percentiles_are_the_upper_end_of_their_bucket(bench: Bench) -> None:
    minute = bench.keys.minute(int(time.time() // 60) - 2)
    bench.redis.hset(minute, mapping={"sent": 600, "rt:bulk:10": 90, "rt:bulk:50": 10, "rt_ms:bulk": 20_000})
    stats = bench.books.stats()
    assert stats.sent_per_second == 2
    times = stats.response_times["all"]
    assert (times.count, times.average) == (100, 0.2)
    assert times.median == pytest.approx(1.1**10 / 1000)
    assert times.percentile_95 == pytest.approx(1.1**50 / 1000)


@pytest.mark.parametrize(
    ("which", "command", "arguments"),
    [
        (0, "HDEL", ["h"]),
        (0, "HDEL", ["p"]),
        (0, "HSET", ["p", "soon"]),
        (0, "HSET", ["a", "yesterday"]),
        (0, "HSET", ["r", "zz"]),
        (1, "DEL", []),
        (1, "SET", ["Z"]),
        (2, "SET", ["x"]),
        (2, "HSET", ["0", "x"]),
    ],
)
def test_a_damaged_batch_hides_no_other(
    bench: Bench, caplog: pytest.LogCaptureFixture, which: int, command: str, arguments: list[str]
) -> None:
    ids = [bench.accept() for _ in range(3)]
    bench.redis.execute_command(command, bench.keys.batch(ids[1])[which], *arguments)
    assert [snapshot.id for snapshot in bench.books.batches(ids)] == [ids[0], ids[2]]
    assert len(list(bench.books.find("0@example.com"))) == 2
    with pytest.raises(StoreError) as raised:
        bench.books.batch(ids[1])
    assert str(raised.value).startswith(f"the records of batch {ids[1]} can't be read (")
    assert str(raised.value).endswith("); were they changed?")
    assert str(raised.value) in caplog.text


@pytest.mark.parametrize("field", ["a", "w", "x", "f"])
@pytest.mark.parametrize(("milliseconds", "year"), [(10**18, 9999), (-(10**18), 1970)])
def test_a_time_that_no_calendar_has_breaks_no_listing(
    bench: Bench, field: str, milliseconds: int, year: int
) -> None:
    odd, other = bench.accept(), bench.accept()
    bench.redis.hset(bench.keys.batch(odd)[0], field, milliseconds)
    found = {message.id: message for message in bench.books.find("0@example.com")}
    assert set(found) == {f"{odd}.0", f"{other}.0"}
    message = found[f"{odd}.0"]
    times = (message.accepted_at, message.send_at, message.expires_at, message.finished_at)
    assert year in {time.astimezone(timezone(timedelta(hours=14))).year for time in times if time}


def test_a_damaged_batch_does_not_stop_the_queue(bench: Bench) -> None:
    first, second = bench.accept(), bench.accept()
    bench.redis.set(bench.keys.batch(first)[0], "x")
    assert bench.books.queue(Priority.BULK, hints=0).oldest == START
    assert second in {snapshot.id for snapshot in bench.books.batches([first, second])}
