"""Campaigns in the ledger, move by move, on a real Redis with a clock of our own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from mailtasks.errors import StoreUnavailable
from mailtasks.message import Priority
from mailtasks.state import State
from mailtasks.store import campaigns as campaigns_module
from mailtasks.store import records
from mailtasks.store.campaigns import CampaignRecord, Campaigns
from mailtasks.store.connection import where
from mailtasks.store.keys import campaign_batch_id, campaign_uid
from mailtasks.store.ledger import Acceptance, Refusal, Released
from mailtasks.store.records import BatchRecord, CampaignPart, NewBatch

from .bench import LIFETIME, OWNER, Bench, results, window

DAY = 86_400.0


class Plays:
    """A bench with campaigns, and short words for what tests do with them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.campaigns = Campaigns(bench.ledger)

    def begin(self, name: str = "spring", **options: Any) -> CampaignRecord:
        options = {"template": "digest", "sender": "news@example.com", "lifetime": LIFETIME, **options}
        wanted = CampaignRecord(campaign_uid(name, 1), name, **options)
        return self.campaigns.begin(wanted, b"the template")

    def new(self, record: CampaignRecord, number: int, rows: int = 3, **more: Any) -> NewBatch:
        id = campaign_batch_id(record.uid, number)
        part = CampaignPart(record.name, id, rows, "digest", "news@example.com", "example.com", 1_700_000_000)
        values = records.encode_values([{"name": f"Ann {number}.{row}"} for row in range(rows)])
        given = {
            "priority": record.priority,
            "fingerprint": f"{number:016d}",
            "lifetime": record.lifetime,
            "send_at": record.begins,
            "ends": record.ends,
        }
        return NewBatch(
            id=id,
            record=BatchRecord((), campaign=part),
            recipients=tuple(f"{number}.{row}@example.com" for row in range(rows)),
            bodies=(),
            values=records.pack(values),
            **{**given, **more},
        )

    def accept(self, record: CampaignRecord, batches: int = 1, rows: int = 3) -> list[str]:
        first = self.now(record).next
        new = [self.new(record, number, rows) for number in range(first, first + batches)]
        assert self.campaigns.accept(new) == [Acceptance.NEW] * batches
        return [batch.id for batch in new]

    def now(self, record: CampaignRecord) -> CampaignRecord:
        found = self.campaigns.record(record.uid)
        assert found is not None
        return found

    def feed(self, most: int = 1, priority: Priority = Priority.BULK) -> list[str]:
        return [hint.batch for hint in self.campaigns.feed(priority, most)]

    def send(self, id: str, *states: State) -> None:
        """All of a batch, which is claimed first; one state is for all."""
        claim = self.bench.claim(id)
        while self.bench.ledger.step(claim, OWNER, results(claim, *(states or (State.SENT,)))) is None:
            pass

    def counts(self, record: CampaignRecord) -> dict[State, int]:
        return {state: n for state, n in self.campaigns.counts(self.now(record)).items() if n}

    def gate(self, record: CampaignRecord) -> list[str]:
        found = self.bench.redis.zrange(self.bench.keys.gate("campaign", record.uid), 0, -1)
        return [id.decode() for id in found]


@pytest.fixture
def plays(bench: Bench) -> Plays:
    return Plays(bench)


# Begin, accept, complete


def test_who_begins_a_campaign_again_takes_it_up(plays: Plays) -> None:
    first = plays.begin(tags=("a", "b"), rate=2.5, begins=1_800_000_000.0)
    assert (first.name, first.state, first.tags, first.rate) == ("spring", "active", ("a", "b"), 2.5)
    assert (first.begins, first.lifetime, first.next) == (1_800_000_000.0, LIFETIME, 0)
    plays.bench.later(5)
    assert plays.begin(tags=("c",)) == first
    assert plays.campaigns.names() == {"spring": 1}
    assert plays.campaigns.uid_of("spring") == first.uid
    assert plays.campaigns.template(first.uid) == b"the template"
    assert plays.campaigns.uid_of("autumn") is None


