"""The outbox's table: what a row holds, and what its `state` says.

| state | meaning | the relay |
| --- | --- | --- |
| `waiting` | written, not known to be in the ledger | takes it, in the order of `id` |
| `accepted` | in the ledger, and kept | looks at `look_at` what became of it |
| `final` | every recipient of its mail is final; `outcome` says how it ended | leaves it alone |
| `aside` | it can't be moved; `error` says why | leaves it alone, until a person says otherwise |

While Redis refuses a row that waits, and it may be Redis' fault, `error` says why, and `look_at` until when
it is tried before it is set aside.

A row is a batch: what was sent in one call and is alike in priority and times, up to a hundred messages.
The ledger takes a batch as a whole or not at all, by its id, so a row may be moved any number of times.
The id isn't unique here: a second mail with the same idempotency key is a second row, and the ledger tells
whether it is the same mail.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

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

DEFAULT_NAME: Final = "mailtasks_outbox"


class Keep(StrEnum):
    """How long a row stays."""

    UNTIL_ACCEPTED = "until_accepted"  # the ledger holds the mail
    UNTIL_FINAL = "until_final"  # every recipient of its mail is final; accepted anew if Redis loses it
    FOREVER = "forever"  # the same, and then it stays with its outcome; you delete it


class RowState(StrEnum):
    """Where a row is; see the table above."""

    WAITING = "waiting"
    ACCEPTED = "accepted"
    FINAL = "final"
    ASIDE = "aside"


def outbox_table(metadata: MetaData, name: str = DEFAULT_NAME, schema: str | None = None) -> Table:
    """The table, added to `metadata`. Times are UTC; SQLite gives them back without saying so."""
    return Table(
        name,
        metadata,
        # SQLite counts by itself only in a column that is called INTEGER.
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("batch", String(32), nullable=False),  # a message's id is this, a dot and a number
        Column("content", LargeBinary, nullable=False),  # see mailtasks.sql.content
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
