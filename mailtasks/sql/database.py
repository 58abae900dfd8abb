"""The user's database, from outside: an engine from a URL, and its errors in our words.

The rules:

1. No password gets into an error or a log, and no mail: what SQLAlchemy says may quote a statement's
   parameters, so only what the driver said is passed on.
2. The relay talks to the database by a driver that blocks; a URL that names another is given one that does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, Engine, Table, create_engine, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session

from mailtasks.errors import DatabaseError, SettingsError
from mailtasks.kinds import DatabaseUrl
from mailtasks.outbox.store import unusable
from mailtasks.relay import mask_url

Executor: TypeAlias = "Session | scoped_session[Any] | Connection"
"""What runs statements in a user's transaction."""

_DIALECTS: Final = {"postgres": "postgresql"}  # as some hosts spell it
_POSTGRES_DRIVERS: Final = ("psycopg", "psycopg2")
_ASYNC_DRIVERS: Final = {"asyncpg", "psycopg_async", "aiosqlite"}
_CONNECT_TIMEOUT: Final = 10  # seconds
_SILENCE: Final = 60  # seconds after which a PostgreSQL that doesn't answer at all is taken for dead


def without_registry(session: Any) -> Any:
    """The session that a `scoped_session` or an `async_scoped_session` holds; another is that itself."""
    # By its name, since importing asyncio's half takes a while, and few have it.
    is_registry = isinstance(session, scoped_session) or type(session).__name__ == "async_scoped_session"
    return session.registry() if is_registry else session


def engine_for(url: str) -> Engine:
    """An engine for the relay.

    Args:
        url: as for SQLAlchemy; one with an asyncio driver, or with none, gets a driver that blocks.

    Raises:
        SettingsError: the URL can't be read, its driver isn't installed, or its SQLite file isn't there.
    """
    parsed = _parsed(url)
    try:
        engine = create_engine(parsed, connect_args=_connect_args(parsed), pool_pre_ping=True)
    except (ImportError, NoSuchModuleError):
        raise SettingsError(
            f"database_url: there is no driver for {parsed.drivername}; install one, "
            "such as psycopg[binary] for PostgreSQL"
        ) from None
    except (SQLAlchemyError, TypeError, ValueError):
        raise _unreadable() from None
    return engine


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # its text may hold the password
        raise _unreadable() from None
    dialect, _, driver = parsed.drivername.partition("+")
    dialect = _DIALECTS.get(dialect, dialect)
    driver = "" if driver in _ASYNC_DRIVERS else driver
    if dialect == "postgresql" and not driver:
        driver = next(filter(find_spec, _POSTGRES_DRIVERS), "")
    if dialect == "sqlite":
        _check_file(parsed.database)
    return parsed.set(drivername=f"{dialect}+{driver}" if driver else dialect)


def _unreadable() -> SettingsError:
    return SettingsError(f"database_url: it can't be read; expected {DatabaseUrl.expected}")


def _check_file(name: str | None) -> None:
    """SQLite would make an empty one, in silence."""
    if name and name != ":memory:" and not name.startswith("file:") and not Path(name).is_file():
        raise SettingsError(
            f"database_url: the SQLite file {name} isn't there; name the one that your application writes to"
        )


def _connect_args(url: URL) -> dict[str, int]:
    if url.drivername.partition("+")[2] not in _POSTGRES_DRIVERS:
        return {}
    limits = {"connect_timeout": _CONNECT_TIMEOUT, "tcp_user_timeout": _SILENCE * 1000}
    return {name: value for name, value in limits.items() if name not in url.query}


def where(engine: Engine) -> str:
    """The database, for people: no password."""
    return mask_url(engine.url.render_as_string(hide_password=True))


@contextmanager
def reachable(engine: Engine) -> Iterator[None]:
    """Turn SQLAlchemy's errors into ours.

    Raises:
        DatabaseError: the database is away, or refused what was asked.
    """
    try:
        yield
    except SQLAlchemyError as error:
        said = error.orig if isinstance(error, DBAPIError) and error.orig else error
        raise unusable(where(engine), said) from None


def check_table(engine: Engine, table: Table) -> None:
    """Look whether the table is there.

    Raises:
        DatabaseError: it isn't, or the database is away.
    """
    with reachable(engine):
        found = inspect(engine).has_table(table.name, schema=table.schema)
    if not found:
        raise DatabaseError(
            f"there is no table {table.fullname} in {where(engine)}; run the migration that makes it, "
            "or name your table with --table"
        )
