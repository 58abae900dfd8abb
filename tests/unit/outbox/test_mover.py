from __future__ import annotations

import logging
from base64 import b64decode
from datetime import timedelta

import pytest

from mailtasks.errors import (
    BacklogFull,
    BlobStoreError,
    DatabaseError,
    MemoryFull,
    StoreError,
    StoreUnavailable,
)
from mailtasks.event import attempt_listeners
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Attachment, Message
from mailtasks.outbox import mover as module
from mailtasks.outbox import row as row_module
from mailtasks.outbox.mover import LATEST_LOOK, PATIENCE, SOONEST_LOOK, Moved, Mover
from mailtasks.pieces import blobs_in
from mailtasks.publish import Publisher
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.store.ledger import Ledger
from tests.outboxes import table_at

WEEK = 604_800  # seconds: the default retention


def mail(number=1, **fields):
    return Message(to=f"r{number}@example.com", text="hi", **fields)


@pytest.fixture
def mover(store, mailer, clock):
    return Mover(store, mailer, clock)


def accepted(mailer):
    return mailer.stats().accepted


def hints(mailer):
    return sum(status.hints for status in mailer.queue())


# --- Moving


def test_rows_are_accepted_hinted_and_deleted(mover, mailer, write, rows):
    ids = write(mail(1), mail(2)) + write(mail(3, priority="urgent"))
    assert mover.move() == Moved(accepted=2)
    assert rows() == []
    assert [mailer.status(id).recipients[0].address for id in ids] == [f"r{n}@example.com" for n in (1, 2, 3)]
    assert hints(mailer) == 2
    assert not mover.move()


def test_what_is_told_of_them_is_told_when_they_are_committed(mover, mailer, write, rows):
    mailer.suppressions.add("r1@example.com")
    write(mail(1))
    heard = []

    def hear(news):
        heard.append(([it.recipient for it in news], rows()))

    attempt_listeners.append(hear)
    try:
        mover.move()
    finally:
        attempt_listeners.remove(hear)
    assert heard == [(["r1@example.com"], [])]


def test_they_arrive_in_order(mover, mailer, write, monkeypatch):
    seen = []
    accept = Ledger.accept
    monkeypatch.setattr(Ledger, "accept", lambda self, its: seen.extend(its) or accept(self, its))
    ids = [write(mail(n))[0] for n in range(5)]
    mover.move()
    assert [f"{batch.id}.0" for batch in seen] == ids


def test_what_is_moved_twice_is_accepted_once(mover, mailer, write, table, monkeypatch):
    write(mail(1), mail(2))
    monkeypatch.setattr(table.rows_module.Rows, "change", lambda *_: None)
    assert mover.move() == mover.move() == Moved(accepted=1)
    assert accepted(mailer) == 2


def test_redis_is_too_full_and_the_rows_wait(mover, mailer, write, rows, monkeypatch):
    def full():
        raise MemoryFull("full")

    write(mail(1))
    with monkeypatch.context() as patched:
        patched.setattr(mailer.room, "demand_memory", full)
        with pytest.raises(MemoryFull):
            mover.move()
    assert len(rows()) == 1
    assert mover.move() == Moved(accepted=1)


class Died(BaseException):
    """As if by SIGKILL: nothing of ours catches it, and the database rolls back what was open."""


