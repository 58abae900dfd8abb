"""`flask mailtasks …`: the whole command line on the settings of the Flask application.

Worker processes run our own Celery app, which gets the settings as environment variables of theirs; if mail
goes through the application's Celery, they run that, for which each loads the application as `flask` did.
"""

from __future__ import annotations

import sys
from typing import Final

import click
from flask import Flask, current_app
from flask.cli import ScriptInfo, with_appcontext

from mailtasks.cli import run
from mailtasks.cli.context import Host
from mailtasks.contrib.flask.state import AppMail
from mailtasks.errors import SettingsError

WORKER: Final = "mailtasks.contrib.flask.worker"
FLASK_APP: Final = "FLASK_APP"


@click.command(
    "mailtasks",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
@with_appcontext
def mailtasks_command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Send mail, watch it, run its workers: all of mailtasks."""
    try:
        host = host_of(current_app.extensions["mail"], context.ensure_object(ScriptInfo))
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    sys.exit(run(arguments, host))


def host_of(state: AppMail, script: ScriptInfo) -> Host:
    """What the command line runs on.

    Raises:
        SettingsError: the settings name another broker than the application's Celery, or workers can't load
            that.
    """
    if state.celery is None:
        return Host("flask mailtasks", state.framework)
    framework = state.framework.with_redis_of(state.settings)
    return Host("flask mailtasks", framework, WORKER, {FLASK_APP: _place_of(script)})


def _place_of(script: ScriptInfo) -> str:
    """What `FLASK_APP` is for a process that is to load the same app; "": it looks where `flask` did."""
    make = script.create_app
    if script.app_import_path or make is None:
        return str(script.app_import_path or "")
    if make.__module__ == "__main__" or "<" in make.__qualname__:
        raise SettingsError(
            "workers can't load the Flask app as this program does; run `flask --app MODULE mailtasks …`"
        )
    return f"{make.__module__}:{make.__qualname__}"


def load(place: str) -> Flask:
    """The application that FLASK_APP names, as `flask` loads it."""
    return ScriptInfo(app_import_path=place or None).load_app()
