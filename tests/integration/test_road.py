"""From `send()` through Redis and a real worker process to a real SMTP server, and the books at the end."""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from mailtasks.bootsteps import BUSY
from mailtasks.errors import MemoryFull
from mailtasks.local.faults import Orders
from mailtasks.local.redis import free_port
from mailtasks.message import Attachment, Message
from mailtasks.publish import producing_app
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.testing import CatchingServer, LocalRedis, program, wait_until
from mailtasks.testing.proxy import Proxy

Make = Callable[..., Any]


def to(*recipients: str, **more: Any) -> Message:
    return Message(to=list(recipients), subject="hello", text="hi", **more)


# --- Connections kept warm ---------------------------------------------------------------------------

FAR: Final = 0.4
"""Seconds of a round trip: two for a mail, two more for a connection."""


def test_the_first_urgent_mail_finds_a_connection_and_one_that_dies_is_replaced(
    road: Make, sink: CatchingServer
) -> None:
    with Proxy("127.0.0.1", sink.port, round_trip=FAR) as proxy:
        sink_far_away = SimpleNamespace(url=f"smtp://127.0.0.1:{proxy.port}", accepted=sink.accepted)
        way = road(sink_far_away, pool_warm=1, pool_size=1)
        way.start_worker()
        for connections in (1, 2):
            wait_until(lambda connections=connections: sink.connections == connections)
            time.sleep(2 * FAR)  # greeting and EHLO are on their way, and only the worker sees them come
            [id] = way.send(to("ann@example.com", priority="urgent"))
            way.wait_for_end()
            assert way.mailer.status(id).attempts == 1
            assert sink.connections == connections
            proxy.cut()
        took = [int(ms) / 1000 for ms in re.findall(r" ms=(\d+)", way.said())]
        assert len(took) == 2
        assert max(took) < 3.9 * FAR
        way.workers[0].stop()
        wait_until(lambda: sink.open_connections == 0)


# --- One mail ---------------------------------------------------------------------------------------


def test_one_mail_arrives_as_it_was_meant(road: Make) -> None:
    way = road()
    way.start_worker()
    before = time.time()
    [id] = way.send(
        Message(
            to="Ann <ann@example.com>",
            cc="bob@example.org",
            bcc="eve@example.net",
            reply_to="help@example.com",
            subject="Grüße",
            text="Hello Ann\n.\nfrom us\n",
            html="<p>Hello Ann</p>",
            attachments=[Attachment(filename="a.txt", content=b"attached")],
            headers={"X-Order": "7"},
            priority="urgent",
        )
    )
    books = way.wait_for_end()
    books.agree()
    [caught] = way.relay.messages
    assert caught.recipients == ("ann@example.com", "bob@example.org", "eve@example.net")
    assert b"eve@" not in caught.content
    parsed = email.message_from_bytes(caught.content, policy=email.policy.default)
    assert parsed["Subject"] == "Grüße"
    assert (parsed["To"], parsed["Cc"]) == ("Ann <ann@example.com>", "bob@example.org")
    assert (parsed["Reply-To"], parsed["X-Order"]) == ("help@example.com", "7")
    assert parsed.get_body(("plain",)).get_content().splitlines() == ["Hello Ann", ".", "from us"]
    assert [part.get_content() for part in parsed.iter_attachments()] == ["attached"]
    status = way.mailer.status(id)
    assert (status.state, status.attempts, status.reply) == (State.SENT, 1, "250 2.0.0 ok")
    assert [recipient.relay for recipient in status.recipients] == [way.relay.url.removeprefix("smtp://")] * 3
    assert before <= status.recipients[0].tried_at.timestamp() <= time.time()
    assert status.finished_at is not None
    assert way.relay.violations == []


