"""Write `docs/reference/states.md` from the tables in `mailtasks.state` and `mailtasks.store.books`.

    python docs/make_states_page.py

A test fails while the page isn't what this would write.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Final

from mailtasks.state import FINAL, MOVES, UNFINISHED, State
from mailtasks.store.books import TALLIES

PAGE: Final = Path(__file__).parent / "reference" / "states.md"

INTRODUCTION: Final = """\
# States

<!-- Written by docs/make_states_page.py from mailtasks/state.py, store/books.py: change those, not this. -->

A state belongs to one recipient of one message. A message's own state, as `status` shows it, is the most
telling of those of its recipients. An illegal move raises, and at any moment the number accepted is the sum
over all states.
"""

BEHIND_THE_DIAGRAM: Final = """\
An arrow to the last dot marks a final state. The moves from there back to `queued` are an operator's; those
from `in_doubt` a policy's, an operator's, or those of a relay's answer that came late. Nothing is
`suppressed` yet: there is no suppression list.
"""

TALLYING: Final = """\
## Tallies

Beside the states `mailtasks stats` shows what was counted since the beginning, and is never taken back:

| tally | what it counts |
| --- | --- |
"""


def page() -> str:
    """The whole page."""
    rows = "\n".join(map(_row, State))
    head = "| state | in the ledger | kind | meaning | may become |\n| --- | --- | --- | --- | --- |"
    tallies = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in TALLIES.items())
    states = f"{INTRODUCTION}\n```mermaid\n{diagram()}\n```\n\n{BEHIND_THE_DIAGRAM}\n{head}\n{rows}\n"
    return f"{states}\n{TALLYING}{tallies}"


def diagram() -> str:
    """The moves as a Mermaid state diagram."""
    moves = [f"    {old} --> {new}" for old in State for new in State if new in MOVES[old]]
    ends = [f"    {state} --> [*]" for state in State if state in FINAL]
    return "\n".join(["stateDiagram-v2", "    direction LR", "    [*] --> queued", *moves, *ends])


def meanings() -> dict[str, str]:
    """What stands beside each state in the source."""
    found = re.findall(r'^    [A-Z_]+ = "(\w+)"  # (.+)$', inspect.getsource(State), re.MULTILINE)
    return dict(found)


def _row(state: State) -> str:
    becomes = ", ".join(f"`{new}`" for new in State if new in MOVES[state]) or "–"
    return f"| `{state}` | `{state.code}` | {_kind(state)} | {meanings()[state]} | {becomes} |"


def _kind(state: State) -> str:
    if state in UNFINISHED:
        return "unfinished"
    return "final" if state in FINAL else "held"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
