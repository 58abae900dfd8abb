"""The moves of the ledger, from Python: each method is one script, one round trip, all or nothing.

The rules:

1. Every move may be sent again. Accept is idempotent by id, a step by its number; after a time-out
   the caller repeats the same call and gets the same answer.
2. Times in Redis are Redis' own. A claim also knows, by this machine's clock, when its lease
   ends: counted from before the call, so that it ends here no later than there.
3. Nothing here decides what a reply means or when to try again; results come in decided.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import msgspec
from redis.exceptions import ResponseError

from mailtasks.address import mailbox
from mailtasks.errors import StoreError, StoreUnavailable
from mailtasks.event import attempt_listeners, tell
from mailtasks.message import PRIORITIES, Priority
from mailtasks.pieces import Content, OwnFile
from mailtasks.state import State
from mailtasks.status import Stray
from mailtasks.store import records
from mailtasks.store.connection import Client, Scripts, available, not_confirmed, now_of
from mailtasks.store.keys import ID_LENGTH, Keys, is_batch_id, uid_in
from mailtasks.store.news import attempts_of_new, unpacked_attempts
from mailtasks.store.records import BatchRecord, CampaignPart, MessageRecord, NewBatch, Values

log = logging.getLogger(__name__)

RECIPIENTS_A_TRANSACTION: Final = 100
"""What every server must take in one transaction (RFC 5321 4.5.3.1.8)."""

CLAIM_DEADLINE: Final = 3600.0
"""Seconds after which a claim isn't renewed any more, so that a wedged thread can't hold it for ever.
Far above the longest honest wait, the ten minutes for a dot's answer (RFC 5321 4.5.3.2.6)."""

LOOK_AT_MOST: Final = 200
"""Batches a look takes up; if there were as many, the next look should follow at once. Half of them are kept
for each priority but the first, in turn, so that none waits behind an endless list of another."""

SWEPT_AT_ONCE: Final = 300
"""Keys of Redis that a tick of the sweep reads; a batch has two or three. A millisecond of Redis' time."""

_LISTED_AT_ONCE: Final = 1000
"""Mailboxes that the suppression list is asked for in one call."""

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_Gate: TypeAlias = Literal["", "rate", "aside"]


def lease_clock() -> float:
    """Seconds that have passed for Redis, too: on Linux also those in which this machine was suspended."""
    return time.clock_gettime(_CLOCK)


class Acceptance(StrEnum):
    """What accept said of a batch."""

    NEW = "new"
    SAME = "same"  # the id was held already, by the same content
    CONFLICT = "conflict"  # the id was held already, by other content
    UNNAMED = "unnamed"  # mailboxes are wanted, since there is a suppression list; nothing was accepted
    BLOBLESS = "blobless"  # an attachment that it needs isn't stored; nothing was accepted
    GAP = "gap"  # its campaign's batch before isn't accepted; nothing was
    CLOSED = "closed"  # its campaign takes no more; nothing was accepted


class Refusal(StrEnum):
    """Why a batch could not be claimed, or why a claim is over."""

    GONE = "gone"  # no such batch
    TAKEN = "taken"  # somebody else holds the lease
    PAUSED = "paused"  # it waits until that is ended
    ASIDE = "aside"  # three claims of it lapsed, one after the other; it waits for a person
    NOTHING = "nothing"  # nothing of it can be sent now; the lease is given back
    STOPPING = "stopping"  # the worker is; somebody else is told
    LOST = "lost"  # the lease was over; what had been sent was taken as evidence


@dataclass(frozen=True, slots=True)
class Limits:
    """What the ledger wants to know of the settings."""

    lease: float = 60.0  # seconds
    margin: float = 30.0  # seconds until a lost hint is noticed
    pace: float = 1.0  # seconds between two looks of one pump
    retention: float = 604_800.0  # seconds
    confirm: float = 0.0  # seconds for a replica to have what was accepted or claimed; 0: none is asked to
    windows: Mapping[str, int] = field(default_factory=lambda: {"urgent": 1, "normal": 4, "bulk": 8})
    doubt: Mapping[str, str] = field(
        default_factory=lambda: {"urgent": "resend", "normal": "resend", "bulk": "hold"}
    )

    @property
    def jump(self) -> float:
        """Seconds without a look after which Redis' time must have jumped.

        Leases are renewed each quarter, so half of one that passes unnoticed still leaves time to renew.
        """
        return max(self.lease / 2, 2 * self.pace)


