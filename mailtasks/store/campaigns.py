"""Campaigns in the ledger: their records, their gates, whose turn it is, and what became of their batches.

A campaign is batches of a few hundred rows, and a record (`…:campaign:UID`, a hash):

| field | content |
| --- | --- |
| `name`, `run`, `begun` | its name, how often a campaign of that name was begun, when this one was |
| `state`, `since`, `reason` | `active`, `paused` or `cancelled`; since when, why |
| `template`, `sender`, `subject` | digest of its template, the envelope's sender, what people know it by |
| `priority`, `begins`, `ends`, `lifetime`, `rate`, `tags` | its options; the rate is messages a second |
| `tokens`, `filled` | messages that the rate lets go, and when that was so |
| `next`, `rows` | batches that are accepted, and the rows in them |
| `complete`, `finished` | since when it takes no more rows, and since when all are through |
| `counted`, `count:STATE` | batches whose states these figures hold, which are kept when the batches aren't |
| `brake` | refusals in a row that are nobody's fault, and of which kind |

The rules:

1. A batch's number is its place. The number that is next moves in the step that accepts a batch, so that no
   number is accepted twice, whatever has become of the batch meanwhile.
2. An accepted batch waits at its campaign's gate until it is fed: that is where a pause, a start time, a rate
   and the other campaigns hold it. It grows no older there.
3. Nothing is counted while mail goes out. The states of a batch that is finished go into the record, once and
   in order; those of the others are read by whoever asks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final, TypeVar

from mailtasks.message import Priority
from mailtasks.state import UNFINISHED, State
from mailtasks.store.connection import available
from mailtasks.store.keys import PRINT_LENGTH, campaign_batch_id, campaign_uid
from mailtasks.store.ledger import Acceptance, Hint, Ledger
from mailtasks.store.records import NewBatch

_ASKED_AT_ONCE: Final = 50  # campaigns that are asked for their next batches in one call
_READ_AT_ONCE: Final = 500  # batches whose states are read in one round trip
_COUNTED_AT_ONCE: Final = 50  # batches that one call takes into the record
_CANCELLED_AT_ONCE: Final = 200  # batches that a pump cancels in one turn
_Item = TypeVar("_Item")
_UNFINISHED: Final = frozenset(state.code.encode()[0] for state in UNFINISHED)
_WAITING: Final = (State.QUEUED.code.encode(), State.DEFERRED.code.encode())


@dataclass(frozen=True, slots=True)
class CampaignRecord:
    """A campaign as it was at one moment. Times are seconds since 1970, 0 if there is none."""

    uid: str
    name: str
    run: int = 1
    begun: float = 0.0
    state: str = "active"
    since: float = 0.0
    reason: str = ""
    template: str = ""
    sender: str = ""
    subject: str = ""
    priority: Priority = Priority.BULK
    begins: float = 0.0
    ends: float = 0.0
    lifetime: float = 0.0  # seconds for which a batch that has had its turn is tried
    rate: float = 0.0  # messages a second; 0: any
    tags: tuple[str, ...] = ()
    next: int = 0
    rows: int = 0
    complete: float = 0.0
    finished: float = 0.0
    counted: int = 0
    counts: Mapping[State, int] = field(default_factory=Counter)

    @classmethod
    def of(cls, uid: str, fields: Mapping[str, str]) -> CampaignRecord:
        """From what Redis holds."""

        def moment(name: str) -> float:
            return int(fields.get(name, 0)) / 1000

        return cls(
            uid=uid,
            name=fields.get("name", ""),
            run=int(fields.get("run", 1)),
            begun=moment("begun"),
            state=fields.get("state", ""),
            since=moment("since"),
            reason=fields.get("reason", ""),
            template=fields.get("template", ""),
            sender=fields.get("sender", ""),
            subject=fields.get("subject", ""),
            priority=Priority(fields.get("priority", Priority.BULK)),
            begins=moment("begins"),
            ends=moment("ends"),
            lifetime=moment("lifetime"),
            rate=float(fields.get("rate", 0)),
            tags=tuple(json.loads(fields.get("tags", "[]"))),
            next=int(fields.get("next", 0)),
            rows=int(fields.get("rows", 0)),
            complete=moment("complete"),
            finished=moment("finished"),
            counted=int(fields.get("counted", 0)),
            counts=Counter({state: int(fields.get(f"count:{state}", 0)) for state in State}),
        )

    @property
    def fields(self) -> dict[str, str]:
        """What its beginning writes."""
        return {
            "template": self.template,
            "sender": self.sender,
            "subject": self.subject,
            "priority": self.priority.value,
            "begins": str(round(self.begins * 1000)),
            "ends": str(round(self.ends * 1000)),
            "lifetime": str(round(self.lifetime * 1000)),
            "rate": f"{self.rate:.6f}",
            "tags": json.dumps(self.tags),
        }


class Campaigns:
    """The campaigns of one shard."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._redis = ledger.redis
        self._keys = ledger.keys

    # Records

    def names(self) -> dict[str, int]:
        """All names, and how often each was begun."""
        with available(self._redis):
            held = self._redis.hgetall(self._keys.campaigns)
        return {name.decode(): int(run) for name, run in held.items()}

    def uid_of(self, name: str) -> str | None:
        """What the latest campaign of a name is known by; None, if there is none."""
        with available(self._redis):
            run = self._redis.hget(self._keys.campaigns, name)
        return campaign_uid(name, int(run)) if run else None

    def record(self, uid: str) -> CampaignRecord | None:
        """A campaign's record, or None."""
        with available(self._redis):
            held = self._redis.hgetall(self._keys.campaign(uid)[0])
        return _record(uid, held) if held else None

    def open(self) -> list[str]:
        """The campaigns that aren't finished."""
        with available(self._redis):
            return [uid.decode() for uid in self._redis.zrange(self._keys.open_campaigns, 0, -1)]

    def template(self, uid: str) -> bytes | None:
        """A campaign's template, or None if its retention has ended."""
        with available(self._redis):
            held: bytes | None = self._redis.get(self._keys.campaign(uid)[2])
        return held

    def prints(self, uid: str) -> list[str]:
        """The fingerprints of the batches that are accepted."""
        with available(self._redis):
            held = (self._redis.get(self._keys.campaign(uid)[3]) or b"").decode()
        return [held[at : at + PRINT_LENGTH] for at in range(0, len(held), PRINT_LENGTH)]

    # Producers

    def begin(self, wanted: CampaignRecord, template: bytes) -> CampaignRecord:
        """Begin a campaign, or take up the one that is there.

        Returns:
            Its record: as wanted, or as whoever began it wanted it.
        """
        flat = [part for pair in wanted.fields.items() for part in pair]
        held = self._ledger.run(
            "begin",
            [],
            [self._keys.campaigns],
            campaigns=[wanted.uid],
            more_arguments=[template],
            campaign=wanted.uid,
            called=wanted.name,
            run=wanted.run,
            record=flat,
        )
        return _record(wanted.uid, dict(zip(held[::2], held[1::2], strict=True)))

    def accept(self, batches: Sequence[NewBatch]) -> list[Acceptance]:
        """Accept batches in the order of their numbers, in one round trip.

        Raises:
            StoreUnavailable: Redis could not be asked: any number of them, from the first, may be accepted.
                To do it again is safe.
        """
        return [accepted for accepted, _ in self._ledger.accept(batches)]

    def complete(self, record: CampaignRecord, batches: int) -> bool:
        """No more rows will come. Returns whether that was news."""
        return self._steer(record, "complete", next=batches) > 0

    # Steering

    def pause(self, record: CampaignRecord, reason: str = "") -> bool:
        """Let nothing of it go. Returns whether that was news."""
        return self._steer(record, "paused", reason=reason) > 0

    def resume(self, record: CampaignRecord) -> bool:
        """End a pause. Returns whether there was one."""
        return self._steer(record, "active") > 0

    def cancel(self, record: CampaignRecord) -> bool:
        """Let nothing of it go any more; `cancel_on` sees to what waits. Returns whether that was news."""
        return self._steer(record, "cancelled") > 0

    def _steer(self, record: CampaignRecord, to: str, reason: str = "", next: int = 0) -> int:
        return int(
            self._ledger.run(
                "steer",
                [],
                campaigns=[record.uid],
                campaign=record.uid,
                to=to,
                reason=reason,
                priority=record.priority.value,
                next=next,
            )
        )

    def brake(self, uid: str, case: str, run: int, is_broken: bool) -> int:
        """Count refusals that are nobody's fault, at the end of a window.

        Args:
            case: their kind; "" if there are none.
            is_broken: something was sent before them.

        Returns:
            How many of that kind there are in a row, of all workers together.
        """
        return int(
            self._ledger.run(
                "brake", [], campaigns=[uid], campaign=uid, case=case, run=run, is_broken=int(is_broken)
            )
        )

    # Whose turn it is

    def waiting(self, priority: Priority) -> list[str]:
        """The campaigns of which batches wait, in the order of their turns."""
        with available(self._redis):
            return [uid.decode() for uid in self._redis.zrange(self._keys.turns(priority), 0, -1)]

    def feed(self, priority: Priority, most: int) -> list[Hint]:
        """Let up to `most` batches have their turn, one of each campaign after the other.

        Returns:
            What is to be hinted now. Who dies before that has changed nothing: a look finds them due.
        """
        fed: list[str] = []
        for uids in _parts(self.waiting(priority) if most > 0 else (), _ASKED_AT_ONCE):
            found = self._ledger.run(
                "feed",
                [],
                campaigns=uids,
                priority=priority.value,
                most=most - len(fed),
                uids=list(uids),
            )
            fed += [id.decode() for id in found]
            if len(fed) >= most:
                break
        return self._ledger.look(fed, {}) if fed else []

    # What became of them

    def states(self, uid: str, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The states of batches by number, one character a row; b"" of one that is gone."""
        for numbers in _parts(range(first, end), _READ_AT_ONCE):
            keys = [self._keys.batch(campaign_batch_id(uid, number))[1] for number in numbers]
            with available(self._redis):
                found = self._redis.mget(keys)
            yield from ((number, states or b"") for number, states in zip(numbers, found, strict=True))

    def counts(
        self, record: CampaignRecord, known: dict[int, Counter[State]] | None = None
    ) -> Counter[State]:
        """How many rows are in which state.

        Args:
            known: what is remembered from one call to the next: batches of which all is sent. What else has
                come to an end may be retried.
        """
        known = {} if known is None else known
        total = Counter(record.counts)
        for number in [number for number in known if number < record.counted]:
            del known[number]
        wanted = [number for number in range(record.counted, record.next) if number not in known]
        for first, end in _runs(wanted):
            for number, states in self.states(record.uid, first, end):
                of_batch = Counter({state: states.count(state.code.encode()) for state in State})
                if of_batch[State.SENT] == len(states):
                    known[number] = of_batch
                else:
                    total += of_batch
        for of_batch in known.values():
            total += of_batch
        return total

    def tend(self) -> None:
        """What a pump does for campaigns that aren't finished: cancel on, and count what is finished."""
        for uid in self.open():
            record = self.record(uid)
            if record and record.state == "cancelled":
                self.cancel_on(record, _CANCELLED_AT_ONCE)
            self.count_on(record or CampaignRecord(uid, ""))

    def cancel_on(self, record: CampaignRecord, most: int | None = None) -> int:
        """Of a cancelled campaign, cancel what waits. May be done by several, again and again.

        Args:
            most: batches; None: all.

        Returns:
            How many recipients this call cancelled.
        """
        cancelled, touched = 0, 0
        for number, states in self.states(record.uid, record.counted, record.next):
            if not any(code in states for code in _WAITING):
                continue
            before = states.count(State.CANCELLED.code.encode())
            id = campaign_batch_id(record.uid, number)
            cancelled += max(0, self._ledger.cancel(id, range(len(states))) - before)
            touched += 1
            if touched == most:
                break
        return cancelled

    def count_on(self, record: CampaignRecord) -> bool:
        """Take the batches that are finished into the record; returns whether the campaign is."""
        counted = record.counted
        while True:
            end = min(counted + _COUNTED_AT_ONCE, record.next)
            found = takewhile(lambda one: is_finished(one[1]), self.states(record.uid, counted, end))
            ids = [campaign_batch_id(record.uid, number) for number, _ in found]
            if not ids and not (record.complete and counted >= record.next) and record.name:
                return False
            after, is_over = self._ledger.run(
                "count", ids, campaigns=[record.uid], campaign=record.uid, ids=ids
            )
            if is_over or after <= counted or after >= record.next:
                return bool(is_over)
            counted = after


def is_finished(states: bytes) -> bool:
    """Whether nothing of a batch is on its way; what is held in doubt is not."""
    return _UNFINISHED.isdisjoint(states)


def _parts(whole: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (whole[at : at + size] for at in range(0, len(whole), size))


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Numbers that ascend, as pairs of a first one and the one after the last."""
    first = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[first], numbers[at - 1] + 1
            first = at


def _record(uid: str, held: Mapping[Any, Any]) -> CampaignRecord:
    return CampaignRecord.of(
        uid, {name.decode(): value.decode(errors="replace") for name, value in held.items()}
    )
