"""Flights of whole messages without a network: what a scripted server says, and what comes of it."""

import pytest

from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.smtp import Envelope
from mailtasks.smtp.chunking import ANSWERS, EXPECTED, FLIGHT, LARGEST, Chunking, suits
from mailtasks.smtp.engine import State
from mailtasks.smtp.envelope import Notifications
from mailtasks.smtp.transaction import Extensions, Written
from mailtasks.testing.scripted import Script

ANN, BOB, CY = "ann@example.com", "bob@example.com", "cy@example.com"
OFFERED = ("PIPELINING", "8BITMIME", "CHUNKING")
BODY = b"Subject: hi\r\n\r\nhello\r\n"


def extensions(*more):
    return Extensions.parse([b"250-relay.test", *(b"250-" + line.encode() for line in (*OFFERED, *more))])


def mail(*recipients, content=BODY, sender="shop@example.com", smtputf8=False, notifications=None):
    return Envelope(sender, recipients or (ANN,), content, smtputf8, notifications)


def talk(script, envelopes, may_begin=lambda index: True, offered=()):
    """The outcomes for each envelope, the flights that were written, the dialogue."""
    chunking = Chunking(extensions(*offered), enumerate(envelopes))
    flights = []
    while chunking.state in {State.TALKING, State.BODY}:
        if chunking.state is State.BODY:
            chunking.write_body() if may_begin(chunking.body_index) else chunking.abort()
            continue
        flights.append(chunking.data_to_send())
        chunking.receive(wire(script.feed(flights[-1])))
    outcomes = {event.index: event.outcomes for event in chunking.events()}
    return [outcomes[index] for index in range(len(envelopes))], flights, chunking


def wire(replies):
    return "".join(f"{line}\r\n" for reply in replies for line in reply.split("\n")).encode()


def shape(outcomes):
    return [[(o.stage, o.how, o.reply.code if o.reply else None) for o in each] for each in outcomes]


SENT = (Stage.DOT, How.ACCEPTED, 250)
UNTOUCHED = (Stage.MAIL, How.UNTOUCHED, None)
GARBAGE = (Stage.DOT, How.GARBAGE, None)
LOST = (Stage.DOT, How.LOST, None)


def commands(flight):
    return [line for line in flight.split(b"\r\n") if line[:4] in {b"RSET", b"MAIL", b"RCPT", b"BDAT"}]


# What is written


def test_a_window_is_one_flight():
    script = Script(extensions=OFFERED)
    outcomes, flights, chunking = talk(script, [mail(ANN, BOB), mail(content=b"no end of line\n.\n.a")])
    assert shape(outcomes) == [[SENT, SENT], [SENT]]
    assert flights == [
        b"RSET\r\nMAIL FROM:<shop@example.com>\r\nRCPT TO:<ann@example.com>\r\nRCPT TO:<bob@example.com>\r\n"
        b"BDAT 22 LAST\r\nSubject: hi\r\n\r\nhello\r\n"
        b"RSET\r\nMAIL FROM:<shop@example.com>\r\nRCPT TO:<ann@example.com>\r\n"
        b"BDAT 23 LAST\r\nno end of line\r\n.\r\n.a\r\n"
    ]
    assert script.taken == [BODY, b"no end of line\r\n.\r\n.a\r\n"]
    assert (chunking.state, chunking.reset_due) == (State.IDLE, False)


def test_how_it_was_written_is_told():
    chunking = Chunking(extensions(), [(7, mail()), (8, mail(smtputf8=True))])
    chunking.write_body()
    chunking.data_to_send()
    chunking.receive(b"250 x\r\n" * 4)
    told = {event.index: event.written for event in chunking.events()}
    assert told == {7: Written.WITH_BODY, 8: Written.STEPWISE}


def test_parameters_are_those_of_data():
    wanted = Notifications(notify=("failure",), returned="headers", id="b.0")
    envelope = mail("jörg@example.com", content="ü".encode(), smtputf8=True, notifications=wanted)
    _, [flight], _ = talk(Script(extensions=OFFERED), [envelope], offered=("SIZE 1000", "SMTPUTF8", "DSN"))
    assert commands(flight) == [
        b"RSET",
        b"MAIL FROM:<shop@example.com> SIZE=4 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=b.0",
        "RCPT TO:<jörg@example.com> NOTIFY=FAILURE".encode(),
        b"BDAT 4 LAST",
    ]


