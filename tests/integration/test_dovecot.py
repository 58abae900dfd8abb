"""LMTP to Dovecot; and Dovecot alone: it works, and says by itself what is relied on."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

import pytest

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


def test_each_recipient_is_settled_by_what_its_mailbox_says(dovecot: Dovecot, redis_url: str) -> None:
    dovecot.empty()
    one = Bench(redis_url, f"lmtp://127.0.0.1:{dovecot.port}", RetryPolicy(retry_jitter=False))
    try:
        id = one.send("ann@example.com", "nobody@example.com", FULL, "bob@example.com")
        one.deliver(id)
        told = {it.address: (it.state, (it.reply or "")[:9]) for it in one.mailer.status(id).recipients}
    finally:
        one.close()
    assert {address: state for address, (state, _) in told.items()} == {
        "ann@example.com": State.SENT,
        "nobody@example.com": State.FAILED,
        FULL: State.FAILED,
        "bob@example.com": State.SENT,
    }
    assert told["nobody@example.com"][1] == "550 5.1.1"
    assert told[FULL][1] == "552 5.2.2"
    assert len(dovecot.mailbox("ann@example.com")) == len(dovecot.mailbox("bob@example.com")) == 1
    assert dovecot.mailbox(FULL) == []
