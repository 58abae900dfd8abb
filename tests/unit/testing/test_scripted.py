import socket

import pytest

from mailtasks.testing import CLOSE, HANG, Pause, Say, Script, ScriptedRelay, ScriptNotFollowed, wait_until


def test_a_dialogue_in_one_piece():
    script = Script()
    assert script.greet() == "220 relay.test ready"
    assert script.feed(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")[1:] == [
        "250 2.1.0 sender ok",
        "250 2.1.5 recipient ok",
        "354 go on",
    ]
    assert script.feed(b"hi\r\n..\r\n.\r\nQUIT\r\n") == ["250 2.0.0 taken", "221 2.0.0 bye"]
    assert script.messages == script.taken == [b"hi\r\n.\r\n"]
    assert script.commands == ["EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", "QUIT"]


def test_extensions_are_offered():
    assert Script(extensions=("PIPELINING", "SIZE 10")).feed(b"EHLO x\r\n") == [
        "250-relay.test\n250-PIPELINING\n250 SIZE 10"
    ]


def test_a_sequence_is_said_one_by_one_its_last_again_and_again():
    script = Script({"RCPT": ["250 a", "550 b"]})
    assert script.feed(b"RCPT TO:<a@b>\r\n" * 3) == ["250 a", "550 b", "550 b"]


def test_a_body_ends_at_crlf_dot_crlf_and_nowhere_else():
    script = Script({"DATA": "354 go"})
    script.feed(b"DATA\r\n")
    assert script.feed(b"a\n.\nb\r\n.\rc\r.\r\n") == []
    assert script.bare is False
    assert script.feed(b"\r\n.\r\n") == ["250 2.0.0 taken"]
    assert script.bare is True


def test_a_refused_message_is_not_taken():
    script = Script({"DATA": "354 go", "DOT": "554 no"})
    script.feed(b"DATA\r\n.\r\n")
    assert (script.messages, script.taken) == ([b""], [])


@pytest.mark.parametrize("last", [CLOSE, HANG, "421 bye", Say("250 ok", CLOSE)])
def test_who_has_left_hears_nothing_until_the_next_connection(last):
    script = Script({"NOOP": [last, "250 ok"]})
    assert script.feed(b"NOOP\r\nNOOP\r\n") == [last]
    assert script.feed(b"NOOP\r\n") == []
    script.greet()
    assert script.feed(b"NOOP\r\n") == ["250 ok"]


CHUNKING = ("PIPELINING", "CHUNKING")
OPENING = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"


def test_a_chunk_is_octets_and_its_command_is_answered_when_all_have_come():
    script = Script(extensions=CHUNKING)
    script.feed(OPENING)
    assert script.feed(b"BDAT 9 LAST\r\nQUIT\r\n.\r") == []
    assert script.feed(b"\nQUIT\r\n") == ["250 2.0.0 taken", "221 2.0.0 bye"]
    assert script.messages == script.taken == [b"QUIT\r\n.\r\n"]
    assert script.commands[-2:] == ["BDAT 9 LAST", "QUIT"]


def test_a_body_may_come_in_several_chunks():
    script = Script(extensions=CHUNKING)
    assert script.feed(OPENING + b"BDAT 2\r\nabbdat 1\r\ncBDAT 0 LAST\r\n")[2:] == ["250 2.0.0 taken"] * 3
    assert script.taken == [b"abc"]


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        (b"BDAT 3 LAST\r\nabc", "503 5.5.1 no recipient was accepted"),
        (OPENING + b"BDAT 0 LAST\r\nBDAT 3 LAST\r\nabc", "503 5.5.1 no recipient was accepted"),
        (OPENING + b"BDAT x\r\n", "501 5.5.4 BDAT size [LAST]"),
    ],
)
def test_a_chunk_that_is_refused_is_discarded(said, refused):
    script = Script(extensions=CHUNKING)
    assert script.feed(said + b"NOOP\r\n")[-2:] == [refused, "250 2.0.0 ok"]
    assert b"abc" not in script.taken


def test_what_to_say_to_bdat_can_be_named():
    script = Script({"BDAT": ["451 later", "250 ok"]}, CHUNKING)
    assert script.feed(b"BDAT 1 LAST\r\naBDAT 1 LAST\r\nb") == ["451 later", "250 ok"]
    assert (script.messages, script.taken) == ([b"a", b"b"], [b"b"])
    steps = Script(extensions=CHUNKING, steps=[("BDAT 1 LAST", "552 too big")])
    assert steps.feed(b"BDAT 1 LAST\r\na") == ["552 too big"]
    steps.check()


def test_who_does_not_offer_chunking_reads_a_body_as_commands():
    assert Script().feed(OPENING + b"BDAT 6 LAST\r\nQUIT\r\n")[2:] == ["500 5.5.1 what?", "221 2.0.0 bye"]


def test_an_answer_to_a_challenge_is_no_command():
    script = Script({"AUTH": "334 VXNlcm5hbWU6", "ANSWER": ["334 UGFzc3dvcmQ6", "235 ok"]})
    assert script.feed(b"AUTH LOGIN\r\nYQ==\r\nYg==\r\n") == [
        "334 VXNlcm5hbWU6",
        "334 UGFzc3dvcmQ6",
        "235 ok",
    ]


def test_what_it_does_not_know():
    assert Script().feed(b"HELP me\r\n") == ["500 5.5.1 what?"]