def test_what_the_relay_can_not_take_is_not_written():
    envelopes = [mail(content=b"x" * 100), mail(), mail(smtputf8=True)]
    outcomes, [flight], _ = talk(Script(extensions=OFFERED), envelopes, offered=("SIZE 50",))
    assert shape(outcomes)[1] == [SENT]
    assert [each[0].how for each in outcomes] == [How.UNSUITABLE, How.ACCEPTED, How.UNSUITABLE]
    assert outcomes[0][0].detail == "the message has 102 bytes; the relay takes 50 (SIZE)"
    assert len(commands(flight)) == 4


def test_if_nothing_is_written_it_is_over_at_once():
    outcomes, flights, chunking = talk(Script(), [mail(smtputf8=True)])
    assert ([each[0].how for each in outcomes], flights) == ([How.UNSUITABLE], [])
    assert chunking.state is State.IDLE


def test_a_flight_is_bounded_and_the_next_one_waits_for_its_answers():
    large = mail(content=b"x" * LARGEST)
    outcomes, flights, _ = talk(Script(extensions=OFFERED), [large] * 8)
    assert shape(outcomes) == [[SENT]] * 8
    assert [flight.count(b"BDAT") for flight in flights] == [3, 3, 2]
    assert all(len(flight) <= FLIGHT for flight in flights)


def test_what_is_too_large_does_not_suit():
    assert suits(mail(content=b"x" * LARGEST))
    assert not suits(mail(content=b"x" * (LARGEST + 1)))
    assert suits(mail(content=(b"x\r\n", b"y" * (LARGEST - 3))))
    assert not suits(mail(content=(b"x\r\n", b"y" * (LARGEST - 2))))


def test_it_is_known_how_much_waits_to_be_taken():
    chunking = Chunking(extensions(), enumerate([mail()] * 2))
    chunking.write_body()
    assert chunking.waiting == len(chunking.data_to_send())
    assert (chunking.waiting, chunking.state) == (0, State.BODY)


def test_every_command_has_an_answer_and_the_longest_stage_is_waited_for():
    assert ANSWERS.keys() == EXPECTED.keys()
    assert Chunking(extensions(), []).stage is Stage.DOT


# Refusals


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"MAIL": ["250 x", "550 no", "250 x"]}, (Stage.MAIL, How.REFUSED, 550)),
        ({"RCPT": ["250 x", "451 later", "250 x"]}, (Stage.RCPT, How.REFUSED, 451)),
        ({"BDAT": ["250 x", "451 later", "250 x"]}, (Stage.DOT, How.REFUSED, 451)),
        ({"BDAT": ["250 x", "554 spam", "250 x"]}, (Stage.DOT, How.REFUSED, 554)),
    ],
)
def test_a_refusal_in_the_middle_concerns_one_message(replies, expected):
    script = Script(replies, OFFERED)
    outcomes, [_], chunking = talk(script, [mail(), mail(), mail()])
    assert shape(outcomes) == [[SENT], [expected], [SENT]]
    assert outcomes[1][0].dot_begun is (expected[0] is Stage.DOT)
    assert (chunking.state, len(script.taken)) == (State.IDLE, 2)


def test_some_recipients_are_refused():
    script = Script({"RCPT": ["250 x", "550 5.1.1 who", "452 4.5.3 too many"]}, OFFERED)
    [outcomes], [_], _ = talk(script, [mail(ANN, BOB, CY)])
    assert shape([outcomes]) == [[SENT, (Stage.RCPT, How.REFUSED, 550), (Stage.RCPT, How.REFUSED, 452)]]
    assert [each.others_accepted for each in outcomes] == [False, True, True]


def test_of_a_refused_sender_the_reply_to_mail_counts():
    script = Script({"MAIL": "550 no", "RCPT": "550 none", "BDAT": "503 what"}, OFFERED)
    [outcomes], [_], chunking = talk(script, [mail(ANN, BOB)])
    assert shape([outcomes]) == [[(Stage.MAIL, How.REFUSED, 550)] * 2]
    assert (chunking.state, chunking.reset_due) == (State.IDLE, True)


