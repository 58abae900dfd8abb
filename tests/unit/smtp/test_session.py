"""A session against a scripted relay on loopback."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from urllib.parse import quote

import pytest

from mailtasks.errors import RelayUnavailable
from mailtasks.relay import Relay
from mailtasks.reply import How, Stage
from mailtasks.smtp import ConnectFailed, Envelope, Session, Timeouts
from mailtasks.smtp.bearing import Bearing, Manner
from mailtasks.smtp.chunking import LARGEST
from mailtasks.smtp.loop import LATE, Loop
from mailtasks.smtp.session import FRESH, LONG
from mailtasks.testing import wait_until
from mailtasks.testing.scripted import CLOSE, HANG, Say, ScriptedRelay
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


# By BDAT

CHUNKING = ("PIPELINING", "8BITMIME", "CHUNKING")
ACCEPTED = (Stage.DOT, How.ACCEPTED)


def chunking(relay, timeouts=PATIENT, url="smtp://127.0.0.1:{}?chunking=yes", **more):
    port = relay if isinstance(relay, int) else relay.port
    return Session.connect(Relay.parse(url.format(port)), timeouts=timeouts, **more)


def verbs(relay):
    return [command[:4] for command in relay.script.commands[1:]]


def test_by_bdat_a_window_is_delivered_and_the_session_stays():
    with ScriptedRelay(extensions=CHUNKING) as relay:
        session = chunking(relay)
        assert told(session.deliver([envelope(n) for n in range(3)])) == [ACCEPTED] * 3
        assert told(session.deliver([envelope()])) == [ACCEPTED]
        assert session.alive
        session.close()
    assert verbs(relay) == [*["RSET", "MAIL", "RCPT", "BDAT"] * 4, "QUIT"]
    assert relay.script.taken == [b"x" * 100 + b"\r\n"] * 4


class Doubted(Bearing):
    def begin(self, messages):
        return Manner.STEPWISE


@pytest.mark.parametrize(
    ("offered", "url", "bearing"),
    [
        (CHUNKING, "smtp://127.0.0.1:{}", None),
        (CHUNKING, "smtp://127.0.0.1:{}?chunking=no", None),
        (("CHUNKING",), "smtp://127.0.0.1:{}?chunking=yes", None),
        (("PIPELINING",), "smtp://127.0.0.1:{}?chunking=yes", None),
        (CHUNKING, "smtp://127.0.0.1:{}?chunking=yes", Doubted()),
    ],
)
def test_where_it_is_not_wanted_offered_or_borne_mail_goes_by_data(offered, url, bearing):
    with ScriptedRelay(extensions=offered) as relay:
        session = chunking(relay, url=url, bearing=bearing)
        assert told(session.deliver([envelope(0), envelope(1)])) == [ACCEPTED] * 2
        session.close()
    assert verbs(relay) == [*["MAIL", "RCPT", "DATA"] * 2, "QUIT"]


def test_after_a_flight_that_came_out_of_step_mail_goes_by_data():
    bearing = Bearing()
    with ScriptedRelay({"BDAT": ["250 ok", "what?"]}, CHUNKING) as relay:
        outcomes = chunking(relay, bearing=bearing).deliver([envelope(0), envelope(1)])
        assert told(outcomes) == [(Stage.DOT, How.GARBAGE)] * 2
        assert told(chunking(relay, bearing=bearing).deliver([envelope()])) == [ACCEPTED]
    assert verbs(relay)[-3:] == ["MAIL", "RCPT", "DATA"]


def test_a_connection_that_was_idle_for_long_is_tried_by_data():
    """It may be dead without our knowing, and a body that was written blind would be in doubt."""
    with ScriptedRelay(extensions=CHUNKING) as relay:
        session = chunking(relay)
        session.deliver([envelope()])
        session._used_at -= FRESH
        session.deliver([envelope()])
        session.deliver([envelope()])
        session.close()
    assert [verb for verb in verbs(relay) if verb in {"BDAT", "DATA"}] == ["BDAT", "DATA", "BDAT"]


def test_a_large_message_goes_by_data_in_its_place():
    envelopes = [envelope(0), envelope(1), envelope(2, size=LARGEST + 1), envelope(3)]
    asked = []
    with ScriptedRelay(extensions=CHUNKING) as relay:
        session = chunking(relay)
        outcomes = session.deliver(envelopes, lambda number: asked.append(number) or True)
        session.close()
    assert told(outcomes) == [ACCEPTED] * 4
    assert asked == [0, 1, 2, 2, 3], "again behind the long body"
    assert [len(message) for message in relay.script.taken] == [102, 102, LARGEST + 3, 102]
    by_bdat, by_data = ["RSET", "MAIL", "RCPT", "BDAT"], ["MAIL", "RCPT", "DATA"]
    assert verbs(relay) == [*by_bdat, *by_bdat, *by_data, *by_bdat, "QUIT"]


def test_behind_a_refused_body_data_begins_with_a_reset():
    with ScriptedRelay({"BDAT": "554 no"}, CHUNKING) as relay:
        outcomes = chunking(relay).deliver([envelope(0), envelope(1, size=LARGEST + 1)])
    assert told(outcomes) == [(Stage.DOT, How.REFUSED), ACCEPTED]
    assert verbs(relay)[-4:] == ["RSET", "MAIL", "RCPT", "DATA"]


def test_if_a_flight_ends_the_connection_what_is_behind_is_untouched():
    with ScriptedRelay({"BDAT": CLOSE}, CHUNKING) as relay:
        session = chunking(relay)
        outcomes = session.deliver([envelope(0), envelope(1, size=LARGEST + 1), envelope(2)])
    assert told(outcomes) == [(Stage.DOT, How.LOST), *[(Stage.MAIL, How.UNTOUCHED)] * 2]
    assert str(outcomes[2][0]) == "mail: the connection was closed before"
    assert not session.usable


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"RSET": CLOSE}, [(Stage.DOT, How.LOST)] * 2),
        ({"BDAT": ["250 ok", CLOSE]}, [ACCEPTED, (Stage.DOT, How.LOST)]),
        ({"BDAT": HANG}, [(Stage.DOT, How.TIMED_OUT)] * 2),
        ({"BDAT": ["250 ok", HANG]}, [ACCEPTED, (Stage.DOT, How.TIMED_OUT)]),
        ({"RCPT": Say()}, [(Stage.DOT, How.GARBAGE)] * 2),  # what was said to BDAT is taken for its answer
        ({"BDAT": "what?"}, [(Stage.DOT, How.GARBAGE)] * 2),
        ({"BDAT": ["250 ok", "421 bye"]}, [ACCEPTED, (Stage.DOT, How.REFUSED)]),
        ({"MAIL": "421 bye"}, [(Stage.MAIL, How.REFUSED), (Stage.MAIL, How.UNTOUCHED)]),
    ],
)
def test_what_a_relay_does_to_a_flight_is_an_outcome(replies, expected):
    with ScriptedRelay(replies, CHUNKING) as relay:
        session = chunking(relay, QUICK)
        outcomes = session.deliver([envelope(0), envelope(1)])
    assert told(outcomes) == expected
    assert not session.usable


def test_how_a_flight_ended_is_told_to_people():
    with ScriptedRelay({"BDAT": CLOSE}, CHUNKING) as relay:
        [[lost]] = chunking(relay).deliver([envelope()])
    with ScriptedRelay({"BDAT": HANG}, CHUNKING) as slow:
        [[late]] = chunking(slow, QUICK).deliver([envelope()])
    name = f"127.0.0.1:{relay.port}"
    assert str(lost) == f"dot: the connection to {name} was lost: {name} closed it"
    assert str(late) == f"dot: 127.0.0.1:{slow.port} didn't answer in time"


def test_may_begin_is_asked_before_each_message_and_what_was_written_is_answered():
    asked = []
    with ScriptedRelay(extensions=CHUNKING) as relay:
        session = chunking(relay)
        outcomes = session.deliver([envelope(n) for n in range(3)], lambda n: asked.append(n) or n < 1)
    assert told(outcomes) == [ACCEPTED, (Stage.MAIL, How.UNTOUCHED), (Stage.MAIL, How.UNTOUCHED)]
    assert (asked, len(relay.script.messages), session.usable) == ([0, 1], 1, False)


def test_what_waits_is_sent_before_more_is_asked_for():
    """Else the right to begin would be an old one by the time that the last of a large flight is sent."""
    came = []
    with ScriptedRelay(extensions=CHUNKING) as relay:
        session = chunking(relay)

        def may_begin(number):
            came.append(number)
            return number < 2 or wait_until(lambda: len(relay.script.messages) == 2)

        outcomes = session.deliver([envelope(n, size=40_000) for n in range(3)], may_begin)
    assert (told(outcomes), came) == ([ACCEPTED] * 3, [0, 1, 2])


def test_an_exception_of_may_begin_closes_though_a_flight_is_on_its_way():
    def fail(number):
        if number:
            raise KeyError("mine")
        return True

    with ScriptedRelay(extensions=CHUNKING) as relay:
        session = chunking(relay)
        with pytest.raises(KeyError):
            session.deliver([envelope(), envelope()], fail)
        assert not session.usable


def test_a_flight_is_waited_for_in_spite_of_an_interruption(loop):
    with ScriptedRelay({"BDAT": ["250 ok", HANG]}, CHUNKING) as relay:
        session = chunking(relay, loop=loop)
        with ThreadPoolExecutor(1) as thread:
            delivering = thread.submit(session.deliver, [envelope(0), envelope(1)])
            wait_until(lambda: len(relay.script.messages) == 2)
            loop.interrupt()
            with pytest.raises(FutureTimeout):
                delivering.result(2 * LATE)
            relay.say("250 2.0.0 taken, at last")
            assert told(delivering.result(10)) == [ACCEPTED] * 2


def test_a_connection_that_died_while_idle_leaves_doubt_where_bodies_were_written():
    with ScriptedRelay({"RSET": ["250 ok", CLOSE]}, CHUNKING) as relay:
        session = chunking(relay)
        session.deliver([envelope()])
        assert told(session.deliver([envelope(1)])) == [(Stage.DOT, How.LOST)]


@pytest.fixture
def deaf():
    """A relay that opens, says what it is given, and never reads on; its port, and how to end it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        yield server


