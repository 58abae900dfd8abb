"""One contract for all stores of attachments, and what each says when it can't."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from mailtasks.errors import BlobStoreError, SettingsError, StoreUnavailable
from mailtasks.local.redis import free_port
from mailtasks.pieces import BLOCK
from mailtasks.store.blobs import BlobStore, FolderBlobs, FsspecBlobs, Missing, RedisBlobs, open_store, probe
from mailtasks.store.connection import Client, connect
from mailtasks.store.keys import Keys

NAME, OTHER = "a" * 64 + "-" + "0" * 16, "a" * 64 + "-" + "1" * 16
KEYS = Keys("test")


@pytest.fixture(params=["redis", "file", "memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    urls = {
        "redis": "redis",
        "file": f"file://{tmp_path}",
        "memory": "memory://blobs",
        "local": f"local://{tmp_path}",
    }
    client = connect(request.getfixturevalue("redis_url"), timeout=5, connect_timeout=5)
    yield open_store(urls[request.param], client, KEYS)
    fsspec.filesystem("memory").store.clear()
    client.close()


# --- The contract


@pytest.mark.parametrize("size", [1, 1000, BLOCK, 5 * BLOCK + 7])
def test_what_is_put_is_read_until_it_is_deleted(store: BlobStore, size: int) -> None:
    content = os.urandom(size)
    store.put(NAME, content)
    blocks = list(store.read(NAME))
    assert b"".join(blocks) == content
    assert max(map(len, blocks)) <= 4 * BLOCK
    assert (store.holds(NAME, size), store.holds(NAME, size + 1)) == (True, False)
    store.delete(NAME)
    assert not store.holds(NAME, size)
    with pytest.raises(Missing):
        list(store.read(NAME))


def test_deleting_nothing_is_well(store: BlobStore) -> None:
    store.delete(NAME)
    assert not store.holds(NAME, 1)


def test_equal_content_under_two_names_is_deleted_apart(store: BlobStore) -> None:
    store.put(NAME, b"content")
    store.put(OTHER, b"content")
    store.delete(NAME)
    assert b"".join(store.read(OTHER)) == b"content"


def test_a_name_that_is_none_of_ours_leads_nowhere(store: BlobStore) -> None:
    with pytest.raises(Missing):
        list(store.read("../../../etc/passwd"))


def test_a_probe_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    probe(store)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not fsspec.filesystem("memory").find("/blobs")


def test_a_store_that_forgets_is_found_out(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(store), "put", lambda *_: None)
    with pytest.raises(BlobStoreError) as caught:
        probe(store)
    assert str(caught.value) == (
        f"{store.where} doesn't keep what it is given, or doesn't let go of it; use another place"
    )


# --- Redis


def test_redis_says_where_it_is_when_it_is_away() -> None:
    port = free_port()
    client: Client = connect(f"redis://:secret@127.0.0.1:{port}/0", timeout=1, connect_timeout=1)
    store = RedisBlobs(client, KEYS)
    assert store.where == f"Redis at 127.0.0.1:{port}/0"
    with pytest.raises(StoreUnavailable, match="so nothing was accepted"):
        store.put(NAME, b"x")
    with pytest.raises(StoreUnavailable):
        list(store.read(NAME))


def test_redis_makes_room_for_the_content_and_no_more(redis_url: str) -> None:
    client = connect(redis_url, timeout=5, connect_timeout=5)
    size = 3 * BLOCK + 1
    RedisBlobs(client, KEYS).put(NAME, os.urandom(size))
    assert client.memory_usage(KEYS.blob(NAME.replace("-", ":"))) < size * 1.2
    client.close()


# --- A folder


def fail_with(number: int) -> Any:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_folder_that_is_full_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(os if step == "fsync" else Path, step, fail_with(errno.ENOSPC))
    with pytest.raises(BlobStoreError) as caught:
        FolderBlobs(tmp_path).put(NAME, b"content")
    assert str(caught.value) == (
        f"the folder {tmp_path} can't take an attachment (No space left on device); so nothing was accepted"
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_interrupted_put_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        FolderBlobs(tmp_path).put(NAME, b"content")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_a_killed_producer_left_half_written_is_deleted_with_its_name(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    store.put(NAME, b"content")
    path = tmp_path / "aa" / NAME
    path.rename(tmp_path / "aa" / f".{NAME}.part")
    assert not store.holds(NAME, 7)
    store.delete(NAME)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_isnt_there_is_away_and_is_not_made(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path / "mount")
    with pytest.raises(BlobStoreError) as caught:
        store.put(NAME, b"x")
    reason = "(No such file or directory)"
    assert str(caught.value) == (
        f"the folder {tmp_path}/mount can't take an attachment {reason}; so nothing was accepted"
    )
    with pytest.raises(BlobStoreError) as caught:
        list(store.read(NAME))
    assert str(caught.value) == f"the folder {tmp_path}/mount can't be read {reason}; is it mounted?"
    assert not (tmp_path / "mount").exists()


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BlobStoreError, match="Not a directory"):
        FolderBlobs(tmp_path / "file").put(NAME, b"x")


# --- fsspec


def test_without_fsspec_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(SettingsError) as caught:
        FsspecBlobs("s3://ann:hunter2@bucket/prefix")
    sentence = str(caught.value)
    assert sentence.startswith("blobs: s3://ann:***@bucket/prefix needs what isn't installed (")
    assert sentence.endswith("); pip install mailtasks[blobs], and what fsspec wants for it")


def test_a_protocol_that_fsspec_doesnt_know() -> None:
    with pytest.raises(SettingsError, match=r"^blobs: gopher://host/blobs can't be used \(ValueError: "):
        FsspecBlobs("gopher://host/blobs")


def test_whatever_a_file_system_raises_is_told_without_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FsspecBlobs("memory://ann:hunter2@host/blobs?token=abc")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no login as hunter2 at memory://ann:hunter2@host?token=abc")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", fail)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", fail)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "rm_file", fail)
    for act in (
        lambda: store.put(NAME, b"x"),
        lambda: list(store.read(NAME)),
        lambda: store.holds(NAME, 1),
        lambda: store.delete(NAME),
    ):
        with pytest.raises(BlobStoreError) as caught:
            act()
        sentence = str(caught.value)
        assert "RuntimeError: no login as ***" in sentence
        assert "hunter2" not in sentence + store.where
        assert "abc" not in sentence + store.where
