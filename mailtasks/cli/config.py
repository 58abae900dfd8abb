"""`mailtasks config`: each effective setting and where it came from."""

from __future__ import annotations

from dataclasses import asdict, astuple

import click

from mailtasks.cli.context import Context, as_json, pass_context
from mailtasks.cli.output import print_json, print_table


@click.command()
@click.option("--changed", is_flag=True, help="Only what isn't the default.")
@as_json
@pass_context
def config(context: Context, changed: bool, as_json: bool) -> None:
    """Show each setting's value, where it came from and what it means; secrets are masked."""
    rows = [row for row in context.settings.describe() if not (changed and row.source == "default")]
    if as_json:
        print_json({row.name: asdict(row) for row in rows})
    else:
        columns = ("setting", "value", "source", "meaning")
        print_table(columns, map(astuple, rows), empty="every setting has its default")
