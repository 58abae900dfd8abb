"""Where attachments lie: in Redis, in a folder, or wherever fsspec leads. Three stores with one contract.

The rules:

1. A name is used once and its content never changes; what `put` has returned from is there to stay.
2. `put` leaves nothing behind if it fails. `delete` is content if there is nothing.
3. A store that says "not there" (`Missing`) and one that can't be asked (`BlobStoreError`, or
   `StoreUnavailable` for Redis) are told apart: the first loses a mail, the second delays it.
4. Content is read in blocks, so that reading a large one takes little memory, and holds up nobody.

What is stored, and who needs it, is in `mailtasks.store.blob_index`.
"""
# ruff: noqa: D102  (what the methods do is told in BlobStore)

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import unquote, urlsplit

from mailtasks.errors import BlobStoreError, SettingsError
from mailtasks.pieces import BLOCK
from mailtasks.relay import MASK
from mailtasks.settings import IN_REDIS, SETTINGS
from mailtasks.store.connection import Client, available, where
from mailtasks.store.keys import Keys

_NAME: Final = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}")  # a digest, and chance
_REMOTE_BLOCK: Final = 4 * BLOCK  # bytes; each block is a request to a server that may be far away


class Missing(LookupError):
    """The store answers that there is no such content."""


class BlobStore(Protocol):
    """Keeps content under names."""

    @property
    def kind(self) -> str:
        """What its places begin with: "redis", "file", or fsspec's protocol."""

    @property
    def where(self) -> str:
        """For people; holds no secret."""

    def put(self, name: str, content: bytes) -> None:
        """Store content. Raises BlobStoreError: it couldn't be; nothing is left of it."""

    def read(self, name: str) -> Iterator[bytes]:
        """The content, in blocks. Raises Missing, or BlobStoreError: it can't be read now."""

    def holds(self, name: str, size: int) -> bool:
        """Whether there is content of so many bytes. Raises BlobStoreError."""

    def delete(self, name: str) -> None:
        """See to it that there is none. Raises BlobStoreError."""


def open_store(url: str, redis: Client, keys: Keys) -> BlobStore:
    """The store that the setting `blobs` names.

    Raises:
        SettingsError: what it needs isn't installed.
    """
    if url == IN_REDIS:
        return RedisBlobs(redis, keys)
    parts = urlsplit(url)
    return FolderBlobs(Path(unquote(parts.path))) if parts.scheme == "file" else FsspecBlobs(url)


def probe(store: BlobStore) -> None:
    """Store something, read it and delete it.

    Raises:
        BlobStoreError, StoreUnavailable: one of that can't be done.
    """
    content = secrets.token_bytes(64)
    name = f"{blake2b(content, digest_size=32).hexdigest()}-{secrets.token_hex(8)}"
    store.put(name, content)
    try:
        found = b"".join(store.read(name))
    except Missing:
        found = b""
    finally:
        store.delete(name)
    if found != content or store.holds(name, len(content)):
        raise BlobStoreError(
            f"{store.where} doesn't keep what it is given, or doesn't let go of it; use another place"
        )


def _checked(name: str) -> str:
    """A name as ours are: whatever stands in Redis, it leads nowhere else."""
    if not _NAME.fullmatch(name):
        raise Missing(f"{name!r} is no name of ours")
    return name