@pytest.mark.filterwarnings("ignore:transaction already deassociated")  # who dies doesn't hear that
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("keep", ["until_accepted", "until_final"])
@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (None, "waiting"),
        (None, "due"),
        (Ledger, "accept"),
        (None, "change"),
        (None, "commit"),
        (Publisher, "hint"),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_death_at_any_step(owner, step, before, keep, mover, mailer, write, rows, table, monkeypatch):
    write(mail(1), mail(2), keep=keep)
    write(mail(3), keep=keep)
    owner = owner or (table.committer if step == "commit" else table.rows_module.Rows)
    real = getattr(owner, step)

    def dying(*arguments, **named):
        if not before:
            real(*arguments, **named)
        elif step == "commit":
            table.cut()
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, dying)
        with pytest.raises(Died):
            mover.move()
    while mover.move():
        pass
    assert accepted(mailer) == 3
    assert [row.state for row in rows()] == ([] if keep == "until_accepted" else ["accepted"] * 2)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_is_free_while_redis_is_asked(table, mailer, write, rows, monkeypatch):
    accept = Ledger.accept

    def write_meanwhile(ledger, batches):
        if len(batches) == 1:
            write(mail(2), mail(3, priority="bulk"))  # would wait for five seconds, and fail
        return accept(ledger, batches)

    monkeypatch.setattr(Ledger, "accept", write_meanwhile)
    write(mail(1))
    assert Mover(table.eager_store(), mailer).move() == Moved(accepted=1)
    assert len(rows()) == 2


def test_the_age_counts_from_when_it_was_written(mover, mailer, write, clock):
    [young] = write(mail(1, expires_after=600))
    clock.go(400)
    mover.move()
    status = mailer.status(young)
    assert 195 < (status.expires_at - status.accepted_at).total_seconds() < 205


def test_what_was_too_old_is_accepted_and_expires(mover, mailer, write, clock):
    [old] = write(mail(1, expires_after=600))
    clock.go(601)
    assert mover.move() == Moved(accepted=1)
    batch = old.partition(".")[0]
    mailer.ledger.claim(batch, "a worker")
    assert mailer.status(old).state is State.EXPIRED


# --- What can't be moved


@pytest.mark.parametrize("database_url", ["sqlite://"], ids=["sqlite"])
@pytest.mark.parametrize("content", ["'text'", "17"])
def test_a_row_whose_content_isnt_octets_stops_no_other(mover, table, write, content):
    """SQLite lets a hand put anything into a column."""
    write(mail(1))
    write(mail(2))
    table.execute(f"update mailtasks_outbox set content = {content} where id = 1")
    assert mover.move() == Moved(accepted=1, aside=1)


def test_a_row_that_cant_be_read_is_set_aside_and_said_once(mover, mailer, write, rows, change, caplog):
    for number in range(3):
        write(mail(number))
    bad = rows()[1].id
    change(bad, content=b"nonsense")
    assert mover.move() == Moved(accepted=2, aside=1)
    assert not mover.move()
    [row] = rows()
    assert (row.id, row.state) == (bad, "aside")
    assert row.error.startswith("its content can't be read (")
    assert row.error.endswith("; was it changed, or written by a later version?")
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.message == f"row {bad} of mailtasks_outbox is set aside: {row.error}"


def test_a_conflict_is_set_aside(mover, mailer, write, rows):
    mailer.send(mail(1, idempotency_key="k"))
    [id] = write(mail(2, idempotency_key="k"))
    write(mail(3))
    assert mover.move() == Moved(accepted=1, aside=1)
    [row] = rows()
    assert row.error == (
        f"its idempotency key or id was used before with other content, by message {id}; "
        "delete the row, and write the mail with another key"
    )


def test_the_same_mail_by_the_same_key_is_one(mover, mailer, write, rows):
    mailer.send(mail(1, idempotency_key="k"))
    write(mail(1, idempotency_key="k"))
    write(mail(1, idempotency_key="k"))
    assert mover.move() == Moved(accepted=2)
    assert accepted(mailer) == 1
    assert rows() == []


def test_what_only_redis_refuses_is_set_aside_if_it_took_another(mover, mailer, write, rows):
    ids = [write(mail(number))[0] for number in range(3)]
    key = mailer.ledger.keys.batch(ids[1].partition(".")[0])[0]
    mailer.redis.set(key, "not a hash")
    assert mover.move() == Moved(accepted=2, aside=1)
    [row] = rows()
    assert "WRONGTYPE" in row.error
    assert accepted(mailer) == 2


# --- What Redis refuses


@pytest.fixture
def spoil(mailer):
    """Let Redis refuse a mail by its id, or mend that."""

    def spoil(id, mend=False):
        key = mailer.ledger.keys.batch(id.partition(".")[0])[0]
        mailer.redis.delete(key) if mend else mailer.redis.set(key, "not a hash")

    return spoil


