"""`Outbox`: mail written in the user's own transaction, as rows of a table in the user's own database.

What is committed is sent, what is rolled back never was: the database sees to both. A relay moves the rows
into the ledger (see `mailtasks.outbox.relay`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, MetaData, insert
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session, scoped_session

from mailtasks import default_mailer
from mailtasks.errors import MessageError
from mailtasks.message import Mailable
from mailtasks.outbox.composing import composed
from mailtasks.outbox.relay import INTERVAL, OutboxRelay
from mailtasks.outbox.report import OutboxStatus, RowAside
from mailtasks.outbox.row import DEFAULT_NAME, Keep, as_keep, written
from mailtasks.settings import Settings
from mailtasks.sql.database import Executor, without_registry
from mailtasks.sql.rows import Rows
from mailtasks.sql.store import Store
from mailtasks.sql.table import outbox_table

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

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
        self.keep = as_keep(keep)
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
        kept, now = as_keep(keep or self.keep), datetime.now(UTC)
        rows = [written(batch, kept, now) for batch in batches]
        try:
            if rows:
                connection.execute(insert(self.table), rows)
        except StatementError as error:
            error.hide_parameters = True  # they are the mail
            raise
        return ids

    async def asend(
        self,
        connection: AsyncSession | async_scoped_session[Any] | AsyncConnection,
        *messages: Mailable,
        keep: Keep | str | None = None,
    ) -> list[str]:
        """As `send`, for an `AsyncSession`, an `async_scoped_session` or an `AsyncConnection`.

        Raises:
            As `send`.
        """
        plain = without_registry(connection)
        ids: list[str] = await plain.run_sync(lambda session: self.send(session, *messages, keep=keep))
        return ids

    def status(self, connection: Executor) -> OutboxStatus:
        """Count the rows by their state, and say since when the oldest that waits does.

        Waiting for long says that no relay runs, or that it has to wait; its log says for what.
        """
        return Rows(self.table, connection).status()

    def aside(self, connection: Executor) -> Iterator[RowAside]:
        """What can't be moved, the oldest first: whose mail it is, and why.

        It is read bit by bit, so the connection has to stay open meanwhile.
        """
        return Rows(self.table, connection).aside()

    def retry(self, connection: Executor, *rows: int) -> int:
        """Let the relay try again what it has set aside, in the transaction that is open there.

        Args:
            rows: by their `id`; if there are none, all that are aside.

        Returns:
            How many rows.
        """
        return Rows(self.table, connection).retry(*rows)

    def relay(
        self, engine: Engine, mailer: Mailer | None = None, *, interval: float = INTERVAL
    ) -> OutboxRelay:
        """What moves the rows into the ledger; call its `run()`, or `drain()` in a test.

        Args:
            engine: of the database that holds the table.
            mailer: by default the one behind `mailtasks.send`.
            interval: seconds between two looks for new rows, when there were none.
        """
        return OutboxRelay(Store(self.table, engine), mailer or default_mailer(), interval=interval)
