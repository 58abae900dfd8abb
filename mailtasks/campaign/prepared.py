"""A campaign of which all is known and nothing accepted: what is asked before it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import make_msgid
from functools import cached_property
from typing import Any, Self

from mailtasks.address import parse
from mailtasks.campaign.batches import RowBatch
from mailtasks.campaign.files import OwnFiles
from mailtasks.campaign.gathering import Gathered
from mailtasks.campaign.intake import Intake, wanted_record
from mailtasks.campaign.options import CampaignOptions
from mailtasks.compose.template import CompiledTemplate, Rendered, TemplateRecord
from mailtasks.errors import InputError, MessageError, RenderError
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.people import Person, Reason, Rejected
from mailtasks.pieces import Content, OwnFile, base64_lines, blobs_in, filled
from mailtasks.rendering import fields_of


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a campaign's rows when they were given.

    Attributes:
        campaign: its name.
        accepted: how many people it has; those who are on the suppression list are among them.
        before: how many of them were accepted already when this began.
        rejected: how many rows can't be mailed.
        reasons: of these, by reason.
    """

    campaign: str
    accepted: int
    before: int
    rejected: int
    reasons: Mapping[Reason, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "campaign": self.campaign,
            "accepted": self.accepted,
            "before": self.before,
            "rejected": self.rejected,
            "reasons": {reason.value: count for reason, count in self.reasons.items()},
        }


class Prepared:
    """A campaign that could be sent now. Made by `Campaign.prepare`; close it, or use it in `with`.

    Attributes:
        name: the campaign's.
        people: how many can be mailed.
        before: how many of them are accepted already.
        is_again: one of that name was sent before, and this is another.
        rejected: how many rows can't be, by reason.
        told: the first hundred of these, with line and reason.
        unusable: names of columns that no template can use; their fields are left out.
    """

    def __init__(
        self,
        mailer: Mailer,
        name: str,
        template: TemplateRecord,
        compiled: CompiledTemplate,
        options: CampaignOptions,
        gathered: Gathered,
        *,
        files: OwnFiles | None,
        again: bool,
        unusable: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.template = template
        self._compiled = compiled
        self.options = options
        self.people = gathered.people
        self.rejected: Mapping[Reason, int] = gathered.rejected
        self.told: list[Rejected] = gathered.told
        self.unusable = unusable
        self._mailer = mailer
        self._gathered = gathered
        self._files = files
        self._again = again
        self._intake: Intake | None = None
        self._person, self._rendered = self._first_mail()
        wanted = wanted_record(mailer, name, template, options, again=again)
        self.before = wanted.rows
        self.is_again = wanted.run > 1
        Intake(mailer, wanted, files).compare(gathered)

    @property
    def person(self) -> Person:
        """The first one whose mail can be made; `mail` is theirs."""
        return self._person

    @property
    def mail(self) -> Rendered:
        """One of the mails, as it would be sent."""
        return self._rendered

    @cached_property
    def suppressed(self) -> int:
        """How many of the people who aren't accepted yet are on the suppression list now.

        Raises:
            StoreUnavailable: Redis is away.
        """
        suppressions = self._mailer.suppressions
        if not suppressions:
            return 0
        return sum(len(suppressions.among(batch.emails)) for batch in self._new())

    @property
    def accepted(self) -> int:
        """How many of the people are accepted, as far as is known: also after `send` was interrupted."""
        return self._intake.accepted if self._intake else self.before

    @property
    def to_send(self) -> int:
        """How many people would be mailed who aren't accepted yet.

        Raises:
            StoreUnavailable: Redis is away.
        """
        return self.people - self.before - self.suppressed

    def test(self, to: str) -> str:
        """Send one of the mails to an address of one's own; the campaign isn't begun. Returns the mail's id.

        Raises:
            AddressError: it is none.
            MessageError: it is on the suppression list.
            StoreUnavailable: Redis is away.
        """
        if parse(to).address in self._mailer.suppressions:
            raise MessageError(
                f"{to} is on the suppression list, so nothing would be sent to it; take it off "
                "(`mailtasks suppress remove`), or test with another address"
            )
        rendered = self._render(self._person, to)
        assert isinstance(rendered.content, bytes), "it was filled"
        return self._mailer.send(Message(to=to, raw=rendered.content, tags=("campaign-test",)))

    def send(self, progress: Callable[[int], object] = lambda rows: None) -> Report:
        """Accept everybody who isn't accepted yet. From then on workers send it.

        Args:
            progress: is told, again and again, how many people are accepted.

        Raises:
            CampaignError: it was cancelled, completed or finished meanwhile.
            InputChanged: it was begun, meanwhile, with other rows or other files of theirs.
            InputError: a file was changed since the people were read.
            StoreUnavailable: Redis is away or full; what was accepted is sent, and the same call goes on.
        """
        intake = Intake.begin(
            self._mailer, self.name, self.template, self.options, files=self._files, again=self._again
        )
        self._intake, before = intake, intake.rows
        intake.add(self._watched(progress))
        progress(self.accepted)
        accepted = intake.complete()
        rejected = sum(self.rejected.values())
        return Report(self.name, accepted, before, rejected, dict(self.rejected))

    def close(self) -> None:
        """Forget the people."""
        self._gathered.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _new(self) -> Iterator[RowBatch]:
        """The batches that aren't accepted yet."""
        given = 0
        for batch in self._gathered:
            given += len(batch.emails)
            if given > self.before:
                yield batch

    def _watched(self, progress: Callable[[int], object]) -> Iterator[RowBatch]:
        for batch in self._gathered:
            yield batch
            progress(self.accepted)

    def _first_mail(self) -> tuple[Person, Rendered]:
        """The first whose mail can be made. If it is none of the first few, the template fits nobody."""
        failed: RenderError | None = None
        for person in self._gathered.first:
            try:
                return person, self._render(person, person.email)
            except RenderError as error:
                failed = failed or error
        raise failed or InputError("the people", "nobody is left who could be mailed")

    def _render(self, person: Person, to: str) -> Rendered:
        rendered = self._compiled.render(
            fields_of(person.email, person.fields),
            to=to,
            message_id=make_msgid(domain=parse(self.template.sender).domain),
            date=datetime.now(UTC),
            attachments=person.files,
            size_limit=self._mailer.settings.size_limit,
        )
        return replace(rendered, content=self._filled(rendered.content))

    def _filled(self, content: Content) -> bytes:
        """As the worker will fill it."""
        encoded = {
            file.digest: (base64_lines(self._files.read(file)),)
            for file in blobs_in(content)
            if self._files and isinstance(file, OwnFile)
        }
        return b"".join(pieces) if isinstance(pieces := filled(content, encoded), tuple) else pieces
