"""Which attachments are stored and who needs them: each move, and what a death between two leaves."""

from __future__ import annotations

import pytest

from mailtasks.pieces import Blob
from mailtasks.state import State
from mailtasks.store import blob_index
from mailtasks.store.blob_index import BlobIndex, Need, new_place
from mailtasks.store.keys import Keys
from mailtasks.store.ledger import Acceptance
from mailtasks.store.records import NewBatch

from .bench import CLOCK, Bench

DIGEST, OTHER = "a" * 64, "b" * 64
MARGIN, GRACE, LIFETIME = 10, 100, 300


def index_on(bench: Bench, cap: int | None = None) -> BlobIndex:
    return BlobIndex(bench.redis, bench.keys, margin=MARGIN, grace=GRACE, cap=cap, clock_key=CLOCK)


@pytest.fixture
def index(bench: Bench) -> BlobIndex:
    return index_on(bench)


def batch_with(bench: Bench, *digests: str, messages: int = 1) -> NewBatch:
    """Messages that all have these attachments."""
    new = bench.new(*[1] * messages, lifetime=LIFETIME)
    body = (b"head\r\n", *(Blob(digest, 3, "a.pdf") for digest in digests))
    return NewBatch(
        **{name: getattr(new, name) for name in ("id", "priority", "record", "recipients", "lifetime")},
        fingerprint=new.fingerprint,
        bodies=(body,) * messages,
        blobs=dict.fromkeys(digests, b"abc"),
    )


def need(
    batch: NewBatch, digest: str = DIGEST, *, size: int = 3, lost: str = "", kind: str = "redis"
) -> Need:
    return Need(digest, size, (batch.references()[digest],), new_place(kind, digest), lost)


def store(index: BlobIndex, *needs: Need) -> list[str]:
    assert index.reserve(needs).places is not None
    return index.stored(needs)


def accepted(bench: Bench, index: BlobIndex, *digests: str, messages: int = 1) -> NewBatch:
    batch = batch_with(bench, *digests, messages=messages)
    missing = [need(batch, digest) for digest in digests]
    found = index.reserve(missing).places or ()
    index.stored([each for each, place in zip(missing, found, strict=True) if not place])
    assert bench.ledger.accept([batch]) == [(Acceptance.NEW, True)]
    return batch


def collect(index: BlobIndex) -> list[str]:
    gone, more = index.collect()
    index.forget(gone)
    return gone + (collect(index) if more else [])


# --- Store and accept


def test_what_is_stored_is_found_by_the_next_producer(bench: Bench, index: BlobIndex) -> None:
    first = need(batch_with(bench, DIGEST))
    reserved = index.reserve([first])
    assert (reserved.used, reserved.wanted, reserved.places) == (0, 3, ("",))
    assert index.waiting() == (1, 0)
    assert index.stored([first]) == ["ok"]
    second = index.reserve([need(batch_with(bench, DIGEST)), need(batch_with(bench, OTHER), OTHER)])
    assert (second.used, second.wanted, second.places) == (3, 3, (first.place, ""))
    assert index.places([DIGEST, OTHER]) == {DIGEST: first.place}
    assert index.count() == {"redis": (1, 3)}


def test_a_batch_without_its_attachment_isnt_accepted(bench: Bench, index: BlobIndex) -> None:
    batch = batch_with(bench, DIGEST, OTHER)
    store(index, need(batch))
    before = bench.redis.keys()
    assert bench.ledger.accept([batch]) == [(Acceptance.BLOBLESS, False)]
    assert sorted(bench.redis.keys()) == sorted(before)
    store(index, need(batch, OTHER))
    assert bench.ledger.accept([batch]) == [(Acceptance.NEW, True)]
    assert bench.ledger.accept([batch]) == [(Acceptance.SAME, True)]
    [message] = bench.claim(batch.id).window
    assert message.body == batch.bodies[0]


def test_an_accepted_batch_is_the_same_whatever_became_of_its_attachment(
    bench: Bench, index: BlobIndex
) -> None:
    batch = accepted(bench, index, DIGEST)
    bench.redis.delete(bench.keys.blobs)
    assert bench.ledger.accept([batch]) == [(Acceptance.SAME, True)]


