"""Accepting ends, by name and with nothing half done, before Redis is full or too much waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from mailtasks import room
from mailtasks.errors import BacklogFull, MemoryFull, StoreUnavailable
from mailtasks.local.redis import LocalRedis, free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.store.connection import where
from mailtasks.store.keys import new_batch_id
from mailtasks.store.ledger import Claim, Result
from mailtasks.store.records import NewBatch


@pytest.fixture
def made(own_redis: LocalRedis) -> Iterator[Callable[..., Mailer]]:
    mailers: list[Mailer] = []
    with own_redis.client() as client:
        client.setrange("filler", 20_000_000, "x")  # beside it, what a connection or a script takes is little

    def make(**values: Any) -> Mailer:
        settings = {"broker_url": own_redis.url, "default_from": "shop@example.com", "redis_timeout": 1}
        mailers.append(Mailer(Settings(**(settings | values))))
        return mailers[-1]

    yield make
    for mailer in mailers:
        mailer.redis.config_set("maxmemory", 0)
        mailer.close()


@pytest.fixture(autouse=True)
def look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOK_EVERY", 0.0)


def mails(count: int, **more: Any) -> list[Message]:
    return [Message(to=f"r{number}@example.com", text="hi", **more) for number in range(count)]


def accepted(mailer: Mailer) -> int:
    return mailer.stats().accepted


def fill(mailer: Mailer, percent: int) -> None:
    """Have Redis use so much of what it may."""
    used = mailer.redis.info("memory")["used_memory"]
    mailer.redis.config_set("maxmemory", used * 100 // percent)


def send_all(mailer: Mailer, ids: list[str]) -> None:
    for batch in {id.partition(".")[0] for id in ids}:
        claim = mailer.ledger.claim(batch, "w")
        while isinstance(claim, Claim):
            results = [
                Result(recipient.index, State.SENT, reply="250 2.0.0 Ok")
                for message in claim.window
                for recipient in message.recipients
            ]
            if mailer.ledger.step(claim, "w", results):
                break


# Memory


def test_above_the_ceiling_nothing_is_accepted_and_what_is_there_is_delivered(
    made: Callable[..., Mailer],
) -> None:
    mailer = made()
    ids = mailer.send_many(mails(3))
    fill(mailer, 90)
    with pytest.raises(MemoryFull) as raised:
        mailer.send_many(mails(2))
    assert str(raised.value) in {
        f"Redis at {where(mailer.redis)} uses {percent} % of its memory, and memory_ceiling is 85 %, "
        "so nothing was accepted; wait until the workers have sent more, or give it more memory"
        for percent in (89, 90, 91)
    }
    assert isinstance(raised.value, StoreUnavailable)
    assert raised.value.ids == ()
    assert accepted(mailer) == 3
    send_all(mailer, ids)
    assert mailer.stats().states[State.SENT] == 3


def test_below_it_and_without_a_maximum_there_is_room(made: Callable[..., Mailer]) -> None:
    mailer = made()
    fill(mailer, 50)
    mailer.send_many(mails(1))
    mailer.redis.config_set("maxmemory", 0)
    mailer.send_many(mails(1))
    assert accepted(mailer) == 2


def test_accepting_goes_on_when_there_is_room_again(made: Callable[..., Mailer]) -> None:
    mailer = made(memory_ceiling=70)
    fill(mailer, 80)
    with pytest.raises(MemoryFull, match="memory_ceiling is 70 %"):
        mailer.send_many(mails(1))
    fill(mailer, 60)
    mailer.send_many(mails(1))


def test_a_hundred_percent_is_redis_own_limit(made: Callable[..., Mailer]) -> None:
    mailer = made(memory_ceiling=100)
    fill(mailer, 87)
    mailer.send_many(mails(1))
    mailer.redis.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable, match="its memory is full") as raised:
        mailer.send_many(mails(1))
    assert not isinstance(raised.value, MemoryFull)


# Backlog


def test_a_full_backlog_refuses_its_priority_and_no_other(made: Callable[..., Mailer]) -> None:
    mailer = made(backlog_bulk=5)
    ids = mailer.send_many(mails(5, priority="bulk"))
    with pytest.raises(BacklogFull) as raised:
        mailer.send(mails(1, priority="bulk")[0])
    assert str(raised.value) == (
        "5 recipients of bulk mail are waiting and 1 more would exceed backlog_bulk = 5, so nothing was "
        "accepted; try again later, or start more workers"
    )
    assert (raised.value.priority, raised.value.waiting, raised.value.most) == ("bulk", 5, 5)
    mailer.send_many(mails(3, priority="urgent") + mails(3))
    assert accepted(mailer) == 11
    send_all(mailer, ids)
    mailer.send_many(mails(5, priority="bulk"))


def test_more_than_would_ever_fit_is_said_so_and_nothing_is_half_accepted(
    made: Callable[..., Mailer],
) -> None:
    mailer = made(backlog_normal=1000)
    with pytest.raises(BacklogFull, match=r"1,001 more .* = 1,000, .*; send fewer at once$"):
        mailer.send_many([*mails(2, priority="urgent"), *mails(1001)])
    assert accepted(mailer) == 0


def test_recipients_count_and_not_messages(made: Callable[..., Mailer]) -> None:
    mailer = made(backlog_normal=5)
    with pytest.raises(BacklogFull, match="6 more"):
        mailer.send(Message(to=[f"r{number}@example.com" for number in range(6)], text="hi"))


def test_what_was_accepted_since_the_last_look_counts(
    made: Callable[..., Mailer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOK_EVERY", 3600.0)
    mailer = made(backlog_normal=5)
    mailer.send_many(mails(3))
    mailer.send_many(mails(2))
    with pytest.raises(BacklogFull, match="5 recipients"):
        mailer.send_many(mails(1))


# Trying again


def unanswered(mailer: Mailer, messages: list[Message], monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """Send, and lose the answer; returns the ids that the error carries."""
    accept = mailer.ledger.accept

    def lose(batches: Sequence[NewBatch]) -> Any:
        accept(batches)
        raise StoreUnavailable("no answer", batches[0].message_ids(), unanswered=True)

    with monkeypatch.context() as patched:
        patched.setattr(mailer.ledger, "accept", lose)
        with pytest.raises(StoreUnavailable) as raised:
            mailer.send_many(messages)
    assert raised.value.unanswered
    return raised.value.ids


def is_full(mailer: Mailer) -> None:
    fill(mailer, 90)


def has_its_backlog(mailer: Mailer) -> None:
    pass


@pytest.mark.parametrize("reason", [is_full, has_its_backlog])
@pytest.mark.parametrize("key", [None, "order-7"])
def test_what_an_earlier_try_brought_in_needs_no_room(
    made: Callable[..., Mailer],
    monkeypatch: pytest.MonkeyPatch,
    reason: Callable[[Mailer], None],
    key: str | None,
) -> None:
    mailer = made(backlog_bulk=1)
    messages = mails(1, priority="bulk", idempotency_key=key)
    ids = unanswered(mailer, messages, monkeypatch)
    reason(mailer)
    assert mailer.send_many(messages, ids=None if key else ids) == list(ids)
    with pytest.raises((MemoryFull, BacklogFull)) as raised:
        mailer.send_many(mails(1, priority="bulk", idempotency_key=key and "order-8"))
    assert raised.value.ids == ()
    assert accepted(mailer) == 1


def test_if_it_brought_in_some_there_must_be_room_for_the_rest(
    made: Callable[..., Mailer], monkeypatch: pytest.MonkeyPatch
) -> None:
    mailer = made(backlog_bulk=2)
    first = mails(1, priority="bulk", idempotency_key="order-7")
    [id] = unanswered(mailer, first, monkeypatch)
    with pytest.raises(BacklogFull, match="1 recipients of bulk mail are waiting and 2 more"):
        mailer.send_many(first + mails(2, priority="bulk"))
    assert mailer.send_many(first + mails(1, priority="bulk"))[0] == id
    assert accepted(mailer) == 2


def test_tried_again_in_vain_it_still_may_be_in() -> None:
    settings = Settings(broker_url=f"redis://127.0.0.1:{free_port()}/0", default_from="s@example.com")
    with Mailer(settings) as mailer, pytest.raises(StoreUnavailable) as raised:
        mailer.send(mails(1)[0], id=(id := f"{new_batch_id()}.0"))
    assert raised.value.ids == (id,)


def test_redis_is_away() -> None:
    mailer = Mailer(Settings(broker_url=f"redis://127.0.0.1:{free_port()}/0", default_from="a@example.com"))
    with pytest.raises(StoreUnavailable, match=r"can't be reached .*, so nothing was accepted; is it "):
        mailer.send_many(mails(1))


def test_without_limits_nothing_is_asked() -> None:
    mailer = Mailer(Settings(broker_url=f"redis://127.0.0.1:{free_port()}/0", memory_ceiling=100))
    mailer.room.demand_memory()


def test_what_would_lift_redis_over_its_ceiling_is_refused_before_it_is_stored(made):
    mailer = made(memory_ceiling=50)
    fill(mailer, 40)
    size = mailer.redis.info("memory")["maxmemory"] // 4
    with pytest.raises(MemoryFull) as raised:
        mailer.room.demand_bytes(size)
    assert str(raised.value) == (
        f"{size:,} bytes of attachments would lift Redis at {where(mailer.redis)} over "
        "memory_ceiling = 50 % of its memory, so nothing was accepted; wait until the workers have sent "
        "more, give it more memory, or let `blobs` name a folder or an object store"
    )
    mailer.room.demand_bytes(1)


def test_what_was_let_in_since_the_last_look_counts(made, monkeypatch):
    monkeypatch.setattr(room, "LOOK_EVERY", 60.0)
    mailer = made(memory_ceiling=90)
    fill(mailer, 40)
    size = mailer.redis.info("memory")["maxmemory"] // 5
    mailer.room.demand_bytes(size)
    mailer.room.demand_bytes(size)
    with pytest.raises(MemoryFull):
        mailer.room.demand_bytes(size)
