"""The way in: what is accepted and what is refused, with the sentences that a person would see."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as modern
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mailtasks.errors import (
    AddressError,
    IdempotencyConflict,
    MessageError,
    MessageTooLarge,
    SettingsError,
    StoreUnavailable,
    UnknownMessage,
)
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Attachment, Message, Priority
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.status import Doubt, RetryReport
from mailtasks.store.ledger import Claim, Refusal, Released, Result
from mailtasks.testing import LocalRedis
from mailtasks.testing.proxy import Proxy


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(broker_url=redis_url, default_from="The Shop <shop@example.com>")


@pytest.fixture
def mailer(settings: Settings) -> Iterator[Mailer]:
    with Mailer(settings) as mailer:
        yield mailer


def claimed(mailer: Mailer, id: str) -> Claim:
    claim = mailer.ledger.claim(id.partition(".")[0], "worker@here")
    assert isinstance(claim, Claim)
    return claim


def settle(mailer: Mailer, id: str, state: State, reply: str = "", delay: float = 3600) -> None:
    """Give every recipient of the batch's first window a state, as a worker would."""
    claim = claimed(mailer, id)
    results = [
        Result(recipient.index, state, delay=delay, reply=reply, relay="mx.example.com:25")
        for message in claim.window
        for recipient in message.recipients
    ]
    mailer.ledger.release(claim, "worker@here", results)


def ann(**more: object) -> Message:
    return Message(to="ann@example.com", subject="Your code", text="1234", **more)


# --- Accept -----------------------------------------------------------------------------------------


def test_what_is_accepted_can_be_asked_about(mailer: Mailer) -> None:
    sent = Message(
        to="Ann <ann@example.com>",
        bcc=["bob@example.org"],
        subject="Your code",
        text="1234",
        priority="urgent",
        tags=["codes"],
        metadata={"order": "7"},
    )
    status = mailer.status(mailer.send(sent))
    assert [recipient.address for recipient in status.recipients] == ["ann@example.com", "bob@example.org"]
    assert {recipient.state for recipient in status.recipients} == {State.QUEUED}
    assert (status.state, status.attempts, status.reply) == (State.QUEUED, 0, "")
    assert (status.priority, status.subject) == (Priority.URGENT, "Your code")
    assert (status.tags, status.metadata) == (("codes",), {"order": "7"})
    assert status.expires_at - status.accepted_at == timedelta(days=5)
    assert mailer.stats().states[State.QUEUED] == mailer.stats().accepted == 2


def test_message_id_and_date_are_fixed_at_accept(mailer: Mailer) -> None:
    id = mailer.send(ann(bcc="eve@example.com"))
    [message] = claimed(mailer, id).window
    parsed = message_from_bytes(message.body, policy=modern)
    assert parsed["Message-ID"] == f"<{id}@example.com>" == mailer.status(id).message_id
    assert abs(parsed["Date"].datetime - datetime.now(UTC)) < timedelta(seconds=10)
    assert parsed["From"] == "The Shop <shop@example.com>"
    assert b"eve@example.com" not in message.body
    assert message.record.sender == "shop@example.com"


def test_an_envelope_sender_may_differ_and_may_be_null(mailer: Mailer) -> None:
    bounces = claimed(mailer, mailer.send(ann(envelope_sender="bounces@example.com")))
    assert bounces.window[0].record.sender == "bounces@example.com"
    assert claimed(mailer, mailer.send(ann(envelope_sender=""))).window[0].record.sender == ""


def test_times_become_the_ledgers(mailer: Mailer) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    status = mailer.status(mailer.send(ann(send_at=later, expires_after=90)))
    assert abs(status.send_at - later) < timedelta(seconds=1)
    assert status.expires_at - status.send_at == timedelta(seconds=90)
    assert mailer.queue()[1].hints == 0


def test_a_hint_is_published_to_the_prioritys_queue(mailer: Mailer) -> None:
    for priority in Priority:
        mailer.send(ann(priority=priority))
        mailer.send(ann(priority=priority))
    assert [(row.priority, row.recipients, row.batches, row.hints) for row in mailer.queue()] == [
        (priority, 2, 2, 2) for priority in Priority
    ]


def test_asend_accepts_too(mailer: Mailer) -> None:
    assert mailer.status(asyncio.run(mailer.asend(ann()))).state is State.QUEUED


def test_what_asyncio_has_besides_does_the_same(mailer: Mailer) -> None:
    async def main() -> None:
        both = [ann(cc="bob@example.com"), ann()]
        ids = await mailer.asend_many(both, one_each=True)
        assert len(ids) == 3
        assert await mailer.asend_many(both, one_each=True, ids=ids) == ids
        assert (await mailer.astatus(ids[1])).recipients[0].address == "bob@example.com"
        with pytest.raises(UnknownMessage):
            await mailer.astatus("0abc.0")
        with pytest.raises(MessageError):
            await mailer.asend_many([ann(), Message(to="ann@example.com", text="x" * 20_000_000)])

    asyncio.run(main())
    assert mailer.stats().accepted == 3


# --- Many -------------------------------------------------------------------------------------------


