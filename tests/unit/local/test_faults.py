import re
from collections import Counter

import pytest

from mailtasks.errors import SettingsError
from mailtasks.local import faults
from mailtasks.local.faults import CONVENTION, FAULTS, Behaviour, Ending, Faults, Orders
from mailtasks.reply import Stage


def test_the_documented_table_is_the_table():
    rows = re.findall(r"^([a-z-]+) +(rcpt|dot) +(.+)$", faults.__doc__, re.MULTILINE)
    assert {word: stage for word, stage, _ in rows} == {word: b.at for word, b in CONVENTION.items()}
    for word, _, told in rows:
        behaviour = CONVENTION[word]
        assert ("first attempt" in told or "then accepted" in told) == (behaviour.times == 1), word
        assert ("reset" in told) == (behaviour.ending is Ending.RESET), word
        if behaviour.reply and not behaviour.accept:
            assert told.startswith(" ".join(behaviour.reply.split()[:2])), word


@pytest.mark.parametrize(
    ("recipient", "word"),
    [
        ("refuse@example.com", "refuse"),
        ("Refuse.ann@example.com", "refuse"),
        ("refuse-7@example.com", "refuse"),
        ("refuse7@example.com", "refuse"),
        ("defer-once.ann@example.com", "defer-once"),
        ("defer-onceupon@example.com", "defer"),
        ("keep-drop-once+x@example.com", "keep-drop-once"),
        ("slow", "slow"),
        ("refused@example.com", None),
        ("ann.refuse@example.com", None),
        ("slowik@example.com", None),
        ("ann@refuse.example.com", None),
    ],
)
def test_a_word_at_the_beginning_of_the_local_part_orders(recipient, word):
    assert Orders().of(recipient) is (CONVENTION[word] if word else None)


def test_no_convention_orders_nothing():
    assert Orders({}).of("refuse@example.com") is None


def test_a_convention_of_ones_own():
    shy = Behaviour(Stage.RCPT, "450 4.2.1 shy")
    assert Orders({"ann": shy}).of("ann@example.com") is shy


def test_every_fault_has_its_odds():
    assert {name for name in FAULTS if Faults(**{name: 1.0}).draw(FAULTS[name].at, "x", 1)} == set(FAULTS)


def test_odds_are_met():
    odds = Faults(defer=0.2, refuse=0.1)
    drawn = Counter(odds.draw(Stage.RCPT, f"{n}@example.com", 1) for n in range(4000))
    assert drawn[FAULTS["defer"]] == pytest.approx(800, rel=0.15)
    assert drawn[FAULTS["refuse"]] == pytest.approx(400, rel=0.2)
    assert drawn[None] == pytest.approx(2800, rel=0.05)


def test_a_draw_depends_on_seed_stage_subject_and_attempt_alone():
    def drawn(seed, attempts):
        odds = Faults(seed=seed, defer=0.5)
        return [odds.draw(Stage.RCPT, "ann@example.com", attempt) for attempt in attempts]

    assert drawn(1, range(64)) == drawn(1, range(64))
    assert drawn(1, range(64)) == drawn(1, reversed(range(64)))[::-1]
    assert drawn(1, range(64)) != drawn(2, range(64))
    assert Faults(defer=1.0).draw(Stage.DOT, "ann@example.com", 1) is None


def test_how_long_a_stall_is():
    assert Faults(stall=1.0, stall_seconds=9.0).draw(Stage.DOT, "x", 1).seconds == 9.0


def test_parse_is_the_reverse_of_str():
    odds = Faults(seed=7, defer=0.25, stall=0.5, stall_seconds=0.125)
    assert Faults.parse(str(odds)) == odds
    assert Faults.parse(" defer=0.25, stall=0.5,seed=7 ,") == Faults(seed=7, defer=0.25, stall=0.5)
    assert Faults.parse("") == Faults()


@pytest.mark.parametrize("text", ["defr=0.1", "defer", "defer=often", "defer=-1"])
def test_a_fault_that_is_not_understood(text):
    with pytest.raises(
        SettingsError, match=r"^fault .* isn't understood; write NAME=ODDS,… with names from seed, d"
    ):
        Faults.parse(text)


def test_odds_that_are_none():
    with pytest.raises(SettingsError) as caught:
        Faults(defer=0.6, refuse=0.6)
    assert str(caught.value) == (
        "the odds of the faults at rcpt are [0.6, 0.6, 0.0]; each must be at least 0, their sum at most 1"
    )
