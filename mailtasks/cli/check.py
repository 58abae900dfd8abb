"""`mailtasks check`: a doctor for the whole installation."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mailtasks.cli.context import Context, as_json, pass_context
from mailtasks.cli.output import print_json, print_line

if TYPE_CHECKING:
    from mailtasks.cli.doctor import Finding


@click.command()
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Seconds that the relay may take for an answer.",
)
@as_json
@pass_context
def check(context: Context, timeout: float, as_json: bool) -> None:
    """Look at Redis, the workers, the relay and this installation; say what to do.

    Exits with 1 if something fails.
    """
    from mailtasks.cli.doctor import Level, examine  # brings in Redis and SMTP

    findings = list(examine(context.settings, timeout=timeout, environment=context.environment))
    if context.host.outbox:
        from mailtasks.cli.outbox_check import outbox_finding

        findings.append(outbox_finding(context.host.outbox(None)))
    fine = all(finding.level is not Level.FAIL for finding in findings)
    if as_json:
        print_json({"ok": fine, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings, context.host.program)
    click.get_current_context().exit(0 if fine else 1)


def _print(findings: list[Finding], program: str) -> None:
    """A line a finding, and what to do on a line of its own: by commands as they are called here."""
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print_line(f"{finding.level:<4}  {finding.subject:<{width}}  {finding.found}")
        if finding.advice:
            advice = finding.advice.replace("`mailtasks ", f"`{program} ")
            print_line(f"{'':<4}  {'':<{width}}  -> {advice}")