def test_if_redis_took_none_it_may_be_redis_and_the_row_waits(mover, write, rows, spoil, clock):
    [id] = write(mail())
    spoil(id)
    with pytest.raises(StoreError, match="WRONGTYPE"):
        mover.move()
    [row] = rows()
    assert row.state == "waiting"
    assert "WRONGTYPE" in row.error
    clock.go(PATIENCE - 1)
    with pytest.raises(StoreError, match="WRONGTYPE"):
        mover.move()
    assert rows() == [row]


def test_what_redis_refuses_for_too_long_is_set_aside_and_said_once(mover, write, rows, spoil, clock, caplog):
    [id] = write(mail())
    spoil(id)
    with pytest.raises(StoreError):
        mover.move()
    assert "is set aside" not in caplog.text
    clock.go(PATIENCE)
    assert mover.move() == Moved(aside=1)
    assert not mover.move()
    [row] = rows()
    assert (row.state, row.look_at) == ("aside", None)
    assert "WRONGTYPE" in row.error
    assert caplog.text.count(f"row {row.id} of mailtasks_outbox is set aside: Redis at ") == 1


def test_what_redis_refused_is_set_aside_once_it_takes_another(mover, write, rows, spoil):
    [id] = write(mail(1))
    spoil(id)
    with pytest.raises(StoreError):
        mover.move()
    write(mail(2))
    assert mover.move() == Moved(accepted=1, aside=1)
    assert [f"{row.batch}.0" for row in rows()] == [id]


def test_rows_that_fill_a_round_and_are_refused_hold_back_no_other(mover, write, rows, spoil, monkeypatch):
    monkeypatch.setattr(row_module, "BYTES_A_ROUND", 1)
    bad = [write(mail(number))[0] for number in range(2)]
    for id in bad:
        spoil(id)
    write(mail(3))
    for _ in bad:
        with pytest.raises(StoreError):
            mover.move()
    assert mover.move() == Moved(accepted=1, aside=1)
    assert [row.state for row in rows()] == ["aside", "waiting"]


def test_redis_is_mended_in_time(mover, mailer, write, rows, spoil):
    [id] = write(mail(), keep="until_final")
    spoil(id)
    with pytest.raises(StoreError):
        mover.move()
    spoil(id, mend=True)
    assert mover.move() == Moved(accepted=1)
    [row] = rows()
    assert (row.state, row.error) == ("accepted", None)
    assert accepted(mailer) == 1


def test_what_redis_lost_and_then_refuses_waits(mover, mailer, clock, keep, rows, spoil):
    [id] = keep()
    mailer.redis.flushdb()
    spoil(id)
    clock.go(SOONEST_LOOK)
    with pytest.raises(StoreError, match="WRONGTYPE"):
        mover.move()
    [row] = rows()
    assert (row.state, row.accepted_at is None) == ("waiting", False)
    spoil(id, mend=True)
    assert mover.move() == Moved(accepted=1)


@pytest.mark.parametrize("trouble", ["refused", "full", "gone"])
def test_kept_rows_are_looked_at_whatever_keeps_others_from_being_accepted(
    trouble, mover, mailer, clock, keep, rows, settle, write, spoil, monkeypatch
):
    [kept] = keep()
    settle(kept, State.SENT)
    [id] = write(mail(2))
    clock.go(SOONEST_LOOK)

    def no(*_):
        raise MemoryFull("full") if trouble == "full" else StoreUnavailable("gone")

    if trouble == "refused":
        spoil(id)
    else:
        owner, name = (Ledger, "accept") if trouble == "gone" else (mailer.room, "demand_memory")
        monkeypatch.setattr(owner, name, no)
    with pytest.raises(StoreError, match=f"{trouble}|WRONGTYPE"):
        mover.move()
    assert [f"{row.batch}.0" for row in rows()] == [id], "the kept row has gone, and the other waits"


