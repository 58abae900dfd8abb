"""`manage.py mailtasks COMMAND`: the command line of `mailtasks`, on Django's settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from mailtasks.cli import run

_DJANGOS: Final = ("--settings", "--pythonpath")


class Command(BaseCommand):  # type: ignore[misc]  # Django ships no types
    """Everything that `mailtasks` can; exit codes and output are its own."""

    help = "Send mail through a queue that loses nothing, and see what became of it: `mailtasks --help`."
    requires_system_checks: Sequence[str] = ()

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """As Django's command line calls it: what follows the command's name is ours."""
        sys.exit(run(_without_djangos(argv[2:])))

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """For `call_command("mailtasks", "config", "--changed")`."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def handle(self, *args: Any, **options: Any) -> None:
        """As `call_command` calls it.

        Raises:
            CommandError: the command failed; `returncode` is its exit code.
        """
        stdout = options.get("stdout")
        with redirect_stdout(stdout) if stdout else nullcontext():
            code = run(options["arguments"])
        if code:
            words = " ".join(options["arguments"])
            raise CommandError(f"mailtasks {words} ended with exit code {code}", returncode=code)


def _without_djangos(arguments: Sequence[str]) -> Sequence[str]:
    """Without the options that Django has taken already, which may stand in front."""
    while arguments and arguments[0].partition("=")[0] in _DJANGOS:
        arguments = arguments[1 if "=" in arguments[0] else 2 :]
    return arguments