def test_several_recipients_each_have_a_fate_of_their_own(road: Make) -> None:
    way = road()
    way.start_worker()
    [id] = way.send(
        to(
            *("ann@example.com", "refuse@example.com", "defer-once@example.com"),
            *("full@example.com", "defer@x.org"),
            expires_after=6,
        )
    )
    books = way.wait_for_end()
    books.agree()
    fates = {
        recipient.address: (recipient.state, recipient.attempts, recipient.reply[:9])
        for recipient in way.mailer.status(id).recipients
    }
    expired = fates.pop("defer@x.org")
    assert fates == {
        "ann@example.com": (State.SENT, 1, "250 2.0.0"),
        "refuse@example.com": (State.FAILED, 1, "550 5.1.1"),
        "defer-once@example.com": (State.SENT, 2, "250 2.0.0"),
        "full@example.com": (State.FAILED, 1, "552 5.2.2"),
    }
    assert (expired[0], expired[2]) == (State.EXPIRED, "451 4.3.0")
    assert expired[1] >= 2
    assert len({message.message_id for message in way.relay.messages}) == 1


def test_more_recipients_than_a_relay_takes_at_once(tmp_path: Path, road: Make, sink: Any) -> None:
    """452 4.5.3 is about the transaction: the others follow at once, and it costs no attempt."""
    sink._desk.max_recipients = 10
    way = road()
    way.start_worker()
    [id] = way.send(to(*(f"{n}@example.com" for n in range(35))))
    books = way.wait_for_end(15)
    books.agree()
    assert {recipient.attempts for recipient in way.mailer.status(id).recipients} == {1}
    assert sorted(len(message.recipients) for message in way.relay.messages) == [5, 10, 10, 10]


# --- Retries ----------------------------------------------------------------------------------------


def test_what_is_deferred_is_tried_again(road: Make) -> None:
    way = road()
    way.start_worker()
    way.send(*(to(f"defer-once{n}@example.com") for n in range(50)))
    way.send(*(to(f"defer-dot-once{n}@example.com") for n in range(20)))
    way.send(to("busy-once@example.com"), to("drop-once@example.com"))
    way.send(*(to(f"ann{n}@example.com") for n in range(30)))
    books = way.wait_for_end()
    books.agree()
    assert books.states == {State.SENT: 102}
    assert way.mailer.stats().deferrals_last_hour >= 71
    waits = {way.mailer.status(id).recipients[0].attempts for id in way.ids[:70]}
    assert waits == {2}


def test_celerys_names_in_task_annotations_are_obeyed(road: Make) -> None:
    way = road(annotations={"max_retries": 2, "retry_backoff": 1, "retry_jitter": False})
    way.start_worker()
    [id] = way.send(to("defer@example.com"))
    began = time.monotonic()
    way.wait_for_end().agree()
    assert time.monotonic() - began >= 2.9  # 1 s, then 2 s
    status = way.mailer.status(id)
    assert (status.state, status.attempts) == (State.FAILED, 3)
    assert len(way.relay.refusals) == 3


def test_a_doubtful_mail_is_sent_once_more_and_then_held(road: Make) -> None:
    """Kept and reset without an answer, each time: twice caught, and the doubt is shown."""
    way = road()
    way.start_worker()
    [id] = way.send(to("keep-drop@example.com"))
    [once] = way.send(to("keep-drop-once@example.com"))
    [held] = way.send(to("keep-drop-bulk@example.com", priority="bulk"))
    books = way.wait_for_end()
    books.agree(duplicates=2, doubts=2)
    assert way.mailer.status(id).state is State.IN_DOUBT
    assert way.mailer.status(id).recipients[0].resends == 1
    assert way.mailer.status(once).state is State.SENT
    assert way.mailer.status(held).state is State.IN_DOUBT
    assert Counter(recipient for _, recipient in books.caught.elements()) == {
        "keep-drop@example.com": 2,
        "keep-drop-once@example.com": 2,
        "keep-drop-bulk@example.com": 1,
    }


class Nobody:
    """A relay that isn't there."""

    def __init__(self) -> None:
        self.url = f"smtp://127.0.0.1:{free_port()}"
        self.accepted: Counter[tuple[str, str]] = Counter()


def test_a_relay_that_isnt_there_costs_no_attempt(road: Make) -> None:
    way = road(Nobody(), annotations={"max_retries": 0})
    way.start_worker()
    [id] = way.send(to("ann@example.com"))
    wait_until(lambda: way.mailer.status(id).state is State.DEFERRED)
    status = way.mailer.status(id)
    assert status.attempts == 0
    assert re.fullmatch(r"connect: .*refused.*", status.reply)
    assert way.mailer.cancel(id) == 1


# --- Without hints ----------------------------------------------------------------------------------


