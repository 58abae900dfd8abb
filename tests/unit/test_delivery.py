"""Claim, route, talk, settle: one process' delivery against a real Redis and a real relay."""

from __future__ import annotations

import email
import email.policy
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email import message_from_bytes
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import msgspec
import pytest

from mailtasks import delivery
from mailtasks.delivery import Report
from mailtasks.errors import StoreError, StoreUnavailable
from mailtasks.event import Attempt, attempt_listeners
from mailtasks.local.book import Caught
from mailtasks.local.redis import free_port
from mailtasks.message import Attachment, Message, Priority
from mailtasks.packing import pack, places
from mailtasks.pieces import Blob
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.store.blobs import RedisBlobs
from mailtasks.store.ledger import Claim, Refusal, lease_clock
from mailtasks.testing import CatchingServer, LocalRedis, wait_until
from mailtasks.testing.scripted import Script, ScriptedRelay
from tests.bench import Bench
from tests.campaigns import a_campaign, people
from tests.lmtp import LmtpScript, serving


@pytest.fixture
def bench(redis_url: str, sink: CatchingServer) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(redis: str = redis_url, relay: str = sink.url, **values: Any) -> Bench:
        policy = values.pop("policy", RetryPolicy(retry_jitter=False))
        made.append(Bench(redis, relay, policy, **values))
        return made[-1]

    yield make
    for each in made:
        each.close()


Listening: TypeAlias = Callable[..., None]


@pytest.fixture
def listening() -> Iterator[Listening]:
    """Adds listeners to attempts, for as long as the test runs."""
    before = attempt_listeners[:]
    yield lambda *listeners: attempt_listeners.extend(listeners)
    attempt_listeners[:] = before


def accepted_as_it_is(one: Bench, content: bytes) -> str:
    """The id of a message to Ann that is in the ledger with these bytes."""
    message = Message(to="ann@example.com")
    [packed] = pack([message], places([message]), one.settings)
    one.mailer.ledger.accept([msgspec.structs.replace(packed.batch, bodies=(content,))])
    return f"{packed.batch.id}.0"


# --- The story --------------------------------------------------------------------------------------


def test_each_recipient_is_settled_by_name(bench: Callable[..., Bench], sink: CatchingServer) -> None:
    one = bench()
    id = one.send("ann@example.com", "refuse@example.com", "defer@example.com", "bob@example.com")
    report = one.deliver(id)
    assert report.counts == {State.SENT: 2, State.FAILED: 1, State.DEFERRED: 1}
    assert report.ended is Refusal.NOTHING
    assert report.next_attempt == 60
    assert str(report) == "2 sent, 1 failed, 1 deferred (recipient_deferred at rcpt 451 4.3.0)"
    assert sink.messages[0].recipients == ("ann@example.com", "bob@example.com")
    worker = {recipient.worker for recipient in one.mailer.status(id).recipients}
    assert worker == {"w@here"}


def test_listeners_hear_of_attempts_when_the_ledger_knows(
    bench: Callable[..., Bench], listening: Listening
) -> None:
    one = bench()
    id = one.send(
        "ann@example.com", "refuse@example.com", "defer@example.com", tags=["a"], metadata={"b": "c"}
    )
    heard, known = [], []

    def listen(attempts: Sequence[Attempt]) -> None:
        heard.extend(attempts)
        known.extend(recipient.state for recipient in one.mailer.status(id).recipients)

    listening(listen)
    one.deliver(id)
    assert known == [State.SENT, State.FAILED, State.DEFERRED]
    assert [(it.recipient, it.state, it.attempt) for it in heard] == [
        ("ann@example.com", State.SENT, 1),
        ("refuse@example.com", State.FAILED, 1),
        ("defer@example.com", State.DEFERRED, 1),
    ]
    assert {(it.id, it.tags, it.metadata["b"]) for it in heard} == {(id, ("a",), "c")}
    assert heard[1].reply.startswith("550 ")


def test_a_listener_that_fails_harms_nobody(
    bench: Callable[..., Bench], listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    one, heard = bench(), []

    def fail(attempts: Sequence[Attempt]) -> None:
        raise RuntimeError

    listening(fail, heard.extend)
    assert one.deliver(one.send("ann@example.com")).counts == {State.SENT: 1}
    assert len(heard) == 1
    assert "a listener to attempts failed" in caplog.text


def test_listeners_hear_of_doubt_once_an_attempt(bench: Callable[..., Bench], listening: Listening) -> None:
    heard: list[Attempt] = []
    listening(heard.extend)
    one = bench(doubt_normal="resend")
    id = one.send("keep-drop@example.com")
    one.deliver(id)  # and resend, as decided
    assert [(it.state, it.attempt) for it in heard] == [(State.IN_DOUBT, 1), (State.IN_DOUBT, 2)]


# --- The suppression list -----------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_an_address_that_isnt_there_enters_the_suppression_list(
    bench: Callable[..., Bench], masked: bool
) -> None:
    with ScriptedRelay({"RCPT": "550 5.1.1 <Ann@example.com>: no such user"}) as relay:
        one = bench(relay=relay.url, mask_addresses=masked)
        one.deliver(one.send("Ann@example.com"))
        shown = "A***@example.com" if masked else "Ann@example.com"
        entry = one.mailer.suppressions.get("ann@example.com")
        assert entry is not None
        assert (entry.source, entry.reason) == ("bounce", f"550 5.1.1 <{shown}>: no such user")
        again = one.send("ann@example.com")
        assert one.mailer.status(again).state is State.SUPPRESSED
        assert one.mailer.status(again).reply.endswith(f"(bounce): {entry.reason}")


@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        ("MAIL", "550 5.1.1 no such user"),
        ("DATA", "550 5.1.1 no such user"),
        ("DOT", "550 5.1.1 no such user"),
        ("RCPT", "550 5.1.1 <shop@example.com>: Sender address rejected: User unknown"),
        ("RCPT", "550 5.7.1 blocked using zen.spamhaus.org"),
        ("RCPT", "550 not here"),
        ("RCPT", "552 5.2.2 full"),
    ],
)
def test_for_what_says_nothing_of_the_address_nobody_does(
    bench: Callable[..., Bench], stage: str, reply: str
) -> None:
    with ScriptedRelay({stage: reply}) as relay:
        one = bench(relay=relay.url)
        report = one.deliver(one.send("ann@example.com"))
        assert report.counts == {State.FAILED: 1}
        assert len(one.mailer.suppressions) == 0


