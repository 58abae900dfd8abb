"""The outbox's table by either road, with one face: what the contract of a row store is tested with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, Final

from sqlalchemy import create_engine, event, select, text
from sqlalchemy.engine import RootTransaction

from mailtasks.message import Message
from mailtasks.outbox.row import DEFAULT_NAME, Keep, octets, utc
from mailtasks.outbox.store import RowStore
from mailtasks.settings import Settings
from mailtasks.sql import Outbox
from mailtasks.sql import rows as sql_rows
from mailtasks.sql.store import Store
from tests import djangos

SETTINGS: Final = Settings(default_from="shop@example.com")
TIMES: Final = ("written_at", "accepted_at", "seen_at", "look_at", "final_at")
ROADS: Final = ("sqlalchemy", "django")


class Table:
    """An outbox's table in a database.

    Attributes:
        rows_module: the statements, with their `Rows` and ROWS_A_ROUND.
        committer: the class whose `commit` ends a transaction.
    """

    rows_module: ModuleType
    committer: type

    def create(self) -> None:
        """Make the table."""
        raise NotImplementedError

    def store(self) -> RowStore:
        """The table as the relay has it."""
        raise NotImplementedError

    def other_store(self) -> RowStore:
        """The same by another connection."""
        raise NotImplementedError

    def eager_store(self) -> RowStore:
        """The same by a connection of SQLite's that locks the database when a transaction begins."""
        raise NotImplementedError

    def write(self, *messages: Message, keep: str = "until_accepted") -> list[str]:
        """Write and commit; returns the ids."""
        raise NotImplementedError

    def change(self, id: int | None = None, **values: Any) -> None:
        """Change a row by hand, or all."""
        raise NotImplementedError

    def execute(self, statement: str) -> None:
        """SQL by hand, committed."""
        raise NotImplementedError

    def found(self) -> list[dict[str, Any]]:
        """What is in the table."""
        raise NotImplementedError

    def cut(self) -> None:
        """As a process that is killed leaves its connection: the database rolls back."""

    def let_go(self) -> None:
        """Forget connections that the server has ended."""

    def rows(self) -> list[SimpleNamespace]:
        """What is in the table, alike for both."""
        return [
            SimpleNamespace(
                **{
                    **row,
                    **{name: utc(row[name]) for name in TIMES},
                    "content": octets(row["content"]),
                }
            )
            for row in self.found()
        ]

    def retry(self, *ids: int) -> int:
        """Release what was set aside."""
        with self.store().transaction() as rows:
            return rows.retry(*ids)


class SqlTable(Table):
    """By SQLAlchemy."""

    rows_module = sql_rows
    committer = RootTransaction

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        self._eager = create_engine(url)
        event.listen(self._eager, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        self.outbox = Outbox(settings=SETTINGS)
        self.table = self.outbox.table

    def create(self) -> None:
        self.table.create(self.engine)

    def store(self) -> RowStore:
        return Store(self.table, self.engine)

    other_store = store  # each transaction has a connection of its own

    def eager_store(self) -> RowStore:
        return Store(self.table, self._eager)

    def write(self, *messages: Message, keep: str = "until_accepted") -> list[str]:
        with self.engine.begin() as connection:
            return self.outbox.send(connection, *messages, keep=keep)

    def change(self, id: int | None = None, **values: Any) -> None:
        statement = self.table.update().values(**values)
        with self.engine.begin() as connection:
            connection.execute(statement if id is None else statement.where(self.table.c.id == id))

    def execute(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def found(self) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            found = connection.execute(select(self.table).order_by(self.table.c.id))
            return [dict(row._mapping) for row in found]

    def let_go(self) -> None:
        self.engine.dispose()
        self._eager.dispose()


class DjangoTable(Table):
    """By Django's ORM; the database's alias is `shop`, and `second` and `eager` name the same."""

    rows_module = djangos.rows

    def __init__(self) -> None:
        from django.db.backends.base.base import BaseDatabaseWrapper

        self.committer = BaseDatabaseWrapper
        self.model = djangos.rows.OutboxRow

    @property
    def _all(self) -> Any:
        return self.model.objects.using("shop")

    @property
    def _connection(self) -> Any:
        return djangos.connections["shop"]

    def create(self) -> None:
        with self._connection.schema_editor() as editor:
            editor.create_model(self.model)

    def store(self) -> RowStore:
        return djangos.rows.Store("shop")

    def other_store(self) -> RowStore:
        return djangos.rows.Store("second")

    def eager_store(self) -> RowStore:
        return djangos.rows.Store("eager")

    def write(self, *messages: Message, keep: str = "until_accepted") -> list[str]:
        return djangos.outbox.write(messages, SETTINGS, "shop", Keep(keep))

    def change(self, id: int | None = None, **values: Any) -> None:
        chosen = self._all if id is None else self._all.filter(id=id)
        chosen.update(**values)

    def execute(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def found(self) -> list[dict[str, Any]]:
        return list(self._all.order_by("id").values())

    def cut(self) -> None:
        self._connection.connection.rollback()

    def let_go(self) -> None:
        self._connection.close()


@contextmanager
def table_at(road: str, url: str) -> Iterator[Table]:
    """The table in a database; it is yet to be made."""
    if road == "sqlalchemy":
        table = SqlTable(url)
        yield table
        table.let_go()
        return
    entry = djangos.database(url)
    eager = {**entry, "OPTIONS": {"transaction_mode": "IMMEDIATE"}} if url.startswith("sqlite") else entry
    with djangos.databases(shop=entry, second=entry, eager=eager):
        yield DjangoTable()


assert DEFAULT_NAME == "mailtasks_outbox", "tests name it in SQL"
