"""`manage.py mailtasks COMMAND`: the command line of `mailtasks`, on Django's settings.

If mail goes through a Celery app of the project's, that is where the commands look, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from mailtasks.cli import run
from mailtasks.cli.context import Host
from mailtasks.contrib.django.rows import Store
from mailtasks.errors import SettingsError
from mailtasks.installation import installation_of
from mailtasks.settings import FrameworkValues, framework_values

WRONG: Final = 2  # as for any wrong use of the command line
_DJANGOS: Final = ("--settings", "--pythonpath")


class Command(BaseCommand):  # type: ignore[misc]  # Django ships no types
    """Everything that `mailtasks` can; exit codes and output are its own."""

    help = "Send mail through a queue that loses nothing, and see what became of it: `mailtasks --help`."
    requires_system_checks: Sequence[str] = ()

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """As Django's command line calls it: what follows the command's name is ours."""
        sys.exit(_run(_without_djangos(argv[2:])))

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
            code = _run(options["arguments"])
        if code:
            words = " ".join(options["arguments"])
            raise CommandError(f"mailtasks {words} ended with exit code {code}", returncode=code)


def _run(arguments: Sequence[str]) -> int:
    try:
        host = Host("manage.py mailtasks", _framework(), outbox=Store)
    except SettingsError as error:
        sys.stderr.write(f"manage.py mailtasks: {error}\n")
        return WRONG
    return run(arguments, host)


def _framework() -> FrameworkValues:
    """What Django's settings say, at the Redis of an installed Celery app."""
    celery = sys.modules.get("mailtasks.celery")  # nothing was installed before it is imported
    app = celery.installed_app() if celery else None
    framework = framework_values(app)
    return framework.with_redis_of(installation_of(app).settings) if app else framework


def _without_djangos(arguments: Sequence[str]) -> list[str]:
    """Without the options that Django has taken already, wherever they stand."""
    ours, left = [], iter(arguments)
    for word in left:
        if word.partition("=")[0] not in _DJANGOS:
            ours.append(word)
        elif "=" not in word:
            next(left, None)
    return ours