def stop_reading(server, words, ends):
    connection, _ = server.accept()
    with connection:
        for said in [b"220 hi\r\n", b"250-r\r\n250-PIPELINING\r\n250 CHUNKING\r\n"]:
            connection.sendall(said)
            connection.recv(1000)
        connection.sendall(words)
        ends.wait(20)


@pytest.mark.parametrize("words", [b"", b"250 x\r\n" * 2])
def test_a_relay_that_reads_no_more_is_left_after_the_block_timeout(deaf, words):
    ends = threading.Event()
    patience = replace(PATIENT, block=0.3)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(stop_reading, deaf, words, ends)
        session = chunking(deaf.getsockname()[1], patience)
        session._transport._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        outcomes = told(session.deliver([envelope(n, size=60_000) for n in range(4)]))
        ends.set()
    assert outcomes[0][1] is How.TIMED_OUT
    assert outcomes[1:] == [(Stage.MAIL, How.UNTOUCHED)] * 3


def test_answers_that_came_while_a_write_was_stuck_are_heard(deaf):
    ends = threading.Event()
    patience = replace(PATIENT, block=0.3)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(stop_reading, deaf, b"250 x\r\n" * 4, ends)
        session = chunking(deaf.getsockname()[1], patience)
        session._transport._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        outcomes = told(session.deliver([envelope(0), *(envelope(n, size=60_000) for n in (1, 2, 3))]))
        ends.set()
    assert outcomes[0] == ACCEPTED
    assert outcomes[1] == (Stage.MAIL, How.TIMED_OUT)
    assert outcomes[2:] == [(Stage.MAIL, How.UNTOUCHED)] * 2


def test_a_relay_that_offers_bdat_and_does_not_know_it_loses_no_mail():
    bearing = Bearing()
    with ScriptedRelay({"BDAT": "502 5.5.1 not implemented"}, CHUNKING) as relay:
        assert told(chunking(relay, bearing=bearing).deliver([envelope()])) == [(Stage.MAIL, How.UNTOUCHED)]
        assert told(chunking(relay, bearing=bearing).deliver([envelope()])) == [ACCEPTED]
    assert [verb for verb in verbs(relay) if verb in {"BDAT", "DATA"}] == ["BDAT", "DATA"]
