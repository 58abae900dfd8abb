"""What a relay says, cut at each byte, endless, or no reply at all: read the same, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from itertools import repeat

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailtasks.reply import How, Stage
from mailtasks.smtp import Envelope
from mailtasks.smtp.engine import Engine, Failed, Opening, State
from mailtasks.smtp.grammar import MAX_LINE, MAX_LINES, GarbledReply, ReplyReader, make_reply
from mailtasks.testing import Script
from tests.properties.test_engine import WHOLE, Run

CALM = settings(deadline=None)  # other tests run at the same time

DIALOGUE = {
    "CONNECT": "220-relay.test\n220 is ready",
    "RCPT": [
        "250 ok",
        "550-5.1.1 no such\n550-5.1.1 user\n550 5.1.1 here",
        "250 2.1.5 ok",
        "452 4.5.3 too many",
    ],
    "DATA": ["354 go", "354 go", "451 4.3.0 not now", "354-go\n354 on"],
    "DOT": ["250 2.0.0 taken", "250-taken\n250 as 4711", "552"],
}
ENVELOPES = [
    Envelope("s@example.com", tuple(f"r{number}{n}@example.com" for n in range(size)), b"%d" % number)
    for number, size in enumerate((1, 2, 1, 2, 1))
]


class CutOnce(Run):
    """Everything that the server says is read in as few pieces as the flights allow, but for one cut."""

    def __init__(self, script: Script, at: int) -> None:
        self.at = at
        super().__init__(script, ENVELOPES, WHOLE)

    def hear(self, replies: list[str]) -> None:
        said = "".join(f"{line}\r\n" for reply in replies for line in reply.split("\n")).encode()
        if 0 < self.at < len(said):
            self.engine.receive(said[: self.at])
            said = said[self.at :]
            self.at = 0
        self.at -= len(said)
        self.engine.receive(said)


@pytest.mark.parametrize(
    "offered", [("PIPELINING", "8BITMIME"), ("8BITMIME",)], ids=["pipelining", "stepwise"]
)
def test_a_dialogue_that_is_cut_at_any_byte_has_the_same_outcomes(offered: tuple[str, ...]) -> None:
    whole = CutOnce(Script(DIALOGUE, offered), 10**6)
    spoken = 10**6 - whole.at
    assert {how for each in whole.outcomes.values() for how in (o.how for o in each)} == {
        How.ACCEPTED,
        How.REFUSED,
    }
    for at in range(1, spoken):
        cut = CutOnce(Script(DIALOGUE, offered), at)
        assert (cut.outcomes, cut.wire, cut.engine.state) == (whole.outcomes, whole.wire, State.IDLE), at


LINES = st.builds(
    lambda code, separator, text, end: b"%d" % code + separator + text + end,
    st.integers(190, 610),
    st.sampled_from([b" ", b"-", b"", b"\t", b"  5.1.1 "]),
    st.binary(max_size=30),
    st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\r\n", b""]),
)


@CALM
@given(st.lists(st.binary(max_size=40) | LINES, max_size=30))
@example([b"250-" + b"x" * MAX_LINE + b"\r\n"])
@example([b"250-x\r\n"] * (MAX_LINES + 1))
@example([b"250-x\r\n", b"251 y\r\n"])
@example([b"\xff\xfe\x00\r\n"])
def test_whatever_is_read_makes_sound_replies_or_none(pieces: list[bytes]) -> None:
    reader = ReplyReader()
    with suppress(GarbledReply):
        for piece in pieces:
            for code, lines in reader.feed(piece):
                reply = make_reply(code, lines)
                assert reply.code == code
                assert all(line.isprintable() for line in reply.text.split("\n"))
                assert reply.enhanced is None or int(reply.enhanced[0]) == reply.kind
                assert str(reply).startswith(str(code))


@CALM
@given(st.lists(st.binary(max_size=60) | LINES, max_size=20), st.integers(0, 3))
def test_whatever_a_server_says_the_engine_ends_or_waits(pieces: list[bytes], before: int) -> None:
    engine = Engine(Opening("client.test"))
    for sane in (b"220 hi\r\n", b"250-r\r\n250 PIPELINING\r\n", b"250 a\r\n250 b\r\n354 c\r\n")[:before]:
        engine.receive(sane)
        if engine.state is State.IDLE:
            engine.begin(ENVELOPES[:1])
        engine.data_to_send()
    for piece in pieces:
        engine.receive(piece)
        if engine.state is State.IDLE and before < 2:
            break
        if engine.state is State.BODY:
            engine.write_body()
        engine.data_to_send()
    engine.break_off(How.LOST, "the end")
    assert engine.state in {State.CLOSED, State.IDLE}


def endless(piece: bytes) -> Iterator[bytes]:
    return repeat(piece, 10_000_000 // len(piece))


@pytest.mark.parametrize(
    "piece",
    [
        b"250" + b"x" * 8189,
        b"250-" + b"x" * 1018 + b"\r\n",
        b"\0" * 8192,
        b"250-\r\n" * 1000,
        b"250 x\r\n" * 1000,
    ],
    ids=["a line", "many long lines", "no reply", "many short lines", "many replies"],
)
@pytest.mark.parametrize("where", ["greeting", "ehlo", "dot"])
def test_ten_megabytes_cost_little_and_end_the_connection(where: str, piece: bytes) -> None:
    engine = Engine(Opening("client.test"))
    if where != "greeting":
        engine.receive(b"220 hi\r\n")
        engine.data_to_send()
    if where == "dot":
        engine.receive(b"250-r\r\n250 PIPELINING\r\n")
        engine.begin(ENVELOPES[:1])
        engine.data_to_send()
        engine.receive(b"250 a\r\n250 b\r\n354 c\r\n")
        engine.write_body()
        engine.data_to_send()
    tracemalloc.start()
    try:
        for read in endless(piece):
            engine.receive(read)
            engine.data_to_send()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MAX_LINE * MAX_LINES
    assert engine.state is State.CLOSED
    outcomes = [
        outcome
        for event in engine.events()
        for outcome in ([event.outcome] if isinstance(event, Failed) else getattr(event, "outcomes", []))
    ]
    assert {outcome.how for outcome in outcomes} == {How.GARBAGE}
    assert {outcome.dot_begun for outcome in outcomes} == {where == "dot"}
    assert all(len(str(outcome)) < 500 for outcome in outcomes)
    assert outcomes[0].stage in {Stage.GREETING, Stage.EHLO, Stage.DOT}
