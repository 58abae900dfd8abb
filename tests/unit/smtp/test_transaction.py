import pytest

from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.smtp.envelope import Envelope, Notifications
from mailtasks.smtp.transaction import Extensions, Transaction

SENT = Outcome(Stage.DOT, How.ACCEPTED, Reply(250, "ok"), dot_begun=True)
REFUSED = Outcome(Stage.RCPT, How.REFUSED, Reply(550, "no"))


def transaction(recipients=2, content=b"hello", **more):
    addresses = tuple(f"r{number}@example.com" for number in range(recipients))
    return Transaction(0, Envelope("s@example.com", addresses, content, **more))


def offers(*lines):
    return Extensions.parse([b"250-relay.test\r", *(b"250-" + line.encode() + b"\r" for line in lines)])


@pytest.mark.parametrize(
    ("offered", "limit"),
    [(["SIZE 1000"], 1000), (["SIZE"], None), (["SIZE 0"], None), (["SIZE x"], None), ([], None)],
)
def test_a_limit_is_what_size_says(offered, limit):
    assert offers(*offered).size == limit


def test_keywords_are_read_in_any_case_and_words_add_up():
    server = offers("Pipelining", "auth plain", "AUTH=LOGIN", "")
    assert server.pipelining
    assert server.offered == {"PIPELINING": (), "AUTH": ("PLAIN", "LOGIN")}


def test_the_lines_of_a_transaction():
    assert transaction().lines(Extensions()) == [
        b"MAIL FROM:<s@example.com>\r\n",
        b"RCPT TO:<r0@example.com>\r\n",
        b"RCPT TO:<r1@example.com>\r\n",
        b"DATA\r\n",
    ]


def test_what_is_told_with_mail():
    lines = transaction(content="é".encode()).lines(Extensions(sized=True))
    assert lines[0] == b"MAIL FROM:<s@example.com> SIZE=4 BODY=8BITMIME\r\n"


def test_notifications_are_asked_for_where_dsn_is_offered():
    each = transaction(notifications=Notifications(("failure",), "headers", "4x.0"))
    assert each.lines(offers("DSN")) == [
        b"MAIL FROM:<s@example.com> RET=HDRS ENVID=4x.0\r\n",
        b"RCPT TO:<r0@example.com> NOTIFY=FAILURE ORCPT=rfc822;r0@example.com\r\n",
        b"RCPT TO:<r1@example.com> NOTIFY=FAILURE ORCPT=rfc822;r1@example.com\r\n",
        b"DATA\r\n",
    ]
    assert each.lines(offers("8BITMIME")) == transaction().lines(Extensions())


def test_tls_on_the_whole_way_needs_a_relay_that_promises_it():
    each = transaction(require_tls=True)
    reason = "5.7.30 the message requires TLS all the way, and the relay offers no REQUIRETLS"
    assert each.suit(Extensions.parse([b"250-r\r", b"250 DSN\r"], secure=True)) == reason
    promised = Extensions.parse([b"250-r\r", b"250 REQUIRETLS\r"], secure=True)
    assert each.suit(promised) == ""
    assert each.lines(promised)[0] == b"MAIL FROM:<s@example.com> REQUIRETLS\r\n"


def test_without_tls_such_a_promise_is_worth_nothing():
    assert not offers("REQUIRETLS").requiretls


EIGHT_BIT = "the message isn't ASCII, the relay offers no 8BITMIME, and "


def test_what_is_not_ascii_is_encoded_anew_where_8bitmime_is_not_offered():
    each = transaction(content="é".encode(), seven_bit=lambda: b"=C3=A9\n")
    assert each.suit(Extensions(eightbitmime=True)) == ""
    assert each.body == "é\r\n".encode()
    assert each.suit(Extensions(sized=True)) == ""
    assert each.body == b"=C3=A9\r\n"
    assert each.lines(Extensions(sized=True))[0] == b"MAIL FROM:<s@example.com> SIZE=8\r\n"


