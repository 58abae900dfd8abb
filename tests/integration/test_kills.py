"""What dies in the middle, and what the books say afterwards: real processes, real signals."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from mailtasks.bootsteps import BUSY
from mailtasks.message import Message
from mailtasks.state import State
from mailtasks.testing import wait_until
from mailtasks.testing.scripted import HANG, ScriptedRelay
from tests.integration.conftest import QUICK

Make = Callable[..., Any]
THREADS = 4
WINDOW = 4  # of normal mail
BOUND = THREADS * WINDOW  # what one process may have in its hands


def slow(*values: object) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def mails(number: int, name: str = "ann", **more: object) -> list[Message]:
    return [Message(to=f"{name}{n}@example.com", subject=f"{n}", text="hello", **more) for n in range(number)]


@pytest.mark.parametrize("number", [1500, pytest.param(5000, marks=pytest.mark.slow)])
def test_thousands_over_two_processes(highway: Make, number: int) -> None:
    road = highway()
    for _ in range(2):
        road.start_worker()
    road.send(*mails(number - 300))
    road.send_singly(mails(200, "bob"))
    road.send_singly(mails(100, "eve", priority="urgent"))
    assert road.mailer.sweep() == []
    books = road.wait_for_end()
    books.agree()
    assert books.states == {State.SENT: number}
    owners = {recipient.worker for id in road.ids[::50] for recipient in road.mailer.status(id).recipients}
    assert len(owners) == 2


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_kill_9_of_a_worker(highway: Make, kills: int) -> None:
    road = highway()
    victim = road.start_worker()
    road.start_worker()
    road.send(*mails(2000 * kills))
    road.send_singly(mails(200))
    for turn in range(kills):
        road.wait_for_sent(500 + 1500 * turn)
        victim.kill()
        if turn + 1 < kills:
            victim = road.start_worker()
    books = road.wait_for_end()
    books.agree(duplicates=BOUND * kills)
    assert books.states == {State.SENT: 2000 * kills + 200}
    tallies = road.mailer.stats().tallies
    assert tallies["doubts"] <= BOUND * kills
    assert tallies["resends"] == tallies["doubts"] >= books.duplicates


def test_what_a_worker_had_in_its_hands_doesnt_wait_for_the_end_of_a_long_queue(highway: Make) -> None:
    """A hint in a worker's hands has no copy; that later ones are taken shows that it is gone."""
    road = highway()
    victim = road.start_worker(threads=2)
    road.send_singly(mails(6, "slow"))
    road.wait_for_sent(1)
    victim.signal(signal.SIGSTOP)  # with what it sends, and with what waits for its threads
    time.sleep(float(str(QUICK["hint_margin"])) + 0.1)  # others are hinted a margin later
    road.send_singly(mails(300, "slow"))
    victim.kill()
    road.start_worker(threads=2)
    first = road.ids[:6]
    wait_until(lambda: all(road.mailer.status(id).state is State.SENT for id in first))
    assert road.mailer.queue()[1].hints > BUSY, "the queue is still long"
    assert sum(road.mailer.status(id).state is State.SENT for id in road.ids) < 100


def test_doubt_about_bulk_mail_is_held_and_not_sent_again(highway: Make) -> None:
    road = highway()
    victim = road.start_worker()
    road.send_singly(mails(16, "slow", priority="bulk"))
    road.stop_while_sending(victim)
    victim.kill()
    road.start_worker()
    books = road.wait_for_end()
    books.agree(doubts=THREADS)
    assert books.states[State.IN_DOUBT] == road.mailer.stats().tallies["doubts"] > 0
    [*held] = road.mailer.in_doubt()
    assert {doubt.id for doubt in held} == {message.id for message in road.mailer.failed()}
    assert {(doubt.relay, doubt.worker.partition("@")[0]) for doubt in held} == {
        (road.mailer.settings.relay.name, "w0")
    }
    assert "lapsed" in held[0].reply
    wait_until(lambda: "held in doubt:" in road.said(1), what="the alert")
    assert road.mailer.resend(everything=True).retried == len(held)
    assert road.wait_for_end().states == {State.SENT: 16}


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_kill_9_of_redis(highway: Make, kills: int) -> None:
    """With AOF `always` nothing acknowledged is lost, and a worker records what it sent meanwhile."""
    road = highway()
    for _ in range(2):
        road.start_worker()
    road.send(*mails(2500 * kills))
    for turn in range(kills):
        road.wait_for_sent(500 + 2000 * turn)
        road.redis.kill()
        time.sleep(0.5)  # workers are in the middle of something
        road.redis.start()
    books = road.wait_for_end()
    # A claim whose answer was lost with Redis is doubt: resent at the first time, held at the next.
    books.agree(duplicates=2 * BOUND * kills, doubts=2 * BOUND * (kills - 1))
    assert books.states[State.SENT] + books.states[State.IN_DOUBT] == 2500 * kills
    assert books.duplicates <= road.mailer.stats().tallies["doubts"]
    assert all(worker.running for worker in road.workers)


