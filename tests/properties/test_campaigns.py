"""Campaigns under anything: rows accepted twice, feeders and workers that die, pauses, cancels, retries.

`Machine` plays each move, in any order, against a real Redis, whose clock it sets, and `campaign_model`.
After each step every row is in the books once, in the state that it should have; at the end everything still
gets through.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailtasks.message import PRIORITIES, Priority
from mailtasks.state import BY_CODE, State
from mailtasks.store import records
from mailtasks.store.campaigns import CampaignRecord, Campaigns
from mailtasks.store.connection import connect
from mailtasks.store.keys import Keys, campaign_batch_id, campaign_uid, uid_in
from mailtasks.store.ledger import Claim, Ledger, Limits, Released, Result
from mailtasks.store.records import BatchRecord, CampaignPart, NewBatch

from .campaign_model import Batch, Campaign
from .machines import play

CLOCK = "clock"
LIMITS = Limits(lease=60.0, margin=10.0, retention=10_000_000.0, windows=dict.fromkeys(PRIORITIES, 3))
LIFETIME = 10_000_000.0
NAMES = ("spring", "autumn", "winter")
OUTCOMES = st.sampled_from(
    [*[State.SENT] * 5, State.FAILED, State.DEFERRED, State.DEFERRED, State.IN_DOUBT, State.QUEUED]
)
number = st.integers(0, 100)
rarely = st.sampled_from([False, False, False, True])


class Machine(RuleBasedStateMachine):
    """Three campaigns, a few workers, and the clock."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.redis = connect(url, timeout=5, connect_timeout=5)
        self.redis.flushdb()
        self.keys = Keys("test")
        self.ledger = Ledger(self.redis, self.keys, LIMITS, CLOCK)
        self.campaigns = Campaigns(self.ledger)
        self.now = 1_700_000_000_000
        self.model: dict[str, Campaign] = {}
        self.records: dict[str, CampaignRecord] = {}
        self.claims: dict[str, Claim] = {}
        self.sent: set[tuple[str, int]] = set()
        self.known: dict[str, dict[int, Counter[State]]] = {name: {} for name in NAMES}
        self.later(0)

    def teardown(self) -> None:
        try:
            if self.model:
                self.everything_gets_through()
        finally:
            self.redis.close()

    def later(self, seconds: float) -> None:
        self.now += round(seconds * 1000)
        self.redis.delete(CLOCK)
        self.redis.rpush(CLOCK, self.now // 1000, self.now % 1000 * 1000)

    def batch(self, id: str) -> Batch:
        [(name, place)] = [
            (name, n)
            for name, campaign in self.model.items()
            for n in range(len(campaign.batches))
            if campaign_batch_id(self.records[name].uid, n) == id
        ]
        return self.model[name].batches[place]

    def campaign_of(self, id: str) -> Campaign:
        [name] = [name for name, record in self.records.items() if record.uid == uid_in(id)]
        return self.model[name]

    def a_name(self, which: int) -> str:
        return list(self.model)[which % len(self.model)]

    # Producers

    @initialize()
    def first(self) -> None:
        self.begin(NAMES[0])
        self.accept(0, 0, 4)

    @rule(name=st.sampled_from(NAMES))
    def begin(self, name: str) -> None:
        """Or take up what is there."""
        wanted = CampaignRecord(campaign_uid(name, 1), name, lifetime=LIFETIME, template="t")
        held = self.campaigns.begin(wanted, b"template")
        self.records[name] = held
        campaign = self.model.setdefault(name, Campaign(name))
        assert (held.state, held.next) == (campaign.state, len(campaign.batches))

    @rule(which=number, ahead=st.sampled_from([0, 0, 0, -1, -2, 1]), size=st.integers(1, 5))
    def accept(self, which: int, ahead: int, size: int) -> None:
        """The next batch, one that was accepted before (or another in its place), or one too far."""
        name = self.a_name(which)
        record, campaign = self.records[name], self.model[name]
        place = max(0, len(campaign.batches) + ahead)
        if place > 6:
            return
        id = campaign_batch_id(record.uid, place)
        new = NewBatch(
            id=id,
            priority=Priority.BULK,
            record=BatchRecord((), campaign=CampaignPart(name, id, size, "t", "a@b.c", "b.c", 0)),
            recipients=tuple(f"{place}.{row}@example.com" for row in range(size)),
            bodies=(),
            fingerprint=f"{size:016}",
            lifetime=LIFETIME,
            values=records.pack(records.encode_values([{"row": row} for row in range(size)])),
        )
        [answer] = self.campaigns.accept([new])
        # What is finished has forgotten what it was given.
        if self.redis.exists(self.keys.campaign(record.uid)[3]):
            assert answer.value == campaign.accept(place, size)
        else:
            takes_no_more = (
                campaign.batches or campaign.complete or campaign.state == "cancelled" or ahead <= 0
            )
            assert answer.value == ("closed" if takes_no_more else "gap") or place == 0
            if answer.value == "new":
                campaign.accept(place, size)

    @rule(which=number, wrong=rarely)
    def complete(self, which: int, wrong: bool) -> None:
        name = self.a_name(which)
        campaign = self.model[name]
        news = self.campaigns.complete(self.records[name], len(campaign.batches) + wrong)
        assert news is (not wrong and not campaign.complete)
        campaign.complete = campaign.complete or not wrong

    # Steering

    @rule(which=number)
    def pause(self, which: int) -> None:
        name = self.a_name(which)
        assert self.campaigns.pause(self.records[name]) is (self.model[name].state == "active")
        if self.model[name].state == "active":
            self.model[name].state = "paused"

    @rule(which=number)
    def resume(self, which: int) -> None:
        name = self.a_name(which)
        assert self.campaigns.resume(self.records[name]) is (self.model[name].state == "paused")
        if self.model[name].state == "paused":
            self.model[name].state = "active"

    @rule(which=number, dies=st.booleans(), really=rarely)
    def cancel(self, which: int, dies: bool, really: bool) -> None:
        """Whoever asked may die before anything is cancelled."""
        name = self.a_name(which)
        if not really:
            return
        self.campaigns.cancel(self.records[name])
        self.model[name].state, self.model[name].complete = "cancelled", True
        if not dies:
            self.cancel_on(name)

    def cancel_on(self, name: str) -> None:
        self.campaigns.cancel_on(self.fresh(name))
        for batch in self.model[name].batches:
            self.cancelled(batch)

    @staticmethod
    def cancelled(batch: Batch) -> None:
        for row in batch.waiting:
            batch.rows[row] = State.CANCELLED

    @rule(which=number, place=number)
    def retry(self, which: int, place: int) -> None:
        name = self.a_name(which)
        campaign = self.model[name]
        if not campaign.batches:
            return
        place %= len(campaign.batches)
        batch, id = campaign.batches[place], campaign_batch_id(self.records[name].uid, place)
        wanted = {row: state for row, state in enumerate(batch.rows) if state is State.FAILED}
        retried, bodiless = self.ledger.retry(id, wanted)
        assert retried + bodiless == len(wanted)
        assert not retried or campaign.state != "cancelled"
        assert not bodiless or campaign.state == "cancelled"
        if retried:
            for row in wanted:
                batch.rows[row] = State.QUEUED

    # Whose turn it is

    @rule(most=st.integers(1, 4), dies=rarely)
    def feed(self, most: int, dies: bool) -> None:
        """A feeder may die when batches have left their gates and nobody has hinted them."""
        uids = self.campaigns.waiting(Priority.BULK)
        if dies and uids:
            arguments: dict[str, Any] = {"priority": "bulk", "most": most, "uids": uids}
            fed = self.ledger.run("feed", [], campaigns=uids, **arguments)
            assert all(self.campaign_of(id.decode()).state == "active" for id in fed)
            return
        for hint in self.campaigns.feed(Priority.BULK, most):
            campaign = self.campaign_of(hint.batch)
            assert campaign.state == "active"
            assert self.batch(hint.batch).waiting
            assert hint.batch not in self.claims

    @rule()
    def tend(self) -> None:
        self.campaigns.tend()
        for campaign in self.model.values():
            if campaign.state == "cancelled":
                for batch in campaign.batches:
                    self.cancelled(batch)

    @rule(seconds=st.sampled_from([1, 11, 25]))
    def look(self, seconds: int) -> None:
        """What is hinted is claimed some time, or never."""
        self.hinted(seconds)

    def hinted(self, seconds: int) -> list[str]:
        """Claims that weren't renewed lapse: the rows in their windows are in doubt."""
        self.later(seconds)
        due = self.ledger.due()
        for id in due:
            self.looked_at(id)
        hints = self.ledger.look(due, {})
        assert all(self.campaign_of(hint.batch).state == "active" for hint in hints)
        return [hint.batch for hint in hints]

    def looked_at(self, id: str) -> None:
        campaign, batch = self.campaign_of(id), self.batch(id)
        claim = self.claims.get(id)
        if claim and self.lease_is_over(id):
            self.lapsed(id)
        if id not in self.claims and campaign.state == "cancelled":
            self.cancelled(batch)

    def lease_is_over(self, id: str) -> bool:
        ends = self.redis.hget(self.keys.batch(id)[0], "l")
        return ends is not None and int(ends) <= self.now

    def lapsed(self, id: str) -> None:
        self.claims.pop(id)
        batch = self.batch(id)
        for row, state in enumerate(batch.rows):
            if state is State.SENDING:
                batch.rows[row] = State.IN_DOUBT

    # Workers

    @rule(which=number, place=number)
    def claim(self, which: int, place: int) -> None:
        """A hint may come to anything, at any time."""
        name = self.a_name(which)
        campaign = self.model[name]
        if not campaign.batches:
            return
        id = campaign_batch_id(self.records[name].uid, place % len(campaign.batches))
        if id in self.claims and self.lease_is_over(id):
            self.lapsed(id)
        answer = self.ledger.claim(id, "worker")
        self.after_step(id, answer)

    @precondition(lambda self: self.claims)
    @rule(which=number, data=st.data(), more=st.booleans())
    def step(self, which: int, data: st.DataObject, more: bool) -> None:
        id = list(self.claims)[which % len(self.claims)]
        if self.lease_is_over(id):
            self.lapsed(id)
            return
        claim, batch = self.claims[id], self.batch(id)
        results = [
            Result(it.index, data.draw(OUTCOMES), 20.0, counted=False)
            for m in claim.window
            for it in m.recipients
        ]
        for result in results:
            batch.rows[result.index] = result.state
            if result.state is State.SENT:
                assert (id, result.index) not in self.sent, "sent twice"
                self.sent.add((id, result.index))
        if more:
            answer: Claim | Released | None = self.ledger.step(claim, "worker", results)
        else:
            answer = self.ledger.release(claim, "worker", results)
        self.after_step(id, claim if answer is None else answer)

    def after_step(self, id: str, answer: Claim | Released) -> None:
        campaign, batch = self.campaign_of(id), self.batch(id)
        if isinstance(answer, Claim):
            assert campaign.state == "active"
            self.claims[id] = answer
            for message in answer.window:
                [recipient] = message.recipients
                assert message.values == {"row": recipient.index}
                assert batch.rows[recipient.index] in (State.QUEUED, State.DEFERRED)
                batch.rows[recipient.index] = State.SENDING
            return
        if answer.why.value != "taken":
            self.claims.pop(id, None)
            if campaign.state == "cancelled":
                self.cancelled(batch)

    # The laws

    def fresh(self, name: str) -> CampaignRecord:
        record = self.campaigns.record(self.records[name].uid)
        assert record is not None
        return record

    @invariant()
    def each_row_is_in_the_books_once(self) -> None:
        for name, campaign in self.model.items():
            record = self.fresh(name)
            held = [states.decode() for _, states in self.campaigns.states(record.uid, 0, record.next)]
            assert [[BY_CODE[code] for code in states] for states in held] == [
                b.rows for b in campaign.batches
            ]
            counts = campaign.counts()
            assert +self.campaigns.counts(record) == counts
            assert +self.campaigns.counts(record, self.known[name]) == counts
            assert record.rows == sum(counts.values())
            assert record.counted <= record.next
            assert not record.finished or campaign.is_over
        total = sum((campaign.counts() for campaign in self.model.values()), Counter[State]())
        found = {k.decode(): int(v) for k, v in self.redis.hgetall(self.keys.counts).items()}
        assert found.get("accepted", 0) == sum(total.values())
        assert {state: found.get(state, 0) for state in State if found.get(state, 0)} == total

    @invariant()
    def nothing_is_astray(self) -> None:
        assert self.ledger.sweep() == []

    @invariant()
    def what_waits_is_somewhere(self) -> None:
        for name, campaign in self.model.items():
            gate = {
                id.decode()
                for id in self.redis.zrange(self.keys.gate("campaign", self.records[name].uid), 0, -1)
            }
            for place, batch in enumerate(campaign.batches):
                id = campaign_batch_id(self.records[name].uid, place)
                due = self.redis.zscore(self.keys.due(Priority.BULK), id)
                assert (due is not None) is batch.unfinished
                assert batch.unfinished or id not in gate
                assert not (id in self.claims and id in gate)

    @invariant()
    def rows_are_kept_as_long_as_needed(self) -> None:
        for name, campaign in self.model.items():
            for place, batch in enumerate(campaign.batches):
                key, *_ = self.keys.batch(campaign_batch_id(self.records[name].uid, place))
                needed = batch.unfinished or bool({State.FAILED, State.IN_DOUBT} & set(batch.rows))
                assert bool(self.redis.hexists(key, "d")) is bool(self.redis.hexists(key, "r")) is needed

    # The end

    def everything_gets_through(self) -> None:
        """With workers, a pump and an operator, nothing is stuck: all that isn't held or refused is sent."""
        for name in self.model:
            self.campaigns.resume(self.records[name])
            self.campaigns.complete(self.records[name], len(self.model[name].batches))
            self.model[name].complete = True
            if self.model[name].state == "paused":
                self.model[name].state = "active"
        for _ in range(60):
            if not any(batch.unfinished for campaign in self.model.values() for batch in campaign.batches):
                break
            for id in self.hinted(25):
                self.deliver(id)
            self.tend()
            for hint in self.campaigns.feed(Priority.BULK, 10):
                self.deliver(hint.batch)
            for id in list(self.claims):
                self.deliver(id)
        self.tend()
        self.tend()
        assert self.campaigns.open() == []
        assert all(campaign.is_over for campaign in self.model.values())
        self.each_row_is_in_the_books_once()
        self.nothing_is_astray()

    def deliver(self, id: str) -> None:
        if id in self.claims and self.lease_is_over(id):
            self.lapsed(id)
        answer = self.claims.get(id) or self.ledger.claim(id, "the last worker")
        if id not in self.claims:
            self.after_step(id, answer)
        while id in self.claims:
            claim, batch = self.claims[id], self.batch(id)
            results = [Result(it.index, State.SENT) for m in claim.window for it in m.recipients]
            for result in results:
                batch.rows[result.index] = State.SENT
            ended = self.ledger.step(claim, "the last worker", results)
            self.after_step(id, claim if ended is None else ended)


def test_any_order_of_producers_feeders_workers_and_operator(redis_url: str) -> None:
    play(lambda: Machine(redis_url), examples=40, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_same_for_longer(redis_url: str) -> None:
    play(lambda: Machine(redis_url), examples=500, steps=80)
