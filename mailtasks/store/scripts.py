"""Loads the Lua scripts: constants from `mailtasks.state`, then `common.lua`, then the script.

Redis runs a script by the digest of its text, so each is registered once a client and sent again by
itself after a Redis restart (redis-py does that on NOSCRIPT).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from mailtasks.state import CODES, MOVES, UNFINISHED, State

NAMES = ("accept", "step", "renew", "look", "open", "cancel", "retry")
"""One script a move; each file opens with its keys, arguments and answer."""


def _table(rows: dict[str, str]) -> str:
    return "{ " + ", ".join(f"[{key!r}] = {value}" for key, value in rows.items()) + " }"


def _constants() -> str:
    """The state table in Lua: a local a state, its name, the moves it allows."""
    locals_ = [f"local {state.name} = {code!r}" for state, code in CODES.items()]
    names = _table({code: repr(state.value) for state, code in CODES.items()})
    moves = _table({CODES[old]: repr("".join(sorted(CODES[s] for s in new))) for old, new in MOVES.items()})
    unfinished = _table({CODES[state]: "true" for state in State if state in UNFINISHED})
    return "\n".join(
        [*locals_, f"local NAMES = {names}", f"local MOVES = {moves}", f"local UNFINISHED = {unfinished}"]
    )


@cache
def text(name: str) -> str:
    """The whole text of one script, as Redis gets it."""
    folder = files("mailtasks.store") / "lua"
    return "\n".join(
        [_constants(), (folder / "common.lua").read_text(), (folder / f"{name}.lua").read_text()]
    )
