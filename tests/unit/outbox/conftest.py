"""The table by SQLAlchemy and by Django's ORM, in SQLite and in PostgreSQL: one contract for all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from mailtasks.mailer import Mailer
from mailtasks.outbox.store import RowStore
from mailtasks.store.ledger import Result
from tests.outboxes import ROADS, Table, table_at


@pytest.fixture
def mailer(redis_url: str) -> Iterator[Mailer]:
    with Mailer(broker_url=redis_url, default_from="shop@example.com") as mailer:
        yield mailer


@pytest.fixture(params=ROADS)
def road(request: pytest.FixtureRequest) -> str:
    """Who speaks to the database."""
    return str(request.param)


@pytest.fixture
def empty_database(road: str, database_url: str) -> Iterator[Table]:
    """A database whose table is yet to be made."""
    with table_at(road, database_url) as table:
        yield table


@pytest.fixture
def table(empty_database: Table) -> Table:
    empty_database.create()
    return empty_database


@pytest.fixture
def store(table: Table) -> RowStore:
    return table.store()


@pytest.fixture
def rows(table: Table):
    """What is in the table."""
    return table.rows


@pytest.fixture
def write(table: Table):
    """Write and commit; returns the ids."""
    return table.write


@pytest.fixture
def change(table: Table):
    """Change a row by hand, or all."""
    return table.change


@pytest.fixture
def settle(mailer: Mailer):
    """Give the recipients of a batch their states, as a worker would: one for all, or in turn."""

    def settle(id, *states):
        claim = mailer.ledger.claim(id.partition(".")[0], "a worker")
        mailer.ledger.release(
            claim,
            "a worker",
            [
                Result(recipient.index, states[recipient.index % len(states)], delay=3600, reply="so be it")
                for message in claim.window
                for recipient in message.recipients
            ],
        )

    return settle


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()