def test_a_full_backlog_holds_back_no_row(store, redis_url, write):
    settings = Settings(broker_url=redis_url, default_from="shop@example.com", backlog_normal=1)
    with Mailer(settings) as mailer:
        write(mail(1), mail(2), mail(3))
        assert Mover(store, mailer).move() == Moved(accepted=1)
        assert accepted(mailer) == 3
    with Mailer(settings) as producer, pytest.raises(BacklogFull):
        producer.send(mail(4))


def test_redis_away_marks_nothing(store, write, rows):
    write(mail())
    with Mailer(broker_url=f"redis://127.0.0.1:{free_port()}/0") as away, pytest.raises(StoreUnavailable):
        Mover(store, away).move()
    assert [row.state for row in rows()] == ["waiting"]


def test_redis_that_goes_away_between_one_and_one_marks_nothing(mover, write, rows, monkeypatch):
    write(mail(1))
    write(mail(2))
    errors = [StoreError("one of them"), StoreUnavailable("gone")]

    def accept(ledger, batches):
        raise errors.pop(0)

    monkeypatch.setattr(Ledger, "accept", accept)
    with pytest.raises(StoreUnavailable, match="gone"):
        mover.move()
    assert [row.state for row in rows()] == ["waiting", "waiting"]


def test_a_database_that_is_away_is_said(road, mailer):
    with (
        table_at(road, f"postgresql+psycopg://ann@127.0.0.1:{free_port()}/shop") as away,
        pytest.raises(DatabaseError, match="Connection refused"),
    ):
        Mover(away.store(), mailer).move()


# --- What is kept


@pytest.fixture
def keep(mover, write):
    """Write and move mail that is kept."""

    def keep(*messages, until="until_final"):
        ids = write(*(messages or [mail()]), keep=until)
        assert mover.move() == Moved(accepted=1)
        assert not mover.move()
        return ids

    return keep


def test_a_kept_row_stays_until_all_its_mail_is_final(mover, clock, keep, rows, settle, mailer):
    ids = keep(mail(1), mail(2))
    [row] = rows()
    assert (row.state, row.error) == ("accepted", None)
    assert row.accepted_at == row.seen_at
    clock.go(SOONEST_LOOK)
    assert mover.move() == Moved(pending=1)
    settle(ids[0], State.SENT)
    clock.go(SOONEST_LOOK)
    assert mover.move() == Moved(ended=1)
    assert rows() == []
    assert accepted(mailer) == 2


@pytest.mark.parametrize("state", [State.DEFERRED, State.IN_DOUBT])
def test_what_isnt_final_stays(mover, clock, keep, rows, settle, state):
    [id] = keep()
    settle(id, state)
    clock.go(SOONEST_LOOK)
    assert mover.move() == Moved(pending=1)
    assert len(rows()) == 1


def test_one_recipient_that_isnt_final_is_enough_to_stay(mover, clock, keep, rows, settle):
    [id] = keep(Message(to=["ann@example.com", "bob@example.com"], text="hi"))
    settle(id, State.SENT, State.DEFERRED)
    clock.go(SOONEST_LOOK)
    assert mover.move() == Moved(pending=1)
    assert len(rows()) == 1


def test_a_row_may_stay_with_its_outcome(mover, clock, keep, rows, settle):
    one, other = keep(mail(1), mail(2), until="forever")
    settle(one, State.FAILED)
    clock.go(SOONEST_LOOK)
    assert mover.move() == Moved(ended=1)
    [row] = rows()
    assert row.outcome == {one: "failed", other: "failed"}
    assert (row.state, row.look_at) == ("final", None)
    clock.go(WEEK * 2)
    assert not mover.move()


