"""The command line: `mailtasks COMMAND`.

The rules:

1. Exit codes: 0 done, 1 failed, 2 wrong use (an argument, a setting or a message that can't be right).
2. What is asked for goes to stdout, as text or with `--json` as one JSON document. An error is one
   sentence on stderr, a traceback only with `--debug`.
3. A command is a thin shell around a public function: nothing here that Python code couldn't do.
4. Nothing heavy is imported before a command needs it, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

import click

from mailtasks import __version__
from mailtasks.cli.context import Context
from mailtasks.cli.options import pairs
from mailtasks.errors import MailtasksError, MessageError, SettingsError

COMMANDS: Final = {
    "send": "messages",
    "status": "messages",
    "find": "messages",
    "cancel": "messages",
    "retry": "messages",
    "failed": "messages",
    "stats": "operate",
    "queue": "operate",
    "pause": "operate",
    "resume": "operate",
    "worker": "serve",
    "flower": "serve",
    "sink": "serve",
    "up": "serve",
    "demo": "demo",
    "config": "config",
    "check": "check",
}
"""Each command and the module of this package that holds it, in the order in which help lists them."""

WRONG_USE: Final = (SettingsError, MessageError)
INTERRUPTED: Final = 130  # what a shell reports for a program that SIGINT ended


class _Commands(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"{__name__}.{COMMANDS[name]}")
        command: click.Command = getattr(module, name)
        return command


@click.command(cls=_Commands)
@click.option("--config", "file", metavar="FILE", help="Settings from this file instead of mailtasks.toml.")
@click.option(
    "-s",
    "--set",
    "changes",
    metavar="NAME=VALUE",
    multiple=True,
    callback=pairs("="),
    help="Change a setting.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, message="mailtasks %(version)s")
@click.pass_context
def group(context: click.Context, file: str | None, changes: dict[str, str], debug: bool) -> None:
    """Send mail through a queue that loses nothing, and see what became of it."""
    context.obj = Context(file, changes, debug)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: run one command and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code."""
    try:
        code = group.main(list(arguments), prog_name="mailtasks", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _report_click(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()
    except Exception as error:
        if "--debug" in arguments:
            raise
        return _report(error)
    return code if isinstance(code, int) else 0


def _report_click(error: click.ClickException) -> int:
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "mailtasks"
    sentence = " ".join(error.format_message().split())
    stop = "" if sentence.endswith((".", "?")) else "."
    click.echo(f"mailtasks: {sentence}{stop} See `{where} --help`.", err=True)
    return error.exit_code


def _report(error: Exception) -> int:
    """One sentence on stderr; the exit code."""
    known = isinstance(error, MailtasksError)
    sentence = str(error) if known else f"{type(error).__name__}: {error} (this is a bug; --debug shows more)"
    click.echo(f"mailtasks: {sentence}", err=True)
    return 2 if isinstance(error, WRONG_USE) else 1


def _reader_gone() -> int:
    """`mailtasks … | head` has seen enough; Python must not complain when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