def test_rows_that_no_replica_confirms_are_given_again(plays: Plays) -> None:
    """No row's id is told: who takes the campaign up needs none."""
    record = plays.begin()
    plays.bench.limited(confirm=0.05)
    with pytest.raises(StoreUnavailable) as raised:
        Campaigns(plays.bench.ledger).accept([plays.new(record, 0)])
    assert str(raised.value) == (
        f"Redis at {where(plays.bench.redis)} accepted rows of a campaign, but no replica confirmed that "
        "within 0.05 s, so a failover may forget it; give all rows again (then nobody is mailed twice)"
    )
    assert raised.value.ids == ()
    assert plays.campaigns.accept([plays.new(record, 0)]) == [Acceptance.SAME]


def test_a_batch_waits_at_its_campaigns_gate_and_is_due_at_the_end_of_its_life(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    assert plays.gate(record) == [id]
    assert plays.bench.due(id) == 400 * DAY
    assert plays.bench.look() == []
    assert plays.bench.ledger.sweep() == []
    assert (plays.now(record).next, plays.now(record).rows) == (1, 3)
    assert plays.counts(record) == {State.QUEUED: 3}
    assert plays.bench.count("unfinished:bulk") == 3


def test_a_batch_that_has_its_turn_when_nothing_of_it_could_go_leaves_the_gate(plays: Plays) -> None:
    """It was claimed in a pause by a hint of before, and only who is deferred is left of it."""
    record = plays.begin()
    [id] = plays.accept(record, rows=2)
    plays.feed()
    claim = plays.bench.claim(id)
    given = results(claim, State.SENT, State.DEFERRED, delay=600)
    plays.bench.ledger.release(claim, OWNER, given)
    plays.campaigns.pause(plays.now(record), "a look")
    assert plays.bench.refused(id) == "paused"
    plays.campaigns.resume(plays.now(record))
    assert plays.feed() == []
    assert plays.bench.ledger.sweep() == []
    assert (plays.gate(record), plays.bench.field(id, "q")) == ([], None)
    plays.bench.later(600)
    assert plays.bench.look() == []
    assert plays.feed() == [id]


def test_batches_are_accepted_once_and_in_order(plays: Plays) -> None:
    record = plays.begin()
    first, second, third = (plays.new(record, number) for number in range(3))
    other = msgspec.structs.replace(first, fingerprint="f" * 16)
    assert plays.campaigns.accept([second]) == [Acceptance.GAP]
    assert plays.campaigns.accept([first, third, second]) == [
        Acceptance.NEW,
        Acceptance.GAP,
        Acceptance.NEW,
    ]
    assert plays.campaigns.accept([first, second, other]) == [
        Acceptance.SAME,
        Acceptance.SAME,
        Acceptance.CONFLICT,
    ]
    assert plays.bench.count("accepted") == 6
    assert plays.campaigns.prints(record.uid) == [first.fingerprint, second.fingerprint]


def test_a_batch_isnt_accepted_again_though_its_records_have_expired(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.bench.redis.delete(*plays.bench.keys.batch(id))
    assert plays.campaigns.accept([plays.new(record, 0)]) == [Acceptance.SAME]


@pytest.mark.parametrize("way", ["complete", "cancel"])
def test_what_is_complete_or_cancelled_takes_no_more(plays: Plays, way: str) -> None:
    record = plays.begin()
    plays.accept(record)
    if way == "complete":
        assert not plays.campaigns.complete(record, 2), "it has one batch"
        assert plays.campaigns.complete(record, 1)
        assert not plays.campaigns.complete(record, 1)
    else:
        assert plays.campaigns.cancel(record)
    assert plays.campaigns.accept([plays.new(record, 1)]) == [Acceptance.CLOSED]
    assert plays.campaigns.accept([plays.new(record, 0)]) == [Acceptance.SAME]


def test_a_campaign_that_isnt_there_takes_nothing(plays: Plays) -> None:
    record = CampaignRecord(campaign_uid("winter", 1), "winter", lifetime=LIFETIME)
    assert plays.campaigns.accept([plays.new(record, 0)]) == [Acceptance.CLOSED]
    assert plays.campaigns.record(record.uid) is None
    assert plays.bench.count("accepted") == 0


# Whose turn it is


def test_a_batch_that_is_fed_is_hinted_and_sent(plays: Plays) -> None:
    record = plays.begin()
    first, second = plays.accept(record, 2)
    plays.bench.later(100)
    assert plays.feed() == [first]
    assert plays.gate(record) == [second]
    assert plays.bench.due(first) == 10, "should the hint be lost"
    assert plays.bench.expires_in(first) == LIFETIME, "waiting made it no older"
    claim = plays.bench.claim(first)
    assert claim.window[0].values == {"name": "Ann 0.0"}
    assert [it.record.message_id for it in claim.window][2] == f"<{first}.2@example.com>"
    assert [it.recipients[0].address for it in claim.window] == [f"0.{row}@example.com" for row in range(3)]


def test_what_a_feeder_left_when_it_died_is_hinted_by_the_next_look(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    arguments = {"priority": "bulk", "most": 1, "uids": [record.uid]}
    plays.bench.ledger.run("feed", [], campaigns=[record.uid], **arguments)
    assert plays.gate(record) == []
    assert plays.bench.ledger.sweep() == []
    assert plays.bench.look() == [id]


def test_a_lost_hint_comes_again(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.feed()
    assert plays.bench.pass_time(20) == [id]


def test_campaigns_have_their_turns_one_after_the_other(plays: Plays) -> None:
    large, small = plays.begin("large"), plays.begin("small")
    many = plays.accept(large, 20)
    assert plays.feed(4) == many[:4]
    few = plays.accept(small, 3)
    fed = plays.feed(6)
    assert sorted(fed[:2]) == sorted([many[4], few[0]])
    assert set(fed) == {*many[4:7], *few}
    assert plays.feed(2) == many[7:9]


def test_turns_arent_saved_up(plays: Plays) -> None:
    """A campaign whose time has come doesn't go before all others until it has caught up with them."""
    start = plays.bench.now / 1000
    later, running = plays.begin("later", begins=start + 100), plays.begin("running")
    many, others = plays.accept(later, 10), plays.accept(running, 30)
    for _ in range(10):
        plays.feed(1)
    plays.bench.later(100)
    assert Counter(id in many for id in plays.feed(6)) == {True: 3, False: 3}
    assert others[0] not in plays.gate(running)


def test_other_priorities_have_feeders_of_their_own(plays: Plays) -> None:
    record = plays.begin(priority=Priority.NORMAL)
    [id] = plays.accept(record)
    assert plays.feed() == []
    assert plays.feed(priority=Priority.NORMAL) == [id]


def test_many_campaigns_are_asked_a_few_at_a_time(plays: Plays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns_module, "_ASKED_AT_ONCE", 2)
    ids = [plays.accept(plays.begin(f"{number}"))[0] for number in range(5)]
    assert sorted(plays.feed(10)) == sorted(ids)


def test_a_finished_batch_in_the_gate_is_passed_over(plays: Plays) -> None:
    record = plays.begin()
    first, second = plays.accept(record, 2)
    plays.bench.redis.zrem(plays.bench.keys.due(Priority.BULK), first)
    assert plays.feed(2) == [second]
    assert plays.gate(record) == []


def test_nothing_is_fed_before_the_campaign_begins(plays: Plays) -> None:
    record = plays.begin(begins=plays.bench.now / 1000 + 3600)
    [id] = plays.accept(record)
    assert plays.feed() == []
    plays.bench.pass_time(3600)
    assert plays.feed() == [id]
    assert plays.bench.expires_in(id) == LIFETIME


def test_what_isnt_sent_by_the_end_expires(plays: Plays) -> None:
    record = plays.begin(ends=plays.bench.now / 1000 + 60)
    first, second = plays.accept(record, 2)
    assert plays.bench.due(second) == 60
    plays.feed()
    assert plays.bench.expires_in(first) == 60
    plays.bench.pass_time(60)
    assert (plays.bench.states(first), plays.bench.states(second)) == ("xxx", "xxx")
    assert plays.gate(record) == []


def test_a_deferred_row_waits_for_a_turn_when_its_time_has_come(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record, rows=1)
    plays.feed()
    claim = plays.bench.claim(id)
    plays.bench.ledger.step(claim, OWNER, results(claim, State.DEFERRED, delay=50.0))
    assert plays.bench.due(id) == 50
    assert plays.bench.pass_time(60) == []
    assert plays.gate(record) == [id]
    assert plays.feed() == [id]


def test_what_a_dead_worker_held_waits_for_a_turn(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.feed()
    plays.bench.claim(id, most=1)
    assert plays.bench.pass_time(70) == []
    assert plays.bench.states(id) == "?qq"
    assert plays.feed() == [id]


# Pause, rate, cancel


def test_a_paused_campaign_is_refused_at_the_next_window_and_waits(plays: Plays) -> None:
    record = plays.begin()
    id, other = plays.accept(record, 2, rows=10)
    plays.feed()
    claim = plays.bench.claim(id)
    assert plays.campaigns.pause(record, "the relay says no")
    assert not plays.campaigns.pause(record)
    answer = plays.bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert answer == Released(Refusal.PAUSED)
    assert plays.bench.states(id) == "+" * 8 + "qq"
    assert plays.gate(record) == [id, other], "the one that was begun is first again"
    assert plays.feed() == []
    assert plays.bench.refused(other) == Refusal.PAUSED
    assert (plays.now(record).state, plays.now(record).reason) == ("paused", "the relay says no")
    assert plays.bench.ledger.sweep() == []
    plays.bench.pass_time(LIFETIME * 2)
    assert plays.campaigns.resume(record)
    assert not plays.campaigns.resume(record)
    assert plays.feed() == [id]
    assert window(plays.bench.claim(id)) == [8, 9], "it grew no older"


def test_a_pause_of_the_priority_holds_campaigns_at_their_gates(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.bench.ledger.pause("bulk")
    assert plays.feed() == []
    assert plays.bench.refused(id) == Refusal.PAUSED
    plays.bench.ledger.resume("bulk")
    assert plays.feed() == [id]


def test_a_pause_between_feeding_and_looking_sends_it_back(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.feed()
    plays.campaigns.pause(record)
    plays.bench.later(11)
    assert plays.bench.look() == []
    assert plays.gate(record) == [id]


def test_a_rate_is_kept_over_all_workers(plays: Plays) -> None:
    record = plays.begin(rate=2.0)
    first, second = plays.accept(record, 2, rows=10)
    assert plays.feed(5) == [first], "one message may go, so one batch"
    claim = plays.bench.claim(first)
    assert window(claim) == [0]
    answer = plays.bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert answer == Released(Refusal.PAUSED)
    assert plays.bench.refused(second) == Refusal.PAUSED
    assert plays.feed(5) == []
    plays.bench.later(1)
    assert plays.feed(5) == [first, second]
    assert window(plays.bench.claim(second)) == [0, 1]
    assert plays.bench.refused(first) == Refusal.PAUSED
    plays.bench.later(3600)
    plays.feed(5)
    assert window(plays.bench.claim(first)) == [1, 2, 3], "a second's worth and one more"


def test_the_processs_rate_sends_a_batch_back_to_its_campaign(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.feed()
    assert plays.bench.ledger.park(id, OWNER).why is Refusal.NOTHING
    assert plays.gate(record) == [id]
    assert plays.bench.waits(id) == set()


def test_cancel_leaves_what_is_sent(plays: Plays) -> None:
    record = plays.begin()
    first, second, third = plays.accept(record, 3, rows=10)
    plays.feed(2)
    claim = plays.bench.claim(first)
    plays.campaigns.cancel(record)
    assert not plays.campaigns.resume(record), "for good"
    answer = plays.bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert answer is not None
    assert plays.bench.states(first) == "+" * 8 + "cc"
    assert plays.bench.refused(second) == Refusal.NOTHING, "whoever comes upon it cancels it"
    assert plays.bench.states(second) == "c" * 10
    assert plays.campaigns.cancel_on(plays.now(record)) == 10
    assert plays.campaigns.cancel_on(plays.now(record)) == 0
    assert plays.bench.states(third) == "c" * 10
    assert plays.campaigns.count_on(plays.now(record))
    assert plays.counts(record) == {State.SENT: 8, State.CANCELLED: 22}
    assert plays.gate(record) == []


def test_pumps_go_on_where_who_cancelled_has_died(plays: Plays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns_module, "_CANCELLED_AT_ONCE", 2)
    record = plays.begin()
    plays.accept(record, 5)
    plays.campaigns.cancel(record)
    turns = 0
    while plays.campaigns.open():
        plays.campaigns.tend()
        turns += 1
    assert turns == 3
    assert plays.counts(record) == {State.CANCELLED: 15}


# What became of them


def test_finished_batches_are_counted_in_order_and_once(plays: Plays) -> None:
    record = plays.begin()
    ids = plays.accept(record, 4)
    plays.campaigns.complete(record, 4)
    plays.feed(4)
    for id in (ids[0], ids[1], ids[3]):
        plays.send(id)
    plays.campaigns.tend()
    plays.campaigns.tend()
    now = plays.now(record)
    assert (now.counted, now.counts[State.SENT], now.finished) == (2, 6, 0)
    assert plays.counts(record) == {State.SENT: 9, State.QUEUED: 3}
    assert plays.bench.lives(ids[1])[:2] == [1000, 1000], "retention begins when it is counted"
    assert plays.bench.lives(ids[3])[:2] == [-1, -1], "and not before"
    plays.send(ids[2])
    plays.campaigns.tend()
    now = plays.now(record)
    assert (now.counted, now.counts[State.SENT]) == (4, 12)
    assert now.finished == plays.bench.now / 1000
    assert plays.campaigns.open() == []
    assert plays.bench.ledger.sweep() == []


def test_the_figures_outlive_the_batches(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.campaigns.complete(record, 1)
    plays.feed()
    plays.send(id, State.SENT, State.FAILED, State.SENT)
    plays.campaigns.tend()
    plays.bench.redis.delete(*plays.bench.keys.batch(id))
    assert plays.counts(record) == {State.SENT: 2, State.FAILED: 1}
    assert plays.bench.redis.pttl(plays.bench.keys.campaign(record.uid)[2]) > 0


def test_what_moves_after_it_was_counted_moves_in_the_figures(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.campaigns.complete(record, 1)
    plays.feed()
    plays.send(id, State.SENT, State.FAILED, State.FAILED)
    plays.campaigns.tend()
    assert plays.bench.ledger.retry(id, {1: State.FAILED}) == (1, 0)
    assert plays.counts(record) == {State.SENT: 1, State.QUEUED: 1, State.FAILED: 1}
    assert plays.now(record).finished == 0
    assert plays.bench.redis.ttl(plays.bench.keys.campaign(record.uid)[2]) == -1
    assert plays.gate(record) == [id], "a retry waits for its turn"
    plays.campaigns.tend()
    assert plays.feed() == [id]
    plays.send(id)
    plays.campaigns.tend()
    assert plays.counts(record) == {State.SENT: 2, State.FAILED: 1}
    assert plays.now(record).finished
    assert plays.bench.lives(id)[:2] == [1000, 1000]
    assert plays.bench.ledger.sweep() == []


def test_who_asks_again_reads_only_what_can_have_changed(
    plays: Plays, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = plays.begin()
    ids = plays.accept(record, 3)
    plays.feed(3)
    plays.send(ids[1])
    known: dict[int, Counter[State]] = {}
    assert plays.campaigns.counts(plays.now(record), known)[State.SENT] == 3
    asked: list[tuple[int, int]] = []
    states = Campaigns.states
    monkeypatch.setattr(
        Campaigns, "states", lambda self, uid, *ends: asked.append(ends) or states(self, uid, *ends)
    )
    assert plays.campaigns.counts(plays.now(record), known) == {State.SENT: 3, State.QUEUED: 6}
    assert asked == [(0, 1), (2, 3)]


def test_who_asks_again_sees_what_another_has_retried(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record, rows=2)
    plays.feed()
    plays.send(id, State.SENT, State.FAILED)
    known: dict[int, Counter[State]] = {}
    assert +plays.campaigns.counts(plays.now(record), known) == {State.SENT: 1, State.FAILED: 1}
    assert plays.bench.ledger.retry(id, {1: State.FAILED}) == (1, 0)
    assert +plays.campaigns.counts(plays.now(record), known) == {State.SENT: 1, State.QUEUED: 1}


def test_a_batch_that_a_hand_has_deleted_holds_up_no_other(plays: Plays) -> None:
    record = plays.begin()
    ids = plays.accept(record, 2)
    plays.campaigns.complete(record, 2)
    plays.feed(2)
    plays.send(ids[1])
    plays.bench.redis.delete(*plays.bench.keys.batch(ids[0]))
    plays.campaigns.tend()
    assert plays.now(record).finished
    assert plays.counts(record) == {State.SENT: 3}


# What is kept


def test_rows_addresses_and_replies_go_when_all_are_sent(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.feed()
    plays.send(id)
    assert plays.bench.field(id, "d") is plays.bench.field(id, "r") is None
    assert not plays.bench.redis.exists(plays.bench.keys.batch(id)[2])
    snapshot = plays.bench.snapshot(id)
    assert snapshot.recipients == ("", "", "")
    assert [message.state for message in snapshot.messages()] == [State.SENT] * 3
    assert plays.bench.books.bodies(id) == set()


def test_they_stay_while_somebody_may_ask_who_failed(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.feed()
    plays.send(id, State.SENT, State.FAILED, State.SENT)
    snapshot = plays.bench.snapshot(id)
    assert snapshot.recipients[1] == "0.1@example.com"
    assert set(snapshot.tries) == {1}, "of who has his mail no words are kept"
    assert plays.bench.books.bodies(id) == {0, 1, 2}


def test_who_expired_untried_isnt_kept_and_who_was_tried_is(plays: Plays) -> None:
    record = plays.begin(ends=plays.bench.now / 1000 + 100)
    first, second = plays.accept(record, 2, rows=1)
    plays.feed()
    claim = plays.bench.claim(first)
    plays.bench.ledger.step(claim, OWNER, results(claim, State.DEFERRED, delay=3600.0, reply="450 later"))
    plays.bench.pass_time(110)
    assert (plays.bench.states(first), plays.bench.states(second)) == ("x", "x")
    assert plays.bench.snapshot(first).tries[0].reply == "450 later"
    assert plays.bench.snapshot(second).recipients == ("",)


def test_a_retry_without_rows_or_template_is_told(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.feed()
    plays.send(id, State.FAILED)
    plays.bench.redis.delete(plays.bench.keys.campaign(record.uid)[2])
    assert plays.bench.ledger.retry(id, {0: State.FAILED}) == (0, 1)


def test_nothing_of_a_cancelled_campaign_is_retried(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.feed()
    plays.send(id, State.FAILED)
    plays.campaigns.cancel(record)
    assert plays.bench.ledger.retry(id, {0: State.FAILED}) == (0, 1)


# What should never be


def test_the_sweep_brings_back_what_no_campaign_would_feed(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.bench.pass_time(100)
    plays.bench.redis.delete(plays.bench.keys.gate("campaign", record.uid))
    [stray] = plays.bench.ledger.sweep()
    assert (stray.batch, stray.found) == (id, "it waits for its turn, and no campaign would have fed it")
    plays.bench.look()
    assert plays.gate(record) == [id]


def test_a_batch_whose_campaign_a_hand_has_deleted_is_set_aside(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.bench.pass_time(100)
    plays.bench.redis.delete(*plays.bench.keys.campaign(record.uid))
    [stray] = plays.bench.ledger.sweep()
    assert (stray.batch, stray.found) == (id, "there is no record of its campaign")
    assert plays.bench.look() == []
    assert plays.bench.waits(id) == {"aside"}
    assert plays.bench.ledger.sweep() == []
    plays.campaigns.tend()
    assert plays.campaigns.open() == []


def test_when_the_clock_is_set_back_what_waits_goes_on_waiting(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.bench.pass_time(50)
    plays.bench.later(-10_000)
    assert plays.bench.look() == []
    assert plays.gate(record) == [id]
    plays.bench.pass_time(200)
    assert plays.feed() == [id]
    assert len(plays.bench.claim(id).window) == 3


# The brake


def test_refusals_are_counted_by_all_workers_together(plays: Plays) -> None:
    record = plays.begin()
    assert plays.campaigns.brake(record.uid, "sender_refused", 8, False) == 8
    assert plays.campaigns.brake(record.uid, "sender_refused", 5, False) == 13
    assert plays.campaigns.brake(record.uid, "quota_spent", 2, False) == 2, "another kind, another run"
    assert plays.campaigns.brake(record.uid, "quota_spent", 3, True) == 3, "something was sent before"
    assert plays.campaigns.brake(record.uid, "", 0, True) == 0
    plays.campaigns.brake(record.uid, "quota_spent", 19, False)
    plays.campaigns.pause(record)
    plays.campaigns.resume(record)
    assert plays.campaigns.brake(record.uid, "quota_spent", 1, False) == 1, "who resumes it has looked"


def test_a_claim_tells_what_is_counted(plays: Plays) -> None:
    record = plays.begin()
    [id] = plays.accept(record)
    plays.campaigns.brake(record.uid, "quota_spent", 2, False)
    plays.feed()
    assert plays.bench.claim(id).brake == "2 quota_spent"