def test_it_looks_less_and_less_often(mover, clock, keep):
    keep()
    pauses = []
    for _ in range(10):
        waited = 0
        while not mover.move():
            clock.go(5)
            waited += 5
        pauses.append(waited)
    assert pauses == [5, 5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert pauses[-1] == LATEST_LOOK


def test_what_redis_lost_is_accepted_again_and_is_the_same_mail(mover, mailer, clock, keep, rows, caplog):
    [id] = keep(mail(1, expires_after=7200))
    before = mailer.status(id).message_id
    mailer.redis.flushdb()
    clock.go(SOONEST_LOOK)
    assert mover.move() == Moved(accepted_again=1)
    status = mailer.status(id)
    assert (status.state, status.message_id) == (State.QUEUED, before)
    assert (status.expires_at - status.accepted_at).total_seconds() < 7200 - SOONEST_LOOK + 1
    assert hints(mailer) == 1
    [row] = rows()
    assert (row.state, row.seen_at > row.accepted_at) == ("accepted", True)
    assert "Redis had lost the mail of 1 kept rows; it is accepted again" in caplog.text


def test_death_while_accepting_again(mover, mailer, clock, keep, table, monkeypatch):
    keep()
    mailer.redis.flushdb()
    clock.go(SOONEST_LOOK)

    def die(*_):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(table.rows_module.Rows, "change", die)
        with pytest.raises(Died):
            mover.move()
    assert accepted(mailer) == 1
    assert mover.move() == Moved(pending=1)
    assert accepted(mailer) == 1


def test_what_may_be_forgotten_in_good_order_is_not_sent_again(mover, mailer, clock, keep, rows):
    keep()
    mailer.redis.flushdb()
    clock.go(WEEK)
    assert mover.move() == Moved(aside=1)
    [row] = rows()
    assert row.error.startswith("the ledger doesn't know it, and no relay has looked since ")
    assert row.error.endswith(
        f": it may have been sent; delete the row, or release it by `mailtasks outbox retry {row.id}`"
    )
    assert accepted(mailer) == 0


def test_what_waits_for_longer_than_the_ledger_remembers_may_have_been_moved_before(
    mover, mailer, clock, write, rows, table, monkeypatch
):
    write(mail())

    def die(*_):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(table.rows_module.Rows, "change", die)
        with pytest.raises(Died):
            mover.move()
    clock.go(WEEK + 1)
    assert mover.move() == Moved(accepted=1)  # the ledger knows it
    write(mail())
    mailer.redis.flushdb()
    clock.go(WEEK + 1)
    assert mover.move() == Moved(aside=1)
    assert "it may have been sent" in rows()[0].error
    assert accepted(mailer) == 0


def test_what_was_planned_for_later_cant_have_been_sent_before(mover, clock, write):
    write(mail(send_at=clock() + timedelta(days=30)))
    clock.go(WEEK + 1)
    assert mover.move() == Moved(accepted=1)


def test_a_kept_row_is_always_looked_at_before_it_may_be_forgotten(store, redis_url, clock, write):
    with Mailer(broker_url=redis_url, default_from="shop@example.com", retention=4) as mailer:
        mover = Mover(store, mailer, clock)
        write(mail(), keep="until_final")
        mover.move()
        clock.go(2)
        assert mover.move() == Moved(pending=1)


def test_a_released_row_is_moved(mover, mailer, table, clock, keep):
    keep()
    mailer.redis.flushdb()
    clock.go(WEEK)
    mover.move()
    assert table.retry() == 1
    assert mover.move() == Moved(accepted=1)
    assert accepted(mailer) == 1


def test_moved_is_added_up_and_false_if_nothing_was():
    assert Moved(accepted=1, aside=2) + Moved(accepted=3, ended=1) == Moved(accepted=4, aside=2, ended=1)
    assert not Moved()
    assert Moved(pending=1)
    assert module.SOONEST_LOOK > 2, "seconds that a Redis with everysec may forget"


# --- Attachments that are stored apart


def large(number=1, name="a.bin"):
    return mail(number, attachments=[Attachment(filename=name, content=name.encode() * 20_000)])


def test_the_relay_brings_the_attachments_when_it_moves_the_row(mover, mailer, write, rows):
    ids = write(large(1), large(2), mail(3))
    assert not mailer.redis.keys("*blob*")
    assert mover.move() == Moved(accepted=1)
    assert (rows(), mailer.attachments().stored) == ([], 1)
    [message] = [it for it in mailer.ledger.claim(ids[0].partition(".")[0], "w").window if it.id == ids[0]]
    [blob] = blobs_in(message.body)
    assert b64decode(b"".join(mailer.blobs.fetch(blob))) == b"a.bin" * 20_000


def test_a_row_whose_attachments_cant_be_stored_waits_and_stops_no_other(
    store, redis_url, clock, write, rows, tmp_path
):
    folder = tmp_path / "mount"
    with Mailer(broker_url=redis_url, default_from="shop@example.com", blobs=f"file://{folder}") as mailer:
        mover = Mover(store, mailer, clock)
        [stuck] = write(large(1))
        [small] = write(mail(2))
        assert mover.move() == Moved(accepted=1)
        for _ in range(2):
            with pytest.raises(BlobStoreError, match="can't take an attachment"):
                mover.move()
        assert mailer.status(small).state is State.QUEUED
        assert [(row.batch, row.state) for row in rows()] == [(stuck.partition(".")[0], "waiting")]
        folder.mkdir()
        assert mover.move() == Moved(accepted=1)
        assert (rows(), mailer.status(stuck).state) == ([], State.QUEUED)


@pytest.fixture
def unmounted(store, redis_url, clock, tmp_path):
    """A mover whose attachments are for a folder that isn't there."""
    url = f"file://{tmp_path}/mount"
    with Mailer(broker_url=redis_url, default_from="shop@example.com", blobs=url) as mailer:
        yield Mover(store, mailer, clock)


def test_rows_whose_attachments_cant_be_stored_wait_behind_the_others_for_ever(
    unmounted, mailer, write, rows, clock, table, monkeypatch
):
    monkeypatch.setattr(table.rows_module, "ROWS_A_ROUND", 2)
    for number in range(3):
        write(large(number))
    [small] = write(mail(4))
    with pytest.raises(BlobStoreError):
        unmounted.move()
    assert unmounted.move() == Moved(accepted=1)
    assert mailer.status(small).state is State.QUEUED
    for _ in range(3):
        clock.go(PATIENCE)
        with pytest.raises(BlobStoreError):
            unmounted.move()
    assert {(row.state, "can't take an attachment" in row.error) for row in rows()} == {("waiting", True)}


def test_while_attachments_cant_be_stored_a_round_ends_in_time(unmounted, write, rows, monkeypatch):
    tried = []
    accept = unmounted._mailer.accept
    monkeypatch.setattr(unmounted._mailer, "accept", lambda its: tried.append(len(its)) or accept(its))
    monkeypatch.setattr(module, "LONGEST_STORING", 0)
    for number in range(4):
        write(large(number))
    with pytest.raises(BlobStoreError):
        unmounted.move()
    assert tried == [4, 1]
    assert len(rows()) == 4


def test_no_room_for_one_rows_attachments_stops_no_other(mover, mailer, write, rows, monkeypatch):
    def full(size):
        raise MemoryFull(f"no room for {size:,} bytes")

    [stuck] = write(large(1))
    [small] = write(mail(2))
    with monkeypatch.context() as patched:
        patched.setattr(mailer.blobs, "_demand", full)
        assert mover.move() == Moved(accepted=1)
        with pytest.raises(MemoryFull, match="no room for 100,000 bytes"):
            mover.move()
        assert mailer.status(small).state is State.QUEUED
        assert [row.state for row in rows()] == ["waiting"]
    assert mover.move() == Moved(accepted=1)
    assert mailer.status(stuck).state is State.QUEUED


def test_a_kept_row_brings_its_attachment_again_if_redis_has_lost_it(mover, mailer, write, clock):
    [id] = write(large(1), keep="until_final")
    mover.move()
    mailer.redis.flushdb()
    clock.go(SOONEST_LOOK)
    assert mover.move() == Moved(accepted_again=1)
    assert mailer.attachments().stored == 1
    assert mailer.status(id).state is State.QUEUED
