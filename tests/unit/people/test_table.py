from __future__ import annotations

import csv

import pytest

from mailtasks.people import Person, Reason, Rejected, read


@pytest.fixture
def rows(tmp_path):
    """The rows of a text."""

    def of(text: str) -> list[Person | Rejected]:
        path = tmp_path / "people.csv"
        path.write_bytes(text.encode())
        return list(read(path))

    return of


@pytest.mark.parametrize("name", ["email", "EMAIL", " E-Mail ", "e_mail", "Email Address", "emailaddress"])
def test_the_column_of_the_address(rows, name):
    assert rows(f"name,{name}\nAnn,ann@example.com\n") == [Person(2, "ann@example.com", {"name": "Ann"})]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("email,a;b", "ann@example.com,1"),  # a comma wins
        ("email;a,b", "ann@example.com;1"),
        ("a,b\temail", "1\tann@example.com"),
        ('"a;b,c";email', '1;"ann@example.com"'),
        ("\n\nemail\n\n", "\nann@example.com"),
    ],
)
def test_what_parts_the_columns(rows, header, row):
    (person,) = rows(f"{header}\n{row}\n")
    assert person.email == "ann@example.com"


def test_an_address_is_written_as_on_the_wire_and_a_name_before_it_is_kept(rows):
    assert rows('email\n" ann@Bücher.Example "\n"Doe, Ann <ann@example.com>"\n"""Doe, A"" <a@b.c>"\n') == [
        Person(2, "ann@xn--bcher-kva.example", {}),
        Rejected(
            3,
            Reason.BAD_ADDRESS,
            "'Doe, Ann <ann@example.com>' is no mail address: put the display name in double quotes, and "
            "give "
            "several addresses as a list (on the command line: each with a --to of its own)",
        ),
        Person(4, "a@b.c", {}, "Doe, A"),
    ]


@pytest.mark.parametrize(
    ("row", "reason", "what"),
    [
        (",Ann", Reason.NO_ADDRESS, "the row has no address"),
        ("  ,Ann", Reason.NO_ADDRESS, "the row has no address"),
        ("ann,Ann", Reason.BAD_ADDRESS, "'ann' is no mail address: An email address must have an @-sign"),
        ("ann@example.com", Reason.COLUMNS, "the row has 1 column, and the first line names 2"),
        ("ann@example.com,Ann,x", Reason.COLUMNS, "the row has 3 columns, and the first line names 2"),
        ("ann@example.com,A\0", Reason.NUL, "the row holds a NUL, which can't be mailed"),
        (
            'ann@example.com,"A\n\0"',
            Reason.NUL,
            "the row holds a NUL, which can't be mailed",
        ),
        (
            'ann@example.com,"Ann" x',
            Reason.QUOTES,
            "behind a closing quote stands something else than the end of the field",
        ),
        (
            '"ann@example.com,Ann\nx@example.com,X\n"bob@example.com","Bob"',
            Reason.QUOTES,
            "behind a closing quote stands something else than the end of the field; it goes on to line "
            "4: is a "
            "quote not closed, or one too many?",
        ),
        (
            'ann@example.com,"Ann\nx@example.com,X\n",bob@example.com',
            Reason.COLUMNS,
            "the row has 3 columns, and the first line names 2; it goes on to line 4: is a quote not "
            "closed, or "
            "one too many?",
        ),
        (
            "ann@example.com," + "x" * 131_073,
            Reason.TOO_LARGE,
            "a field has more than 131,072 characters",
        ),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_bad_row_is_told_and_stops_no_other(rows, row, reason, what, end):
    first, *others = rows(f"email,name\n{row}\nbob@example.com,Bob\n".replace("\n", end))
    assert (first.line, first.reason) == (2, reason)
    assert first.what.startswith(what)
    assert others == [Person(3 + row.count("\n"), "bob@example.com", {"name": "Bob"})]


def test_no_part_of_a_row_that_is_refused_is_taken_for_one(rows):
    text = 'email,a,b\n"x"y,"\nann@example.com,1,2\n",3\nbob@example.com,1,2\n'
    assert [type(row) for row in rows(text)] == [Rejected, Person]
    assert rows(text)[1] == Person(5, "bob@example.com", {"a": "1", "b": "2"})


def test_lines_are_those_of_the_file(rows):
    text = '"email","na\nme"\n\n"a@example.com","1\r\n2\r3\n"\n\n\r\n"b@example.com",""\n'
    assert rows(text) == [Person(4, "a@example.com", {}), Person(10, "b@example.com", {})]


def test_a_quote_within_a_field_without_quotes_is_text(rows):
    assert rows('email,name\nann@example.com,5" disk\n') == [
        Person(2, "ann@example.com", {"name": '5" disk'})
    ]


def test_the_last_row_needs_no_end(rows):
    assert rows('email,name\nann@example.com,"A\n"')[0].fields == {"name": "A\n"}


def test_a_larger_field_is_taken_where_the_csv_module_was_told_so(rows):
    before = csv.field_size_limit(1_000_000)
    try:
        (person,) = rows("email,name\nann@example.com," + "x" * 500_000 + "\n")
    finally:
        csv.field_size_limit(before)
    assert len(person.fields["name"]) == 500_000
