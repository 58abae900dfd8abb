"""Rows, a template and a campaign for tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mailtasks.campaign import Campaign, CampaignOptions
from mailtasks.campaign.batches import Row, RowBatch, batched
from mailtasks.campaign.intake import Intake
from mailtasks.compose.template import Template, TemplateRecord
from mailtasks.mailer import Mailer
from mailtasks.message import Priority
from mailtasks.pieces import OwnFile
from tests.bench import Bench


@dataclass
class Person:
    """One who is to be mailed."""

    email: str
    fields: dict[str, Any] = field(default_factory=dict)
    files: tuple[OwnFile, ...] = ()


def people(number: int, name: str = "ann", first: int = 0) -> Iterator[Person]:
    """So many people with different names, of one city."""
    for n in range(first, first + number):
        yield Person(f"{name}{n}@example.com", {"name": f"{name.title()} {n}", "city": "Lisbon"})


def template(**parts: Any) -> TemplateRecord:
    """A template that greets people by name and city."""
    given = {
        "subject": "Hi {{ name }}",
        "sender": "News <news@example.com>",
        "text": "Dear {{ name }} of {{ city }}, this goes to {{ email }}.\n",
        **parts,
    }
    return Template(**given).load()


class Begun(Campaign):
    """A campaign whose rows are given bit by bit; they are accepted in whole batches, the rest at the end."""

    def __init__(
        self,
        mailer: Mailer,
        name: str = "spring",
        record: TemplateRecord | None = None,
        *,
        again: bool = False,
        rows_a_batch: int = 300,
        **options: Any,
    ) -> None:
        super().__init__(name, mailer=mailer)
        self.intake = Intake.begin(
            mailer, name, record or template(), CampaignOptions(**options), again=again
        )
        self._rows_a_batch = rows_a_batch
        self._rest: list[Row] = []

    def add(self, rows: Iterable[Row]) -> int:
        """As `Intake.add`; rows that don't fill a batch wait for more."""
        return self.intake.add(self._batches(rows)) + len(self._rest)

    def complete(self) -> int:
        """As `Intake.complete`."""
        rest, self._rest = self._rest, []
        self.intake.add(batched(rest))
        return self.intake.complete()

    def _batches(self, rows: Iterable[Row]) -> Iterator[RowBatch]:
        for row in rows:
            self._rest.append(row)
            if len(self._rest) == self._rows_a_batch:
                whole, self._rest = self._rest, []
                yield from batched(whole)


def a_campaign(mailer: Mailer, rows: Iterable[Person], *, rows_a_batch: int = 300, **parts: Any) -> Begun:
    """It has all its rows, and waits to be fed."""
    rate = parts.pop("rate", None)
    campaign = Begun(mailer, record=template(**parts), rows_a_batch=rows_a_batch, rate=rate)
    campaign.add(rows)
    campaign.complete()
    return campaign


def sent_to_all(bench: Bench, priority: Priority = Priority.BULK) -> None:
    """Workers and pumps have done their work."""
    while hints := bench.mailer.campaigns.feed(priority, 100):
        for hint in hints:
            bench.delivery.deliver(hint.batch, hint.priority)
    bench.mailer.campaigns.tend()