def test_send_many_packs_messages_alike_into_batches(mailer: Mailer) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    kinds: list[dict[str, object]] = [{}, {"priority": "bulk"}, {"send_at": later}, {"expires_after": 60}]
    messages = [
        Message(to=[f"{n}@example.com", f"{n}@example.org"], text="hi", **kinds[n % 4]) for n in range(1000)
    ]
    ids = mailer.send_many(messages)
    batches = {id.partition(".")[0] for id in ids}
    assert len(set(ids)) == 1000
    assert len(batches) == 4 * 3  # of at most a hundred messages
    assert all(mailer.status(ids[n]).recipients[1].address == f"{n}@example.org" for n in range(0, 1000, 97))
    assert mailer.stats().accepted == 2000


def test_large_messages_make_small_batches(mailer: Mailer) -> None:
    messages = [
        Message(to="ann@example.com", attachments=[Attachment(filename="a", content=bytes(300_000))])
        for _ in range(5)
    ]
    assert len({id.partition(".")[0] for id in mailer.send_many(messages)}) == 3


def test_a_message_with_a_key_has_a_batch_of_its_own(mailer: Mailer) -> None:
    ids = mailer.send_many([ann(), ann(idempotency_key="k"), ann()])
    assert ids[0].partition(".")[0] == ids[2].partition(".")[0] != ids[1].partition(".")[0]


def test_nothing_is_accepted_if_one_of_many_cant_be_mailed(mailer: Mailer) -> None:
    large = Attachment(filename="a", content=bytes(11_000_000))
    with pytest.raises(MessageTooLarge):
        mailer.send_many([ann(), Message(to="ann@example.com", attachments=[large])])
    assert mailer.stats().accepted == 0


def test_nobody_at_all_is_fine(mailer: Mailer) -> None:
    assert mailer.send_many([]) == []


# --- Bad input --------------------------------------------------------------------------------------


def test_no_sender(redis_url: str) -> None:
    with Mailer(Settings(broker_url=redis_url)) as mailer:
        with pytest.raises(MessageError) as caught:
            mailer.send(ann())
        assert str(caught.value) == (
            "the message has no sender and no default is set; give `sender` or set MAILTASKS_DEFAULT_FROM"
        )
        assert mailer.stats().accepted == 0


def test_what_is_no_message(mailer: Mailer) -> None:
    nothing: Any = "foo"
    with pytest.raises(MessageError) as caught:
        mailer.send_many([ann(), nothing])
    assert str(caught.value) == "'foo' is no message: make it a mailtasks.Message"
    assert mailer.stats().accepted == 0


def test_a_mail_that_email_has_made_is_sent_as_it_is(mailer: Mailer) -> None:
    made = EmailMessage()
    made["To"], made["Bcc"], made["Subject"] = "Ann <ann@example.com>", "bob@example.com", "Grüße"
    made.set_content("Hello\n")
    [id] = mailer.send_many([made])
    status = mailer.status(id)
    assert [it.address for it in status.recipients] == ["ann@example.com", "bob@example.com"]
    assert (status.subject, status.message_id) == ("Grüße", f"<{id}@example.com>")
    [message] = claimed(mailer, id).window
    assert message.record.sender == "shop@example.com"
    head, _, body = message.body.partition(b"\r\n\r\n")
    assert re.fullmatch(
        rb"Date: .* \+0000\r\nFrom: The Shop <shop@example.com>\r\nMessage-ID: <\S+>\r\n"
        rb"To: Ann <ann@example.com>\r\nSubject: =\?utf-8\?q\?Gr=C3=BC=C3=9Fe\?=\r\n"
        rb'Content-Type: text/plain; charset="utf-8"\r\n'
        rb"Content-Transfer-Encoding: 7bit\r\nMIME-Version: 1.0",
        head,
    )
    assert body == b"Hello\r\n"


def test_one_each_is_a_mail_of_their_own(mailer: Mailer) -> None:
    message = Message(to=["Ann <ann@example.com>", "bob@example.com"], bcc="cy@example.com", text="hi")
    ids = mailer.send_many([message, ann()], one_each=True)
    assert len({id.partition(".")[0] for id in ids}) == 1  # one batch
    window = claimed(mailer, ids[0]).window
    heads = [message_from_bytes(one.body, policy=modern) for one in window]
    assert [head["To"] for head in heads[:3]] == [
        "Ann <ann@example.com>",
        "bob@example.com",
        "cy@example.com",
    ]
    assert [head["Message-ID"] for head in heads] == [f"<{id}@example.com>" for id in ids[: len(heads)]]
    assert [[it.address for it in mailer.status(id).recipients] for id in ids] == [
        ["ann@example.com"],
        ["bob@example.com"],
        ["cy@example.com"],
        ["ann@example.com"],
    ]


def test_one_each_with_a_large_file_stores_it_once(mailer: Mailer) -> None:
    """As decision record 0024 says."""
    file = Attachment(filename="catalogue.pdf", content=b"x" * (mailer.settings.blob_threshold + 1))
    message = Message(to=[f"r{n}@example.com" for n in range(20)], text="hi", attachments=[file])
    ids = mailer.send_many([message], one_each=True)
    assert len(ids) == 20
    assert (mailer.attachments().stored, mailer.attachments().bytes) == (1, len(file.content))


