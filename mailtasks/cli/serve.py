"""The commands that run until they are told to stop: worker, flower, sink, up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from mailtasks.cli.context import Context, pass_context
from mailtasks.cli.options import folder as writable
from mailtasks.cli.options import made
from mailtasks.cli.output import print_line

PROCESSES: Final = click.option(
    "--processes", type=click.IntRange(min=1), default=2, show_default=True, help="Processes for all mail."
)
CONCURRENCY: Final = click.option(
    "-c", "--concurrency", type=click.IntRange(min=1), default=8, show_default=True, help="Threads in each."
)


@click.command()
@PROCESSES
@CONCURRENCY
@click.option("-A", "--app", default="mailtasks", show_default=True, help="The Celery app, as for celery -A.")
@click.option(
    "-l",
    "--log-level",
    type=click.Choice(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), case_sensitive=False),
    default="INFO",
    show_default=True,
    help="As for celery -l.",
)
@pass_context
def worker(context: Context, processes: int, concurrency: int, app: str, log_level: str) -> None:
    """Send mail: run worker processes, and one more for urgent and normal mail only.

    A process that dies is started again. Ctrl-C or SIGTERM lets them finish what they are sending; a
    second one kills them.
    """
    from mailtasks.supervisor import Supervisor

    settings, environment = context.settings, context.environment
    call = click.get_current_context()
    if call.get_parameter_source("app") is ParameterSource.DEFAULT:
        app = context.host.app
    _refuse_unloadable(app, environment)
    supervisor = Supervisor(
        settings,
        processes=processes,
        concurrency=concurrency,
        app=app,
        log_level=log_level,
        environment=environment,
    )
    call.exit(supervisor.run())


def _refuse_unloadable(app: str, environment: Mapping[str, str]) -> None:
    """One sentence, where every process that can't load its app would show Celery's usage.

    Our own app is tried, too: it takes a second, but what is wrong in a celeryconfig.py is said once.
    """
    from mailtasks.local.app_check import why_not

    if why := why_not(app, environment):
        raise click.UsageError(f"The Celery app {app!r} can't be loaded ({why}); name it as for celery -A")


@click.command()
@click.option("--address", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port; by default the setting flower_port.")
@pass_context
def flower(context: Context, address: str, port: int | None) -> None:
    """Watch workers and tasks in the browser, with Flower.

    Unless it listens on loopback only, it needs a login: the setting flower_auth.
    """
    from mailtasks.flower import run_flower

    run_flower(context.settings, address=address, port=port)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8025,
    show_default=True,
    help="The port; 0 for a free one.",
)
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    callback=writable,
    help="Keep each mail in this folder.",
)
@click.option("--faults", metavar="ODDS", help="Misbehave at random, such as defer=0.1,stall=0.02,seed=7.")
def sink(host: str, port: int, save: Path | None, faults: str | None) -> None:
    """Catch mail instead of sending it: an SMTP server for development.

    Words in a recipient's address order what it is answered; see the table in mailtasks.local.faults.
    With --save the folder gets a journal of JSON lines, too: what each recipient was answered.
    """
    from mailtasks.local.faults import Faults
    from mailtasks.local.sink import main

    main(host, port, save, faults=Faults.parse(faults) if faults else None)


@click.command()
@PROCESSES
@CONCURRENCY
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=".mailtasks",
    show_default=True,
    help="For Redis' data and the caught mail.",
)
@click.option("--flower/--no-flower", default=True, show_default=True, help="Whether to start Flower, too.")
@pass_context
def up(context: Context, processes: int, concurrency: int, folder: Path, flower: bool) -> None:
    """Run everything on this machine: Redis, a server that catches the mail, workers and Flower.

    A Redis or relay that the settings name is used instead of one of its own. Its own ones are started
    again if they end by themselves; if that happens twice in a row, everything stops, with exit code 1.
    """
    from mailtasks.local.up import Everything
    from mailtasks.supervisor import OWN_APP

    environment = context.environment
    _refuse_unloadable(OWN_APP, environment)
    everything = Everything(made(folder), environment=environment, flower=flower, report=print_line)
    with everything:
        code = everything.run(
            processes=processes,
            concurrency=concurrency,
            when_ready=lambda: _tell_producers(everything.started, everything.flower),
        )
    click.get_current_context().exit(code)


def _tell_producers(started: Mapping[str, str], flower: str) -> None:
    print_line("")
    if flower:
        print_line(f"Flower shows the tasks at {flower}.")
    print_line("To send mail from another terminal:")
    for variable, value in started.items():
        print_line(f"  export {variable}={value}")
    print_line(
        "  mailtasks send --from you@example.com --to ann@example.com --subject Hello --text 'It works'"
    )
    print_line("")
