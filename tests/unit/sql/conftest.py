from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, create_engine, select

from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.settings import Settings
from mailtasks.sql import Outbox
from mailtasks.store.ledger import Result


@pytest.fixture
def mailer(redis_url: str) -> Iterator[Mailer]:
    with Mailer(broker_url=redis_url, default_from="shop@example.com") as mailer:
        yield mailer


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def outbox(engine: Engine) -> Outbox:
    """One whose table is there."""
    outbox = Outbox(settings=Settings(default_from="shop@example.com"))
    outbox.table.create(engine)
    return outbox


@pytest.fixture
def rows(engine: Engine, outbox: Outbox):
    """What is in the table."""

    def rows():
        with engine.connect() as connection:
            return connection.execute(select(outbox.table).order_by(outbox.table.c.id)).all()

    return rows


@pytest.fixture
def write(engine: Engine, outbox: Outbox):
    """Write and commit; returns the ids."""

    def write(*messages: Message, **options):
        with engine.begin() as connection:
            return outbox.send(connection, *messages, **options)

    return write


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