def test_one_each_with_a_key_sends_to_nobody_twice(mailer: Mailer) -> None:
    def to(*recipients: str) -> list[str]:
        message = Message(to=recipients, text="hi", idempotency_key="news-1")
        return mailer.send_many([message], one_each=True)

    first = to("ann@example.com", "bob@example.com")
    assert to("bob@example.com", "cy@example.com")[0] == first[1]
    assert mailer.stats().accepted == 3


def test_over_the_size_limit(redis_url: str) -> None:
    with Mailer(Settings(broker_url=redis_url, default_from="a@example.com", size_limit=2048)) as mailer:
        with pytest.raises(MessageTooLarge) as caught:
            mailer.send(Message(to="ann@example.com", text="x" * 3000))
        assert re.fullmatch(
            r"the message has 3,000 bytes, and more once it is composed; the size limit is 2,048: "
            r"make it shorter, or raise `size_limit`",
            str(caught.value),
        )
        assert mailer.stats().accepted == 0


def test_a_default_sender_that_is_no_address() -> None:
    with pytest.raises(SettingsError) as caught:
        Mailer(default_from="The Shop")
    assert str(caught.value) == (
        "default_from (keyword): 'The Shop' is wrong; expected an address such as "
        '"shop@example.com" or "The Shop <shop@example.com>"'
    )


def test_settings_and_keywords_together(settings: Settings) -> None:
    with pytest.raises(SettingsError) as caught:
        Mailer(settings, lease=5)
    assert str(caught.value) == "Mailer takes settings or keywords, not both; put lease into the settings"


def test_a_typo_in_a_keyword() -> None:
    with pytest.raises(SettingsError) as caught:
        Mailer(leese=5)
    assert str(caught.value) == "leese (keyword): there is no such setting; did you mean lease?"


@pytest.mark.parametrize(
    "id", ["", "nonsense", "0" * 27, "0" * 27 + ".0", "0" * 27 + ".x", "../../etc/passwd", "ä" * 27, None, 5]
)
def test_an_id_that_nobody_knows(mailer: Mailer, id: Any) -> None:
    for ask in (mailer.status, mailer.cancel, mailer.retry):
        with pytest.raises(UnknownMessage) as caught:
            ask(id)
        assert str(caught.value) == (
            f"no message {id!r} is known in {mailer.settings.store_url}: it was never accepted there (it may "
            "wait in an outbox), or its retention has ended; "
            "check the id and whether that is the right Redis, or `mailtasks find ADDRESS`"
        )


def test_the_redis_that_doesnt_know_an_id_is_named_without_its_password(own_redis: LocalRedis) -> None:
    with own_redis.client() as client:
        client.acl_setuser("ann", enabled=True, passwords=["+hunter2"], categories=["+@all"], keys=["*"])
    url = own_redis.url.replace("//", "//ann:hunter2@").replace("/0", "/3")
    with Mailer(broker_url=url) as mailer, pytest.raises(UnknownMessage) as caught:
        mailer.status("nonsense.0")
    masked = url.replace("hunter2", "***")
    assert f"is known in {masked}: " in str(caught.value)
    assert caught.value.ledger == masked


def test_an_index_that_no_recipient_has(mailer: Mailer) -> None:
    id = mailer.send(ann())
    with pytest.raises(UnknownMessage):
        mailer.status(id.replace(".0", ".1"))


def test_what_cant_be_paused(mailer: Mailer) -> None:
    for steer in (mailer.pause, mailer.resume):
        with pytest.raises(SettingsError) as caught:
            steer("urgnt")
        assert str(caught.value) == ("'urgnt' can't be paused or resumed; expected all, urgent, normal, bulk")


# --- Redis away -------------------------------------------------------------------------------------

SECONDS = 0.4  # each of redis_timeout and redis_connect_timeout; send() promises twice their sum


def impatient(url: str, **more: object) -> Mailer:
    return Mailer(
        Settings(
            broker_url=url,
            default_from="shop@example.com",
            redis_timeout=SECONDS,
            redis_connect_timeout=SECONDS,
            **more,
        )
    )


@pytest.fixture
def stopped(own_redis: LocalRedis) -> Iterator[LocalRedis]:
    """A Redis that hangs."""
    os.kill(own_redis.pid, signal.SIGSTOP)
    yield own_redis
    os.kill(own_redis.pid, signal.SIGCONT)


def test_redis_refuses_the_connection() -> None:
    port = free_port()
    began = time.monotonic()
    with (
        impatient(f"redis://:secret@127.0.0.1:{port}/0") as mailer,
        pytest.raises(StoreUnavailable) as caught,
    ):
        mailer.send(ann())
    assert time.monotonic() - began < 4 * SECONDS
    assert caught.value.ids == ()
    assert str(caught.value) == (
        f"Redis at 127.0.0.1:{port}/0 can't be reached (Error 111 connecting to 127.0.0.1:{port}. "
        "Connection refused), so nothing was accepted; is it running and reachable?"
    )


