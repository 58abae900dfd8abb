"""A short run of chaos, and proof that the harness would notice: bugs are planted, and it must complain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from mailtasks.store import scripts
from tests.chaos.run import Outcome, Run

pytestmark = pytest.mark.xdist_group("chaos")  # each run has the machine for itself, as far as that can be

CHANGED = '''
"""Lua scripts with bugs in them, as (script, the right line, what stands in its place)."""
from mailtasks.store import scripts

_whole = scripts.source

def source(name, clock_key=None):
    whole = _whole(name, clock_key)
    for script, right, wrong in {changes!r}:
        if script == name:
            assert whole.count(right) == 1, "there is nothing to plant the bug in"
            whole = whole.replace(right, wrong)
    return whole

scripts.source = source
'''

DOUBTS_WHAT_WAS_SENT = """
import random
from dataclasses import replace
from mailtasks.delivery import Delivery
from mailtasks.state import State

_decide = Delivery._decide

def decide(self, outcome, recipient):
    decision = _decide(self, outcome, recipient)
    in_doubt = decision.state is State.SENT and random.random() < 0.3
    return replace(decision, state=State.IN_DOUBT) if in_doubt else decision

Delivery._decide = decide
"""

FAILS_WITHOUT_TRYING = """
import random
from mailtasks import delivery
from mailtasks.reply import How, Outcome, Stage

_talk = delivery.Delivery._talk

def talk(self, claim, begun):
    if random.random() < 0.3:
        return delivery._all_alike(claim, Outcome(Stage.MAIL, How.UNSUITABLE))
    return _talk(self, claim, begun)

delivery.Delivery._talk = talk
"""

LEAVES_WITHOUT_A_WORD = """
import os
from mailtasks.delivery import Delivery

_move = Delivery._move

def move(self, *arguments, **keywords):
    if self.stopping.is_set():
        os._exit(1)
    return _move(self, *arguments, **keywords)

Delivery._move = move
"""

HEEDS_NO_PAUSE = [("step", "return paused[1] or paused[2]", "return false")]
SENDS_AT_ONCE = [("accept", "local not_before = math.max(arg.send_at, now)", "local not_before = now")]
CANCELS_NOTHING = [
    (
        "cancel",
        "if state == QUEUED or state == DEFERRED then move(batch, index, CANCELLED) end\n"
        "  if state_of(batch, index) == CANCELLED then",
        "if state == QUEUED or state == DEFERRED then",
    )
]
EXPIRES_EARLY = [
    ("step", "if now >= batch.expires and not is_quiet()", "if now + 4000 >= batch.expires"),
    ("look", "if now >= batch.expires then", "if now >= batch.accepted + 8000 then"),
]
GOES_LATE = [
    (
        "look",
        "if not at or at > now then\n",
        "if not at or at + 6000 > now then\n",
    )
]
QUEUED_AGAIN = [
    (
        script,
        "abandon(batch, index, 'the lease of ' .. batch.owner .. ' lapsed')",
        "move(batch, index, QUEUED)",
    )
    for script in ("step", "look")
]


@dataclass(frozen=True)
class Bug:
    """What is planted, what brings it to light, and what the run must then say."""

    says: tuple[str, ...]
    changes: list[tuple[str, str, str]] = field(default_factory=list)
    code: str = ""
    options: Mapping[str, int] = field(default_factory=dict)
    everywhere: bool = False  # in producers, too

    def files(self) -> dict[str, str]:
        """Modules of the run's folder; Python imports `sitecustomize` by itself."""
        planted, app = CHANGED.format(changes=self.changes) + self.code, "from mailtasks.celery import app\n"
        return {"sitecustomize": planted, "planted": app} if self.everywhere else {"planted": planted + app}


BUGS: Mapping[str, Bug] = {
    "settle is forgotten": Bug(
        ("and resent 0 times",),
        [
            (
                "step",
                "if not repeated then\n  settle()\n",
                "if not repeated then\n  for i in each(batch, SENDING) do move(batch, i, QUEUED) end\n",
            )
        ],
        options={"kills": 1},
    ),
}
"""Noticed within half a minute, however busy the machine is."""

