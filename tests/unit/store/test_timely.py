"""A store that hangs is away, and costs few threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailtasks.errors import BlobStoreError
from mailtasks.store.blobs import FolderBlobs, Missing
from mailtasks.store.timely import LATE_AT_MOST, TimelyBlobs
from mailtasks.testing import wait_until

NAME, OTHER = "a" * 64 + "-" + "0" * 16, "b" * 64 + "-" + "0" * 16


class Slow(FolderBlobs):
    """A folder that tells nothing of `NAME` while its gate is shut, and counts who asked."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0

    def _path(self, name: str) -> Path:
        self.asked += 1
        assert name == OTHER or self.gate.wait(30)
        return super()._path(name)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Slow]:
    slow = Slow(tmp_path)
    yield slow
    slow.gate.set()
    wait_until(_nobody_asks)


def _nobody_asks() -> bool:
    return not any(thread.name == "mailtasks attachments" for thread in threading.enumerate())


def test_whatever_hangs_is_away_with_a_sentence(folder: Slow) -> None:
    store = TimelyBlobs(folder, 0.05)
    folder.gate.clear()
    for act in (
        lambda: store.put(NAME, b"x"),
        lambda: list(store.read(NAME)),
        lambda: store.holds(NAME, 1),
        lambda: store.delete(NAME),
    ):
        with pytest.raises(BlobStoreError) as caught:
            act()
        assert str(caught.value) == (
            f"{folder.where} hasn't answered within 0.05 s (timeout_blobs); is it reachable?"
        )


def test_while_several_hang_nobody_asks_and_nobody_waits(folder: Slow) -> None:
    store = TimelyBlobs(folder, 0.05)
    folder.gate.clear()
    for _ in range(LATE_AT_MOST):
        with pytest.raises(BlobStoreError):
            store.delete(NAME)
    with pytest.raises(BlobStoreError) as caught:
        store.holds(OTHER, 1)
    assert str(caught.value) == f"{folder.where} hangs: 4 calls have had no answer; is it reachable?"
    assert folder.asked == LATE_AT_MOST
    folder.gate.set()
    wait_until(lambda: _works(store))


def _works(store: TimelyBlobs) -> bool:
    try:
        return not store.holds(NAME, 1)
    except BlobStoreError:
        return False


def test_what_is_stored_too_late_is_not_left_there(folder: Slow, tmp_path: Path) -> None:
    folder.gate.clear()
    with pytest.raises(BlobStoreError):
        TimelyBlobs(folder, 0.05).put(NAME, b"x")
    folder.gate.set()
    wait_until(_nobody_asks)
    assert [path.name for path in tmp_path.rglob("*")] == [NAME[:2]]  # it was stored, and deleted


def test_one_that_hangs_holds_up_no_other(folder: Slow) -> None:
    store = TimelyBlobs(folder, 1)
    store.put(OTHER, b"other")
    folder.gate.clear()
    with pytest.raises(BlobStoreError):
        store.holds(NAME, 1)
    assert b"".join(store.read(OTHER)) == b"other"


def test_answers_and_errors_pass_through(folder: Slow) -> None:
    store = TimelyBlobs(folder, 30)
    assert (store.kind, store.where) == (folder.kind, folder.where)
    store.put(NAME, b"content")
    assert (b"".join(store.read(NAME)), store.holds(NAME, 7)) == (b"content", True)
    store.delete(NAME)
    with pytest.raises(Missing):
        list(store.read(NAME))
    with pytest.raises(BlobStoreError, match="can't take an attachment"):
        TimelyBlobs(FolderBlobs(folder._root / "gone"), 30).put(NAME, b"x")