def test_of_two_producers_the_first_copy_counts_and_the_other_is_deleted(
    bench: Bench, index: BlobIndex
) -> None:
    one, two = need(batch_with(bench, DIGEST)), need(batch_with(bench, DIGEST))
    assert index.reserve([one]).places == index.reserve([two]).places == ("",)
    assert index.stored([two]) == index.stored([one]) == ["ok"]
    assert index.places([DIGEST]) == {DIGEST: two.place}
    assert index.count() == {"redis": (1, 3)}
    assert collect(index) == [one.place]


def test_no_more_than_the_cap(bench: Bench) -> None:
    index = index_on(bench, cap=10)
    assert store(index, need(batch_with(bench, DIGEST), size=7)) == ["ok"]
    before = sorted(bench.redis.keys())
    reserved = index.reserve([need(batch_with(bench, OTHER), OTHER, size=4)])
    assert (reserved.used, reserved.wanted, reserved.places) == (7, 4, None)
    assert sorted(bench.redis.keys()) == before
    assert index.reserve([need(batch_with(bench, DIGEST), size=7)]).places is not None


def test_who_stored_meanwhile_fills_the_cap(bench: Bench) -> None:
    index = index_on(bench, cap=10)
    one, two = need(batch_with(bench, DIGEST), size=7), need(batch_with(bench, OTHER), OTHER, size=7)
    for each in (one, two):
        assert index.reserve([each]).places == ("",)
    assert index.stored([one, two]) == ["ok", "full"]
    assert collect(index) == [two.place]
    assert index.count() == {"redis": (1, 7)}


def test_many_are_asked_for_in_slices_and_the_cap_is_about_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_index, "BLOBS_A_CALL", 2)
    index = index_on(bench, cap=14)
    digests = [letter * 64 for letter in "abcde"]
    batch = batch_with(bench, *digests)
    needs = [need(batch, digest) for digest in digests]
    assert index.reserve(needs).places is None
    assert store(index, *needs[:4]) == ["ok"] * 4


def test_a_place_where_nothing_is_any_more_is_replaced(bench: Bench, index: BlobIndex) -> None:
    first = need(batch_with(bench, DIGEST), kind="file")
    store(index, first)
    again = need(batch_with(bench, DIGEST), lost=first.place)
    assert index.reserve([again]).places == ("",)
    assert index.stored([again]) == ["ok"]
    assert index.places([DIGEST]) == {DIGEST: again.place}
    assert index.count() == {"file": (0, 0), "redis": (1, 3)}
    late = need(batch_with(bench, DIGEST), lost=first.place)
    assert index.reserve([late]).places == (again.place,)


# --- Collect


def test_it_is_kept_while_a_message_needs_it_and_no_longer(bench: Bench, index: BlobIndex) -> None:
    batch = accepted(bench, index, DIGEST, messages=2)
    bench.pass_time(MARGIN)
    assert collect(index) == []
    bench.settle(batch.id, State.SENT)
    bench.pass_time(MARGIN)
    assert collect(index) == []
    place = index.places([DIGEST])[DIGEST]
    bench.settle(batch.id, State.SENT)
    bench.pass_time(2 * MARGIN)
    assert collect(index) == [place]
    assert (index.count(), index.waiting()) == ({"redis": (0, 0)}, (0, 0))
    assert not bench.redis.keys("*blob*")


@pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED, State.IN_DOUBT, State.CANCELLED])
def test_what_may_be_retried_keeps_it_until_the_retention_ends(
    bench: Bench, index: BlobIndex, state: State
) -> None:
    batch = accepted(bench, index, DIGEST)
    if state is State.CANCELLED:
        bench.ledger.cancel(batch.id, [0])
    elif state is State.EXPIRED:
        bench.pass_time(LIFETIME)
    else:
        bench.settle(batch.id, state)
    assert state.code in bench.states(batch.id)
    bench.later(5000)
    assert collect(index) == []
    bench.redis.delete(*bench.keys.batch(batch.id))
    bench.later(5000)
    assert len(collect(index)) == 1


def test_another_batch_may_need_it(bench: Bench, index: BlobIndex) -> None:
    first, second = accepted(bench, index, DIGEST), accepted(bench, index, DIGEST)
    bench.settle(first.id, State.SENT)
    bench.pass_time(MARGIN)
    assert collect(index) == []
    bench.settle(second.id, State.SENT)
    bench.pass_time(MARGIN)
    assert len(collect(index)) == 1


