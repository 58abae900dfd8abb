"""The engine without a network: what a scripted server says, and what comes of it."""

import pytest

from mailtasks.errors import IllegalMove
from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.smtp import Envelope
from mailtasks.smtp.auth import Credentials
from mailtasks.smtp.engine import EXPECTED, MOVES, Command, Engine, Failed, Finished, Opened, Opening, State
from mailtasks.smtp.transaction import Written
from mailtasks.testing.scripted import Script
from tests.lmtp import LmtpScript

ANN, BOB, CY = "ann@example.com", "bob@example.com", "cy@example.com"
STEPWISE = ("8BITMIME",)


def opened(*offered):
    engine = Engine(Opening("client.test"))
    engine.receive(b"220 hello\r\n")
    assert engine.data_to_send() == b"EHLO client.test\r\n"
    engine.receive(
        b"\r\n".join(b"250-" + line.encode() for line in ("relay.test", *offered)) + b"\r\n250 HELP\r\n"
    )
    assert engine.events() == [Opened()]
    return engine


def mail(*recipients, content=b"Subject: hi\r\n\r\nhello\r\n", sender="shop@example.com", smtputf8=False):
    return Envelope(sender, recipients or (ANN,), content, smtputf8)


def talk(script, envelopes, offered=("PIPELINING", "8BITMIME"), may_begin=lambda index: True):
    """The outcomes for each envelope, the flights that were written, the engine."""
    engine = opened(*offered)
    engine.begin(envelopes)
    flights = converse(engine, script, may_begin)
    outcomes = {event.index: event.outcomes for event in engine.events()}
    return [outcomes[index] for index in range(len(envelopes))], flights, engine


def converse(engine, script, may_begin=lambda index: True):
    """The flights that were written."""
    flights = []
    while engine.state in {State.TALKING, State.BODY}:
        if engine.state is State.BODY:
            engine.write_body() if may_begin(engine.body_index) else engine.abort()
            continue
        flights.append(engine.data_to_send())
        engine.receive(
            "".join(f"{line}\r\n" for said in script.feed(flights[-1]) for line in said.split("\n")).encode()
        )
    return flights


def shape(outcomes):
    return [[(o.stage, o.how, o.reply.code if o.reply else None) for o in each] for each in outcomes]


SENT = (Stage.DOT, How.ACCEPTED, 250)
UNTOUCHED = (Stage.MAIL, How.UNTOUCHED, None)


# The opening


def opening(replies, **wanted):
    """The lines that were written before it was ready or failed, and the last event."""
    engine = Engine(Opening("client.test", **wanted))
    written = []
    for reply in replies:
        engine.receive(reply)
        written += engine.data_to_send().splitlines()
        if engine.state is State.HANDSHAKE:
            written.append(b"(TLS)")
            engine.secured()
            written += engine.data_to_send().splitlines()
    [event] = engine.events()
    return written, event


def test_ehlo_is_answered_with_what_is_offered():
    engine = opened("PIPELINING", "SIZE 1000", "AUTH=LOGIN", "AUTH PLAIN", "8BITMIME", "SMTPUTF8")
    offers = engine.extensions
    assert (offers.pipelining, offers.eightbitmime, offers.smtputf8, offers.size) == (True, True, True, 1000)
    assert offers.offered["AUTH"] == ("LOGIN", "PLAIN")


def test_helo_is_said_where_ehlo_is_not_understood():
    written, event = opening([b"220 hi\r\n", b"502 what?\r\n", b"250 hello\r\n"])
    assert written == [b"EHLO client.test", b"HELO client.test"]
    assert event == Opened()


def test_starttls_comes_before_the_login_and_ehlo_is_said_again():
    written, event = opening(
        [
            b"220 hi\r\n",
            b"250-relay\r\n250-AUTH LOGIN\r\n250 STARTTLS\r\n",
            b"220 go\r\n",
            b"250-relay\r\n250 AUTH PLAIN\r\n",
            b"235 welcome\r\n",
        ],
        starttls=True,
        credentials=Credentials("ann", "secret"),
    )
    assert written == [
        b"EHLO client.test",
        b"STARTTLS",
        b"(TLS)",
        b"EHLO client.test",
        b"AUTH PLAIN AGFubgBzZWNyZXQ=",
    ]
    assert event == Opened()


@pytest.mark.parametrize(
    ("opening", "replies"),
    [
        (
            Opening("c", starttls=True),
            [b"220 hi\r\n", b"250-r\r\n250 STARTTLS\r\n", b"220 go\r\n", b"250-r\r\n250 REQUIRETLS\r\n"],
        ),
        (Opening("c", secure=True), [b"220 hi\r\n", b"250-r\r\n250 REQUIRETLS\r\n"]),
    ],
)
def test_over_tls_a_promise_of_tls_counts(opening, replies):
    engine = Engine(opening)
    for reply in replies:
        engine.receive(reply)
        engine.data_to_send()
        if engine.state is State.HANDSHAKE:
            engine.secured()
            engine.data_to_send()
    assert engine.events() == [Opened()]
    assert engine.extensions.requiretls


