"""What is written into a batch, and read again."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtasks.message import Priority
from mailtasks.pieces import Blob, OwnFile
from mailtasks.store import records
from mailtasks.store.keys import new_batch_id
from mailtasks.store.records import (
    BatchRecord,
    MessageRecord,
    NewBatch,
    Tries,
    Values,
    encode_values,
    pack,
    with_files,
)

from .bench import LIFETIME, Bench


@given(st.binary(max_size=2000))
def test_what_is_packed_can_be_unpacked(data: bytes) -> None:
    assert records.unpack(records.pack(data)) == data


def test_short_data_is_readable_and_long_data_small() -> None:
    assert records.pack(b"short") == b"=short"
    assert len(records.pack(b"news " * 1000)) < 100


def test_what_does_not_shrink_is_left_as_it_is() -> None:
    noise = zlib.compress(bytes(range(256)) * 4, 9) * 8
    assert len(records.pack(noise)) <= len(noise) + 1


@pytest.mark.parametrize("wrong", [b"", b"x", b"!abc"])
def test_what_was_not_packed_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it is missing, or packed in an unknown way$"):
        records.unpack(wrong)


def test_a_header_is_kept_as_it_is() -> None:
    message = MessageRecord("<1@x>", "", 3, "Zürich", 1234, True, ("a", "b"), {"order": "42"})
    record = BatchRecord((message, MessageRecord("<2@x>", "s@x")))
    assert records.unpack_record(records.pack_record(record)) == record
    assert records.unpack_recipients(records.pack_recipients(("a@x", "ü@x"))) == ("a@x", "ü@x")


def test_what_is_as_usual_takes_no_room() -> None:
    packed = records.pack_record(BatchRecord((MessageRecord("<1@x>", ""),)))
    assert packed == b'={"messages":[{"message_id":"<1@x>","sender":""}]}'


def test_a_header_with_fields_of_a_later_version_is_read() -> None:
    later = b'={"messages":[{"message_id":"<1@x>","sender":"","colour":"red"}],"version":2}'
    assert records.unpack_record(later).version == 2


def test_a_message_has_the_indices_behind_those_of_the_one_before() -> None:
    record = BatchRecord((MessageRecord("<1>", ""), MessageRecord("<2>", "", 3), MessageRecord("<3>", "")))
    assert [(number, indices) for number, _, indices in record.ranges()] == [
        (0, range(1)),
        (1, range(1, 4)),
        (2, range(4, 5)),
    ]


def test_tries_of_an_earlier_version_are_read() -> None:
    assert records.unpack_tries(msgspec.msgpack.encode([1, 2, 3])) == Tries(due=1, attempts=2, at=3)


@pytest.mark.parametrize("wrong", [b"", b"x", b"={}", b"z123", b"=[1]"])
def test_whatever_is_damaged_raises_what_is_said_to_be_raised(wrong: bytes) -> None:
    for unpack in (records.unpack_record, records.unpack_tries):
        with pytest.raises(records.DAMAGE):
            unpack(wrong)


def test_a_queued_recipient_takes_about_as_many_bytes_as_the_docstring_says(bench: Bench) -> None:
    """300 in a batch, with addresses of 22 characters; without their bodies."""
    id = new_batch_id()
    new = NewBatch(
        id=id,
        priority=Priority.BULK,
        record=BatchRecord(
            tuple(MessageRecord(f"<{id}.{n}@example.com>", "n@x.com", 1, "News") for n in range(300))
        ),
        recipients=tuple(f"{n * 7919 % 1_000_003:06x}.{n:03}@example.com" for n in range(300)),
        bodies=(),
        fingerprint="f" * 32,
        lifetime=LIFETIME,
    )
    bench.ledger.accept([new])
    due = bench.redis.memory_usage(bench.keys.due(Priority.BULK))
    kept = sum(bench.redis.memory_usage(key, samples=0) or 0 for key in bench.keys.batch(id)) + due
    assert 10 < kept / 300 < 26


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"news " * 1000,
        (b"head\r\n", Blob("a" * 64, 3, "ä.pdf"), b"x" * 2000),
        (Blob("b" * 64, 1, ""),),
    ],
)
def test_a_body_is_read_as_it_was_written(content):
    assert records.unpack_body(records.pack_body(content)) == content


def test_a_body_of_bytes_is_stored_as_ever():
    assert records.pack_body(b"short") == records.pack(b"short")


@pytest.mark.parametrize("wrong", [b"", b"?x", b"p", b"p=", b"p=x", b"p=\x92\x01\x02"])
def test_a_damaged_body_is_damage(wrong):
    with pytest.raises(records.DAMAGE):
        records.unpack_body(wrong)


@pytest.mark.parametrize(
    "rows",
    [
        [{"name": "Ann", "age": 4}, {"name": "Bob", "age": None}],
        [{"name": "Ann"}, {"age": 5, "list": [1, {"a": "ü"}]}, {}],
        [{"name": "Ann", "age": 4}, {"age": 5, "name": "Bob"}],
        [{}, {}],
        [{"long": "x" * 1000}] * 300,
    ],
)
def test_the_values_of_rows_come_back_one_by_one(rows: list[dict[str, object]]) -> None:
    values = Values(pack(encode_values(rows)))
    assert [values[index] for index in range(len(rows))] == rows


@pytest.mark.parametrize("rows", [[{"name": "Ann"}, {"name": "Bob\n"}], [{"name": "Ann"}, {}]])
def test_and_so_do_rows_own_files(rows: list[dict[str, object]]) -> None:
    file = OwnFile("a" * 64, 3, "two\nlines.pdf", "application/pdf", "may/ü.pdf")
    values = Values(pack(with_files(encode_values(rows), [(file, file), ()])))
    assert [values[index] for index in range(2)] == rows
    assert [values.files(index) for index in range(2)] == [(file, file), ()]
    assert Values(pack(encode_values(rows))).files(1) == ()


def test_values_of_another_making_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown way"):
        Values(pack(b"x[]"))