def test_a_redis_without_memory_takes_no_new_mail_and_goes_on_with_what_it_has(
    road: Make, own_redis: LocalRedis
) -> None:
    """No hint can be published, of what is deferred, planned or given back; and no worker can connect."""
    way = road(slice=0.3, window_bulk=4)
    planned = datetime.now(UTC) + timedelta(seconds=2)
    way.send(*[to(f"u{number}@example.com", priority="bulk") for number in range(100)])
    way.send_singly([to(f"u{number}@example.com", priority="bulk") for number in range(100, 300)])
    way.send(*[to(f"defer-once-{number}@example.com") for number in range(5)])
    way.send(*[to(f"later{number}@example.com", send_at=planned) for number in range(5)])
    with own_redis.client() as client:
        client.config_set("maxmemory", 1)
        way.start_worker(ready="this worker delivers what is due without")
        with pytest.raises(MemoryFull):
            way.mailer.send(to("ann@example.com"))
        way.wait_for_end().agree()
        assert way.mailer.queue()[2].hints > BUSY  # which no worker takes
        client.config_set("maxmemory", 0)
    assert way.count(State.SENT) == 310


# --- Times ------------------------------------------------------------------------------------------


def test_send_at_is_kept_and_costs_nothing_until_then(road: Make) -> None:
    way = road()
    way.start_worker()
    moment = datetime.now(UTC) + timedelta(seconds=3)
    [later] = way.send(to("ann@example.com", send_at=moment))
    [now] = way.send(to("bob@example.com"))
    wait_until(lambda: way.mailer.status(now).state is State.SENT)
    assert way.mailer.status(later).state is State.QUEUED
    assert way.mailer.queue()[1].hints == 0
    way.wait_for_end().agree()
    late = way.relay.messages[-1].time - moment.timestamp()
    assert 0 <= late < 1.5


def test_send_at_survives_a_restart_of_everything(road: Make, own_redis: LocalRedis) -> None:
    """Mails for every other second: nobody knows how long a restart takes. Those behind it are cancelled."""
    way = road(pump_interval=1.0)
    worker = way.start_worker()
    now = datetime.now(UTC)
    moments = [now + timedelta(seconds=seconds) for seconds in range(2, 40, 2)]
    ids = way.send(*[to(f"ann{n}@example.com", send_at=moment) for n, moment in enumerate(moments)])
    worker.kill()
    own_redis.kill()
    own_redis.start()
    way.start_worker()
    up = datetime.now(UTC)
    last = next(n for n, moment in enumerate(moments) if moment > up) + 1
    others = ids[last + 1 :]
    assert sum(way.mailer.cancel(id) for id in others) == len(others) > 0, "this machine is too slow for this"
    books = way.wait_for_end()
    books.agree()
    assert books.states == {State.SENT: last + 1, State.CANCELLED: len(others)}
    times = {caught.recipients[0]: caught.time for caught in way.relay.messages}
    late = [times[f"ann{n}@example.com"] - moments[n].timestamp() for n in range(last + 1)]
    assert min(late) >= 0
    assert max(late[-2:]) <= 2, "those for which a worker was there in time"


def test_what_expires_before_anybody_takes_it_is_never_sent(road: Make) -> None:
    way = road()
    [gone] = way.send(to("ann@example.com", expires_after=0.5))
    [stays] = way.send(to("bob@example.com"))
    time.sleep(0.6)  # the mail's age, and no condition to be waited for
    way.start_worker()
    way.wait_for_end().agree()
    assert (way.mailer.status(gone).state, way.mailer.status(stays).state) == (State.EXPIRED, State.SENT)
    assert [message.recipients for message in way.relay.messages] == [("bob@example.com",)]


# --- Steering ---------------------------------------------------------------------------------------


def test_pause_bites_in_the_middle_and_resume_goes_on(road: Make) -> None:
    way = road()
    way.start_worker()
    way.send_singly([to(f"slow{n}@example.com") for n in range(24)])
    way.wait_for_sent(2)
    way.mailer.pause()
    wait_until(lambda: not way.count(State.SENDING))
    paused_at = way.count(State.SENT)
    way.send(to("urgent@example.com", priority="urgent"))
    time.sleep(1)  # long enough for what a pause doesn't hold
    assert way.count(State.SENT) == paused_at == len(way.relay.messages) < 24
    assert way.mailer.resume()
    way.wait_for_end().agree()


