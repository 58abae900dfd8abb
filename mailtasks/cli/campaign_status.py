"""How a campaign stands, for people: once, or again and again until it is through.

On a terminal, with rich, a bar and figures are drawn on standard error; else there is a line now and then.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from shlex import quote
from typing import TYPE_CHECKING, Final

import click

from mailtasks.cli.output import print_line, print_pairs, print_table
from mailtasks.errors import StoreUnavailable
from mailtasks.state import State

if TYPE_CHECKING:
    from mailtasks.campaign import Campaign, CampaignStatus

UNSENT: Final = (State.FAILED, State.EXPIRED, State.IN_DOUBT, State.CANCELLED)
"""Who is in one of these when it is through hasn't got the mail, or it isn't known, and should have."""

_LOOK: Final = 0.5  # seconds between two looks, and more where a look takes long
_REST: Final = 10.0  # seconds between two lines where there is no terminal
_WINDOW: Final = 15.0  # seconds over which the rate is taken
_AWAY: Final = 60.0  # seconds for which Redis may be away
AWAY: Final = "Redis can't be reached, waiting"  # stands in the place of a state


def unsent(status: CampaignStatus) -> int:
    """How many people should have got the mail, and haven't, or it isn't known."""
    return sum(status.states[state] for state in UNSENT)


def print_status(status: CampaignStatus) -> None:
    """All of it, with how many people are in which state."""
    pairs = {
        "campaign": status.name,
        "state": status.state + (f" ({status.reason})" if status.reason else ""),
        "subject": status.subject,
        "priority": status.priority.value,
        "begun": status.begun_at,
        "starts": status.begins_at,
        "ends": status.ends_at,
        "finished": status.finished_at,
        "messages a second, at most": status.rate,
        "tags": list(status.tags) or None,
    }
    print_pairs({name: value for name, value in pairs.items() if value is not None})
    if status.state == "open":
        print_line(
            "it takes more people: if `campaign send` was interrupted, the same command goes on with it"
        )
    print_line("")
    rows = [(state, number) for state, number in status.states.items() if number]
    print_table(("state", "people"), [*rows, ("all", status.rows)])
    for hint in _hints(status):
        print_line(hint)


def _hints(status: CampaignStatus) -> Iterator[str]:
    """What to do next."""
    name = quote(status.name)
    if status.state == "paused":
        yield f"`mailtasks campaign resume {name}` lets it go on"
    if status.states[State.IN_DOUBT]:
        yield "`mailtasks in-doubt list` shows whose mail may have arrived, and what can be done"
    if status.states[State.FAILED] or status.states[State.EXPIRED]:
        yield f"`mailtasks campaign failures {name}` says why, `mailtasks campaign retry {name}` tries again"


def watch(campaign: Campaign) -> CampaignStatus:
    """Show how it goes, until nothing of it will be sent any more; returns what became of it.

    Raises:
        StoreUnavailable: Redis was away for a minute.
    """
    pace, away_since = Pace(), 0.0
    last: CampaignStatus | None = None
    with _shown() as show:
        while True:
            began = time.monotonic()
            try:
                status = campaign.status()
            except StoreUnavailable:
                away_since = away_since or began
                if began - away_since > _AWAY:
                    raise
                if last:
                    show(replace(last, state=AWAY), pace)
                time.sleep(_LOOK)
                continue
            away_since, last = 0.0, status
            pace.note(status.rows - status.unfinished, began)
            show(status, pace)
            if status.is_over:
                return status
            time.sleep(max(_LOOK, 3 * (time.monotonic() - began)))


class Pace:
    """How fast a number grows, as seen over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, number: int, now: float) -> None:
        """What it is now, by a clock in seconds."""
        self._seen.append((now, number))
        while len(self._seen) > 2 and self._seen[1][0] < now - _WINDOW:
            self._seen.popleft()

    @property
    def a_second(self) -> float:
        """By how much it grows in a second."""
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return max(0, last - first) / (now - began) if now > began else 0.0

    def left(self, number: int) -> timedelta | None:
        """How long it takes to grow by so much, to the second; None: it doesn't grow."""
        return timedelta(seconds=round(number / self.a_second)) if self.a_second else None


_Show = Callable[["CampaignStatus", Pace], None]


@contextmanager
def _shown() -> Iterator[_Show]:
    try:
        if not sys.stderr.isatty():
            raise ImportError
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        yield _Lines().show
        return
    with Live(console=Console(stderr=True), auto_refresh=False) as live:

        def show(status: CampaignStatus, pace: Pace) -> None:
            bar = ProgressBar(total=max(1, status.rows), completed=_through(status), width=30)
            line = Table.grid(padding=(0, 1))
            line.add_row(bar, Text(_line(status, pace)))
            live.update(Group(line, Text(_states(status))), refresh=True)

        yield show


class _Lines:
    """A line now and then, and when its state changes."""

    def __init__(self) -> None:
        self._next = 0.0
        self._state = ""

    def show(self, status: CampaignStatus, pace: Pace) -> None:
        now = time.monotonic()
        if now >= self._next or status.state != self._state:
            self._next, self._state = now + _REST, status.state
            click.echo(f"{_line(status, pace)}; {_states(status)}", err=True)


def _through(status: CampaignStatus) -> int:
    return status.rows - status.unfinished


def _line(status: CampaignStatus, pace: Pace) -> str:
    """`12,000 of 48,213 (25 %), 812/s, 0:00:45 left`."""
    percent = 100 * _through(status) // max(1, status.rows)
    parts = [f"{_through(status):,} of {status.rows:,} ({percent} %)"]
    if status.state == "running":
        left = pace.left(status.unfinished)
        parts += [f"{pace.a_second:,.0f}/s", f"{left} left" if left is not None else "-"]
    else:
        parts.append(status.state + (f": {status.reason}" if status.reason else ""))
    return ", ".join(parts)


def _states(status: CampaignStatus) -> str:
    """Sent, deferred and failed in any case; other states if somebody is in them."""
    always = (State.SENT, State.DEFERRED, State.FAILED)
    others = (state for state, number in status.states.items() if number and state not in always)
    return ", ".join(f"{state} {status.states[state]:,}" for state in (*always, *others))