def test_a_body_that_is_accepted_for_nobody_shows_that_we_are_out_of_step():
    for refused in ({"RCPT": ["250 x", "550 no", "250 x"]}, {"MAIL": ["250 x", "550 no"]}):
        outcomes, [_], chunking = talk(Script({**refused, "BDAT": "250 taken"}, OFFERED), [mail()] * 3)
        assert shape(outcomes) == [[GARBAGE]] * 3
        assert all(each[0].dot_begun for each in outcomes)
        assert chunking.state is State.CLOSED
        assert str(outcomes[0][0]) == (
            "dot: the relay took a message whose sender or recipients it had all refused"
        )


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504])
def test_a_bdat_that_is_not_understood_is_no_verdict_on_the_message(code):
    script = Script({"BDAT": f"{code} what"}, OFFERED)
    outcomes, [_], chunking = talk(script, [mail(), mail()])
    assert shape(outcomes) == [[(Stage.DATA, How.REFUSED, code)]] * 2
    assert not outcomes[0][0].dot_begun
    assert chunking.state is State.CLOSED, "a new connection is wiser"


def test_where_a_login_is_wanted_no_further_flight_is_written():
    outcomes, flights, chunking = talk(
        Script({"MAIL": "530 5.7.0 login"}, OFFERED), [mail(content=b"x" * LARGEST)] * 5
    )
    assert shape(outcomes) == [[(Stage.MAIL, How.REFUSED, 530)]] * 3 + [[UNTOUCHED]] * 2
    assert (len(flights), chunking.state) == (1, State.CLOSED)


def test_a_recipient_that_is_not_understood_beside_one_who_has_the_mail_ends_nothing():
    script = Script({"RCPT": ["501 5.1.3 what", "250 x"]}, OFFERED)
    outcomes, [_], chunking = talk(script, [mail(ANN, BOB)])
    assert shape(outcomes) == [[(Stage.RCPT, How.REFUSED, 501), SENT]]
    assert chunking.state is State.IDLE


@pytest.mark.parametrize(
    ("replies", "due"),
    [({}, False), ({"BDAT": ["250 x", "554 no"]}, True), ({"BDAT": ["554 no", "250 x"]}, False)],
)
def test_a_reset_is_due_if_the_last_message_was_not_taken(replies, due):
    assert talk(Script(replies, OFFERED), [mail(), mail()])[2].reset_due is due


def test_recipients_of_a_refused_message_do_not_get_the_next_one():
    """A relay that keeps a transaction whose BDAT it has refused, as RFC 3030 lets it, until RSET."""
    relay = Keeping()
    outcomes, [_], _ = talk(relay, [mail(ANN), mail(BOB)])
    assert shape(outcomes) == [[(Stage.DOT, How.REFUSED, 451)], [SENT]]
    assert relay.delivered == [["<bob@example.com>"]]


class Keeping(Script):
    def __init__(self):
        super().__init__({"BDAT": ["451 later", "250 x"]}, OFFERED)
        self.recipients, self.delivered = [], []

    def _answer(self, line):
        answer = super()._answer(line)
        if line == b"RSET":
            self.recipients = []
        elif line.startswith(b"RCPT"):
            self.recipients.append(line.decode().partition(":")[2])
        elif line.startswith(b"BDAT") and answer.startswith("2"):
            self.delivered.append(self.recipients)
            self.recipients = []
        return answer


# Out of step


@pytest.mark.parametrize(
    ("replies", "detail"),
    [
        ({"BDAT": ["250 x", "250 x\n250 more"]}, "a reply that nobody waits for: '250 more'"),
        ({"MAIL": ["250 x", "354 go"]}, "no answer to MAIL: '354 go'"),
        ({"BDAT": ["250 x", "354 go"]}, "no answer to BDAT: '354 go'"),
        ({"RSET": ["250 x", "500 what"]}, "no answer to RSET: '500 what'"),
        ({"RSET": ["250 x", "450 later"]}, "no answer to RSET: '450 later'"),
        ({"RSET": ["250 2.0.0 x", "250 2.1.0 x"]}, "RSET was answered otherwise before: '250 2.1.0 x'"),
        ({"RSET": ["250 2.0.0 x", "250 x"]}, "RSET was answered otherwise before: '250 x'"),
        ({"RCPT": ["250 x", "what?"]}, "not a reply: 'what?'"),
        ({"BDAT": ["250 x", "250-a\n251 b"]}, "not the next line of a 250 reply: '251 b'"),
    ],
)
def test_out_of_step_nothing_of_the_flight_is_believed(replies, detail):
    outcomes, [_], chunking = talk(Script(replies, OFFERED), [mail(ANN), mail(ANN)])
    assert outcomes == [(Outcome(Stage.DOT, How.GARBAGE, None, detail, dot_begun=True),)] * 2
    assert chunking.state is State.CLOSED


