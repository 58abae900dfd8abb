"""`mailtasks outbox`: moves mail from a table in a user's database into the ledger."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from mailtasks.cli.context import Context, as_json, pass_context
from mailtasks.cli.options import seconds
from mailtasks.cli.output import print_json, print_pairs
from mailtasks.errors import SettingsError
from mailtasks.logs import JsonFormatter

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from mailtasks.sql import OutboxRelay


@click.command()
@click.argument("url", metavar="[DATABASE_URL]", required=False)
@click.option(
    "--table",
    default="mailtasks_outbox",
    show_default=True,
    help="The outbox's table, if need be with its schema: app.mail.",
)
@click.option(
    "--interval", default="1s", show_default=True, callback=seconds, help="How often to look for new rows."
)
@click.option("--once", is_flag=True, help="Move what is there, say what was done, and end.")
@as_json
@pass_context
def outbox(context: Context, url: str | None, table: str, interval: float, once: bool, as_json: bool) -> None:
    """Move mail from the outbox in your database into the queue.

    The database is the setting database_url, unless it is given here (a password in a command line can be
    seen by others on the machine). A Redis or a database that is away is waited for; with --once it is an
    error. May be killed at any moment, and run several times. Exits with 1 if --once set a row aside;
    --json is for --once.
    """
    engine = _engine(url or context.settings.database_url)
    try:
        with context.mailer() as mailer:
            from mailtasks.sql import Outbox  # brings in SQLAlchemy

            schema, _, name = table.rpartition(".")
            relay = Outbox(name=name, schema=schema or None).relay(engine, mailer, interval=interval)
            with _ended_by_signals(relay.stop):
                if not once:
                    _write_logs(context.settings.log_format)
                    relay.run()
                    return
                _once(relay, as_json)
    finally:
        engine.dispose()


def _engine(url: str | None) -> Engine:
    if url is None:
        raise SettingsError("no database is named; set MAILTASKS_DATABASE_URL, or give its URL")
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
