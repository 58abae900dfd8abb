"""The commands on messages: send, status, find, cancel, retry, failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from mailtasks.cli.context import Context, as_json, pass_context
from mailtasks.cli.options import content, moment, pairs, seconds
from mailtasks.cli.output import counted, print_json, print_line, print_pairs, print_table

if TYPE_CHECKING:
    from mailtasks.status import MessageStatus, RetryReport


@click.command()
@click.option("--to", multiple=True, metavar="ADDRESS", help="A recipient; may be given several times.")
@click.option("--cc", multiple=True, metavar="ADDRESS", help="A recipient of a copy.")
@click.option("--bcc", multiple=True, metavar="ADDRESS", help="A recipient that nobody sees.")
@click.option("--reply-to", multiple=True, metavar="ADDRESS", help="Where answers should go.")
@click.option("--from", "sender", metavar="ADDRESS", help="The sender; by default the setting default_from.")
@click.option("--subject", default="", help="The subject.")
@click.option("--text", help="The text.")
@click.option(
    "--text-file", callback=content, metavar="FILE", help="The text from a file; - is standard input."
)
@click.option("--html", callback=content, metavar="FILE", help="The HTML from a file; - is standard input.")
@click.option("--attach", "attachments", multiple=True, metavar="FILE", help="A file to attach.")
@click.option(
    "--header", "headers", multiple=True, callback=pairs(":"), metavar="NAME:VALUE", help="A header."
)
@click.option("--priority", default="normal", show_default=True, help="urgent, normal or bulk.")
@click.option(
    "--send-at", callback=moment, metavar="TIME", help="Not before, such as 2030-01-31T09:00+01:00."
)
@click.option(
    "--expires-after", callback=seconds, metavar="DURATION", help="Not later, such as 90s, 15m or 2h."
)
@click.option("--idempotency-key", metavar="KEY", help="Sending twice with one key sends one mail.")
@click.option("--tag", "tags", multiple=True, metavar="WORD", help="A word of yours.")
@click.option(
    "--metadata", multiple=True, callback=pairs("="), metavar="NAME=VALUE", help="Kept, not mailed."
)
@as_json
@pass_context
def send(
    context: Context,
    /,
    text: str | None,
    text_file: str | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Accept one mail and print its id.

    The mail is safe once the id is printed: workers send it, now or when the relay can be reached.
    """
    from mailtasks.message import Message

    if text is not None and text_file is not None:
        raise click.UsageError("Give --text or --text-file, not both.")
    message = Message(text=text_file if text is None else text, **fields)
    with context.mailer() as mailer:
        id = mailer.send(message)
    if as_json:
        print_json({"id": id})
    else:
        print_line(id)


@click.command()
@click.argument("id")
@as_json
@pass_context
def status(context: Context, id: str, as_json: bool) -> None:
    """Show what became of a mail."""
    with context.mailer() as mailer:
        message = mailer.status(id)
    if as_json:
        print_json(message.as_dict())
        return
    print_pairs(
        {
            "id": message.id,
            "state": message.state,
            "subject": message.subject,
            "priority": message.priority,
            "accepted": message.accepted_at,
            "send at": message.send_at,
            "finished": message.finished_at,
        }
    )
    print_line("")
    _print_recipients(message)


def _print_recipients(message: MessageStatus) -> None:
    columns = ("recipient", "state", "attempts", "tried", "next attempt", "reply")
    rows = (
        (it.address, it.state, it.attempts, it.tried_at, it.next_attempt, it.reply)
        for it in message.recipients
    )
    print_table(columns, rows)


@click.command()
@click.argument("address")
@as_json
@pass_context
def find(context: Context, address: str, as_json: bool) -> None:
    """List the mails to an address, as far as they are still kept."""
    with context.mailer() as mailer:
        found = list(mailer.find(address))
    _print_messages(found, as_json, empty=f"no mail to {address} is known")


@click.command()
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@as_json
@pass_context
def failed(context: Context, limit: int, as_json: bool) -> None:
    """List the mails that failed, expired or are in doubt, the latest first."""
    with context.mailer() as mailer:
        found = list(islice(mailer.failed(), limit))
    _print_messages(found, as_json, empty="nothing failed")


def _print_messages(messages: Iterable[MessageStatus], as_json: bool, *, empty: str) -> None:
    if as_json:
        print_json([message.as_dict() for message in messages])
        return
    columns = ("id", "state", "accepted", "to", "subject", "reply")
    rows = (
        (it.id, it.state, it.accepted_at, [to.address for to in it.recipients], it.subject, it.reply)
        for it in messages
    )
    print_table(columns, rows, empty=empty)


@click.command()
@click.argument("id")
@as_json
@pass_context
def cancel(context: Context, id: str, as_json: bool) -> None:
    """Cancel what of a mail isn't sent yet. Exits 1 if it was too late for all of it."""
    with context.mailer() as mailer:
        cancelled = mailer.cancel(id)
    if as_json:
        print_json({"id": id, "cancelled": cancelled})
    else:
        print_line(
            f"cancelled {counted(cancelled, 'recipient')}"
            if cancelled
            else "too late: nothing was left to cancel"
        )
    click.get_current_context().exit(0 if cancelled else 1)


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--reason", metavar="TEXT", help="Those whose last reply holds this text.")
@click.option("--code", metavar="CODE", help="Those whose last reply has this code, such as 550 or 5.7.1.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--force", is_flag=True, help="Also addresses that are refused for good (hard bounces).")
@as_json
@pass_context
def retry(
    context: Context,
    ids: Sequence[str],
    reason: str | None,
    code: str | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Try again what failed, expired or was cancelled, and at once what waits for its next attempt."""
    if not (ids or reason or code):
        raise click.UsageError("Name what to retry: ids, --reason or --code.")
    with context.mailer() as mailer:
        report = mailer.retry(*ids, reason=reason, code=code, dry_run=dry_run, force=force)
    if as_json:
        print_json(report.as_dict())
    else:
        _print_retry(report, dry_run)
    click.get_current_context().exit(
        0 if report.retried or not (report.bodiless or report.hard_bounces) else 1
    )


def _print_retry(report: RetryReport, dry_run: bool) -> None:
    print_line(f"{'would retry' if dry_run else 'retried'} {counted(report.retried, 'recipient')}")
    if report.hard_bounces:
        print_line(f"left alone {counted(report.hard_bounces, 'hard bounce')}; --force retries those, too")
    if report.bodiless:
        print_line(
            f"left alone {counted(report.bodiless, 'recipient')} whose text is no longer kept; send it anew"
        )
