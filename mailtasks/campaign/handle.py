"""`Campaign`: all that is done with a campaign, under its name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Self

from mailtasks.campaign.files import OwnFiles
from mailtasks.campaign.gathering import Gathered, gather
from mailtasks.campaign.intake import check_name, current_run
from mailtasks.campaign.options import CampaignOptions
from mailtasks.campaign.prepared import Prepared, Report
from mailtasks.campaign.status import CampaignStatus, moment, status_of
from mailtasks.compose.template import Template, TemplateRecord
from mailtasks.default import default_mailer
from mailtasks.errors import CampaignError, InputError, MessageError, TemplateError, UnknownCampaign
from mailtasks.mailer import Mailer
from mailtasks.people import People, Rejected, Source, read
from mailtasks.state import State
from mailtasks.status import MessageStatus, RetryReport
from mailtasks.store.campaigns import CampaignRecord
from mailtasks.store.keys import campaign_uid

_LISTED = frozenset({State.FAILED, State.EXPIRED, State.IN_DOUBT})


class Campaign:
    """A campaign, to be sent or sent already: one template, many people.

    >>> campaign = Campaign("spring", Template(subject="Hi {{ name }}", sender="news@example.com", text=text))
    >>> campaign.send("people.csv").accepted
    >>> campaign.pause()

    Not thread-safe.

    Args:
        name: by which it is known: who sends one that is there takes it up. None: one is made of its
            content, by `prepare` or `send`, and the same content has the same.
        template: only to send it.
        options: how it is sent.
        mailer: by default the one behind `mailtasks.send`.

    Raises:
        MessageError: the name is empty or too long.
    """

    def __init__(
        self,
        name: str | None = None,
        template: Template | None = None,
        options: CampaignOptions | None = None,
        *,
        mailer: Mailer | None = None,
    ) -> None:
        if name is not None:
            check_name(name)
        self._name = name
        self._template = template
        self._options = options or CampaignOptions()
        self._given_mailer = mailer
        self._known: dict[int, Counter[State]] = {}  # of which run, and what is known of its batches
        self._known_of = ""

    @classmethod
    def all(cls, mailer: Mailer | None = None) -> list[Self]:
        """All campaigns, the latest first; of one name only the latest.

        Raises:
            StoreUnavailable: Redis is away.
        """
        campaigns = (mailer or default_mailer()).campaigns
        uids = [campaign_uid(name, run) for name, run in campaigns.names().items()]
        found = [record for uid in uids if (record := campaigns.record(uid))]
        ordered = sorted(found, key=lambda it: it.begun, reverse=True)
        return [cls(record.name, mailer=mailer) for record in ordered]

    @property
    def name(self) -> str:
        """By which people know it.

        Raises:
            CampaignError: it has none yet.
        """
        if self._name is None:
            raise CampaignError("the campaign has no name yet; give one, or prepare or send it first")
        return self._name

    @cached_property
    def _mailer(self) -> Mailer:
        return self._given_mailer or default_mailer()

    # Sending

    def prepare(
        self,
        people: Source,
        *,
        again: bool = False,
        encoding: str | None = None,
        rejected: Callable[[Rejected], object] = lambda row: None,
        progress: Callable[[int], object] = lambda rows: None,
    ) -> Prepared:
        """Read everything and look at it; nothing is accepted. Each address passes once.

        Args:
            people: a path, `-` for standard input, a file opened in binary mode, or mappings with a key
                `email`, such as dicts or the rows of a SQLAlchemy query.
            again: if a campaign of that name is finished or cancelled, it is another one.
            encoding: of a file, if it isn't UTF-8.
            rejected: is given each row that can't be mailed, as it is read.
            progress: is told, again and again, how many people were read.

        Raises:
            InputError: people can't be read, or nobody is left who can be mailed.
            TemplateError, RenderError, MessageError: the template is wrong, or doesn't fit the first people;
                or there is no `attachment_folder`, and rows shall have files.
            CampaignError: there is no template; one of that name is finished, or has other options.
            StoreUnavailable: Redis is away.
        """
        if self._template is None:
            raise CampaignError("the campaign has no template, so nothing can be sent; give one")
        ends = self._options.ends
        if ends and ends <= datetime.now(UTC):
            raise MessageError(
                f"the campaign's end, {ends}, is past, so all of it would expire; give it time"
            )
        if self._name is not None:
            current_run(self._mailer, self._name, again=again)  # before a million rows are read
        with read(people, encoding=encoding) as rows:
            template = _loaded(self._template, rows)
            # Of CSV all rows have all columns, and that these are enough was seen just now.
            required = template.required_names if rows.columns is None else frozenset[str]()
            files = OwnFiles.of_template(self._template, template, self._mailer.settings)
            compiled = template.compile()
            gathered = gather(
                rows, required, template=compiled, files=files, rejected=rejected, progress=progress
            )
            unusable = rows.unusable
        try:
            _demand_people(gathered, rows)
            self._name = self._name or f"{template.digest[:8]}{gathered.digest[:8]}"
            return Prepared(
                self._mailer,
                self._name,
                template,
                compiled,
                self._options,
                gathered,
                files=files,
                again=again,
                unusable=unusable,
            )
        except BaseException:
            gathered.close()
            raise

    def send(self, people: Source, *, again: bool = False, encoding: str | None = None) -> Report:
        """Accept all people who can be mailed, once everything was read and found right.

        One that was interrupted is taken up: whoever is accepted isn't accepted again.

        Args:
            As `prepare`.

        Raises:
            As `prepare` and `Prepared.send`.
        """
        with self.prepare(people, again=again, encoding=encoding) as prepared:
            return prepared.send()

    # Watching and steering. Each raises UnknownCampaign if there is none of that name, and StoreUnavailable.

    def status(self) -> CampaignStatus:
        """How it stands. Called again and again, it asks only for what can have changed.

        Raises:
            UnknownCampaign: there is none of that name.
            StoreUnavailable: Redis is away.
        """
        record = self._record()
        if record.uid != self._known_of:
            self._known_of, self._known = record.uid, {}
        status = status_of(record, self._mailer.campaigns.counts(record, self._known))
        if status.state != "finished" or status.finished_at:
            return status
        self._mailer.campaigns.count_on(record)  # as a pump will do, so that it is known since when
        return replace(status, finished_at=moment(self._record().finished))

    def pause(self, reason: str = "") -> bool:
        """Let nothing more of it go, on all workers and over restarts; returns whether that was news.

        Windows that are being sent are finished: a few messages a thread.

        Raises:
            UnknownCampaign: there is none of that name.
            StoreUnavailable: Redis is away.
        """
        record = self._record()
        return not record.finished and self._mailer.campaigns.pause(record, reason)

    def resume(self) -> bool:
        """End a pause; returns whether there was one.

        Raises:
            UnknownCampaign: there is none of that name.
            StoreUnavailable: Redis is away.
        """
        return self._mailer.campaigns.resume(self._record())

    def cancel(self) -> int:
        """Cancel what isn't sent, for good; a finished one stays that. Interrupted, workers go on with it.

        Returns:
            How many recipients are cancelled.

        Raises:
            UnknownCampaign: there is none of that name.
            StoreUnavailable: Redis is away.
        """
        campaigns = self._mailer.campaigns
        if not self._record().finished:
            campaigns.cancel(self._record())
            campaigns.cancel_on(self._record())
            campaigns.count_on(self._record())
        return self.status().states[State.CANCELLED]

    def retry(self, *, force: bool = False, dry_run: bool = False) -> RetryReport:
        """Queue again who failed or expired, as `Mailer.retry`.

        Args:
            force: also those whose address was refused for good.
            dry_run: count only.

        Raises:
            UnknownCampaign: there is none of that name.
            StoreUnavailable: Redis is away.
        """
        return self._mailer.retry(campaign=self.name, force=force, dry_run=dry_run)

    def failures(self) -> Iterator[MessageStatus]:
        """Who failed, expired when tried, or is in doubt, in the order of the rows, while that is kept.

        Raises:
            UnknownCampaign: there is none of that name.
            StoreUnavailable: Redis is away.
        """
        for snapshot in self._mailer.in_campaign(self._record()):
            for message in snapshot.messages():
                [recipient] = message.recipients
                if recipient.state in _LISTED and recipient.address:
                    yield message

    def _record(self) -> CampaignRecord:
        campaigns = self._mailer.campaigns
        uid = campaigns.uid_of(self.name)
        record = campaigns.record(uid) if uid else None
        if record is None:
            raise UnknownCampaign(self.name, sorted(campaigns.names()))
        return record


def _loaded(template: Template, people: People) -> TemplateRecord:
    """The template; a mistake in it may be that it names a column that can't be named."""
    try:
        return template.load(people.columns)
    except TemplateError as error:
        if not people.unusable:
            raise
        unusable = ", ".join(f"{name!r} (say, {_as_a_name(name)})" for name in people.unusable[:5])
        told = f"{error.told}. No template can name these columns, so rename them: {unusable}"
        raise TemplateError(error.where, error.line, told) from None


def _as_a_name(column: str) -> str:
    name = re.sub(r"\W+", "_", column.strip()).strip("_").lower()
    return name if name.isidentifier() else f"column_{name}"


def _demand_people(gathered: Gathered, people: People) -> None:
    """Say why nobody can be mailed, if that is so."""
    if gathered.people:
        return
    if not gathered.told:
        nobody = "hold nobody to mail" if people.columns is None else "names its columns and nobody to mail"
        raise InputError(people.name, f"{nobody}; give it a row a person")
    first = gathered.told[0]
    rows = sum(gathered.rejected.values())
    none = (
        "its only row can't be mailed" if rows == 1 else f"none of its {rows:,} rows can be mailed; the first"
    )
    raise InputError(people.name, f"{none}: {first.what}", first.line)