class RedisBlobs:
    """In the ledger's Redis: nothing to share or to mount, and it costs Redis' memory.

    Goes through connections of its own, beside the one that all threads share, and block by block, so that
    nobody waits behind a large one.
    """

    kind = IN_REDIS

    def __init__(self, redis: Client, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self.where = f"Redis at {where(redis)}"

    def put(self, name: str, content: bytes) -> None:
        key = self._key(name)
        try:
            with available(self._redis, before_accept=True):
                # The last block first: so Redis makes room for all once, and no more than that.
                for start in range((len(content) - 1) // BLOCK * BLOCK, -1, -BLOCK):
                    self._redis.setrange(key, start, content[start : start + BLOCK])
        except BaseException:
            with suppress(Exception):
                self._redis.unlink(key)
            raise

    def read(self, name: str) -> Iterator[bytes]:
        key, start = self._key(name), 0
        while True:
            with available(self._redis):
                block = self._redis.getrange(key, start, start + BLOCK - 1)
            if not block and not start:
                raise Missing
            if block:
                yield block
            if len(block) < BLOCK:
                return
            start += BLOCK

    def holds(self, name: str, size: int) -> bool:
        with available(self._redis):
            return bool(self._redis.strlen(self._key(name)) == size)

    def delete(self, name: str) -> None:
        with available(self._redis):
            self._redis.unlink(self._key(name))

    def _key(self, name: str) -> str:
        return self._keys.blob(_checked(name).replace("-", ":"))


class FolderBlobs:
    """In a folder that all producers and workers see at the same path.

    It is never made here: a folder that isn't there may be one that isn't mounted. A file that has its name
    is whole, and has reached the disk.
    """

    kind = "file"

    def __init__(self, root: Path) -> None:
        self._root = root
        self.where = f"the folder {root}"

    def put(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with self._told("can't take an attachment", "so nothing was accepted"):
            try:
                path.parent.mkdir(exist_ok=True)
                _write(_part(path), content)
                _part(path).replace(path)
                _sync(path.parent)
            except BaseException:
                self._remove(path)
                raise

    def read(self, name: str) -> Iterator[bytes]:
        with self._told("can't be read", "is it mounted?"):
            try:
                with self._path(name).open("rb", buffering=0) as file:
                    while block := file.read(BLOCK):
                        yield block
            except FileNotFoundError:
                self._missing()

    def holds(self, name: str, size: int) -> bool:
        with self._told("can't be read", "is it mounted?"):
            try:
                return self._path(name).stat().st_size == size
            except FileNotFoundError:
                return False

    def delete(self, name: str) -> None:
        with self._told("doesn't let go of an attachment", "may the workers write there?"):
            for path in (self._path(name), _part(self._path(name))):
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._root / _checked(name)[:2] / name

    def _missing(self) -> NoReturn:
        """A folder without the file has lost it; without the folder, nobody can tell."""
        os.stat(self._root)
        raise Missing from None

    def _remove(self, path: Path) -> None:
        for leftover in (path, _part(path)):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)

    @contextmanager
    def _told(self, what: str, advice: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BlobStoreError(f"{self.where} {what} ({error.strerror or error}); {advice}") from error


def _part(path: Path) -> Path:
    """What a file is called while it is written."""
    return path.with_name(f".{path.name}.part")


def _write(path: Path, content: bytes) -> None:
    with path.open("xb", buffering=0) as file:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """The name has reached the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FsspecBlobs:
    """Wherever fsspec leads: S3, Google's and Azure's stores, SFTP, and others.

    How to log in is a matter of its own settings (environment, files), and may stand in the URL.
    """

    def __init__(self, url: str) -> None:
        self.where = str(SETTINGS["blobs"].show(url))
        self.kind = urlsplit(url).scheme
        self._password = unquote(urlsplit(url).password or "")
        self._files, self._root = self._open(url)

    def _open(self, url: str) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs  # only where it is asked for

            files, root = url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            why = f"blobs: {self.where} needs what isn't installed ({error}); "
            raise SettingsError(f"{why}pip install mailtasks[blobs], and what fsspec wants for it") from None
        except Exception as error:
            raise SettingsError(f"blobs: {self.where} can't be used ({self._words(error)})") from None
        return files, str(root).rstrip("/")

    def put(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with self._told("can't take an attachment", "so nothing was accepted"):
            try:
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(path, content)
            except BaseException:
                with suppress(Exception):
                    self._files.rm_file(path)
                raise

    def read(self, name: str) -> Iterator[bytes]:
        path, start = self._path(name), 0
        with self._told("can't be read", "it is tried again"):
            try:
                size = int(self._files.info(path)["size"])
                while start < size:
                    block = self._files.cat_file(path, start=start, end=min(size, start + _REMOTE_BLOCK))
                    if not block:
                        raise Missing
                    yield block
                    start += len(block)
            except FileNotFoundError:
                raise Missing from None

    def holds(self, name: str, size: int) -> bool:
        with self._told("can't be read", "is it reachable?"):
            try:
                return int(self._files.info(self._path(name))["size"]) == size
            except FileNotFoundError:
                return False

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._told("doesn't let go of an attachment", "may the workers delete there?"):
            self._remove(path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{_checked(name)[:2]}/{name}"

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(path)

    @contextmanager
    def _told(self, what: str, advice: str) -> Iterator[None]:
        """Whatever a file system of fsspec's raises: each has a library, and errors, of its own."""
        try:
            yield
        except Missing:
            raise
        except Exception as error:
            raise BlobStoreError(f"{self.where} {what} ({self._words(error)}); {advice}") from error

    def _words(self, error: Exception) -> str:
        """What it says, without a secret that the URL may hold."""
        said = str(SETTINGS["blobs"].show(str(error)))
        return f"{type(error).__name__}: {said.replace(self._password, MASK) if self._password else said}"
