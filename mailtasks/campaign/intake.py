"""Rows enter the ledger, batch by batch. The rules:

1. A campaign is known by its name. Who begins one that is there takes it up, with the same template and
   options; batches that are accepted already are passed over, by number and content: nobody is mailed twice.
2. What a caller was told is accepted is in the ledger; whatever dies, it goes on without him.
3. Rows' own files are stored before their batch is accepted, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final, NamedTuple, Self

from mailtasks import address
from mailtasks.address import excerpt
from mailtasks.blobs import BRINGS
from mailtasks.campaign.batches import ROWS_A_BATCH, RowBatch
from mailtasks.campaign.files import OwnFiles
from mailtasks.campaign.options import CampaignOptions
from mailtasks.compose.template import TemplateRecord
from mailtasks.errors import CampaignConflict, CampaignError, InputChanged, MessageError, UnknownCampaign
from mailtasks.mailer import Mailer
from mailtasks.store.campaigns import CampaignRecord
from mailtasks.store.keys import campaign_batch_id, campaign_uid
from mailtasks.store.ledger import Acceptance
from mailtasks.store.records import BatchRecord, CampaignPart, NewBatch

_BATCHES_A_CALL: Final = 16  # accepted in one round trip
_FILE_BYTES_A_CALL: Final = 16_000_000  # or fewer, if they need so much stored before
LONGEST_NAME: Final = 200
_KNOWN_AS: Final = {"begins": "start", "ends": "end", "lifetime": "max_age (a setting)"}
"""What people call the fields of a record."""


class _Pending(NamedTuple):
    """A batch that is given and not accepted."""

    number: int
    first: int  # its first row, from 1
    rows: RowBatch


class Intake:
    """What takes a campaign's batches. Made by `begin`; not thread-safe."""

    def __init__(self, mailer: Mailer, record: CampaignRecord, files: OwnFiles | None = None) -> None:
        self._mailer = mailer
        self._campaigns = mailer.campaigns
        self._record = record
        self._files = files
        self._next = 0  # the number of the batch that is given next
        self._rows = 0  # how many were given
        self._prints: list[str] | None = None  # of what was accepted by others before
        self._pending: list[_Pending] = []
        most = mailer.settings.backlog(record.priority)
        room = (
            most // (2 * ROWS_A_BATCH) if most else _BATCHES_A_CALL
        )  # so that half of a small backlog is enough
        self._at_once = max(1, min(_BATCHES_A_CALL, room))

    @classmethod
    def begin(
        cls,
        mailer: Mailer,
        name: str,
        template: TemplateRecord,
        options: CampaignOptions,
        *,
        files: OwnFiles | None = None,
        again: bool = False,
    ) -> Self:
        """Begin a campaign, or take up the one that has this name.

        Args:
            files: what reads those of rows' own; None: they have none.
            again: if that is finished or cancelled, begin another one of the same name.

        Raises:
            CampaignError: one of that name is finished or cancelled, and `again` wasn't said.
            CampaignConflict: it has another template or other options.
            MessageError: the name is empty or too long.
            StoreUnavailable: Redis is away.
        """
        wanted = wanted_record(mailer, name, template, options, again=again)
        begun = mailer.campaigns.begin(wanted, template.encode())
        _demand_same(wanted, begun)
        return cls(mailer, begun, files)

    @property
    def rows(self) -> int:
        """How many the campaign had when it was begun or taken up, or was completed."""
        return self._record.rows

    @property
    def accepted(self) -> int:
        """How many rows are known to be accepted."""
        return max(self.rows, self._rows - sum(len(taken.rows.emails) for taken in self._pending))

    def add(self, batches: Iterable[RowBatch]) -> int:
        """Take batches, in order, from the first on; those that were accepted before are passed over.

        Returns:
            How many rows were given so far; all of them are accepted.

        Raises:
            InputChanged: a batch isn't what was accepted in its place.
            CampaignError: it was cancelled or completed meanwhile.
            MemoryFull, BacklogFull, BlobsFull: there is no room for more (a StoreUnavailable).
            BlobStoreError: files can't be stored (a StoreUnavailable).
            InputError: a file was changed since it was looked at.
            StoreUnavailable: Redis is away. Nothing that was given is forgotten: give the batches that
                follow, or none, to try again. Or begin it again, and give it all.
        """
        for batch in batches:
            self._take(batch)
            if len(self._pending) >= self._at_once or self._file_bytes() > _FILE_BYTES_A_CALL:
                self._accept()
        self._accept()
        return self._rows

    def compare(self, batches: Iterable[RowBatch]) -> None:
        """See whether batches begin with those that are accepted already; none is accepted.

        Raises:
            InputChanged: they don't.
            StoreUnavailable: Redis is away.
        """
        for batch in islice(batches, self._record.next):
            self._take(batch)
        if self._next < self._record.next:
            raise self._other_number()

    def complete(self) -> int:
        """All batches were given. Returns how many rows the campaign has.

        Raises:
            As `add`; InputChanged also if there are fewer rows than were accepted.
        """
        self._accept()
        self._campaigns.complete(self._record, self._next)
        self._reload()
        if self._record.next != self._next:
            raise self._other_number()
        return self._record.rows

    def _take(self, batch: RowBatch) -> None:
        taken = _Pending(self._next, self._rows + 1, batch)
        self._next += 1
        self._rows += len(batch.emails)
        if taken.number >= self._record.next:
            self._pending.append(taken)
            return
        if self._prints is None:
            self._prints = self._campaigns.prints(self._record.uid)
        if self._prints[taken.number : taken.number + 1] != [batch.fingerprint]:
            raise self._changed(taken)

    def _accept(self) -> None:
        pending = self._pending
        if not pending:
            return
        wanted = sum(len(taken.rows.emails) for taken in pending)
        self._mailer.room.demand({self._record.priority: wanted})
        answers = self._brought_and_accepted([self._new_batch(taken) for taken in pending])
        for taken, answer in zip(pending, answers, strict=True):
            if answer is Acceptance.CONFLICT:
                raise self._changed(taken)
            if answer is Acceptance.CLOSED:
                self._reload()
                raise CampaignError(_closed(self._record))
            if answer is Acceptance.GAP:
                raise CampaignError(
                    f"campaign {self._record.name!r} lacks the batch before {taken.number}: Redis has "
                    "forgotten what it had accepted; begin it again with all rows"
                )
        self._pending = []

    def _brought_and_accepted(self, batches: Sequence[NewBatch]) -> list[Acceptance]:
        """All of them again, if one's files are gone: those behind it lack the batch before them."""
        for _ in range(BRINGS):
            self._mailer.blobs.bring(batches)
            answers = self._campaigns.accept(batches)
            if Acceptance.BLOBLESS not in answers:
                return answers
        raise self._mailer.blobs.gone_again()

    def _file_bytes(self) -> int:
        return sum(file.size for taken in self._pending for files in taken.rows.files for file in files)

    def _changed(self, taken: _Pending) -> InputChanged:
        last = taken.first + len(taken.rows.emails) - 1
        files = ", or their files," if self._files else ""
        return InputChanged(
            self._record.name,
            taken.first,
            f"rows {taken.first:,} to {last:,}{files} aren't those that were accepted there",
        )

    def _other_number(self) -> InputChanged:
        what = f"there are {self._rows:,} rows, and {self._record.rows:,} were accepted before"
        return InputChanged(self._record.name, self._rows, what)

    def _new_batch(self, taken: _Pending) -> NewBatch:
        record, id = self._record, campaign_batch_id(self._record.uid, taken.number)
        now = datetime.now(UTC).timestamp()
        part = CampaignPart(
            campaign=record.name,
            batch=id,
            size=len(taken.rows.emails),
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
            recipients=taken.rows.emails,
            bodies=(),
            fingerprint=taken.rows.fingerprint,
            lifetime=record.lifetime,
            send_at=record.begins,
            values=taken.rows.values,
            files=taken.rows.files,
            blobs=self._files.contents(taken.rows.files) if self._files else {},
            ends=record.ends,
        )

    def _reload(self) -> None:
        record = self._campaigns.record(self._record.uid)
        if record is None:
            raise UnknownCampaign(self._record.name, sorted(self._campaigns.names()))
        self._record = record


