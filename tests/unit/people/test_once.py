from __future__ import annotations

import os
from collections import namedtuple
from types import SimpleNamespace

import pytest

from mailtasks.errors import InputError
from mailtasks.people import Once, Person, Reason, Rejected, once


def person(line: int, email: str) -> Person:
    return Person(line, email, {})


@pytest.fixture
def remembered():
    with Once() as it:
        yield it


def test_each_address_passes_once_and_the_repeated_one_is_told(remembered):
    bad = Rejected(3, Reason.NO_ADDRESS, "the row has no address")
    rows = [person(2, "ann@example.com"), bad, person(4, "bob@example.com"), person(5, "Ann@example.com")]
    assert list(remembered.of(rows)) == [
        *rows[:3],
        Rejected(5, Reason.REPEATED, "Ann@example.com stands in line 2 already, and is mailed once"),
    ]
    assert next(remembered.of(iter([person(1, "bob@example.com")]))).reason is Reason.REPEATED


@pytest.mark.parametrize(
    "other", ["ann+x@example.com", "a.nn@example.com", "ann@example.org", "straße@example.com"]
)
def test_what_is_another_mailbox(remembered, other):
    rows = [person(1, "ann@example.com"), person(2, "strasse@example.com"), person(3, other)]
    assert list(remembered.of(rows)) == rows


@pytest.mark.parametrize("algorithm", ["siphash13", "fnv"])
def test_many_more_than_memory_is_for(monkeypatch, algorithm):
    hash_info = namedtuple("hash_info", "hash_bits algorithm")(64, algorithm)
    monkeypatch.setattr(once, "sys", SimpleNamespace(hash_info=hash_info, byteorder="little"))
    monkeypatch.setattr(once, "_LATEST", 64)
    monkeypatch.setattr(once, "_WORDS", 64)  # so that the filter knows nearly all, and the file must
    monkeypatch.setattr(once, "_LAST_WORD", 63)
    emails = [f"user{number}@example.com" for number in range(5000)]
    with Once() as remembered:
        assert [remembered.line_before(email, line) for line, email in enumerate(emails, 1)] == [None] * 5000
        assert [remembered.line_before(email, 0) for email in emails] == list(range(1, 5001))


def test_two_of_them_share_no_key():
    assert once._keyed_hash()("ann@example.com") != once._keyed_hash()("ann@example.com")


def test_few_addresses_touch_no_disk(monkeypatch, remembered):
    monkeypatch.setattr(once, "TemporaryFile", None)
    rows = [person(line, f"user{line}@example.com") for line in range(10_000)]
    assert list(remembered.of(rows)) == rows


def test_a_full_disk_is_told(monkeypatch, remembered):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(once, "_LATEST", 2)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError) as error:
        list(remembered.of(person(line, f"user{line}@example.com") for line in range(9)))
    assert str(error.value) == (
        "the temporary file that remembers addresses: can't be written ([Errno 28] No space left on device); "
        "make room for 16 bytes an address, or name another folder in TMPDIR"
    )


@pytest.mark.parametrize(("name", "value"), [("_ROOM", 16), ("os", SimpleNamespace(pwrite=lambda *_: 1))])
def test_more_than_the_file_can_hold_is_told(monkeypatch, remembered, name, value):
    monkeypatch.setattr(once, "_LATEST", 8192)
    monkeypatch.setattr(once, name, value)
    with pytest.raises(
        InputError, match=r"can't be written \((it holds 0 addresses and can hold no more|the disk is full)"
    ):
        list(remembered.of(person(line, f"user{line}@example.com") for line in range(9000)))