@dataclass(frozen=True, slots=True)
class ClaimedRecipient:
    """One recipient of a claimed window."""

    index: int  # in the batch
    address: str
    attempts: int  # counted so far
    last_code: str  # the basic code of what was said last; "" if nothing was, or no reply


@dataclass(frozen=True, slots=True)
class ClaimedMessage:
    """One message of a claimed window, with those of its recipients that can be sent now."""

    id: str
    record: MessageRecord
    body: Content
    recipients: tuple[ClaimedRecipient, ...]
    values: Mapping[str, Any] | None = None  # of the row that a campaign's is rendered from
    files: tuple[OwnFile, ...] = ()  # of that row's own

    def without(self, indices: Set[int]) -> ClaimedMessage | None:
        """The same for fewer recipients; None if none is left."""
        left = tuple(recipient for recipient in self.recipients if recipient.index not in indices)
        return replace(self, recipients=left) if left else None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one claimed recipient, decided."""

    index: int
    state: State
    delay: float = 0.0  # seconds until the next attempt, if deferred
    counted: bool = True  # whether the attempt counts
    reply: str = ""
    relay: str = ""
    took: float = 0.0  # seconds
    suppress_after: int = 0  # days with such refusals until the address is suppressed; 0: never
    reason: str = ""  # for that


@dataclass(slots=True)
class Claim:
    """The exclusive right to send a batch, window by window. Shared with the keeper that renews it."""

    batch: str
    token: str
    record: BatchRecord
    recipients: tuple[str, ...]
    window: tuple[ClaimedMessage, ...]
    lease_ends: float  # by `lease_clock`
    give_up: float  # by `lease_clock`; after that it isn't renewed
    relay: str = ""  # host:port, for people: where doubt about its window arose
    values: Values | None = None  # of a campaign's rows
    brake: str = ""  # what its campaign counts, see `Campaigns.brake`; "": nothing
    steps: int = 0  # that were answered; the next one's number
    confirmed: bool = True  # False: no replica knows that the window is claimed, so nothing may be sent
    stepping: bool = False  # a step is under way, or has ended the claim: its answer tells what is lost
    lost: bool = False
    withheld: Set[int] = frozenset()  # claimed, and not in the window: on the suppression list
    listed: Mapping[int, str] = field(default_factory=dict)  # who of all the batch is on it → mailbox
    checked: tuple[str, ...] = ()  # the list's mark before that, and at it; (): there was no need

    def remaining(self) -> float:
        """Seconds of lease left, by this process' clock; 0 if it is known to be lost."""
        return 0.0 if self.lost else max(0.0, self.lease_ends - lease_clock())

    def go_on(self, lease_ends: float, confirmed: bool) -> None:
        """A step was answered."""
        self.steps += 1
        self.lease_ends, self.confirmed, self.stepping = lease_ends, confirmed, False
        self.withheld, self.listed, self.checked = frozenset(), {}, ()

    def withhold(self, listed: Mapping[int, str], checked: tuple[str, ...]) -> None:
        """Take out of the window who is on the suppression list; the next step suppresses them."""
        self.listed, self.checked = listed, checked
        claimed = {recipient.index for message in self.window for recipient in message.recipients}
        self.withheld = claimed.intersection(listed)
        if self.withheld:
            self.window = tuple(filter(None, (message.without(self.withheld) for message in self.window)))


@dataclass(frozen=True, slots=True)
class Released:
    """A claim is over. `hint`: the batch can go on at once, so somebody should be told."""

    why: Refusal
    hint: bool = False
    evidence: int = 0  # recipients that late evidence settled
    priority: Priority | None = None  # if it is to be hinted


