"""Dovecot, as our LMTP tests have it: it works, and says by itself what they rely on."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

import pytest

from mailtasks.message import Message
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.state import State
from tests.bench import Bench
from tests.servers import dovecot as server
from tests.servers.dovecot import FULL, Dovecot

pytestmark = pytest.mark.xdist_group("dovecot")  # one server is enough


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    if reason := server.missing():
        pytest.skip(reason)
    with Dovecot() as started:
        yield started


MAIL = b"Subject: hello\r\n\r\nHello\r\n"


def test_it_takes_mail_and_answers_for_each_recipient(dovecot: Dovecot) -> None:
    dovecot.empty()
    with smtplib.LMTP("127.0.0.1", dovecot.port) as client:
        client.ehlo()
        assert {"pipelining", "enhancedstatuscodes", "8bitmime", "chunking"} <= set(client.esmtp_features)
        client.mail("shop@example.com")
        assert client.rcpt("ann@example.com")[0] == 250
        assert client.rcpt("nobody@example.com") == (
            550,
            b"5.1.1 <nobody@example.com> User doesn't exist: nobody@example.com",
        )
        assert client.rcpt(FULL)[0] == 250
        client.putcmd("data")
        assert client.getreply()[0] == 354
        client.send(MAIL + b".\r\n")
        answers = [client.getreply() for _ in range(2)]  # one for each that was accepted (RFC 2033 4.2)
    assert [code for code, _ in answers] == [250, 552]
    assert answers[1][1].startswith(b"5.2.2 <full@example.com> Quota exceeded")
    [mail] = dovecot.mailbox("ann@example.com")
    assert mail.endswith(MAIL.replace(b"\r\n", b"\n"))
    assert dovecot.mailbox(FULL) == []


@pytest.fixture
def bench(redis_url: str, dovecot: Dovecot) -> Iterator[Bench]:
    dovecot.empty()
    made = Bench(redis_url, f"lmtp://127.0.0.1:{dovecot.port}", RetryPolicy(retry_jitter=False))
    yield made
    made.close()


def test_each_recipient_of_one_transaction_has_an_answer_of_its_own(bench: Bench, dovecot: Dovecot) -> None:
    """RFC 2033 4.2: one reply to the dot for each recipient that was accepted."""
    id = bench.send("ann@example.com", FULL, "nobody@example.com", "bob@example.com", subject="hello")
    bench.deliver(id)
    told = {each.address: each for each in bench.mailer.status(id).recipients}
    assert {address: (each.state, each.attempts) for address, each in told.items()} == {
        "ann@example.com": (State.SENT, 1),
        FULL: (State.FAILED, 1),
        "nobody@example.com": (State.FAILED, 1),
        "bob@example.com": (State.SENT, 1),
    }
    assert told[FULL].reply.startswith("552 5.2.2 <full@example.com> Quota exceeded")
    assert told["nobody@example.com"].reply.startswith("550 5.1.1 <nobody@example.com> User doesn't exist")
    for address in ("ann@example.com", "bob@example.com"):
        [mail] = dovecot.mailbox(address)
        assert b"Subject: hello\n" in mail
    assert dovecot.mailbox(FULL) == []


def test_a_window_of_mails_goes_over_one_connection(bench: Bench, dovecot: Dovecot) -> None:
    ids = bench.mailer.send_many([Message(to="ann@example.com", subject=f"{n}") for n in range(10)])
    bench.deliver(ids[0])
    assert [bench.state(id) for id in ids] == [State.SENT] * 10
    assert len(dovecot.mailbox("ann@example.com")) == 10
    assert bench.delivery.route.pool.stats()["opened"] == 1