def test_it_is_looked_at_when_it_is_twice_as_old_and_at_least_hourly(bench: Bench, index: BlobIndex) -> None:
    accepted(bench, index, DIGEST)
    looks = []
    for _ in range(3 * 3600 // MARGIN):
        bench.later(MARGIN)
        before = bench.redis.zscore(bench.keys.blobs_due, DIGEST)
        collect(index)
        if bench.redis.zscore(bench.keys.blobs_due, DIGEST) != before:
            looks.append((bench.now - bench.start) // 1000)
    assert looks == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 8720]


def test_a_producer_that_dies_before_accept_holds_it_for_the_grace(bench: Bench, index: BlobIndex) -> None:
    dead = need(batch_with(bench, DIGEST))
    store(index, dead)
    bench.later(GRACE - 1)
    assert collect(index) == []
    bench.later(2 * GRACE)
    assert collect(index) == [dead.place]


def test_a_producer_that_dies_while_it_stores_leaves_a_place_that_is_known(
    bench: Bench, index: BlobIndex
) -> None:
    dead = need(batch_with(bench, DIGEST))
    index.reserve([dead])
    assert collect(index) == []
    bench.later(GRACE + 1)
    assert collect(index) == [dead.place]
    assert index.stored([dead]) == ["late"]  # it wasn't dead, only slow, and may have stored it since
    assert index.places([DIGEST]) == {}
    assert collect(index) == [dead.place]


def test_a_collector_that_dies_is_followed_by_another(bench: Bench, index: BlobIndex) -> None:
    dead = need(batch_with(bench, DIGEST))
    index.reserve([dead])
    bench.later(GRACE + 1)
    assert index.collect() == ([dead.place], False)
    assert index.collect() == ([], False)  # the first has some time to delete it
    bench.later(61)
    assert index.collect() == ([dead.place], False)
    index.forget([dead.place])
    bench.later(61)
    assert index.collect() == ([], False)


def test_what_was_collected_is_stored_under_another_name(bench: Bench, index: BlobIndex) -> None:
    """So the collector, which may yet be deleting the first, can't hit the second."""
    first = need(batch_with(bench, DIGEST))
    store(index, first)
    bench.later(2 * GRACE)
    assert index.collect()[0] == [first.place]
    accepted(bench, index, DIGEST)
    assert index.places([DIGEST])[DIGEST] != first.place


def test_a_reservation_alone_doesnt_outlive_the_collector(bench: Bench, index: BlobIndex) -> None:
    """Reserved, then gone before accept: that is refused, and repeated from the start."""
    store(index, need(batch_with(bench, DIGEST)))
    slow = batch_with(bench, DIGEST)
    index.reserve([need(slow)])
    bench.later(3 * GRACE)
    assert len(collect(index)) == 1
    assert bench.ledger.accept([slow]) == [(Acceptance.BLOBLESS, False)]


def test_many_holders_are_looked_at_bit_by_bit(
    bench: Bench, index: BlobIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_index, "HOLDERS_AT_MOST", 2)
    batches = [accepted(bench, index, DIGEST) for _ in range(5)]
    bench.pass_time(MARGIN)
    assert collect(index) == []
    for batch in batches:
        bench.settle(batch.id, State.SENT)
    bench.pass_time(MARGIN)
    assert index.collect() == ([], True)
    assert len(collect(index)) == 1


def test_a_digest_that_a_hand_has_deleted_is_forgotten(bench: Bench, index: BlobIndex) -> None:
    accepted(bench, index, DIGEST)
    bench.redis.hdel(bench.keys.blobs, DIGEST)
    bench.later(MARGIN)
    assert collect(index) == []
    assert not bench.redis.exists(bench.keys.blob(DIGEST), bench.keys.blobs_due)


def test_messages_are_named_in_ranges(bench: Bench) -> None:
    new = bench.new(1, 1, 1, 1)
    a, b = Blob(DIGEST, 3, "a"), Blob(OTHER, 3, "b")
    bodies = ((b"x\r\n", a), (b"x\r\n", a, b, a), b"plain", (b"x\r\n", a))
    batch = NewBatch(new.id, new.priority, new.record, new.recipients, bodies, "print", 10.0)
    assert batch.references() == {DIGEST: f"{new.id}:0-1,3-3", OTHER: f"{new.id}:1-1"}


def test_all_keys_of_a_shard_share_its_tag() -> None:
    keys = Keys("shop")
    ours = [keys.blobs, keys.blobs_due, keys.blobs_coming, keys.blobs_gone, keys.blob(DIGEST)]
    assert all(key.startswith("{shop:0}:blob") for key in ours)
    assert len(set(ours)) == len(ours)
    assert not any(key.startswith(keys.batch("")[0]) for key in ours)