@dataclass(frozen=True, slots=True)
class Hint:
    """A batch that wants a worker."""

    batch: str
    priority: Priority
    first: bool = False  # before those whose hints wait: its own was there before them


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def new_claim(batch: str, relay: str = "") -> Claim:
    """A claim that has yet to be made, by its first step."""
    return Claim(
        batch=batch,
        token=secrets.token_hex(8),
        record=BatchRecord(messages=()),
        recipients=(),
        window=(),
        lease_ends=0.0,
        give_up=lease_clock() + CLAIM_DEADLINE,
        relay=relay,
    )


def _runs(record: BatchRecord) -> str:
    """Messages in runs of as many recipients each: "1x300", "1x2,3x1"."""
    if record.campaign:
        return f"1x{record.campaign.size}"
    sizes = groupby(message.recipients for message in record.messages)
    return ",".join(f"{recipients}x{sum(1 for _ in run)}" for recipients, run in sizes)


def _mailboxes(recipients: Iterable[str]) -> list[str]:
    return [mailbox(recipient) for recipient in recipients]


def _row(result: Result) -> list[Any]:
    """A result as the script wants it, but for what its address is to blame for."""
    return [
        result.index,
        result.state.code,
        _ms(result.delay),
        int(result.counted),
        result.reply,
        result.relay,
        _ms(result.took),
    ]


