"""What threads share of attachments: fetched once, bounded, never two that wait for each other."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from mailtasks.blob_cache import BlobCache, Encoded, NoRoom
from mailtasks.pieces import Blob

A, B, C = (Blob(letter * 64, 57, f"{letter}.pdf") for letter in "abc")
SIZE = A.encoded_size  # 78


class Source:
    """Brings attachments, and counts."""

    def __init__(self) -> None:
        self.fetched: Counter[str] = Counter()
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Event()
        self.error: Exception | None = None

    def __call__(self, blob: Blob) -> Encoded:
        self.fetched[blob.name] += 1
        self.begun.set()
        assert self.open.wait(10)
        if self.error:
            raise self.error
        return (blob.digest.encode(),)


def borrow(cache: BlobCache, *blobs: Blob, seconds: float = 0) -> dict[str, Encoded | Exception]:
    with cache.lend(blobs, seconds) as lent:
        return dict(lent)


def test_what_was_fetched_is_kept_while_there_is_room() -> None:
    source = Source()
    cache = BlobCache(2 * SIZE, source)
    assert borrow(cache, A, B, A) == {A.digest: (A.digest.encode(),), B.digest: (B.digest.encode(),)}
    borrow(cache, A)
    assert (source.fetched, cache.size) == ({"a.pdf": 1, "b.pdf": 1}, 2 * SIZE)
    borrow(cache, C)  # b was unused for longest
    borrow(cache, A)
    assert (source.fetched, cache.size) == ({"a.pdf": 1, "b.pdf": 1, "c.pdf": 1}, 2 * SIZE)
    borrow(cache, B)
    assert source.fetched["b.pdf"] == 2


def test_a_hundred_borrowers_fetch_once() -> None:
    source = Source()
    cache = BlobCache(SIZE, source)
    source.open.clear()
    with ThreadPoolExecutor(20) as threads:
        borrowing = [threads.submit(borrow, cache, A, seconds=10) for _ in range(100)]
        source.begun.wait(10)
        source.open.set()
        assert all(each.result() == {A.digest: (A.digest.encode(),)} for each in borrowing)
    assert (source.fetched, cache.size) == ({"a.pdf": 1}, SIZE)


def test_an_error_is_handed_to_who_waits_and_not_kept() -> None:
    source = Source()
    source.error = ValueError("gone")
    cache = BlobCache(SIZE, source)
    assert borrow(cache, A) == {A.digest: source.error}
    assert cache.size == 0
    source.error = None
    assert borrow(cache, A) == {A.digest: (A.digest.encode(),)}


def test_what_others_have_is_waited_for_and_one_window_is_always_let_in() -> None:
    cache = BlobCache(SIZE, Source())
    with ThreadPoolExecutor(1) as threads:
        with cache.lend([A], 0):
            with pytest.raises(NoRoom):
                borrow(cache, B)
            assert borrow(cache, A)
            waiting = threads.submit(borrow, cache, B, C, seconds=10)
            with pytest.raises(TimeoutError):
                waiting.result(0.05)
        assert waiting.result(10).keys() == {B.digest, C.digest}
    assert cache.size <= SIZE


def test_a_window_borrows_all_or_nothing() -> None:
    cache = BlobCache(2 * SIZE, Source())
    with cache.lend([A], 0):
        with pytest.raises(NoRoom):
            borrow(cache, B, C)
        assert borrow(cache, B)
    assert borrow(cache, A, B, C)
    assert cache.size <= 2 * SIZE


def test_what_fits_into_a_window() -> None:
    cache = BlobCache(2 * SIZE, Source())
    assert cache.fits([A, B, A])
    assert not cache.fits([A, B, C])
    assert BlobCache(0, Source()).fits([A, A])


def test_an_exception_in_the_block_returns_what_was_borrowed() -> None:
    cache = BlobCache(0, Source())
    with pytest.raises(KeyError), cache.lend([A], 0):
        raise KeyError
    assert cache.size == 0
    assert borrow(cache, B)
