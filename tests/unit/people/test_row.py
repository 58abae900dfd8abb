from __future__ import annotations

import pytest

from mailtasks.people.row import Unusable, counted, is_email, named, usable


@pytest.mark.parametrize("name", ["mail", "email2", "to", "address", "", "e.mail"])
def test_what_is_not_the_column_of_the_address(name):
    assert not is_email(name)


@pytest.mark.parametrize(
    ("name", "whether"),
    [("name", True), ("straße", True), ("_x1", True), ("class", True)]
    + [
        (name, False) for name in ("", "first name", "1st", "a-b", "a.b", "none", "None", "not", "self", "if")
    ],
)
def test_what_a_template_can_name(name, whether):
    assert usable(name) is whether


def test_names_are_told_shortly():
    assert named(["a"]) == "'a'"
    assert named(map(str, range(10_000))) == "'0', '1', '2', '3', '4', '5', '6', '7' and 9,992 more"
    assert len(named(["x" * 10_000])) < 70


def test_things_are_counted():
    assert [counted(number, "column") for number in (1, 2, 1000)] == [
        "1 column",
        "2 columns",
        "1,000 columns",
    ]


def test_a_hundred_unusable_names_are_kept_each_once():
    unusable = Unusable()
    unusable.add(["a b", "a b"])
    unusable.add(f"{number}" for number in range(1000))
    assert list(unusable)[:2] == ["a b", "0"]
    assert len(list(unusable)) == 100
