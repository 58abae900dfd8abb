"""`mailtasks demo`: a thousand mails through everything, with progress meanwhile and tables at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Final

import click

from mailtasks.cli.context import as_json
from mailtasks.cli.output import counted, print_json, print_line, print_table
from mailtasks.state import UNFINISHED, State

if TYPE_CHECKING:
    from mailtasks.local.demo import Demo, Result
    from mailtasks.status import Stats

REST: Final = 1.0  # seconds between two lines of progress where there is no terminal
SHOWN: Final = 10  # recipients that didn't end as they should


@click.command()
@click.option("--once", is_flag=True, help="End when all is done, also on a terminal.")
@click.option(
    "--recipients",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A CSV file with the columns email, name, city and product; by default a thousand invented people.",
)
@as_json
def demo(once: bool, recipients: Path | None, as_json: bool) -> None:
    """Show everything at work: 1,000 mails and some urgent ones, on this machine only.

    Starts a Redis, a server that catches the mail, workers and Flower of its own. On a terminal it stays
    up until Ctrl-C; otherwise, and with --json, it ends, with 0 only if every mail ended as it should.
    """
    from mailtasks.local.demo import RECIPIENTS, Demo, Interrupted
    from mailtasks.local.processes import told_to_end

    with told_to_end() as told:
        try:
            with Demo(recipients or RECIPIENTS, told, _say_nothing if as_json else print_line) as course:
                result = _run(course, as_json)
                if sys.stdout.isatty() and not (once or as_json):
                    _stay(course)
        except Interrupted:
            raise click.Abort from None
    click.get_current_context().exit(1 if result.wrong else 0)


def _say_nothing(_: object) -> None:
    pass


def _run(course: Demo, as_json: bool) -> Result:
    if as_json:
        result = course.run(_say_nothing)
        print_json(result.as_dict())
        return result
    with _progress() as watch:
        result = course.run(watch)
    _show(result)
    return result


def _stay(course: Demo) -> None:
    print_line("")
    if flower := course.await_flower():
        print_line(f"Flower shows the tasks at {flower}.")
    print_line("Ctrl-C ends everything.")
    course.stay()


@contextmanager
def _progress() -> Iterator[Callable[[Stats], None]]:
    """What shows the figures: a bar on a terminal, if rich is installed, else a line now and then."""
    try:
        if not sys.stdout.isatty():
            raise ImportError
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield _Lines().show
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("starting the workers")
        yield lambda stats: progress.update(
            task, total=stats.accepted, completed=_finished(stats), description=_states(stats)
        )


class _Lines:
    """A line of progress, but not more than one a second."""

    def __init__(self) -> None:
        self._next = 0.0

    def show(self, stats: Stats) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + REST
            print_line(f"{_finished(stats):5} of {stats.accepted} finished: {_states(stats)}")


def _finished(stats: Stats) -> int:
    return stats.accepted - sum(stats.states.get(state, 0) for state in UNFINISHED)


def _states(stats: Stats) -> str:
    return ", ".join(f"{count} {state}" for state, count in stats.states.items() if count) or "nothing yet"


def _show(result: Result) -> None:
    states = result.stats.states
    print_line("")
    print_table(("recipients", "number"), _counts(result))
    print_line("")
    print_table(("refused for good with", "number"), sorted(result.failures.items()))
    print_line("")
    print_table(("accept to the relay's 250", "mails", "average", "95th percentile"), _times(result))
    print_line("")
    rate = states.get(State.SENT, 0) / result.seconds
    print_line(
        f"{rate:.0f} mails/s over {result.seconds:.1f} s, retries waited for; "
        f"{result.busiest_second} in the busiest second."
    )
    _conclude(result.wrong)


def _counts(result: Result) -> list[tuple[str, int]]:
    states = {str(state): count for state, count in result.stats.states.items() if count}
    return [("accepted", result.stats.accepted), *states.items(), ("retried, then sent", result.retried)]


def _times(result: Result) -> list[tuple[str, int, str, str]]:
    rows = [
        (name, times.count, _milliseconds(times.average), _milliseconds(times.percentile_95))
        for name, times in result.stats.response_times.items()
        if times.count
    ]
    urgent = result.urgent
    if urgent:
        row = ("urgent, as caught", len(urgent), _milliseconds(mean(urgent)), _milliseconds(_late(urgent)))
        rows.append(row)
    return rows


def _late(times: Sequence[float]) -> float:
    """The 95th percentile of sorted times."""
    return times[min(len(times) - 1, len(times) * 95 // 100)]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def _conclude(wrong: Sequence[str]) -> None:
    if not wrong:
        print_line("Every mail ended as it should: the ledger and the catching server's book agree.")
        return
    differences = counted(len(wrong), "difference")
    print_line(f"{differences} between what should be, the ledger and the catching server's book:")
    for sentence in wrong[:SHOWN]:
        print_line(f"  {sentence}")
