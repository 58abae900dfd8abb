import socket

import pytest

from mailtasks.testing.scripted import CLOSE, HANG, Script, ScriptedRelay


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
    script = Script()
    script.feed(b"DATA\r\n")
    assert script.feed(b"a\n.\nb\r\n.\rc\r.\r\n") == []
    assert script.bare is False
    assert script.feed(b"\r\n.\r\n") == ["250 2.0.0 taken"]
    assert script.bare is True


def test_a_refused_message_is_not_taken():
    script = Script({"DOT": "554 no"})
    script.feed(b"DATA\r\n.\r\n")
    assert (script.messages, script.taken) == ([b""], [])


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
