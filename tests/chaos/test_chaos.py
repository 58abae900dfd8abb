"""A short run of chaos, and proof that the harness would notice: bugs are planted, and it must complain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from mailtasks.store import scripts
from tests.chaos.run import Outcome, Run

PLANTED = '''
"""The workers' app, with a bug in a Lua script."""
from mailtasks.store import scripts

_whole = scripts.text

def text(name, clock_key=None):
    whole = _whole(name, clock_key)
    if name in {scripts!r}:
        assert whole.count({right!r}) == 1, "there is nothing to plant the bug in"
    return whole.replace({right!r}, {wrong!r})

scripts.text = text

from mailtasks.celery import app
'''

BUGS: Mapping[str, tuple[Sequence[str], str, str, Mapping[str, int]]] = {
    "settle is forgotten": (
        ("step",),
        "if not repeated then settle() end",
        "if not repeated then for i in each(batch, SENDING) do move(batch, i, QUEUED) end end",
        {"kills": 1},
    ),
    "a lapsed window is queued again": (
        ("step", "look"),
        "abandon(batch, index, 'the lease of ' .. batch.owner .. ' lapsed')",
        "move(batch, index, QUEUED)",
        {"kills": 2, "messages": 800},
    ),
    # It shows where nobody is killed, and yet somebody's window is taken from him.
    "a claim without a lease": (
        ("step",),
        "if batch.token then return { 'taken' } end",
        "",
        {"kills": 0, "hints": 10},
    ),
}
"""Name → the scripts that hold the line, the line, what stands in its place, and what brings it to light."""


def played(**options: object) -> Outcome:
    with Run(**{"seed": 3, "workers": 2, **options}) as run:  # type: ignore[arg-type]
        return run.play()


@pytest.mark.timeout(300)
def test_a_short_run() -> None:
    outcome = played(messages=600, kills=3, restarts=1)
    assert outcome.complaints == [], outcome.table
    assert len(outcome.books.told) >= 600


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_noticed(bug: str) -> None:
    names, right, wrong, options = BUGS[bug]
    planted = PLANTED.format(scripts=names, right=right, wrong=wrong)
    few = {"messages": 300, "restarts": 0, "patience": 5.0, **options}
    outcome = played(**few, app="planted", files={"planted": planted})
    assert outcome.complaints, f"{bug}, and nobody complained:\n{outcome.table}"


def test_the_bugs_can_be_planted() -> None:
    for names, right, *_ in BUGS.values():
        assert all(scripts.text(name).count(right) == 1 for name in names)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [11, 12])
def test_a_longer_run(seed: int) -> None:
    outcome = played(seed=seed, messages=4000, kills=12, restarts=4, workers=3)
    assert outcome.complaints == [], outcome.table