class Ledger:
    """One shard of the ledger.

    Args:
        redis: a client that returns bytes.
        keys: where everything lies.
        limits: lease, margin, retention, windows and policy of doubt.
        clock_key: for tests, a key that stands in for Redis' clock; see `scripts.text`.
    """

    def __init__(self, redis: Client, keys: Keys, limits: Limits, clock_key: str | None = None) -> None:
        self.redis = redis
        self.keys = keys
        self.limits = limits
        self._scripts = Scripts(redis, clock_key)
        self._renewals = Scripts(redis, clock_key)  # a lease can't wait behind other threads' large bodies
        self._clock_key = clock_key
        self._names_mailboxes = False  # until accept has met with a suppression list
        self._standing = {
            "lease": _ms(limits.lease),
            "margin": _ms(limits.margin),
            "jump": _ms(limits.jump),
            "retention": _ms(limits.retention),
            "doubt": dict(limits.doubt),
        }

    # Producers

    def accept(self, batches: Sequence[NewBatch]) -> list[tuple[Acceptance, bool]]:
        """Accept batches, in one round trip; each is accepted or not on its own.

        Returns:
            For each, what became of it and whether it wants a hint now.

        Raises:
            StoreUnavailable: Redis could not be asked, or no replica has confirmed in time. `ids` are those
                that it may have taken; of a campaign's rows none, since it is taken up without them.
        """
        ids = [id for batch in batches if not batch.record.campaign for id in batch.message_ids()]
        calls = [self._accept_call(batch) for batch in batches]
        with available(self.redis, ids):
            answers, confirmed = self._scripts.run_confirmed("accept", calls, self.limits.confirm)
        for batch, (_, _, *told) in zip(batches, answers, strict=True):
            tell(attempts_of_new(batch, *told))
        if not confirmed:
            raise not_confirmed(self.redis, self.limits.confirm, ids)
        told = [(Acceptance(status.decode()), bool(hint)) for status, hint, *_ in answers]
        unnamed = [number for number, (answer, _) in enumerate(told) if answer is Acceptance.UNNAMED]
        if unnamed:
            self._names_mailboxes = True
            for number, answer in zip(unnamed, self._accept_again(batches, unnamed, ids), strict=True):
                told[number] = answer
        return told

    def _accept_again(
        self, batches: Sequence[NewBatch], numbers: Sequence[int], ids: Sequence[str]
    ) -> list[tuple[Acceptance, bool]]:
        try:
            return self.accept([batches[number] for number in numbers])
        except StoreUnavailable as error:
            if len(numbers) < len(batches):
                error.ids = tuple(ids)
            raise

    def _accept_call(self, batch: NewBatch) -> tuple[list[str], list[Any]]:
        references = batch.references() if batch.blobs else {}
        blob_keys = [self.keys.blobs, *map(self.keys.blob, references)] if references else []
        keys, of_campaign = self._with_campaigns(
            [*self._keys(batch.id), self.keys.suppressed, *blob_keys], [batch.id]
        )
        if of_campaign:
            of_campaign |= {"campaign": uid_in(batch.id), "ends": _ms(batch.ends)}
        argument = self._argument(
            id=batch.id,
            priority=batch.priority.value,
            runs=_runs(batch.record),
            size=len(batch.recipients),
            fingerprint=batch.fingerprint,
            tell=bool(attempt_listeners),
            send_at=_ms(batch.send_at),
            lifetime=_ms(batch.lifetime),
            **({"mailboxes": _mailboxes(batch.recipients)} if self._names_mailboxes else {}),
            **({"blobs": list(references.items())} if references else {}),
            **of_campaign,
        )
        bodies = [batch.values] if of_campaign else [records.pack_body(body) for body in batch.bodies]
        header = records.pack_record(batch.record)
        recipients = records.pack_recipients(batch.recipients)
        return keys, [argument, header, recipients, *bodies]

    def held(self, batches: Sequence[str]) -> set[str]:
        """Those of the batches that are in the ledger, whatever their content."""
        pipeline = self.redis.pipeline(transaction=False)
        for id in batches:
            pipeline.exists(self.keys.batch(id)[0])
        with available(self.redis):
            answers = pipeline.execute()
        return {id for id, there in zip(batches, answers, strict=True) if there}

    def cancel(self, batch: str, indices: Iterable[int]) -> int:
        """Cancel recipients that are neither being sent nor final.

        Returns:
            How many are cancelled, by this call or one before; -1 if there is no such batch.
        """
        return int(self.run("cancel", [batch], id=batch, indices=list(indices)))

    def retry(
        self, batch: str, wanted: Mapping[int, State], resends: Mapping[int, int] | None = None
    ) -> tuple[int, int]:
        """Queue recipients again, each only if it is still in the state it was seen in.

        Args:
            resends: with how many some were seen; if there are more by now, they are left alone.

        Returns:
            How many were queued, and how many could not be since their body is gone; (-1, 0) if there
            is no such batch.
        """
        seen = [(index, state.code, (resends or {}).get(index, -1)) for index, state in wanted.items()]
        retried, bodiless = self.run("retry", [batch], id=batch, wanted=seen)
        return int(retried), int(bodiless)

    def settle(self, batch: str, indices: Iterable[int], state: State, said: str) -> int:
        """A person's word on doubt: what is still in doubt of these recipients becomes sent or failed.

        Args:
            said: what was decided, in the place of a reply.

        Returns:
            How many this call settled; -1 if there is no such batch.
        """
        return int(self.run("settle", [batch], id=batch, indices=list(indices), to=state.code, said=said))

    # The suppression list

    def suppress(self, entries: Sequence[tuple[str, str, int, str]], *, replace: bool) -> int:
        """Put addresses on the suppression list.

        Args:
            entries: mailbox, source, since when (milliseconds; 0: now), reason.
            replace: what is said of one that is there is replaced.

        Returns:
            How many are new there.
        """
        keys = [self.keys.suppressed, self.keys.suppressed_latest]
        mark = secrets.token_hex(6)
        return int(self.run("suppress", [], keys, entries=entries, replace=int(replace), mark=mark))

    def listed(self, mailboxes: Collection[str]) -> set[str]:
        """Those of some mailboxes that are on the suppression list."""
        wanted = list(mailboxes)
        with available(self.redis):
            found = [
                entry
                for start in range(0, len(wanted), _LISTED_AT_ONCE)
                for entry in self.redis.hmget(self.keys.suppressed, wanted[start : start + _LISTED_AT_ONCE])
            ]
        return {mailbox for mailbox, entry in zip(wanted, found, strict=True) if entry is not None}

    # Workers

    def claim(self, batch: str, owner: str, *, most: int | None = None) -> Claim | Released:
        """Take the batch's lease and its first window: the first step of a new claim.

        After an error it may be taken all the same, by nobody: who means to stay makes the `new_claim`, and
        repeats its `step`.

        Args:
            owner: the worker's name, for people.
            most: messages; None: as many as the priority's window has.
        """
        claim = new_claim(batch)
        return self.step(claim, owner, (), most=most) or claim

    def park(self, batch: str, owner: str) -> Released:
        """File a batch behind the rate's gate, unless somebody is sending it."""
        return self.release(new_claim(batch), owner, (), rated=True)

    def step(
        self, claim: Claim, owner: str, results: Sequence[Result], *, most: int | None = None
    ) -> Released | None:
        """Settle the window and claim the next into `claim.window`; the first step takes the lease.

        May be repeated after an error, with the same results.

        Returns:
            None while there is more to send, unless the claim is not `confirmed`: then give the window back;
            else why the claim is over.
        """
        return self._step(claim, owner, results, most=most)

    def release(
        self, claim: Claim, owner: str, results: Sequence[Result], *, rated: bool = False
    ) -> Released:
        """Settle the window and give the lease back.

        Args:
            results: for every recipient of the window; `State.QUEUED` gives one back untried.
            rated: what is left waits behind the rate's gate.
        """
        return self._give_back(claim, owner, results, "rate" if rated else "")

    def _give_back(self, claim: Claim, owner: str, results: Sequence[Result], gate: _Gate) -> Released:
        released = self._step(claim, owner, results, more=False, gate=gate)
        assert released is not None
        return released

    def _step(
        self,
        claim: Claim,
        owner: str,
        results: Sequence[Result],
        *,
        most: int | None = None,
        more: bool = True,
        gate: _Gate = "",
    ) -> Released | None:
        before = lease_clock()
        claim.stepping = True
        windows = self.limits.windows
        rows, bounced = self._rows(claim, results)
        [status, told, *rest], confirmed = self._run_confirmed(
            "step",
            [claim.batch],
            self.limits.confirm if more else 0,
            [self.keys.suppressed, self.keys.suppressed_latest, *bounced],
            id=claim.batch,
            token=claim.token,
            number=claim.steps,
            owner=owner,
            relay=claim.relay,
            results=rows,
            suppressed=[(index, box, int(index in claim.withheld)) for index, box in claim.listed.items()],
            checked=claim.checked,
            windows={name: min(window, most or window) for name, window in windows.items()},
            recipients=RECIPIENTS_A_TRANSACTION,
            more=int(more),
            gate=gate,
            tell=bool(attempt_listeners),
        )
        try:
            return self._answered(claim, owner, status, rest, before + self.limits.lease, confirmed)
        finally:
            tell(unpacked_attempts(claim.batch, told))

    def _answered(
        self, claim: Claim, owner: str, status: bytes, rest: list[Any], lease_ends: float, confirmed: bool
    ) -> Released | None:
        """What a step's answer says, put into the claim."""
        if status != b"claimed":
            return _released(status, rest)
        *answer, check = rest
        try:
            _take(claim, answer)
            listed, checked = self._found_listed(claim, check)
        except records.DAMAGE as error:
            claim.go_on(lease_ends, confirmed)
            raise self.set_aside(claim, owner, [index for index, *_ in answer[0]], error) from error
        claim.go_on(lease_ends, confirmed)
        claim.withhold(listed, checked)
        return None

    def _found_listed(self, claim: Claim, check: Sequence[Any]) -> tuple[dict[int, str], tuple[str, ...]]:
        """Who of the batch is on the suppression list, as far as that isn't known, and by which check.

        Raises:
            StoreUnavailable: the step may be repeated.
        """
        if not check:
            return {}, ()
        before, mark, *added = check
        mailboxes = _mailboxes(claim.recipients)
        try:
            listed = {it.decode() for it in added[0]} if added else self.listed(set(mailboxes))
        except StoreError as error:
            error.unanswered = True  # what was claimed is
            raise
        return {index: it for index, it in enumerate(mailboxes) if it in listed}, (
            before.decode(),
            mark.decode(),
        )

    def _rows(self, claim: Claim, results: Sequence[Result]) -> tuple[list[list[Any]], list[str]]:
        """The results as the script wants them, and the keys in which it counts refusals."""
        rows, bounced = [], []
        for result in results:
            row = _row(result)
            if result.suppress_after and result.state is State.FAILED:
                box = mailbox(claim.recipients[result.index])
                bounced.append(self.keys.bounced(box))
                row.append((box, result.reason, result.suppress_after, len(bounced)))
            rows.append(row)
        return rows, bounced

    def set_aside(self, claim: Claim, owner: str, window: Iterable[int], error: Exception) -> StoreError:
        """Give back a window that can't be sent at all, so that it troubles nobody but who mends it.

        Args:
            window: the indices of its recipients, none of which was begun.
            error: what is wrong with it.

        Returns:
            The error to raise.
        """
        self._give_back(
            claim, owner, [Result(index, State.QUEUED, counted=False) for index in window], "aside"
        )
        return StoreError(
            f"batch {claim.batch} can't be read ({error!r}), so it is set aside; "
            f"mend the fields of {self.keys.batch(claim.batch)[0]}, then retry its messages"
        )

    def renew(self, claims: Sequence[Claim]) -> None:
        """Renew the leases of claims, in one call of its own; those that are over are marked as lost."""
        if not claims:
            return
        before = lease_clock()
        pairs = [(claim.batch, claim.token) for claim in claims]
        batches = [claim.batch for claim in claims]
        answers = self.run("renew", batches, scripts=self._renewals, claims=pairs)
        for claim, renewed in zip(claims, answers, strict=True):
            if renewed:
                claim.lease_ends = before + self.limits.lease
            else:
                claim.lost = True

    # The pump

    def due(self) -> list[str]:
        """The batches that are due, urgent first; at most `LOOK_AT_MOST`."""
        with available(self.redis):
            now = self._now()
            due = [self._due(priority, now) for priority in PRIORITIES]
        return [id.decode() for id in _shared(due, LOOK_AT_MOST)]

    def _due(self, priority: Priority, now: int) -> list[bytes]:
        """A key that a hand has made something else keeps no other priority from being looked at."""
        try:
            due: list[bytes] = self.redis.zrangebyscore(
                self.keys.due(priority), "-inf", now, start=0, num=LOOK_AT_MOST
            )
        except ResponseError as error:
            log.error("%s can't be read: %s; was it changed?", self.keys.due(priority), error)
            return []
        return due

    def look(
        self,
        due: Sequence[str],
        busy: Mapping[Priority, float],
        next_hinted: Mapping[Priority, float] = MappingProxyType({}),
        *,
        room: Mapping[Priority, int] | None = None,
    ) -> list[Hint]:
        """Look at batches that are due. To be called at every tick, also with none: it watches the clock.

        Args:
            busy: by priority, for how many seconds a hint may merely be waiting in its queue; 0, if that is
                short.
            next_hinted: when the hints were published (seconds since 1970) that are the next in such queues.
                What was hinted a margin before them waits there no more: its hint died with a worker, or
                waits in the hands of one that is stuck.
            room: how many hints of each priority are wanted, while none can be published; then a sweep takes
                it for no fault that the rest waits. None: all.

        Returns:
            The batches to hint.
        """
        busy_by_name = {priority.value: _ms(busy.get(priority, 0)) for priority in PRIORITIES}
        hints, aside, doubt, told = self.run(
            "look",
            due,
            ids=list(due),
            busy=busy_by_name,
            next={priority.value: _ms(at) for priority, at in next_hinted.items()},
            room=room and {priority.value: batches for priority, batches in room.items()},
            tell=bool(attempt_listeners),
        )
        for id, of_batch in told:
            tell(unpacked_attempts(id.decode(), of_batch))
        for id, why in _pairs(aside):
            log.error("batch %s is set aside, until somebody retries its messages: %s", id, why)
        if doubt:
            log.error(
                "held in doubt: %d recipients, %d of them newly; whether they have their mail is not known, "
                "and stays so until somebody decides (mailtasks in-doubt list)",
                *doubt,
            )
        return [Hint(id.decode(), Priority(name.decode()), bool(first)) for id, name, first in hints]

    def waiting(self, kind: str, priority: Priority) -> int:
        """How many batches wait behind the gate `kind:priority`."""
        with available(self.redis):
            return int(self.redis.zcard(self.keys.gate(kind, priority)))

    def open(self, kind: str, priority: Priority, most: int) -> int:
        """Let the first `most` batches of the gate `kind:priority` become due; returns how many did."""
        gate = self.keys.gate(kind, priority)
        return int(self.run("open", [], [gate], priority=priority.value, most=most))

    # The sweep

    def sweep(self) -> list[Stray]:
        """Look for what the moves should have prevented, in all batches, and mend it."""
        cursor, ids = self._scan(0)
        found = self._sweep(ids)
        while cursor:
            cursor, ids = self._scan(cursor)
            found += self._sweep(ids)
        return found

    def sweep_on(self) -> list[Stray]:
        """The same, a little at a time, at every tick of every pump: one of them has its turn."""
        turn = self.run("turn", []).decode()
        if not turn:
            return []
        cursor, ids = self._scan(int(turn))
        return self._sweep(ids, str(cursor))

    def _scan(self, cursor: int) -> tuple[int, list[str]]:
        """Some batches, and the cursor for the next; 0, if these were the last."""
        prefix = self.keys.batch("")[0]
        with available(self.redis):
            after, found = self.redis.scan(cursor, match=f"{prefix}*", count=SWEPT_AT_ONCE)
        # By any of its keys: it may be all that a hand has left.
        keys = (key.decode().removeprefix(prefix) for key in found)
        ids = dict.fromkeys(key[:ID_LENGTH] for key in keys if key[ID_LENGTH:] in ("", ":s", ":m"))
        return after, [id for id in ids if is_batch_id(id)]

    def _sweep(self, ids: Sequence[str], cursor: str = "") -> list[Stray]:
        answer = self.run("sweep", ids, ids=list(ids), cursor=cursor)
        found = [Stray(id, what) for id, what in _pairs(answer)]
        for stray in found:
            log.error("the sweep found batch %s: %s", stray.batch, stray.found)
        return found

    # Steering

    def pause(self, what: str) -> None:
        """Stop sending everything (`"all"`) or one priority, on all workers, until `resume`."""
        with available(self.redis):
            self.redis.hset(self.keys.steering, f"pause:{what}", self._now())

    def resume(self, what: str) -> bool:
        """End a pause; returns whether there was one. `"all"` ends the pauses of each priority, too."""
        names = ["all", *PRIORITIES] if what == "all" else [what]
        with available(self.redis):
            ended = self.redis.hdel(self.keys.steering, *(f"pause:{name}" for name in names))
        for priority in PRIORITIES if what == "all" else [Priority(what)]:
            while self.open("pause", priority, 1000) == 1000:
                pass
        return bool(ended)

    def _now(self) -> int:
        return now_of(self.redis, self._clock_key)

    def _argument(self, **values: object) -> bytes:
        return msgspec.msgpack.encode(self._standing | values)

    def _keys(self, *batches: str) -> list[str]:
        keys = list(self.keys.head(int(time.time() // 60)))
        for batch in batches:
            keys += self.keys.batch(batch)
        return keys

    def run(
        self,
        name: str,
        batches: Sequence[str],
        more_keys: Sequence[str] = (),
        scripts: Scripts | None = None,
        campaigns: Iterable[str] = (),
        more_arguments: Sequence[bytes] = (),
        **values: object,
    ) -> Any:
        """Run a script of `lua/`; what it is given and returns stands at its head.

        Args:
            batches: whose keys come first, behind those of every script.
            more_keys: behind them; then come the keys of `campaigns`, and of those that the batches are of.
            scripts: over whose connection; by default that of all.
            more_arguments: behind the map of `values` and what every script holds.

        Raises:
            StoreUnavailable: Redis is away.
            IllegalMove: the script refused a move.
        """
        keys, of_campaigns = self._with_campaigns([*self._keys(*batches), *more_keys], batches, campaigns)
        argument = self._argument(**values, **of_campaigns)
        with available(self.redis):
            return (scripts or self._scripts).run(name, keys, [argument, *more_arguments])

    def _with_campaigns(
        self, keys: list[str], batches: Sequence[str], uids: Iterable[str] = ()
    ) -> tuple[list[str], dict[str, Any]]:
        """The keys with those of the campaigns that batches are of, and where they are among them."""
        wanted = dict.fromkeys([*uids, *(uid for uid in map(uid_in, batches) if uid)])
        if not wanted:
            return keys, {}
        shared = len(keys) + 1  # Lua counts from 1
        keys = keys + self.keys.of_all_campaigns
        places = {}
        for uid in wanted:
            places[uid] = len(keys) + 1
            keys += self.keys.campaign(uid)
        return keys, {"shared": shared, "campaigns": places}

    def _run_confirmed(
        self, name: str, batches: Sequence[str], seconds: float, more_keys: Sequence[str], **values: object
    ) -> tuple[Any, bool]:
        keys, of_campaigns = self._with_campaigns([*self._keys(*batches), *more_keys], batches)
        call = keys, [self._argument(**values, **of_campaigns)]
        with available(self.redis):
            [answer], confirmed = self._scripts.run_confirmed(name, [call], seconds)
        return answer, confirmed


def _shared(lists: Sequence[Sequence[bytes]], room: int) -> Iterator[bytes]:
    """The lists' beginnings: each gets half of the room that is left, and what later ones don't need."""
    wanted = [len(each) for each in lists]
    for number, each in enumerate(lists):
        others = sum(wanted[number + 1 :])
        taken = min(len(each), max(room // 2, room - others))
        yield from each[:taken]
        room -= taken


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    texts = [item.decode() for item in flat]
    return zip(texts[::2], texts[1::2], strict=True)


def _take(claim: Claim, answer: Sequence[Any]) -> None:
    """Put what was claimed into the claim."""
    entries, numbers, bodies, header, recipients, values, brake = answer
    if not claim.recipients:
        claim.record = records.unpack_record(header)
        claim.recipients = records.unpack_recipients(recipients)
        claim.values = Values(values) if claim.record.campaign else None
    claim.brake = brake.decode()
    if claim.record.campaign and claim.values:
        claim.window = tuple(_of_campaign(claim, claim.record.campaign, claim.values, *it) for it in entries)
        return
    wanted = {index: (attempts, code.decode()) for index, attempts, code in entries}
    contents = dict(zip(numbers, bodies, strict=True))
    claim.window = tuple(
        ClaimedMessage(
            id=f"{claim.batch}.{indices.start}",
            record=message,
            body=records.unpack_body(contents[number]),
            recipients=tuple(
                ClaimedRecipient(index, claim.recipients[index], *wanted[index])
                for index in indices
                if index in wanted
            ),
        )
        for number, message, indices in claim.record.ranges()
        if number in contents
    )
    if sum(len(message.recipients) for message in claim.window) != len(wanted):
        raise ValueError("its header names other messages than its states")


def _of_campaign(
    claim: Claim, part: CampaignPart, values: Values, index: int, attempts: int, code: bytes
) -> ClaimedMessage:
    return ClaimedMessage(
        id=f"{claim.batch}.{index}",
        record=part.message(index),
        body=b"",
        recipients=(ClaimedRecipient(index, claim.recipients[index], attempts, code.decode()),),
        values=values[index],
        files=values.files(index),
    )


def _released(status: bytes, rest: list[Any]) -> Released:
    match status:
        case b"released":
            hint, priority = rest
            return Released(Refusal.NOTHING, bool(hint), priority=Priority(priority.decode()))
        case b"lost":
            return Released(Refusal.LOST, evidence=rest[0])
        case b"gone" | b"taken" | b"paused" | b"aside":
            return Released(Refusal(status.decode()))
    raise StoreError(
        f"the ledger answered {status!r}, which this version doesn't know; are all workers of one version?"
    )
