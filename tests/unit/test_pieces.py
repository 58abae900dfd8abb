"""Pieces: put together without copies, measured without encoding, encoded without a pile of lines."""

from __future__ import annotations

import tracemalloc
from base64 import b64decode

import pytest

from mailtasks.pieces import (
    BLOCK,
    Blob,
    base64_blocks,
    base64_lines,
    base64_size,
    blobs_in,
    filled,
    joined,
    size_of,
)

BLOB = Blob("d" * 64, 100, "a.pdf")
OTHER = Blob("e" * 64, 3, "b.pdf")


def test_bytes_that_come_to_stand_together_are_one_piece() -> None:
    assert joined(b"a", b"", b"b") == b"ab"
    assert joined(b"a", (b"b", BLOB, b"c"), b"d", (OTHER,)) == (b"ab", BLOB, b"cd", OTHER)
    assert joined((BLOB,), (OTHER,)) == (BLOB, OTHER)
    assert joined() == b""


def test_blobs_and_sizes() -> None:
    content = joined(b"head\r\n", (BLOB,), b"tail\r\n")
    assert (blobs_in(content), blobs_in(b"x")) == ([BLOB], [])
    assert (size_of(content), size_of(b"abc")) == (12 + BLOB.encoded_size, 3)


def test_what_is_filled_in_is_not_copied() -> None:
    encoded = (b"one\r\n", b"two\r\n")
    content = filled((b"head\r\n", BLOB, b"tail\r\n"), {BLOB.digest: encoded})
    assert content == (b"head\r\n", *encoded, b"tail\r\n")
    assert content[1] is encoded[0]
    assert filled(b"plain", {}) == b"plain"


@pytest.mark.parametrize(
    "size", [0, 1, 2, 3, 56, 57, 58, 114, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5]
)
def test_the_size_of_base64_is_known_beforehand(size: int) -> None:
    lines = base64_lines(b"\xff" * size)
    assert len(lines) == base64_size(size)
    assert b64decode(lines) == b"\xff" * size
    assert lines.endswith(b"\r\n")
    assert max(map(len, lines.split(b"\r\n"))) <= 76


@pytest.mark.parametrize("cut", [1, 56, 57, 100, 5000])
def test_blocks_are_the_same_wherever_the_content_is_cut(cut: int) -> None:
    content = bytes(range(256)) * 20
    blocks = list(base64_blocks(content[at : at + cut] for at in range(0, len(content), cut)))
    assert b"".join(blocks) == base64_lines(content)
    assert all(block.endswith(b"\r\n") for block in blocks)


def test_encoding_takes_little_more_than_what_comes_of_it() -> None:
    content = b"x" * 10_000_000
    tracemalloc.start()
    try:
        encoded = tuple(base64_blocks([content]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * sum(map(len, encoded))
