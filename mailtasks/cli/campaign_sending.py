"""`mailtasks campaign send`: people and templates are read, shown and asked about, then accepted."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

import click

from mailtasks.cli.campaign_status import print_status, unsent, watch
from mailtasks.cli.context import Context, as_json, pass_context
from mailtasks.cli.options import headers, moment
from mailtasks.cli.output import counted, for_sheet, print_json, print_line, safe
from mailtasks.errors import InputError, StoreUnavailable
from mailtasks.message import Priority

if TYPE_CHECKING:
    from mailtasks.campaign import Campaign, CampaignOptions, Prepared, Report
    from mailtasks.compose.template import Template
    from mailtasks.people import Rejected


@click.command()
@click.argument("people", metavar="FILE")
@click.option("--name", help="By which it is known; by default one that is made of its content.")
@click.option("--from", "sender", metavar="ADDRESS", help="The sender; by default the setting default_from.")
@click.option("--subject", required=True, metavar="TEMPLATE", help="The subject, such as 'Hi {{ name }}'.")
@click.option("--text", type=Path, metavar="FILE", help="The text's template; without it the HTML's text.")
@click.option("--html", type=Path, metavar="FILE", help="The HTML's template.")
@click.option("--folder", type=Path, help="Where templates include from; by default where each stands.")
@click.option("--reply-to", multiple=True, metavar="ADDRESS", help="Where answers should go.")
@click.option(
    "--header", "headers", multiple=True, callback=headers, metavar="NAME:TEMPLATE", help="A header."
)
@click.option(
    "--unsubscribe",
    metavar="TEMPLATE",
    help="One-click unsubscription, such as 'https://example.com/u?who={{ email|urlencode }}'. Templates "
    "know it as unsubscribe_url.",
)
@click.option("--attach", "attachments", multiple=True, metavar="FILE", help="A file to attach to each mail.")
@click.option(
    "--attach-field",
    "attachment_fields",
    multiple=True,
    metavar="NAME",
    help="A column that names a file of each person's own; without a name in it there is none.",
)
@click.option(
    "--attach-folder",
    "attachment_folder",
    type=Path,
    metavar="FOLDER",
    help="Where these files lie: a column has a file's path in this folder.",
)
@click.option("--inline-css", is_flag=True, help="Rules in <style> become style attributes.")
@click.option("--encoding", help="The file's, if it isn't UTF-8.")
@click.option(
    "--priority",
    type=click.Choice([it.value for it in Priority]),
    default="bulk",
    show_default=True,
    help="Before or behind which other mail it goes.",
)
@click.option("--rate", metavar="RATE", help="Of all workers together, such as 10/s, 100/m or 5000/h.")
@click.option(
    "--start", "begins", callback=moment, metavar="TIME", help="Not before, such as 2030-01-31T09:00+01:00."
)
@click.option("--end", "ends", callback=moment, metavar="TIME", help="What isn't sent by then expires.")
@click.option("--tag", "tags", multiple=True, metavar="WORD", help="A word that each mail carries.")
@click.option(
    "--rejects",
    "rejects_file",
    type=Path,
    metavar="FILE",
    help="Write all rows that can't be mailed, as CSV.",
)
@click.option("--again", is_flag=True, help="If one of that name is finished or cancelled, send it anew.")
@click.option("--dry-run", is_flag=True, help="Say what would happen and show one mail; accept nothing.")
@click.option("--test-to", metavar="ADDRESS", help="Send one of the mails to this address, and nothing else.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--wait", is_flag=True, help="Wait until it is through, and show how it goes.")
@as_json
@pass_context
def send(
    context: Context,
    /,
    people: str,
    name: str | None,
    rejects_file: Path | None,
    encoding: str | None,
    again: bool,
    dry_run: bool,
    test_to: str | None,
    yes: bool,
    wait: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Send a mail to each of the people in FILE; - is standard input.

    FILE is CSV with a column email, whose other columns are the templates' variables, or JSON Lines, plain or
    compressed by gzip or zstd. Everything is read and checked before anybody is accepted. Rows that can't be
    mailed are told with line and reason, and don't stop the rest; an address that stands there twice is
    mailed once.

    Exits 0 if it is accepted, with --wait if everybody was sent it or is on the suppression list.
    """
    from mailtasks.campaign import Campaign

    if not (yes or dry_run or test_to or sys.stdin.isatty()):
        why = "Standard input is the list, so" if people == "-" else "There is no terminal, so"
        raise click.UsageError(f"{why} nobody can be asked whether it should be sent: add --yes.")
    if dry_run and test_to:
        raise click.UsageError("--dry-run sends nothing, and --test-to a mail: leave one out.")
    options, template = _options(given), _template(context, given)
    with ExitStack() as stack:
        mailer = stack.enter_context(context.mailer())
        wanted = Campaign(name, template, options, mailer=mailer)
        with _written(rejects_file, people) as write, _counting("read") as progress:
            rejects = _Rejects(people, write)
            try:
                prepared = wanted.prepare(
                    people, again=again, encoding=encoding, rejected=rejects.tell, progress=progress
                )
            except KeyboardInterrupt:
                _say("interrupted while reading; this has accepted nobody")
                raise
        stack.enter_context(prepared)
        _tell(prepared, rejects)
        if test_to:
            _test(prepared, test_to, as_json)
        elif dry_run:
            _show(prepared, as_json)
        elif yes or _is_wanted(prepared):
            report = _accept(prepared)
            _finish(wanted, report, prepared.suppressed, wait=wait, as_json=as_json)
        else:
            _say("nothing was accepted")
            click.get_current_context().exit(1)


