"""The outbox's table for SQLAlchemy. What a row means is told in `mailtasks/outbox/row.py`."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

from mailtasks.outbox.row import DEFAULT_NAME


def outbox_table(metadata: MetaData, name: str = DEFAULT_NAME, schema: str | None = None) -> Table:
    """The table, added to `metadata`. Times are UTC; SQLite gives them back without saying so."""
    return Table(
        name,
        metadata,
        # SQLite counts by itself only in a column that is called INTEGER.
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("batch", String(32), nullable=False),  # a message's id is this, a dot and a number
        Column("content", LargeBinary, nullable=False),  # see mailtasks.outbox.content
        Column("size", Integer, nullable=False),  # bytes of `content`
        Column("keep", String(16), nullable=False),
        Column("state", String(16), nullable=False),
        Column("written_at", DateTime(timezone=True), nullable=False),  # by the writer's clock
        Column("accepted_at", DateTime(timezone=True)),  # these and below by the relay's
        Column("seen_at", DateTime(timezone=True)),  # when the ledger last knew it, or a person released it
        Column("look_at", DateTime(timezone=True)),  # when the relay looks again, or gives up
        Column("final_at", DateTime(timezone=True)),
        Column("outcome", JSON),  # the state of each message, by its id
        Column("error", Text),
        Index(f"ix_{name}_due", "state", "look_at", "id"),
        schema=schema,
        sqlite_autoincrement=True,  # an id is given once, or a deleted row could be taken for a new one
    )