def test_redis_hangs_before_it_was_asked_to_accept(own_redis: LocalRedis) -> None:
    with impatient(own_redis.url) as mailer:
        os.kill(own_redis.pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            with pytest.raises(StoreUnavailable) as caught:
                mailer.send(ann())
            assert time.monotonic() - began < 2 * SECONDS + 0.2
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)
        told = str(caught.value)
        assert told.startswith(f"Redis at 127.0.0.1:{own_redis.port}/0 didn't answer (Timeout")
        assert told.endswith("), so nothing was accepted; is it running and reachable?")
        assert caught.value.ids == ()
        mailer.send(ann())
        assert mailer.stats().accepted == 1


def test_redis_hangs_and_sending_again_gives_one_mail(own_redis: LocalRedis) -> None:
    with impatient(own_redis.url) as mailer:
        mailer.room.demand_memory()
        os.kill(own_redis.pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            with pytest.raises(StoreUnavailable) as caught:
                mailer.send(ann())
            assert time.monotonic() - began < 4 * SECONDS + 0.2
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)
        [id] = caught.value.ids
        port = own_redis.port
        assert str(caught.value).startswith(f"Redis at 127.0.0.1:{port}/0 didn't answer (Timeout")
        assert str(caught.value).endswith(
            "), so it is not known whether it accepted 1 message; try again with the ids that this error "
            "carries or with idempotency keys (then nothing is sent twice), or ask `status` for them: " + id
        )
        assert mailer.send(ann(), id=id) == id
        assert mailer.send(ann(), id=id) == id
        assert mailer.stats().accepted == 1
        assert mailer.status(id).state is State.QUEUED


def test_what_no_replica_confirms_is_accepted_and_may_be_sent_again(redis_url: str) -> None:
    common = {"broker_url": redis_url, "default_from": "shop@example.com"}
    with Mailer(Settings(**common, durability="replica", redis_timeout=0.6)) as careful:
        with pytest.raises(StoreUnavailable, match=r"accepted 1 message, but no replica confirmed") as caught:
            careful.send(ann())
        [id] = caught.value.ids
        with pytest.raises(StoreUnavailable, match="no replica confirmed"):
            careful.send(ann(), id=id)
        assert (careful.stats().accepted, careful.status(id).state) == (1, State.QUEUED)
    with Mailer(Settings(**common)) as mailer:
        assert mailer.send(ann(), id=id) == id
        assert mailer.stats().accepted == 1


def test_many_of_which_only_some_are_known_to_be_in(own_redis: LocalRedis) -> None:
    """The connection dies in the middle: the error carries every id, and all may be sent again."""
    messages = [ann(idempotency_key=str(n)) for n in range(300)]
    with Proxy("127.0.0.1", own_redis.port) as proxy, impatient(own_redis.url) as well:
        with impatient(f"redis://127.0.0.1:{proxy.port}/0") as mailer:
            mailer.publisher = well.publisher
            accept, calls = mailer.ledger.accept, []

            def cut_after_the_first(batches: list[object]) -> object:
                calls.append(len(batches))
                if len(calls) == 2:
                    proxy.hang()
                return accept(batches)

            mailer.ledger.accept = cut_after_the_first
            with pytest.raises(StoreUnavailable) as caught:
                mailer.send_many(messages)
            assert len(calls) == 2
        assert len(caught.value.ids) == 300
        assert 0 < well.stats().accepted < 300
        assert well.send_many(messages, ids=caught.value.ids) == list(caught.value.ids)
        assert well.stats().accepted == 300


def test_a_broken_connection_is_made_anew_without_a_word(own_redis: LocalRedis) -> None:
    with impatient(own_redis.url) as mailer:
        mailer.send(ann())
        own_redis.restart()
        mailer.send(ann())
        assert mailer.stats().accepted == 2


def test_hints_that_cant_be_published_fail_nobody(own_redis: LocalRedis) -> None:
    """The broker is away, the store isn't: the mail is accepted, and the pump will find it."""
    with impatient(f"redis://127.0.0.1:{free_port()}/0", store_url=own_redis.url) as mailer:
        assert mailer.status(mailer.send(ann())).state is State.QUEUED


def test_a_broker_that_hangs_holds_send_up_for_a_stated_time(own_redis: LocalRedis) -> None:
    with Proxy("127.0.0.1", own_redis.port) as proxy:
        proxy.hang()
        with impatient(f"redis://127.0.0.1:{proxy.port}/0", store_url=own_redis.url) as mailer:
            began = time.monotonic()
            assert mailer.status(mailer.send(ann())).state is State.QUEUED
            assert time.monotonic() - began < 4 * SECONDS


def test_asend_never_blocks_the_loop(stopped: LocalRedis) -> None:
    gaps: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        with impatient(stopped.url) as mailer, pytest.raises(StoreUnavailable):
            await mailer.asend(ann())
        ticking.cancel()

    asyncio.run(main())
    assert len(gaps) > 10
    assert max(gaps) < SECONDS / 2


# --- Idempotency ------------------------------------------------------------------------------------


def test_same_key_and_content_is_the_same_mail(mailer: Mailer) -> None:
    first = mailer.send(ann(idempotency_key="code-42"))
    assert mailer.send(ann(idempotency_key="code-42")) == first
    assert mailer.stats().accepted == 1


