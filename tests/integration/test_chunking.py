"""A relay that offers CHUNKING and doesn't discard what it refuses: what is at stake, and not by default.

go-smtp does this (emersion/go-smtp issue 315): the body behind a BDAT that it refuses, it reads as commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from mailtasks.policy.backoff import RetryPolicy
from mailtasks.state import State
from mailtasks.testing import Script, ScriptedRelay
from tests.bench import Bench

OFFERED: Final = ("PIPELINING", "8BITMIME", "CHUNKING")
SMUGGLED: Final = "MAIL FROM:<boss@example.com>\nRCPT TO:<victim@example.com>\nBDAT 4 LAST\nevil\n"
"""Text of a mail, by whoever may write one."""


class Liar(Script):
    """A relay that reads a chunk only if it wants it."""

    def _size_of_chunk(self, line: bytes) -> int:
        return super()._size_of_chunk(line) if self._accepted["RCPT"] else 0

    def _choose(self, verb: str, line: str) -> Any:
        wanted = verb != "BDAT" or self._accepted["RCPT"]
        return super()._choose(verb, line) if wanted else "502 5.5.1 Missing RCPT TO command."


@pytest.fixture
def relay() -> Iterator[ScriptedRelay]:
    with ScriptedRelay() as running:
        running.script = Liar({"RCPT": ["550 5.1.1 no such user", "250 ok"]}, OFFERED)
        yield running


@pytest.fixture
def bench(redis_url: str, relay: ScriptedRelay) -> Iterator[Callable[[str], Bench]]:
    made: list[Bench] = []

    def make(options: str) -> Bench:
        made.append(
            Bench(redis_url, relay.url + options, RetryPolicy(), doubt_normal="hold", window_normal=8)
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("options", ["", "?chunking=no"])
def test_by_default_no_body_is_written_before_its_354(
    bench: Callable[[str], Bench], relay: ScriptedRelay, options: str
) -> None:
    one = bench(options)
    id = one.send("ghost@example.com", text=SMUGGLED)
    one.deliver(id)
    assert one.state(id) is State.FAILED
    later = one.send("ann@example.com", text=SMUGGLED)
    one.deliver(later)
    assert one.state(later) is State.SENT
    assert not [line for line in relay.script.commands if "boss" in line or "BDAT" in line]
    [taken] = relay.script.messages
    assert SMUGGLED.replace("\n", "\r\n").encode() in taken


def test_with_the_option_it_is_read_as_commands_and_told_of_and_not_tried_again(
    bench: Callable[[str], Bench], relay: ScriptedRelay, caplog: pytest.LogCaptureFixture
) -> None:
    """This is what the option asks one to know of one's relay."""
    one = bench("?chunking=yes")
    id = one.send("ghost@example.com", text=SMUGGLED)
    one.deliver(id)
    assert one.state(id) is State.IN_DOUBT
    assert relay.script.taken == [b"evil"], "without this there would be no danger to warn of"
    assert "take chunking=yes out of the relay's URL" in caplog.text
    later = one.send("ann@example.com", text=SMUGGLED)
    one.deliver(later)
    assert one.state(later) is State.SENT
    assert relay.script.commands[-1] == "DATA"