def test_cancelled_in_time_is_never_sent(road: Make) -> None:
    way = road()
    ids = way.send(*(to(f"{n}@example.com") for n in range(10)))
    assert way.mailer.cancel(ids[3]) == 1
    way.start_worker()
    books = way.wait_for_end()
    books.agree()
    assert books.states == {State.SENT: 9, State.CANCELLED: 1}


def test_an_operators_retry_sends_what_had_failed(road: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    way = road()
    way.start_worker()
    [id] = way.send(to("full@example.com"))
    wait_until(lambda: way.mailer.status(id).state is State.FAILED)
    monkeypatch.setattr(way.relay._desk, "_orders", Orders({}))
    assert way.mailer.retry(id).retried == 1
    way.wait_for_end().agree()
    assert way.mailer.status(id).state is State.SENT


# --- Rates ------------------------------------------------------------------------------------------


def test_rate_limit_counts_messages_and_urgent_mail_goes_first(road: Make) -> None:
    rate = 8
    way = road(annotations={"rate_limit": f"{rate}/s"})
    way.start_worker(threads=2)
    way.send_singly([to(f"ann{n}@example.com") for n in range(20)])
    way.send(*(to(f"bob{n}@example.com", priority="bulk") for n in range(20)))
    way.wait_for_sent(4)
    began = time.monotonic()
    [urgent] = way.send(to("eve@example.com", priority="urgent"))
    wait_until(lambda: way.mailer.status(urgent).state is State.SENT)
    assert time.monotonic() - began < 2
    assert way.unfinished() > 10
    way.wait_for_end().agree()
    times = sorted(message.time for message in way.relay.messages)
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= rate * (times[last] - begin + 0.2) + rate + 1
    assert times[-1] - times[0] > (41 - rate - 1) / rate - 0.2
    assert times[-1] - times[0] < 2 * 41 / rate


def test_a_held_rate_holds_no_thread(road: Make) -> None:
    """Nothing runs in the worker while mail waits for its rate: it waits in the ledger."""
    way = road(annotations={"rate_limit": "6/m"})
    way.start_worker(threads=2)
    way.send_singly([to(f"ann{n}@example.com") for n in range(12)])
    wait_until(lambda: way.mailer.queue()[1].waiting.get("rate") == 11, what="eleven behind the gate")
    assert way.mailer.queue()[1].hints == 0
    with producing_app(Settings(**way.values)) as app:
        asked = app.control.inspect(timeout=10, limit=1)  # answers: the first one ends the wait
        assert list(asked.active().values()) == list(asked.reserved().values()) == [[]]


# --- Events -----------------------------------------------------------------------------------------


@contextmanager
def events(settings: Settings) -> Iterator[list[dict[str, Any]]]:
    """What Flower would see."""
    app, seen, ready = producing_app(settings), [], threading.Event()
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})
        receiver.on_consume_ready = lambda *_, **__: ready.set()
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False})
        thread.start()
        assert ready.wait(10)
        yield seen
        receiver.should_stop = True
        thread.join()


def test_flower_sees_a_retry_and_nothing_private(road: Make) -> None:
    way = road()
    with events(Settings(**way.values)) as seen:
        way.start_worker()
        [good] = way.send(to("ann@example.com"))
        [late] = way.send(to("defer-once@example.com"))
        [bad] = way.send(to("refuse@example.com"))
        way.wait_for_end().agree()

        def kinds(id: str) -> list[str]:
            return [event["type"] for event in list(seen) if event.get("uuid") == id]

        wait_until(lambda: kinds(late)[-1:] == ["task-succeeded"], what="the last event")
        wait_until(lambda: kinds(bad)[-1:] == ["task-failed"])
    assert kinds(good) == ["task-received", "task-started", "task-succeeded"]
    assert kinds(late) == [
        *("task-received", "task-started", "task-retried"),
        *("task-received", "task-started", "task-succeeded"),
    ]
    [failed] = [event for event in seen if event["type"] == "task-failed"]
    assert "550 5.1.1" in failed["exception"]
    received = next(event for event in seen if event.get("uuid") == good)
    assert received["name"] == "mailtasks.deliver"
    assert received["args"] == f"('{good.partition('.')[0]}',)"
    told = repr([event for event in seen if event["type"].startswith("task-")])
    assert not re.search(r"@example|hello|hi\b", told)


