"""A real server takes every kind of mail that there is, and what arrives parses to what was asked for."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable, Iterator
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any, Final

import pytest

from mailtasks.message import Attachment, Message
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.state import State
from mailtasks.testing import wait_until
from tests.bench import Bench
from tests.servers import dovecot, postfix
from tests.servers.dovecot import USERS, Dovecot
from tests.servers.postfix import BOSS, REFUSALS, SIZE_LIMIT, Postfix, Received

pytestmark = pytest.mark.xdist_group("postfix")  # one server is enough

LOGIN: Final = f"ann:{USERS['ann']}"


@pytest.fixture(scope="module")
def running() -> Iterator[Postfix]:
    if reason := postfix.missing() or dovecot.missing():
        pytest.skip(reason)
    with Dovecot() as logins, Postfix(logins.logins) as started:
        yield started


@pytest.fixture
def mx(running: Postfix) -> Postfix:
    running.empty()
    return running


@pytest.fixture
def bench(redis_url: str, mx: Postfix) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**url: str) -> Bench:
        made.append(Bench(redis_url, mx.url(**url), RetryPolicy(retry_jitter=False), slice=60))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_what_it_offers(mx: Postfix) -> None:
    """Else the tests below would show less than they say."""
    with smtplib.SMTP("127.0.0.1", mx.port) as client:
        client.ehlo()
        offered = {"pipelining", "size", "starttls", "8bitmime", "smtputf8", "chunking", "dsn"}
        assert offered <= set(client.esmtp_features)
        assert "auth" not in client.esmtp_features
        client.starttls(context=ssl.create_default_context(cafile=str(mx.ca)))
        client.ehlo()
        assert set(client.esmtp_features["auth"].split()) == {"PLAIN", "LOGIN", "CRAM-MD5"}


# --- Kinds of mail ----------------------------------------------------------------------------------

PDF, PNG = b"%PDF-1.7\r\n\0\xff" * 2000, bytes(range(256)) * 100

KINDS: Final[dict[str, dict[str, Any]]] = {
    "text": {"text": "Hello\n"},
    "empty": {},
    "html": {"html": "<p>Hello &amp; goodbye</p>\n"},
    "both": {"text": "Hello\n", "html": "<p>Hello</p>\n"},
    "any charset": {
        "subject": "Grüße, 日本語 🎉",
        "text": "Grüße 日本語 🎉\n",
        "html": "<p>Grüße 日本語 🎉</p>\n",
    },
    "a long subject": {"subject": " ".join(["a rather long word"] * 40), "text": "hi\n"},
    "long lines": {"text": "x" * 100_000 + "\n" + "ü" * 5_000 + "\n"},
    "dots": {"text": ".\n..\n.\r\n.leading\n\n.\n"},
    "from of mbox": {"text": "From here on\n\nFrom there\n"},
    "attachment": {
        "text": "see\n",
        "attachments": [Attachment(filename="für 日本.pdf", content=PDF)],
    },
    "inline image": {
        "html": '<img src="cid:logo@example.com">\n',
        "attachments": [Attachment(filename="logo.png", content=PNG, cid="logo@example.com")],
    },
    "all at once": {
        "text": "Hello\n",
        "html": '<p><img src="cid:logo"></p>\n',
        "attachments": [
            Attachment(filename="logo.png", content=PNG, cid="logo"),
            Attachment(filename="a.pdf", content=PDF),
            Attachment(filename="b.csv", content="ü;1\r\n".encode()),
        ],
    },
    "large": {"text": "x\n", "attachments": [Attachment(filename="large.bin", content=PNG * 60)]},
    "headers": {
        "text": "hi\n",
        "reply_to": "Answers <answers@example.org>",
        "headers": {"X-Campaign": "spring", "Auto-Submitted": "auto-generated", "X-Note": "Grüße " * 30},
    },
    "names": {
        "text": "hi\n",
        "sender": '"Müller, Jörg" <shop@example.com>',
        "to": '"Ünal, A." <ann@example.com>',
    },
    "another envelope": {"text": "hi\n", "envelope_sender": "bounces+17@example.com"},
    "nowhere to bounce to": {"text": "hi\n", "envelope_sender": ""},
    "smtputf8": {"text": "hi\n", "to": "jörg@example.com"},
    "a domain in letters": {"text": "hi\n", "to": "ann@bücher.example"},
    "a quoted local part": {"text": "hi\n", "to": '"ann smith"@example.com'},
}
DEFAULTS: Final = {"to": "ann@example.com", "subject": "Hello"}


@pytest.fixture(
    params=[
        {},
        {"tls": "required", "login": LOGIN},
        {"tls": "implicit", "login": LOGIN},
        {"chunking": "yes"},
        {"tls": "implicit", "login": LOGIN, "chunking": "yes"},
    ],
    ids=["plain", "starttls", "implicit", "chunking", "chunking, implicit"],
)
def way(request: pytest.FixtureRequest) -> dict[str, str]:
    chosen: dict[str, str] = request.param
    return chosen


def test_every_kind_arrives_and_says_what_was_asked_for(
    bench: Callable[..., Bench], mx: Postfix, way: dict[str, str]
) -> None:
    one = bench(**way)
    messages = [
        Message(**{**DEFAULTS, **fields, "headers": {**fields.get("headers", {}), "X-Kind": name}})
        for name, fields in KINDS.items()
    ]
    ids = one.mailer.send_many(messages)
    for batch in dict.fromkeys(id.partition(".")[0] for id in ids):
        one.deliver(f"{batch}.0")
    told = dict(zip(KINDS, map(one.mailer.status, ids), strict=True))
    assert {name: (it.state, it.reply) for name, it in told.items() if it.state is not State.SENT} == {}
    arrived = {str(mail.message["X-Kind"]): mail for mail in mx.received(len(KINDS))}
    for message in messages:
        assert_says(arrived[message.headers["X-Kind"]], message)


def assert_says(mail: Received, asked: Message) -> None:
    """With Python's `email` as the judge."""
    kind, found = asked.headers["X-Kind"], mail.message
    assert found["Subject"] == asked.subject, kind
    bounces = "shop@example.com" if asked.envelope_sender is None else asked.envelope_sender
    assert mail.sender == bounces, kind
    assert mail.recipient.casefold() in {asked.recipients[0].casefold(), *_unquoted(asked)}, kind
    assert _text(found, "plain") == _lines(asked.text if asked.text or asked.html else ""), kind
    assert _text(found, "html") == _lines(asked.html), kind
    parts = [part for part in found.walk() if part.get_filename()]
    assert [(part.get_filename(), part.get_payload(decode=True)) for part in parts] == [
        (each.filename, each.content) for each in asked.attachments
    ], kind
    assert [part["Content-ID"] for part in parts if part["Content-ID"]] == [
        f"<{each.cid}>" for each in asked.attachments if each.cid
    ], kind
    for name, value in asked.headers.items():
        assert " ".join(str(found[name]).split()) == value.strip(), kind
    if asked.sender:
        [sender] = found["From"].addresses
        assert sender == Address("Müller, Jörg", addr_spec="shop@example.com"), kind
    if asked.reply_to:
        assert str(found["Reply-To"]) == asked.reply_to[0], kind
    assert found.defects == [], kind


