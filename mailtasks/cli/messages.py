"""The commands on messages: send, status, find, cancel, retry, failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from mailtasks.cli.context import Context, as_json, pass_context
from mailtasks.cli.options import content, headers, message_id, moment, octets, pairs, seconds
from mailtasks.cli.output import counted, print_json, print_line, print_pairs, print_table
from mailtasks.state import State

if TYPE_CHECKING:
    from mailtasks.status import MessageStatus, RecipientStatus, RetryReport, SetAside

NOT_MEANT: Final = "isn't what the options mean"
IDLE: Final = {
    State.SENT: "is sent",
    State.QUEUED: "is queued already",
    State.SENDING: "is being sent",
    State.IN_DOUBT: "is in doubt",
}
"""Why a recipient in this state isn't retried; in any other it would have been."""


@click.command()
@click.option("--to", multiple=True, metavar="ADDRESS", help="A recipient; may be given several times.")
@click.option("--cc", multiple=True, metavar="ADDRESS", help="A recipient of a copy.")
@click.option("--bcc", multiple=True, metavar="ADDRESS", help="A recipient that nobody sees.")
@click.option("--reply-to", multiple=True, metavar="ADDRESS", help="Where answers should go.")
@click.option("--from", "sender", metavar="ADDRESS", help="The sender; by default the setting default_from.")
@click.option(
    "--envelope-sender", metavar="ADDRESS", help="Where bounces go, by default to the sender; '' is nowhere."
)
@click.option("--subject", default="", help="The subject.")
@click.option("--text", help="The text.")
@click.option(
    "--text-file", callback=content, metavar="FILE", help="The text from a file; - is standard input."
)
@click.option("--html", callback=content, metavar="FILE", help="The HTML from a file; - is standard input.")
@click.option(
    "--raw",
    callback=octets,
    metavar="FILE",
    help="The whole mail as it is, from a file; - is standard input. It says who gets it, or --to does.",
)
@click.option("--attach", "attachments", multiple=True, metavar="FILE", help="A file to attach.")
@click.option("--header", "headers", multiple=True, callback=headers, metavar="NAME:VALUE", help="A header.")
@click.option("--priority", default="normal", show_default=True, help="urgent, normal or bulk.")
@click.option(
    "--send-at", callback=moment, metavar="TIME", help="Not before, such as 2030-01-31T09:00+01:00."
)
@click.option(
    "--expires-after", callback=seconds, metavar="DURATION", help="Not later, such as 90s, 15m or 2h."
)
@click.option(
    "--dsn-notify",
    multiple=True,
    metavar="WHEN",
    help="What servers on the way should tell of: success, failure, delay or never.",
)
@click.option("--dsn-return", metavar="WHAT", help="What a failure should bring back: full or headers.")
@click.option(
    "--require-tls", is_flag=True, help="Only over TLS on its whole way (REQUIRETLS), or not at all."
)
@click.option("--idempotency-key", metavar="KEY", help="Sending twice with one key sends one mail.")
@click.option(
    "--id",
    callback=message_id,
    metavar="ID",
    help="The id that an error printed, to try again without a second mail.",
)
@click.option(
    "--one-each", is_flag=True, help="Each recipient gets a mail of their own; prints an id for each."
)
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
    id: str | None,
    one_each: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Accept one mail and print its id.

    The mail is safe once the id is printed: workers send it, now or when the relay can be reached.
    """
    from mailtasks.message import Message

    if text is not None and text_file is not None:
        raise click.UsageError("Give --text or --text-file, not both.")
    _demand_content(text is not None or text_file is not None, fields)
    if not (fields["raw"] or fields["sender"] or context.settings.default_from):
        raise click.UsageError("Name the sender with --from, or set MAILTASKS_DEFAULT_FROM.")
    message = Message(text=text_file if text is None else text, **fields)
    if one_each and id is not None:
        raise click.UsageError("Give --id or --one-each, not both; an idempotency key is safe to send again.")
    with context.mailer() as mailer:
        ids = mailer.send_many([message], ids=[id] if id else None, one_each=one_each)
    if as_json:
        print_json({"ids": ids} if one_each else {"id": ids[0]})
    else:
        for accepted in ids:
            print_line(accepted)


def _demand_content(has_text: bool, fields: Mapping[str, Any]) -> None:
    if not (has_text or fields["html"] or fields["attachments"] or fields["raw"]):
        raise click.UsageError(
            "The mail would be empty: give --text, --text-file (- is standard input), --html, --attach or "
            "--raw, or --text '' if it should be."
        )


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
            **({"send at": message.send_at} if message.send_at > datetime.now(UTC) else {}),
            "finished": message.finished_at,
        }
    )
    print_line("")
    _print_recipients(message)


def _print_recipients(message: MessageStatus) -> None:
    columns = ("recipient", "state", "attempts", "tried", "next attempt", "reply")
    rows = (
        (it.address, it.state, it.attempts, it.tried_at, it.next_attempt, _said(it))
        for it in message.recipients
    )
    print_table(columns, rows)


def _said(it: RecipientStatus) -> str:
    """The last words, and that they aren't the whole story where an earlier attempt was in doubt."""
    if it.may_have_arrived and it.state is not State.IN_DOUBT:
        return f"{it.reply} (may have arrived before: it was resent out of doubt)".lstrip()
    return it.reply