def test_same_key_after_it_was_sent_is_still_the_same_mail(mailer: Mailer) -> None:
    first = mailer.send(ann(idempotency_key="code-42"))
    settle(mailer, first, State.SENT)
    assert mailer.send(ann(idempotency_key="code-42")) == first
    assert mailer.status(first).state is State.SENT


def test_same_key_and_other_content_is_an_error(mailer: Mailer) -> None:
    first = mailer.send(ann(idempotency_key="code-42"))
    other = Message(to="ann@example.com", subject="Your code", text="9999", idempotency_key="code-42")
    with pytest.raises(IdempotencyConflict) as caught:
        mailer.send(other)
    assert (caught.value.key, caught.value.id) == ("code-42", first)
    assert str(caught.value) == (
        f"idempotency key 'code-42' was used before with other content, by message {first}; "
        "use another key for another mail"
    )
    assert mailer.stats().accepted == 1


def test_a_conflict_in_the_middle_of_many_is_told_after_the_others_were_accepted(mailer: Mailer) -> None:
    mailer.send(ann(idempotency_key="code-42"))
    other = Message(to="bob@example.com", text="hi", idempotency_key="code-42")
    with pytest.raises(IdempotencyConflict):
        mailer.send_many([ann(), other, ann(idempotency_key="code-43")])
    assert mailer.stats().accepted == 3


def test_a_key_of_one_namespace_is_free_in_another(redis_url: str) -> None:
    settings = [
        Settings(broker_url=redis_url, default_from="a@example.com", namespace=name)
        for name in ("one", "two")
    ]
    with Mailer(settings[0]) as one, Mailer(settings[1]) as two:
        for mailer in (one, two):
            mailer.send(ann(idempotency_key="k"))
        two.send(ann())
        assert (one.stats().accepted, two.stats().accepted) == (1, 2)
        assert [row.hints for row in two.queue()] == [0, 2, 0]


# --- Cancel -----------------------------------------------------------------------------------------


def test_cancel_in_time_and_too_late(mailer: Mailer) -> None:
    id = mailer.send(ann(cc="bob@example.com"))
    assert mailer.cancel(id) == 2
    assert mailer.cancel(id) == 2  # the answer may have been lost: said again, it is as true
    assert mailer.status(id).state is State.CANCELLED
    assert isinstance(mailer.ledger.claim(id.partition(".")[0], "w"), Released)


def test_cancel_touches_one_message_of_a_batch(mailer: Mailer) -> None:
    ids = mailer.send_many([ann(), ann(), ann()])
    assert mailer.cancel(ids[1]) == 1
    assert [mailer.status(id).state for id in ids] == [State.QUEUED, State.CANCELLED, State.QUEUED]


def test_what_is_being_sent_cant_be_cancelled(mailer: Mailer) -> None:
    id = mailer.send(ann())
    claimed(mailer, id)
    assert mailer.cancel(id) == 0
    assert mailer.status(id).state is State.SENDING


# --- Retry ------------------------------------------------------------------------------------------

REPLIES = {
    "unknown": (State.FAILED, "550 5.1.1 no such user"),
    "blocked": (State.FAILED, "554 5.7.1 blocked by policy"),
    "plain": (State.FAILED, "552 too large"),
    "deferred": (State.DEFERRED, "451 4.7.1 greylisted"),
}


@pytest.fixture
def failures(mailer: Mailer) -> dict[str, str]:
    """A message for each of REPLIES; returns their ids."""
    ids = {}
    for name, (state, reply) in REPLIES.items():
        ids[name] = mailer.send(Message(to=f"{name}@example.com", text="hi"))
        settle(mailer, ids[name], state, reply)
    return ids


@pytest.mark.parametrize(
    ("filters", "retried", "hard"),
    [
        ({"code": "5", "force": True}, {"unknown", "blocked", "plain"}, 0),
        ({"code": "554"}, {"blocked"}, 0),
        ({"code": "5.7."}, {"blocked"}, 0),
        ({"code": "55"}, {"blocked", "plain"}, 1),
        ({"code": "4"}, set(), 0),
        ({"reason": "POLICY"}, {"blocked"}, 0),
        ({"reason": "no such", "force": True}, {"unknown"}, 0),
        ({"reason": "policy", "code": "552"}, set(), 0),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),  # a set has no order
)
def test_retry_filters(
    mailer: Mailer, failures: dict[str, str], filters: dict[str, object], retried: set[str], hard: int
) -> None:
    rehearsed = mailer.retry(dry_run=True, **filters)
    assert mailer.status(failures["plain"]).state is State.FAILED
    report = mailer.retry(**filters)
    assert rehearsed == report
    assert (report.retried, report.hard_bounces, report.bodiless) == (len(retried), hard, 0)
    assert {name for name, id in failures.items() if mailer.status(id).state is State.QUEUED} == retried


def test_what_was_resent_out_of_doubt_and_then_failed_needs_force(mailer: Mailer) -> None:
    id = mailer.send(Message(to="ann@example.com", text="hi", priority="urgent"))
    settle(mailer, id, State.IN_DOUBT, "lost behind the dot")  # urgent mail is resent
    settle(mailer, id, State.FAILED, "550 no")
    for asked in ({"code": "550"}, {"reason": "no", "dry_run": True}):
        report = mailer.retry(**asked)
        assert (report.retried, report.doubtful) == (0, 1)
    assert mailer.retry(id).doubtful == 1
    assert mailer.status(id).state is State.FAILED
    report = mailer.retry(id, force=True)
    assert (report.retried, report.doubtful) == (1, 0)


