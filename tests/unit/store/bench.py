"""A ledger whose clock is set by hand, and short words for what tests do with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mailtasks.message import Priority
from mailtasks.state import State
from mailtasks.status import RecipientStatus
from mailtasks.store.books import Books, Snapshot
from mailtasks.store.connection import Client
from mailtasks.store.keys import Keys, new_batch_id
from mailtasks.store.ledger import Claim, Ledger, Limits, Released, Result
from mailtasks.store.records import BatchRecord, MessageRecord, NewBatch, Tries

CLOCK = "clock"
OWNER = "worker@here"
LIFETIME = 86_400.0
STEADY = 10_800.0  # seconds for which the pump looks all the time, at the end of whatever passes
LIMITS = Limits(lease=60, margin=10, retention=1000)


class Bench:
    """One ledger on one Redis. Times are seconds since its start."""

    def __init__(self, redis: Client) -> None:
        self.redis = redis
        self.keys = Keys("test")
        self.ledger = Ledger(redis, self.keys, LIMITS, CLOCK)
        self.books = Books(redis, self.keys)
        self.start = self.now = 1_700_000_000_000
        self.later(0)

    def limited(self, **limits: Any) -> None:
        self.ledger = Ledger(self.redis, self.keys, replace(LIMITS, **limits), CLOCK)

    def later(self, seconds: float) -> None:
        """The clock goes on, and nobody looks."""
        self.now += round(seconds * 1000)
        self.redis.delete(CLOCK)
        self.redis.rpush(CLOCK, self.now // 1000, self.now % 1000 * 1000)

    def pass_time(self, seconds: float) -> list[str]:
        """The clock goes on while the pump looks every ten seconds; returns what it hinted.

        Of more than three hours it is away for the first: days of looks would take the test half a minute.
        """
        hints: list[str] = []
        if seconds > STEADY:
            self.later(seconds - STEADY)
            seconds = STEADY
        while seconds > 0:
            self.later(min(10, seconds))
            seconds -= 10
            hints += self.look()
        return hints

    def look(self, **busy: float) -> list[str]:
        hints = self.ledger.look(self.ledger.due(), {Priority(name): value for name, value in busy.items()})
        return [hint.batch for hint in hints]

    def new(self, *sizes: int, priority: str = "bulk", **more: Any) -> NewBatch:
        """A batch of messages to so many recipients each."""
        id = more.pop("id", new_batch_id())
        sizes = sizes or (1,)
        messages = [MessageRecord(f"<{n}@x>", "s@x", size, f"subject {n}") for n, size in enumerate(sizes)]
        return NewBatch(
            id=id,
            priority=Priority(priority),
            record=BatchRecord(tuple(messages)),
            recipients=tuple(f"{n}@example.com" for n in range(sum(sizes))),
            bodies=tuple(b"body %d" % n for n in range(len(sizes))),
            **{"fingerprint": "print", "lifetime": LIFETIME, **more},
        )

    def accept(self, *sizes: int, **more: Any) -> str:
        batch = self.new(*sizes, **more)
        self.ledger.accept([batch])
        return batch.id

    def claim(self, id: str, **more: Any) -> Claim:
        claim = self.ledger.claim(id, OWNER, **more)
        assert isinstance(claim, Claim), claim
        return claim

    def refused(self, id: str) -> str:
        """Why the batch can't be claimed."""
        answer = self.ledger.claim(id, OWNER)
        assert isinstance(answer, Released), answer
        return answer.why

    def settle(self, id: str, *states: State, **more: Any) -> Released:
        """Claim, and give the first recipients these states; the rest is given back."""
        claim = self.claim(id)
        given = [*states, *[State.QUEUED] * (len(window(claim)) - len(states))]
        return self.ledger.release(claim, OWNER, results(claim, *given, **more))

    def states(self, id: str) -> str:
        states: bytes = self.redis.get(self.keys.batch(id)[1])
        return states.decode()

    def field(self, id: str, name: str) -> bytes | None:
        value: bytes | None = self.redis.hget(self.keys.batch(id)[0], name)
        return value

    def due(self, id: str, priority: str = "bulk") -> float | None:
        """When it will be looked at, in seconds from now."""
        score = self.redis.zscore(self.keys.due(Priority(priority)), id)
        return None if score is None else (score - self.now) / 1000

    def expires_in(self, id: str) -> float:
        """Seconds from now until it is too old."""
        return (int(self.field(id, "x") or 0) - self.now) / 1000

    def waits(self, id: str, priority: str = "bulk") -> set[str]:
        """The gates that it waits at."""
        gates = ("pause", "aside", "rate")
        at = {gate: self.redis.zscore(self.keys.gate(gate, priority), id) for gate in gates}
        return {gate for gate, since in at.items() if since is not None}

    def count(self, name: str) -> int:
        return int(self.redis.hget(self.keys.counts, name) or 0)

    def snapshot(self, id: str) -> Snapshot:
        snapshot = self.books.batch(id)
        assert snapshot is not None
        return snapshot

    def tries(self, id: str, index: int = 0) -> Tries:
        return self.snapshot(id).tries[index]

    def status(self, id: str) -> list[RecipientStatus]:
        """What is told of each recipient."""
        return [it for message in self.snapshot(id).messages() for it in message.recipients]

    def lives(self, id: str) -> list[int]:
        """Seconds for which its records are kept; -1: for ever, -2: there is none."""
        return [self.redis.ttl(key) for key in self.keys.batch(id)]

    def everything(self) -> dict[bytes, Any]:
        """All that Redis holds, to see whether something has changed."""
        read = {
            b"hash": self.redis.hgetall,
            b"string": self.redis.get,
            b"list": lambda key: self.redis.lrange(key, 0, -1),
            b"zset": lambda key: self.redis.zrange(key, 0, -1, withscores=True),
        }
        return {key: read[self.redis.type(key)](key) for key in self.redis.keys("{test:*")}

    def memory(self) -> dict[bytes, bytes]:
        """All that Redis knows now, to be brought back by `recall`."""
        return {key: self.redis.dump(key) for key in self.redis.keys("{test:*")}

    def recall(self, memory: dict[bytes, bytes]) -> None:
        """Redis comes back from a crash, and has forgotten what came after `memory` was taken."""
        self.redis.delete(*self.redis.keys("{test:*"))
        for key, value in memory.items():
            self.redis.restore(key, 0, value)


def window(claim: Claim) -> list[int]:
    return [recipient.index for message in claim.window for recipient in message.recipients]


def results(claim: Claim, *states: State, **more: Any) -> list[Result]:
    """A result for each recipient of the window; one state is for all."""
    indices = window(claim)
    given: Sequence[State] = states * len(indices) if len(states) == 1 else states
    more = {"reply": "250 2.0.0 Ok", "relay": "mx:25", "took": 0.25, **more}
    return [
        Result(index, state, counted=state is not State.QUEUED, **more)
        for index, state in zip(indices, given, strict=True)
    ]