@pytest.mark.parametrize("missing", range(1, 6))
def test_an_answer_that_is_missing_shows_at_the_next_message(missing):
    """Else, of two recipients, the one who was refused would be told of as sent."""
    answers = ["250 2.0.0 flushed", "250 2.1.0 ok", "250 2.1.5 ok", "550 5.1.1 who", "250 2.0.0 taken"]
    said = answers * 3
    del said[missing]
    chunking, _ = written(3, ANN, BOB)
    chunking.receive(wire(said))
    assert {how for each in told(chunking) for _, how, _ in each} == {How.GARBAGE}


def test_reset_may_be_answered_in_other_words():
    script = Script({"RSET": ["250 2.0.0 id 1", "250 2.0.0 id 2", "250-2.0.0 id\n250 3"]}, OFFERED)
    assert shape(talk(script, [mail()] * 3)[0]) == [[SENT]] * 3


def test_nor_what_was_refused_in_it():
    script = Script({"RCPT": ["550 no", "250 x"], "BDAT": ["554 no", "what?"]}, OFFERED)
    outcomes, [_], _ = talk(script, [mail(ANN, BOB), mail(ANN)])
    assert shape(outcomes) == [[GARBAGE, GARBAGE], [GARBAGE]]
    assert not any(outcome.others_accepted for outcome in outcomes[0])


def test_the_flight_before_is_believed_and_the_next_untouched():
    envelopes = [mail(content=b"x" * LARGEST)] * 8
    outcomes, flights, _ = talk(Script({"BDAT": [*["250 x"] * 4, "what?"]}, OFFERED), envelopes)
    assert len(flights) == 2
    assert shape(outcomes) == [[SENT]] * 3 + [[GARBAGE]] * 3 + [[UNTOUCHED]] * 2


def test_what_is_left_unread_behind_the_last_answer_is_waited_for():
    chunking, _ = written(1)
    chunking.receive(b"250 x\r\n" * 4 + b"25")
    assert (chunking.state, chunking.events()) == (State.TALKING, [])
    chunking.receive(b"0 more\r\n")
    assert told(chunking) == [[GARBAGE]]


def test_a_reply_to_what_was_not_sent_yet_is_out_of_step():
    chunking = Chunking(extensions(), enumerate([mail()]))
    chunking.write_body()
    chunking.receive(b"250 x\r\n" * 4)
    [event] = chunking.events()
    assert event.outcomes[0] == Outcome(
        Stage.MAIL, How.UNTOUCHED, detail="a reply that nobody waits for: '250 x'"
    ), "it never left"


# Endings


def written(count=3, *recipients):
    """A dialogue whose flight was sent, and how long each message in it is."""
    chunking = Chunking(extensions(), enumerate([mail(*recipients)] * count))
    for _ in range(count):
        chunking.write_body()
    return chunking, len(chunking.data_to_send()) // count


def told(chunking):
    outcomes = {event.index: event.outcomes for event in chunking.events()}
    return shape(outcomes[index] for index in sorted(outcomes))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (0, [[LOST], [LOST], [LOST]]),
        (3, [[LOST], [LOST], [LOST]]),
        (4, [[SENT], [LOST], [LOST]]),
        (9, [[SENT], [SENT], [LOST]]),
    ],
)
def test_who_has_all_answers_keeps_them_if_the_connection_ends(answers, expected):
    chunking, _ = written()
    chunking.receive(b"250 x\r\n" * answers)
    chunking.break_off(How.LOST, "reset")
    events = chunking.events()
    assert shape(event.outcomes for event in events) == expected
    assert all(event.outcomes[0].dot_begun for event in events)


@pytest.mark.parametrize(
    ("how", "doubt"),
    [(How.LOST, How.LOST), (How.TIMED_OUT, How.TIMED_OUT), (How.UNTOUCHED, How.LOST)],
)
def test_a_body_that_left_as_a_whole_is_in_doubt_and_no_other(how, doubt):
    chunking, length = written(4)
    chunking.receive(b"250 x\r\n" * 4)
    chunking.cut_off(length + 1)  # of the third all but a byte has left
    chunking.break_off(how, "reset")
    assert told(chunking) == [[SENT], [(Stage.DOT, doubt, None)], [UNTOUCHED], [UNTOUCHED]]
    assert chunking.state is State.CLOSED


