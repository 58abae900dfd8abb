"""Reads the ledger without moving anything: one message, all failed ones, the queue, the figures.

The rules:

1. A read may see a batch between two moves of its neighbours, never in the middle of one of its own.
2. A batch whose records a hand has damaged hides no other: reading that one raises, reading many logs
   it and goes on.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final

from mailtasks.address import mailbox
from mailtasks.errors import StoreError
from mailtasks.message import PRIORITIES, Priority
from mailtasks.state import BY_CODE, UNFINISHED, State
from mailtasks.status import MessageStatus, QueueStatus, RecipientStatus, ResponseTimes, SetAside, Stats
from mailtasks.store import records
from mailtasks.store.connection import Client, available
from mailtasks.store.keys import Keys, uid_in
from mailtasks.store.records import BatchRecord, MessageRecord, Tries, moment
from mailtasks.suppression import Suppression

log = logging.getLogger(__name__)

_FIELDS: Final = ("p", "a", "w", "x", "h", "r", "f", "o")
_READ: Final = (
    "return {redis.pcall('HMGET', KEYS[1], unpack(ARGV)), "
    "redis.pcall('GET', KEYS[2]), redis.pcall('HGETALL', KEYS[3])}"
)
"""A batch's three records at one moment. MULTI would do, too, but not while Redis' memory is full."""
_CHUNK: Final = 100  # batches read in one round trip
_SAMPLE: Final = 1000  # batches among which the oldest is sought
_BUCKET: Final = 1.1  # response times: each bucket ends a tenth above the one before (lua/common.lua)
TALLIES: Final = {
    "doubts": "recipients that came into doubt, whatever became of them",
    "abandoned": "those of them whose worker never told: it died, hung, or lost its lease",
    "resends": "recipients that were queued again out of doubt, by policy or by a person",
    "held": "recipients whose doubt was held for a person; how many still are is the state `in_doubt`",
    "late_evidence": "recipients of whom was told, when their claim's lease was over, that a 2xx had come "
    "(they became `sent`) or that they were never begun (they became `queued`)",
    "settled": "recipients in doubt of whom a person has said what became of them",
    "lapses": "claims of a batch that ended by themselves, since their worker didn't renew them in time",
    "duplicates": "mails that the relay is known to have taken twice for one recipient",
    "bounced": "addresses that entered the suppression list by themselves: a relay refused them for good",
    "swept": "what a sweep found that should never be there; other than 0, look into the workers' log",
}
"""What `counts` holds beside the states, and what it counts, in the order in which it is shown."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A batch as it was at one moment."""

    id: str
    priority: Priority
    accepted: float  # seconds since 1970, here and below
    not_before: float
    expires: float
    finished: float | None
    owner: str
    record: BatchRecord
    recipients: tuple[str, ...]
    states: tuple[State, ...]
    tries: Mapping[int, Tries]

    def message(self, number: int, message: MessageRecord, indices: range) -> MessageStatus:
        """One of its messages."""
        return MessageStatus(
            id=f"{self.id}.{indices.start}",
            priority=self.priority,
            subject=message.subject,
            message_id=message.message_id,
            accepted_at=moment(self.accepted),
            send_at=moment(self.not_before),
            expires_at=moment(self.expires),
            finished_at=moment(self.finished) if self.finished else None,
            recipients=tuple(self._recipient(index) for index in indices),
            tags=message.tags,
            metadata=message.metadata,
            claimed_by=self.owner,
        )

    def messages(self) -> Iterator[MessageStatus]:
        """All of its messages."""
        return (self.message(*where) for where in self.record.ranges())

    def message_of(self, index: int) -> MessageStatus | None:
        """The message that recipient `index` belongs to; None if the batch has no such recipient."""
        return next((self.message(*where) for where in self.record.ranges() if index in where[2]), None)

    def _recipient(self, index: int) -> RecipientStatus:
        state, tries = self.states[index], self.tries.get(index, Tries())
        suppression = self._suppression(index) if state is State.SUPPRESSED else None
        return RecipientStatus(
            address=self.recipients[index],
            state=state,
            attempts=tries.attempts,
            reply=suppression.sentence if suppression else tries.reply,
            relay=tries.relay,
            worker=tries.worker,
            tried_at=moment(tries.at / 1000) if tries.at else None,
            took=tries.took / 1000 if tries.at else None,
            next_attempt=moment(tries.due / 1000) if state is State.DEFERRED else None,
            resends=tries.resends,
            suppression=suppression,
        )

    def _suppression(self, index: int) -> Suppression | None:
        """What the suppression list said of the recipient when it was suppressed."""
        listed = self.tries.get(index, Tries()).listed
        if listed is None:
            return None
        return Suppression(
            mailbox(self.recipients[index]), listed.reason, listed.source, moment(listed.at / 1000)
        )


