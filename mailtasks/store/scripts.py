"""Loads the Lua scripts: of `head.lua` and `common.lua` what a script uses, then the script.

Redis runs a script by the digest of its text; `connection.Scripts` sends the text where Redis hasn't got
it, which is once, and again after a restart. But each call runs the whole text, so Lua makes all its
functions and tables anew, and throws them away: of a step's work, nearly half (docs/adr/0034). Hence:

1. What a script doesn't use isn't in its text.
2. States and other constants are written out where they are used.
3. The script is a function within a function with common.lua, and that one stands within head.lua. Where a
   function is made, Lua searches for each local beside it that it uses, among all such; what is further out
   is at hand. A function may have sixty names from outside; step.lua has most, about fifty.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

from mailtasks.state import CODES, LAPSES_BEFORE_ASIDE, MOVES, UNFINISHED
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

_UNFINISHED_CODES: Final = "".join(code for state, code in CODES.items() if state in UNFINISHED)

CONSTANTS: Final = {
    **{state.name: repr(code) for state, code in CODES.items()},
    "ANY_UNFINISHED": repr(f"[{_UNFINISHED_CODES}]"),
    "LAPSES_BEFORE_ASIDE": str(LAPSES_BEFORE_ASIDE),
    "ALPHABET": repr(ALPHABET),
    "UID_LENGTH": str(UID_LENGTH),
    "PRINT_LENGTH": str(PRINT_LENGTH),
}
"""What the scripts call by name, and what is written in its place."""

_CONSTANT: Final = re.compile(rf"\b({'|'.join(CONSTANTS)})\b")
_COMMENT: Final = re.compile(r"\s*--.*")
_WORD: Final = re.compile(r"\w+")
_DEFINITION: Final = re.compile(r"^local (?:function )?(\w+(?:, \w+)*)")
_NEXT_DEFINITION: Final = re.compile(r"^(?=local )", re.MULTILINE)


def _table(name: str, rows: dict[str, str]) -> str:
    return f"local {name} = {{ {', '.join(f'[{key!r}] = {value!r}' for key, value in rows.items())} }}\n"


def _tables() -> str:
    """`mailtasks.state` in Lua: a state's name, and the moves it allows."""
    names = {code: state.value for state, code in CODES.items()}
    moves = {CODES[old]: "".join(sorted(CODES[state] for state in new)) for old, new in MOVES.items()}
    return _table("NAMES", names) + _table("MOVES", moves)


def _read(name: str) -> str:
    """A file's code, without comments."""
    return _COMMENT.sub("", (files("mailtasks.store") / "lua" / f"{name}.lua").read_text()) + "\n"


def _used(definitions: str, code: str) -> str:
    """Those definitions that code uses, and what these use; each begins with `local` at a line's start."""
    words, used = set(_WORD.findall(code)), []
    for definition in reversed(_NEXT_DEFINITION.split(definitions)):
        names = _DEFINITION.match(definition)
        if names and words.intersection(names[1].split(", ")):
            words.update(_WORD.findall(definition))
            used.append(definition)
    return "".join(reversed(used))


def source(name: str, clock_key: str | None = None) -> str:
    """One script, with constants by their names; see `text`."""
    own = _read(name)
    common = _used(_read("common"), own)
    head = _used(_tables() + _read("head"), common + own)
    if clock_key is not None:
        head = head.replace("redis.call('TIME')", f"redis.call('LRANGE', '{clock_key}', 0, 1)")
    return f"{head}return (function()\n{common}return (function()\n{own}end)()\nend)()\n"


@cache
def text(name: str, clock_key: str | None = None) -> str:
    """The whole text of one script, as Redis gets it.

    Args:
        clock_key: for tests, which can't set Redis' clock: a list of seconds and microseconds that is
            read in its place.
    """
    return _CONSTANT.sub(lambda found: CONSTANTS[found[0]], source(name, clock_key))
