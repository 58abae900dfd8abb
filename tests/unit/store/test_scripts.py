"""The texts that Redis runs."""

from __future__ import annotations

import re

import pytest

from mailtasks.state import CODES, LAPSES_BEFORE_ASIDE, MOVES, UNFINISHED, State
from mailtasks.store import scripts
from mailtasks.store.connection import Client
from mailtasks.store.keys import Keys


def table(name: str) -> dict[str, str]:
    (line,) = re.findall(rf"^local {name} = {{ (.*) }}$", scripts.text("open"), re.MULTILINE)
    return dict(re.findall(r"\['(.)'\] = '?([^',]*)'?", line))


def test_the_scripts_know_the_table_of_states() -> None:
    text = scripts.text("open")
    for state, code in CODES.items():
        assert f"local {state.name} = '{code}'" in text
    assert table("NAMES") == {code: state.value for state, code in CODES.items()}
    moves = {code: {CODES[new] for new in MOVES[state]} for state, code in CODES.items()}
    assert {code: set(allowed) for code, allowed in table("MOVES").items()} == moves
    assert set(table("UNFINISHED")) == {CODES[state] for state in UNFINISHED}


def test_the_scripts_know_when_to_set_aside() -> None:
    said = re.findall(r"LAPSES_BEFORE_ASIDE = (.*)", scripts.text("look"))
    assert said == [str(LAPSES_BEFORE_ASIDE)]


@pytest.mark.parametrize("name", scripts.NAMES)
def test_a_script_says_what_it_takes_and_returns(name: str) -> None:
    own = scripts.text(name)[len(common()) :].lstrip()
    head = re.match(r"(--.*\n)+", own)
    assert head is not None
    assert "-- arg: " in head[0]
    assert "-- Returns " in head[0]


def common() -> str:
    text = scripts.text("open")
    return text[: text.index("-- Opens a gate")]


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
    own = scripts.text(name)[len(common()) :]
    first = next(line for line in own.splitlines() if line and not line.startswith("--"))
    assert first == "write_though_full()"


def test_a_clock_of_a_tests_own_changes_nothing_else() -> None:
    usual, tested = scripts.text("look"), scripts.text("look", "my-clock")
    assert usual.count("redis.call('TIME')") == 1
    assert tested == usual.replace("redis.call('TIME')", "redis.call('LRANGE', 'my-clock', 0, 1)")


def test_keys_of_the_head_are_as_many_as_the_scripts_count() -> None:
    (first,) = re.findall(r"^local FIRST_BATCH_KEY = (\d+)$", common(), re.MULTILINE)
    assert int(first) == len(Keys("n").head(0)) + 1


def test_a_state_is_one_character_that_a_pattern_can_hold() -> None:
    assert all(len(code) == 1 for code in CODES.values())
    for state in (State.QUEUED, State.SENDING, State.DEFERRED):
        assert CODES[state].isalpha(), "they stand in Lua patterns"
