"""`Mailer`: accept mail, ask about it, steer it. What a producer, an operator and the command line use.

`send` composes the message, accepts it in the ledger and publishes a hint. When it returns an id, the
mail is the ledger's: whatever dies afterwards, it ends in one final state or is held visibly.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from mailtasks import address, packing
from mailtasks.blobs import BRINGS, Blobs
from mailtasks.errors import (
    BacklogFull,
    IdempotencyConflict,
    MemoryFull,
    MessageError,
    SettingsError,
    StoreUnavailable,
    UnknownCampaign,
    UnknownMessage,
)
from mailtasks.message import PRIORITIES, Mailable, Priority, as_message
from mailtasks.packing import Packed
from mailtasks.policy.verdict import HARD_BOUNCES
from mailtasks.publish import Publisher, producing_app
from mailtasks.room import Room
from mailtasks.settings import Settings, mask_url
from mailtasks.state import FINAL, State
from mailtasks.status import (
    BlobStatus,
    Doubt,
    MessageStatus,
    QueueStatus,
    RetryReport,
    SetAside,
    Stats,
    Stray,
)
from mailtasks.store.books import Books, Snapshot
from mailtasks.store.campaigns import CampaignRecord, Campaigns
from mailtasks.store.connection import connect
from mailtasks.store.events import Events
from mailtasks.store.keys import LISTED_STATES, Keys, campaign_batch_id, split_id
from mailtasks.store.ledger import Acceptance, Ledger, Limits
from mailtasks.store.records import NewBatch, Tries
from mailtasks.store.suppressions import Suppressions
from mailtasks.threads import in_thread

_BATCHES_A_CALL: Final = 100  # accepted in one round trip

RETRYABLE: Final = (State.FAILED, State.EXPIRED, State.CANCELLED, State.SUPPRESSED, State.DEFERRED)
"""The states that `retry` acts upon; by force and id also doubt, when a person has looked."""

SETTLED: Final = (State.SENT, State.FAILED)
"""What a person may find out about mail in doubt."""

_Chosen: TypeAlias = tuple[Snapshot, Sequence[int]]
"""A batch, and the recipients of it that something is to be done about."""


def limits_from(settings: Settings) -> Limits:
    """What the ledger wants to know of the settings."""
    return Limits(
        lease=settings.lease,
        margin=settings.hint_margin,
        pace=settings.pump_interval,
        retention=settings.retention,
        # Half of it, so that the answer comes before the time-out.
        confirm=settings.redis_timeout / 2 if settings.durability == "replica" else 0,
        windows={priority.value: settings.window(priority) for priority in PRIORITIES},
        doubt={priority.value: settings.doubt(priority) for priority in PRIORITIES},
    )


class Mailer:
    """The way in. Connects on first use; usable from many threads; a context manager.

    Args:
        settings: by default what environment and file say.
        publisher: by default one of its own, beside any Celery app of the user's.
        **keywords: single settings, stronger than every other source.

    Raises:
        SettingsError: a setting is wrong.
    """

    def __init__(
        self, settings: Settings | None = None, *, publisher: Publisher | None = None, **keywords: Any
    ) -> None:
        if settings is not None and keywords:
            raise SettingsError(
                f"Mailer takes settings or keywords, not both; put {', '.join(keywords)} into the settings"
            )
        self.settings = settings or Settings.load(**keywords)
        self.redis = connect(
            self.settings.store_url,
            timeout=self.settings.redis_timeout,
            connect_timeout=self.settings.redis_connect_timeout,
        )
        keys = Keys(self.settings.namespace)
        self.ledger = Ledger(self.redis, keys, limits_from(self.settings))
        self.books = Books(self.redis, keys)
        self.campaigns = Campaigns(self.ledger)
        self.events = Events(self.redis, keys)
        self.suppressions = Suppressions(self.ledger)
        self.room = Room(self.redis, keys, self.settings)
        self.blobs = Blobs(self.redis, keys, self.settings, self.room.demand_bytes)
        self.publisher = publisher or Publisher(lambda: producing_app(self.settings), self.settings.namespace)

    # Accept

    def send(self, message: Mailable, *, id: str | None = None) -> str:
        """Accept one message and hint it.

        Args:
            message: a `Message`, or an `email.message.EmailMessage`, which is sent as it is.
            id: the id that an earlier try's `StoreUnavailable` carried, to try again without a second mail.

        Returns:
            Its id. With an idempotency key that was used for the same content, the id of then.

        Raises:
            MessageError: it has no sender, or is larger than `size_limit`; nothing was accepted.
            IdempotencyConflict: the key was used for other content.
            MemoryFull, BlobsFull, BacklogFull: there is no room for more (a StoreUnavailable); nothing was
                accepted. What an earlier try has brought in needs none.
            BlobStoreError: large attachments can't be stored (a StoreUnavailable); nothing was accepted.
            StoreUnavailable: Redis is away; said within four times `redis_connect_timeout + redis_timeout`,
                and as a rule within one.
                If its `ids` are not empty, the mail may have been accepted all the same: sending it again
                with that id is safe. With `durability = "replica"` also if no replica confirmed in time.
        """
        return self.send_many([message], ids=[id] if id else None)[0]

    async def asend(self, message: Mailable, *, id: str | None = None) -> str:
        """As `send`, in a thread of ours: never blocks the event loop, nor takes a thread of the program's.

        An await that is cancelled may have accepted the mail all the same, and its id is lost: to be able
        to try again without a second mail, give the message an idempotency key.

        Raises:
            As `send`. While Redis hangs, what is beyond 32 calls waits for theirs to end first.
        """
        return await in_thread(partial(self.send, message, id=id))

    def send_many(
        self,
        messages: Iterable[Mailable],
        *,
        ids: Sequence[str] | None = None,
        one_each: bool = False,
    ) -> list[str]:
        """Accept many messages in few batches; each has a fate of its own.

        All are composed before the first is accepted, so one that can't be mailed leaves nothing half
        accepted.

        Args:
            ids: those that an earlier try's `StoreUnavailable` carried, for the same messages in order.
            one_each: each recipient gets a mail of their own, with a Message-ID of its own, whose To shows
                nobody else (`Message.copies`).

        Returns:
            Their ids, in order; with `one_each` one for each recipient (to, cc, bcc), message after message.

        Raises:
            As `send`. If Redis goes away in the middle, the error's `ids` are those of all messages.
        """
        wanted = [as_message(message) for message in messages]
        if one_each:
            wanted = [copy for message in wanted for copy in message.copies()]
        again = bool(ids)
        ids = list(ids) if ids else packing.places(wanted)
        packed = packing.pack(wanted, ids, self.settings)
        conflicts: list[Packed] = []
        start = 0
        try:
            self._demand_room(packed, again)
            self._bring(packed, again)
            for start in range(0, len(packed), _BATCHES_A_CALL):
                conflicts += self._accept(packed[start : start + _BATCHES_A_CALL])
        except StoreUnavailable as error:
            may_be_in = again or bool(error.ids) or start > 0
            error.ids = tuple(ids) if may_be_in else ()
            raise
        for conflict in conflicts:
            raise IdempotencyConflict(conflict.key, f"{conflict.batch.id}.0", ids)
        return ids

    async def asend_many(
        self,
        messages: Iterable[Mailable],
        *,
        ids: Sequence[str] | None = None,
        one_each: bool = False,
    ) -> list[str]:
        """As `send_many`, in a thread as `asend` is. The messages are iterated over there.

        Raises:
            As `send_many`.
        """
        return await in_thread(partial(self.send_many, messages, ids=ids, one_each=one_each))

    def _demand_room(self, packed: Sequence[Packed], again: bool) -> None:
        """Room for what is new: what an earlier try brought in, though its answer was lost, needs none."""
        try:
            self.room.demand(_recipients(packed))
        except (MemoryFull, BacklogFull):
            held = self.ledger.held([one.batch.id for one in packed if again or one.key is not None])
            if not held:
                raise
            self.room.demand(_recipients(one for one in packed if one.batch.id not in held))

    def _bring(self, packed: Sequence[Packed], again: bool) -> None:
        """Store attachments; what an earlier try brought in has its own."""
        wanting = [one for one in packed if one.batch.blobs]
        if not wanting:
            return
        asked = [one.batch.id for one in wanting if again or one.key is not None]
        held = self.ledger.held(asked) if asked else set()
        self.blobs.bring([one.batch for one in wanting if one.batch.id not in held])

    def accept(self, batches: Sequence[NewBatch]) -> list[tuple[Acceptance, bool]]:
        """Accept batches, in one round trip, once their attachments are stored. For who has composed them.

        Returns:
            For each, what became of it and whether it wants a hint now.

        Raises:
            MemoryFull, BlobsFull: there is no room for its attachments (a StoreUnavailable).
            BlobStoreError: attachments can't be stored (a StoreUnavailable).
            StoreUnavailable: Redis is away. `ids` are those that it may have taken.
        """
        answers = self.ledger.accept(batches)
        for _ in range(BRINGS):
            lacking = [n for n, (answer, _) in enumerate(answers) if answer is Acceptance.BLOBLESS]
            if not lacking:
                return answers
            again = [batches[number] for number in lacking]
            try:
                self.blobs.bring(again)
            except StoreUnavailable as error:
                if len(again) < len(batches):
                    error.ids = _ids(batches)
                raise
            for number, answer in zip(lacking, self.ledger.accept(again), strict=True):
                answers[number] = answer
        raise self.blobs.gone_again(_ids(batches))

    def _accept(self, packed: Sequence[Packed]) -> list[Packed]:
        """Accept and hint batches; returns those whose id is held by other content."""
        answers = self.accept([one.batch for one in packed])
        wanting = [one.batch for one, (_, wants_hint) in zip(packed, answers, strict=True) if wants_hint]
        if wanting:
            self.publisher.hint((batch.id, batch.priority) for batch in wanting)
        return [
            one for one, (accepted, _) in zip(packed, answers, strict=True) if accepted is Acceptance.CONFLICT
        ]

    # Ask

    def status(self, id: str) -> MessageStatus:
        """What became of a message.

        Raises:
            UnknownMessage: there is none with this id (any more).
        """
        snapshot, index = self._snapshot(id)
        message = snapshot.message_of(index)
        if message is None:
            raise self._unknown(id)
        return message

    async def astatus(self, id: str) -> MessageStatus:
        """As `status`, in a thread as `asend` is.

        Raises:
            As `status`.
        """
        return await in_thread(partial(self.status, id))

    def find(self, recipient: str) -> Iterator[MessageStatus]:
        """Every message to an address that is still kept. Reads the whole ledger: slow if that is large.

        Raises:
            AddressError: the recipient is no address.
            StoreUnavailable: Redis is away; as it is read bit by bit, this may come between two messages.
        """
        return self.books.find(address.parse(recipient).address)

    def failed(self) -> Iterator[MessageStatus]:
        """Every message of which a recipient failed, expired or is in doubt; the latest batches first.

        What was set aside before it could come to that is told by `aside`.

        Raises:
            StoreUnavailable: Redis is away; as it is read bit by bit, this may come between two messages.
        """
        listings = [self.books.listed(state) for state in LISTED_STATES]
        told: set[str] = set()
        for snapshot in heapq.merge(*listings, key=_last_tried, reverse=True):
            if snapshot.id not in told:
                told.add(snapshot.id)
                yield from filter(_is_listed, snapshot.messages())

    def aside(self) -> list[SetAside]:
        """The batches that were set aside: nothing is done about them until somebody retries their messages.

        Raises:
            StoreUnavailable: Redis is away.
        """
        return [batch for priority in PRIORITIES for batch in self.books.set_aside(priority)]

    def stats(self) -> Stats:
        """Counts by state, rates and response times.

        Raises:
            StoreUnavailable: Redis is away.
        """
        return self.books.stats()

    def queue(self) -> list[QueueStatus]:
        """What is unfinished, by priority.

        Raises:
            StoreUnavailable: Redis is away: the ledger's or the broker's.
        """
        return [self.books.queue(priority, self.publisher.waiting(priority)) for priority in PRIORITIES]

    def attachments(self) -> BlobStatus:
        """The large attachments that are stored, and where.

        Raises:
            StoreUnavailable: Redis is away.
            SettingsError: what the setting `blobs` needs isn't installed.
        """
        return self.blobs.status()

    # Steer

    def cancel(self, id: str) -> int:
        """Cancel a message's recipients that are neither being sent nor final.

        Returns:
            How many recipients are cancelled, by this call or one before: 0 if it was too late for all.

        Raises:
            UnknownMessage: there is none with this id.
        """
        snapshot, index = self._snapshot(id)
        cancelled = self.ledger.cancel(snapshot.id, self._indices(snapshot, index, id))
        if cancelled < 0:
            raise self._unknown(id)
        return cancelled

    def retry(
        self,
        *ids: str,
        reason: str | None = None,
        code: str | None = None,
        domain: str | None = None,
        tag: str | None = None,
        campaign: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> RetryReport:
        """Queue recipients again that failed, expired, were cancelled or wait to be retried.

        Attempts and maximum age begin anew, the age for the whole batch; one that was set aside comes back.
        Who is on the suppression list is left alone: `suppressions.remove` comes first.

        Args:
            ids: messages; if there are none, all failed and expired ones that what follows fits.
            reason: words that the last reply must hold, in any case.
            code: what a basic or enhanced code must begin with: "550", "5.7.", "4".
            domain: of the recipient's address: "example.com".
            tag: that the message must carry.
            campaign: whose message it must be, by its name.
            force: also those whose address was refused for good, those that were resent out of doubt before,
                and, by id, those in doubt: the last two may so get a second mail.
            dry_run: count only.

        Raises:
            UnknownMessage: there is none with one of the ids; nothing was retried.
            UnknownCampaign: there is no such campaign.
            AddressError: the domain is none.
            MessageError: neither ids nor anything that must fit, which would be everything; or a code that
                none begins with.
        """
        if not (ids or reason or code or domain or tag or campaign):
            raise MessageError("retry what? Give ids, a reason, a code, a domain, a tag or a campaign")
        if code and not re.fullmatch(r"[2-5](\d{0,2}|\.[\d.]*)", code):
            raise MessageError(f"no code begins with {code!r}; give one such as 550, 5.7. or 4")
        # As addresses are kept: in lower case, as A-labels.
        at = address.parse(f"x@{domain}").domain if domain else None
        wanted = _Wanted(reason, code, at, tag)
        states = {*RETRYABLE, State.QUEUED, *([State.IN_DOUBT] if force else [])}
        if ids:
            found: Iterable[_Chosen] = self._of(ids, states)
        elif campaign:
            found = self._all_of(self._campaign(campaign), State.FAILED, State.EXPIRED)
        else:
            found = self._all_in(State.FAILED, State.EXPIRED)
        fitting = ((snapshot, wanted.among(snapshot, indices)) for snapshot, indices in found)
        return self._queue_again(fitting, force=force, dry_run=dry_run)

    def in_doubt(self) -> Iterator[Doubt]:
        """Every recipient that is in doubt: since when, where and by which worker; the latest batches first.

        Raises:
            StoreUnavailable: Redis is away; as it is read bit by bit, this may come between two recipients.
        """
        for snapshot in self.books.listed(State.IN_DOUBT):
            for message in snapshot.messages():
                yield from _doubts(message)

    def resend(self, *ids: str, everything: bool = False, dry_run: bool = False) -> RetryReport:
        """Queue again, once, what is in doubt; who has the first mail gets a second.

        What is not (or no longer) in doubt is left alone, so repeating a call resends nothing more. If it
        ends in doubt again, it is held again.

        Args:
            ids: messages, or
            everything: all that is in doubt.
            dry_run: count only.

        Raises:
            UnknownMessage: there is none with one of the ids; nothing was queued.
            MessageError: neither ids nor everything, or both.
        """
        return self._queue_again(self._in_doubt(ids, everything), force=True, dry_run=dry_run)

    def settle(self, *ids: str, as_: State | str, everything: bool = False, dry_run: bool = False) -> int:
        """Say what became of mail in doubt, once somebody has found out: "sent" or "failed".

        An answer of the relay's that comes later still counts.

        Args:
            ids: messages, or
            everything: all that is in doubt.
            as_: the state that its recipients in doubt get.
            dry_run: count only.

        Returns:
            How many recipients were settled.

        Raises:
            UnknownMessage: there is none with one of the ids; nothing was settled.
            MessageError: another state; neither ids nor everything, or both.
        """
        if as_ not in SETTLED:
            raise MessageError(f"doubt can't be settled as {as_!r}; say {' or '.join(SETTLED)}")
        state, settled = State(as_), 0
        said = f"settled by hand as {state}"
        for snapshot, indices in self._in_doubt(ids, everything):
            if dry_run:
                settled += len(indices)
            else:
                settled += max(0, self.ledger.settle(snapshot.id, indices, state, said))
        return settled

    def _in_doubt(self, ids: Sequence[str], everything: bool) -> Iterable[_Chosen]:
        if bool(ids) is everything:
            raise MessageError("which mail in doubt? Give ids, or everything=True, not both")
        return self._of(ids, {State.IN_DOUBT}) if ids else self._all_in(State.IN_DOUBT)

    def _queue_again(self, chosen: Iterable[_Chosen], *, force: bool, dry_run: bool) -> RetryReport:
        report = RetryReport()
        for snapshot, indices in chosen:
            listed = self._suppressed(snapshot, indices)
            careful = [] if force else [index for index in indices if index not in listed]
            hard = {index for index in careful if _is_hard_bounce(snapshot, index)}
            doubtful = {index for index in careful if _may_have_arrived(snapshot, index)} - hard
            wanted = {i: snapshot.states[i] for i in indices if i not in hard | doubtful | listed}
            if dry_run:
                retried, bodiless = self._rehearse(snapshot, wanted)
            else:
                retried, bodiless = self.ledger.retry(snapshot.id, wanted, _resends(snapshot, wanted))
            report = RetryReport(
                retried=report.retried + max(retried, 0),
                bodiless=report.bodiless + bodiless,
                hard_bounces=report.hard_bounces + len(hard),
                doubtful=report.doubtful + len(doubtful),
                suppressed=report.suppressed + len(listed),
                bodiless_ids=report.bodiless_ids + (self._bodiless(snapshot, wanted) if bodiless else ()),
            )
        return report  # it is due now: the pump hints it

    def _suppressed(self, snapshot: Snapshot, indices: Sequence[int]) -> set[int]:
        """Those on the suppression list, who would only be suppressed again.

        Not those that are queued: their batch may be set aside, and is to come back.
        """
        at_rest = [index for index in indices if snapshot.states[index] is not State.QUEUED]
        listed = self.suppressions.among({snapshot.recipients[index] for index in at_rest})
        return {index for index in at_rest if snapshot.recipients[index] in listed}

    def _rehearse(self, snapshot: Snapshot, wanted: Mapping[int, State]) -> tuple[int, int]:
        """What the ledger's `retry` would return; what is queued counts in a batch that is set aside only."""
        is_queued = any(state is State.QUEUED for state in wanted.values())
        is_aside = is_queued and any(split_id(it.id)[0] == snapshot.id for it in self.aside())
        meant = {index for index, state in wanted.items() if state is not State.QUEUED or is_aside}
        kept = self.books.bodies(snapshot.id) if meant else set()
        with_body = [
            index
            for number, _, indices in snapshot.record.ranges()
            if number in kept
            for index in meant.intersection(indices)
        ]
        return len(with_body), len(meant) - len(with_body)

    def _bodiless(self, snapshot: Snapshot, wanted: Iterable[int]) -> tuple[str, ...]:
        """The messages that these recipients belong to and that have no body any more."""
        kept, meant = self.books.bodies(snapshot.id), set(wanted)
        return tuple(
            f"{snapshot.id}.{indices.start}"
            for number, _, indices in snapshot.record.ranges()
            if number not in kept and not meant.isdisjoint(indices)
        )

    def _of(self, ids: Sequence[str], states: Set[State]) -> Iterable[_Chosen]:
        """The recipients of messages that are in one of these states."""
        found = [(id, *self._snapshot(id)) for id in ids]  # all are known, before the first is moved
        # Each batch once: the first retry brings back one that was set aside, and its rest is queued then.
        batches: dict[str, tuple[Snapshot, list[int]]] = {}
        for id, snapshot, index in found:
            _, wanted = batches.setdefault(snapshot.id, (snapshot, []))
            wanted += [i for i in self._indices(snapshot, index, id) if snapshot.states[i] in states]
        return [(snapshot, list(dict.fromkeys(wanted))) for snapshot, wanted in batches.values()]

    def _all_in(self, *states: State) -> Iterator[_Chosen]:
        """The batches of which recipients are in one of these states, as they are read: there may be many."""
        told: set[str] = set()
        for state in states:
            for snapshot in self.books.listed(state):
                if snapshot.id not in told:
                    told.add(snapshot.id)
                    yield snapshot, [i for i, state in enumerate(snapshot.states) if state in states]

    def in_campaign(self, record: CampaignRecord) -> Iterator[Snapshot]:
        """A campaign's batches in order, as far as they are kept.

        Raises:
            StoreUnavailable: Redis is away; as it is read bit by bit, this may come between two batches.
        """
        return self.books.batches(campaign_batch_id(record.uid, number) for number in range(record.next))

    def _all_of(self, record: CampaignRecord, *states: State) -> Iterator[_Chosen]:
        for snapshot in self.in_campaign(record):
            if indices := [i for i, state in enumerate(snapshot.states) if state in states]:
                yield snapshot, indices

    def _campaign(self, name: str) -> CampaignRecord:
        uid = self.campaigns.uid_of(name)
        record = self.campaigns.record(uid) if uid else None
        if record is None:
            raise UnknownCampaign(name, sorted(self.campaigns.names()))
        return record

    def sweep(self) -> list[Stray]:
        """Look through all that is kept for what should never be found, and mend it; workers do so hourly.

        What depends on time is judged only while workers look for what is due.

        Returns:
            What was found: that should be nothing.

        Raises:
            StoreUnavailable: Redis is away.
        """
        return self.ledger.sweep()

    def pause(self, what: str = "all") -> None:
        """Stop sending, on all workers and over restarts, until `resume`.

        Args:
            what: "all" or a priority. What is being sent right now is finished.

        Raises:
            SettingsError: it is neither.
            StoreUnavailable: Redis is away.
        """
        self.ledger.pause(_steerable(what))

    def resume(self, what: str = "all") -> bool:
        """End a pause; "all" ends those of single priorities, too. Returns whether there was one.

        Raises:
            SettingsError: it is neither "all" nor a priority.
            StoreUnavailable: Redis is away.
        """
        return self.ledger.resume(_steerable(what))

    def paused(self) -> Mapping[str, datetime]:
        """What is paused, and since when.

        Raises:
            StoreUnavailable: Redis is away.
        """
        return self.books.paused()

    # Life

    def close(self) -> None:
        """Close the connections; the mailer opens new ones if it is used again."""
        self.redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _snapshot(self, id: str) -> tuple[Snapshot, int]:
        try:
            batch, index = split_id(id)
        except ValueError:
            raise self._unknown(id) from None
        snapshot = self.books.batch(batch)
        if snapshot is None:
            raise self._unknown(id)
        return snapshot, index

    def _indices(self, snapshot: Snapshot, index: int, id: str) -> range:
        """The recipients of the message that recipient `index` belongs to."""
        for _, _, indices in snapshot.record.ranges():
            if index in indices:
                return indices
        raise self._unknown(id)

    def _unknown(self, id: str) -> UnknownMessage:
        return UnknownMessage(id, mask_url(self.settings.store_url))


