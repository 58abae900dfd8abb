"""The outbox's table in the user's database, by an engine of SQLAlchemy's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, Table, text

from mailtasks.outbox.store import LIMIT_LOCKS
from mailtasks.sql.database import check_table, reachable
from mailtasks.sql.rows import Rows


class Store:
    """A `mailtasks.outbox.store.RowStore`."""

    def __init__(self, table: Table, engine: Engine) -> None:
        self._table = table
        self._engine = engine

    @property
    def name(self) -> str:
        """The table's, with its schema."""
        return self._table.fullname

    @property
    def can_lock(self) -> bool:
        """Whether rows are locked as they are taken."""
        return self._engine.dialect.name != "sqlite"

    def check(self) -> None:
        """Look whether the table is there.

        Raises:
            DatabaseError: it isn't, or the database is away.
        """
        check_table(self._engine, self._table)

    @contextmanager
    def transaction(self) -> Iterator[Rows]:
        """A transaction, committed at the end of the block.

        Raises:
            DatabaseError: the database is away, or refused what was asked.
        """
        with reachable(self._engine), self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(text(LIMIT_LOCKS))
            yield Rows(self._table, connection)
