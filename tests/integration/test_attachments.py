"""Large attachments on the whole road: real workers, what they cost in memory, and who dies on the way."""

from __future__ import annotations

import email
import email.policy
import os
import re
import signal
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from celery import Celery

from mailtasks.compose import compose
from mailtasks.local.redis import free_port
from mailtasks.message import Attachment, Message
from mailtasks.publish import NORMAL_QUEUE, SEND_MAIL
from mailtasks.state import State
from mailtasks.testing import CatchingServer, wait_until

Make = Callable[..., Any]
QUICK = {"blob_threshold": 1000, "blob_grace": 2}
COMPOSED = 25_000_000
RAW = COMPOSED * 57 // 78  # what becomes that much, as lines of base64


class Catch:
    """An aiosmtpd handler that keeps the books and the sizes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.accepted: Counter[tuple[str, str]] = Counter()
        self.contents: list[bytes] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        head, _, _ = envelope.content.partition(b"\r\n\r\n")
        name = email.message_from_bytes(head)["Message-ID"]
        self.accepted.update((name, recipient) for recipient in envelope.rcpt_tos)
        self.contents.append(envelope.content)
        return "250 ok"


@contextmanager
def catching(folder: Path, tls: bool) -> Iterator[Catch]:
    port, options, query = free_port(), {}, ""
    if tls:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        options, query = (
            {"tls_context": context, "require_starttls": True},
            f"?tls=required&ca={folder}/ca.pem",
        )
    catch = Catch(f"smtp://127.0.0.1:{port}{query}")
    controller = Controller(catch, hostname="127.0.0.1", port=port, data_size_limit=None, **options)
    controller.start()
    try:
        yield catch
    finally:
        controller.stop()


def memory(pid: int, what: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` at most since `forget_peak`."""
    [kilobytes] = re.findall(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(kilobytes) * 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def files_of(content: bytes) -> list[bytes]:
    parsed = email.message_from_bytes(content, policy=email.policy.default)
    return [part.get_content() for part in parsed.iter_attachments()]


def made_ready(message: Message) -> Message:
    """The same as one who has composed it himself gives it: nothing of it is stored apart."""
    composed = compose(
        message, sender="a@example.com", message_id="1@example.com", date=datetime.now(UTC), size_limit=10**9
    )
    assert isinstance(composed.content, bytes)
    return Message(raw=composed.content)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


# --- What it costs


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux' /proc")
@pytest.mark.parametrize(
    ("where", "tls"),
    [
        ("redis", False),
        ("folder", True),
        ("made ready", True),
        pytest.param("redis", True, marks=pytest.mark.slow),
        pytest.param("folder", False, marks=pytest.mark.slow),
        pytest.param("made ready", False, marks=pytest.mark.slow),
    ],
)
def test_a_message_of_25_mb_costs_a_worker_at_most_three_times_its_size(
    road: Make, tmp_path: Path, where: str, tls: bool, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "blobs").mkdir()
    blobs = f"file://{tmp_path}/blobs" if where == "folder" else "redis"
    with catching(tmp_path, tls) as relay:
        way = road(relay, size_limit=2 * COMPOSED, blobs=blobs, timeout_dot=60, lease=30)
        worker = way.start_worker()
        warm_up = Attachment(filename="small.bin", content=os.urandom(100_000))
        way.send(Message(to="ann@example.com", text="hi", attachments=[warm_up]))
        way.wait_for_end()
        idle = memory(worker.pid, "VmRSS")
        forget_peak(worker.pid)
        files = [Attachment(filename=f"{n}.bin", content=os.urandom(RAW // 2)) for n in range(2)]
        message = Message(to="bob@example.com", text="hi", attachments=files)
        [id] = way.send(made_ready(message) if where == "made ready" else message)
        way.wait_for_end()
        peak = memory(worker.pid, "VmHWM")
    sent = relay.contents[-1]
    assert way.mailer.status(id).state is State.SENT
    assert COMPOSED < len(sent) < COMPOSED * 1.01
    assert files_of(sent) == [file.content for file in files]
    record_property("times its size", round((peak - idle) / len(sent), 2))
    assert peak - idle > len(sent) / 2, "the measure must see it at all"
    assert peak - idle <= 3 * len(sent)


def test_a_hundred_mails_hold_one_and_it_goes_when_all_are_sent(
    road: Make, sink: CatchingServer, tmp_path: Path
) -> None:
    folder = tmp_path / "blobs"
    folder.mkdir()
    way = road(blobs=f"file://{folder}", **QUICK)
    file = Attachment(filename="terms.pdf", content=os.urandom(300_000))
    for n in range(100):
        way.send(Message(to=f"r{n}@example.com", text="hi", attachments=[file]))
    assert way.mailer.attachments().stored == len(names_in(folder)) == 1
    for _ in range(2):
        way.start_worker()
    books = way.wait_for_end()
    books.agree()
    assert books.states == {State.SENT: 100}
    assert {files_of(caught.content)[0] for caught in sink.messages} == {file.content}
    wait_until(lambda: not names_in(folder), 30, "its collection")
    assert way.mailer.attachments().stored == 0


def test_mail_that_comes_by_name_brings_its_attachment(road: Make, sink: CatchingServer) -> None:
    way, content = road(**QUICK), os.urandom(5000)
    way.start_worker()
    fields = {
        "to": "ann@example.com",
        "text": "hi",
        "attachments": [{"filename": "a.bin", "content": content}],
    }
    with Celery("producer", broker=way.redis.url, set_as_current=False) as app:
        app.send_task(SEND_MAIL, kwargs=fields, queue=NORMAL_QUEUE)
    wait_until(lambda: sink.messages, 30, "the mail")
    assert files_of(sink.messages[0].content) == [content]
    wait_until(lambda: not way.mailer.attachments().stored, 30, "the attachment's collection")


# --- Who dies


PRODUCER = """
import os, sys
from mailtasks import Attachment, Mailer, Message
from mailtasks.store.blobs import FolderBlobs
from mailtasks.store.ledger import Ledger

def stop(*_):
    print("here", flush=True)
    sys.stdin.read()

if sys.argv[1] == "unaccepted":
    Ledger.accept = stop
else:
    put = FolderBlobs.put
    FolderBlobs.put = lambda *given: (put(*given), stop())
Mailer().send(Message(to="ann@example.com", text="hi", attachments=[
    Attachment(filename="a.bin", content=os.urandom(5000))
]))
"""


@pytest.mark.parametrize("moment", ["unaccepted", "half"])
def test_kill_9_of_a_producer_before_accept(road: Make, tmp_path: Path, moment: str) -> None:
    """What it had stored goes when the grace is over; nothing was accepted."""
    folder = tmp_path / "blobs"
    folder.mkdir()
    way = road(blobs=f"file://{folder}", **QUICK)
    producer = subprocess.Popen(
        [sys.executable, "-c", PRODUCER, moment],
        env=way.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with producer:
        assert producer.stdout.readline() == b"here\n"
        producer.send_signal(signal.SIGKILL)
    status = way.mailer.attachments()
    assert (status.stored, status.being_stored) == ((1, 0) if moment == "unaccepted" else (0, 1))
    assert len(names_in(folder)) == 1
    way.start_worker()
    wait_until(lambda: not names_in(folder), 30, "its collection")
    status = way.mailer.attachments()
    assert (status.stored, status.being_stored, way.mailer.stats().accepted) == (0, 0, 0)


KILLER = """
import os, signal
from mailtasks.celery import app
from mailtasks.store.blobs import FolderBlobs

delete = FolderBlobs.delete

def delete_and_die(self, name):
    if {when!r} == "after":
        delete(self, name)
    os.kill(os.getpid(), signal.SIGKILL)

FolderBlobs.delete = delete_and_die
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_9_of_a_collector_half_way(road: Make, tmp_path: Path, when: str) -> None:
    folder = tmp_path / "blobs"
    folder.mkdir()
    way = road(blobs=f"file://{folder}", **QUICK)
    (tmp_path / "killer.py").write_text(KILLER.format(when=when))
    victim = way.start_worker(app="killer")
    way.send(Message(to="ann@example.com", text="hi", attachments=[
        Attachment(filename="a.bin", content=os.urandom(5000))
    ]))  # fmt: skip
    wait_until(lambda: not victim.running, 30, "the collector's end")
    assert way.mailer.attachments().being_deleted == 1
    assert len(names_in(folder)) == (when == "before")
    way.start_worker()
    wait_until(lambda: not way.mailer.attachments().being_deleted, 30, "another collector")
    assert names_in(folder) == []
    way.wait_for_end().agree()


def test_a_folder_that_is_unmounted_for_a_while(road: Make, sink: CatchingServer, tmp_path: Path) -> None:
    """Mail with attachments waits, other mail goes on, and all arrives in the end."""
    folder = tmp_path / "blobs"
    folder.mkdir()
    way = road(blobs=f"file://{folder}", **QUICK)
    file = Attachment(filename="a.bin", content=os.urandom(5000))
    way.send(*[Message(to=f"r{n}@example.com", text="hi", attachments=[file]) for n in range(10)])
    folder.rename(tmp_path / "elsewhere")
    way.start_worker()
    way.send(*[Message(to=f"s{n}@example.com", text="hi") for n in range(10)])
    wait_until(lambda: way.count(State.SENT) == 10 and way.count(State.DEFERRED) == 10, 30)
    (tmp_path / "elsewhere").rename(folder)
    books = way.wait_for_end()
    books.agree()
    assert books.states == {State.SENT: 20}
    assert {recipient.attempts for id in way.ids for recipient in way.mailer.status(id).recipients} == {1}
