"""People are read and checked, all of them, and wait in a temporary file."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from tempfile import TemporaryFile
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from mailtasks.campaign import gathering
from mailtasks.campaign.gathering import gather
from mailtasks.errors import InputError
from mailtasks.people import Person, Reason, Rejected


def a_row(number: int, **fields: Any) -> Person:
    return Person(number, f"ann{number}@example.com", {"name": f"Ann {number}", **fields})


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[BinaryIO]:
    """The temporary files that were opened."""
    opened: list[BinaryIO] = []

    def open_() -> BinaryIO:
        opened.append(TemporaryFile())  # noqa: SIM115 - who asked for it closes it
        return opened[-1]

    monkeypatch.setattr(gathering, "TemporaryFile", open_)
    return opened


def test_people_can_be_read_as_often_as_one_likes() -> None:
    rows = [a_row(number) for number in range(2, 702)]
    with gather(rows) as gathered:
        for _ in range(2):
            batches = list(gathered)
            assert [len(batch.emails) for batch in batches] == [300, 300, 100]
            assert [email for batch in batches for email in batch.emails] == [row.email for row in rows]
        assert (gathered.people, gathered.first) == (700, rows[:3])


def test_an_address_passes_once_and_the_others_are_told() -> None:
    bad = Rejected(5, Reason.BAD_ADDRESS, "'x' is no mail address")
    told: list[Rejected] = []
    rows = [a_row(2), a_row(3), Person(4, "ANN2@example.com", {}), bad, a_row(6)]
    with gather(rows, rejected=told.append) as gathered:
        assert gathered.people == 3
        assert gathered.rejected == {Reason.REPEATED: 1, Reason.BAD_ADDRESS: 1}
        assert gathered.told == told
    assert [(row.line, row.what) for row in told] == [
        (4, "ANN2@example.com stands in line 2 already, and is mailed once"),
        (5, "'x' is no mail address"),
    ]


def test_who_lacks_what_the_template_needs_is_rejected_and_may_stand_again() -> None:
    rows = [
        a_row(1),
        Person(2, "bob@example.com", {"city": "Lisbon"}),
        Person(3, "bob@example.com", {"name": 1}),
    ]
    with gather(rows, frozenset({"name"})) as gathered:
        assert gathered.people == 2
        assert gathered.told == [
            Rejected(2, Reason.INCOMPLETE, "the row has no 'name', which the template needs")
        ]


def test_a_hundred_are_kept_and_all_are_counted() -> None:
    told: list[Rejected] = []
    bad = [Rejected(number, Reason.NO_ADDRESS, "the row has no address") for number in range(2, 152)]
    with gather([*bad, a_row(200)], rejected=told.append) as gathered:
        assert (gathered.told, gathered.rejected) == (bad[:100], {Reason.NO_ADDRESS: 150})
    assert told == bad


def test_progress_is_told() -> None:
    seen: list[int] = []
    gather((a_row(number) for number in range(700)), progress=seen.append).close()
    assert seen == [300, 600, 700]


def test_the_digest_is_that_of_the_people_in_their_order() -> None:
    def digest(*rows: Person | Rejected) -> str:
        with gather(rows) as gathered:
            return gathered.digest

    one = digest(a_row(2), a_row(3))
    assert len(one) == 16
    assert digest(a_row(2), Rejected(7, Reason.NUL, "a NUL"), a_row(3)) == one, (
        "who isn't mailed is no content"
    )
    assert one not in {digest(a_row(3), a_row(2)), digest(a_row(2)), digest(a_row(2), a_row(3, city="Rome"))}


def test_nobody_needs_no_file(files: list[BinaryIO]) -> None:
    with gather([Rejected(2, Reason.NUL, "a NUL")]) as gathered:
        assert (list(gathered), gathered.people, gathered.first) == ([], 0, [])
    assert files == []


def test_the_file_is_closed_at_the_end_and_where_rows_break_off(files: list[BinaryIO]) -> None:
    def broken() -> Iterator[Person]:
        yield from (a_row(number) for number in range(400))
        raise InputError("people.csv", "breaks off", 401)

    with gather([a_row(1)]):
        assert not files[0].closed
    with pytest.raises(InputError, match=r"people\.csv, line 401: breaks off"):
        gather(broken())
    assert [file.closed for file in files] == [True, True]


@pytest.mark.parametrize("where", ["open", "write", "flush"])
def test_a_full_disk(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    full = {"write": lambda octets: len(octets), "flush": lambda: None, "close": lambda: None, where: fail}
    monkeypatch.setattr(
        gathering, "TemporaryFile", fail if where == "open" else lambda: SimpleNamespace(**full)
    )
    with pytest.raises(InputError) as raised:
        gather([a_row(1)])
    assert str(raised.value) == (
        "the temporary file that keeps rows until they are accepted: can't be written ([Errno 28] No space "
        "left on device); make room, or name another folder in TMPDIR"
    )