def test_in_plain_text_it_does_not():
    assert not opened("REQUIRETLS").extensions.requiretls


def test_login_by_login():
    written, event = opening(
        [
            b"220 hi\r\n",
            b"250-r\r\n250 AUTH LOGIN\r\n",
            b"334 VXNlcm5hbWU6\r\n",
            b"334 UGFzc3dvcmQ6\r\n",
            b"235 ok\r\n",
        ],
        credentials=Credentials("ann", "secret"),
    )
    assert written == [b"EHLO client.test", b"AUTH LOGIN", b"YW5u", b"c2VjcmV0"]
    assert event == Opened()


def test_a_challenge_too_many_is_cancelled():
    written, event = opening(
        [b"220 hi\r\n", b"250-r\r\n250 AUTH PLAIN\r\n", b"334 more\r\n", b"501 cancelled\r\n"],
        credentials=Credentials("ann", "secret"),
    )
    assert written[-1] == b"*"
    assert event == Failed(Outcome(Stage.AUTH, How.REFUSED, Reply(501, "cancelled")))


@pytest.mark.parametrize(
    ("mechanism", "answers"),
    [("PLAIN", [b"*"]), ("LOGIN", [b"YW5u", b"c2VjcmV0", b"*"]), ("XOAUTH2", [b"", b"*"])],
)
def test_challenges_without_end_are_no_reply(mechanism, answers):
    token = "t" if mechanism == "XOAUTH2" else ""
    challenges = [b"334 bW9yZQ==\r\n"] * (len(answers) + 1)
    written, event = opening(
        [b"220 hi\r\n", b"250-r\r\n250 AUTH %b\r\n" % mechanism.encode(), *challenges],
        credentials=Credentials("ann", "secret", token),
    )
    assert written[2:] == answers
    assert event == Failed(
        Outcome(Stage.AUTH, How.GARBAGE, detail="another challenge, though the login was cancelled")
    )


@pytest.mark.parametrize(
    ("replies", "wanted", "expected"),
    [
        ([b"554 5.3.2 no\r\n"], {}, (Stage.GREETING, How.REFUSED, 554)),
        ([b"421 later\r\n"], {}, (Stage.GREETING, How.REFUSED, 421)),
        ([b"354 what\r\n"], {}, (Stage.GREETING, How.GARBAGE, None)),
        ([b"HTTP/1.1 400 Bad Request\r\n"], {}, (Stage.GREETING, How.GARBAGE, None)),
        ([b"220 hi\r\n250 unasked\r\n"], {}, (Stage.GREETING, How.GARBAGE, None)),
        ([b"220 hi\r\n42", b"1 too busy\r\n"], {}, (Stage.GREETING, How.REFUSED, 421)),
        ([b"220 hi\r\n", b"451 later\r\n"], {}, (Stage.EHLO, How.REFUSED, 451)),
        ([b"220 hi\r\n", b"500 what\r\n", b"550 no\r\n"], {}, (Stage.EHLO, How.REFUSED, 550)),
        ([b"220 hi\r\n", b"250 r\r\n"], {"starttls": True}, (Stage.TLS, How.UNSUITABLE, None)),
        (
            [b"220 hi\r\n", b"250-r\r\n250 STARTTLS\r\n", b"454 no\r\n"],
            {"starttls": True},
            (Stage.TLS, How.REFUSED, 454),
        ),
        (
            [b"220 hi\r\n", b"250-r\r\n250 STARTTLS\r\n", b"220 go\r\n250 injected\r\n"],
            {"starttls": True},
            (Stage.TLS, How.GARBAGE, None),
        ),
        (
            [b"220 hi\r\n", b"250-r\r\n250 STARTTLS\r\n", b"220 go\r\n25"],
            {"starttls": True},
            (Stage.TLS, How.GARBAGE, None),
        ),
        (
            [b"220 hi\r\n", b"250-r\r\n250 AUTH PLAIN\r\n", b"535 5.7.8 no\r\n"],
            {"credentials": Credentials("a", "b")},
            (Stage.AUTH, How.REFUSED, 535),
        ),
        (
            [b"220 hi\r\n", b"250-r\r\n250 AUTH XOAUTH2\r\n"],
            {"credentials": Credentials("a", "b")},
            (Stage.AUTH, How.UNSUITABLE, None),
        ),
    ],
)
def test_an_opening_that_comes_to_nothing(replies, wanted, expected):
    _, event = opening(replies, **wanted)
    assert isinstance(event, Failed)
    assert shape([[event.outcome]]) == [[expected]]