def _options(given: Mapping[str, Any]) -> CampaignOptions:
    from mailtasks.campaign import CampaignOptions

    names = ("begins", "ends", "rate", "tags")
    return CampaignOptions(priority=Priority(given["priority"]), **{name: given[name] for name in names})


def _template(context: Context, given: Mapping[str, Any]) -> Template:
    from mailtasks.compose.template import Template

    if given["text"] is None and given["html"] is None:
        raise click.UsageError("The mails would be empty: give --text, --html or both.")
    sender = given["sender"] or context.settings.default_from
    if not sender:
        raise click.UsageError("Name the sender with --from, or set MAILTASKS_DEFAULT_FROM.")
    if bool(given["attachment_fields"]) != bool(given["attachment_folder"]):
        raise click.UsageError(
            "Give --attach-field and --attach-folder together: a column, and where its files lie."
        )
    names = (
        *("subject", "text", "html", "folder", "reply_to", "headers", "unsubscribe", "attachments"),
        *("attachment_fields", "attachment_folder", "inline_css"),
    )
    return Template(sender=sender, **{name: given[name] for name in names})


# Rows that can't be mailed


class _Rejects:
    """Tells of rows as they are read: the first few of each reason to people, all of them to a file."""

    SHOWN: Final = 10

    def __init__(self, source: str, write: Callable[[Sequence[Any]], object]) -> None:
        self._source = "standard input" if source == "-" else source
        self._write = write
        self._shown: dict[str, int] = {}

    def tell(self, row: Rejected) -> None:
        """Tell of one."""
        self._write((row.line, row.reason.value, for_sheet(row.what)))
        shown = self._shown.get(row.reason, 0)
        self._shown[row.reason] = shown + 1
        if shown < self.SHOWN:
            _say(f"{self._source}, line {row.line}: {row.what}")

    def sum_up(self) -> str:
        """`rejected 14 rows: 2 × bad address, 12 × repeated`; "" if there are none."""
        if not self._shown:
            return ""
        parts = ", ".join(f"{number:,} × {reason}" for reason, number in sorted(self._shown.items()))
        more = max(self._shown.values()) > self.SHOWN
        where = f"; at most {self.SHOWN} of a kind are shown, --rejects FILE writes all" if more else ""
        return f"rejected {counted(sum(self._shown.values()), 'row')}: {parts}{where}"


@contextmanager
def _written(file: Path | None, people: str) -> Iterator[Callable[[Sequence[Any]], object]]:
    """What writes a row of the file of those that can't be mailed."""
    if file is None:
        yield lambda row: None
        return
    if file.exists() and Path(people).exists() and file.samefile(people):
        raise click.UsageError(f"--rejects would overwrite the people in {people!r}: name another file.")
    try:
        opened = file.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise click.BadParameter(f"--rejects: {str(file)!r} can't be written: {error.strerror}") from None
    with opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(("line", "reason", "what"))
        yield writer.writerow


# Before it is sent


def _tell(prepared: Prepared, rejects: _Rejects) -> None:
    """What people should know before they say yes."""
    summed_up = rejects.sum_up()
    if summed_up:
        _say(summed_up)
    if prepared.unusable:
        _say(f"no template can use the columns {', '.join(prepared.unusable)}: rename them, if one should")
    if prepared.before:
        _say(f"{prepared.before:,} of {prepared.people:,} people are accepted already")
    if prepared.template.unsubscribe is None:
        _say("without --unsubscribe nobody can leave in one click, as large providers demand of bulk mail")
    if prepared.suppressed:
        _say(
            f"{counted(prepared.suppressed, 'address', 'addresses')} on the suppression list will get nothing"
        )