@pytest.mark.parametrize("force", [False, True])
def test_a_retry_leaves_alone_who_is_on_the_suppression_list(
    mailer: Mailer, failures: dict[str, str], force: bool
) -> None:
    mailer.suppressions.add("Plain@example.com", "deferred@example.com", "unknown@example.com")
    for dry_run in (True, False):
        report = mailer.retry(*failures.values(), force=force, dry_run=dry_run)
        assert (report.retried, report.suppressed, report.hard_bounces) == (1, 3, 0)
    states = {name: mailer.status(id).state for name, id in failures.items()}
    assert states == {
        "unknown": State.FAILED,
        "blocked": State.QUEUED,
        "plain": State.FAILED,
        "deferred": State.DEFERRED,
    }
    mailer.suppressions.remove("plain@example.com")
    assert mailer.retry(failures["plain"]).retried == 1


def test_who_was_suppressed_for_a_hard_bounce_needs_no_force_once_off_the_list(
    mailer: Mailer, failures: dict[str, str]
) -> None:
    mailer.retry(failures["unknown"], force=True)
    mailer.suppressions.add("unknown@example.com")
    claim = claimed(mailer, failures["unknown"])
    assert claim.window == ()
    mailer.ledger.release(claim, "a worker", [])
    mailer.suppressions.remove("unknown@example.com")
    assert mailer.status(failures["unknown"]).state is State.SUPPRESSED
    assert mailer.retry(failures["unknown"]).retried == 1


def test_a_batch_that_was_set_aside_comes_back_with_who_is_on_the_list(mailer: Mailer) -> None:
    id = mailer.send(Message(to="ann@example.com", text="hi"))
    claim = claimed(mailer, id)
    mailer.ledger.set_aside(claim, "a worker", [0], ValueError("damaged"))
    mailer.suppressions.add("ann@example.com")
    assert [it.id for it in mailer.aside()] == [id]
    assert mailer.retry(id).retried == 1
    assert mailer.aside() == []


def test_a_hard_bounce_needs_force_by_id_too(mailer: Mailer, failures: dict[str, str]) -> None:
    assert mailer.retry(failures["unknown"]).hard_bounces == 1
    assert mailer.status(failures["unknown"]).state is State.FAILED
    assert mailer.retry(failures["unknown"], force=True).retried == 1
    assert mailer.status(failures["unknown"]).state is State.QUEUED


