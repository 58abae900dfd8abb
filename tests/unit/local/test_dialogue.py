from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtasks.local import dialogue
from mailtasks.local.book import Book
from mailtasks.local.dialogue import EXTENSIONS, Conversation, Desk
from mailtasks.local.faults import CONVENTION, Ending, Faults

ENVELOPE = b"MAIL FROM:<ann@example.com>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n"
CONTENT = b"Message-ID: <1@example.com>\r\n\r\n..stuffed\r\n.\r\n"
SESSION = b"EHLO me\r\n" + (ENVELOPE + CONTENT) * 3 + b"RSET\r\nQUIT\r\n"


class Client:
    def __init__(self, faults=None, extensions=EXTENSIONS, max_recipients=1000):
        self.desk = Desk(Book(), CONVENTION, faults, extensions, max_recipients)
        self.book = self.desk.book
        self.reconnect()

    def reconnect(self):
        self.conversation = Conversation(self.desk)
        assert self.conversation.output() == b"220 mailtasks catching server ESMTP\r\n"
        self.say(b"EHLO me\r\n")

    def say(self, data):
        self.conversation.receive(data)
        return self.conversation.output().decode().split("\r\n")[:-1]

    def codes(self, data):
        return [int(line[:3]) for line in self.say(data)]

    def send(self, *recipients, content=CONTENT):
        """The code for each recipient, and that of the dot (None without one)."""
        self.say(b"MAIL FROM:<ann@example.com>\r\n")
        told = [self.codes(f"RCPT TO:<{to}>\r\n".encode())[0] for to in recipients]
        if self.say(b"DATA\r\n")[0].startswith("354"):
            return told, (self.codes(content) or [None])[0]
        self.say(b"RSET\r\n")
        return told, None


@pytest.fixture
def client():
    return Client()


def test_ehlo_offers_the_extensions(client):
    assert client.say(b"EHLO me\r\n") == [
        "250-mailtasks catching server",
        "250-PIPELINING",
        "250-SIZE 52428800",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250 ENHANCEDSTATUSCODES",
    ]


def test_a_mail_is_caught_with_its_dots_unstuffed(client):
    assert client.codes(ENVELOPE) == [250, 250, 354]
    assert client.codes(CONTENT) == [250]
    [caught] = client.book.messages
    assert (caught.message_id, caught.sender, caught.recipients) == (
        "<1@example.com>",
        "ann@example.com",
        ("bob@example.com",),
    )
    assert caught.content == b"Message-ID: <1@example.com>\r\n\r\n.stuffed\r\n"
    assert client.book.violations == []


def test_a_body_and_the_next_envelope_may_come_together(client):
    client.say(ENVELOPE)
    assert client.codes(CONTENT + ENVELOPE) == [250, 250, 250, 354]
    assert client.codes(CONTENT) == [250]
    assert client.book.violations == []


@given(st.lists(st.integers(1, len(SESSION) - 1), max_size=12))
def test_where_the_bytes_are_cut_changes_nothing(cuts):
    whole, parts = Client(), Client()
    edges = [0, *sorted(cuts), len(SESSION)]
    pieces = [SESSION[start:end] for start, end in pairwise(edges)]
    assert [line for piece in pieces for line in parts.say(piece)] == whole.say(SESSION)
    assert parts.book.accepted == whole.book.accepted == {("<1@example.com>", "bob@example.com"): 3}
    assert parts.conversation.ending is whole.conversation.ending is Ending.CLOSE


@given(st.binary(max_size=200))
def test_no_bytes_break_it(junk):
    client = Client()
    client.say(junk + b"\r\n.\r\n")
    assert client.say(b"") == []


def test_an_empty_message(client):
    client.say(ENVELOPE)
    assert client.codes(b".\r\n") == [250]
    assert client.book.messages[0].content == b""


@pytest.mark.parametrize("end", [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r"])
def test_only_crlf_dot_crlf_ends_a_message(client, end):
    client.say(ENVELOPE)
    assert client.say(b"smuggled" + end + b"MAIL FROM:<eve@example.com>\r\n") == []
    assert client.codes(b"\r\n.\r\n") == [250]
    assert b"eve" in client.book.messages[0].content
    assert client.book.violations == ["the content holds a bare CR or LF"]


@pytest.mark.parametrize(
    ("said", "verb"),
    [(b"DATA\r\n" + CONTENT, "DATA"), (b"EHLO me\r\nNOOP\r\n", "EHLO"), (b"NOOP\r\nRSET\r\n", "NOOP")],
)
def test_talking_on_behind_a_command_that_must_be_waited_for_is_noted(client, said, verb):
    client.say(ENVELOPE.removesuffix(b"DATA\r\n"))
    client.say(said)
    assert client.book.violations == [f"{verb} was followed by more before it was answered"]


def test_pipelining_that_was_not_offered_is_noted():
    client = Client(extensions=("8BITMIME",))
    client.say(ENVELOPE)
    assert client.book.violations[0] == "MAIL was followed by more before it was answered"


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (b"DATA\r\n", "554 5.5.1 no valid recipients"),
        (b"RCPT TO:<bob@example.com>\r\n", "503 5.5.1 MAIL comes first"),
        (b"MAIL FROM:ann@example.com\r\n", "501 5.1.7 no address is understood here"),
        (b"MAIL FROM:<> SIZE=99999999\r\n", "552 5.3.4 larger than SIZE allows"),
        (b"NONSENSE\r\n", "500 5.5.2 unknown command"),
        (b"\r\n", "500 5.5.2 unknown command"),
        (b"noop\r\n", "250 2.0.0 ok"),
        (b"VRFY bob\r\n", "252 2.1.5 send it and see"),
        (b"HELO me\r\n", "250 mailtasks catching server"),
        (b"x" * 5000, "500 5.5.2 line too long"),
    ],
)
def test_what_is_said_to_what(client, said, reply):
    assert client.say(said) == [reply]


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (b"MAIL FROM:<cat@example.com>\r\n", "503 5.5.1 EHLO comes first, and one MAIL at a time"),
        (b"RCPT TO:bob\r\n", "501 5.1.3 no address is understood here"),
        ("RCPT TO:<bjørn@example.com>\r\n".encode(), "553 5.6.7 a non-ASCII address needs SMTPUTF8"),
        (b'RCPT TO:<"a>b\\" c"@example.com>\r\n', "250 2.0.0 ok"),
    ],
)
def test_what_is_said_within_a_transaction(client, said, reply):
    client.say(b"MAIL FROM:<>\r\n")
    assert client.say(said) == [reply]


