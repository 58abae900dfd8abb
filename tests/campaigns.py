"""Rows, a template and a campaign for tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mailtasks.campaign import Campaign, Options
from mailtasks.compose.template import Template, TemplateRecord
from mailtasks.mailer import Mailer


@dataclass
class Person:
    """One who is to be mailed."""

    email: str
    fields: dict[str, Any] = field(default_factory=dict)


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


def a_campaign(mailer: Mailer, rows: Iterable[Person], **parts: Any) -> Campaign:
    """It has all its rows, and waits to be fed."""
    options = Options(rows_a_batch=parts.pop("rows_a_batch", 300), rate=parts.pop("rate", None))
    campaign = Campaign.begin(mailer, "spring", template(**parts), options)
    campaign.add(rows)
    campaign.complete()
    return campaign