@pytest.mark.parametrize(
    ("filters", "retried"),
    [
        ({"domain": "Example.COM"}, {"plain", "spring"}),
        ({"domain": "bücher.example"}, {"abroad"}),
        ({"domain": "le.com"}, set()),
        ({"tag": "spring"}, {"spring", "abroad"}),
        ({"tag": "Spring"}, set()),
        ({"tag": "spring", "domain": "example.com"}, {"spring"}),
        ({"tag": "spring", "code": "552"}, {"abroad"}),
        ({"domain": "example.com", "reason": "quota"}, set()),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_retry_of_a_domain_or_a_tag(mailer: Mailer, filters: dict[str, str], retried: set[str]) -> None:
    names = {"plain": ("example.com", ()), "spring": ("example.com", ("spring",))}
    names["abroad"] = ("xn--bcher-kva.example", ("spring", "sale"))
    ids = {}
    for name, (domain, tags) in names.items():
        ids[name] = mailer.send(Message(to=f"{name}@{domain}", text="hi", tags=tags))
        settle(mailer, ids[name], State.FAILED, "552 full" if name == "abroad" else "554 blocked")
    assert mailer.retry(dry_run=True, **filters).retried == len(retried)
    assert mailer.retry(**filters).retried == len(retried)
    assert {name for name, id in ids.items() if mailer.status(id).state is State.QUEUED} == retried
    assert mailer.retry(**filters) == RetryReport()


def test_a_tag_of_one_message_of_a_batch_means_that_message(mailer: Mailer) -> None:
    ids = mailer.send_many([ann(), ann(tags=["spring"], cc="bob@example.org"), ann()])
    for first in range(0, 3, 2):
        with contextlib.suppress(AssertionError):
            settle(mailer, ids[first], State.FAILED, "554 blocked")
    assert mailer.retry(*ids, tag="spring", domain="example.org").retried == 1
    assert mailer.retry(tag="spring").retried == 1
    assert [mailer.status(id).state for id in ids] == [State.FAILED, State.QUEUED, State.FAILED]


def test_retry_of_what_is_no_domain(mailer: Mailer) -> None:
    with pytest.raises(AddressError):
        mailer.retry(domain="exa mple")


def test_retry_by_id_hurries_what_is_deferred(mailer: Mailer, failures: dict[str, str]) -> None:
    before = mailer.queue()[1].due
    assert mailer.retry(failures["deferred"], failures["plain"]).retried == 2
    assert mailer.status(failures["deferred"]).state is State.QUEUED
    assert mailer.queue()[1].due == before + 2


def test_retry_brings_back_what_was_cancelled(mailer: Mailer) -> None:
    id = mailer.send(ann())
    mailer.cancel(id)
    assert mailer.retry(id).retried == 1
    assert mailer.status(id).state is State.QUEUED


def set_aside(mailer: Mailer, id: str) -> None:
    """As three workers that died while they had its batch leave it."""
    batch = id.partition(".")[0]
    mailer.redis.hset(mailer.ledger.keys.batch(batch)[0], "z", 3)
    assert isinstance(mailer.ledger.claim(batch, "w"), Released)


def test_several_messages_of_a_batch_that_was_set_aside_are_counted(mailer: Mailer) -> None:
    ids = mailer.send_many([ann(), ann(), ann(cc="bob@example.com"), ann()])
    set_aside(mailer, ids[0])
    [batch] = mailer.aside()
    assert (batch.id, batch.priority) == (ids[0], Priority.NORMAL)
    wanted = (ids[0], ids[2], ids[0])  # one of them twice
    assert mailer.retry(*wanted, dry_run=True).retried == 3
    due = mailer.queue()[1].due
    assert mailer.retry(*wanted).retried == 3
    assert mailer.queue()[1].due == due + 1
    assert (mailer.aside(), mailer.queue()[1].waiting) == ([], {})
    assert mailer.retry(*wanted, dry_run=True) == mailer.retry(*wanted) == RetryReport()


def test_one_unknown_id_and_nothing_is_retried(mailer: Mailer, failures: dict[str, str]) -> None:
    with pytest.raises(UnknownMessage):
        mailer.retry(failures["plain"], "0" * 27)
    assert mailer.status(failures["plain"]).state is State.FAILED


def test_what_was_sent_stays_sent(mailer: Mailer) -> None:
    id = mailer.send(ann())
    settle(mailer, id, State.SENT, "250 2.0.0 ok")
    assert mailer.retry(id, force=True).retried == 0
    assert mailer.status(id).reply == "250 2.0.0 ok"


# --- Doubt ---------------------------------------------------------------------------------------


def in_doubt(mailer: Mailer, **more: object) -> str:
    id = mailer.send(ann(priority="bulk", **more))
    settle(mailer, id, State.IN_DOUBT, "lost after the dot")
    return id


def test_what_is_in_doubt_is_listed_for_each_recipient(mailer: Mailer) -> None:
    id = in_doubt(mailer, cc="bob@example.com")
    first, second = mailer.in_doubt()
    status = mailer.status(id)
    assert first == Doubt(
        id=id,
        address="ann@example.com",
        since=status.recipients[0].tried_at,
        relay="mx.example.com:25",
        worker="worker@here",
        reply="lost after the dot",
        resends=0,
        priority=Priority.BULK,
        subject="Your code",
        message_id=status.message_id,
    )
    assert second.address == "bob@example.com"
    assert mailer.queue()[2].in_doubt == mailer.stats().states[State.IN_DOUBT] == 2
    assert mailer.queue()[2].recipients == 0


def test_what_is_resent_is_due_now_and_resends_nothing_twice(mailer: Mailer) -> None:
    ids = [in_doubt(mailer), in_doubt(mailer)]
    due = mailer.queue()[2].due
    assert mailer.resend(ids[0], dry_run=True).retried == 1
    assert mailer.resend(ids[0]).retried == 1
    assert mailer.resend(everything=True).retried == 1
    assert mailer.resend(*ids) == mailer.resend(everything=True) == RetryReport()
    assert mailer.queue()[2].due == due + 2
    assert mailer.stats().tallies["resends"] == 2
    assert list(mailer.in_doubt()) == []


def test_who_resends_at_the_same_time_resends_once(mailer: Mailer) -> None:
    ids = [in_doubt(mailer) for _ in range(10)]
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: mailer.resend(*ids), range(8)))
    assert sum(report.retried for report in reports) == 10


