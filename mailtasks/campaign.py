"""A campaign: one template, many people, each a mail of their own; watched, paused, resumed, cancelled.

    campaign = Campaign.begin(mailer, "spring", template)
    campaign.add(rows)          # all of them, from the first, however often it is begun
    campaign.complete()

The rules:

1. A campaign is known by its name. Who begins one that is there takes it up, with the same template and
   options; rows that are accepted already are passed over, by number and content: nobody is mailed twice.
2. Rows become batches of a few hundred, in order. What isn't a whole batch yet is accepted by `complete`.
3. What a caller was told is accepted is in the ledger; whatever dies, it goes on without him.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, Protocol, Self

import msgspec

from mailtasks import address
from mailtasks.address import excerpt
from mailtasks.compose.template import TemplateRecord
from mailtasks.errors import (
    CampaignConflict,
    CampaignError,
    InputChanged,
    MessageError,
    SettingsError,
    UnknownCampaign,
)
from mailtasks.mailer import Mailer
from mailtasks.message import Priority
from mailtasks.policy.rate import parse_rate
from mailtasks.state import UNFINISHED, State
from mailtasks.status import MessageStatus, RetryReport
from mailtasks.store import records
from mailtasks.store.campaigns import CampaignRecord
from mailtasks.store.keys import PRINT_LENGTH, campaign_batch_id, campaign_uid
from mailtasks.store.ledger import Acceptance
from mailtasks.store.records import BatchRecord, CampaignPart, NewBatch

ROWS_A_BATCH: Final = 300
"""Few enough that a batch is soon through, many enough that what a batch costs is next to nothing a row."""

_BYTES_A_BATCH: Final = 1_000_000  # of the rows' values; Redis moves them in one piece
_BATCHES_A_CALL: Final = 16  # accepted in one round trip
_LISTED: Final = frozenset({State.FAILED, State.EXPIRED, State.IN_DOUBT})


class Row(Protocol):
    """One who is to be mailed; `mailtasks.people.Person` is one."""

    @property
    def email(self) -> str:
        """The address as it goes over the wire."""
        ...

    @property
    def fields(self) -> Mapping[str, Any]:
        """What the template's names stand for; what JSON can hold. Its address is `email` there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a campaign is sent.

    Attributes:
        begins: nothing is sent before it.
        ends: what isn't sent by then expires.
        rate: messages of all workers together: "100/m", "10/s", "5000/h"; None: no limit.
        tags: that each message carries.
        rows_a_batch: for tests.
    """

    priority: Priority = Priority.BULK
    begins: datetime | None = None
    ends: datetime | None = None
    rate: str | None = None
    tags: tuple[str, ...] = ()
    rows_a_batch: int = ROWS_A_BATCH

    def __post_init__(self) -> None:
        for name in ("begins", "ends"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise MessageError(f"a campaign's {name} {moment} has no time zone; give an aware datetime")
        if self.begins and self.ends and self.ends <= self.begins:
            raise MessageError(
                f"the campaign would end at {self.ends}, before it begins at {self.begins}; give it time"
            )


@dataclass(frozen=True, slots=True)
class CampaignStatus:
    """A campaign as it was at one moment. Times are aware, in UTC."""

    name: str
    state: str  # open (rows are coming), running, scheduled, paused, cancelled or finished
    rows: int  # accepted; the sum of `states`
    states: Mapping[State, int]
    begun_at: datetime
    reason: str = ""  # why it is paused
    begins_at: datetime | None = None
    ends_at: datetime | None = None
    finished_at: datetime | None = None
    rate: float | None = None  # messages a second
    priority: Priority = Priority.BULK
    subject: str = ""
    tags: tuple[str, ...] = ()

    @property
    def unfinished(self) -> int:
        """Rows that are queued, being sent or deferred."""
        return sum(self.states.get(state, 0) for state in UNFINISHED)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = asdict(self)
        told["states"] = {state.value: count for state, count in self.states.items()}
        told["priority"] = self.priority.value
        return {
            name: value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value
            for name, value in told.items()
        }


@dataclass(slots=True)
class _Open:
    """The batch that takes more rows."""

    emails: list[str] = field(default_factory=list)
    fields: list[Mapping[str, Any]] = field(default_factory=list)


class Campaign:
    """One campaign, over a `Mailer`. Made by `begin` or `of`; not thread-safe."""

    def __init__(self, mailer: Mailer, record: CampaignRecord, rows_a_batch: int = ROWS_A_BATCH) -> None:
        self._mailer = mailer
        self._campaigns = mailer.campaigns
        self._record = record
        self._rows_a_batch = rows_a_batch
        self._batch = _Open()
        self._next = 0  # the number of the batch that takes more rows
        self._row = 0  # how many rows were given
        self._accepted = record.next
        self._prints: list[str] | None = None  # of what was accepted by others before
        self._pending: list[NewBatch] = []
        self._known: dict[int, Counter[State]] = {}

    @classmethod
    def begin(
        cls,
        mailer: Mailer,
        name: str,
        template: TemplateRecord,
        options: Options | None = None,
        *,
        again: bool = False,
    ) -> Self:
        """Begin a campaign, or take up the one that has this name.

        Args:
            again: if that is finished or cancelled, begin another one of the same name.

        Raises:
            CampaignError: one of that name is finished or cancelled, and `again` wasn't said.
            CampaignConflict: it has another template or other options.
            MessageError: the name is empty or too long.
            SettingsError: the rate can't be read.
            StoreUnavailable: Redis is away.
        """
        options = options or Options()
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise MessageError(f"{excerpt(name)} can't name a campaign: give up to 200 printable characters")
        run = mailer.campaigns.names().get(name, 0)
        held = mailer.campaigns.record(campaign_uid(name, run)) if run else None
        if held and again and _is_over(held):
            held = None
        if held and _is_over(held):
            raise CampaignError(_over(held))
        wanted = _wanted(mailer, name, held.run if held else run + 1, template, options)
        begun = mailer.campaigns.begin(wanted, template.encode())
        if others := [it for it in wanted.fields if begun.fields[it] != wanted.fields[it]]:
            raise CampaignConflict(name, others)
        return cls(mailer, begun, options.rows_a_batch)

    @classmethod
    def of(cls, mailer: Mailer, name: str) -> Self:
        """The campaign of this name.

        Raises:
            UnknownCampaign: there is none.
            StoreUnavailable: Redis is away.
        """
        uid = mailer.campaigns.uid_of(name)
        record = mailer.campaigns.record(uid) if uid else None
        if record is None:
            raise UnknownCampaign(name, sorted(mailer.campaigns.names()))
        return cls(mailer, record)

    @classmethod
    def all(cls, mailer: Mailer) -> list[Self]:
        """All campaigns, the latest first; of one name only the latest.

        Raises:
            StoreUnavailable: Redis is away.
        """
        uids = [campaign_uid(name, run) for name, run in mailer.campaigns.names().items()]
        found = [record for uid in uids if (record := mailer.campaigns.record(uid))]
        return [cls(mailer, record) for record in sorted(found, key=lambda it: it.begun, reverse=True)]

    @property
    def name(self) -> str:
        """By which people know it."""
        return self._record.name

    # Rows

    def add(self, rows: Iterable[Row]) -> int:
        """Take rows, in order, from the first on; those that were accepted before are passed over.

        Returns:
            How many were given to this object so far. Accepted are those in whole batches.

        Raises:
            InputChanged: a row isn't what was accepted in its place.
            MessageError: a row holds what can't be kept.
            CampaignError: it was cancelled or completed meanwhile.
            MemoryFull, BacklogFull: there is no room for more (a StoreUnavailable).
            StoreUnavailable: Redis is away. Nothing that was given is forgotten: give the rows that follow,
                or none, to try again. Or begin it again, and give it all rows.
        """
        emails, fields = self._batch.emails, self._batch.fields
        for row in rows:
            emails.append(row.email)
            fields.append(row.fields)
            if len(emails) == self._rows_a_batch:
                self._close_batch()
                emails, fields = self._batch.emails, self._batch.fields
        self._accept_pending()
        return self._row + len(emails)

    def complete(self) -> int:
        """All rows were given: accept the rest. Returns how many rows the campaign has.

        Raises:
            As `add`; InputChanged also if there are fewer rows than were accepted.
        """
        if self._batch.emails:
            self._close_batch()
        self._accept_pending()
        self._campaigns.complete(self._record, self._next)
        self._reload()
        if self._record.next != self._next:
            raise InputChanged(
                self.name,
                self._row,
                f"there are {self._row:,} rows, and {self._record.rows:,} were accepted before",
            )
        return self._record.rows

    def _close_batch(self) -> None:
        batch, self._batch = self._batch, _Open()
        emails = msgspec.json.encode(batch.emails)
        try:
            values = records.encode_values(batch.fields)
        except (TypeError, ValueError, OverflowError) as error:
            raise MessageError(
                f"of the rows {self._row + 1:,} to {self._row + len(batch.emails):,} one holds what can't be "
                f"kept ({error}); give texts, numbers, lists and the like"
            ) from None
        number, self._next = self._next, self._next + 1
        self._row += len(batch.emails)
        print_ = blake2b(emails + values, digest_size=PRINT_LENGTH // 2).hexdigest()
        if number < self._accepted:
            self._compare(number, print_)
            return
        self._pending.append(self._new_batch(number, batch.emails, values, print_))
        if len(self._pending) >= _BATCHES_A_CALL:
            self._accept_pending()

    def _compare(self, number: int, print_: str) -> None:
        if self._prints is None:
            self._prints = self._campaigns.prints(self._record.uid)
        if self._prints[number : number + 1] != [print_]:
            raise self._changed(number)

    def _changed(self, number: int) -> InputChanged:
        first = number * self._rows_a_batch
        return InputChanged(
            self.name,
            first + 1,
            f"rows {first + 1:,} to {first + self._rows_a_batch:,} aren't those that were accepted there",
        )

    def _new_batch(self, number: int, emails: list[str], values: bytes, print_: str) -> NewBatch:
        record, id = self._record, campaign_batch_id(self._record.uid, number)
        now = datetime.now(UTC).timestamp()
        part = CampaignPart(
            campaign=record.name,
            batch=id,
            size=len(emails),
            template=record.template,
            sender=record.sender,
            domain=record.sender.rpartition("@")[2],
            date=int(max(now, record.begins)),
            subject=record.subject,
            tags=record.tags,
        )
        return NewBatch(
            id=id,
            priority=record.priority,
            record=BatchRecord((), campaign=part),
            recipients=tuple(emails),
            bodies=(),
            fingerprint=print_,
            lifetime=record.lifetime,
            send_at=record.begins,
            values=records.pack(values),
            ends=record.ends,
        )

    def _accept_pending(self) -> None:
        pending = self._pending
        if not pending:
            return
        self._mailer.room.demand({self._record.priority: sum(len(batch.recipients) for batch in pending)})
        first = self._next - len(pending)
        for number, accepted in enumerate(self._campaigns.accept(pending), first):
            if accepted is Acceptance.CONFLICT:
                raise self._changed(number)
            if accepted is Acceptance.CLOSED:
                self._reload()
                raise CampaignError(_closed(self._record))
            if accepted is Acceptance.GAP:
                raise CampaignError(
                    f"campaign {self.name!r} lacks the batch before {number}: Redis has forgotten what "
                    "it had accepted; begin it again with all rows"
                )
        self._pending = []
        self._accepted = max(self._accepted, self._next)

    # Watching and steering

    def status(self) -> CampaignStatus:
        """How it stands. Called again and again, it asks only for what can have changed.

        Raises:
            UnknownCampaign: its record is gone.
            StoreUnavailable: Redis is away.
        """
        self._reload()
        record = self._record
        states = self._campaigns.counts(record, self._known)
        unfinished = sum(states[state] for state in UNFINISHED)
        return CampaignStatus(
            name=record.name,
            state=_state_of(record, unfinished),
            rows=record.rows,
            states={state: states[state] for state in State},
            begun_at=_moment(record.begun) or datetime.now(UTC),
            reason=record.reason,
            begins_at=_moment(record.begins),
            ends_at=_moment(record.ends),
            finished_at=_moment(record.finished),
            rate=record.rate or None,
            priority=record.priority,
            subject=record.subject,
            tags=record.tags,
        )

    def pause(self, reason: str = "") -> bool:
        """Let nothing more of it go, on all workers and over restarts; returns whether that was news.

        Windows that are being sent are finished: a few messages a thread.

        Raises:
            StoreUnavailable: Redis is away.
        """
        return self._campaigns.pause(self._record, reason)

    def resume(self) -> bool:
        """End a pause; returns whether there was one.

        Raises:
            StoreUnavailable: Redis is away.
        """
        return self._campaigns.resume(self._record)

    def cancel(self) -> int:
        """Cancel what isn't sent, for good. Should this be interrupted, workers go on with it.

        Returns:
            How many recipients are cancelled.

        Raises:
            StoreUnavailable: Redis is away.
        """
        self._campaigns.cancel(self._record)
        self._reload()
        self._campaigns.cancel_on(self._record)
        self._campaigns.count_on(self._record)
        return self.status().states[State.CANCELLED]

    def retry(self, *, force: bool = False, dry_run: bool = False) -> RetryReport:
        """Queue again who failed or expired, as `Mailer.retry`.

        Args:
            force: also those whose address was refused for good.
            dry_run: count only.

        Raises:
            StoreUnavailable: Redis is away.
        """
        return self._mailer.retry(campaign=self.name, force=force, dry_run=dry_run)

    def failures(self) -> Iterator[MessageStatus]:
        """Who failed, expired when tried, or is in doubt, in the order of the rows, while that is kept.

        Raises:
            StoreUnavailable: Redis is away.
        """
        self._reload()
        for snapshot in self._mailer.in_campaign(self._record):
            for message in snapshot.messages():
                [recipient] = message.recipients
                if recipient.state in _LISTED and recipient.address:
                    yield message

    def _reload(self) -> None:
        record = self._campaigns.record(self._record.uid)
        if record is None:
            raise UnknownCampaign(self.name, sorted(self._campaigns.names()))
        self._record = record


def _wanted(
    mailer: Mailer, name: str, run: int, template: TemplateRecord, options: Options
) -> CampaignRecord:
    try:
        rate = parse_rate(options.rate)
    except SettingsError:
        raise SettingsError(
            f'the campaign\'s rate {options.rate!r} is none; give a text such as "10/s", "100/m" or "500/h"'
        ) from None
    return CampaignRecord(
        uid=campaign_uid(name, run),
        name=name,
        run=run,
        template=template.digest,
        sender=address.parse(template.sender).address,
        subject=template.subject.main.text[:200],
        priority=options.priority,
        begins=options.begins.timestamp() if options.begins else 0.0,
        ends=options.ends.timestamp() if options.ends else 0.0,
        lifetime=mailer.settings.max_age,
        rate=rate or 0.0,
        tags=tuple(options.tags),
    )


def _is_over(record: CampaignRecord) -> bool:
    return bool(record.finished) or record.state == "cancelled"


def _over(record: CampaignRecord) -> str:
    what = "was cancelled" if record.state == "cancelled" else "is finished"
    return (
        f"the campaign {record.name!r} {what}: {record.rows:,} rows were accepted; to send it once more, to "
        "everybody, say so (again=True), or give it another name"
    )


def _closed(record: CampaignRecord) -> str:
    what = "was cancelled" if record.state == "cancelled" else "is complete"
    return (
        f"the campaign {record.name!r} {what} and takes no more rows: {record.rows:,} are accepted; "
        "send more under another name"
    )


def _state_of(record: CampaignRecord, unfinished: int) -> str:
    if record.state != "active":
        return record.state
    if record.complete and not unfinished:
        return "finished"
    if record.begins > datetime.now(UTC).timestamp():
        return "scheduled"
    return "running" if record.complete else "open"


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
