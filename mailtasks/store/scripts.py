"""Loads the Lua scripts: constants from `mailtasks.state`, then `common.lua`, then the script.

Redis runs a script by the digest of its text; `connection.Scripts` sends the text where Redis hasn't got
it, which is once, and again after a restart.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from mailtasks.message import PRIORITIES
from mailtasks.state import CODES, LAPSES_BEFORE_ASIDE, MOVES, UNFINISHED, State
from mailtasks.store.keys import ALPHABET, PRINT_LENGTH, UID_LENGTH

NAMES = (
    "accept",
    "step",
    "renew",
    "look",
    "open",
    "cancel",
    "retry",
    "settle",
    "suppress",
    "turn",
    "sweep",
    "reserve",
    "stored",
    "collect",
    "begin",
    "steer",
    "feed",
    "count",
    "brake",
)
"""One script a move; each file opens with its keys, arguments and answer."""


def _table(rows: dict[str, str]) -> str:
    return "{ " + ", ".join(f"[{key!r}] = {value}" for key, value in rows.items()) + " }"


def _constants() -> str:
    """`mailtasks.state` in Lua: a local a state, its name, the moves it allows, and when to set aside."""
    locals_ = [f"local {state.name} = {code!r}" for state, code in CODES.items()]
    names = _table({code: repr(state.value) for state, code in CODES.items()})
    moves = _table({CODES[old]: repr("".join(sorted(CODES[s] for s in new))) for old, new in MOVES.items()})
    unfinished = _table({CODES[state]: "true" for state in State if state in UNFINISHED})
    return "\n".join(
        [
            *locals_,
            f"local NAMES = {names}",
            f"local MOVES = {moves}",
            f"local UNFINISHED = {unfinished}",
            f"local LAPSES_BEFORE_ASIDE = {LAPSES_BEFORE_ASIDE}",
            f"local ALPHABET = {ALPHABET!r}",
            f"local UID_LENGTH, PRINT_LENGTH = {UID_LENGTH}, {PRINT_LENGTH}",
            f"local PRIORITIES = {{ {', '.join(repr(priority.value) for priority in PRIORITIES)} }}",
        ]
    )


@cache
def text(name: str, clock_key: str | None = None) -> str:
    """The whole text of one script, as Redis gets it.

    Args:
        clock_key: for tests, which can't set Redis' clock: a list of seconds and microseconds that is
            read in its place.
    """
    folder = files("mailtasks.store") / "lua"
    common = (folder / "common.lua").read_text()
    if clock_key is not None:
        common = common.replace("redis.call('TIME')", f"redis.call('LRANGE', '{clock_key}', 0, 1)")
    return "\n".join([_constants(), common, (folder / f"{name}.lua").read_text()])