def test_who_resends_late_doesnt_resend_what_is_in_doubt_once_more(
    mailer: Mailer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read before another one's resend, and that has ended in doubt again meanwhile."""
    id, retry = in_doubt(mailer), mailer.ledger.retry

    def late(*args: Any) -> tuple[int, int]:
        monkeypatch.undo()
        assert mailer.resend(id).retried == 1
        settle(mailer, id, State.IN_DOUBT, "lost after the dot")
        return retry(*args)

    monkeypatch.setattr(mailer.ledger, "retry", late)
    assert mailer.resend(id).retried == 0
    assert mailer.status(id).state is State.IN_DOUBT
    assert mailer.resend(id).retried == 1


def test_a_message_of_which_one_recipient_is_in_doubt(mailer: Mailer) -> None:
    id = mailer.send(ann(priority="bulk", cc="bob@example.com"))
    claim = claimed(mailer, id)
    mailer.ledger.release(claim, "w", [Result(0, State.SENT), Result(1, State.IN_DOUBT)])
    assert mailer.settle(id, as_="failed") == 1
    assert [it.state for it in mailer.status(id).recipients] == [State.SENT, State.FAILED]
    assert mailer.settle(id, as_=State.SENT) == 0


def test_doubt_is_settled_as_sent_or_failed_only(mailer: Mailer) -> None:
    id = in_doubt(mailer)
    with pytest.raises(MessageError) as raised:
        mailer.settle(id, as_="queued")
    assert str(raised.value) == "doubt can't be settled as 'queued'; say sent or failed"
    for ask in (mailer.resend, functools.partial(mailer.settle, as_="sent")):
        for wrong in ({}, {"everything": True}):
            with pytest.raises(MessageError, match="which mail in doubt"):
                ask(*([id] if wrong else []), **wrong)
        with pytest.raises(UnknownMessage):
            ask(id, "0" * 27)
    assert mailer.status(id).state is State.IN_DOUBT


# --- Pause ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "parked"), [("all", {"bulk", "normal"}), ("bulk", {"bulk"})])
def test_pause_and_resume(mailer: Mailer, what: str, parked: set[str]) -> None:
    ids = {priority: mailer.send(ann(priority=priority)) for priority in ("bulk", "normal")}
    mailer.pause(what)
    assert list(mailer.paused()) == [what]
    for priority, id in ids.items():
        got = mailer.ledger.claim(id.partition(".")[0], "w")
        assert (isinstance(got, Released) and got.why is Refusal.PAUSED) == (priority in parked)
    during = mailer.send(ann(priority="bulk"))
    [bulk] = (row for row in mailer.queue() if row.priority == "bulk")
    assert (bulk.paused, bulk.waiting) == (True, {"pause": 2})
    assert mailer.resume(what)
    assert mailer.paused() == {}
    assert not mailer.resume(what)
    assert isinstance(mailer.ledger.claim(during.partition(".")[0], "w"), Claim)


# --- Looking ----------------------------------------------------------------------------------------


def test_find_and_failed(mailer: Mailer, failures: dict[str, str]) -> None:
    assert [found.id for found in mailer.find("Plain@example.com")] == [failures["plain"]]
    assert list(mailer.find("nobody@example.com")) == []
    assert {found.id for found in mailer.failed()} == set(failures.values()) - {failures["deferred"]}


def test_several_mailers_in_one_process(settings: Settings, redis_url: str) -> None:
    other = Settings(broker_url=redis_url, default_from="b@example.org", namespace="other")
    with Mailer(settings) as one, Mailer(other) as two, Mailer(settings) as three:
        id = one.send(ann())
        assert three.status(id).message_id.endswith("@example.com>")
        assert two.status(two.send(ann())).message_id.endswith("@example.org>")
        with pytest.raises(UnknownMessage):
            two.status(id)


def test_a_closed_mailer_opens_again(mailer: Mailer) -> None:
    id = mailer.send(ann())
    mailer.close()
    assert mailer.status(id).id == id


# --- Trying again, and ids --------------------------------------------------------------------------


def test_one_key_twice_in_one_call_is_one_mail(mailer: Mailer) -> None:
    keyed = Message(to="ann@example.com", text="1", idempotency_key="order-1")
    first, other, again = mailer.send_many([keyed, ann(), keyed])
    assert first == again != other
    assert mailer.stats().accepted == 2
    assert mailer.send(keyed) == first


def test_one_key_with_other_content_in_one_call_leaves_nothing_accepted(mailer: Mailer) -> None:
    one = Message(to="ann@example.com", text="1", idempotency_key="order-1")
    two = Message(to="ann@example.com", text="2", idempotency_key="order-1")
    with pytest.raises(IdempotencyConflict) as caught:
        mailer.send_many([one, two])
    assert caught.value.ids == ()
    assert mailer.stats().accepted == 0


def test_a_conflict_tells_the_ids_of_what_was_accepted_beside_it(mailer: Mailer) -> None:
    mailer.send(Message(to="ann@example.com", text="1", idempotency_key="order-1"))
    changed = Message(to="ann@example.com", text="2", idempotency_key="order-1")
    with pytest.raises(IdempotencyConflict) as caught:
        mailer.send_many([ann(), changed, ann()])
    first, _, last = caught.value.ids
    assert mailer.status(first).state is mailer.status(last).state is State.QUEUED


def test_the_repeated_hour_in_autumn_is_two_hours(mailer: Mailer) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    summer = datetime(2027, 10, 31, 2, 30, tzinfo=berlin)
    winter = summer.replace(fold=1)
    ids = mailer.send_many(Message(to="ann@example.com", text="", send_at=at) for at in (summer, winter))
    assert [mailer.status(id).send_at.hour for id in ids] == [0, 1]


def test_everything_is_not_retried_by_accident(mailer: Mailer) -> None:
    with pytest.raises(
        MessageError, match=re.escape("retry what? Give ids, a reason, a code, a domain, a tag or a campaign")
    ):
        mailer.retry()


def test_the_queue_while_the_broker_is_away(redis_url: str) -> None:
    settings = Settings(broker_url=f"redis://:secret@127.0.0.1:{free_port()}/0", store_url=redis_url)
    with Mailer(settings) as mailer, pytest.raises(StoreUnavailable) as caught:
        mailer.queue()
    assert "can't be asked (" in str(caught.value)
    assert str(caught.value).endswith("); is it running and reachable?")
    assert "secret" not in str(caught.value)
