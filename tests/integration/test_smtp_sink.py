"""The fault switches of Postfix's `smtp-sink` at each command: each ends in the right state."""

from __future__ import annotations

from typing import Any, Final

import pytest

from mailtasks.message import Message
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.state import State
from mailtasks.status import RecipientStatus
from tests.bench import Bench
from tests.servers.smtp_sink import SmtpSink

pytestmark = pytest.mark.needs("smtp-sink")

SENT, FAILED, DOUBT = (State.SENT, 1), (State.FAILED, 1), (State.IN_DOUBT, 1)
RETRY, FREE = (State.DEFERRED, 1), (State.DEFERRED, 0)

HARD, SOFT = "500 5.3.0 Error: command failed", "450 4.3.0 Error: command failed"
OFF, GONE = "421 4.0.0 Server closing connection", "was lost"

# (switch, command): (state and counted attempts, what is kept as reply, in part)
FAULTS: Final[dict[tuple[str, str], tuple[tuple[State, int], str]]] = {
    ("-f", "connect"): (FREE, HARD),
    ("-f", "ehlo"): (SENT, "250"),  # HELO will do
    ("-f", "ehlo,helo"): (FREE, HARD),
    ("-f", "mail"): (RETRY, HARD),  # a 500 in mid-session: once more, on another connection
    ("-f", "rcpt"): (RETRY, HARD),
    ("-f", "data"): (RETRY, HARD),
    ("-f", "."): (FAILED, HARD),
    ("-f", "quit"): (SENT, "250"),
    ("-r", "connect"): (FREE, SOFT),
    ("-r", "ehlo"): (FREE, SOFT),
    ("-r", "mail"): (RETRY, SOFT),
    ("-r", "rcpt"): (RETRY, SOFT),
    ("-r", "data"): (RETRY, SOFT),
    ("-r", "."): (RETRY, SOFT),
    ("-r", "quit"): (SENT, "250"),
    ("-q", "connect"): (FREE, GONE),
    ("-q", "ehlo"): (FREE, GONE),
    ("-q", "mail"): (RETRY, GONE),
    ("-q", "rcpt"): (RETRY, GONE),
    ("-q", "data"): (RETRY, GONE),
    ("-q", "."): (DOUBT, GONE),
    ("-q", "quit"): (SENT, "250"),
    ("-Q", "connect"): (FREE, OFF),
    ("-Q", "ehlo"): (FREE, OFF),
    ("-Q", "mail"): (RETRY, OFF),
    ("-Q", "rcpt"): (RETRY, OFF),
    ("-Q", "data"): (RETRY, OFF),
    ("-Q", "."): (RETRY, OFF),
    ("-Q", "quit"): (SENT, "250"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=" ".join)
def test_a_fault_at_a_command(fault: tuple[str, str], redis_url: str) -> None:
    expected, reply = FAULTS[fault]
    with SmtpSink(*fault) as sink:
        told = delivered(redis_url, sink)
    assert (told.state, told.attempts) == expected
    assert reply in told.reply


@pytest.mark.parametrize("fault", ["-f", "-r", "-q", "-Q"])
def test_a_fault_at_the_reset_behind_a_refusal_costs_nobody_anything(fault: str, redis_url: str) -> None:
    """Of two mails the first is refused; if RSET fails, the second goes over another connection."""
    refuse = "550 5.1.1 no such user"
    with SmtpSink("-f" if fault == "-f" else "-r", "rcpt", "-B", refuse, fault, "rset") as sink:
        bench = Bench(redis_url, sink.url, RetryPolicy(), window_normal=8)
        ids = bench.mailer.send_many([Message(to=f"{n}@example.com", text="hi") for n in range(2)])
        bench.deliver(ids[0])
        told = [(bench.mailer.status(id).state, bench.mailer.status(id).attempts) for id in ids]
        bench.close()
    assert told == [FAILED if fault == "-f" else RETRY] * 2


@pytest.mark.parametrize(
    ("options", "timeouts", "expected"),
    [
        (("-A", "1"), {}, FAILED),  # a 550 though the body is still on its way, or already there
        (("-w", "1"), {}, SENT),
        (("-p", "-w", "3"), {"timeout_data": 0.3}, RETRY),
        (("-H", "1"), {}, SENT),
        (("-H", "3"), {"timeout_dot": 0.3}, DOUBT),  # all of it has left, and nobody knows
        (("-p", "-W", "mail:3"), {"timeout_command": 0.3}, RETRY),
        (("-W", ".:3"), {"timeout_dot": 0.3}, DOUBT),
    ],
    ids=["aborts", "slow data", "late data", "slow body", "late body", "late mail", "late dot"],
)
def test_a_server_that_dawdles_or_aborts(
    options: tuple[str, ...], timeouts: dict[str, Any], expected: tuple[State, int], redis_url: str
) -> None:
    with SmtpSink(*options) as sink:
        told = delivered(redis_url, sink, **timeouts)
    assert (told.state, told.attempts) == expected


LARGE: Final = "x" * 70 + "\n"


@pytest.mark.parametrize(
    ("options", "timeouts", "expected"),
    [
        (("-H", "1", "-T", "4096"), {}, SENT),
        (("-H", "5", "-T", "4096"), {"timeout_block": 0.3}, RETRY),  # stuck before the dot: no doubt
        (("-A", "0", "-T", "4096"), {"timeout_block": 5}, None),
    ],
    ids=["slow", "stuck", "aborted"],
)
def test_a_large_body_that_is_not_read(
    options: tuple[str, ...], timeouts: dict[str, Any], expected: tuple[State, int] | None, redis_url: str
) -> None:
    with SmtpSink(*options) as sink:
        told = delivered(redis_url, sink, text=LARGE * 100_000, **timeouts)
    if expected:
        assert (told.state, told.attempts) == expected
    else:  # whether the 550 comes before the first byte or in the middle, it is no doubt
        assert told.state in {State.FAILED, State.DEFERRED}


def delivered(redis_url: str, sink: SmtpSink, text: str = "hi", **settings: Any) -> RecipientStatus:
    """What became of one mail."""
    bench = Bench(redis_url, sink.url, RetryPolicy(), doubt_normal="hold", **settings)
    try:
        id = bench.send("ann@example.com", text=text)
        bench.deliver(id)
        return bench.mailer.status(id).recipients[0]
    finally:
        bench.close()
