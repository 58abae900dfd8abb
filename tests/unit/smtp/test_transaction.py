import pytest

from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.smtp.envelope import Envelope
from mailtasks.smtp.transaction import Extensions, Transaction

SENT = Outcome(Stage.DOT, How.ACCEPTED, Reply(250, "ok"), dot_begun=True)
REFUSED = Outcome(Stage.RCPT, How.REFUSED, Reply(550, "no"))


def transaction(recipients=2, content=b"hello"):
    addresses = tuple(f"r{number}@example.com" for number in range(recipients))
    return Transaction(0, Envelope("s@example.com", addresses, content))


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


def test_content_in_pieces_is_one_body():
    each = transaction(content=(b"Subject: x\r\n\r\n", "é\r\n".encode(), b"z\r\n"))
    assert each.body == "Subject: x\r\n\r\né\r\nz\r\n".encode()
    assert (each.size, each.ascii, len(each.pieces)) == (len(each.body), False, 3)


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
