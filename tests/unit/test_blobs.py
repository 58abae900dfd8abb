"""Attachments there and back: what is stored once, what is refused before that, what a loss looks like."""

from __future__ import annotations

import errno
import os
import shutil
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailtasks import packing
from mailtasks.blobs import BlobLost, Blobs
from mailtasks.errors import BlobsFull, BlobStoreError, MemoryFull, MessageTooLarge
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Attachment, Message
from mailtasks.pieces import Blob, base64_lines, blobs_in
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.store.blob_index import BlobIndex
from mailtasks.store.blobs import RedisBlobs
from mailtasks.store.ledger import Claim, Ledger, Result

SIZE = 2000
CONTENT = os.urandom(SIZE)
FILE = Attachment(filename="report.pdf", content=CONTENT)
SMALL = Attachment(filename="small.pdf", content=CONTENT[: SIZE - 1])


@pytest.fixture
def make(redis_url: str) -> Iterator[Callable[..., Mailer]]:
    made: list[Mailer] = []

    def make(**values: Any) -> Mailer:
        usual = {"broker_url": redis_url, "default_from": "shop@example.com", "blob_threshold": SIZE}
        made.append(Mailer(Settings(**usual | values)))
        return made[-1]

    yield make
    for mailer in made:
        mailer.close()


def mail(*files: Attachment, to: str = "ann@example.com", **more: Any) -> Message:
    return Message(to=to, text="hi", attachments=files or (FILE,), **more)


def claim(mailer: Mailer, id: str) -> Claim:
    claim = mailer.ledger.claim(id.partition(".")[0], "worker@here")
    assert isinstance(claim, Claim)
    return claim


def blob_of(mailer: Mailer, id: str) -> Blob:
    [blob] = blobs_in(claim(mailer, id).window[0].body)
    return blob


def send_off(mailer: Mailer, id: str) -> None:
    """As a worker whose relay took it."""
    held = claim(mailer, id)
    results = [Result(it.index, State.SENT) for message in held.window for it in message.recipients]
    mailer.ledger.release(held, "worker@here", results)


def collect_now(mailer: Mailer) -> int:
    """As if its time had come."""
    for digest in mailer.redis.hkeys(mailer.ledger.keys.blobs):
        mailer.redis.zadd(mailer.ledger.keys.blobs_due, {digest: 0})
    return mailer.blobs.collect()