def _ids(batches: Sequence[NewBatch]) -> tuple[str, ...]:
    return tuple(id for batch in batches for id in batch.message_ids())


def _recipients(packed: Iterable[Packed]) -> Counter[Priority]:
    counts: Counter[Priority] = Counter()
    for one in packed:
        counts[one.batch.priority] += len(one.batch.recipients)
    return counts


def _last_tried(snapshot: Snapshot) -> int:
    return max((tries.at for tries in snapshot.tries.values()), default=0)


def _doubts(message: MessageStatus) -> Iterator[Doubt]:
    for recipient in message.recipients:
        if recipient.state is State.IN_DOUBT:
            yield Doubt(
                id=message.id,
                address=recipient.address,
                since=recipient.tried_at or message.accepted_at,
                relay=recipient.relay,
                worker=recipient.worker,
                reply=recipient.reply,
                resends=recipient.resends,
                priority=message.priority,
                subject=message.subject,
                message_id=message.message_id,
            )


def _is_listed(message: MessageStatus) -> bool:
    return any(recipient.state in LISTED_STATES for recipient in message.recipients)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What must fit for a recipient to be retried; what is None fits all."""

    reason: str | None
    code: str | None
    domain: str | None
    tag: str | None

    def among(self, snapshot: Snapshot, indices: Iterable[int]) -> list[int]:
        """Those of the recipients that fit."""
        tagged = {
            index
            for _, record, of_message in snapshot.record.ranges()
            if self.tag is None or self.tag in record.tags
            for index in of_message
        }
        return [index for index in indices if index in tagged and self._fits(snapshot, index)]

    def _fits(self, snapshot: Snapshot, index: int) -> bool:
        reply = snapshot.tries[index].reply if index in snapshot.tries else ""
        words = reply.split(maxsplit=3)
        if self.code is not None and not any(word.startswith(self.code) for word in words[:3]):
            return False
        if self.domain is not None and snapshot.recipients[index].rpartition("@")[2] != self.domain:
            return False
        return self.reason is None or self.reason.casefold() in reply.casefold()


def _resends(snapshot: Snapshot, indices: Iterable[int]) -> dict[int, int]:
    return {index: snapshot.tries[index].resends for index in indices if index in snapshot.tries}


def _is_hard_bounce(snapshot: Snapshot, index: int) -> bool:
    if snapshot.states[index] is State.SUPPRESSED:  # and isn't on the list any more: somebody knows better
        return False
    reply = snapshot.tries[index].reply if index in snapshot.tries else ""
    return any(word in HARD_BOUNCES for word in reply.split(maxsplit=3)[:3])


def _may_have_arrived(snapshot: Snapshot, index: int) -> bool:
    """Whether it has ended without being sent, and was in doubt before."""
    return snapshot.states[index] in FINAL and snapshot.tries.get(index, Tries()).resends > 0


def _steerable(what: str) -> str:
    if what not in ("all", *PRIORITIES):
        raise SettingsError(f"{what!r} can't be paused or resumed; expected all, {', '.join(PRIORITIES)}")
    return what
