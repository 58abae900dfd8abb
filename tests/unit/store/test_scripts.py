"""The texts that Redis runs."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from mailtasks.state import CODES, LAPSES_BEFORE_ASIDE, MOVES, UNFINISHED, State
from mailtasks.store import scripts
from mailtasks.store.connection import Client
from mailtasks.store.keys import Keys

FOLDER = files("mailtasks.store") / "lua"
OF_LUA = "and error function if in ipairs next not or pairs pcall return tonumber type unpack"


def code(text: str) -> str:
    """Without comments and what is in quotes."""
    return re.sub(r"--.*|'[^'\n]*'", "", text)


def table(name: str) -> dict[str, str]:
    (line,) = re.findall(rf"^local {name} = {{ (.*) }}$", scripts.text("look"), re.MULTILINE)
    return dict(re.findall(r"\['(.)'\] = '([^']*)'", line))


def test_the_scripts_know_the_table_of_states() -> None:
    for state, code in CODES.items():
        assert scripts.CONSTANTS[state.name] == f"'{code}'"
    assert table("NAMES") == {code: state.value for state, code in CODES.items()}
    moves = {code: {CODES[new] for new in MOVES[state]} for state, code in CODES.items()}
    assert {code: set(allowed) for code, allowed in table("MOVES").items()} == moves
    any_unfinished = re.compile(scripts.CONSTANTS["ANY_UNFINISHED"].strip("'"))
    assert {state for state, code in CODES.items() if any_unfinished.fullmatch(code)} == UNFINISHED


def test_the_scripts_know_when_to_set_aside() -> None:
    assert f"if batch.lapses >= {LAPSES_BEFORE_ASIDE} then" in scripts.text("look")


@pytest.mark.parametrize("name", scripts.NAMES)
def test_constants_are_written_out(name: str) -> None:
    words = set(re.findall(r"\w+", scripts.text(name)))
    assert not words & scripts.CONSTANTS.keys()


@pytest.mark.parametrize("file", ["head", "common", *scripts.NAMES])
def test_no_text_in_quotes_is_taken_for_a_constant(file: str) -> None:
    quoted = " ".join(re.findall(r"'[^'\n]*'", re.sub(r"--.*", "", source(file))))
    assert not set(re.findall(r"\w+", quoted)) & scripts.CONSTANTS.keys()


@pytest.mark.parametrize("name", scripts.NAMES)
def test_a_script_has_all_that_it_uses(name: str) -> None:
    """And before it is used, or Lua takes it for a global that nobody has set."""
    known = {*OF_LUA.split(), "ARGV", "KEYS"}
    functions = r"\bfunction (\w+\([\w, ]*\))"
    others = r"\blocal ((?!function)[\w, ]+)"
    used = r"(?<![.\w])(\w+(?=\()|[A-Z_]{2,})"
    for function, other, name_used in re.findall(f"{functions}|{others}|{used}", code(scripts.text(name))):
        known = known | set(re.findall(r"\w+", function or other))
        assert not name_used or name_used in known


@pytest.mark.parametrize("name", scripts.NAMES)
def test_a_script_has_no_function_that_it_does_not_use(name: str) -> None:
    text = scripts.text(name)
    functions = re.findall(r"^local function (\w+)\(", text, re.MULTILINE)
    assert [each for each in functions if len(re.findall(rf"\b{each}\b", text)) == 1] == []


@pytest.mark.parametrize("name", scripts.NAMES)
def test_a_script_says_what_it_takes_and_returns(name: str) -> None:
    head = re.match(r"(--.*\n)+", source(name))
    assert head is not None
    assert "-- arg: " in head[0]
    assert "-- Returns " in head[0]


def source(file: str) -> str:
    return (FOLDER / f"{file}.lua").read_text()


@pytest.mark.parametrize("name", scripts.NAMES)
def test_redis_compiles_it(redis: Client, name: str) -> None:
    assert redis.script_load(scripts.text(name))


@pytest.mark.parametrize("name", scripts.NAMES)
def test_no_script_makes_up_keys(name: str) -> None:
    """Every key comes in KEYS, so that a script runs on a cluster."""
    calls = re.findall(r"redis\.p?call\('[A-Z]+', ([^,)]+)", scripts.text(name))
    assert calls
    assert not [first for first in calls if first.startswith("'") and first != "'TIME'"]


@pytest.mark.parametrize("name", sorted(set(scripts.NAMES) - {"accept", "begin", "reserve", "stored"}))
def test_what_was_accepted_is_moved_though_memory_is_full(name: str) -> None:
    first = next(line for line in source(name).splitlines() if line and not line.startswith("--"))
    assert first == "write_though_full()"


def test_a_clock_of_a_tests_own_changes_nothing_else() -> None:
    usual, tested = scripts.text("look"), scripts.text("look", "my-clock")
    assert usual.count("redis.call('TIME')") == 1
    assert tested == usual.replace("redis.call('TIME')", "redis.call('LRANGE', 'my-clock', 0, 1)")


def test_keys_of_the_head_are_as_many_as_the_scripts_count() -> None:
    (first,) = re.findall(r"^local FIRST_BATCH_KEY = (\d+)$", source("head"), re.MULTILINE)
    assert int(first) == len(Keys("n").head(0)) + 1


def test_a_state_is_one_character_that_a_pattern_can_hold() -> None:
    assert all(len(code) == 1 for code in CODES.values())
    for state in (State.QUEUED, State.SENDING, State.DEFERRED):
        assert CODES[state].isalpha(), "they stand in Lua patterns"
