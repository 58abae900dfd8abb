"""Write `docs/reference/commands.md` from the commands of `mailtasks.cli`.

    python docs/make_commands_page.py

A test fails while the page isn't what this would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Final

import click

from mailtasks.cli import COMMANDS, group

PAGE: Final = Path(__file__).parent / "reference" / "commands.md"

INTRODUCTION: Final = """\
# Commands

<!-- Written by docs/make_commands_page.py from mailtasks/cli: change those, not this page. -->

    mailtasks [OPTIONS] COMMAND [OPTIONS]

Every command that prints a result takes `--json` and then prints one JSON document. What runs until it is
told to end (`worker`, `outbox run` without `--once`, `flower`, `sink`, `up`) doesn't; what `sink --save` has
caught is in the folder's `journal.jsonl`, a JSON document a line for each recipient. Errors are one sentence
on standard error. Exit codes:

| code | meaning |
| --- | --- |
| 0 | done; also what runs until it is told to end (`worker`, `outbox run`, `flower`, `sink`, `up`) and was \
told so by Ctrl-C or SIGTERM, and `demo` once its table is shown |
| 1 | failed: Redis is away, the id isn't known, it was too late to cancel, `check` found a fault, `sweep` \
found anything, the idempotency key was used for other content, `retry` left something alone, \
a campaign is finished or was begun with other content, `campaign send --wait` hasn't reached somebody, \
`outbox run --once` or `outbox status` found a row that is set aside, or that waits for too long, \
`outbox retry` was given a row that isn't, `worker` or `up` had to kill a process |
| 2 | wrong use: an argument, a setting, a message, a template or a file of people that can't be right; \
nothing was done |
| 130 | Ctrl-C before the command was done, or before one of those that run on had started; `demo` also \
if another signal ended it before it was done |

Options before the command:

"""


def page() -> str:
    """The whole page."""
    context = click.Context(group)
    sections = [part for name in COMMANDS for part in _sections(name, group.get_command(context, name))]
    return "\n".join([INTRODUCTION + _options(group), *sections])


def _sections(name: str, command: click.Command | None) -> Iterator[str]:
    """A command's, and behind a group's those of its commands."""
    assert command is not None, f"the command {name} isn't there"
    yield _section(name, command)
    for part in command.commands.values() if isinstance(command, click.Group) else ():
        yield _section(f"{name} {part.name}", part)


def _section(name: str, command: click.Command) -> str:
    arguments = [_argument(it) for it in command.params if isinstance(it, click.Argument)]
    options = "COMMAND" if isinstance(command, click.Group) else "[OPTIONS]"
    usage = " ".join(["mailtasks", name, options, *arguments])
    heading = "###" if " " in name else "##"
    return f"{heading} {name}\n\n    {usage}\n\n{cleandoc(command.help or '')}\n\n{_options(command)}"


def _argument(argument: click.Argument) -> str:
    return argument.metavar or str(argument.name).upper()


def _options(command: click.Command) -> str:
    rows = [_row(option) for option in command.params if isinstance(option, click.Option)]
    return "\n".join(["| option | meaning |", "| --- | --- |", *rows, ""]) if rows else ""


def _row(option: click.Option) -> str:
    spelling = ", ".join(f"`{it}`" for it in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.metavar or str(option.name).upper()}"
    default = f" Default: {option.default}." if option.show_default and not option.is_flag else ""
    return f"| {spelling}{value} | {option.help}{default} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