SLOW_BUGS: Mapping[str, Bug] = {
    "a lapsed window is queued again": Bug(("hit nobody at work",), QUEUED_AGAIN, options={"kills": 3}),
    # It shows where nobody is killed, and yet somebody's window is taken from him.
    "a claim without a lease": Bug(
        ("0 kills may cost 0",),
        [("step", "if batch.token then return { 'taken', {} } end", "")],
        options={"kills": 0, "hints": 10},
    ),
    "what was sent is doubted, what was not tried failed, and what was cancelled sent": Bug(
        (
            "relay and wire account for",
            "the relay never refused it",
            "was cancelled by the producer's word, and caught",
            "told to end ended with 1",
        ),
        CANCELS_NOTHING,
        DOUBTS_WHAT_WAS_SENT + FAILS_WITHOUT_TRYING + LEAVES_WITHOUT_A_WORD,
        {"kills": 0, "orderly": 1},
        everywhere=True,
    ),
    # Few, or those that were to go later would wait their turn for as long.
    "planned mail goes at once": Bug(
        ("before its time",), SENDS_AT_ONCE, options={"kills": 0, "messages": 60}, everywhere=True
    ),
    # In a short run nothing may be left to be sent when the pause comes.
    "a pause is not heeded": Bug(
        ("was tried while everything was paused",), HEEDS_NO_PAUSE, options={"kills": 0, "orderly": 4}
    ),
    "lapsed work is taken up late": Bug(
        ("a kill's work was taken up after",),
        [
            (
                "look",
                "if batch.lease > now then return save(batch, batch.lease) end",
                "if batch.lease + 12000 > now then return save(batch, now + 500) end",
            ),
            (
                "step",
                "if batch.token and batch.lease <= now and",
                "if batch.token and batch.lease + 12000 <= now and",
            ),
        ],
        options={"kills": 3, "messages": 600},
    ),
    "mail expires early, or unasked": Bug(
        ("before its time", "nobody asked for that"), EXPIRES_EARLY, options={"kills": 2, "messages": 600}
    ),
    "planned mail goes late": Bug(
        ("after its time",), GOES_LATE, options={"kills": 0, "messages": 60, "orderly": 1, "patience": 30}
    ),
    # The relay must have taken what a victim had in its hands: that needs a few of them.
    "a lapsed window is queued again, and comes twice": Bug(
        ("and resent 0 times",), QUEUED_AGAIN, options={"kills": 9, "messages": 900}
    ),
}


def played(**options: object) -> Outcome:
    with Run(**{"seed": 3, "workers": 2, **options}) as run:  # type: ignore[arg-type]
        return run.play()


@pytest.mark.timeout(300)
def test_a_short_run() -> None:
    outcome = played(messages=600, kills=3, restarts=1)
    assert outcome.complaints == [], outcome.table
    assert len(outcome.books.told) >= 600


def notice(bug: Bug) -> None:
    few = {"messages": 300, "restarts": 0, "orderly": 0, "patience": 5.0, **bug.options}
    outcome = played(**few, app="planted", files=bug.files())
    for words in bug.says:
        assert any(words in complaint for complaint in outcome.complaints), (
            f"nobody complained that … {words}:\n{outcome.table}"
        )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_noticed(bug: str) -> None:
    notice(BUGS[bug])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", SLOW_BUGS)
def test_a_planted_bug_is_noticed_in_time(bug: str) -> None:
    notice(SLOW_BUGS[bug])


def test_the_bugs_can_be_planted() -> None:
    for bug in (*BUGS.values(), *SLOW_BUGS.values()):
        assert all(scripts.source(name).count(right) == 1 for name, right, _ in bug.changes)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [11, 12])
def test_a_longer_run(seed: int) -> None:
    outcome = played(seed=seed, messages=4000, kills=12, restarts=4, workers=3)
    assert outcome.complaints == [], outcome.table