def test_its_size_is_that_of_what_is_sent():
    each = transaction(content="é".encode(), seven_bit=lambda: b"=C3=A9")
    assert each.suit(Extensions(size=7)) == "the message has 8 bytes; the relay takes 7 (SIZE)"


def test_ascii_is_never_encoded_anew():
    def fail():
        raise AssertionError("asked")

    assert transaction(seven_bit=fail).suit(Extensions()) == ""


def broken():
    raise ValueError("no such charset: klingon")


@pytest.mark.parametrize(
    ("seven_bit", "why"),
    [
        (None, "it can't be encoded anew"),
        (broken, "encoding it anew failed: no such charset: klingon"),
        (lambda: "Subject: é".encode(), "what isn't ASCII stands in its headers"),
    ],
)
def test_what_can_not_be_encoded_anew_says_why(seven_bit, why):
    assert transaction(content="é".encode(), seven_bit=seven_bit).suit(Extensions()) == EIGHT_BIT + why


def test_content_in_pieces_is_one_body():
    each = transaction(content=(b"Subject: x\r\n\r\n", "é\r\n".encode(), b"z\r\n"))
    assert each.body == "Subject: x\r\n\r\né\r\nz\r\n".encode()
    assert (each.size, each.ascii, len(each.pieces)) == (len(each.body), False, 3)


def test_pieces_are_kept_apart_as_long_as_they_are_sent_as_they_are():
    pieces = (b"Subject: x\r\n\r\n", "é\r\n".encode(), b"z\r\n")
    each = transaction(content=pieces, seven_bit=lambda: b"".join(pieces).replace("é".encode(), b"=C3=A9"))
    assert each.suit(offers("8BITMIME")) == ""
    assert each.pieces == pieces
    assert each.suit(offers("SIZE")) == ""
    assert each.pieces == (b"Subject: x\r\n\r\n=C3=A9\r\nz\r\n",)
    assert each.lines(offers("SIZE"))[0] == b"MAIL FROM:<s@example.com> SIZE=25\r\n"
    assert each.suit(offers("SIZE 24")) == "the message has 25 bytes; the relay takes 24 (SIZE)"


def test_it_is_decided_when_nobody_is_left():
    each = transaction()
    assert not each.decided
    each.outcomes[0] = REFUSED
    assert not each.decided
    each.outcomes[1] = REFUSED
    assert each.decided


def test_a_refused_sender_decides_at_once():
    each = transaction()
    each.mail = Outcome(Stage.MAIL, How.REFUSED, Reply(550, "no"))
    assert each.decided


def test_a_refusal_beside_an_acceptance_is_marked():
    each = transaction()
    each.outcomes[0], each.accepted = REFUSED, 1
    each.decide(SENT)
    assert [outcome.others_accepted for outcome in each.final()] == [True, False]


def test_a_refusal_of_all_is_not():
    each = transaction()
    each.outcomes = [REFUSED, REFUSED]
    assert [outcome.others_accepted for outcome in each.final()] == [False, False]


def test_nothing_final_while_somebody_is_undecided():
    with pytest.raises(AssertionError, match="each recipient has an outcome"):
        transaction().final()


def test_an_answer_to_a_dot_that_is_not_believed_leaves_doubt_but_refusals_before_it_stand():
    each = transaction()
    each.outcomes[0] = REFUSED
    each.decide(SENT)
    each.disbelieve("an extra reply")
    assert each.outcomes == [
        REFUSED,
        Outcome(Stage.DOT, How.GARBAGE, detail="an extra reply", dot_begun=True),
    ]


def test_without_a_dot_nothing_stands_and_nothing_is_in_doubt():
    each = transaction()
    each.outcomes = [REFUSED, Outcome(Stage.DATA, How.REFUSED, Reply(451, "no"))]
    each.disbelieve("an extra reply")
    assert each.outcomes == [Outcome(Stage.DATA, How.GARBAGE, detail="an extra reply")] * 2
