from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, select

from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.settings import Settings
from mailtasks.sql import Outbox


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