@pytest.mark.parametrize(
    ("behind", "how", "told"),
    [
        (b"250 again\r\n", How.GARBAGE, "ehlo: a reply that nobody waits for: '250 again'"),
        (b"421 4.3.2 bye\r\n", How.REFUSED, "ehlo: 421 4.3.2 bye"),
        (b"what?\r\n", How.GARBAGE, "ehlo: not a reply: 'what?'"),
    ],
)
def test_it_is_open_when_it_is_in_step_and_not_before(behind, how, told):
    _, event = opening([b"220 hi\r\n", b"250 relay.test\r\n" + behind])
    assert isinstance(event, Failed)
    assert (event.outcome.how, str(event.outcome)) == (how, told)


@pytest.mark.parametrize(
    ("replies", "wanted", "sentence"),
    [
        ([b"250 r\r\n"], {"starttls": True}, "the relay offers no STARTTLS, and nothing goes in plain text"),
        (
            [b"250-r\r\n250 AUTH NTLM\r\n"],
            {"credentials": Credentials("a", "b")},
            "the relay offers no login by PLAIN, LOGIN or CRAM-MD5 (offered: NTLM)",
        ),
        (
            [b"250-r\r\n250 STARTTLS\r\n", b"220 go\r\n250"],
            {"starttls": True},
            "plain text behind the answer to STARTTLS",
        ),
        ([b"hello\r\n"], {}, "not a reply: 'hello'"),
        ([b"354 go\r\n"], {}, "no answer to EHLO: '354 go'"),
    ],
)
def test_why_is_told_to_people(replies, wanted, sentence):
    _, event = opening([b"220 hi\r\n", *replies], **wanted)
    assert event.outcome.detail == sentence


# Transactions


def test_with_pipelining_a_message_is_one_round_trip():
    script = Script()
    outcomes, flights, engine = talk(script, [mail(), mail(BOB), mail(CY)])
    assert shape(outcomes) == [[SENT]] * 3
    body, mail_from = b"Subject: hi\r\n\r\nhello\r\n.\r\n", b"MAIL FROM:<shop@example.com>\r\n"
    assert flights == [
        mail_from + b"RCPT TO:<ann@example.com>\r\nDATA\r\n",
        body + mail_from + b"RCPT TO:<bob@example.com>\r\nDATA\r\n",
        body + mail_from + b"RCPT TO:<cy@example.com>\r\nDATA\r\n",
        body,
    ]
    assert engine.state is State.IDLE
    assert outcomes[0][0] == Outcome(Stage.DOT, How.ACCEPTED, Reply(250, "taken", "2.0.0"), dot_begun=True)


def test_without_pipelining_it_goes_step_by_step():
    outcomes, flights, _ = talk(Script(), [mail(ANN, BOB)], STEPWISE)
    assert shape(outcomes) == [[SENT, SENT]]
    assert [flight.split(b"\r\n")[0] for flight in flights] == [
        b"MAIL FROM:<shop@example.com>",
        b"RCPT TO:<ann@example.com>",
        b"RCPT TO:<bob@example.com>",
        b"DATA",
        b"Subject: hi",
    ]


@pytest.mark.parametrize("offered", [("PIPELINING",), STEPWISE])
def test_every_recipient_has_its_own_result(offered):
    script = Script({"RCPT": ["250 ok", "550 5.1.1 no such user", "451 later"]})
    [outcomes], _, engine = talk(script, [mail(ANN, BOB, CY)], offered)
    assert shape([outcomes]) == [[SENT, (Stage.RCPT, How.REFUSED, 550), (Stage.RCPT, How.REFUSED, 451)]]
    assert [outcome.others_accepted for outcome in outcomes] == [False, True, True]
    assert [outcome.dot_begun for outcome in outcomes] == [True, False, False]
    assert engine.state is State.IDLE


@pytest.mark.parametrize("offered", [("PIPELINING",), STEPWISE])
def test_where_nobody_is_accepted_the_next_transaction_begins_with_a_reset(offered):
    asked = ["554 no valid recipients", "354 go"] if offered != STEPWISE else "354 go"
    script = Script({"RCPT": ["550 no", "250 ok"], "DATA": asked})
    outcomes, _, _ = talk(script, [mail(ANN), mail(BOB)], offered)
    assert shape(outcomes) == [[(Stage.RCPT, How.REFUSED, 550)], [SENT]]
    assert outcomes[0][0].others_accepted is False
    assert script.commands[-4:] == [
        "RSET",
        "MAIL FROM:<shop@example.com>",
        "RCPT TO:<bob@example.com>",
        "DATA",
    ]


