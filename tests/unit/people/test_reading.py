from __future__ import annotations

import gzip
import io
import json
import pickle
import sys

import pytest
from backports import zstd

from mailtasks.errors import InputError, MailtasksError
from mailtasks.people import People, Person, Reason, Rejected, read

CSV = "email,name\nann@example.com,Ann\nbob@example.com,Bob\n"
PEOPLE = [Person(2, "ann@example.com", {"name": "Ann"}), Person(3, "bob@example.com", {"name": "Bob"})]


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Makes a file of some octets here, and returns its path."""
    monkeypatch.chdir(tmp_path)

    def write(octets: bytes) -> str:
        (tmp_path / "people.csv").write_bytes(octets)
        return "people.csv"

    return write


@pytest.fixture
def failure(path):
    """What is said of some octets."""

    def told(octets: bytes, encoding: str | None = None) -> str:
        with pytest.raises(InputError) as error:
            list(read(path(octets), encoding=encoding))
        return str(error.value)

    return told


@pytest.mark.parametrize(
    "packed",
    [
        CSV.encode(),
        b"\xef\xbb\xbf" + CSV.encode(),  # a BOM
        CSV.encode("utf-16"),
        b"\xfe\xff" + CSV.encode("utf-16-be"),
        gzip.compress(CSV.encode(), mtime=0),
        gzip.compress(CSV[:20].encode(), mtime=0) + gzip.compress(CSV[20:].encode(), mtime=0),
        gzip.compress(b"\xef\xbb\xbf" + CSV.encode(), mtime=0),
        zstd.compress(CSV.encode()),
        zstd.compress(CSV[:20].encode()) + zstd.compress(CSV[20:].encode()),
        CSV.replace("\n", "\r\n").encode(),
        CSV.replace("\n", "\r").encode(),
        CSV.rstrip().encode(),
        CSV.replace(",", ";").encode(),
        CSV.replace(",", "\t").encode(),
    ],
)
def test_the_same_people_however_they_are_packed(path, packed):
    assert list(read(path(packed))) == PEOPLE


def test_standard_input_may_come_octet_by_octet(monkeypatch):
    class Slow(io.RawIOBase):
        left = gzip.compress(CSV.encode())

        def read(self, size=-1):
            piece, self.left = self.left[:1], self.left[1:]
            return piece

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Slow()}))
    people = read("-")
    assert people.name == "standard input"
    assert list(people) == PEOPLE


def test_an_encoding_that_is_named(path):
    octets = "email;name\njörg@example.com;Jörg\n".encode("cp1252")
    assert list(read(path(octets), encoding="cp1252")) == [Person(2, "jörg@example.com", {"name": "Jörg"})]


def test_what_was_opened_is_left_open_and_what_read_opens_is_closed(path):
    with open(path(CSV.encode()), "rb") as file:
        with read(file) as people:
            assert next(iter(people)) == PEOPLE[0]
        assert not file.closed
    people = read(path(CSV.encode()))
    people.close()
    assert list(people) == []


def test_it_knows_how_far_it_is_and_what_a_template_can_use(path):
    with read(path(b"email,name,first name,,class\nann@example.com,Ann,A,0,c\nx\n")) as people:
        assert people.columns == ("name", "class")
        assert people.unusable == ("first name", "")
        assert not people.finished
        assert list(people) == [
            Person(2, "ann@example.com", {"name": "Ann", "class": "c"}),
            Rejected(3, Reason.COLUMNS, "the row has 1 column, and the first line names 5"),
        ]
    assert people.finished
    assert people.rows == 2


def test_the_digest_is_of_the_content_without_its_compression(path):
    digests = []
    for octets in (CSV.encode(), gzip.compress(CSV.encode()), zstd.compress(CSV.encode())):
        people = read(path(octets))
        list(people)
        digests.append(people.digest)
    other = read(path(CSV.replace("Bob", "Rob").encode()))
    list(other)
    assert digests[0] == digests[1] == digests[2] != other.digest
    assert len(other.digest) == 64


def test_the_digest_of_rows_from_python_is_of_what_they_say():
    def digest(*rows: object) -> str:
        people = read(rows)
        list(people)
        return people.digest

    ann = {"email": "ann@example.com", "n": 1}
    assert digest(ann, 7) == digest(dict(ann), 7)
    assert len({digest(), digest(ann), digest(ann, ann), digest(ann, 7), digest(ann | {"n": 2})}) == 5


class TestBadFiles:
    """The issue's list, and more of its kind: known before the first row, where that can be."""

    def test_wrong_encoding(self, failure):
        assert failure("email,name\nann@example.com,Ann\njo@example.com,Jörg\n".encode("latin-1")) == (
            "people.csv, line 3: the byte 0xf6 (number 48 of the file) isn't UTF-8; say what encoding it has "
            "(Excel's is often cp1252), or save it as UTF-8"
        )

    def test_wrong_encoding_far_down(self, path):
        rows = [f"user{number}@example.com,Ann\n" for number in range(10_000)]
        octets = ("email,name\n" + "".join(rows)).encode()
        people = read(path(octets + b"jo@example.com,J\xf6rg\n"))
        given = []
        with pytest.raises(
            InputError, match=r"line 10002: the byte 0xf6 .*\(10,000 rows came before\)$"
        ) as error:
            given.extend(people)
        assert (error.value.line, error.value.rows, people.rows) == (10_002, 10_000, 10_000)
        assert f"number {len(octets) + 17:,} of the file" in str(error.value)
        assert not people.finished

    def test_an_encoding_that_breaks_off(self, failure):
        assert "line 2: the byte 0xc3 (number 21 of the file) isn't UTF-8" in failure(
            b"email\nann@example.co\xc3"
        )

    def test_another_encoding_than_was_named(self, failure):
        assert "line 2: the byte 0x81 (number 9 of the file) isn't CP1252;" in failure(
            b"email\nab\x81@example.com\n", encoding="cp1252"
        )

    def test_an_encoding_that_gives_surrogates(self, failure):
        assert failure(b"email\n+2AA-@example.com\n", encoding="utf-7").startswith(
            "people.csv, line 1: isn't utf-7 ("
        )

    @pytest.mark.parametrize("encoding", ["utf-9", "base64", "", "\0", "undefined"])
    def test_no_encoding(self, failure, encoding):
        assert failure(CSV.encode(), encoding) == (
            f"people.csv: there is no encoding {encoding!r}; name one that Python knows, such as utf-8 or "
            "cp1252"
        )

    def test_missing_column(self, failure):
        assert failure(b"mail,name\nann@example.com,Ann\n") == (
            "people.csv, line 1: there is no column `email`, only 'mail', 'name'; name it so in the first "
            "line"
        )

    def test_no_line_with_names(self, failure):
        assert failure(b"ann@example.com,Ann\n") == (
            "people.csv, line 1: the first line must name the columns, one of them `email`, and here "
            "stands an address"
        )

    def test_two_columns_for_one(self, failure):
        assert failure(b"\nEmail,E-Mail\n") == (
            "people.csv, line 2: 'Email', 'E-Mail' may each be the column `email`; rename all but one"
        )
        assert failure(b"email,name,name\n") == "people.csv, line 1: two columns are named 'name'; rename one"

    def test_unclosed_quote(self, failure):
        assert failure(
            b'email,name,city\na@example.com,"A\nB",x\nb@example.com,"Bob\n",\n\nc@example.com,"\nC\n'
        ) == (
            "people.csv, line 7: the quote that opens a field here is never closed, so that all behind it "
            "would "
            "be one field; close it, or write it twice within a field in quotes if it is text "
            "(2 rows came before)"
        )

    def test_unclosed_quote_before_more_than_fits_into_a_row(self, path):
        people = read(path(b'email,name\na@example.com,"A\n' + b"b@example.com,Bob\n" * 100_000))
        with pytest.raises(InputError, match="line 2: the quote that opens a field here is never closed"):
            list(people)
        assert people.rows == 0

    @pytest.mark.parametrize(
        "octets", [b"", b"\n \n\t\n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0), b"\xff\xfe"]
    )
    def test_empty_file(self, failure, octets):
        assert failure(octets) == (
            "people.csv: is empty; its first line should name the columns, one of them `email`, or be a "
            "JSON object"
        )

    def test_ten_million_columns(self, failure):
        assert failure(b"email" + b",a" * 10_000_000) == (
            "people.csv, line 1: the first line should name the columns, and has more than 1,000,000 "
            "characters; "
            "is this a table, with a row a person?"
        )
        assert "names 20,001 columns, and 16,384 are the most;" in failure(b"email" + b",a" * 20_000 + b"\n")

    def test_a_first_line_that_is_no_csv(self, failure):
        assert "line 1: the first line should name the columns, and can't be read as CSV (" in failure(
            b'"email"x\n'
        )

    def test_ten_million_columns_in_a_row(self, path):
        found = list(
            read(path(b"email,name\nann@example.com" + b"," * 10_000_000 + b"\n" + CSV[11:].encode()))
        )
        assert found[0] == Rejected(2, Reason.TOO_LARGE, "the row has more than 1,000,000 characters")
        assert [row.email for row in found[1:]] == ["ann@example.com", "bob@example.com"]
        assert found[2].line == 4

    @pytest.mark.parametrize("name", [b"x" * 10_000_000, b'"' + b"a\nb@example.com,c\n" * 600_000 + b'"'])
    def test_a_row_of_10_mb(self, path, name):
        row = b"ann@example.com," + name + b"\n"
        found = list(read(path(b"email,name\n" + row + CSV[11:].encode())))
        assert [type(it) for it in found] == [Rejected, Person, Person]
        assert found[0].reason is Reason.TOO_LARGE
        assert found[0].what.startswith(
            ("the row has more than 1,000,000 char", "a field has more than 131,072 char")
        )
        assert found[1].line == 3 + row.count(b"\n") - 1
        assert (f"; it goes on to line {found[1].line - 1}: is a quote not closed" in found[0].what) == (
            b"\n" in name
        )

    @pytest.mark.parametrize(
        ("octets", "what"),
        [
            (b"PK\x03\x04rest", "a ZIP archive or a workbook (XLSX, ODS)"),
            (b"%PDF-1.7\n", "a PDF"),
            (b"\xfd7zXZ\0\0", "compressed by xz"),
            (gzip.compress(b"BZh9", mtime=0), "compressed by bzip2"),
        ],
    )
    def test_a_binary_file_of_a_known_kind(self, failure, octets, what):
        assert failure(octets) == (
            f"people.csv: is {what}, and no text; save it as CSV (UTF-8) or as JSON Lines, plain or "
            "compressed "
            "by gzip or zstd"
        )

    @pytest.mark.parametrize(
        "octets",
        [
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            b"email\0\nann@example.com",
            b"\x7fELF\x02\x01",
            CSV.encode("utf-16-le"),
        ],
    )
    def test_a_binary_file(self, failure, octets):
        assert failure(octets) == (
            "people.csv, line 1: is no text, but something binary; save it as CSV (UTF-8) or as JSON "
            "Lines, plain or "
            "compressed by gzip or zstd (if it is UTF-16 without a byte order mark, say so: utf-16-le)"
        )

    def test_an_array_of_json(self, failure):
        assert failure(b'[{"email": "ann@example.com"}]') == (
            "people.csv, line 1: is one array of JSON; write JSON Lines, an object a line (`jq -c '.[]'` "
            "does)"
        )

    @pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
    def test_a_compressed_file_that_breaks_off(self, path, compress):
        lines = [f"user{number}@mail{number * 7919 % 10007}.example.com\n" for number in range(20_000)]
        octets = compress("".join(["email\n", *lines]).encode())
        people = read(path(octets[: len(octets) * 3 // 4]))
        given = []
        with pytest.raises(
            InputError, match="the compressed file breaks off here; get it again, in whole"
        ) as error:
            given.extend(people)
        assert [row.email + "\n" for row in given] == lines[: len(given)]
        assert error.value.rows == len(given) > 1000
        assert error.value.line == len(given) + 2

    def test_a_small_compressed_file_that_breaks_off_is_known_at_once(self, path):
        with pytest.raises(InputError, match=r"line \d: the compressed file breaks off here"):
            read(path(gzip.compress(CSV.encode())[:-9]))

    @pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
    def test_a_damaged_compressed_file(self, failure, compress):
        octets = bytearray(compress(CSV.encode() * 100))
        octets[-6] ^= 255
        octets[14] ^= 255
        assert "the compressed file is damaged here (" in failure(bytes(octets))

    def test_zstd_without_its_library(self, failure, monkeypatch):
        monkeypatch.setitem(sys.modules, "backports", None)
        monkeypatch.setitem(sys.modules, "compression", None)
        assert failure(zstd.compress(CSV.encode())) == (
            "people.csv, line 1: is compressed by zstd: `pip install mailtasks[zstd]` to read it, or give "
            "what "
            "`zstd -dc` writes"
        )

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(InputError) as error:
            read(tmp_path / "none.csv")
        assert str(error.value) == (
            f"{tmp_path}/none.csv: can't be opened (No such file or directory); check its path and that "
            "you may "
            "read it"
        )

    @pytest.mark.parametrize("wrong", ["a\0b", "/"])
    def test_a_path_that_is_none(self, wrong):
        with pytest.raises(InputError, match=r"can't be opened \("):
            read(wrong)

    def test_a_file_that_fails(self):
        class Failing:
            name = "tape"

            def read(self, size):
                raise OSError(5, "Input/output error")

        with pytest.raises(InputError) as error:
            read(Failing())
        assert str(error.value) == (
            "tape, line 1: can't be read on ([Errno 5] Input/output error); nothing behind this was read"
        )

    @pytest.mark.parametrize(
        ("file", "reason"),
        [
            (io.StringIO(CSV), "gives str and no bytes; open it in binary mode ('rb')"),
            (
                type("", (), {"read": lambda *_: None})(),
                "has nothing to read just now, and doesn't wait for more",
            ),
        ],
    )
    def test_a_file_that_gives_no_octets(self, file, reason):
        with pytest.raises(InputError) as error:
            read(file, name="mine")
        assert str(error.value).startswith(f"mine, line 1: {reason}")

    def test_the_error_is_one_of_the_tree_and_survives_a_process(self):
        error = InputError("people.csv", "is odd", 3, 1)
        assert isinstance(error, MailtasksError)
        assert str(pickle.loads(pickle.dumps(error))) == "people.csv, line 3: is odd (1 row came before)"


def test_json_lines_are_known_by_their_beginning(path):
    rows = [{"email": "ann@example.com", "n": 1}, {"E-Mail": "bob@example.com"}]
    people = read(path(b"\xef\xbb\xbf\n" + b"\n\n".join(json.dumps(row).encode() for row in rows)))
    assert isinstance(people, People)
    assert list(people) == [Person(2, "ann@example.com", {"n": 1}), Person(4, "bob@example.com", {})]
