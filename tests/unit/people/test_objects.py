from __future__ import annotations

import json
import uuid
from collections import OrderedDict
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType, SimpleNamespace

import pytest
import sqlalchemy

from mailtasks.people import Person, Reason, Rejected, read

ANN = {"email": "ann@example.com"}


@pytest.fixture
def lines(tmp_path):
    """The rows of some lines of JSON, behind one that is good."""

    def of(*texts: str) -> list[Person | Rejected]:
        path = tmp_path / "people.jsonl"
        path.write_bytes("\n".join([json.dumps(ANN), *texts]).encode())
        return list(read(path))[1:]

    return of


def test_values_of_every_kind(lines):
    fields = {
        "s": 'ü\n"',
        "n": 1,
        "f": 1.5,
        "b": True,
        "none": None,
        "no": None,
        "l": [1, [{"x y": None}]],
        "big": 2**64 - 1,
    }
    (row,) = lines(json.dumps(ANN | fields))
    del fields["none"]  # a word of Jinja's
    assert row == Person(2, "ann@example.com", fields)
    assert list(row.fields) == list(fields)


@pytest.mark.parametrize(
    ("text", "reason", "what"),
    [
        ("{", Reason.NOT_AN_OBJECT, "the line is no object of JSON: "),
        ("ann@example.com", Reason.NOT_AN_OBJECT, "the line is no object of JSON: "),
        ('{"email": "a@b.c", "x": NaN}', Reason.NOT_AN_OBJECT, "the line is no object of JSON: "),
        ('{"email": "a@b.c", "x": "\\ud800"}', Reason.NOT_AN_OBJECT, "the line is no object of JSON: "),
        ("[" * 100_000, Reason.NOT_AN_OBJECT, "the line is no object of JSON: "),
        ("[1]", Reason.NOT_AN_OBJECT, "the row is of type list, and no object with names for its values"),
        ('{"name": "Ann"}', Reason.NO_ADDRESS, "the row has no field `email`, only 'name'"),
        ("{}", Reason.NO_ADDRESS, "the row has no field `email`, only nothing"),
        ('{"email": null}', Reason.NO_ADDRESS, "the row has no address"),
        ('{"email": 7}', Reason.BAD_ADDRESS, "the address is of type int and no text"),
        ('{"email": "ann"}', Reason.BAD_ADDRESS, "'ann' is no mail address: "),
        ('{"email": "a\\u0000@b.c"}', Reason.BAD_ADDRESS, "the address 'a\\x00@b.c' holds '\\x00'"),
        (
            '{"email": "a@b.c", "E-Mail": "a@b.c"}',
            Reason.COLUMNS,
            "any of 'email', 'E-Mail' may be the field `email`; rename all but one",
        ),
        (
            '{"email": "a@b.c", "x": ["\\u0000"]}',
            Reason.NUL,
            "the field 'x' holds a NUL, which can't be mailed",
        ),
        (
            f'{{"email": "a@b.c", "x": {1 << 64}}}',
            Reason.BAD_FIELD,
            "the field 'x' is a number of more than 64 bits; make it a text",
        ),
        (
            f'{{"email": "a@b.c", "x": {"[" * 33}{"]" * 33}}}',
            Reason.BAD_FIELD,
            "the field 'x' has lists or objects more than 32 deep within each other",
        ),
        (
            json.dumps(ANN | {f"x{number}": 1 for number in range(20_000)}),
            Reason.COLUMNS,
            "the row has 20,001 fields, and 16,384 are the most",
        ),
        ('{"email": "' + "x" * 3_000_000, Reason.TOO_LARGE, "the row has more than 1,000,000 characters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_line_is_told_and_stops_no_other(lines, text, reason, what):
    first, second = lines(text, "", json.dumps(ANN))
    assert (first.line, first.reason) == (2, reason)
    assert first.what.startswith(what)
    assert second == Person(4, "ann@example.com", {})


def test_names_that_no_template_can_use_are_left_out_and_told():
    people = read([ANN | {"first name": "Ann", "a": 1}, ANN | {"a": 2, "1": 1}])
    assert [row.fields for row in people] == [{"a": 1}, {"a": 2}]
    assert people.unusable == ("first name", "1")
    assert people.columns is None


class Name(str):
    __slots__ = ()


def test_what_python_has_becomes_what_json_holds():
    moment = datetime(2030, 1, 31, 9, tzinfo=UTC)
    number = uuid.UUID(int=1)
    values = {
        "day": (date(2030, 1, 31), "2030-01-31"),
        "moment": (moment, "2030-01-31 09:00:00+00:00"),
        "price": (Decimal("1.50"), "1.50"),
        "id": (number, str(number)),
        "name": (Name("Ann"), "Ann"),
        "more": (MappingProxyType({"a": (1, OrderedDict(b=2))}), {"a": [1, {"b": 2}]}),
    }
    (row,) = read([MappingProxyType(ANN | {name: given for name, (given, _) in values.items()})])
    assert row.fields == {name: kept for name, (_, kept) in values.items()}
    assert type(row.fields["name"]) is str


@pytest.mark.parametrize(
    ("row", "reason", "what"),
    [
        (ANN | {"x": b"Ann"}, Reason.BAD_FIELD, "the field 'x' is of type bytes; make it a text or a number"),
        (ANN | {"x": float("nan")}, Reason.BAD_FIELD, "the field 'x' is nan, which is no number"),
        (ANN | {"x": {1: 2}}, Reason.BAD_FIELD, "the field 'x' has a name within it that is no text"),
        (
            ANN | {"x": "\ud800"},
            Reason.BAD_FIELD,
            "the field 'x' holds a surrogate, which can't be mailed; decode the text with its real encoding",
        ),
        (ANN | {1: 2}, Reason.NOT_AN_OBJECT, "the row has a name that is no text"),
        (
            "ann@example.com",
            Reason.NOT_AN_OBJECT,
            "the row is of type str, and no object with names for its values",
        ),
        (
            ANN | {"x": "x" * 1_000_000},
            Reason.TOO_LARGE,
            "the row has 1,000,031 octets as JSON, and 1,000,000 are the most",
        ),
    ],
)
def test_a_bad_row_from_python_is_told_by_its_number(row, reason, what):
    assert list(read(iter([ANN, row, ANN])))[1:] == [
        Rejected(2, reason, what),
        Person(3, "ann@example.com", {}),
    ]


def test_the_rows_of_a_query():
    engine = sqlalchemy.create_engine("sqlite://")
    query = sqlalchemy.text("select 'ann@example.com' as email, 'Ann' as name union all select null, 'Bob'")
    with engine.connect() as connection:
        assert list(read(connection.execute(query))) == [
            Person(1, "ann@example.com", {"name": "Ann"}),
            Rejected(2, Reason.NO_ADDRESS, "the row has no address"),
        ]
    engine.dispose()


def test_only_so_many_shapes_of_rows_are_remembered():
    rows = [ANN | {f"x{number}": number} for number in range(1000)] * 2
    assert [row.fields for row in read(rows)] == [{f"x{number}": number} for number in range(1000)] * 2


def test_anything_with_a_mapping():
    assert list(read([SimpleNamespace(_mapping=ANN)])) == [Person(1, "ann@example.com", {})]