def test_who_is_on_the_list_by_then_is_not_spoken_of_to_the_relay(
    bench: Callable[..., Bench], sink: CatchingServer
) -> None:
    one = bench()
    ids = one.mailer.send_many([Message(to=[f"a{n}@example.com", f"b{n}@example.com"]) for n in range(10)])
    one.mailer.suppressions.add("a0@example.com", "A7@example.com", "b7@example.com")
    report = one.deliver(ids[0])
    assert report.counts == {State.SENT: 17, State.SUPPRESSED: 1}, "the others were never claimed"
    assert sum(len(message.recipients) for message in sink.messages) == 17
    assert one.mailer.stats().states[State.SUPPRESSED] == 3


def test_if_all_of_a_window_are_on_the_list_no_relay_is_dialled(bench: Callable[..., Bench]) -> None:
    one = bench(relay=f"smtp://127.0.0.1:{free_port()}")
    id = one.send("ann@example.com")
    one.mailer.suppressions.add("ann@example.com")
    report = one.deliver(id)
    assert (report.counts, report.ended) == ({State.SUPPRESSED: 1}, Refusal.NOTHING)
    assert str(report) == "1 suppressed"
    assert one.mailer.events.latest() == []


def test_if_redis_goes_away_before_the_list_is_asked_it_is_asked_again(
    bench: Callable[..., Bench], sink: CatchingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    id = one.send("ann@example.com", "bob@example.com")
    one.mailer.suppressions.add(*(f"{n}@example.com" for n in range(60)), "bob@example.com")
    listed, asked = one.mailer.ledger.listed, []

    def once_away(mailboxes: set[str]) -> set[str]:
        asked.append(mailboxes)
        if len(asked) == 1:
            raise StoreUnavailable("Redis is away")
        return listed(mailboxes)

    monkeypatch.setattr(one.mailer.ledger, "listed", once_away)
    report = one.deliver(id)
    assert report.counts == {State.SENT: 1, State.SUPPRESSED: 1}
    assert len(asked) == 2
    assert [message.recipients for message in sink.messages] == [("ann@example.com",)]


# --- The relay ----------------------------------------------------------------------------------------


def test_what_servers_are_asked_for_is_said_to_the_relay(bench: Callable[..., Bench]) -> None:
    with ScriptedRelay(extensions=("PIPELINING", "DSN")) as relay:
        one = bench(relay=f"smtp://127.0.0.1:{relay.port}")
        id = one.send("ann@example.com", dsn_notify=["failure", "delay"], dsn_return="headers")
        one.deliver(id)
        assert relay.script.commands[1:3] == [
            f"MAIL FROM:<shop@example.com> RET=HDRS ENVID={id}",
            "RCPT TO:<ann@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;ann@example.com",
        ]


def test_lmtp_settles_each_recipient_by_its_own_answer(bench: Callable[..., Bench], tmp_path: Path) -> None:
    script = LmtpScript(deliveries=["250 2.1.5 stored", "450 4.2.1 later", "550 5.2.1 disabled"])
    with serving(tmp_path / "lmtp", script):
        one = bench(relay=f"lmtp://{tmp_path}/lmtp")
        id = one.send("ann@example.com", "bob@example.com", "cy@example.com")
        report = one.deliver(id)
        one.delivery.route.pool.close()
    assert report.counts == {State.SENT: 1, State.DEFERRED: 1, State.FAILED: 1}
    recipients = one.mailer.status(id).recipients
    assert [it.reply for it in recipients] == ["250 2.1.5 stored", "450 4.2.1 later", "550 5.2.1 disabled"]
    assert recipients[0].relay == f"{tmp_path}/lmtp"


EIGHT_BIT = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n"


@pytest.mark.parametrize(("offered", "ascii"), [("8BITMIME", False), ("PIPELINING", True)])
def test_a_relay_without_8bitmime_gets_ascii(bench: Callable[..., Bench], offered: str, ascii: bool) -> None:
    with ScriptedRelay(extensions=(offered,)) as relay:
        one = bench(relay=f"smtp://127.0.0.1:{relay.port}")
        report = one.deliver(accepted_as_it_is(one, EIGHT_BIT.encode()))
    assert report.counts == {State.SENT: 1}
    [content] = relay.script.messages
    assert content.isascii() is ascii
    assert relay.script.commands[1].endswith(" BODY=8BITMIME") is not ascii
    text = message_from_bytes(content).get_payload(decode=True)
    assert text.decode().splitlines() == ["Grüße"]


def test_a_relay_that_does_not_bear_pipelining_costs_no_mail_and_is_told_of_once(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedRelay() as relay:
        relay.script = OneAtATime()
        one = bench(relay=f"smtp://127.0.0.1:{relay.port}")
        ids = [one.send(f"r{number}@example.com") for number in range(6)]
        for id in ids:
            one.deliver(id)
        told = [one.mailer.status(id).recipients[0] for id in ids]
    assert [(it.state, it.attempts) for it in told] == [(State.SENT, 1)] * 6
    assert one.delivery.route.pool.stats()["stepwise"] == 1
    [(_, event)] = one.mailer.events.latest()
    assert (event.relay, event.domain, event.case) == (one.delivery.route.relay, "", "pipelining_not_borne")
    assert event.reply == "mail: 503 5.5.1 one at a time"
    [logged] = [record.getMessage() for record in caplog.records if "PIPELINING" in record.getMessage()]
    assert logged == (
        f"the relay {event.relay} offers PIPELINING and doesn't bear it (mail: 503 5.5.1 one at a time); for "
        "60 minutes it is spoken to step by step, which takes four or five round trips a message instead of "
        "one"
    )


def test_a_relay_that_leaves_a_flight_of_bodies_in_doubt_gets_no_other_and_is_told_of(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    offered = ("PIPELINING", "CHUNKING")
    with ScriptedRelay({"BDAT": ["250 ok", "what?"]}, offered) as relay:
        one = bench(relay=f"{relay.url}?chunking=yes", doubt_normal="hold", window_normal=8)
        ids = one.mailer.send_many([Message(to=f"{n}@example.com", text="hi") for n in range(2)])
        one.deliver(ids[0])
        later = one.send("later@example.com")
        one.deliver(later)
        states = [one.state(id) for id in [*ids, later]]
    assert states == [State.IN_DOUBT, State.IN_DOUBT, State.SENT]
    assert [line for line in relay.script.commands if line.startswith(("BDAT", "DATA"))][2:] == ["DATA"]
    [(_, event)] = one.mailer.events.latest()
    assert (event.case, event.action) == ("chunking_not_borne", "by DATA")
    assert event.reply == "dot: not a reply: 'what?'"
    [logged] = [record.getMessage() for record in caplog.records if "CHUNKING" in record.getMessage()]
    assert logged == (
        f"the relay {event.relay} offers CHUNKING and doesn't bear it (dot: not a reply: "
        "'what?'); this process sends by DATA from now on: take chunking=yes out of the relay's URL"
    )


class OneAtATime(Script):
    """Offers PIPELINING, and refuses what comes in one piece."""

    def feed(self, data: bytes) -> list[str]:
        lines = data.count(b"\r\n")
        at_once = lines > 1 and data.startswith(b"MAIL")
        return ["503 5.5.1 one at a time"] * lines if at_once else super().feed(data)


def test_tls_that_the_relay_does_not_promise_is_a_failure_before_sending(bench: Callable[..., Bench]) -> None:
    with ScriptedRelay(extensions=("PIPELINING", "REQUIRETLS")) as relay:
        one = bench(relay=f"smtp://127.0.0.1:{relay.port}")
        id = one.send("ann@example.com", require_tls=True)
        report = one.deliver(id)
        assert str(report) == "1 failed (tls_unsupported at mail)"
        assert relay.script.commands == ["EHLO " + relay.script.commands[0][5:]]
    assert one.mailer.status(id).recipients[0].reply == (
        "mail: 5.7.30 the message requires TLS all the way, and the relay offers no REQUIRETLS"
    )


@pytest.mark.parametrize("order", [("defer", "refuse", "ann"), ("refuse", "defer", "ann")])
def test_the_reason_for_a_retry_is_that_of_a_deferred_recipient(
    bench: Callable[..., Bench], order: tuple[str, ...]
) -> None:
    one = bench()
    report = one.deliver(one.send(*(f"{name}@example.com" for name in order)))
    assert report.next_attempt == 60
    assert str(report).endswith(" (recipient_deferred at rcpt 451 4.3.0)")


def test_a_batch_goes_window_by_window_over_one_connection(
    bench: Callable[..., Bench], sink: CatchingServer
) -> None:
    one = bench()
    ids = one.mailer.send_many([Message(to=f"{n}@example.com", text="hi") for n in range(50)])
    assert one.deliver(ids[0]).counts == {State.SENT: 50}
    assert [message.recipients[0] for message in sink.messages] == [f"{n}@example.com" for n in range(50)]
    assert sink.connections == 1


def test_what_is_finished_gone_or_taken_is_left_alone(bench: Callable[..., Bench]) -> None:
    one = bench()
    id = one.send("ann@example.com")
    one.deliver(id)
    assert (one.deliver(id).ended, str(one.deliver(id))) == (Refusal.NOTHING, "nothing sent (nothing)")
    assert one.delivery.deliver("0" * 27, Priority.NORMAL).ended is Refusal.GONE
    other = one.send("bob@example.com")
    one.mailer.ledger.claim(other.partition(".")[0], "somebody else")
    assert one.deliver(other).ended is Refusal.TAKEN
    one.mailer.pause()
    assert one.deliver(one.send("eve@example.com")).ended is Refusal.PAUSED


def test_what_is_set_aside_is_said(bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    one = bench()
    id = one.send("ann@example.com")
    batch = id.partition(".")[0]
    one.mailer.redis.hset(one.mailer.ledger.keys.batch(batch)[0], "z", 3)
    assert one.deliver(id).ended is Refusal.ASIDE
    [error] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert error == (
        f"batch {batch} is set aside, until somebody retries its messages: "
        "its last claims lapsed one after the other"
    )


def test_a_slice_ends_and_the_rest_is_hinted(bench: Callable[..., Bench]) -> None:
    one = bench(slice=0.3)
    ids = one.mailer.send_many([Message(to=f"slow{n}@example.com", text="hi") for n in range(9)])
    before = one.hints()
    assert one.deliver(ids[0]).counts == {State.SENT: 4}
    assert one.hints() == before + 1
    assert one.state(ids[5]) is State.QUEUED


def test_a_report_holds_nothing_private(bench: Callable[..., Bench]) -> None:
    one = bench()
    assert "example" not in str(one.deliver(one.send("refuse@example.com")))


# --- Attachments that are stored apart --------------------------------------------------------------


def attached(name: str, size: int = 2000) -> Attachment:
    return Attachment(filename=name, content=os.urandom(size))


def files_of(caught: Caught) -> list[bytes]:
    parsed = email.message_from_bytes(caught.content, policy=email.policy.default)
    return [part.get_content() for part in parsed.iter_attachments()]


APART = {"blob_threshold": 1000, "window_normal": 4}


def test_an_attachment_arrives_as_it_was_and_is_fetched_once(
    bench: Callable[..., Bench], sink: CatchingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, file, small = bench(**APART), attached("a.pdf"), attached("b.pdf", 10)
    ids = one.mailer.send_many(
        [Message(to=f"r{n}@example.com", text=".dot", attachments=[file, small]) for n in range(9)]
    )
    fetched: list[str] = []
    read = RedisBlobs.read
    monkeypatch.setattr(RedisBlobs, "read", lambda self, name: fetched.append(name) or read(self, name))
    assert one.deliver(ids[0]).counts == {State.SENT: 9}
    assert [files_of(message) for message in sink.messages] == [[file.content, small.content]] * 9
    assert len(fetched) == 1


def test_8_bit_beside_an_attachment_apart_is_encoded_for_a_relay_without_8bitmime(
    bench: Callable[..., Bench],
) -> None:
    """Only then are the pieces joined; what `email` reads is what was attached."""
    file = attached("a.pdf", 70_000)
    forwarded = "From: a@b.example\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGrüße\r\n".encode()
    letter = Attachment(filename="a.eml", content=forwarded, content_type="message/rfc822")
    for offered, body in ((("8BITMIME",), "Grüße\r\n".encode()), ((), b"Gr=C3=BC=C3=9Fe\r\n")):
        with ScriptedRelay(extensions=offered) as relay:
            one = bench(relay=relay.url, **APART)
            id = one.send("ann@example.com", attachments=[letter, file])
            assert one.deliver(id).counts == {State.SENT: 1}
            [sent] = relay.script.messages
        assert body in sent
        parsed = email.message_from_bytes(sent, policy=email.policy.default)
        _, told, there = list(parsed.iter_parts())
        assert told.get_content().get_content().splitlines() == ["Grüße"]
        assert there.get_content() == file.content


def test_a_message_whose_attachment_is_gone_fails_and_its_neighbours_go_on(
    bench: Callable[..., Bench], sink: CatchingServer, tmp_path: Path
) -> None:
    one, lost, kept = bench(blobs=f"file://{tmp_path}", **APART), attached("lost.pdf"), attached("kept.pdf")
    ids = one.mailer.send_many(
        [
            Message(to=["ann@example.com", "bob@example.com"], text="hi", attachments=[lost]),
            Message(to="cy@example.com", text="hi", attachments=[kept]),
            Message(to="di@example.com", text="hi"),
        ]
    )
    path = next(tmp_path.rglob(f"{lost.digest[:64]}*"))
    path.rename(tmp_path / "aside")
    report = one.deliver(ids[0])
    assert report.counts == {State.FAILED: 2, State.SENT: 2}
    assert "lost.pdf" not in str(report)
    sentence = f"content: the attachment 'lost.pdf' isn't in the folder {tmp_path} any more"
    assert {it.reply for it in one.mailer.status(ids[0]).recipients} == {sentence}
    assert [message.id for message in one.mailer.failed()] == [ids[0]]
    assert [message.reply for message in one.mailer.find("bob@example.com")] == [sentence]
    (tmp_path / "aside").rename(path)
    assert one.mailer.retry(ids[0]).retried == 2
    assert one.deliver(ids[0]).counts == {State.SENT: 2}
    assert [files_of(message) for message in sink.messages] == [[kept.content], [], [lost.content]]


def test_while_the_store_is_away_mail_waits_free_and_its_neighbours_go_on(
    bench: Callable[..., Bench], sink: CatchingServer, tmp_path: Path
) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    one, file = bench(blobs=f"file://{folder}", **APART), attached("a.pdf")
    ids = one.mailer.send_many(
        [
            Message(to="ann@example.com", text="hi", attachments=[file]),
            Message(to="bob@example.com", text="hi"),
        ]
    )
    folder.rename(tmp_path / "elsewhere")
    report = one.deliver(ids[0])
    assert report.counts == {State.DEFERRED: 1, State.SENT: 1}
    [recipient] = one.mailer.status(ids[0]).recipients
    assert (recipient.attempts, recipient.reply) == (
        0,
        f"content: the folder {folder} can't be read (No such file or directory); is it mounted?",
    )
    assert {event.case for _, event in one.mailer.events.latest()} <= {"sent"}
    (tmp_path / "elsewhere").rename(folder)
    one.mailer.retry(ids[0])
    assert one.deliver(ids[0]).counts == {State.SENT: 1}
    assert files_of(sink.messages[-1]) == [file.content]


def test_a_window_holds_no_more_than_it_may_and_the_rest_comes_next(
    bench: Callable[..., Bench], sink: CatchingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench(blob_memory=7000, **APART)
    files = [attached(f"{n}.pdf") for n in range(6)]
    ids = one.mailer.send_many(
        [Message(to=f"r{n}@example.com", text="hi", attachments=[file]) for n, file in enumerate(files)]
    )
    largest: list[int] = []
    lend = one.delivery.blob_cache.lend

    @contextmanager
    def watched(*given: Any) -> Iterator[Any]:
        with lend(*given) as lent:
            largest.append(one.delivery.blob_cache.size)
            yield lent

    monkeypatch.setattr(one.delivery.blob_cache, "lend", watched)
    report = one.deliver(ids[0])
    assert report.counts[State.SENT] == 6
    assert [files_of(message) for message in sink.messages] == [[file.content] for file in files]
    assert max(largest) <= 7000
    assert [one.mailer.status(id).recipients[0].attempts for id in ids] == [1] * 6


def test_a_message_that_is_larger_than_all_the_memory_is_sent_alone(
    bench: Callable[..., Bench], sink: CatchingServer
) -> None:
    one = bench(blob_memory=0, **APART)
    two = [attached("a.pdf"), attached("b.pdf")]
    ids = one.mailer.send_many(
        [Message(to=f"r{n}@example.com", text="hi", attachments=two) for n in range(3)]
    )
    assert one.deliver(ids[0]).counts[State.SENT] == 3
    assert one.delivery.blob_cache.size == 0


def test_while_others_have_all_the_memory_mail_is_given_back_and_what_needs_none_goes(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_WAIT_FOR_ROOM", 0.05)
    one, other = bench(blob_memory=0, slice=0.01, **APART), Blob("d" * 64, 10, "other.pdf")
    monkeypatch.setattr(one.delivery.blob_cache, "_fetch", lambda blob: (b"other",))
    ids = one.mailer.send_many(
        [
            Message(to="ann@example.com", text="hi", attachments=[attached("a.pdf")]),
            Message(to="bob@example.com", text="hi"),
        ]
    )
    with one.delivery.blob_cache.lend([other], 0):
        report = one.deliver(ids[0])
    assert report.counts == {State.QUEUED: 1, State.SENT: 1}
    assert [one.state(id) for id in ids] == [State.QUEUED, State.SENT]


# --- The relay --------------------------------------------------------------------------------------


def test_one_failed_connection_spares_the_relay_for_a_while(bench: Callable[..., Bench]) -> None:
    one = bench(relay=f"smtp://127.0.0.1:{free_port()}")
    first, second = one.send("ann@example.com"), one.send("bob@example.com")
    assert one.deliver(first).counts == {State.DEFERRED: 1}
    tries = one.delivery.route.pool.stats()["failed"]
    assert one.deliver(second).counts == {State.DEFERRED: 1}
    assert one.delivery.route.pool.stats()["failed"] == tries == 1
    assert one.mailer.status(second).attempts == 0
    assert "refused" in one.mailer.status(second).reply


def test_of_two_mails_with_a_refused_login_one_is_an_attempt(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    """The other says why as well, and neither costs its recipient an attempt."""
    caplog.set_level(logging.INFO, "mailtasks.attempts")
    replies = {"AUTH": "535 5.7.8 who are you?"}
    with ScriptedRelay(replies, extensions=["AUTH PLAIN"]) as relay:
        one = bench(relay=f"smtp://ann:wrong@127.0.0.1:{relay.port}", policy=RetryPolicy(max_retries=0))
        ids = [one.send("ann@example.com"), one.send("bob@example.org")]
        reports = [one.deliver(id) for id in ids]
        assert relay.connections == 1
    for id, report in zip(ids, reports, strict=True):
        assert str(report) == "1 deferred (login_refused at auth 535 5.7.8)"
        status = one.mailer.status(id)
        assert (status.state, status.attempts) == (State.DEFERRED, 0)
        assert status.reply == "535 5.7.8 who are you?"
    [line] = [each.getMessage() for each in caplog.records if each.name == "mailtasks.attempts"]
    assert line.startswith(f"id={ids[0]} to=ann@example.com")
    [(_, event)] = one.mailer.events.latest()
    assert (event.case, event.domain, event.action) == ("login_refused", "example.com", "suspend, alert")


@pytest.mark.parametrize(
    ("replies", "command", "case", "sentence"),
    [
        ({}, "exit 3", "login_refused", "auth: the token command failed with exit status 3"),
        ({}, "sleep 9", "unreachable", "auth: the token command hadn't ended after 0.3 s and was killed"),
        (
            {"AUTH": "334 eyJzdGF0dXMiOiI0MDEifQ==", "ANSWER": "535 5.7.8 no"},
            "echo hunter2-token",
            "login_refused",
            "535 5.7.8 no (status 401)",
        ),
        (
            {"AUTH": "500 5.5.1 AUTH XOAUTH2 dXNlcj1hbm4BYXV0aD1CZWFyZXIgaHVudGVyMi10b2tlbgEB ?"},
            "echo hunter2-token",
            "login_refused",
            "500 5.5.1 AUTH XOAUTH2 *** ?",
        ),
    ],
)
def test_without_a_token_that_is_good_the_mail_waits_and_no_secret_is_told(
    bench: Callable[..., Bench],
    caplog: pytest.LogCaptureFixture,
    replies: dict[str, str],
    command: str,
    case: str,
    sentence: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    with ScriptedRelay(replies, extensions=["AUTH XOAUTH2"]) as relay:
        words = quote(f"sh -c '{command} #hunter2'")
        url = f"smtp://ann@127.0.0.1:{relay.port}?token_timeout=0.3&token_command={words}"
        one = bench(relay=url, policy=RetryPolicy(max_retries=0))
        id = one.send("ann@example.com")
        report = one.deliver(id)
    status = one.mailer.status(id)
    assert (status.state, status.attempts, status.reply) == (State.DEFERRED, 0, sentence)
    [(_, event)] = one.mailer.events.latest()
    assert event.case == case
    told = f"{report} {status!r} {event!r} {one.settings!r} {one.delivery.route.pool.relay!r} {caplog.text}"
    assert "hunter2" not in told
    assert "dXNlcj1h" not in told


def test_what_a_relay_should_be_spared_is_recorded(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.deliver(one.send("defer-once@example.com", "ann@example.com", "spam@example.org"))
    events = {(event.case, event.domain, event.action) for _, event in one.mailer.events.latest()}
    assert events == {
        ("policy_deferred", "example.com", "slow down"),
        ("policy_refused", "example.com", "suspend, alert"),
        ("policy_refused", "example.org", "suspend, alert"),
    }


def test_lost_after_the_dot_is_doubt_and_before_it_is_none(bench: Callable[..., Bench]) -> None:
    one = bench(doubt_normal="hold")
    doubtful = one.send("keep-drop@example.com")
    assert one.deliver(doubtful).counts == {State.IN_DOUBT: 1}
    busy = one.send("busy@example.com")
    assert one.deliver(busy).counts == {State.DEFERRED: 1}
    assert one.state(doubtful) is State.IN_DOUBT


def test_a_message_that_the_relay_cant_take_fails_before_it_is_sent(
    redis_url: str, bench: Callable[..., Bench]
) -> None:
    with CatchingServer(extensions=["PIPELINING", "SIZE 500"]) as small:
        one = bench(relay=small.url)
        large = one.send("ann@example.com", headers={"X-Filler": "x" * 600})
        umlaut = one.send("jürgen@example.com")
        assert one.deliver(large).counts == one.deliver(umlaut).counts == {State.FAILED: 1}
        assert "relay takes 500 (SIZE)" in one.mailer.status(large).reply
        assert "offers no SMTPUTF8" in one.mailer.status(umlaut).reply
        assert small.messages == []


def test_no_starttls_is_no_bounce(bench: Callable[..., Bench], sink: CatchingServer) -> None:
    """The relay's fault: the mail waits, in no case does it go in plain text."""
    one = bench(relay=f"{sink.url}?tls=required")
    id = one.send("ann@example.com")
    assert one.deliver(id).counts == {State.DEFERRED: 1}
    assert "offers no STARTTLS" in one.mailer.status(id).reply
    assert (one.mailer.status(id).attempts, sink.messages) == (0, [])


# --- Stopping ---------------------------------------------------------------------------------------


def test_while_stopping_no_dot_is_begun(bench: Callable[..., Bench], sink: CatchingServer) -> None:
    one = bench()
    id = one.send("ann@example.com", "bob@example.com")
    one.delivery.stopping.set()
    assert one.deliver(id).ended is Refusal.STOPPING
    assert one.state(id) is State.QUEUED
    assert sink.messages == []
    assert one.hints() == 2


def test_stopping_in_the_middle_finishes_the_dot_and_gives_the_rest_back(
    bench: Callable[..., Bench], sink: CatchingServer
) -> None:
    one = bench(window_normal=8)
    ids = one.mailer.send_many([Message(to=f"slow{n}@example.com", text="hi") for n in range(8)])
    delivering = threading.Thread(target=one.deliver, args=[ids[0]])
    delivering.start()
    sink.wait_for(2)
    began = time.monotonic()
    one.delivery.stopping.set()
    delivering.join(10)
    assert time.monotonic() - began < 2
    states = [one.state(id) for id in ids]
    assert set(states) == {State.SENT, State.QUEUED}
    assert states.count(State.SENT) == len(sink.messages) < 8


# --- Redis ------------------------------------------------------------------------------------------


def test_without_redis_nothing_is_claimed(bench: Callable[..., Bench]) -> None:
    one = bench(redis=f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(StoreUnavailable):
        one.delivery.deliver("0" * 27, Priority.NORMAL)


@contextmanager
def delivering(one: Bench, id: str, sink: CatchingServer) -> Iterator[list[Report]]:
    """Until the relay has the mail of a slow recipient, and is about to say so; then to the end."""
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(one.deliver(id)))
    thread.start()
    wait_until(lambda: sink.open_connections)
    wait_until(lambda: one.state(id) is State.SENDING)
    yield reports
    thread.join(20)
    assert not thread.is_alive()


def test_what_was_sent_is_recorded_when_redis_is_back(
    bench: Callable[..., Bench], own_redis: LocalRedis, sink: CatchingServer, caplog: pytest.LogCaptureFixture
) -> None:
    one = bench(redis=own_redis.url)
    id = one.send("slow@example.com")
    with delivering(one, id, sink) as reports:
        own_redis.kill()
        wait_until(lambda: "the ledger can't be told of batch" in caplog.text)
        own_redis.start()
    assert reports[0].counts == {State.SENT: 1}
    assert one.state(id) is State.SENT
    assert one.mailer.stats().tallies["doubts"] == 0


def test_a_stopping_process_gives_up_recording_some_day(
    bench: Callable[..., Bench],
    own_redis: LocalRedis,
    sink: CatchingServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mailtasks.delivery._RECORD_IN_VAIN", 0.2)
    one = bench(redis=own_redis.url)
    id = one.send("slow@example.com")
    errors: list[BaseException] = []

    def run() -> None:
        try:
            one.deliver(id)
        except StoreUnavailable as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: one.state(id) is State.SENDING)
    own_redis.kill()
    one.delivery.stopping.set()
    thread.join(15)
    assert len(errors) == 1
    [critical] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert critical.getMessage().startswith(
        f"the ledger could not be told of batch {id.partition('.')[0]}: Redis at"
    )


def test_a_redis_that_is_full_still_takes_results(
    bench: Callable[..., Bench], own_redis: LocalRedis, sink: CatchingServer
) -> None:
    one = bench(redis=own_redis.url)
    id = one.send("slow@example.com")
    with own_redis.client() as client, delivering(one, id, sink) as reports:
        client.config_set("maxmemory", 1)
    assert reports[0].counts == {State.SENT: 1}
    assert one.state(id) is State.SENT


def test_a_lost_lease_leaves_the_unsent_to_others(bench: Callable[..., Bench], sink: CatchingServer) -> None:
    """Late evidence settles what was sent; what wasn't begun is the new owner's."""
    one = bench(window_normal=1)
    ids = one.mailer.send_many([Message(to=f"slow{n}@example.com", text="hi") for n in range(3)])
    with delivering(one, ids[0], sink) as reports:
        one.mailer.redis.hset(one.mailer.ledger.keys.batch(ids[0].partition(".")[0])[0], "t", "another's")
    assert reports[0].ended is Refusal.LOST
    assert len(sink.messages) == 1


def half_a_lease_and(seconds: float) -> Callable[[Claim], None]:
    def set_end(claim: Claim) -> None:
        claim.lease_ends = lease_clock() + Settings().lease / 2 + seconds

    return set_end


def lose(claim: Claim) -> None:
    claim.lost = True


@pytest.mark.parametrize(
    ("change", "sent"),
    [(lose, {1, 2}), (half_a_lease_and(-0.5), {1, 2}), (half_a_lease_and(20), {4})],
    ids=["lost", "less than half", "more than half"],
)
def test_no_dot_is_begun_under_a_lease_that_may_not_last(
    bench: Callable[..., Bench], sink: CatchingServer, change: Callable[[Claim], None], sent: set[int]
) -> None:
    """What was begun is finished, the rest of the window is given back."""
    one = bench(window_normal=4, slice=0.1)
    ids = one.mailer.send_many([Message(to=f"slow{n}@example.com", text="hi") for n in range(4)])
    with delivering(one, ids[0], sink) as reports:
        sink.wait_for(1)
        [claim] = one.keeper._claims.values()
        change(claim)
    begun = len(sink.messages)
    assert begun in sent
    assert [one.state(id) for id in ids] == [State.SENT] * begun + [State.QUEUED] * (4 - begun)
    assert reports[0].ended is Refusal.NOTHING
    assert one.mailer.stats().tallies["doubts"] == 0


def test_a_redis_that_hangs_while_batches_are_claimed_leaves_nothing_in_doubt(
    bench: Callable[..., Bench], own_redis: LocalRedis, sink: CatchingServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It carries out what it was asked before as soon as it goes on, whoever has given up waiting."""
    one = bench(redis=own_redis.url, doubt_bulk="hold")
    ids = [one.send(f"{n}@example.com", priority="bulk") for n in range(4)]
    batches = [id.partition(".")[0] for id in ids]
    connect(one, len(batches))
    with ThreadPoolExecutor(len(batches)) as threads:
        os.kill(own_redis.pid, signal.SIGSTOP)
        try:
            reports = [threads.submit(one.delivery.deliver, batch, Priority.BULK) for batch in batches]
            wait_until(lambda: all(caplog.text.count(f"told of batch {batch}") > 1 for batch in batches))
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)
    assert [report.result().counts for report in reports] == [{State.SENT: 1}] * 4
    assert [one.state(id) for id in ids] == [State.SENT] * 4
    assert len(sink.messages) == 4
    tallies = one.mailer.stats().tallies
    assert (tallies["doubts"], tallies["lapses"], tallies["duplicates"]) == (0, 0, 0)


def test_a_batch_that_a_stopping_process_gives_back_untried_is_hinted(
    bench: Callable[..., Bench], own_redis: LocalRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis hung while it was claimed, and the process began to stop meanwhile."""
    one = bench(redis=own_redis.url)
    id = one.send("ann@example.com")
    batch, before = id.partition(".")[0], one.hints()
    with ThreadPoolExecutor(1) as threads:
        os.kill(own_redis.pid, signal.SIGSTOP)
        try:
            report = threads.submit(one.delivery.deliver, batch, Priority.NORMAL)
            wait_until(lambda: f"told of batch {batch}" in caplog.text)
            one.delivery.stopping.set()
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)
    assert report.result().counts == {}
    assert (one.state(id), one.hints()) == (State.QUEUED, before + 1)


def connect(one: Bench, number: int) -> None:
    """Open so many connections to Redis: what goes out over these, it may carry out later."""
    pool = one.mailer.redis.connection_pool
    for connection in [pool.get_connection() for _ in range(number)]:
        pool.release(connection)


def test_a_record_that_a_hand_has_changed_puts_no_neighbour_in_doubt(
    bench: Callable[..., Bench], sink: CatchingServer
) -> None:
    one = bench()
    ids = one.mailer.send_many([Message(to=f"{n}@example.com", text="hi") for n in range(3)])
    batch = ids[0].partition(".")[0]
    key = one.mailer.ledger.keys.batch(batch)[0]
    sound = one.mailer.redis.hget(key, "r")
    one.mailer.redis.hset(key, "r", sound.replace(b"1@example.com", b""))
    with pytest.raises(StoreError) as raised:
        one.deliver(ids[0])
    assert str(raised.value) == (
        f"batch {batch} can't be read "
        '(AddressError("a recipient\'s address is empty; only the sender may be")), '
        f"so it is set aside; mend the fields of {key}, then retry its messages"
    )
    assert [one.state(id) for id in ids] == [State.QUEUED] * 3
    assert one.mailer.queue()[1].waiting == {"aside": 1}
    assert (one.mailer.stats().tallies["doubts"], sink.messages) == (0, [])
    one.mailer.redis.hset(key, "r", sound)
    assert one.mailer.retry(ids[0]).retried == 1
    assert one.deliver(ids[0]).counts == {State.SENT: 3}


# --- Rate -------------------------------------------------------------------------------------------


def test_over_the_rate_is_parked_and_holds_nothing(bench: Callable[..., Bench], sink: CatchingServer) -> None:
    one = bench()
    one.delivery.limiter.set_rate(0.01)
    first, second = one.send("ann@example.com"), one.send("bob@example.com")
    assert one.deliver(first).counts == {State.SENT: 1}
    assert one.deliver(second).counts == {}
    assert one.mailer.queue()[1].waiting == {"rate": 1}
    assert one.mailer.cancel(second) == 1


def test_a_batch_larger_than_the_rate_goes_in_parts(
    bench: Callable[..., Bench], sink: CatchingServer
) -> None:
    one = bench()
    one.delivery.limiter.set_rate(2)
    ids = one.mailer.send_many([Message(to=f"{n}@example.com", text="hi") for n in range(9)])
    one.deliver(ids[0])
    assert len(sink.messages) == 1
    wait_until(lambda: one.delivery.limiter.available() == 2)
    one.deliver(ids[0])
    assert len(sink.messages) == 3
    assert one.mailer.queue()[1].waiting == {"rate": 1}


# --- A replica that has to know ---------------------------------------------------------------------


def test_a_window_that_no_replica_knows_to_be_claimed_is_given_back_untouched(
    bench: Callable[..., Bench], sink: CatchingServer, caplog: pytest.LogCaptureFixture
) -> None:
    one = bench()
    ids = one.mailer.send_many([Message(to=f"{n}@example.com", text="hi") for n in range(6)])
    waiting = one.hints()
    careful = bench(durability="replica", redis_timeout=0.6)
    report = careful.deliver(ids[0])
    assert str(report) == "4 queued"
    assert sink.messages == []
    assert sink.connections == 0
    assert {one.state(id) for id in ids} == {State.QUEUED}
    assert all(recipient.attempts == 0 for id in ids for recipient in one.mailer.status(id).recipients)
    assert one.mailer.stats().tallies["doubts"] == 0
    assert one.hints() == waiting, "nobody is told at once: it is tried again when it is due"
    assert (
        f"within 0.3 s no replica confirmed the claim of batch {ids[0].partition('.')[0]}, so nothing of it "
        "is sent yet; are Redis' replicas running?"
    ) in caplog.text
    assert one.deliver(ids[0]).counts == {State.SENT: 6}


def test_a_window_that_was_claimed_when_the_last_was_settled_is_given_back_too(
    bench: Callable[..., Bench], sink: CatchingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench(durability="replica", redis_timeout=0.6)
    confirmations = iter([True, False])
    scripts = one.mailer.ledger._scripts
    asked = scripts.run_confirmed
    monkeypatch.setattr(
        scripts,
        "run_confirmed",
        lambda name, calls, seconds: (asked(name, calls, 0)[0], not seconds or next(confirmations)),
    )
    with monkeypatch.context() as accepting:
        accepting.setattr(scripts, "run_confirmed", lambda name, calls, seconds: asked(name, calls, 0))
        ids = one.mailer.send_many([Message(to=f"{n}@example.com", text="hi") for n in range(6)])
    assert one.deliver(ids[0]).counts == {State.SENT: 4, State.QUEUED: 2}
    assert len(sink.messages) == 4
    assert [one.state(id) for id in ids] == [State.SENT] * 4 + [State.QUEUED] * 2


# --- Campaigns --------------------------------------------------------------------------------------


REFUSES = "550 5.7.60 not as this sender"


def fed(one: Bench) -> list[str]:
    return [hint.batch for hint in one.mailer.campaigns.feed(Priority.BULK, 1)]


def test_a_row_that_cant_be_rendered_fails_alone(bench: Callable[..., Bench], sink: CatchingServer) -> None:
    one, rows = bench(), list(people(20))
    del rows[3].fields["city"]
    rows[11].fields["name"] = "Ann\r\nBcc: eve@example.com"
    campaign = a_campaign(one.mailer, rows)
    [batch] = fed(one)
    report = one.delivery.deliver(batch, Priority.BULK)
    assert report.counts == {State.SENT: 18, State.FAILED: 2}
    assert [message.recipients[0].address for message in campaign.failures()] == [
        "ann3@example.com",
        "ann11@example.com",
    ]
    [first, second] = [message.reply for message in campaign.failures()]
    assert "'city' is undefined" in first
    assert "would be broken by the field 'name'" in second
    assert len(sink.messages) == 18


def test_a_retry_renders_the_very_same_mail(bench: Callable[..., Bench]) -> None:
    with ScriptedRelay() as relay:
        relay.script = Script({"DOT": ["450 4.3.0 later", "250 2.0.0 taken"]})
        one = bench(
            relay=f"smtp://127.0.0.1:{relay.port}",
            policy=RetryPolicy(retry_jitter=False, retry_backoff=0.001, default_retry_delay=0),
        )
        a_campaign(one.mailer, people(1))
        [batch] = fed(one)
        one.delivery.deliver(batch, Priority.BULK)
        assert one.state(f"{batch}.0") is State.DEFERRED
        wait_until(lambda: one.mailer.ledger.look(one.mailer.ledger.due(), {}) or fed(one), timeout=10)
        one.delivery.deliver(batch, Priority.BULK)
        assert one.state(f"{batch}.0") is State.SENT
        first, second = relay.script.messages
    assert first == second


def test_who_ends_a_delivery_feeds_the_next(bench: Callable[..., Bench]) -> None:
    one = bench()
    a_campaign(one.mailer, people(40), rows_a_batch=10)
    [batch] = fed(one)
    one.delivery.deliver(batch, Priority.BULK)
    assert one.hints() == 2, "as many as wait for one thread"
    one.delivery.feeder.feed(Priority.BULK)
    assert one.hints() == 2


def test_a_feeder_without_a_redis_is_only_a_warning(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    a_campaign(one.mailer, people(20), rows_a_batch=10)
    [batch] = fed(one)

    def away(priority: Priority) -> int:
        raise StoreUnavailable("the broker is away")

    monkeypatch.setattr(one.delivery.publisher, "waiting", away)
    assert one.delivery.deliver(batch, Priority.BULK).counts == {State.SENT: 10}
    assert "campaigns have to wait for a pump to go on: the broker is away" in caplog.text


def test_while_its_template_cant_be_asked_for_a_campaign_waits(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    a_campaign(one.mailer, people(5))
    [batch] = fed(one)

    def away(uid: str) -> bytes:
        raise StoreUnavailable("Redis is away")

    monkeypatch.setattr(one.delivery.rendering, "_fetch", away)
    assert one.delivery.deliver(batch, Priority.BULK).counts == {State.DEFERRED: 5}
    assert one.mailer.status(f"{batch}.0").attempts == 0


def test_a_campaign_whose_template_is_gone_is_set_aside(bench: Callable[..., Bench]) -> None:
    one = bench()
    campaign = a_campaign(one.mailer, people(5))
    [batch] = fed(one)
    one.mailer.redis.delete(one.mailer.ledger.keys.campaign(campaign._record().uid)[2])
    with pytest.raises(StoreError, match="the template of campaign 'spring' isn't there any more"):
        one.delivery.deliver(batch, Priority.BULK)
    assert campaign.status().states[State.QUEUED] == 5


def test_refusals_that_are_nobodys_fault_pause_a_campaign(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedRelay() as relay:
        relay.script = Script({"MAIL": REFUSES})
        one = bench(relay=f"smtp://127.0.0.1:{relay.port}")
        campaign = a_campaign(one.mailer, people(100), rows_a_batch=30)
        [batch] = fed(one)
        one.delivery.deliver(batch, Priority.BULK)
    status = campaign.status()
    assert status.state == "paused"
    assert status.reason == (
        "the relay refuses the sender: 24 refusals in a row, the last one: 550 5.7.60 not as this sender"
    )
    assert status.states[State.FAILED] == 24, "three windows"
    assert status.states[State.QUEUED] == 76
    [said] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == (
        f"campaign spring is paused, and the rest of it stays queued: {status.reason}; when that is mended, "
        "`mailtasks campaign resume spring` lets it go on"
    )


def test_a_mail_that_is_sent_ends_a_run_of_refusals(bench: Callable[..., Bench]) -> None:
    with ScriptedRelay() as relay:
        relay.script = Script({"MAIL": [*[REFUSES] * 9, "250 2.1.0 sender ok"] * 10})
        one = bench(relay=f"smtp://127.0.0.1:{relay.port}")
        campaign = a_campaign(one.mailer, people(100), rows_a_batch=100)
        [batch] = fed(one)
        one.delivery.deliver(batch, Priority.BULK)
    assert campaign.status().states[State.SENT] == 10
    assert campaign.status().state == "finished"