def test_a_go_ahead_though_nobody_was_accepted_gets_a_lone_dot():
    script = Script(
        {"RCPT": ["550 no", "250 ok"], "DATA": "354 go", "DOT": ["554 no valid recipients", "250 ok"]}
    )
    outcomes, flights, _ = talk(script, [mail(ANN), mail(BOB)])
    assert shape(outcomes) == [[(Stage.RCPT, How.REFUSED, 550)], [SENT]]
    assert script.messages[0] == b""
    assert flights[1] == b".\r\n"


def test_a_lone_dot_belongs_to_nobody_when_the_connection_ends():
    script = Script({"RCPT": ["550 no", "250 ok"], "DATA": "354 go", "DOT": "421 bye"})
    outcomes, _, _ = talk(script, [mail(ANN), mail(BOB)])
    assert shape(outcomes) == [[(Stage.RCPT, How.REFUSED, 550)], [UNTOUCHED]]


@pytest.mark.parametrize("offered", [("PIPELINING",), STEPWISE])
def test_a_refused_sender_decides_for_every_recipient(offered):
    script = Script(
        {
            "MAIL": ["550 5.7.1 not you", "250 ok"],
            "RCPT": ["503 no", "503 no", "250 ok"] if offered == ("PIPELINING",) else "250 ok",
            "DATA": ["503 no", "354 go"] if offered == ("PIPELINING",) else "354 go",
        }
    )
    outcomes, _, engine = talk(script, [mail(ANN, BOB), mail(CY)], offered)
    assert shape(outcomes) == [[(Stage.MAIL, How.REFUSED, 550)] * 2, [SENT]]
    assert "RSET" in script.commands
    assert engine.state is State.IDLE


def test_a_relay_that_wants_a_message_whose_sender_it_refused_is_left():
    script = Script({"MAIL": "550 no", "RCPT": "250 ok", "DATA": "354 go"})
    outcomes, _, engine = talk(script, [mail(), mail(BOB)])
    assert shape(outcomes) == [[(Stage.DATA, How.GARBAGE, None)], [UNTOUCHED]]
    assert script.messages == []
    assert engine.state is State.CLOSED


def test_data_may_be_refused_for_those_who_were_accepted():
    script = Script({"RCPT": ["250 ok", "550 no"], "DATA": ["451 4.3.0 busy", "354 go"]})
    outcomes, _, _ = talk(script, [mail(ANN, BOB), mail(CY)])
    assert shape(outcomes) == [
        [(Stage.DATA, How.REFUSED, 451), (Stage.RCPT, How.REFUSED, 550)],
        [(Stage.RCPT, How.REFUSED, 550)],
    ]


@pytest.mark.parametrize("code", [451, 554])
def test_a_dot_may_be_refused_and_the_connection_is_kept(code):
    script = Script({"DOT": [f"{code} no", "250 ok"]})
    outcomes, _, engine = talk(script, [mail(), mail(BOB)])
    assert shape(outcomes) == [[(Stage.DOT, How.REFUSED, code)], [SENT]]
    assert outcomes[0][0].dot_begun
    assert "RSET" not in script.commands
    assert engine.state is State.IDLE


@pytest.mark.parametrize("said", ["530 5.7.0 log in", "535 5.7.8 log in again"])
def test_a_relay_that_wants_a_login_in_mid_session_is_left(said):
    script = Script({"MAIL": said, "RCPT": "503 no", "DATA": "503 no"})
    outcomes, _, engine = talk(script, [mail(), mail()])
    assert shape(outcomes) == [[(Stage.MAIL, How.REFUSED, int(said[:3]))], [UNTOUCHED]]
    assert engine.state is State.CLOSED


def test_a_relay_that_does_not_understand_is_left_before_the_next_message():
    script = Script({"RCPT": "501 what?", "DATA": "554 no"})
    outcomes, _, engine = talk(script, [mail(), mail(BOB)])
    assert shape(outcomes) == [[(Stage.RCPT, How.REFUSED, 501)], [UNTOUCHED]]
    assert engine.state is State.CLOSED


def test_a_refused_reset_closes_and_touches_nothing():
    script = Script({"RCPT": "550 no", "DATA": "554 no", "RSET": "500 what?"})
    outcomes, _, engine = talk(script, [mail(), mail(BOB), mail(CY)])
    assert shape(outcomes) == [[(Stage.RCPT, How.REFUSED, 550)], [UNTOUCHED], [UNTOUCHED]]
    assert outcomes[1][0].detail == "RSET was refused: 500 what?"
    assert engine.state is State.CLOSED


# What a server can't take


