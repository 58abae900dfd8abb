"""A relay that means harm, at each stage, against a real delivery: what the books say stays true.

What is recorded as sent was taken; what is to be tried again was never given a dot; everything else is in
doubt. The mail behind goes on over another connection, and nothing is tried in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final

import pytest

from mailtasks.message import Message
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.state import State
from mailtasks.testing import CLOSE, HANG, Pause, Say, Script, ScriptedRelay
from mailtasks.testing.scripted import DEFAULTS, Answer
from tests.bench import Bench

OFFERED: Final = {"pipelining": ("PIPELINING", "8BITMIME"), "stepwise": ("8BITMIME",)}
CHUNKING: Final = ("PIPELINING", "8BITMIME", "CHUNKING")
USUAL: Final = {**DEFAULTS, "EHLO": "250-relay.test\n250-8BITMIME\n250 PIPELINING"}
OPENING: Final = ("CONNECT", "EHLO")
SESSION: Final = ("MAIL", "RCPT", "DATA", "DOT")

WARM: Final = 2
"""Mails that go before: the relay is in use, and was sound so far."""

FEW: Final = 6
"""Connections for four mails."""

MEGABYTES: Final = 10_000_000
EVIL: Final[dict[str, Callable[[str], Answer]]] = {
    "stall": lambda usual: HANG,
    "no line end": lambda usual: Say(usual[:-1].encode(), HANG),
    "cut": lambda usual: Say(usual[:2].encode(), CLOSE),
    "ten megabytes": lambda usual: usual[:3].encode() + b"x" * MEGABYTES,
    "ten megabytes of lines": lambda usual: f"{usual[:3]}-{'x' * 995}\r\n".encode() * (MEGABYTES // 1000),
    "one too many": lambda usual: Say(usual, usual),
    "one too many, later": lambda usual: Say(usual, Pause(0.05), usual),
    "none, then the next": lambda usual: Say(),
    "binary": lambda usual: b"\0\xff\r\r\n",
    "another code in the middle": lambda usual: f"{usual[:3]}-a\n{int(usual[:3]) + 1} b",
    "an early end": lambda usual: Say(usual, "421 4.3.2 bye", CLOSE),
}
SHIFTED: Final = ("one too many", "one too many, later", "none, then the next")
"""What depends on whether commands are written one by one."""


@pytest.mark.parametrize("verb", SESSION)
@pytest.mark.parametrize(
    ("evil", "way"), [(evil, "pipelining") for evil in EVIL] + [(evil, "stepwise") for evil in SHIFTED]
)
def test_in_mid_session(evil: str, verb: str, way: str, redis_url: str) -> None:
    usual = DEFAULTS[verb]
    replies = {verb: [*[usual] * WARM, usual, EVIL[evil](usual), usual]}
    with ScriptedRelay(replies, OFFERED[way]) as relay:
        states = deliver(redis_url, relay, warm=WARM)
        assert relay.connections <= FEW, "tried in a circle"
    assert_books_agree(states, relay.script)
    assert states[-1] is State.SENT, "the last one went over a connection of its own"
    assert list(states).count(State.SENT) >= 2


@pytest.mark.parametrize("verb", ["RSET", "MAIL", "RCPT", "BDAT"])
@pytest.mark.parametrize("evil", EVIL)
def test_in_a_flight_of_bodies(evil: str, verb: str, redis_url: str) -> None:
    usual = DEFAULTS[verb]
    replies = {verb: [*[usual] * WARM, usual, EVIL[evil](usual), usual]}
    with ScriptedRelay(replies, CHUNKING) as relay:
        states = deliver(redis_url, relay, warm=WARM, options="?chunking=yes")
        assert relay.connections <= FEW, "tried in a circle"
    assert_books_agree(states, relay.script)


@pytest.mark.parametrize("verb", OPENING)
@pytest.mark.parametrize("evil", EVIL)
def test_while_the_connection_is_opened(evil: str, verb: str, redis_url: str) -> None:
    """Nothing is sent, or all is: a reply too many may come when nobody waits any more."""
    with ScriptedRelay({verb: EVIL[evil](USUAL[verb])}) as relay:
        states = deliver(redis_url, relay)
        assert relay.connections <= FEW, "tried in a circle"
    assert_books_agree(states, relay.script)
    assert set(states) <= {State.SENT, State.DEFERRED, State.QUEUED}


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", *SESSION])
@pytest.mark.parametrize("way", OFFERED)
def test_an_answer_before_the_question(verb: str, way: str, redis_url: str) -> None:
    """The relay says at once all that it is going to say: whoever believed that would believe anything."""
    verbs = ["CONNECT", "EHLO", *SESSION]
    ahead = [USUAL[each] for each in verbs[verbs.index(verb) :]]
    with ScriptedRelay({verb: Say(*ahead)}, OFFERED[way]) as relay:
        states = deliver(redis_url, relay)
        assert relay.connections <= FEW, "tried in a circle"
    assert_books_agree(states, relay.script)
    assert State.SENT not in states or verb == "DOT"


def test_a_dialogue_byte_by_byte(redis_url: str) -> None:
    """Each byte in a packet of its own, as far as the system does us the favour."""
    with ScriptedRelay({verb: crumbs(said) for verb, said in USUAL.items()}) as relay:
        states = deliver(redis_url, relay, timeout=10)
        assert relay.connections == 1
    assert states == [State.SENT] * 4


def crumbs(said: str) -> Say:
    line = said.replace("\n", "\r\n").encode() + b"\r\n"
    return Say(*chain.from_iterable((bytes([byte]), Pause(0)) for byte in line))


def deliver(
    redis_url: str, relay: ScriptedRelay, timeout: float = 0.3, warm: int = 0, options: str = ""
) -> list[State]:
    """Four mails of one batch, after so many others; what became of each."""
    stages = ("timeout_greeting", "timeout_command", "timeout_data", "timeout_dot")
    settings = {"doubt_normal": "hold", **dict.fromkeys(stages, timeout)}
    bench = Bench(redis_url, relay.url + options, RetryPolicy(), **settings)
    try:
        if warm:
            before = [Message(to=f"warm{n}@example.com", text="hi") for n in range(warm)]
            bench.deliver(bench.mailer.send_many(before)[0])
        messages = [Message(to=f"r{n}@example.com", subject=f"number {n}", text="hi") for n in range(4)]
        ids = bench.mailer.send_many(messages)
        bench.deliver(ids[0])
        return [bench.state(id) for id in ids]
    finally:
        bench.close()


def assert_books_agree(states: Iterable[State], script: Script) -> None:
    for number, state in enumerate(states):
        subject = b"Subject: number %d\r\n" % number
        came = any(subject in message for message in script.messages)
        taken = any(subject in message for message in script.taken)
        assert state is not State.SENT or taken, f"{number} is recorded as sent and wasn't taken"
        assert state is State.IN_DOUBT or taken == (state is State.SENT)
        assert not came or state in {State.SENT, State.IN_DOUBT}, f"{number} may come twice"
