"""`mailtasks campaign`: one template to many people; send it, watch it, steer it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from mailtasks.cli.campaign_sending import send
from mailtasks.cli.campaign_status import print_status, unsent
from mailtasks.cli.context import Context, as_json, pass_context
from mailtasks.cli.messages import tell_retry
from mailtasks.cli.output import counted, for_sheet, print_json, print_line, print_table
from mailtasks.state import State

if TYPE_CHECKING:
    from mailtasks.campaign import Campaign, CampaignStatus
    from mailtasks.mailer import Mailer
    from mailtasks.status import MessageStatus

some_campaign = click.argument("name")

FAILURE: Final = ("email", "state", "attempts", "tried", "reply", "id")
"""What is told of one who failed."""

SHOWN: Final = ("email", "state", "reply")
"""What of it is shown to people, who may have eighty columns."""


@click.group()
def campaign() -> None:
    """Send one template to many people, each a mail of their own; watch it, pause it, take it up.

    A campaign is known by its name. The command that began it takes it up where it was interrupted, and mails
    nobody twice.
    """


campaign.add_command(send)


@campaign.command("list")
@as_json
@pass_context
def list_(context: Context, as_json: bool) -> None:
    """List the campaigns, the latest first."""
    from mailtasks.campaign import Campaign

    with context.mailer() as mailer:
        found = [it.status() for it in Campaign.all(mailer)]
    if as_json:
        print_json([it.as_dict() for it in found])
        return
    columns = ("name", "state", "people", "sent", "unfinished", "unsent", "begun", "finished")
    print_table(columns, map(_row, found), empty="there is no campaign")


def _row(it: CampaignStatus) -> Sequence[Any]:
    sent = it.states[State.SENT]
    return it.name, it.state, it.rows, sent, it.unfinished, unsent(it), it.begun_at, it.finished_at


@campaign.command()
@some_campaign
@as_json
@pass_context
def status(context: Context, name: str, as_json: bool) -> None:
    """Show how a campaign stands."""
    with context.mailer() as mailer:
        found = _campaign(mailer, name).status()
    if as_json:
        print_json(found.as_dict())
    else:
        print_status(found)


@campaign.command()
@some_campaign
@click.option("--reason", default="", metavar="TEXT", help="Why; `status` shows it.")
@as_json
@pass_context
def pause(context: Context, name: str, reason: str, as_json: bool) -> None:
    """Let nothing more of a campaign go, on all workers, until it is resumed."""
    with context.mailer() as mailer:
        news = _campaign(mailer, name).pause(reason)
        stands = "" if news else _stands(_campaign(mailer, name).status())
    _steered(name, as_json, f"paused {name!r}" if news else f"{name!r} {stands}", paused=news)


@campaign.command()
@some_campaign
@as_json
@pass_context
def resume(context: Context, name: str, as_json: bool) -> None:
    """Let a paused campaign go on."""
    with context.mailer() as mailer:
        news = _campaign(mailer, name).resume()
    _steered(name, as_json, f"resumed {name!r}" if news else f"{name!r} wasn't paused", resumed=news)


@campaign.command()
@some_campaign
@as_json
@pass_context
def cancel(context: Context, name: str, as_json: bool) -> None:
    """Cancel what of a campaign isn't sent, for good."""
    with context.mailer() as mailer:
        before = _campaign(mailer, name).status()
        number = _campaign(mailer, name).cancel()
    people = counted(number, "person", "people")
    sentence = f"{name!r} {_stands(before)}" if before.is_over else f"cancelled {people} of {name!r}"
    _steered(name, as_json, sentence, cancelled=number)


def _stands(status: CampaignStatus) -> str:
    """Why nothing is done."""
    already = " already" if status.state in ("paused", "cancelled") else ""
    return f"is {status.state}{already}" + (f" ({status.reason})" if status.reason else "")


def _steered(name: str, as_json: bool, sentence: str, **told: object) -> None:
    if as_json:
        print_json({"campaign": name, **told})
    else:
        print_line(sentence)


@campaign.command()
@some_campaign
@click.option("--csv", "as_csv", is_flag=True, help="Write all of them as CSV: email, state, reply and more.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Show at most so many; --csv and --json tell all.",
)
@as_json
@pass_context
def failures(context: Context, name: str, as_csv: bool, limit: int, as_json: bool) -> None:
    """List who of a campaign failed, expired or is in doubt, and why.

    They are kept for the retention of failures; after that only their number is known.
    """
    with context.mailer() as mailer:
        found = map(_failure, _campaign(mailer, name).failures())
        if as_csv:
            writer = csv.DictWriter(sys.stdout, FAILURE, lineterminator="\n")
            writer.writeheader()
            writer.writerows(it | {"reply": for_sheet(it["reply"])} for it in found)
            return
        listed = list(islice(found, None if as_json else limit + 1))
    if as_json:
        print_json(listed)
        return
    shown = ([it[column] for column in SHOWN] for it in listed[:limit])
    print_table(SHOWN, shown, empty=f"nobody of {name!r} failed")
    if len(listed) > limit:
        print_line(f"and more than these {limit:,}: --limit shows more, --csv all of them")


def _failure(message: MessageStatus) -> dict[str, Any]:
    """Its values stand in the order of `FAILURE`."""
    [it] = message.recipients
    tried = it.tried_at.isoformat(timespec="seconds") if it.tried_at else ""
    values = (it.address, it.state.value, it.attempts, tried, it.reply, message.id)
    return dict(zip(FAILURE, values, strict=True))


@campaign.command()
@some_campaign
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--force", is_flag=True, help="Also addresses that were refused for good.")
@as_json
@pass_context
def retry(context: Context, name: str, dry_run: bool, force: bool, as_json: bool) -> None:
    """Try again who of a campaign failed or expired. Exits 1 if somebody was left alone."""
    with context.mailer() as mailer:
        report = _campaign(mailer, name).retry(force=force, dry_run=dry_run)
    tell_retry(report, dry_run=dry_run, as_json=as_json)


def _campaign(mailer: Mailer, name: str) -> Campaign:
    from mailtasks.campaign import Campaign

    return Campaign(name, mailer=mailer)
