"""`mailtasks suppress`: who gets no mail, whatever is sent to them."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

import click

from mailtasks.cli.context import Context, as_json, pass_context
from mailtasks.cli.output import counted, print_json, print_line, print_table

if TYPE_CHECKING:
    from mailtasks.suppression import BadLine, Suppression

some_addresses = click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
from_source = click.option("--source", metavar="WORD", help="Only those of this source, such as bounce.")


@click.group()
def suppress() -> None:
    """Say who gets no mail, whatever is sent to them.

    Mail to who is on the suppression list is accepted and `suppressed`, and so is mail that waits already.
    Addresses that a relay refuses for good enter the list by themselves.
    """


@suppress.command()
@some_addresses
@click.option("--reason", default="", metavar="TEXT", help="Why, in a line.")
@click.option(
    "--source",
    default="operator",
    show_default=True,
    metavar="WORD",
    help="Who says so: operator, unsubscribe, complaint or a word of yours.",
)
@as_json
@pass_context
def add(context: Context, addresses: Sequence[str], reason: str, source: str, as_json: bool) -> None:
    """Put each ADDRESS on the list; what is said of one that is there is replaced.

    Mail to them that waits is suppressed. What is being sent at this moment still goes.
    """
    with context.mailer() as mailer:
        added = mailer.suppressions.add(*addresses, reason=reason, source=source)
    _say("added", added, "already there, with another reason until now", len(addresses) - added, as_json)


@suppress.command()
@some_addresses
@as_json
@pass_context
def remove(context: Context, addresses: Sequence[str], as_json: bool) -> None:
    """Take each ADDRESS off the list. Mail that was suppressed stays so, until it is retried."""
    with context.mailer() as mailer:
        removed = mailer.suppressions.remove(*addresses)
    _say("removed", removed, "not there", len(addresses) - removed, as_json)


def _say(done: str, number: int, other: str, others: int, as_json: bool) -> None:
    if as_json:
        print_json({done: number})
        return
    many = "addresses"
    rest = (
        f"; {counted(others, 'address', many)} {'was' if others == 1 else 'were'} {other}" if others else ""
    )
    print_line(f"{done} {counted(number, 'address', many)}{rest}")


@suppress.command("list")
@from_source
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@as_json
@pass_context
def list_(context: Context, source: str | None, limit: int, as_json: bool) -> None:
    """List who is there: since when, who said so, and why; the latest first."""
    with context.mailer() as mailer:
        listed = _of_source(mailer.suppressions, source)
        found = heapq.nlargest(limit, listed, key=lambda it: (it.added_at, it.address))
    if as_json:
        print_json([it.as_dict() for it in found])
        return
    rows = ((it.address, it.added_at, it.source, it.reason) for it in found)
    print_table(("address", "since", "source", "reason"), rows, empty="nobody is on the suppression list")


@suppress.command("import")
@click.argument("file")
@as_json
@pass_context
def import_(context: Context, file: str, as_json: bool) -> None:
    """Put on the list who stands in FILE; - is standard input. What is said of one already there stays.

    FILE is CSV with a column email (and reason, source, time, if there are any), or has one address a line.
    Lines that can't be used are told of and left out; then it exits 1.
    """
    from mailtasks.suppression import read

    bad: list[BadLine] = []
    with _opened(file) as (lines, name), context.mailer() as mailer:
        usable = _Usable(read(lines, name), name, bad, tell=not as_json)
        added = mailer.suppressions.update(usable)
    if as_json:
        told = [{"line": it.number, "why": it.why} for it in bad]
        print_json({"added": added, "already": usable.number - added, "bad": told})
    else:
        _say("added", added, "already there", usable.number - added, as_json)
    click.get_current_context().exit(1 if bad else 0)


class _Usable:
    """The entries of a file; those that are none are told of on the way."""

    def __init__(
        self, rows: Iterable[Suppression | BadLine], name: str, bad: list[BadLine], *, tell: bool
    ) -> None:
        self._rows = rows
        self._name = name
        self._bad = bad
        self._tell = tell
        self.number = 0

    def __iter__(self) -> Iterator[Suppression]:
        from mailtasks.suppression import BadLine

        for row in self._rows:
            if isinstance(row, BadLine):
                self._bad.append(row)
                if self._tell:
                    click.echo(f"mailtasks: {self._name}, {row}", err=True)
            else:
                self.number += 1
                yield row


@contextmanager
def _opened(file: str) -> Iterator[tuple[TextIO, str]]:
    """The lines of a file, and its name; octets that are no UTF-8 become surrogates."""
    how: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}
    if file == "-":
        lines = TextIOWrapper(sys.stdin.buffer, **how)
        yield lines, "standard input"
        lines.detach()  # or it would be closed
        return
    try:
        opened = open(file, **how)  # noqa: SIM115 (closed below; only opening it is the caller's mistake)
    except OSError as error:
        raise click.BadParameter(f"{file!r} can't be read: {error.strerror}") from None
    with opened:
        yield opened, file


@suppress.command()
@from_source
@as_json
@pass_context
def export(context: Context, source: str | None, as_json: bool) -> None:
    """Write the list to standard output as CSV (email, reason, source, time), as `import` reads it."""
    from mailtasks.suppression import write

    with context.mailer() as mailer:
        listed = _of_source(mailer.suppressions, source)
        if as_json:
            print_json([it.as_dict() for it in listed])
        else:
            write(listed, sys.stdout)


def _of_source(listed: Iterable[Suppression], source: str | None) -> Iterator[Suppression]:
    return (it for it in listed if source in (None, it.source))
