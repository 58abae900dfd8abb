"""Attachments in any order: producers that die anywhere, collectors that die half way, while time flies.

Real scripts on a real Redis whose clock is set, a store in memory that notes what is in it. Two laws:

- what an accepted and unsent message needs is in the store, and is what it was;
- once everything is sent, or forgotten, and the grace has passed, nothing is left, neither in the store nor
  in Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mailtasks.blobs import Blobs
from mailtasks.errors import BlobsFull
from mailtasks.message import Attachment, Message
from mailtasks.packing import pack, places
from mailtasks.pieces import base64_lines, blobs_in
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.store.blobs import Missing
from mailtasks.store.connection import connect
from mailtasks.store.keys import Keys
from mailtasks.store.ledger import Acceptance, Claim, Ledger, Limits, Result
from mailtasks.store.records import NewBatch

from .machines import play

CLOCK = "clock"
GRACE, MARGIN = 100.0, 10.0
FILES = [Attachment(filename=f"{n}.pdf", content=bytes([n]) * (100 + n)) for n in range(3)]
CAP = 1024  # as small as it may be; all of the files fit
SETTINGS = Settings(
    default_from="shop@example.com", blob_threshold=1, blob_grace=GRACE, hint_margin=MARGIN, blob_cap=CAP
)
LIMITS = Limits(retention=10_000_000.0, margin=MARGIN)


class Killed(BaseException):
    """The process is gone, here."""


@dataclass
class Shelf:
    """A store in memory; whoever puts or deletes may be killed before or after it."""

    kind: str = "redis"
    where: str = "the shelf"
    content: dict[str, bytes] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None

    def put(self, name: str, content: bytes) -> None:
        self.before()
        assert name not in self.content, "a name is used once"
        self.content[name] = content
        self.after()

    def read(self, name: str) -> Iterator[bytes]:
        if name not in self.content:
            raise Missing
        yield self.content[name]

    def holds(self, name: str, size: int) -> bool:
        return len(self.content.get(name, b"")) == size

    def delete(self, name: str) -> None:
        self.before()
        self.content.pop(name, None)
        self.after()


def kill() -> None:
    raise Killed


files = st.lists(st.sampled_from(range(len(FILES))), min_size=1, max_size=3)
moments = st.sampled_from(["nowhere", "before", "after", "unaccepted"])
number = st.integers(0, 100)


class Machine(RuleBasedStateMachine):
    """Producers, workers, collectors and a clock."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.redis = connect(url, timeout=5, connect_timeout=5)
        self.redis.flushdb()
        self.keys = Keys("test")
        self.ledger = Ledger(self.redis, self.keys, LIMITS, CLOCK)
        self.shelf = Shelf()
        self.blobs = Blobs(self.redis, self.keys, SETTINGS, clock_key=CLOCK)
        self.blobs.__dict__["store"] = self.shelf
        self.held: list[NewBatch] = []  # accepted, and neither sent nor forgotten
        self.brought: list[NewBatch] = []  # stored for, and not accepted yet
        self.now = 1_700_000_000
        self.later(0)

    def teardown(self) -> None:
        self.all_comes_to_an_end()
        self.redis.close()

    # --- Moves

    @rule(seconds=st.sampled_from([1, 10, 60, 99, 101, 1000, 10_000]))
    def later(self, seconds: int) -> None:
        self.now += seconds
        pipeline = self.redis.pipeline()
        pipeline.delete(CLOCK)
        pipeline.rpush(CLOCK, self.now, 0)
        pipeline.execute()

    @rule(which=st.lists(files, min_size=1, max_size=3), dies=moments)
    def send(self, which: list[list[int]], dies: str) -> None:
        """A producer, from the first question to accept, unless it is killed on the way."""
        batch = self.composed(which)
        if self.survives(dies, lambda: self.blobs.bring([batch])):
            if dies == "unaccepted":
                self.brought.append(batch)
            else:
                self.accept(batch)

    @precondition(lambda self: self.brought)
    @rule(which=number)
    def accept_late(self, which: int) -> None:
        """One that was only slow; what it relied upon may be gone, and then it must be told so."""
        batch = self.brought.pop(which % len(self.brought))
        if self.ledger.accept([batch])[0][0] is Acceptance.NEW:
            self.held.append(batch)

    @rule(
        which=st.lists(files, min_size=1, max_size=2), other=files, collects=st.booleans(), late=st.booleans()
    )
    def send_while_others_do(
        self, which: list[list[int]], other: list[int], collects: bool, late: bool
    ) -> None:
        """While it stores, another producer sends the same, a collector runs, and perhaps time flies."""
        batch, rival = self.composed(which), self.composed([other])

        def meanwhile() -> None:
            self.shelf.after = lambda: None
            self.blobs.bring([rival])
            self.accept(rival)
            if late:
                self.later(101)
            if collects:
                self.blobs.collect()

        self.shelf.after = meanwhile
        self.blobs.bring([batch])
        self.shelf.after = lambda: None
        self.accept(batch)

    @precondition(lambda self: self.held)
    @rule(which=number)
    def send_off_a_window(self, which: int) -> None:
        """A worker's relay takes what is claimed: all of the batch, or its first messages."""
        self.send_off(self.held[which % len(self.held)], which)

    def send_off(self, batch: NewBatch, which: int) -> None:
        claim = self.ledger.claim(batch.id, "w", most=1 + which % 3)
        assert isinstance(claim, Claim)
        sent = [Result(it.index, State.SENT) for message in claim.window for it in message.recipients]
        self.ledger.release(claim, "w", sent)
        if not self.redis.zscore(self.keys.due(batch.priority), batch.id):
            self.held.remove(batch)

    @precondition(lambda self: self.held)
    @rule(which=number)
    def forget(self, which: int) -> None:
        """A batch's retention ends, or a hand deletes it."""
        batch = self.held.pop(which % len(self.held))
        self.redis.delete(*self.keys.batch(batch.id))
        self.redis.zrem(self.keys.due(batch.priority), batch.id)

    @rule(dies=st.sampled_from(["nowhere", "before", "after"]))
    def collect(self, dies: str) -> None:
        self.survives(dies, self.blobs.collect)

    @rule(which=st.sampled_from(range(len(FILES))))
    def a_hand_deletes(self, which: int) -> None:
        """What nothing needs, or is about to need: that would be a loss that nothing can prevent."""
        wanted = {content for batch in self.brought for content in batch.blobs.values()}
        if FILES[which].content not in {*self.needed().values(), *wanted}:
            for name in [
                name for name, content in self.shelf.content.items() if content == FILES[which].content
            ]:
                del self.shelf.content[name]

    # --- Laws

    @invariant()
    def what_is_needed_is_there(self) -> None:
        for digest, content in self.needed().items():
            blob = next(it for batch in self.held for _, it in batch.needs() if it.digest == digest)
            assert b"".join(self.blobs.fetch(blob)) == base64_lines(content)

    @invariant()
    def what_is_stored_is_counted(self) -> None:
        index = {key: value.split() for key, value in self.redis.hgetall(self.keys.blobs).items()}
        stored, size = self.blobs._index.count().get("redis", (0, 0))
        assert (stored, size) == (len(index), sum(int(value[0]) for value in index.values()))
        assert size <= CAP
        known = {value[2] for value in index.values()}
        known |= {
            *self.redis.zrange(self.keys.blobs_coming, 0, -1),
            *self.redis.zrange(self.keys.blobs_gone, 0, -1),
        }
        assert {f"redis:{name}".encode() for name in self.shelf.content} <= known, "nobody would delete it"

    def all_comes_to_an_end(self) -> None:
        for batch in [*self.held]:
            while batch in self.held:
                self.send_off(batch, 0)
        for _ in range(4):
            self.later(100_000)
            self.blobs.collect()
        assert self.shelf.content == {}
        assert self.redis.keys("*:blob*") == []
        assert self.blobs._index.count().get("redis", (0, 0)) == (0, 0)

    # --- Helpers

    def composed(self, which: list[list[int]]) -> NewBatch:
        messages = [
            Message(to=f"r{n}@example.com", text="hi", attachments=[FILES[file] for file in chosen])
            for n, chosen in enumerate(which)
        ]
        [packed] = pack(messages, places(messages), SETTINGS)
        return packed.batch

    def accept(self, batch: NewBatch) -> None:
        """As `Mailer.accept` does it."""
        for _ in range(3):
            if self.ledger.accept([batch])[0][0] is Acceptance.NEW:
                self.held.append(batch)
                return
            self.blobs.bring([batch])

    def needed(self) -> dict[str, bytes]:
        """What the bodies that are kept refer to."""
        needed: dict[str, bytes] = {}
        for batch in self.held:
            kept = self.redis.hkeys(self.keys.batch(batch.id)[0])
            for n, body in enumerate(batch.bodies):
                if f"c{n}".encode() in kept:
                    needed |= {blob.digest: batch.blobs[blob.digest] for blob in blobs_in(body)}
        return needed

    def survives(self, dies: str, act: Callable[[], object]) -> bool:
        if dies in ("before", "after"):
            setattr(self.shelf, dies, kill)
        try:
            act()
        except Killed:
            return False
        except BlobsFull:
            return False
        finally:
            self.shelf.before = self.shelf.after = lambda: None
        return True


def test_what_is_needed_is_kept_and_all_else_goes(redis_url: str) -> None:
    play(lambda: Machine(redis_url), examples=60, steps=25)
