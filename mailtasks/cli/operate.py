"""The commands for whoever operates it: stats, queue, blobs, pause, resume, sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mailtasks.cli.context import Context, as_json, pass_context
from mailtasks.cli.output import print_json, print_line, print_pairs, print_table

if TYPE_CHECKING:
    from mailtasks.status import Stats


@click.command()
@as_json
@pass_context
def stats(context: Context, as_json: bool) -> None:
    """Show how many recipients are in which state, how fast mail is sent, and how long it takes."""
    with context.mailer() as mailer:
        figures = mailer.stats()
    if as_json:
        print_json(figures.as_dict())
    else:
        _print_stats(figures)
        if not figures.accepted:
            print_line("")
            print_line(f"nothing was ever accepted in {context.ledger}; is that the right Redis?")


def _print_stats(figures: Stats) -> None:
    print_table(("state", "recipients"), [*figures.states.items(), ("accepted", figures.accepted)])
    print_line("")
    print_pairs(
        {
            "sent a second (over the last 5 whole minutes)": figures.sent_per_second,
            "sent in the last hour": figures.sent_last_hour,
            "failed in the last hour": figures.failed_last_hour,
            "deferrals in the last hour": figures.deferrals_last_hour,
            "success rate of the last hour": figures.success_rate,
            "addresses on the suppression list": figures.suppressions,
            **figures.tallies,
        }
    )
    print_line("")
    columns = ("response times, s", "count", "average", "median", "95th percentile")
    times = figures.response_times.items()
    print_table(columns, ((name, it.count, it.average, it.median, it.percentile_95) for name, it in times))


@click.command()
@as_json
@pass_context
def queue(context: Context, as_json: bool) -> None:
    """Show what is unfinished, by priority: how much, since when, and what it waits for."""
    with context.mailer() as mailer:
        queues = mailer.queue()
    if as_json:
        print_json({it.priority.value: it.as_dict() for it in queues})
        return
    columns = (
        *("priority", "recipients", "batches", "due", "next due", "oldest", "hints", "paused"),
        *("waiting", "in doubt"),
    )
    rows = (
        (
            it.priority,
            it.recipients,
            it.batches,
            it.due,
            it.next_due,
            it.oldest,
            it.hints,
            it.paused,
            [f"{count} for {gate}" for gate, count in it.waiting.items()],
            it.in_doubt,
        )
        for it in queues
    )
    print_table(columns, rows)
    if not any(it.recipients or it.hints or it.in_doubt for it in queues):
        print_line(f"nothing waits in {context.ledger}")


@click.command()
@as_json
@pass_context
def blobs(context: Context, as_json: bool) -> None:
    """Show the large attachments that are stored until their mail is sent: where, how many, how large."""
    with context.mailer() as mailer:
        found = mailer.attachments()
    if as_json:
        print_json(found.as_dict())
        return
    print_pairs(
        {
            "where": found.where,
            "attachments": found.stored,
            "bytes": found.bytes,
            "bytes at most": found.cap,
            "being stored": found.being_stored,
            "being deleted": found.being_deleted,
            **{f"still in another store ({kind})": number for kind, number in found.elsewhere.items()},
        }
    )


@click.command()
@click.argument("what", default="all", metavar="[PRIORITY]")
@as_json
@pass_context
def pause(context: Context, what: str, as_json: bool) -> None:
    """Stop sending everything, or one PRIORITY, until `mailtasks resume`.

    What is being sent at this moment is finished.
    """
    with context.mailer() as mailer:
        mailer.pause(what)
    _say(what, "paused", True, as_json)


@click.command()
@click.argument("what", default="all", metavar="[PRIORITY]")
@as_json
@pass_context
def resume(context: Context, what: str, as_json: bool) -> None:
    """Go on after `mailtasks pause`: with everything, or with one PRIORITY.

    Resuming one PRIORITY leaves a pause of everything in force.
    """
    with context.mailer() as mailer:
        was_paused = mailer.resume(what)
        all_paused = "all" in mailer.paused()
    done = "resumed" if was_paused else "not paused"
    still = "; everything is still paused, until `mailtasks resume`" if all_paused else ""
    _say(what, done + still, all_paused, as_json)


def _say(what: str, done: str, paused: bool, as_json: bool) -> None:
    if as_json:
        print_json({"what": what, "paused": paused})
    else:
        print_line(f"{what}: {done}")


@click.command()
@as_json
@pass_context
def sweep(context: Context, as_json: bool) -> None:
    """Look through all that is kept for what should never be found, and mend it. Exits 1 if it finds any.

    Workers do so by themselves, a little each second and a round an hour.
    """
    with context.mailer() as mailer:
        found = mailer.sweep()
    if as_json:
        print_json([stray.as_dict() for stray in found])
    else:
        rows = ((stray.batch, stray.found) for stray in found)
        print_table(("batch", "found"), rows, empty="nothing is astray")
    click.get_current_context().exit(1 if found else 0)
