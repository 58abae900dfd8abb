"""`mailtasks in-doubt`: what the relay may have taken without our knowing, and what becomes of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from mailtasks.cli.context import Context, as_json, pass_context
from mailtasks.cli.output import counted, print_json, print_line, print_table
from mailtasks.state import State

if TYPE_CHECKING:
    from mailtasks.mailer import Mailer

Command = Callable[..., Any]


@click.group(name="in-doubt")
def in_doubt() -> None:
    """List mail whose fate isn't known, send it again, or say what became of it.

    Its last byte may have reached the relay, and no answer was read. It is held until an answer comes
    after all or somebody decides: look for its Message-ID in the relay's log.
    """


@in_doubt.command("list")
@as_json
@pass_context
def list_(context: Context, as_json: bool) -> None:
    """List each recipient that is in doubt: since when, where, by which worker, and what was said."""
    with context.mailer() as mailer:
        doubts = list(mailer.in_doubt())
    if as_json:
        print_json([doubt.as_dict() for doubt in doubts])
        return
    columns = ("id", "to", "since", "relay", "worker", "resent", "message-id", "said")
    rows = (
        (
            it.id,
            it.address,
            it.since,
            it.relay or None,
            it.worker,
            f"{it.resends} x" if it.resends else "no",
            it.message_id,
            it.reply,
        )
        for it in doubts
    )
    print_table(columns, rows, empty="nothing is in doubt")


def _chosen(command: Command) -> Command:
    """The arguments and options that `resend` and `settle` share."""
    for decorator in (
        click.option("--yes", is_flag=True, help="Don't ask whether all is meant."),
        click.option("--dry-run", is_flag=True, help="Only say what would be done."),
        click.option("--all", "everything", is_flag=True, help="All that is in doubt."),
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        command = decorator(command)
    return command


@in_doubt.command()
@_chosen
@as_json
@pass_context
def resend(
    context: Context, ids: Sequence[str], everything: bool, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Send again, once, what is in doubt. Who has got the first mail gets a second.

    What isn't in doubt (any more) is left alone. Exits 1 if the text of something is no longer kept, or its
    recipient is on the suppression list.
    """
    _refuse_unclear(ids, everything)
    with context.mailer() as mailer:
        if everything and not (dry_run or yes):
            _ask(mailer, "Send all of it again")
        report = mailer.resend(*ids, everything=everything, dry_run=dry_run)
        others = _others(mailer, ids) if not report.retried and not report.bodiless else []
    if as_json:
        print_json(report.as_dict())
    else:
        print_line(f"{'would resend' if dry_run else 'resent'} {counted(report.retried, 'recipient')}")
        for id in report.bodiless_ids:
            print_line(f"{id} is left alone: its text is no longer kept; send it anew, or settle it")
        if report.suppressed:
            print_line(
                f"left alone {counted(report.suppressed, 'recipient')} on the suppression list; "
                "settle it, or `mailtasks suppress remove ADDRESS` first"
            )
        else:
            _print_others(others)
    click.get_current_context().exit(1 if report.bodiless or report.suppressed else 0)


@in_doubt.command()
@_chosen
@click.option(
    "--as",
    "as_",
    type=click.Choice([State.SENT.value, State.FAILED.value]),
    required=True,
    help="What became of it: sent or failed.",
)
@as_json
@pass_context
def settle(
    context: Context,
    ids: Sequence[str],
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_: str,
    as_json: bool,
) -> None:
    """Say what became of mail in doubt, once you know from the relay's log or from whoever waits for it.

    What isn't in doubt (any more) is left alone.
    """
    _refuse_unclear(ids, everything)
    with context.mailer() as mailer:
        if everything and not (dry_run or yes):
            _ask(mailer, f"Settle all of it as {as_}")
        settled = mailer.settle(*ids, as_=as_, everything=everything, dry_run=dry_run)
        others = _others(mailer, ids) if not settled else []
    if as_json:
        print_json({"settled": settled, "as": as_})
    else:
        done = "would settle" if dry_run else "settled"
        print_line(f"{done} {counted(settled, 'recipient')} as {as_}")
        _print_others(others)


def _refuse_unclear(ids: Sequence[str], everything: bool) -> None:
    if bool(ids) is everything:
        raise click.UsageError("Name ids, or all of it with --all.")


def _ask(mailer: Mailer, question: str) -> None:
    """All of it is asked about; where nobody can be asked it is refused."""
    if not sys.stdin.isatty():
        raise click.UsageError("--all asks first, and this is no terminal; add --yes.")
    held = mailer.stats().states[State.IN_DOUBT]
    print_line(f"{counted(held, 'recipient')} in doubt")
    click.confirm(f"{question}?", abort=True)


def _others(mailer: Mailer, ids: Sequence[str]) -> list[tuple[str, State]]:
    """What the recipients are that were named, as none of them was in doubt."""
    return [(it.address, it.state) for id in ids for it in mailer.status(id).recipients]


def _print_others(others: Sequence[tuple[str, State]]) -> None:
    for address, state in others:
        print_line(f"{address} is {state}")