def test_sigterm_in_the_middle(highway: Make) -> None:
    """Ends within a slice and a dot's answer; nothing in doubt, nothing lost, nothing twice."""
    road = highway()
    leaver = road.start_worker()
    road.send_singly(mails(8, "slow"))
    road.send(*mails(2000))
    road.stop_while_sending(leaver, after=300)
    began = time.monotonic()
    leaver.terminate()
    leaver.signal(signal.SIGCONT)
    assert leaver.wait(10) == 0
    assert time.monotonic() - began < 6
    assert road.count(State.SENDING, State.IN_DOUBT) == 0
    assert road.unfinished() > 0
    road.start_worker()
    books = road.wait_for_end()
    books.agree()
    assert books.states == {State.SENT: 2008}
    assert road.mailer.stats().tallies["doubts"] == 0


class SilentRelay(ScriptedRelay):
    """Takes connections, and at some point of the dialogue says nothing any more."""

    @property
    def accepted(self) -> Counter[Any]:
        return Counter()

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"


@pytest.mark.parametrize("verb", ["CONNECT", *slow("EHLO", "MAIL", "RCPT"), "DATA"])
def test_sigterm_while_a_relay_is_silent_before_the_dot(road: Make, verb: str) -> None:
    """Nothing is waited for that can't become doubt: the worker ends at once, and gives its claims back."""
    with SilentRelay({verb: HANG}) as relay:
        way = road(relay, timeout_command=60, timeout_greeting=60, timeout_data=60)
        worker = way.start_worker()
        way.send(*mails(20, priority="bulk"))
        wait_until(lambda: way.count(State.SENDING) and relay.connections)
        began = time.monotonic()
        worker.terminate()
        assert worker.wait(15) == 0
        assert time.monotonic() - began < 10
    assert way.count(State.QUEUED) == 20
    assert way.mailer.stats().tallies["doubts"] == 0


def test_a_worker_paused_past_its_lease(highway: Make) -> None:
    """Its window is in doubt, and resent; what it says when it wakes is taken as evidence or a duplicate."""
    road = highway()
    sleeper = road.start_worker()
    road.send_singly(mails(40, "slow"))
    road.stop_while_sending(sleeper)
    road.start_worker(threads=16)
    wait_until(lambda: road.mailer.stats().tallies["doubts"], 20, "the lapse of a lease")
    sleeper.signal(signal.SIGCONT)
    books = road.wait_for_end()
    books.agree(duplicates=THREADS)
    assert books.states == {State.SENT: 40}
    wait_until(lambda: "was lost" in road.said(0))

    def told_late() -> int:
        tallies = road.mailer.stats().tallies
        return tallies["late_evidence"] + tallies["duplicates"]

    # One that had begun no body yet when it was stopped has nothing to tell.
    wait_until(lambda: told_late() or not books.duplicates)
    assert books.duplicates <= road.mailer.stats().tallies["doubts"] <= THREADS


def test_a_relay_that_dies_and_comes_back(highway: Make) -> None:
    road = highway()
    road.start_worker()
    road.send(*mails(1000))
    road.wait_for_sent(300)
    road.relay.kill()
    road.send(*mails(500, "late"))  # if all others were sent by then
    wait_until(lambda: road.count(State.DEFERRED), 10, "an attempt that found no relay")
    road.relay.start()
    books = road.wait_for_end(60)
    books.agree(duplicates=BOUND)
    assert books.states == {State.SENT: 1500}
    attempts = [
        recipient.attempts for id in road.ids[::30] for recipient in road.mailer.status(id).recipients
    ]
    assert max(attempts) <= 2