def test_a_size_is_told_and_a_larger_message_never_begun():
    script = Script()
    outcomes, flights, _ = talk(
        script, [mail(content=b"x" * 98), mail(content=b"x" * 99)], ("PIPELINING", "SIZE 100")
    )
    assert shape(outcomes) == [[SENT], [(Stage.MAIL, How.UNSUITABLE, None)]]
    assert outcomes[1][0].detail == "the message has 101 bytes; the relay takes 100 (SIZE)"
    assert flights[0].startswith(b"MAIL FROM:<shop@example.com> SIZE=100\r\n")
    assert len(script.messages) == 1


@pytest.mark.parametrize("offer", ["SIZE", "SIZE 0", "SIZE x", "SIZE " + "9" * 5000])
def test_a_size_without_a_limit_is_no_limit(offer):
    outcomes, flights, _ = talk(Script(), [mail()], ("PIPELINING", offer))
    assert shape(outcomes) == [[SENT]]
    assert b" SIZE=22\r\n" in flights[0]


def test_smtputf8_is_asked_for_where_it_is_offered():
    _, flights, _ = talk(Script(), [mail("jörg@example.com")], ("PIPELINING", "SMTPUTF8", "8BITMIME"))
    assert flights[0].startswith(
        "MAIL FROM:<shop@example.com> SMTPUTF8\r\nRCPT TO:<jörg@example.com>\r\n".encode()
    )


def test_8bitmime_is_asked_for_where_it_is_needed():
    _, flights, _ = talk(Script(), [mail(content="é".encode())], ("PIPELINING", "8BITMIME"))
    assert flights[0].startswith(b"MAIL FROM:<shop@example.com> BODY=8BITMIME\r\n")


@pytest.mark.parametrize(
    ("envelope", "sentence"),
    [
        (mail(smtputf8=True), "5.6.7 an address or header isn't ASCII, and the relay offers no SMTPUTF8"),
        (
            mail("jörg@example.com"),
            "5.6.7 an address or header isn't ASCII, and the relay offers no SMTPUTF8",
        ),
        (
            mail(content="é".encode()),
            "the message isn't ASCII, the relay offers no 8BITMIME, and it can't be encoded anew",
        ),
    ],
)
def test_what_is_not_offered_is_known_before_sending(envelope, sentence):
    outcomes, _, engine = talk(Script(), [envelope, mail()], ("PIPELINING",))
    assert shape(outcomes) == [[(Stage.MAIL, How.UNSUITABLE, None)], [SENT]]
    assert outcomes[0][0].detail == sentence
    assert engine.state is State.IDLE


def test_nothing_at_all_to_send_is_fine():
    assert talk(Script(), [])[0] == []
    assert shape(talk(Script(), [mail(smtputf8=True)])[0]) == [[(Stage.MAIL, How.UNSUITABLE, None)]]


# Endings


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("MAIL", [[(Stage.MAIL, How.REFUSED, 421)] * 2, [UNTOUCHED], [UNTOUCHED]]),
        ("RCPT", [[(Stage.RCPT, How.REFUSED, 421)] * 2, [UNTOUCHED], [UNTOUCHED]]),
        ("DATA", [[(Stage.DATA, How.REFUSED, 421)] * 2, [UNTOUCHED], [UNTOUCHED]]),
        ("DOT", [[(Stage.DOT, How.REFUSED, 421)] * 2, [UNTOUCHED], [UNTOUCHED]]),
    ],
)
def test_421_ends_it_at_any_time_and_what_was_not_begun_is_untouched(verb, expected):
    outcomes, _, engine = talk(Script({verb: "421 4.3.2 closing"}), [mail(ANN, BOB), mail(), mail()])
    assert shape(outcomes) == expected
    assert engine.state is State.CLOSED


def test_421_for_the_second_message_leaves_the_first_sent():
    outcomes, _, _ = talk(Script({"MAIL": ["250 ok", "421 enough"]}), [mail(), mail(), mail()])
    assert shape(outcomes) == [[SENT], [(Stage.MAIL, How.REFUSED, 421)], [UNTOUCHED]]


def test_421_unasked_is_no_desync():
    engine = opened("PIPELINING")
    engine.receive(b"421 idle for too long\r\n")
    assert (engine.state, engine.events()) == (State.CLOSED, [])


def waiting_for_the_dot():
    """Two envelopes, the first body written, its answer and those to the second's commands awaited."""
    engine = opened("PIPELINING")
    engine.begin([mail(ANN, BOB), mail(CY), mail()])
    engine.data_to_send()
    engine.receive(b"250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n")
    assert (engine.state, engine.body_index) == (State.BODY, 0)
    engine.write_body()
    return engine, engine.data_to_send()


def ended(engine):
    assert engine.state is State.CLOSED
    return shape([event.outcomes for event in sorted(engine.events(), key=lambda event: event.index)])