def test_a_line_an_attempt_in_the_workers_log(road: Make) -> None:
    way = road(log_format="json", mask_addresses="true")
    way.start_worker()
    [id] = way.send(to("refuse@example.com"))
    way.wait_for_end()
    wait_until(lambda: id in way.said())
    [line] = [line for line in way.said().splitlines() if '"logger": "mailtasks.attempts"' in line]
    expected = {"id": id, "to": "r***@example.com", "stage": "rcpt", "code": 550, "state": "failed"}
    assert expected.items() <= json.loads(line).items()
    assert "refuse@example.com" not in way.said()


# --- Servers from elsewhere -------------------------------------------------------------------------


class Catch:
    """An aiosmtpd handler that keeps the books and refuses somebody."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"smtp://127.0.0.1:{self.port}"
        self.accepted: Counter[tuple[str, str]] = Counter()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address.startswith("no"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        name = email.message_from_bytes(envelope.content)["Message-ID"]
        self.accepted.update((name, recipient) for recipient in envelope.rcpt_tos)
        return "250 ok"


def test_aiosmtpd(road: Make) -> None:
    handler = Catch()
    controller = Controller(handler, hostname="127.0.0.1", port=handler.port)
    controller.start()
    try:
        way = road(handler)
        way.start_worker()
        way.send(*(to(f"{n}@example.com", f"no{n}@example.com") for n in range(200)))
        way.send_singly([to(f"ann{n}@example.com") for n in range(50)])
        books = way.wait_for_end()
    finally:
        controller.stop()
    books.agree()
    assert books.states == {State.SENT: 250, State.FAILED: 200}


def test_tls_and_a_login(road: Make, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    logins: list[tuple[bytes, bytes]] = []

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"s/ecret")

    handler = Catch()
    handler.url = f"smtp://ann:s%2Fecret@127.0.0.1:{handler.port}?tls=required&ca={tmp_path / 'ca.pem'}"
    demands = {"require_starttls": True, "auth_required": True, "authenticator": authenticate}
    controller = Controller(handler, hostname="127.0.0.1", port=handler.port, tls_context=context, **demands)
    controller.start()
    try:
        way = road(handler)
        way.start_worker()
        way.send(*(to(f"{n}@example.com", f"no{n}@example.com") for n in range(20)))
        books = way.wait_for_end()
    finally:
        controller.stop()
    books.agree()
    assert books.states == {State.SENT: 20, State.FAILED: 20}
    assert {*logins} == {(b"ann", b"s/ecret")}
    assert "ecret" not in way.said()


class SmtpSink:
    """Postfix's smtp-sink, and the books from its dumps."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mailtasks-smtp-sink-"))
        self.folder.chmod(0o777)  # it gives up root's rights
        port = free_port()
        self.url = f"smtp://127.0.0.1:{port}"
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        dumps = ["-d", f"{self.folder}/%M."]
        self.process = subprocess.Popen([program("smtp-sink"), *user, *dumps, f"127.0.0.1:{port}", "128"])

    @property
    def accepted(self) -> Counter[tuple[str, str]]:
        pairs: Counter[tuple[str, str]] = Counter()
        for dump in self.folder.iterdir():
            parsed = email.message_from_bytes(dump.read_bytes())
            for recipient in parsed.get_all("X-Rcpt-Args", []):
                pairs[parsed["Message-ID"], recipient.strip("<>")] += 1
        return pairs

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder)


@pytest.fixture
def smtp_sink() -> Iterator[SmtpSink]:
    server = SmtpSink()
    yield server
    server.stop()


@pytest.mark.needs("smtp-sink")
def test_postfix_smtp_sink(road: Make, smtp_sink: SmtpSink) -> None:
    way = road(smtp_sink)
    way.start_worker()
    way.send(*(to(f"ann{n}@example.com", f"bob{n}@example.com") for n in range(500)))
    books = way.wait_for_end()
    books.agree()
    assert books.states == {State.SENT: 1000}
