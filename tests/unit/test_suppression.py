"""Entries of the suppression list, and files of them."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtasks.errors import AddressError, MessageError
from mailtasks.suppression import BadLine, Suppression, read, suppression, write

AT = datetime(2030, 1, 31, 9, 0, 0, 123_000, UTC)


def lines(*texts: str) -> list[Suppression | BadLine]:
    return list(read([f"{text}\n" for text in texts], "people.csv"))


def test_an_entry_is_checked_and_brought_into_one_form() -> None:
    at = datetime(2030, 1, 31, 10, tzinfo=timezone(timedelta(hours=1)))
    made = suppression("Ann <Ann@EXAMPLE.com>", " two \n lines\t", "complaint", at)
    assert made == Suppression(
        "ann@example.com", "two lines", "complaint", datetime(2030, 1, 31, 9, tzinfo=UTC)
    )
    assert len(suppression("ann@example.com", "x" * 1000).reason) == 300


def test_a_sentence_stands_in_the_place_of_a_reply() -> None:
    assert Suppression("a@b.c", "550 5.1.1 unknown", "bounce", AT).sentence == (
        "on the suppression list since 2030-01-31 09:00 UTC (bounce): 550 5.1.1 unknown"
    )
    assert Suppression("a@b.c").sentence == "on the suppression list (operator)"


def test_an_entry_as_json() -> None:
    assert Suppression("a@b.c", "why", "import", AT).as_dict() == {
        "address": "a@b.c",
        "reason": "why",
        "source": "import",
        "added_at": "2030-01-31T09:00:00.123+00:00",
    }
    assert Suppression("a@b.c").as_dict()["added_at"] is None


def test_one_address_a_line() -> None:
    assert lines("\ufeffann@example.com", "", "  Bob@Example.com ", "nonsense", "eve@example.com") == [
        Suppression("ann@example.com", source="import"),
        Suppression("bob@example.com", source="import"),
        BadLine(4, "'nonsense' is no mail address: An email address must have an @-sign"),
        Suppression("eve@example.com", source="import"),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["email", "Email", "E-Mail", '"email"', "EMAIL ADDRESS", "\ufeffemail"])
def test_csv_with_a_column_of_addresses(separator: str, name: str) -> None:
    rows = [("reason", name, "age", "source"), ('"a ""b"""', "ann@example.com", "7", "unsubscribe")]
    rows += [("", "bob@example.com", "", "")]
    if name.startswith("\ufeff"):
        rows = [(email, other, *rest) for other, email, *rest in rows]
    assert lines(*(separator.join(row) for row in rows)) == [
        Suppression("ann@example.com", 'a "b"', "unsubscribe"),
        Suppression("bob@example.com", "", "import"),
    ]


def test_bad_rows_are_told_of_and_stop_no_other() -> None:
    told = lines(
        "email,reason,source,time",
        "ann@example.com,asked,operator,2030-01-31T09:00:00.123+00:00",
        'bob@example.com,"never closed',
        "eve@example.com,,Not a word",
        "eve@example.com,,,yesterday",
        "eve@example.com,,,2030-01-31T09:00:00",
        "eve@example.com,,,,more",
        "eve@example.com,caf\udce9",
        ",nobody",
        "eve@example.com",
    )
    assert told[0] == Suppression("ann@example.com", "asked", "operator", AT)
    assert told[-1] == Suppression("eve@example.com", source="import")
    assert [str(it) for it in told[1:-1]] == [
        "line 3: the row can't be read (unexpected end of data); look at its quotes",
        "line 4: 'Not a word' is no source of a suppression: write one word, in lower case and of at most 32 "
        "letters, such as operator, import, bounce, unsubscribe, complaint",
        "line 5: 'yesterday' is no time: write one such as 2030-01-31T09:00:00+00:00",
        "line 6: the time 2030-01-31T09:00:00 has no offset from UTC: add one, such as +00:00",
        "line 7: the row has 5 fields, and the first line names 4",
        "line 8: it isn't UTF-8; save the file with that encoding",
        "line 9: '' is no mail address: An email address must have an @-sign",
    ]


def test_a_field_without_an_end_is_a_bad_row() -> None:
    told = lines("email", '"' + "x" * 200_000, "ann@example.com")
    assert [type(it) for it in told] == [BadLine, Suppression]


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (
            "name,mail",
            "people.csv, line 2: 'name,mail' is no address and names no column `email`; "
            "give CSV with such a column, or one address a line",
        ),
        ("\udcff\udcfee", "people.csv, line 2: it isn't UTF-8; save the file with that encoding"),
    ],
)
def test_what_is_no_such_file_is_refused_at_once(first: str, error: str) -> None:
    with pytest.raises(MessageError) as raised:
        read(["\n", f"{first}\n", "ann@example.com\n"], "people.csv")
    assert str(raised.value) == error


def test_nothing_is_no_entry() -> None:
    assert lines() == lines("", "  ") == []


def test_no_address_and_no_source_are_errors() -> None:
    with pytest.raises(AddressError, match=r"^'nonsense' is no mail address: "):
        suppression("nonsense")
    with pytest.raises(MessageError, match=r"^'' is no source of a suppression: "):
        suppression("ann@example.com", source="")


@given(
    st.lists(
        st.builds(
            suppression,
            st.sampled_from(["ann@example.com", '"a,b"@example.com', "jörg@straße.example", "#=@x.org"]),
            st.text(st.characters(exclude_categories=["Cs"])),
            st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True),
            st.datetimes(timezones=st.just(UTC)).map(
                lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
            ),
        )
    )
)
def test_what_is_written_is_read_back_unchanged(entries: list[Suppression]) -> None:
    file = io.StringIO(newline="")
    assert write(entries, file) == len(entries)
    assert list(read(io.StringIO(file.getvalue()), "it")) == entries