def test_what_is_lost_behind_a_dot_is_in_doubt():
    engine, _ = waiting_for_the_dot()
    engine.break_off(How.LOST, "reset by peer")
    events = engine.events()
    assert shape([events[0].outcomes]) == [[(Stage.DOT, How.LOST, None), (Stage.RCPT, How.REFUSED, 550)]]
    assert events[0].outcomes[0].dot_begun
    assert events[0].outcomes[1].others_accepted
    assert shape(event.outcomes for event in events[1:]) == [[UNTOUCHED], [UNTOUCHED]]


def test_a_dot_that_surely_never_left_was_not_begun():
    engine, written = waiting_for_the_dot()
    behind = written.partition(b"hello\r\n")[2]
    assert behind.startswith(b".\r\nMAIL")
    engine.break_off(How.LOST, "reset by peer", unsent=len(behind))
    assert engine.events()[0].outcomes[0].dot_begun is False


def test_a_dot_of_which_a_byte_may_have_left_was_begun():
    engine, written = waiting_for_the_dot()
    behind = written.partition(b"hello\r\n")[2]
    engine.break_off(How.LOST, "reset by peer", unsent=len(behind) - 1)
    assert engine.events()[0].outcomes[0].dot_begun is True


def test_an_answer_that_came_before_the_end_counts():
    engine, _ = waiting_for_the_dot()
    engine.receive(b"250 taken\r\n250 ok\r\n")
    assert engine.stage is Stage.RCPT
    engine.break_off(How.TIMED_OUT, "no answer in time")
    assert ended(engine) == [
        [SENT, (Stage.RCPT, How.REFUSED, 550)],
        [(Stage.RCPT, How.TIMED_OUT, None)],
        [UNTOUCHED],
    ]


@pytest.mark.parametrize(
    "said",
    [
        b"250 taken\r\n354 go\r\n",
        b"250 taken\r\n250 ok\r\n250 ok\r\n250 ok\r\n",
        b"250 taken\r\n250 ok\r\n250 ok\r\n354 go\r\n250 one too many\r\n",
        b"250 taken\r\n250 ok\r\n250 ok\r\n554 no\r\n250 one too many\r\n",
        b"250 taken\r\nwhat?\r\n",
        b"554 no\r\n250 ok\r\n250 ok\r\n354 go\r\n250 one too many\r\n",
    ],
)
def test_out_of_step_nothing_since_the_last_time_in_step_is_believed(said):
    engine, _ = waiting_for_the_dot()
    engine.receive(said)
    first, second, third = sorted(engine.events(), key=lambda event: event.index)
    assert shape([first.outcomes]) == [[(Stage.DOT, How.GARBAGE, None), (Stage.RCPT, How.REFUSED, 550)]]
    assert first.outcomes[0].dot_begun
    assert second.outcomes[0].how is How.GARBAGE
    assert not second.outcomes[0].dot_begun
    assert shape([third.outcomes]) == [[UNTOUCHED]]
    assert engine.state is State.CLOSED


def test_a_go_ahead_for_the_dot_is_garbage_and_leaves_doubt():
    engine, _ = waiting_for_the_dot()
    engine.receive(b"354 go\r\n")
    assert ended(engine)[0][0] == (Stage.DOT, How.GARBAGE, None)


def test_before_any_dot_garbage_leaves_no_doubt_and_no_verdict():
    engine = opened("PIPELINING")
    engine.begin([mail(ANN, BOB), mail()])
    engine.data_to_send()
    engine.receive(b"250 ok\r\n550 no\r\n354 too early\r\n")
    [first, second] = engine.events()
    assert shape([first.outcomes, second.outcomes]) == [[(Stage.RCPT, How.GARBAGE, None)] * 2, [UNTOUCHED]]
    assert not any(outcome.dot_begun for outcome in first.outcomes)
    assert first.outcomes[0].detail == "no answer to RCPT: '354 too early'"


def test_no_body_while_something_is_unread():
    engine = opened("PIPELINING")
    engine.begin([mail()])
    engine.data_to_send()
    engine.receive(b"250 ok\r\n250 ok\r\n354 go\r\n42")
    assert engine.state is State.TALKING
    engine.receive(b"1 bye\r\n")
    assert ended(engine) == [[(Stage.DATA, How.REFUSED, 421)]]


def test_what_was_not_sent_is_not_answered():
    engine = opened("PIPELINING")
    engine.begin([mail()])
    engine.receive(b"250 ok\r\n")
    assert engine.events()[0].outcomes[0].detail == "a reply that nobody waits for: '250 ok'"


def test_an_unasked_reply_while_idle_closes():
    engine = opened("PIPELINING")
    engine.receive(b"250 hello?\r\n")
    assert (engine.state, engine.events()) == (State.CLOSED, [])