class Books:
    """The reader of one shard."""

    def __init__(self, redis: Client, keys: Keys) -> None:
        self.redis = redis
        self.keys = keys

    def batch(self, id: str) -> Snapshot | None:
        """One batch, or None if it was never accepted or its retention has ended.

        Raises:
            StoreError: its records are damaged.
        """
        _, answers = next(self._read([id]))
        return _snapshot(id, answers)

    def batches(self, ids: Iterable[str]) -> Iterator[Snapshot]:
        """Batches by id, in order; those that are not there, or damaged, are left out."""
        for id, answers in self._read(ids):
            try:
                if snapshot := _snapshot(id, answers):
                    yield snapshot
            except StoreError as error:
                log.error("%s", error)

    def _read(self, ids: Iterable[str]) -> Iterator[tuple[str, list[Any]]]:
        """The three records of each batch; in place of one, the error that reading it gave."""
        remaining = iter(ids)
        while chunk := list(islice(remaining, _CHUNK)):
            pipeline = self.redis.pipeline(transaction=False)
            for id in chunk:
                pipeline.eval(_READ, 3, *self.keys.batch(id), *_FIELDS)
            with available(self.redis):
                answers = pipeline.execute()
            yield from zip(chunk, answers, strict=True)

    def bodies(self, id: str) -> set[int]:
        """The numbers of a batch's messages whose bodies are still kept."""
        key, states_key, _ = self.keys.batch(id)
        pipeline = self.redis.pipeline(transaction=False)
        with available(self.redis):
            fields, size = pipeline.hkeys(key).strlen(states_key).execute()
        names = [field.decode() for field in fields]
        if "d" in names:  # a campaign's messages are rendered from rows
            return set(range(size))
        return {int(name[1:]) for name in names if name[0] == "c" and name[1:].isdecimal()}

    def listed(self, state: State) -> Iterator[Snapshot]:
        """The batches that hold a recipient in one of `keys.LISTED_STATES`, the latest first."""
        with available(self.redis):
            ids = self.redis.zrevrange(self.keys.listed(state), 0, -1)
        return self.batches(id.decode() for id in ids)

    def set_aside(self, priority: Priority) -> list[SetAside]:
        """The batches of a priority that were set aside, the longest first; also such as can't be read."""
        with available(self.redis):
            waiting = self.redis.zrange(self.keys.gate("aside", priority), 0, -1, withscores=True)
        pipeline = self.redis.pipeline(transaction=False)
        for id, _ in waiting:
            key, states, _ = self.keys.batch(id.decode())
            pipeline.exists(key).hget(key, "z").get(states)
        with available(self.redis):
            answers = pipeline.execute(raise_on_error=False)
        return [
            SetAside(
                id=f"{id.decode()}.{_first_unfinished(states)}",
                priority=priority,
                set_aside_at=moment(since / 1000),
                lapses=int(lapses) if isinstance(lapses, bytes) and lapses.isdigit() else 0,
            )
            for (id, since), is_there, lapses, states in zip(
                waiting, answers[::3], answers[1::3], answers[2::3], strict=True
            )
            if is_there  # else a hand has deleted it, as it may
        ]

    def find(self, address: str) -> Iterator[MessageStatus]:
        """Every message to an address that is still kept. Reads all batches: there is no index by address.

        An index would cost more memory than the recipients themselves (about 100 bytes each).
        """
        wanted = address.casefold()
        for snapshot in self.batches(self._all_ids()):
            if any(recipient.casefold() == wanted for recipient in snapshot.recipients):
                for message in snapshot.messages():
                    if any(recipient.address.casefold() == wanted for recipient in message.recipients):
                        yield message

    def _all_ids(self) -> Iterator[str]:
        prefix = self.keys.batch("")[0]
        # In a pattern, [ ] * ? and \ would be special; the namespace's letters and { } : are not.
        with available(self.redis):
            for key in self.redis.scan_iter(match=f"{prefix}*", count=1000):
                id = key.decode().removeprefix(prefix)
                if ":" not in id:
                    yield id

    def paused(self) -> dict[str, datetime]:
        """What is paused (`"all"` or a priority), and since when."""
        with available(self.redis):
            steering = self.redis.hgetall(self.keys.steering)
        return {
            field.decode().removeprefix("pause:"): moment(int(since) / 1000)
            for field, since in steering.items()
            if field.startswith(b"pause:")
        }

    def last_stray(self) -> datetime | None:
        """When a sweep last found something; None if it never has."""
        with available(self.redis):
            at = self.redis.hget(self.keys.steering, "sweep:found")
        return moment(int(at) / 1000) if at and at.isdigit() else None

    def queue(self, priority: Priority, hints: int) -> QueueStatus:
        """What is unfinished in one priority.

        Args:
            hints: the length of its Celery queue, which the ledger doesn't know.
        """
        due, now, paused = self.keys.due(priority), time.time(), self.paused()
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.hmget(self.keys.counts, f"unfinished:{priority}", f"in_doubt:{priority}")
        pipeline.zcard(due)
        pipeline.zcount(due, "-inf", int(now * 1000))
        pipeline.zrange(due, 0, _SAMPLE - 1, withscores=True)
        for gate in ("pause", "rate"):
            pipeline.zcard(self.keys.gate(gate, priority))
        with available(self.redis):
            (recipients, doubts), batches, ready, sample, held, limited = pipeline.execute()
        waiting = {
            "pause": held,
            "aside": len(self.set_aside(priority)),
            "rate": limited,
            "campaign": self._waiting_for_their_turn(priority),
        }
        return QueueStatus(
            priority=priority,
            recipients=int(recipients or 0),
            batches=batches,
            due=ready,
            next_due=self._next_due(priority, sample),
            oldest=self._oldest([id.decode() for id, _ in sample]),
            hints=hints,
            paused="all" in paused or priority in paused,
            waiting={gate: count for gate, count in waiting.items() if count},
            in_doubt=int(doubts or 0),
        )

    def _waiting_for_their_turn(self, priority: Priority) -> int:
        """Batches of campaigns that aren't finished."""
        with available(self.redis):
            uids = [uid.decode() for uid in self.redis.zrange(self.keys.open_campaigns, 0, -1)]
        pipeline = self.redis.pipeline(transaction=False)
        for uid in uids:
            record, gate, *_ = self.keys.campaign(uid)
            pipeline.hget(record, "priority").zcard(gate)
        with available(self.redis):
            answers = pipeline.execute()
        named = zip(answers[::2], answers[1::2], strict=True)
        return sum(batches for of, batches in named if of == priority.value.encode())

    def _next_due(self, priority: Priority, sample: Sequence[tuple[bytes, float]]) -> datetime | None:
        """When the first comes due that waits behind no gate: behind one, it is filed under its expiry."""
        if not sample:
            return None
        pipeline = self.redis.pipeline(transaction=False)
        for id, _ in sample:
            uid = uid_in(id.decode())
            for gate in ("pause", "aside", "rate", "campaign"):
                name = (uid or "none") if gate == "campaign" else priority
                pipeline.zscore(self.keys.gate(gate, name), id)
        with available(self.redis):
            waiting = pipeline.execute()
        for number, (_, at) in enumerate(sample):
            if all(since is None for since in waiting[4 * number : 4 * number + 4]):
                return moment(at / 1000)
        return None

    def _oldest(self, ids: Sequence[str]) -> datetime | None:
        pipeline = self.redis.pipeline(transaction=False)
        for id in ids:
            pipeline.hget(self.keys.batch(id)[0], "a")
        with available(self.redis):
            answers = pipeline.execute(raise_on_error=False)
        accepted = [int(at) for at in answers if isinstance(at, bytes)]
        return moment(min(accepted) / 1000) if accepted else None

    def stats(self) -> Stats:
        """The figures."""
        this_minute = int(time.time() // 60)
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.hlen(self.keys.suppressed)
        pipeline.hgetall(self.keys.counts)
        for minute in range(this_minute - 59, this_minute + 1):
            pipeline.hgetall(self.keys.minute(minute))
        with available(self.redis):
            suppressions, *answers = pipeline.execute()
        counts, *minutes = map(_numbers, answers)
        hour = sum(minutes, Counter())
        five = sum(minutes[-6:-1], Counter())
        ended = hour["sent"] + hour["failed"] + hour["expired"]
        return Stats(
            accepted=counts["accepted"],
            states={state: counts[state] for state in State},
            tallies={name: counts[name] for name in TALLIES},
            sent_per_second=five["sent"] / 300,
            sent_last_hour=hour["sent"],
            failed_last_hour=hour["failed"] + hour["expired"],
            deferrals_last_hour=hour["deferred"],
            success_rate=hour["sent"] / ended if ended else None,
            response_times={
                "all": _response_times(hour, PRIORITIES),
                **{priority.value: _response_times(hour, [priority]) for priority in PRIORITIES},
            },
            suppressions=suppressions,
        )


def _snapshot(id: str, answers: Sequence[Any]) -> Snapshot | None:
    if isinstance(answers[0], list) and not any(answers[0]):
        return None
    try:
        return _unpacked(id, *answers)
    except (*records.DAMAGE, TypeError, AttributeError) as error:
        # None where a field should be, or an error of Redis' in place of a record.
        raise StoreError(
            f"the records of batch {id} can't be read ({error!r}); were they changed?"
        ) from error


def _unpacked(id: str, fields: list[Any], states: bytes, tries: list[bytes]) -> Snapshot:
    priority, accepted, not_before, expires, header, recipients, finished, owner = fields
    record = records.unpack_record(header)
    return Snapshot(
        id=id,
        priority=Priority(priority.decode()),
        accepted=int(accepted) / 1000,
        not_before=int(not_before) / 1000,
        expires=int(expires) / 1000,
        finished=int(finished) / 1000 if finished else None,
        owner=(owner or b"").decode(),
        record=record,
        recipients=_recipients(record, recipients),
        states=tuple(BY_CODE[code] for code in states.decode()),
        tries={
            int(index): records.unpack_tries(packed)
            for index, packed in zip(tries[::2], tries[1::2], strict=True)
        },
    )


def _recipients(record: BatchRecord, packed: bytes | None) -> tuple[str, ...]:
    """The addresses, "" for each if they are gone: a campaign's aren't kept once all of a batch is sent."""
    if record.campaign and packed is None:
        return ("",) * record.campaign.size
    return records.unpack_recipients(packed or b"")


def _first_unfinished(states: Any) -> int:
    """The index of the first recipient that a retry would act upon; 0, if the states can't be read."""
    codes = states.decode(errors="replace") if isinstance(states, bytes) else ""
    return next((index for index, code in enumerate(codes) if BY_CODE.get(code) in UNFINISHED), 0)


def _numbers(answer: Mapping[bytes, bytes]) -> Counter[str]:
    return Counter({field.decode(): int(value) for field, value in answer.items()})


def _response_times(hour: Counter[str], priorities: Iterable[Priority]) -> ResponseTimes:
    buckets: Counter[int] = Counter()
    total = 0
    for priority in priorities:
        prefix = f"rt:{priority}:"
        for field, count in hour.items():
            if field.startswith(prefix):
                buckets[int(field.removeprefix(prefix))] += count
        total += hour[f"rt_ms:{priority}"]
    count = sum(buckets.values())
    return ResponseTimes(
        count=count,
        average=total / count / 1000 if count else None,
        median=_percentile(buckets, 0.5),
        percentile_95=_percentile(buckets, 0.95),
    )


def _percentile(buckets: Mapping[int, int], share: float) -> float | None:
    """The upper end, in seconds, of the bucket that holds the share's last value; None without values."""
    wanted = sum(buckets.values()) * share
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= wanted:
            return float(_BUCKET**bucket) / 1000
    return None
