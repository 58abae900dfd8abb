"""What is written as CSV or JSON Lines is read again, however it is cut and packed; no octets upset it."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json

import email_validator
import pytest
from backports import zstd
from hypothesis import example, given
from hypothesis import strategies as st

from mailtasks.address import mailbox, parse, plain
from mailtasks.errors import AddressError, InputError
from mailtasks.people import Once, Person, Reason, Rejected, read
from mailtasks.people.row import usable

values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
addresses = st.sampled_from(
    ["ann@example.com", "Bob.B@mail.Example", "jörg@bücher.test", '"a,b"@example.com']
)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True).filter(lambda it: usable(it) and it != "email")
headers = st.lists(names, unique=True, max_size=4)
packings = st.sampled_from([bytes, gzip.compress, zstd.compress, lambda it: codecs.BOM_UTF8 + it])
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=5)


class Cut:
    """A stream that gives its octets in pieces of these sizes, again and again."""

    def __init__(self, octets: bytes, sizes: list[int]) -> None:
        self.file = io.BytesIO(octets)
        self.sizes = sizes

    def read(self, size: int) -> bytes:
        self.sizes = self.sizes[1:] + self.sizes[:1]
        return self.file.read(min(size, self.sizes[0]))


@st.composite
def tables(draw):
    header = draw(headers)
    rows = draw(st.lists(st.tuples(addresses, *[values] * len(header)), max_size=6))
    return header, rows


@given(
    tables(),
    st.sampled_from(",;\t"),
    # Before Python 3.13 the writer quotes no line ends but its own kind.
    st.sampled_from(
        [("\r\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_ALL), ("\n", csv.QUOTE_ALL), ("\r", csv.QUOTE_ALL)]
    ),
    packings,
    cuts,
)
def test_what_csv_writes_is_read(table, delimiter, style, packed, sizes):
    (header, rows), (end, quoting) = table, style
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(["email", *header])
    lines = []
    for row in rows:
        lines.append(1 + len(list(io.StringIO(written.getvalue(), newline=""))))
        writer.writerow(row)
    people = read(Cut(packed(written.getvalue().encode()), sizes))
    assert list(people) == [
        Person(line, parse(email).address, dict(zip(header, fields, strict=True)))
        for line, (email, *fields) in zip(lines, rows, strict=True)
    ]
    assert people.finished


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(values, inner, max_size=3),
    max_leaves=5,
)
objects = st.lists(
    st.tuples(addresses, st.dictionaries(names, json_values, max_size=3)), min_size=1, max_size=5
)


@given(objects, st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n"]), packings, cuts)
def test_what_json_writes_is_read(rows, ascii_only, end, packed, sizes):
    lines = [json.dumps({"email": email} | fields, ensure_ascii=ascii_only) for email, fields in rows]
    step = end.count("\n")
    expected = [
        Person(1 + step * number, parse(email).address, fields) for number, (email, fields) in enumerate(rows)
    ]
    assert list(read(Cut(packed(end.join(lines).encode()), sizes))) == expected
    from_python = [Person(number, row.email, row.fields) for number, row in enumerate(expected, 1)]
    assert list(read([{"email": email} | fields for email, fields in rows])) == from_python


PIECES = [
    "email",
    ",",
    ";",
    '"',
    '""',
    "\n",
    "\r",
    "\r\n",
    "ann@example.com",
    "x",
    "\0",
    "{",
    '{"email":',
    "}",
    " ",
    "ü",
]
texts = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
beginnings = st.sampled_from(
    [
        b"",
        b"email\n",
        b"email,a\n",
        b'{"email": "a@b.c"}\n',
        b"\xff\xfe",
        b"\x1f\x8b\x08\0",
        b"\x28\xb5\x2f\xfd",
    ]
)
encodings = st.sampled_from(
    [None, "utf-8", "cp1252", "utf-16", "utf-7", "shift_jis", "gb18030", "iso2022_jp"]
)


def read_all(octets: bytes, sizes: list[int], encoding: str | None = None) -> tuple[list[object], str]:
    """The rows and the error."""
    given: list[object] = []
    try:
        people = read(Cut(octets, sizes), encoding=encoding)
        given.extend(people)
    except InputError as error:
        assert error.rows == len(given)  # noqa: PT017 - either outcome is right
        return given, str(error)
    assert people.rows == len(given)
    return given, ""


@given(beginnings, st.binary() | texts.map(str.encode), packings, cuts, encodings)
@example(b"email\n", b"\xc3", bytes, [1], None)
@example(b"email\n", b"+2AA-", bytes, [1], "utf-7")
def test_nothing_but_rows_and_the_named_error_comes_of_any_octets(beginning, rest, packed, sizes, encoding):
    octets = packed(beginning + rest)
    given, error = read_all(octets, sizes, encoding)
    assert all(isinstance(row, Person | Rejected) for row in given)
    assert "\n" not in error
    others, other = read_all(octets, [len(octets) + 1], encoding)
    if "damaged" in error:  # how much was decompressed before that depends on the cut
        assert given[: len(others)] == others[: len(given)]
        assert "damaged" in other
    else:
        assert (given, error) == (others, other)


@given(texts)
def test_lines_are_told_in_order_and_each_row_is_what_the_csv_module_reads(text):
    text = f"email,a\n{text}"
    given, error = read_all(text.encode(), [1000])
    lines = [row.line for row in given]
    assert lines == sorted(set(lines))
    try:
        by_csv = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row][1:]
    except csv.Error:
        return
    assert not error
    people = {row.email: row for row in given if isinstance(row, Person)}
    assert len(given) == len(by_csv)
    good = [row[0] for row in by_csv if len(row) == 2 and "\0" not in "".join(row)]
    assert set(people) == set(map(wire, good)) - {""}


def wire(text: str) -> str:
    """The address, or nothing if it is none."""
    try:
        return parse(text).address
    except AddressError:
        return ""


@given(tables(), st.data())
def test_a_compressed_file_that_breaks_off_gives_no_half_a_row(table, data):
    header, rows = table
    written = io.StringIO(newline="")
    csv.writer(written).writerows([["email", *header], *rows])
    whole, _ = read_all(written.getvalue().encode(), [1000])
    packed = data.draw(st.sampled_from([gzip.compress, zstd.compress]))(written.getvalue().encode())
    given, error = read_all(packed[: data.draw(st.integers(4, len(packed) - 1))], [1000])
    assert given == whole[: len(given)]
    assert "breaks off" in error


looks_like_one = st.from_regex(r"[\x21-\x7e]{1,12}@[A-Za-z0-9.\-]{1,20}", fullmatch=True)


@given(looks_like_one | st.text('aZ09.-_+@ "<>', max_size=20))
@example("1@2.3")
@example("Postmaster@Example.com")
@example("a" * 65 + "@b.c")
def test_the_fast_path_takes_only_what_the_full_check_takes_and_writes_it_alike(text):
    fast = plain(text)
    if fast is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(email_validator, "SPECIAL_USE_DOMAIN_NAMES", [])
        valid = email_validator.validate_email(
            text, globally_deliverable=False, check_deliverability=False, allow_domain_literal=True
        )
    # RFC 2142: the library writes "Postmaster" and its like in lower case.
    assert fast.lower() == f"{valid.local_part}@{valid.ascii_domain}".lower()
    assert fast.partition("@")[0] == text.partition("@")[0]


@given(st.lists(st.sampled_from(["a@b.c", "A@b.c", "b@b.c", "c@b.c", "C@b.c", "a+x@b.c"])))
def test_each_mailbox_passes_once(emails):
    with Once() as once:
        passed = list(once.of(Person(line, email, {}) for line, email in enumerate(emails)))
    seen: set[str] = set()
    for row, email in zip(passed, emails, strict=True):
        repeated = mailbox(email) in seen
        assert (isinstance(row, Rejected) and row.reason is Reason.REPEATED) is repeated
        seen.add(mailbox(email))