def _text(found: EmailMessage, subtype: str) -> str | None:
    body = found.get_body((subtype,))
    return None if body is None else body.get_content().replace("\r\n", "\n")


def _lines(text: str | None) -> str | None:
    return None if text is None else text.replace("\r\n", "\n") or "\n"


def _unquoted(asked: Message) -> set[str]:
    """As Postfix writes Delivered-To."""
    return {asked.recipients[0].replace('"', "").casefold()}


def test_a_window_by_bdat_arrives_but_for_the_recipient_who_is_refused(
    bench: Callable[..., Bench], mx: Postfix
) -> None:
    one = bench(chunking="yes")
    to = ["ann@example.com", "ghost@example.com", "bob@example.com", "grey@example.com", "cy@example.com"]
    several = Message(to=["dan@example.com", "full@example.com", "eve@example.com"], text="hi\n")
    ids = one.mailer.send_many([*(Message(to=each, text=f"for {each}\n") for each in to), several])
    one.deliver(ids[0])
    told = {it.address: (it.state, it.attempts) for id in ids for it in one.mailer.status(id).recipients}
    sent = {*to, *several.to} - REFUSALS.keys()
    assert told == dict.fromkeys(sent, (State.SENT, 1)) | {
        "ghost@example.com": (State.FAILED, 1),
        "grey@example.com": (State.DEFERRED, 1),
        "full@example.com": (State.FAILED, 1),
    }
    arrived = mx.received(5)
    assert {mail.recipient for mail in arrived} == sent
    for mail in arrived:
        text = "hi\n" if mail.recipient in several.to else f"for {mail.recipient}\n"
        assert _text(mail.message, "plain") == text
    assert one.delivery.route.pool.stats()["opened"] == 1
    one.delivery.route.pool.close()
    wait_until(lambda: " rcpt=5/8 bdat=4/6 " in mx.log(), what="what it counted")


def test_one_connection_takes_hundreds_by_bdat(bench: Callable[..., Bench], mx: Postfix) -> None:
    """Before each comes RSET, which Postfix counts (smtpd_junk_command_limit) until it takes a mail."""
    one = bench(chunking="yes")
    ids = one.mailer.send_many([Message(to=f"n{number}@example.com", text="hi") for number in range(150)])
    for batch in dict.fromkeys(id.partition(".")[0] for id in ids):
        one.deliver(f"{batch}.0")
    assert {one.state(id) for id in ids} == {State.SENT}
    assert len({mail.recipient for mail in mx.received(150)}) == 150
    assert one.delivery.route.pool.stats()["opened"] == 1