def heard(port, question=b"", seconds=5.0):
    """All that the relay says until it closes or is silent."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        client.sendall(question)
        try:
            while data := client.recv(65536):
                said += data
        except TimeoutError:
            return said, "silent"
    return said, "closed"


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({}, (b"220 relay.test ready\r\n221 2.0.0 bye\r\n", "closed")),
        ({"QUIT": CLOSE}, (b"220 relay.test ready\r\n", "closed")),
        ({"QUIT": "421 bye"}, (b"220 relay.test ready\r\n421 bye\r\n", "closed")),
        ({"QUIT": HANG}, (b"220 relay.test ready\r\n", "silent")),
        ({"CONNECT": CLOSE}, (b"", "closed")),
    ],
)
def test_on_a_socket(replies, expected):
    with ScriptedRelay(replies) as relay:
        question = b"" if "CONNECT" in replies else b"QUIT\r\n"
        assert heard(relay.port, question, 0.1 if HANG in replies.values() else 5.0) == expected
    assert relay.connections == 1


def test_it_speaks_unasked_and_hangs_up():
    with ScriptedRelay() as relay, socket.create_connection(("127.0.0.1", relay.port), timeout=5) as client:
        assert client.recv(100) == b"220 relay.test ready\r\n"
        relay.say("421 bye")
        assert client.recv(100) == b"421 bye\r\n"
        relay.hang_up()
        assert client.recv(100) == b""


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        (b"RCPT TO:<a@b>\r\n", "503 5.5.1 no sender was accepted"),
        (b"DATA\r\n", "503 5.5.1 no recipient was accepted"),
        (b"MAIL FROM:<a@b>\r\nDATA\r\n", "503 5.5.1 no recipient was accepted"),
        (b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nRSET\r\nDATA\r\n", "503 5.5.1 no recipient was accepted"),
    ],
)
def test_what_comes_out_of_order_is_refused_unless_it_is_named(said, refused):
    assert Script().feed(said)[-1] == refused
    assert Script({"RCPT": "250 ok", "DATA": "354 go"}).feed(said)[-1] in {"250 ok", "354 go"}


@pytest.mark.parametrize(
    ("answer", "heard_first"),
    [
        (b"2", b"2"),
        (Say("221 a", "250 b"), b"221 a\r\n250 b\r\n"),
        (Say(b"22", Pause(0.01), b"1 bye\r\n"), b"221 bye\r\n"),
        (Say("250 a", CLOSE), b"250 a\r\n"),
        ("221-a\n221 b", b"221-a\r\n221 b\r\n"),
    ],
    ids=repr,
)
def test_parts_of_an_answer(answer, heard_first):
    with ScriptedRelay({"QUIT": answer}) as relay:
        said, _ = heard(relay.port, b"QUIT\r\n", 0.3)
    assert said == b"220 relay.test ready\r\n" + heard_first


def test_an_answer_can_be_put_off():
    """Nothing now, two replies for the next command."""
    script = Script({"MAIL": Say(), "RCPT": Say("250 a", "250 b")})
    assert script.feed(b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\n") == [Say(), Say("250 a", "250 b")]
    assert repr(Say("250 a", Pause(1))) == "Say('250 a', Pause(seconds=1))"


def test_a_pause_ends_with_the_server():
    with ScriptedRelay({"CONNECT": Say(Pause(60), "220 hi")}) as relay:
        client = socket.create_connection(("127.0.0.1", relay.port), timeout=5)
        wait_until(lambda: relay.connections)
    assert client.recv(10) == b""
    client.close()


STEPS = [("MAIL FROM:<shop@", "250 ok"), ("RCPT", "550 no"), ("RSET", "250 gone")]
HELLO = b"EHLO x\r\nMAIL FROM:<shop@a>\r\n"


def test_steps_that_are_followed():
    script = Script({"MAIL": "250 as named"}, steps=STEPS)
    answers = script.feed(HELLO + b"RCPT TO:<a@b>\r\nNOOP\r\nRSET\r\nMAIL FROM:<b@c>\r\n")
    assert answers[1:] == ["250 ok", "550 no", "250 2.0.0 ok", "250 gone", "250 as named"]
    script.check()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"", "step 1 of 3 (expected 'MAIL FROM:<shop@') never came; no command came"),
        (
            b"EHLO x\r\nMAIL FROM:<ann@a>\r\n",
            "step 1 of 3 (expected 'MAIL FROM:<shop@'), but the client said 'MAIL FROM:<ann@a>'",
        ),
        (HELLO + b"DATA\r\n", "step 2 of 3 (expected 'RCPT'), but the client said 'DATA'"),
        (
            HELLO + b"RCPT TO:<a@b>\r\nQUIT\r\n",
            "step 3 of 3 (expected 'RSET') never came; the client's last line was 'QUIT'",
        ),
    ],
)
def test_steps_that_are_not_followed(said, sentence):
    script = Script(steps=STEPS)
    script.feed(said)
    with pytest.raises(ScriptNotFollowed) as raised:
        script.check()
    assert str(raised.value) == sentence


def test_a_body_where_a_step_expects_a_command():
    steps = [("MAIL", "250 ok"), ("RCPT", "250 ok"), ("DATA", "354 go"), ("QUIT", "221 bye")]
    script = Script(steps=steps)
    assert script.feed(HELLO + b"RCPT TO:<a@b>\r\nDATA\r\nx\r\n.\r\n")[-1] == CLOSE
    with pytest.raises(
        ScriptNotFollowed, match=r"^step 4 of 4 \(expected 'QUIT'\), but the end of a body came$"
    ):
        script.check()


def test_the_with_block_ends_with_the_question_whether_they_were():
    with pytest.raises(ScriptNotFollowed, match="no command came"), ScriptedRelay(steps=STEPS):
        pass
    with pytest.raises(KeyError), ScriptedRelay(steps=STEPS):
        raise KeyError("the test's own failure is the one that is told")


def test_its_url():
    with ScriptedRelay() as relay:
        assert relay.url == f"smtp://127.0.0.1:{relay.port}"
