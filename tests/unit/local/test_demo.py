import csv
import os
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from mailtasks.errors import SettingsError
from mailtasks.local.demo import Demo, code, differences, expected, letter, read
from mailtasks.local.faults import Orders
from mailtasks.message import Priority
from mailtasks.state import State
from mailtasks.status import MessageStatus, RecipientStatus

EXAMPLES = Path(__file__).parents[3] / "examples"
ROW = {"email": "ann.1@example.com", "name": "Zoë <b>, Jr.", "city": "Kraków", "product": "kettle & cup"}


def status(address, state, reply=""):
    now = datetime.now(UTC)
    return MessageStatus(
        id="1.0",
        priority=Priority.BULK,
        subject="",
        message_id="<1@example.com>",
        accepted_at=now,
        send_at=now,
        expires_at=now,
        finished_at=now,
        recipients=(RecipientStatus(address=address, state=state, reply=reply),),
    )


def test_the_file_of_recipients_is_what_its_maker_makes():
    made = subprocess.run([sys.executable, EXAMPLES / "make_recipients.py"], capture_output=True, check=True)
    assert made.stdout.decode() == (EXAMPLES / "recipients.csv").read_text(encoding="utf-8")


def test_the_recipients_are_a_thousand_who_do_not_exist_and_some_misbehave():
    rows = list(read(EXAMPLES / "recipients.csv"))
    addresses = [row["email"] for row in rows]
    assert len(set(addresses)) == 1000
    assert {address.partition("@")[2] for address in addresses} == {
        "example.com",
        "example.org",
        "example.net",
    }
    orders = Counter(Orders().of(address) for address in addresses)
    del orders[None]
    kinds = Counter((order.times, order.accept) for order in orders.elements())
    assert kinds == {(1, False): 60, (None, True): 20, (None, False): 25}  # deferred once, slow, refused


def test_a_letter_is_personal_and_its_values_are_escaped():
    message = letter(ROW)
    assert message.recipients == ("ann.1@example.com",)
    assert message.subject == "Zoë <b>, Jr., your kettle & cup is on its way"
    assert "Dear Zoë <b>, Jr.," in message.text
    assert "Dear Zoë &lt;b&gt;, Jr.," in message.html
    assert "kettle &amp; cup" in message.html
    assert message.priority == "bulk"


def test_a_code_is_urgent():
    assert (code(7).priority, code(7).text) == ("urgent", "000007\n")


@pytest.mark.parametrize(
    ("address", "state"),
    [
        ("ann@example.com", State.SENT),
        ("defer-once.ann@example.com", State.SENT),
        ("slow.ann@example.com", State.SENT),
        ("refuse.ann@example.com", State.FAILED),
        ("spam.ann@example.com", State.FAILED),
    ],
)
def test_what_a_mail_must_end_as_is_told_by_its_address(address, state):
    assert expected(address) is state


@pytest.mark.parametrize(
    ("address", "state", "caught", "sentences"),
    [
        ("ann@example.com", State.SENT, 1, []),
        ("refuse@example.com", State.FAILED, 0, []),
        ("ann@example.com", State.SENT, 2, ["ann@example.com was caught 2×, being sent"]),
        ("ann@example.com", State.SENT, 0, ["ann@example.com was caught 0×, being sent"]),
        ("ann@example.com", State.FAILED, 1, ["ann@example.com is failed (no), not sent"]),
        ("refuse@example.com", State.DEFERRED, 0, ["refuse@example.com is deferred (no), not failed"]),
        ("refuse@example.com", State.FAILED, 1, ["refuse@example.com was caught 1×, being failed"]),
    ],
)
def test_differences_are_told(address, state, caught, sentences):
    accepted = {("<1@example.com>", address): caught} if caught else {}
    assert list(differences([status(address, state, "no")], accepted)) == sentences


def test_what_nobody_sent_is_a_difference():
    [sentence] = differences([], {("", "eve@example.com"): 1})
    assert sentence == "eve@example.com was caught 1× with no Message-ID, which nobody sent"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingsError) as caught:
        list(read(tmp_path / "people.csv"))
    assert str(caught.value) == (
        f"{tmp_path / 'people.csv'} can't be read: No such file or directory; name a CSV file of recipients"
    )


def test_a_file_that_lacks_a_column(tmp_path):
    path = tmp_path / "people.csv"
    with path.open("w", newline="") as lines:
        csv.writer(lines).writerows([["email", "name"], ["ann@example.com", "Ann"]])
    with pytest.raises(SettingsError) as caught:
        list(read(path))
    assert str(caught.value) == f"{path} has no column city, product; its first line must name them"


# --- How long it stays up


@pytest.fixture
def terminal(monkeypatch):
    """The far end of the terminal that is the demo's standard output."""
    far_end, its_end = os.openpty()
    with os.fdopen(its_end, "w") as output:
        monkeypatch.setattr("mailtasks.local.demo.sys", SimpleNamespace(stdout=output))
        yield far_end


@pytest.fixture
def staying(terminal, monkeypatch):
    """A demo that stays up, in a thread; nothing of it was started."""
    told = threading.Event()
    demo = Demo(EXAMPLES / "recipients.csv", told, print)
    looks = threading.Semaphore(0)
    monkeypatch.setattr(demo, "_look", looks.release)
    thread = threading.Thread(target=demo.stay)
    thread.start()
    assert looks.acquire(timeout=10), "it stays, and looks after what it has started"
    assert thread.is_alive()
    yield thread
    told.set()
    thread.join(10)
    assert not thread.is_alive()


def test_it_stays_up_until_its_terminal_is_closed(staying, terminal):
    os.close(terminal)
    staying.join(10)
    assert not staying.is_alive()


def test_it_stays_up_until_who_started_it_is_gone(staying, terminal, monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: 1)
    staying.join(10)
    assert not staying.is_alive()
    os.close(terminal)