@click.command()
@click.argument("address")
@as_json
@pass_context
def find(context: Context, address: str, as_json: bool) -> None:
    """List the mails to an address, as far as they are still kept.

    State and reply are those of ADDRESS alone; `mailtasks status ID` shows a mail's other recipients, and
    in --json they stand under `recipients`.
    """
    from mailtasks.address import parse

    with context.mailer() as mailer:
        found = list(mailer.find(address))
    wanted = parse(address).address.casefold()
    told = [_Told(it, it.about(lambda to: to.address.casefold() == wanted)) for it in found]
    _print_messages(told, as_json, empty=f"no mail to {address} is known in {context.ledger}")


@click.command()
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@as_json
@pass_context
def failed(context: Context, limit: int, as_json: bool) -> None:
    """List the mails that failed, expired or are in doubt, the latest first.

    State and reply are those of the recipients of whom that is so; `mailtasks status ID` shows a mail's other
    recipients, and in --json they stand under `recipients`.

    Before them stand the batches that were set aside, which nobody sends until they are retried.
    """
    from mailtasks.store.keys import LISTED_STATES  # brings in Redis

    with context.mailer() as mailer:
        failures = (_Told(it, it.about(lambda to: to.state in LISTED_STATES)) for it in mailer.failed())
        listed: Iterable[_Told | SetAside] = chain(mailer.aside(), failures)
        found = list(islice(listed, limit))
    _print_messages(found, as_json, empty="nothing failed")


@dataclass(frozen=True)
class _Told:
    """A message in a list, told by those of its recipients that the list is about."""

    message: MessageStatus
    about: MessageStatus

    def as_dict(self) -> dict[str, Any]:
        about = self.about
        return self.message.as_dict() | {
            "state": about.state.value,
            "attempts": about.attempts,
            "reply": about.reply,
        }


def _print_messages(messages: Sequence[_Told | SetAside], as_json: bool, *, empty: str) -> None:
    if as_json:
        print_json([message.as_dict() for message in messages])
        return
    columns = ("id", "state", "accepted", "to", "subject", "reply")
    print_table(columns, map(_row, messages), empty=empty)


def _row(it: _Told | SetAside) -> Sequence[Any]:
    if isinstance(it, _Told):
        about = it.about
        to = [recipient.address for recipient in about.recipients]
        return about.id, about.state, about.accepted_at, to, about.subject, _said(about.most_telling)
    return it.id, "set_aside", None, None, None, it.reply


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
@click.option("--domain", metavar="DOMAIN", help="Those to addresses at this domain.")
@click.option("--tag", metavar="WORD", help="Those whose mail carries this tag.")
@click.option("--campaign", metavar="NAME", help="Those of this campaign.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--force", is_flag=True, help="Also addresses that are refused for good, and mail that may have arrived."
)
@as_json
@pass_context
def retry(
    context: Context,
    ids: Sequence[str],
    reason: str | None,
    code: str | None,
    domain: str | None,
    tag: str | None,
    campaign: str | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Try again what failed, expired or was cancelled, and at once what waits for its next attempt.

    Who is on the suppression list is left alone: `mailtasks suppress remove` comes first, also with --force.

    Exits 1 if something was left alone that could be tried again so or with --force, or whose text is no
    longer kept; 0 also if there was nothing to do.
    """
    wanted = {"reason": reason, "code": code, "domain": domain, "tag": tag, "campaign": campaign}
    if not (ids or any(wanted.values())):
        raise click.UsageError("Name what to retry: ids, --reason, --code, --domain, --tag or --campaign.")
    with context.mailer() as mailer:
        report = mailer.retry(*ids, **wanted, dry_run=dry_run, force=force)
        asked = [] if force else [mailer.status(id) for id in ids]
    tell_retry(report, asked, dry_run=dry_run, as_json=as_json)


def tell_retry(
    report: RetryReport, asked: Sequence[MessageStatus] = (), *, dry_run: bool, as_json: bool
) -> NoReturn:
    """Print what was retried, and exit with 1 if something was left alone.

    Args:
        asked: the messages that were named, as they are now.
    """
    doubts = sum(it.state is State.IN_DOUBT for message in asked for it in message.recipients)
    if as_json:
        print_json(report.as_dict())
    else:
        _print_retry(report, dry_run, doubts)
        _print_idle(report, asked)
    left_alone = report.hard_bounces or report.doubtful or report.suppressed or report.bodiless or doubts
    click.get_current_context().exit(1 if left_alone else 0)


def _print_retry(report: RetryReport, dry_run: bool, doubts: int) -> None:
    print_line(f"{'would retry' if dry_run else 'retried'} {counted(report.retried, 'recipient')}")
    if report.hard_bounces:
        print_line(f"left alone {counted(report.hard_bounces, 'hard bounce')}; --force retries those, too")
    if report.suppressed:
        print_line(
            f"left alone {counted(report.suppressed, 'recipient')} on the suppression list; "
            "`mailtasks suppress remove ADDRESS` comes first"
        )
    if report.doubtful:
        print_line(
            f"left alone {counted(report.doubtful, 'recipient')} that may have arrived, "
            "since resent out of doubt; --force sends again, on your word"
        )
    if doubts:
        print_line(f"left alone {counted(doubts, 'recipient')} in doubt; --force sends again, on your word")
    if report.bodiless:
        print_line(
            f"left alone {counted(report.bodiless, 'recipient')} whose text is no longer kept; "
            f"send it anew: {', '.join(report.bodiless_ids)}"
        )


def _print_idle(report: RetryReport, asked: Sequence[MessageStatus]) -> None:
    """Why nothing was retried, where nothing above says so."""
    if report.retried or report.hard_bounces or report.doubtful or report.suppressed or report.bodiless:
        return
    for message in asked:
        for it in message.recipients:
            print_line(f"{it.address} {IDLE.get(it.state, NOT_MEANT)}")
    if not asked:
        print_line("nothing that failed or expired fits")