def _is_wanted(prepared: Prepared) -> bool:
    """What a person says; where nobody would be mailed, there is nothing to ask."""
    number = prepared.to_send
    if not number:
        return True
    _say(_described(prepared))
    try:
        return click.confirm(f"Send to {_people(number)}?", err=True)
    except click.Abort:
        click.echo(err=True)
        _say("nothing was accepted")
        raise


def _described(prepared: Prepared) -> str:
    """What the question is about."""
    options, template = prepared.options, prepared.template
    parts = [f"campaign {prepared.name!r} from {template.sender}: {template.subject.main.text}"]
    if options.begins:
        parts.append(f"not before {options.begins.isoformat(timespec='minutes')}")
    if options.rate:
        parts.append(f"at most {options.rate}")
    if prepared.is_again:
        parts.append("SENT BEFORE: everybody gets it once more")
    return "; ".join(parts)


def _test(prepared: Prepared, to: str, as_json: bool) -> None:
    id = prepared.test(to)
    if as_json:
        print_json({"campaign": prepared.name, "accepted": 0, "rejected": _rejected(prepared), "id": id})
    else:
        print_line(f"the mail to {prepared.person.email} goes to {to}, with that person's links: {id}")


def _show(prepared: Prepared, as_json: bool) -> None:
    """What would happen, and one mail."""
    from mailtasks.cli.letter import Letter

    letter = Letter.of(prepared.mail)
    if as_json:
        print_json(
            {
                "campaign": prepared.name,
                "accepted": 0,
                "rejected": _rejected(prepared),
                "reasons": dict(prepared.rejected),
                "before": prepared.before,
                "suppressed": prepared.suppressed,
                "would_accept": prepared.people - prepared.before,
                "would_send": prepared.to_send,
                "mail": letter.as_dict(),
            }
        )
        return
    print_line(f"would send to {_people(prepared.to_send)} as campaign {prepared.name!r}; one of the mails:")
    print_line("")
    for line in letter.lines():
        print_line(line)


def _rejected(prepared: Prepared) -> int:
    return sum(prepared.rejected.values())


# Sending


def _accept(prepared: Prepared) -> Report:
    try:
        with _counting(f"of {prepared.people:,} accepted") as progress:
            return prepared.send(progress)
    except (KeyboardInterrupt, StoreUnavailable, InputError):
        _say(
            f"interrupted after {prepared.accepted:,} of {_people(prepared.people)}; the same command takes "
            f"campaign {prepared.name!r} up, and mails nobody twice"
        )
        raise


def _finish(campaign: Campaign, report: Report, suppressed: int, *, wait: bool, as_json: bool) -> None:
    if not as_json:
        print_line(_accepted(report, suppressed))
    if not wait:
        if as_json:
            print_json(report.as_dict())
        else:
            print_line(f"`mailtasks campaign status {quote(report.campaign)}` shows how it goes")
        return
    try:
        status = watch(campaign)
    except KeyboardInterrupt:
        _say(f"it goes on without this command: `mailtasks campaign status {quote(report.campaign)}`")
        raise
    if as_json:
        print_json(report.as_dict() | {"status": status.as_dict()})
    else:
        print_status(status)
    click.get_current_context().exit(1 if unsent(status) else 0)


def _accepted(report: Report, suppressed: int) -> str:
    new = report.accepted - report.before
    before = f", {report.before:,} of them before" if report.before else ""
    before += f", {suppressed:,} of them on the suppression list" if suppressed else ""
    if report.before and not new:
        return f"accepted nobody: all {_people(report.accepted)} of campaign {report.campaign!r} were before"
    return f"accepted {_people(report.accepted)} in campaign {report.campaign!r}{before}"


def _people(number: int) -> str:
    return counted(number, "person", "people")


_CLEARED: Final = "\r\x1b[K"  # a line of a terminal


def _say(sentence: str) -> None:
    cleared = _CLEARED if sys.stderr.isatty() else ""  # of a number that is shown
    click.echo(f"{cleared}mailtasks: {safe(sentence)}", err=True)


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int], object]]:
    """Shows a number that grows, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda number: None
        return
    try:
        yield lambda number: click.echo(f"\r{number:,} {what} ", nl=False, err=True)
    finally:
        click.echo(_CLEARED, nl=False, err=True)