@pytest.fixture(params=["redis", "folder", "fsspec"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"redis": "redis", "folder": f"file://{tmp_path}", "fsspec": f"local://{tmp_path}"}[request.param]


# --- There and back


def test_from_accept_to_collection(make: Callable[..., Mailer], where: str) -> None:
    mailer = make(blobs=where)
    id = mailer.send(mail())
    status = mailer.attachments()
    assert (status.stored, status.bytes, status.being_stored) == (1, SIZE, 0)
    assert (status.cap is None) is (where != "redis")
    blob = blob_of(mailer, id)
    assert (blob.name, blob.size) == ("report.pdf", SIZE)
    encoded = mailer.blobs.fetch(blob)
    assert b"".join(encoded) == base64_lines(CONTENT)
    assert collect_now(mailer) == 0


def test_a_hundred_mails_hold_one(make: Callable[..., Mailer], where: str) -> None:
    mailer = make(blobs=where)
    ids = mailer.send_many([mail(to=f"r{n}@example.com") for n in range(60)])
    ids += [mailer.send(mail(FILE, FILE, SMALL, to=f"s{n}@example.com")) for n in range(40)]
    assert (mailer.attachments().stored, mailer.attachments().bytes) == (1, SIZE)
    for id in ids[:-1]:
        if mailer.status(id).state is State.QUEUED:
            send_off(mailer, id)
    assert collect_now(mailer) == 0
    send_off(mailer, ids[-1])
    assert collect_now(mailer) == 0 if any(mailer.status(id).state is State.QUEUED for id in ids) else 1


def test_what_is_below_the_threshold_travels_in_the_body(make: Callable[..., Mailer]) -> None:
    mailer = make()
    [message] = claim(mailer, mailer.send(mail(SMALL))).window
    assert isinstance(message.body, bytes)
    assert not mailer.redis.keys("*blob*")


def test_once_stored_it_is_not_put_again(
    make: Callable[..., Mailer], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailer = make(blobs=where)
    puts: list[str] = []
    put = type(mailer.blobs.store).put
    monkeypatch.setattr(
        type(mailer.blobs.store),
        "put",
        lambda self, name, content: puts.append(name) or put(self, name, content),
    )
    for _ in range(3):
        mailer.send(mail())
    assert len(puts) == 1


def test_what_was_deleted_by_hand_is_stored_again_by_the_next_producer(
    make: Callable[..., Mailer], tmp_path: Path
) -> None:
    mailer = make(blobs=f"file://{tmp_path}")
    first = mailer.send(mail())
    for path in tmp_path.iterdir():
        shutil.rmtree(path)
    blob = blob_of(mailer, first)
    with pytest.raises(BlobLost) as caught:
        mailer.blobs.fetch(blob)
    assert str(caught.value) == f"the attachment 'report.pdf' isn't in the folder {tmp_path} any more"
    mailer.send(mail())
    assert b64decode(b"".join(mailer.blobs.fetch(blob))) == CONTENT
    assert mailer.attachments().stored == 1


def test_what_was_changed_is_not_sent(make: Callable[..., Mailer], tmp_path: Path) -> None:
    mailer = make(blobs=f"file://{tmp_path}")
    blob = blob_of(mailer, mailer.send(mail()))
    [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
    path.write_bytes(b"\0" * SIZE)
    with pytest.raises(BlobLost) as caught:
        mailer.blobs.fetch(blob)
    assert str(caught.value) == f"the attachment 'report.pdf' was changed in the folder {tmp_path}"


def test_what_redis_has_forgotten(make: Callable[..., Mailer]) -> None:
    mailer = make()
    blob = blob_of(mailer, mailer.send(mail()))
    mailer.redis.delete(mailer.ledger.keys.blobs)
    with pytest.raises(BlobLost, match=r"^the attachment 'report.pdf' isn't stored any more$"):
        mailer.blobs.fetch(blob)


# --- Another place


def test_what_lies_in_redis_is_sent_and_deleted_though_the_setting_has_changed(
    make: Callable[..., Mailer], tmp_path: Path
) -> None:
    id = make().send(mail())
    mailer = make(blobs=f"file://{tmp_path}")
    assert mailer.attachments().elsewhere == {"redis": 1}
    mailer.blobs.fetch(blob_of(mailer, id))
    mailer.redis.delete(mailer.ledger.keys.batch(id.partition(".")[0])[0])
    assert collect_now(mailer) == 1
    assert (mailer.attachments().elsewhere, mailer.redis.keys("*blob:*")) == ({}, [])


def test_what_lies_in_a_folder_that_is_named_no_more(
    make: Callable[..., Mailer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    id = make(blobs=f"file://{tmp_path}").send(mail())
    mailer = make()
    blob = blob_of(mailer, id)
    with pytest.raises(BlobStoreError) as caught:
        mailer.blobs.fetch(blob)
    assert str(caught.value) == (
        "the attachment 'report.pdf' lies in a store of the kind file, and the setting `blobs` names "
        f"{mailer.blobs.store.where}"
    )
    mailer.redis.delete(mailer.ledger.keys.batch(id.partition(".")[0])[0])
    assert collect_now(mailer) == 0
    assert "an attachment that nothing needs any more can't be deleted: file:" in caplog.text
    assert mailer.attachments().being_deleted == 1  # the next collector that can will do it
    mailer.send(mail())
    assert b64decode(b"".join(mailer.blobs.fetch(blob))) == CONTENT


# --- Refused


def test_the_cap_is_said_before_anything_is_stored(make: Callable[..., Mailer]) -> None:
    mailer = make(blob_cap=2 * SIZE)
    other = Attachment(filename="b", content=os.urandom(SIZE + 1))
    mailer.send(mail())
    before = sorted(mailer.redis.keys("{mailtasks:0}*"))
    with pytest.raises(BlobsFull) as caught:
        mailer.send_many([Message(to="bob@example.com", text="hi"), mail(other)])
    assert str(caught.value) == (
        "attachments take 2,000 bytes of Redis, and 2,001 more would exceed blob_cap = 4,000, so nothing was "
        "accepted; try again when the workers have sent more, raise it, or let `blobs` name a folder or an "
        "object store"
    )
    assert (caught.value.ids, caught.value.used, caught.value.wanted) == ((), 2000, 2001)
    assert sorted(mailer.redis.keys("{mailtasks:0}*")) == before
    mailer.send(mail())  # what is stored takes no room


def test_a_message_that_could_never_fit(make: Callable[..., Mailer], tmp_path: Path) -> None:
    large = Attachment(filename="b", content=os.urandom(3 * SIZE))
    with pytest.raises(MessageTooLarge) as caught:
        make(blob_cap=2 * SIZE).send(mail(large))
    assert str(caught.value) == (
        "the attachments of a message have 6,000 bytes, and all in Redis together may have 4,000: raise "
        "`blob_cap`, or let `blobs` name a folder"
    )
    make(blob_cap=2 * SIZE, blobs=f"file://{tmp_path}").send(mail(large))


def test_redis_may_be_too_full_for_so_much(make: Callable[..., Mailer]) -> None:
    mailer = make()
    used = mailer.redis.info("memory")["used_memory"]
    mailer.redis.config_set("maxmemory", used + 3_000_000)
    try:
        with pytest.raises(MemoryFull) as caught:
            mailer.send(mail(Attachment(filename="b", content=os.urandom(7_000_000))))
        assert str(caught.value).startswith("7,000,000 bytes of attachments would lift Redis at ")
        assert not mailer.redis.keys("*blob:*")
    finally:
        mailer.redis.config_set("maxmemory", 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_takes_nothing(
    make: Callable[..., Mailer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    mailer = make(blobs=f"file://{tmp_path}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(BlobStoreError) as caught:
            mailer.send_many([Message(to="bob@example.com", text="hi"), mail()])
    assert str(caught.value) == (
        f"the folder {tmp_path} can't take an attachment ({os.strerror(number)}); so nothing was accepted"
    )
    assert caught.value.ids == ()
    assert mailer.stats().accepted == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    mailer.send(mail())


def test_a_try_that_was_accepted_needs_nothing_again(
    make: Callable[..., Mailer], monkeypatch: pytest.MonkeyPatch
) -> None:
    mailer = make(blob_cap=SIZE)
    keyed = mail(idempotency_key="order-1")
    id = mailer.send(keyed)
    send_off(mailer, id)
    assert collect_now(mailer) == 1
    monkeypatch.setattr(RedisBlobs, "put", lambda *_: pytest.fail("it isn't needed"))
    assert mailer.send(keyed) == mailer.send(keyed, id=id) == id


# --- Between the moves


def test_what_is_collected_before_accept_is_stored_again(
    make: Callable[..., Mailer], monkeypatch: pytest.MonkeyPatch
) -> None:
    mailer = make()
    accept, lost = Ledger.accept, [True, True]

    def accept_too_late(ledger: Ledger, batches: Any) -> Any:
        if lost and lost.pop():
            mailer.redis.delete(mailer.ledger.keys.blobs)
        return accept(ledger, batches)

    monkeypatch.setattr(Ledger, "accept", accept_too_late)
    ids = mailer.send_many([Message(to="bob@example.com", text="hi", priority="urgent"), mail()])
    assert [mailer.status(id).state for id in ids] == [State.QUEUED] * 2
    assert mailer.blobs.fetch(blob_of(mailer, ids[1]))


def test_if_it_is_always_collected_before_accept_that_is_said(
    make: Callable[..., Mailer], monkeypatch: pytest.MonkeyPatch
) -> None:
    mailer = make()
    accept = Ledger.accept

    def accept_too_late(ledger: Ledger, batches: Any) -> Any:
        mailer.redis.delete(mailer.ledger.keys.blobs)
        return accept(ledger, batches)

    monkeypatch.setattr(Ledger, "accept", accept_too_late)
    with pytest.raises(BlobStoreError) as caught:
        mailer.send(mail())
    assert str(caught.value) == (
        "attachments are deleted as soon as they are stored, so their mail can't be accepted; "
        "is blob_grace = 3600 s too short?"
    )
    assert mailer.stats().accepted == 0


def test_a_store_that_is_slower_than_the_grace(
    make: Callable[..., Mailer], monkeypatch: pytest.MonkeyPatch
) -> None:
    mailer = make()
    monkeypatch.setattr(BlobIndex, "stored", lambda self, needs: ["late"] * len(needs))
    with pytest.raises(BlobStoreError) as caught:
        mailer.send(mail())
    assert str(caught.value) == (
        f"{mailer.blobs.store.where} took longer than blob_grace = 3600 s for the attachments, "
        "so nothing was accepted; raise it, or send fewer at once"
    )


def test_what_would_be_stored_after_the_grace_is_asked_for_again(
    make: Callable[..., Mailer], monkeypatch: pytest.MonkeyPatch
) -> None:
    mailer, put, puts = make(blob_grace=60), RedisBlobs.put, []
    later = time.monotonic() + 61

    def put_slowly(store: RedisBlobs, name: str, content: bytes) -> None:
        put(store, name, content)
        puts.append(name)
        monkeypatch.setattr(time, "monotonic", lambda: later)

    monkeypatch.setattr(RedisBlobs, "put", put_slowly)
    two = [Attachment(filename=f"{n}", content=os.urandom(SIZE)) for n in range(2)]
    id = mailer.send(mail(*two))
    assert len(puts) == 2
    assert mailer.attachments().stored == 2
    assert mailer.attachments().being_stored == 1  # the place that the second was to have at first
    assert mailer.status(id).state is State.QUEUED


def test_who_fills_the_cap_meanwhile(make: Callable[..., Mailer], monkeypatch: pytest.MonkeyPatch) -> None:
    mailer, other = make(blob_cap=SIZE + 5), make(blob_cap=SIZE + 5)
    put = RedisBlobs.put

    def put_and_let_others_in(store: RedisBlobs, name: str, content: bytes) -> None:
        put(store, name, content)
        monkeypatch.setattr(RedisBlobs, "put", put)
        other.send(mail(Attachment(filename="b", content=os.urandom(SIZE))))

    monkeypatch.setattr(RedisBlobs, "put", put_and_let_others_in)
    with pytest.raises(BlobsFull, match=r"take 2,000 bytes of Redis, and 2,000 more would exceed"):
        mailer.send(mail())
    assert (mailer.stats().accepted, mailer.attachments().being_deleted) == (1, 1)
    assert mailer.blobs.collect() == 1


# --- The collector


def test_a_store_that_is_away_is_asked_again(
    make: Callable[..., Mailer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    mailer = make(blobs=f"file://{folder}")
    id = mailer.send(mail())
    send_off(mailer, id)
    [path] = [path for path in folder.rglob("*") if path.is_file()]
    path.unlink()
    path.mkdir()  # what can't be unlinked
    assert collect_now(mailer) == 0
    assert (
        f"can't be deleted: the folder {folder} doesn't let go of an attachment (Is a directory)"
        in caplog.text
    )
    path.rmdir()
    mailer.redis.zadd(
        mailer.ledger.keys.blobs_gone,
        dict.fromkeys(mailer.redis.zrange(mailer.ledger.keys.blobs_gone, 0, -1), 0),
    )
    assert mailer.blobs.collect() == 1
    assert mailer.attachments().being_deleted == 0


def test_it_stops_when_it_is_told_to(make: Callable[..., Mailer]) -> None:
    mailer = make()
    send_off(mailer, mailer.send(mail()))
    mailer.redis.zadd(
        mailer.ledger.keys.blobs_due, dict.fromkeys(mailer.redis.hkeys(mailer.ledger.keys.blobs), 0)
    )
    assert mailer.blobs.collect(lambda: True) == 0
    assert mailer.blobs.collect() == 1


def test_without_attachments_nothing_is_connected_for_them(tmp_path: Path) -> None:
    nowhere = Settings(broker_url=f"redis://127.0.0.1:{free_port()}/0", default_from="a@example.com")
    with Mailer(nowhere) as mailer:
        packed = packing.pack([Message(to="ann@example.com", text="hi")], ["0" * 27 + ".0"], nowhere)
        mailer.blobs.bring([one.batch for one in packed])
        assert Blobs(mailer.redis, mailer.ledger.keys, nowhere).store.kind == "redis"
