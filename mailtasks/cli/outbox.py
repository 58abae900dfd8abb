"""`mailtasks outbox`: moves mail from a table in a user's database into the ledger, and tells what is there.

Only `run` needs Redis.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from mailtasks.cli.context import Context, as_json, pass_context
from mailtasks.cli.options import seconds
from mailtasks.cli.output import cell, counted, print_json, print_line, print_pairs, print_table
from mailtasks.errors import SettingsError
from mailtasks.logs import JsonFormatter
from mailtasks.outbox.report import PATIENCE
from mailtasks.outbox.row import DEFAULT_NAME

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from mailtasks.outbox.relay import OutboxRelay
    from mailtasks.outbox.report import OutboxStatus
    from mailtasks.outbox.store import Rows, RowStore

Command = Callable[..., Any]

LARGEST_ID: Final = 2**63 - 1  # that the table's column takes


@click.group()
def outbox() -> None:
    """Move mail from the outbox in your database into the queue, and see what waits there.

    The database is the setting database_url, unless --database names it (a password in a command line can
    be seen by others on the machine). Under `manage.py` it is Django's own, or another of DATABASES whose
    alias --database gives.
    """


def _named(command: Command) -> Command:
    """The options that say which outbox is meant."""
    for decorator in (
        click.option(
            "--table",
            default=DEFAULT_NAME,
            show_default=True,
            help="The outbox's table, if need be with its schema: app.mail.",
        ),
        click.option(
            "--database",
            metavar="URL",
            help="The database; by default the setting database_url. Under manage.py, an alias of DATABASES.",
        ),
    ):
        command = decorator(command)
    return command


@outbox.command()
@_named
@click.option(
    "--interval", default="1s", show_default=True, callback=seconds, help="How often to look for new rows."
)
@click.option("--once", is_flag=True, help="Move what is there, say what was done, and end.")
@as_json
@pass_context
def run(
    context: Context, database: str | None, table: str, interval: float, once: bool, as_json: bool
) -> None:
    """Move mail from the outbox into the queue.

    A Redis or a database that is away is waited for; with --once it is an error. May be killed at any
    moment, and run several times. Exits with 1 if --once set a row aside; --json is for --once.
    """
    from mailtasks.outbox.relay import OutboxRelay

    with _meant(context, database, table) as store, context.mailer() as mailer:  # it waits for the table
        relay = OutboxRelay(store, mailer, interval=interval)
        with _ended_by_signals(relay.stop):
            if not once:
                _write_logs(context.settings.log_format)
                relay.run()
                return
            _once(relay, as_json)


@outbox.command()
@_named
@click.option(
    "--patience",
    default=f"{PATIENCE // 60}m",
    show_default=True,
    callback=seconds,
    help="How long a row may wait before that is a failure.",
)
@as_json
@pass_context
def status(context: Context, database: str | None, table: str, patience: float, as_json: bool) -> None:
    """Count the rows by their state. Exits with 1 if one is set aside, or has waited for too long.

    A row that waits for long says that no `mailtasks outbox run` runs, or that it has to wait, too: its log
    says for what.
    """
    with _opened(context, database, table) as store, store.transaction() as rows:
        found = rows.status()
    if as_json:
        print_json(asdict(found))
    else:
        _print_status(found)
    click.get_current_context().exit(1 if found.aside or found.waits_too_long(patience) else 0)


def _print_status(found: OutboxStatus) -> None:
    print_table(("state", "rows"), found.rows.items())
    if found.waiting_seconds is not None:
        age = timedelta(seconds=int(found.waiting_seconds))
        print_line(f"the oldest that waits was written {age} ago, at {cell(found.waiting_since)}")


@outbox.command("list")
@_named
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@as_json
@pass_context
def list_(context: Context, database: str | None, table: str, limit: int, as_json: bool) -> None:
    """List the rows that were set aside, the oldest first: whose mail it is, and why it can't be moved."""
    with _opened(context, database, table) as store, store.transaction() as taken:
        found = list(islice(taken.aside(), limit))
    if as_json:
        print_json([asdict(row) for row in found])
        return
    columns = ("row", "batch", "written", "messages", "to", "reason")
    rows = (
        (it.id, it.batch, it.written_at, len(it.messages) or None, it.recipients or None, it.error)
        for it in found
    )
    print_table(columns, rows, empty="nothing is set aside")