def test_mail_before_ehlo():
    conversation = Conversation(Client().desk)
    conversation.receive(b"MAIL FROM:<ann@example.com>\r\n")
    assert conversation.output().splitlines()[1] == b"503 5.5.1 EHLO comes first, and one MAIL at a time"


def test_an_address_beyond_ascii_with_smtputf8(client):
    client.say(b"MAIL FROM:<ann@example.com> BODY=8BITMIME SMTPUTF8\r\n")
    assert client.codes("RCPT TO:<bjørn@example.com>\r\n".encode()) == [250]


def test_too_many_recipients():
    assert Client(max_recipients=1).send("bob@example.com", "cat@example.com") == ([250, 452], 250)


def test_a_message_over_the_limit(client, monkeypatch):
    monkeypatch.setattr(dialogue, "SIZE_LIMIT", 20)
    assert client.send("bob@example.com") == ([250], 552)
    assert client.book.messages == []


@pytest.mark.parametrize(
    ("word", "first", "second"),
    [
        ("defer-once", ([451], None), ([250], 250)),
        ("defer", ([451], None), ([451], None)),
        ("refuse", ([550], None), ([550], None)),
        ("full", ([552], None), ([552], None)),
        ("spam", ([250], 554), ([250], 554)),
        ("defer-dot-once", ([250], 451), ([250], 250)),
        ("defer-dot", ([250], 451), ([250], 451)),
    ],
)
def test_addresses_order_refusals(client, word, first, second):
    recipient = f"{word}.17@example.com"
    assert client.send(recipient) == first
    assert client.send(recipient) == second
    accepted = [first, second].count(([250], 250))
    assert len(client.book.messages) == accepted
    assert [entry.recipient for entry in client.book.refusals] == [recipient] * (2 - accepted)


@pytest.mark.parametrize(
    ("word", "kept"), [("drop-once", 0), ("drop", 0), ("keep-drop-once", 1), ("keep-drop", 1)]
)
def test_addresses_order_losses_after_the_dot(client, word, kept):
    recipient = f"{word}@example.com"
    assert client.send(recipient) == ([250], None)
    assert client.conversation.ending is Ending.RESET
    assert len(client.book.messages) == kept
    assert [entry.verdict for entry in client.book.refusals] == ["no answer"] * (1 - kept)
    client.reconnect()
    assert client.send(recipient)[1] == (250 if word.endswith("once") else None)


def test_a_busy_server_closes_and_hears_no_more(client):
    client.say(b"MAIL FROM:<ann@example.com>\r\n")
    assert client.say(b"RCPT TO:<busy@example.com>\r\nDATA\r\n") == ["421 4.3.2 too busy, closing"]
    assert client.conversation.ending is Ending.CLOSE
    assert client.say(b"NOOP\r\n") == []


def test_a_slow_answer_holds_back_all_that_follows(client):
    client.say(ENVELOPE.replace(b"bob", b"slow.bob"))
    assert client.say(CONTENT + b"NOOP\r\n") == []
    assert client.conversation.pause == 0.5
    assert client.say(b"RSET\r\n") == []
    client.conversation.resume()
    assert client.say(b"") == ["250 2.0.0 ok"] * 3
    assert client.conversation.pause == 0


def test_one_recipients_order_falls_on_the_whole_message(client):
    assert client.send("bob@example.com", "spam@example.com") == ([250, 250], 554)
    assert [entry.recipient for entry in client.book.refusals] == ["bob@example.com", "spam@example.com"]


@pytest.mark.parametrize(
    ("fault", "answer", "kept", "ending"),
    [
        ("garbage", ["?\x01 what the cat typed"], 1, Ending.GO_ON),
        ("shift", ["250 2.0.0 ok", "250 2.0.0 ok"], 1, Ending.GO_ON),
        ("lose", [], 0, Ending.RESET),
        ("die_before", [], 1, Ending.RESET),
        ("die_after", ["250 2.0.0 ok, closing"], 1, Ending.CLOSE),
        ("defer_dot", ["451 4.3.0 no room at the moment"], 0, Ending.GO_ON),
    ],
)
def test_odds_order_faults(fault, answer, kept, ending):
    client = Client(Faults(**{fault: 1.0}))
    client.say(ENVELOPE)
    assert client.say(CONTENT) == answer
    assert len(client.book.messages) == kept
    assert client.conversation.ending is ending


def test_a_verdict_is_in_the_journal_before_it_is_said(tmp_path):
    journal = tmp_path / "journal"
    conversation = Conversation(Desk(Book(journal=journal), {}, None, EXTENSIONS, 1000))
    conversation.receive(b"EHLO me\r\n" + ENVELOPE + CONTENT)
    assert b"<1@example.com>" in journal.read_bytes()
    assert conversation.output().endswith(b"250 2.0.0 ok\r\n")