def test_after_the_end_nothing_is_heard_any_more():
    engine = opened("PIPELINING")
    engine.receive(b"421 bye\r\n250 and another thing\r\n")
    engine.receive(b"garbage\r\n")
    engine.break_off(How.LOST, "again")
    assert engine.events() == []


# What the driver decides


def test_a_driver_that_says_no_begins_nothing():
    script = Script({"RCPT": ["250 ok", "250 ok", "550 no"]})
    outcomes, flights, engine = talk(
        script, [mail(), mail(ANN, BOB), mail()], may_begin=lambda index: index < 1
    )
    assert shape(outcomes) == [
        [SENT],
        [(Stage.DATA, How.UNTOUCHED, None), (Stage.RCPT, How.REFUSED, 550)],
        [UNTOUCHED],
    ]
    assert script.messages == [b"Subject: hi\r\n\r\nhello\r\n"]
    assert not flights[-1].endswith(b".\r\n")
    assert engine.state is State.CLOSED


def test_quit():
    engine = opened()
    engine.quit()
    assert engine.data_to_send() == b"QUIT\r\n"
    engine.receive(b"221 bye\r\n")
    assert engine.state is State.CLOSED


def test_body_is_normalised_and_stuffed():
    script = Script()
    talk(script, [mail(content=b"a\n.\n.b\r\n\r.c")])
    assert script.messages == [b"a\r\n.\r\n.b\r\n\r\n.c\r\n"]
    assert not script.bare


# LMTP


def lmtp(script, envelopes, may_begin=lambda index: True):
    engine = Engine(Opening("client.test", lmtp=True))
    engine.receive(b"220 hello\r\n")
    said = script.feed(engine.data_to_send())
    engine.receive("".join(f"{line}\r\n" for line in said[0].split("\n")).encode())
    assert engine.events() == [Opened()]
    engine.begin(envelopes)
    flights = converse(engine, script, may_begin)
    outcomes = {event.index: event.outcomes for event in engine.events()}
    return [outcomes[index] for index in range(len(envelopes))], flights, engine


@pytest.mark.parametrize("offered", [("PIPELINING",), STEPWISE])
def test_lmtp_answers_for_each_accepted_recipient_in_order(offered):
    script = LmtpScript(
        {"RCPT": ["250 ok", "550 5.1.1 no such user", "250 ok", "250 ok"]},
        offered,
        ["250 2.0.0 stored", "452 4.2.2 full", "550 5.2.1 disabled"],
    )
    [outcomes], flights, engine = lmtp(script, [mail(ANN, BOB, CY, "di@example.com")])
    assert shape([outcomes]) == [
        [SENT, (Stage.RCPT, How.REFUSED, 550), (Stage.DOT, How.REFUSED, 452), (Stage.DOT, How.REFUSED, 550)]
    ]
    assert [outcome.dot_begun for outcome in outcomes] == [True, False, True, True]
    assert script.commands[0] == "LHLO client.test"
    assert flights[-1].endswith(b"hello\r\n.\r\n")
    assert engine.state is State.IDLE


def test_lmtp_is_pipelined_as_well():
    script = LmtpScript(deliveries=["250 a", "550 b", "250 c"])
    outcomes, flights, _ = lmtp(script, [mail(ANN, BOB), mail(CY)])
    assert shape(outcomes) == [[SENT, (Stage.DOT, How.REFUSED, 550)], [SENT]]
    assert b"\r\n.\r\nMAIL FROM" in flights[1]
    assert len(flights) == 3


def test_lmtp_falls_back_to_nothing():
    engine = Engine(Opening("client.test", lmtp=True))
    engine.receive(b"220 hello\r\n")
    assert engine.data_to_send() == b"LHLO client.test\r\n"
    engine.receive(b"500 5.5.1 what?\r\n")
    assert engine.events() == [Failed(Outcome(Stage.EHLO, How.REFUSED, Reply(500, "what?", "5.5.1")))]


def waiting_for_deliveries():
    """Behind the dot of a message to three, with the next one's commands in flight."""
    engine = Engine(Opening("client.test", lmtp=True))
    engine.receive(b"220 hello\r\n")
    engine.data_to_send()
    engine.receive(b"250-relay.test\r\n250 PIPELINING\r\n")
    engine.events()
    engine.begin([mail(ANN, BOB, CY), mail()])
    engine.data_to_send()
    engine.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    engine.write_body()
    engine.data_to_send()
    return engine


LOST_BEHIND_DOT = (Stage.DOT, How.LOST, None)


def test_whose_answer_is_missing_is_in_doubt_and_the_others_are_settled():
    engine = waiting_for_deliveries()
    engine.receive(b"250 a\r\n550 b\r\n")
    assert engine.stage is Stage.DOT
    engine.break_off(How.LOST, "reset")
    assert ended(engine) == [[SENT, (Stage.DOT, How.REFUSED, 550), LOST_BEHIND_DOT], [UNTOUCHED]]