# --- What it refuses --------------------------------------------------------------------------------


def test_each_recipient_has_its_own_result(bench: Callable[..., Bench], mx: Postfix) -> None:
    one = bench()
    id = one.send("ann@example.com", *REFUSALS, "elsewhere@example.net")
    one.deliver(id)
    told = {each.address: each for each in one.mailer.status(id).recipients}
    assert {address: (each.state, each.attempts) for address, each in told.items()} == {
        "ann@example.com": (State.SENT, 1),
        "ghost@example.com": (State.FAILED, 1),
        "grey@example.com": (State.DEFERRED, 1),
        "full@example.com": (State.FAILED, 1),
        "elsewhere@example.net": (State.DEFERRED, 0),  # we aren't logged in, and it isn't Elsewhere's fault
    }
    ghost = told["ghost@example.com"].reply
    assert ghost == "550 5.1.1 <ghost@example.com>: Recipient address rejected: no such user"
    assert "Relay access denied" in told["elsewhere@example.net"].reply
    assert [mail.recipient for mail in mx.received(1)] == ["ann@example.com"]
    grey = told["grey@example.com"]
    assert 299 < (grey.next_attempt - grey.tried_at).total_seconds() < 302


def test_more_recipients_than_a_transaction_may_have_all_get_it(
    bench: Callable[..., Bench], mx: Postfix
) -> None:
    """Five at once, says the server, and 452 4.5.3 to the rest: they go in the next transaction, free."""
    one = bench()
    all_of_them = {f"r{number}@example.com" for number in range(12)}
    id = one.send(*all_of_them)
    one.deliver(id)
    told = one.mailer.status(id).recipients
    assert {each.address: (each.state, each.attempts) for each in told} == dict.fromkeys(
        all_of_them, (State.SENT, 1)
    )
    assert {mail.recipient for mail in mx.received(12)} == all_of_them


def test_a_sender_that_is_somebody_elses_fails_and_suppresses_nobody(bench: Callable[..., Bench]) -> None:
    one = bench(tls="required", login=LOGIN)
    id = one.send("ann@example.com", sender=BOSS)
    assert str(one.deliver(id)) == "1 failed (sender_refused at rcpt 553 5.7.1)"
    assert "Sender address rejected: not owned by user" in one.mailer.status(id).reply


def test_larger_than_its_size_is_never_begun(bench: Callable[..., Bench], mx: Postfix) -> None:
    one = bench()
    large = Attachment(filename="large.bin", content=b"x" * SIZE_LIMIT)
    id = one.send("ann@example.com", attachments=[large])
    assert str(one.deliver(id)) == "1 failed (too_large at mail)"
    assert f"the relay takes {SIZE_LIMIT} (SIZE)" in one.mailer.status(id).reply


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ({"tls": "required", "login": "ann:wrong"}, "535 5.7.8"),
        ({"login": LOGIN}, "offers no login"),  # not without TLS
    ],
)
def test_a_login_that_fails_costs_no_attempt(
    bench: Callable[..., Bench], url: dict[str, str], told: str
) -> None:
    one = bench(**url)
    id = one.send("ann@example.com")
    one.deliver(id)
    assert (one.state(id), one.mailer.status(id).attempts) == (State.DEFERRED, 0)
    assert told in one.mailer.status(id).reply


def test_who_is_logged_in_may_relay(bench: Callable[..., Bench]) -> None:
    one = bench(tls="required", login=LOGIN)
    id = one.send("elsewhere@example.net")
    one.deliver(id)
    assert one.state(id) is State.SENT


# --- What it is asked for ---------------------------------------------------------------------------


def test_a_notification_names_the_message_and_the_recipient_as_given(
    bench: Callable[..., Bench], mx: Postfix
) -> None:
    one = bench()
    id = one.send(
        "Ann+Shop@example.com",
        envelope_sender="bounces@example.com",
        dsn_notify=["success", "failure"],
        dsn_return="headers",
    )
    one.deliver(id)
    assert one.state(id) is State.SENT
    told = {mail.recipient: mail.raw for mail in mx.received(2)}
    notification = told["bounces@example.com"].decode()
    assert f"Original-Envelope-Id: {id}\n" in notification
    assert "Original-Recipient: rfc822;Ann+Shop@example.com\n" in notification
    assert "Action: delivered\n" in notification
    assert "Content-Type: text/rfc822-headers" in notification


def test_where_none_is_wanted_there_is_none(bench: Callable[..., Bench], mx: Postfix) -> None:
    one = bench()
    one.deliver(one.send("ann@example.com", envelope_sender="bounces@example.com", dsn_notify="never"))
    one.deliver(one.send("bob@example.com", envelope_sender="bounces@example.com"))
    assert {mail.recipient for mail in mx.received(2)} == {"ann@example.com", "bob@example.com"}
