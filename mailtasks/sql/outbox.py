"""`Outbox`: mail written in the user's own transaction, as rows of a table in the user's own database.

What is committed is sent, what is rolled back never was: the database sees to both. A relay moves the rows
into the ledger (see `mailtasks.sql.relay`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, MetaData, insert, update
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session, scoped_session

from mailtasks import default_mailer
from mailtasks.errors import MessageError, SettingsError
from mailtasks.message import Mailable
from mailtasks.relay import either
from mailtasks.settings import Settings
from mailtasks.sql.composing import composed
from mailtasks.sql.content import encode
from mailtasks.sql.database import Executor
from mailtasks.sql.relay import INTERVAL, OutboxRelay
from mailtasks.sql.report import OutboxStatus, RowAside, aside_in, status_of
from mailtasks.sql.table import DEFAULT_NAME, Keep, RowState, outbox_table
from mailtasks.store.records import NewBatch

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    from mailtasks.mailer import Mailer

_EXECUTORS: Final = (Session, scoped_session, Connection)


class Outbox:
    """A table of mail that waits for its transaction, and the way in and out of it.

    Args:
        metadata: where the table is added, such as `Base.metadata`, so that `create_all` or Alembic make it;
            by default one of its own.
        name: the table's.
        schema: the table's.
        keep: how long a row stays, unless a call says otherwise: "until_accepted" by the ledger,
            "until_final", or "forever".
        settings: for `default_from`, `size_limit` and `max_age`; by default what environment and file say,
            read when the first message is sent.

    Attributes:
        table: for your migration, or `table.create(engine)`.

    Raises:
        SettingsError: `keep` is none of these.
    """

    def __init__(
        self,
        metadata: MetaData | None = None,
        *,
        name: str = DEFAULT_NAME,
        schema: str | None = None,
        keep: Keep | str = Keep.UNTIL_ACCEPTED,
        settings: Settings | None = None,
    ) -> None:
        self.table = outbox_table(MetaData() if metadata is None else metadata, name, schema)
        self.keep = _keep(keep)
        self._given_settings = settings

    @cached_property
    def _settings(self) -> Settings:
        return self._given_settings or Settings.load()

    def send(self, connection: Executor, *messages: Mailable, keep: Keep | str | None = None) -> list[str]:
        """Write messages in the transaction that is open there. They are sent once it has committed.

        Messages of one call share rows, so a campaign is best written a few hundred at a time.

        Args:
            connection: a `Session`, a `scoped_session` or a `Connection`.
            keep: how long these stay, instead of what the outbox says.

        Returns:
            Their ids, in order. With an idempotency key, the id that the key stands for.

        Raises:
            MessageError: a message can't be mailed as it is; nothing of this call was written.
            IdempotencyConflict: two of these have one key and other content. That a key was used before is
                found by the relay, which sets the row aside.
        """
        if not isinstance(connection, _EXECUTORS):
            raise MessageError(
                f"outbox.send takes a Session or a Connection, not {type(connection).__name__}; "
                "with asyncio, `await outbox.asend(session, ...)`"
            )
        batches, ids = composed(messages, self._settings)
        kept, now = _keep(keep or self.keep), datetime.now(UTC)
        rows = [_row(batch, kept, now) for batch in batches]
        try:
            if rows:
                connection.execute(insert(self.table), rows)
        except StatementError as error:
            error.hide_parameters = True  # they are the mail
            raise
        return ids

    async def asend(
        self, connection: AsyncSession | AsyncConnection, *messages: Mailable, keep: Keep | str | None = None
    ) -> list[str]:
        """As `send`, for an `AsyncSession` or an `AsyncConnection`.

        Raises:
            As `send`.
        """
        return await connection.run_sync(lambda session: self.send(session, *messages, keep=keep))

    def status(self, connection: Executor) -> OutboxStatus:
        """Count the rows by their state, and say since when the oldest that waits does.

        Waiting for long says that no relay runs, or that it has to wait; its log says for what.
        """
        return status_of(self.table, connection)

    def aside(self, connection: Executor) -> Iterator[RowAside]:
        """What can't be moved, the oldest first: whose mail it is, and why.

        It is read bit by bit, so the connection has to stay open meanwhile.
        """
        return aside_in(self.table, connection)

    def retry(self, connection: Executor, *rows: int) -> int:
        """Let the relay try again what it has set aside, in the transaction that is open there.

        Args:
            rows: by their `id`; if there are none, all that are aside.

        Returns:
            How many rows.
        """
        chosen = self.table.c.state == RowState.ASIDE
        if rows:
            chosen &= self.table.c.id.in_(rows)
        waiting = {
            "state": RowState.WAITING.value,
            "look_at": None,
            "error": None,
            "seen_at": datetime.now(UTC),  # somebody has looked, and knows that it isn't to be forgotten
        }
        result: Any = connection.execute(update(self.table).where(chosen).values(waiting))
        return int(result.rowcount)

    def relay(
        self, engine: Engine, mailer: Mailer | None = None, *, interval: float = INTERVAL
    ) -> OutboxRelay:
        """What moves the rows into the ledger; call its `run()`, or `drain()` in a test.

        Args:
            engine: of the database that holds the table.
            mailer: by default the one behind `mailtasks.send`.
            interval: seconds between two looks for new rows, when there were none.
        """
        return OutboxRelay(self.table, engine, mailer or default_mailer(), interval=interval)


def _row(batch: NewBatch, keep: Keep, now: datetime) -> dict[str, object]:
    content = encode(batch)
    return {
        "batch": batch.id,
        "content": content,
        "size": len(content),
        "keep": keep.value,
        "state": RowState.WAITING.value,
        "written_at": now,
    }


def _keep(given: Keep | str) -> Keep:
    try:
        return Keep(given)
    except ValueError:
        words: Sequence[str] = [f'"{keep}"' for keep in Keep]
        raise SettingsError(f"keep={given!r} is unknown; expected {either(words)}") from None
