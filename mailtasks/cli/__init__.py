"""The command line: `mailtasks COMMAND`.

The rules:

1. Exit codes: 0 done, 1 failed, 2 wrong use (an argument, a setting, a message or a file of people that
   can't be right); `--debug` doesn't change them.
2. What is asked for goes to stdout, as text or with `--json` as one JSON document. An error is one
   sentence on stderr, a traceback only with `--debug`.
3. A command is a thin shell around a public function: nothing here that Python code couldn't do.
4. Nothing heavy is imported before a command needs it, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Final, NoReturn

import click

from mailtasks import __version__
from mailtasks.cli.context import Context, Host
from mailtasks.cli.options import pairs
from mailtasks.errors import InputError, MailtasksError, MessageError, SettingsError, StoreUnavailable

COMMANDS: Final = {
    "send": "messages",
    "status": "messages",
    "find": "messages",
    "cancel": "messages",
    "retry": "messages",
    "failed": "messages",
    "in-doubt": "doubt",
    "campaign": "campaigning",
    "suppress": "suppressing",
    "stats": "operate",
    "queue": "operate",
    "blobs": "operate",
    "pause": "operate",
    "resume": "operate",
    "sweep": "operate",
    "worker": "serve",
    "outbox": "outbox",
    "flower": "serve",
    "sink": "serve",
    "up": "serve",
    "demo": "demo",
    "config": "config",
    "check": "check",
}
"""Each command and the module of this package that holds it, in the order in which help lists them."""

WRONG_USE: Final = (SettingsError, MessageError, InputError)
INTERRUPTED: Final = 130  # what a shell reports for a program that SIGINT ended
UNWRITABLE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What standard output says that takes no more; errors of files that we name carry the file's name."""


class _Commands(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"{__name__}.{COMMANDS[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and (near := get_close_matches(args[0], COMMANDS, n=2)):
            context.fail(f"No such command {args[0]!r}. Did you mean {' or '.join(map(repr, near))}?")
        return super().resolve_command(context, args)


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
    context.obj = Context(file, changes, debug, context.obj or Host())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: run one command and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str], host: Host | None = None) -> int:
    """Run one command; return its exit code.

    Args:
        host: whose command line this is, by default the shell's.
    """
    host = host or Host()
    try:
        code = group.main(list(arguments), prog_name=host.program, standalone_mode=False, obj=host)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _report_click(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return _forget_output()
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _report(error)
    return code if isinstance(code, int) else 0


def _report_click(error: click.ClickException) -> int:
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "mailtasks"
    sentence = " ".join(_in_words(error).split())
    stop = "" if sentence.endswith((".", "?")) else "."
    click.echo(f"mailtasks: {sentence}{stop} See `{where} --help`.", err=True)
    return error.exit_code


def _in_words(error: click.ClickException) -> str:
    """What click says; where it wants "a valid integer range", which number that is."""
    sentence = error.format_message()
    kind = error.param.type if isinstance(error, click.BadParameter) and error.param else None
    if not isinstance(kind, click.IntRange):
        return sentence
    bounds = ((kind.min, "at least"), (kind.max, "at most"))
    wanted = ", ".join(f"{words} {bound}" for bound, words in bounds if bound is not None)
    return sentence.replace("is not a valid integer range", f"is no whole number; write one, {wanted}")


def _report(error: Exception) -> int:
    """One sentence on stderr, and how to try again where that needs an id; the exit code."""
    click.echo(f"mailtasks: {_sentence(error)}", err=True)
    if isinstance(error, StoreUnavailable) and error.ids:
        click.echo(f"mailtasks: to send it again, add --id {error.ids[0]}: it is sent once, then", err=True)
    if _is_full(error):
        return _forget_output()
    return 2 if isinstance(error, WRONG_USE) else 1


def _sentence(error: Exception) -> str:
    match error:
        case MailtasksError():
            return str(error)
        case OSError() if _is_full(error):
            return f"standard output can't be written: {error.strerror}"
        case OSError(filename=str() as name):
            return f"{name!r} can't be used: {error.strerror}"
    return f"{type(error).__name__}: {error} (this is a bug; --debug shows more)"


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename is None


def _forget_output() -> int:
    """`mailtasks … | head` has seen enough, or the disk is full: Python must not complain again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