@outbox.command()
@click.argument("rows", nargs=-1, metavar="[ROW]...", type=click.IntRange(1, LARGEST_ID))
@_named
@click.option("--all", "everything", is_flag=True, help="All that is set aside.")
@click.option("--yes", is_flag=True, help="Don't ask whether all is meant.")
@as_json
@pass_context
def retry(
    context: Context,
    rows: Sequence[int],
    database: str | None,
    table: str,
    everything: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Let `mailtasks outbox run` try again what was set aside. Exits with 1 if a named row isn't.

    Mend what the reason in `mailtasks outbox list` says first. Where it says that the mail may have been
    sent, it is sent again.
    """
    if bool(rows) is everything:
        raise click.UsageError("Name rows, or all of them with --all.")
    with _opened(context, database, table) as store:
        if everything and not yes:
            _ask(store)
        with store.transaction() as table_rows:
            released, others = _release(table_rows, rows)
    if as_json:
        print_json({"released": released, "left_alone": others})
    else:
        print_line(f"released {counted(released, 'row')}")
        for row in others:
            print_line(f"row {row} isn't set aside")
    click.get_current_context().exit(1 if others else 0)


def _ask(store: RowStore) -> None:
    """All of it is asked about; where nobody can be asked it is refused."""
    if not sys.stdin.isatty():
        raise click.UsageError("--all asks first, and this is no terminal; add --yes.")
    with store.transaction() as rows:
        aside = rows.status().aside
    print_line(f"{counted(aside, 'row')} set aside")
    click.confirm("Release all of them?", abort=True)


def _release(rows: Rows, ids: Sequence[int]) -> tuple[int, list[int]]:
    """How many were released, and which of those that were named weren't aside."""
    if not ids:
        return rows.retry(), []
    named = dict.fromkeys(ids)
    others = [id for id in named if not rows.retry(id)]
    return len(named) - len(others), others


@contextmanager
def _opened(context: Context, database: str | None, table: str) -> Iterator[RowStore]:
    """The table that is meant, for who looks at it or changes something there by hand.

    Raises:
        DatabaseError: it isn't there, or its database is away.
    """
    with _meant(context, database, table) as store:
        store.check()
        yield store


@contextmanager
def _meant(context: Context, database: str | None, table: str) -> Iterator[RowStore]:
    if context.host.outbox and not (database and "://" in database):
        if click.get_current_context().get_parameter_source("table") is not ParameterSource.DEFAULT:
            raise click.UsageError("--table is for a database that --database names by its URL.")
        yield context.host.outbox(database)
        return
    engine = _engine(database or context.settings.database_url)
    try:
        from mailtasks.sql import Outbox  # brings in SQLAlchemy
        from mailtasks.sql.store import Store

        schema, _, name = table.rpartition(".")
        yield Store(Outbox(name=name, schema=schema or None).table, engine)
    finally:
        engine.dispose()


def _engine(url: str | None) -> Engine:
    if url is None:
        raise SettingsError("no database is named; set MAILTASKS_DATABASE_URL, or give --database URL")
    if find_spec("sqlalchemy") is None:
        raise SettingsError("the outbox needs SQLAlchemy; install mailtasks[sqlalchemy]")
    from mailtasks.sql.database import engine_for

    return engine_for(url)


def _once(relay: OutboxRelay, as_json: bool) -> None:
    moved = relay.drain()
    done = asdict(moved)
    if as_json:
        print_json(done)
    else:
        print_pairs({f"rows {name.replace('_', ' ')}": number for name, number in done.items()})
    click.get_current_context().exit(1 if moved.aside else 0)


def _write_logs(log_format: str) -> None:
    """What our modules have to say goes to stderr."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else plain)
    logger = logging.getLogger("mailtasks")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


@contextmanager
def _ended_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first of these signals ends it after its round, the next at once. `nohup` keeps its meaning."""
    from mailtasks.local.processes import ENDING

    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    before = {number: signal.getsignal(number) for number in set(ENDING) - ignored}

    def end(*_: object) -> None:
        stop()
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
