"""A session against a scripted relay on loopback."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from urllib.parse import quote

import pytest

from mailtasks.errors import RelayUnavailable
from mailtasks.relay import Relay
from mailtasks.reply import How, Stage
from mailtasks.smtp import ConnectFailed, Envelope, Session, Timeouts
from mailtasks.smtp.loop import LATE, Loop
from mailtasks.smtp.session import LONG
from mailtasks.testing import wait_until
from mailtasks.testing.scripted import CLOSE, HANG, ScriptedRelay
from tests.lmtp import LmtpScript, serving

QUICK = Timeouts(**dict.fromkeys(Timeouts.__dataclass_fields__, 0.1) | {"connect": 5, "block": 5})
PATIENT = Timeouts(**dict.fromkeys(Timeouts.__dataclass_fields__, 10))


def envelope(number=0, *, size=100):
    return Envelope("shop@example.com", (f"r{number}@example.com",), b"x" * size)


def connect(relay, timeouts=PATIENT, loop=None):
    return Session.connect(Relay.parse(f"smtp://127.0.0.1:{relay.port}"), timeouts=timeouts, loop=loop)


def told(outcomes):
    return [(each[0].stage, each[0].how) for each in outcomes]


def test_mail_is_delivered_and_the_session_stays():
    with ScriptedRelay() as relay:
        session = connect(relay)
        assert told(session.deliver([envelope(n) for n in range(3)])) == [(Stage.DOT, How.ACCEPTED)] * 3
        assert told(session.deliver([envelope()])) == [(Stage.DOT, How.ACCEPTED)]
        assert (session.usable, session.alive, session.messages) == (True, True, 4)
        session.close()
    assert relay.connections == 1
    assert len(relay.script.taken) == 4
    assert relay.script.commands[-1] == "QUIT"
    assert not session.usable


def test_may_begin_is_asked_before_each_body():
    asked = []
    with ScriptedRelay() as relay:
        session = connect(relay)
        outcomes = session.deliver([envelope(n) for n in range(3)], lambda n: asked.append(n) or n < 1)
    assert told(outcomes) == [
        (Stage.DOT, How.ACCEPTED),
        (Stage.DATA, How.UNTOUCHED),
        (Stage.MAIL, How.UNTOUCHED),
    ]
    assert asked == [0, 1]
    assert len(relay.script.messages) == 1
    assert not session.usable


def test_an_exception_of_may_begin_passes_through_and_closes():
    def fail(_):
        raise KeyError("mine")

    with ScriptedRelay() as relay:
        session = connect(relay)
        with pytest.raises(KeyError):
            session.deliver([envelope()], fail)
        assert not session.usable
    assert relay.script.messages == []


def test_a_closed_session_touches_nothing():
    with ScriptedRelay() as relay:
        session = connect(relay)
        session.abort()
        [[outcome]] = session.deliver([envelope()])
    assert (outcome.how, outcome.detail) == (How.UNTOUCHED, "the connection was closed before")


@pytest.mark.parametrize(
    ("replies", "expected", "dot_begun"),
    [
        ({"MAIL": CLOSE}, [(Stage.MAIL, How.LOST), (Stage.MAIL, How.UNTOUCHED)], False),
        ({"DATA": CLOSE}, [(Stage.DATA, How.LOST), (Stage.MAIL, How.UNTOUCHED)], False),
        ({"DOT": CLOSE}, [(Stage.DOT, How.LOST), (Stage.MAIL, How.UNTOUCHED)], True),
        ({"MAIL": HANG}, [(Stage.MAIL, How.TIMED_OUT), (Stage.MAIL, How.UNTOUCHED)], False),
        ({"DOT": HANG}, [(Stage.DOT, How.TIMED_OUT), (Stage.MAIL, How.UNTOUCHED)], True),
        ({"DOT": "what?"}, [(Stage.DOT, How.GARBAGE), (Stage.MAIL, How.UNTOUCHED)], True),
        ({"DOT": "421 bye"}, [(Stage.DOT, How.REFUSED), (Stage.MAIL, How.UNTOUCHED)], True),
    ],
)
def test_what_a_relay_does_is_an_outcome(replies, expected, dot_begun):
    with ScriptedRelay(replies) as relay:
        session = connect(relay, QUICK)
        outcomes = session.deliver([envelope(0), envelope(1)])
    assert told(outcomes) == expected
    assert outcomes[0][0].dot_begun is dot_begun
    assert not session.usable


def test_how_it_ended_is_told_to_people():
    with ScriptedRelay({"DOT": CLOSE}) as relay:
        [[lost]] = connect(relay).deliver([envelope()])
    with ScriptedRelay({"DOT": HANG}) as slow:
        [[late]] = connect(slow, QUICK).deliver([envelope()])
    name = f"127.0.0.1:{relay.port}"
    assert str(lost) == f"dot: the connection to {name} was lost: {name} closed it"
    assert str(late) == f"dot: 127.0.0.1:{slow.port} didn't answer in time"


def test_time_starts_again_with_each_answer_but_not_with_each_byte():
    with ScriptedRelay({"MAIL": HANG}) as relay:
        session = connect(relay, QUICK)
        session._engine.receive(b"25")
        assert told(session.deliver([envelope()])) == [(Stage.MAIL, How.TIMED_OUT)]


@pytest.fixture
def loop():
    return Loop()


def interrupted(loop, call):
    """What the call returns or raises, interrupted while it waits."""
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(call)
        wait_until(lambda: loop._talks)
        loop.interrupt()
        return future.result(10)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_before_the_dot_an_interruption_leaves_the_mail_untouched(loop, verb):
    with ScriptedRelay({verb: HANG}) as relay:
        session = connect(relay, loop=loop)
        outcomes = interrupted(loop, lambda: session.deliver([envelope(0), envelope(1)]))
    assert {how for _, how in told(outcomes)} == {How.UNTOUCHED}
    assert not session.usable


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO"])
def test_an_interruption_while_opening_is_no_failure_of_the_relay(loop, verb):
    with ScriptedRelay({verb: HANG}) as relay, pytest.raises(ConnectFailed) as raised:
        interrupted(loop, lambda: connect(relay, loop=loop))
    assert raised.value.failure.how is How.UNTOUCHED


def test_the_answer_to_a_dot_is_waited_for_in_spite_of_an_interruption(loop):
    asked = threading.Event()
    with ScriptedRelay({"DOT": HANG}) as relay:
        session = connect(relay, loop=loop)
        with ThreadPoolExecutor(1) as thread:
            delivering = thread.submit(
                session.deliver, [envelope(0), envelope(1)], lambda n: not asked.is_set()
            )
            wait_until(lambda: relay.script.messages)
            asked.set()
            loop.interrupt()
            with pytest.raises(FutureTimeout):
                delivering.result(2 * LATE)
            relay.say("250 2.0.0 taken, at last")
            assert told(delivering.result(10)) == [(Stage.DOT, How.ACCEPTED), (Stage.MAIL, How.UNTOUCHED)]


@pytest.mark.parametrize(
    ("size", "asked", "expected"),
    [
        (LONG - 10, [0], (Stage.DOT, How.ACCEPTED)),
        (LONG + 10, [0, 0], (Stage.DOT, How.UNTOUCHED)),
    ],
)
def test_whether_the_dot_may_follow_is_asked_again_behind_a_long_body(size, asked, expected):
    questions = []
    with ScriptedRelay() as relay:
        session = connect(relay)
        outcomes = session.deliver([envelope(size=size)], lambda n: questions.append(n) or len(questions) < 2)
    assert (told(outcomes), questions) == ([expected], asked)
    assert outcomes[0][0].dot_begun is (expected[1] is How.ACCEPTED)
    assert len(relay.script.messages) == outcomes[0][0].dot_begun


def test_a_long_body_may_be_followed_by_its_dot():
    with ScriptedRelay() as relay:
        outcomes = connect(relay).deliver([envelope(n, size=LONG + 10) for n in range(2)])
    assert told(outcomes) == [(Stage.DOT, How.ACCEPTED)] * 2
    assert [len(message) for message in relay.script.messages] == [LONG + 12] * 2


def test_a_long_body_in_pieces_arrives_as_one():
    pieces = (b"Subject: hi\r\n\r\n", (b"y" * 76 + b"\r\n") * 2000, b".a dot\r\n")
    mail = Envelope("shop@example.com", ("ann@example.com",), pieces)
    with ScriptedRelay() as relay:
        assert told(connect(relay).deliver([mail, mail])) == [(Stage.DOT, How.ACCEPTED)] * 2
    assert relay.script.messages == [b"".join(pieces)] * 2


def test_a_relay_that_hangs_up_between_two_pieces_has_not_seen_the_dot():
    pieces = ((b"y" * 76 + b"\r\n") * 100_000,) * 6
    mail = Envelope("shop@example.com", ("ann@example.com",), pieces)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as executor:
        hanging_up = executor.submit(refuse_in_the_middle, server, b"")
        relay = Relay.parse(f"smtp://127.0.0.1:{server.getsockname()[1]}")
        [[outcome]] = Session.connect(relay, timeouts=PATIENT).deliver([mail])
        hanging_up.result(10)
    assert (outcome.stage, outcome.how, outcome.dot_begun) == (Stage.DOT, How.LOST, False)


def refuse_in_the_middle(server, words=b"552 5.3.4 too much\r\n"):
    """Refuse a body before it has all come, and hang up."""
    connection, _ = server.accept()
    with connection:
        for said in [b"220 hi\r\n", b"250-r\r\n250 PIPELINING\r\n", b"250 a\r\n250 b\r\n354 c\r\n"]:
            connection.sendall(said)
            connection.recv(1000)
        connection.sendall(words)


def test_last_words_are_heard_though_writing_failed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=refuse_in_the_middle, args=(server,))
        thread.start()
        relay = Relay.parse(f"smtp://127.0.0.1:{server.getsockname()[1]}")
        [[outcome]] = Session.connect(relay, timeouts=PATIENT).deliver([envelope(size=50_000_000)])
        thread.join()
    assert str(outcome) == "dot: 552 5.3.4 too much"


def test_a_connection_that_died_while_idle_says_nothing_about_the_mail():
    with ScriptedRelay({"MAIL": ["250 ok", CLOSE]}) as relay:
        session = connect(relay)
        session.deliver([envelope()])
        assert told(session.deliver([envelope(1), envelope(2)])) == [(Stage.MAIL, How.UNTOUCHED)] * 2


def test_neither_does_one_that_was_opened_ahead_and_died_unused():
    with ScriptedRelay({"MAIL": CLOSE}) as relay:
        session = connect(relay)
        session.rested = True
        assert told(session.deliver([envelope()])) == [(Stage.MAIL, How.UNTOUCHED)]


def test_a_relay_that_spoke_or_went_while_idle_is_not_alive(wait_until):
    with ScriptedRelay() as relay:
        said, gone = connect(relay), None
        relay.say("421 4.4.2 idle for too long")
        wait_until(lambda: not said.alive)
        gone = connect(relay)
        relay.hang_up()
        wait_until(lambda: not gone.alive)
        said.close()
        gone.close()


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"CONNECT": "554 5.3.2 go away"}, "greeting: 554 5.3.2 go away"),
        ({"CONNECT": "421 4.3.2 too busy"}, "greeting: 421 4.3.2 too busy"),
        ({"CONNECT": HANG}, "greeting: 127.0.0.1:PORT didn't answer in time"),
        ({"CONNECT": CLOSE}, "greeting: the connection to 127.0.0.1:PORT was lost: 127.0.0.1:PORT closed it"),
        ({"CONNECT": "hello"}, "greeting: not a reply: 'hello'"),
        ({"EHLO": "421 bye"}, "ehlo: 421 bye"),
        ({"EHLO": "502 what?", "HELO": "550 no"}, "ehlo: 550 no"),
    ],
)
def test_no_connection_is_an_error_that_says_why(replies, expected):
    with ScriptedRelay(replies) as relay:
        with pytest.raises(ConnectFailed) as raised:
            connect(relay, QUICK)
        assert isinstance(raised.value, RelayUnavailable)
    name = f"127.0.0.1:{relay.port}"
    assert str(raised.value.failure) == expected.replace("127.0.0.1:PORT", name)
    assert str(raised.value) == f"no connection to the relay {name}: {raised.value.failure}"


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectFailed) as raised:
        Session.connect(Relay.parse(f"smtp://127.0.0.1:{port}"), timeouts=QUICK)
    assert str(raised.value) == (
        f"no connection to the relay 127.0.0.1:{port}: connect: connection refused by 127.0.0.1:{port}"
    )


def test_a_host_that_is_none():
    with pytest.raises(ConnectFailed) as raised:
        Session.connect(Relay.parse(f"smtp://{'x' * 64}.example:25?tls=none"), timeouts=QUICK)
    assert raised.value.failure.stage is Stage.CONNECT
    assert "DNS knows no address for" in str(raised.value)


def test_the_name_that_we_were_given_is_said():
    with ScriptedRelay() as relay:
        Session.connect(Relay.parse(f"smtp://127.0.0.1:{relay.port}"), hello_name="me.example").close()
    assert relay.script.commands[0] == "EHLO me.example"


def test_there_is_a_time_for_every_stage():
    before = {Stage.CONTENT}  # there is no session yet
    assert all(Timeouts().of(stage) > 0 for stage in set(Stage) - before)


# LMTP


@pytest.mark.parametrize("where", ["socket", "port"])
def test_lmtp_over_a_unix_socket_or_tcp(where, tmp_path):
    path = tmp_path / "lmtp socket"
    script = LmtpScript(deliveries=["250 2.1.5 stored", "450 4.2.1 later", "550 5.2.1 disabled"])
    with serving(path if where == "socket" else None, script) as server:
        there = quote(str(path)) if where == "socket" else f"127.0.0.1:{server.getsockname()[1]}"
        url = f"lmtp://{there}"
        session = Session.connect(Relay.parse(url), timeouts=PATIENT)
        recipients = ("ann@example.com", "bob@example.com", "cy@example.com")
        [outcomes] = session.deliver([Envelope("shop@example.com", recipients, b"hello")])
        assert session.alive
        session.close()
    assert [str(outcome) for outcome in outcomes] == [
        "dot: 250 2.1.5 stored",
        "dot: 450 4.2.1 later",
        "dot: 550 5.2.1 disabled",
    ]
    assert script.commands[0].startswith("LHLO ")


def test_a_socket_that_is_not_there(tmp_path):
    with pytest.raises(ConnectFailed) as raised:
        Session.connect(Relay.parse(f"lmtp://{tmp_path}/none"), timeouts=QUICK)
    name = f"{tmp_path}/none"
    assert str(raised.value) == f"no connection to the relay {name}: connect: there is no socket {name}"