def test_421_answers_for_one_recipient_and_leaves_doubt_about_the_rest():
    engine = waiting_for_deliveries()
    engine.receive(b"250 a\r\n421 4.3.2 closing\r\n")
    events = engine.events()
    assert shape([events[0].outcomes]) == [[SENT, (Stage.DOT, How.REFUSED, 421), LOST_BEHIND_DOT]]
    assert all(outcome.dot_begun for outcome in events[0].outcomes)
    assert events[0].outcomes[2].detail == "the relay left before it told"
    assert engine.state is State.CLOSED


@pytest.mark.parametrize("said", [b"250 a\r\nwhat?\r\n", b"250 a\r\n250 b\r\n550 c\r\n354 go\r\n"])
def test_out_of_step_no_delivery_is_believed(said):
    engine = waiting_for_deliveries()
    engine.receive(said)
    assert ended(engine)[0] == [(Stage.DOT, How.GARBAGE, None)] * 3


def test_lmtp_sends_no_lone_dot():
    script = LmtpScript({"RCPT": "550 no", "DATA": "354 go"})
    outcomes, flights, engine = lmtp(script, [mail(), mail(BOB)])
    assert shape(outcomes) == [[(Stage.RCPT, How.REFUSED, 550)], [UNTOUCHED]]
    assert len(flights) == 1
    assert engine.state is State.CLOSED


def test_lmtp_goes_on_where_nobody_is_accepted():
    script = LmtpScript({"RCPT": ["550 no", "250 ok"]})
    outcomes, _, _ = lmtp(script, [mail(), mail(BOB)])
    assert shape(outcomes) == [[(Stage.RCPT, How.REFUSED, 550)], [SENT]]


def test_a_body_in_pieces_is_not_copied_and_what_follows_it_is_the_last_piece():
    large = b"x" * 76 + b"\r\n"
    engine = opened("PIPELINING")
    engine.begin([mail(content=(b"Subject: hi\r\n\r\n.\r\n", large)), mail()])
    engine.data_to_send()
    engine.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    engine.write_body()
    head, body, ending = engine.pieces_to_send()
    assert head == b"Subject: hi\r\n\r\n..\r\n"
    assert body is large
    assert ending.startswith(b".\r\nMAIL FROM:")
    assert engine.behind_body == len(ending)
    assert engine.pieces_to_send() == []


# The tables


def test_an_illegal_move_raises_with_a_sentence():
    engine = Engine(Opening("x"))
    with pytest.raises(IllegalMove) as raised:
        engine.quit()
    assert (
        str(raised.value) == "an SMTP connection that is opening can't become quitting; "
        "it may become closed, handshake, idle"
    )


def test_every_state_is_reached_and_ends():
    reached = {State.OPENING} | set().union(*MOVES.values())
    assert reached == set(State) == set(MOVES)
    assert all(State.CLOSED in to for state, to in MOVES.items() if state is not State.CLOSED)


def test_only_data_and_auth_may_be_answered_with_a_question():
    assert {command for command, kinds in EXPECTED.items() if 3 in kinds} == {Command.DATA, Command.AUTH}


def test_a_finished_event_carries_one_outcome_a_recipient():
    engine = opened("PIPELINING")
    engine.begin([mail(ANN, BOB)])
    engine.break_off(How.LOST, "gone")
    lost = Outcome(Stage.MAIL, How.LOST, detail="gone")
    assert engine.events() == [Finished(0, (lost, lost), Written.IN_FLIGHT)]


def test_it_is_told_how_the_commands_went_out():
    script = Script(
        {"RCPT": ["250 ok", "250 ok", "550 no", "250 ok"], "DATA": ["354 go", "354 go", "554 no", "354 go"]}
    )
    engine = opened("PIPELINING")
    engine.begin([mail()] * 4)
    converse(engine, script)
    assert [event.written for event in engine.events()] == [
        Written.IN_FLIGHT,
        Written.BEHIND_DOT,
        Written.BEHIND_DOT,
        Written.STEPWISE,  # behind a reset
    ]


def test_a_driver_may_want_it_step_by_step():
    engine = opened("PIPELINING")
    engine.begin([mail(), mail(BOB)], stepwise=True)
    flights = converse(engine, Script())
    assert [flight.split(b" ")[0].split(b"\r\n")[0] for flight in flights] == [
        *(b"MAIL", b"RCPT", b"DATA", b"Subject:"),
        *(b"MAIL", b"RCPT", b"DATA", b"Subject:"),
    ]
    assert [event.written for event in engine.events()] == [Written.STEPWISE] * 2
    engine.begin([mail()])
    assert engine.data_to_send().count(b"\r\n") == 3