def test_the_first_whose_body_can_not_have_come_bears_how_it_ended():
    chunking, length = written(2)
    chunking.cut_off(length + 1)
    chunking.receive(b"250 x\r\n" * 2)
    chunking.break_off(How.LOST, "reset")
    [first, second] = chunking.events()
    assert first.outcomes == (Outcome(Stage.RCPT, How.LOST, detail="reset"),)
    assert second.outcomes == (Outcome(Stage.MAIL, How.UNTOUCHED, detail="reset"),)


def test_what_never_left_is_untouched():
    chunking, length = written(2)
    chunking.cut_off(2 * length)
    chunking.break_off(How.LOST, "reset")
    assert told(chunking) == [[UNTOUCHED], [UNTOUCHED]]


def test_who_was_refused_is_not_in_doubt():
    chunking, _ = written(2, ANN, BOB)
    chunking.receive(b"250 x\r\n250 x\r\n550 no\r\n")
    chunking.break_off(How.LOST, "reset")
    assert told(chunking) == [[(Stage.RCPT, How.REFUSED, 550), LOST], [LOST, LOST]]


def test_a_refused_sender_leaves_no_doubt():
    chunking, _ = written(2)
    chunking.receive(b"250 x\r\n550 no\r\n")
    chunking.break_off(How.LOST, "reset")
    assert told(chunking) == [[(Stage.MAIL, How.REFUSED, 550)], [LOST]]


def test_a_message_that_is_taken_before_it_came_is_out_of_step():
    chunking, _ = written(2)
    chunking.cut_off(1)
    chunking.receive(b"250 x\r\n" * 8)
    first, second = chunking.events()
    assert shape([first.outcomes, second.outcomes]) == [[GARBAGE], [UNTOUCHED]]
    assert first.outcomes[0].detail == "the relay took a message before it had all of it"


def test_one_that_is_refused_before_it_came_is_refused():
    chunking, _ = written(1)
    chunking.cut_off(1)
    chunking.receive(b"250 x\r\n" * 3 + b"552 too big\r\n")
    assert told(chunking) == [[(Stage.DOT, How.REFUSED, 552)]]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (0, [[(Stage.MAIL, How.REFUSED, 421)], [UNTOUCHED]]),
        (2, [[(Stage.RCPT, How.REFUSED, 421)], [UNTOUCHED]]),
        (3, [[(Stage.DOT, How.REFUSED, 421)], [UNTOUCHED]]),
        (4, [[SENT], [(Stage.MAIL, How.REFUSED, 421)]]),
        (8, [[SENT], [SENT]]),
    ],
)
def test_a_421_is_borne_by_one_and_what_is_behind_it_is_untouched(answers, expected):
    chunking, _ = written(2)
    chunking.receive(b"250 x\r\n" * answers + b"421 4.3.2 bye\r\n")
    events = chunking.events()
    assert shape(event.outcomes for event in events) == expected
    assert [event.outcomes[0].dot_begun for event in events] == [
        stage is Stage.DOT for [(stage, _, _)] in expected
    ]
    assert chunking.state is State.CLOSED


def test_after_the_end_nothing_is_heard_any_more():
    chunking, _ = written(1)
    chunking.receive(b"421 bye\r\n")
    chunking.receive(b"250 x\r\n" * 4)
    chunking.break_off(How.LOST, "reset")
    [event] = chunking.events()
    assert event.outcomes == (Outcome(Stage.MAIL, How.REFUSED, Reply(421, "bye")),)


# The driver's right


def test_it_is_asked_before_each_message_and_what_was_written_is_answered():
    asked = []
    script = Script(extensions=OFFERED)
    outcomes, [flight], chunking = talk(script, [mail()] * 4, lambda index: asked.append(index) or index < 2)
    assert asked == [0, 1, 2]
    assert shape(outcomes) == [[SENT], [SENT], [UNTOUCHED], [UNTOUCHED]]
    assert (flight.count(b"BDAT"), chunking.state) == (2, State.CLOSED)


def test_if_it_wants_none_nothing_is_written():
    outcomes, flights, chunking = talk(Script(), [mail()] * 2, lambda _: False)
    assert (shape(outcomes), flights, chunking.state) == ([[UNTOUCHED]] * 2, [], State.CLOSED)