def wanted_record(
    mailer: Mailer, name: str, template: TemplateRecord, options: CampaignOptions, *, again: bool
) -> CampaignRecord:
    """What beginning a campaign would write; nothing is written.

    Raises:
        As `Intake.begin`.
    """
    run, held = current_run(mailer, name, again=again)
    wanted = CampaignRecord(
        uid=campaign_uid(name, run),
        name=name,
        run=run,
        template=template.digest,
        sender=address.parse(template.sender).address,
        subject=template.subject.main.text[:LONGEST_NAME],
        priority=options.priority,
        begins=options.begins.timestamp() if options.begins else 0.0,
        ends=options.ends.timestamp() if options.ends else 0.0,
        lifetime=mailer.settings.max_age,
        rate=options.a_second,
        tags=tuple(options.tags),
        next=held.next if held else 0,
        rows=held.rows if held else 0,
    )
    if held:
        _demand_same(wanted, held)
    return wanted


def current_run(mailer: Mailer, name: str, *, again: bool) -> tuple[int, CampaignRecord | None]:
    """The run of that name that would be sent now, and its record if it is there already.

    Raises:
        CampaignError: it is finished or cancelled, and `again` wasn't said.
        MessageError: it is no name.
        StoreUnavailable: Redis is away.
    """
    check_name(name)
    run = mailer.campaigns.names().get(name, 0)
    held = mailer.campaigns.record(campaign_uid(name, run)) if run else None
    if held is None or not _is_over(held):
        return (run if held else run + 1), held
    if not again:
        raise CampaignError(_over(held))
    return run + 1, None


def check_name(name: str) -> None:
    """Refuse what is no name.

    Raises:
        MessageError: it is empty, too long, or can't be printed.
    """
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise MessageError(
            f"{excerpt(name)} can't name a campaign: give up to {LONGEST_NAME} printable characters"
        )


def _demand_same(wanted: CampaignRecord, begun: CampaignRecord) -> None:
    if others := [name for name in wanted.fields if begun.fields[name] != wanted.fields[name]]:
        raise CampaignConflict(wanted.name, [_KNOWN_AS.get(name, name) for name in others])


def _is_over(record: CampaignRecord) -> bool:
    return bool(record.finished) or record.state == "cancelled"


def _over(record: CampaignRecord) -> str:
    what = "was cancelled" if record.state == "cancelled" else "is finished"
    return (
        f"the campaign {record.name!r} {what}: {record.rows:,} rows were accepted; to send it once more, to "
        "everybody, say so (--again, from Python again=True), or give it another name"
    )


def _closed(record: CampaignRecord) -> str:
    what = "was cancelled" if record.state == "cancelled" else "is complete"
    return (
        f"the campaign {record.name!r} {what} and takes no more rows: {record.rows:,} are accepted; "
        "send more under another name"
    )
