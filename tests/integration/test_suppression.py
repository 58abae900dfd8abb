"""The suppression list from end to end: real workers, a real relay, and what a person does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailtasks.message import Message
from mailtasks.state import State
from mailtasks.testing import wait_until

Make = Callable[..., Any]


def to(*recipients: str, **more: Any) -> Message:
    return Message(to=list(recipients), subject="news", text="hi", priority="bulk", **more)


def test_nobody_on_the_list_gets_mail_whenever_they_came_there(road: Make) -> None:
    way = road()
    way.command("suppress", "add", "Before@example.com", "--reason", "asked by phone")
    ids = way.send(to("before@example.com", "ann@example.com"), *(to(f"r{n}@example.com") for n in range(40)))
    way.command("suppress", "add", *(f"R{n}@example.com" for n in range(0, 40, 2)))
    way.start_worker()
    books = way.wait_for_end()
    books.agree()
    assert books.states == {State.SENT: 21, State.SUPPRESSED: 21}
    assert {recipient for _, recipient in books.caught} == {
        "ann@example.com",
        *(f"r{n}@example.com" for n in range(1, 40, 2)),
    }
    assert "(operator): asked by phone" in way.command("status", ids[0])


def test_who_bounces_gets_no_more_mail_until_somebody_says_so(road: Make) -> None:
    way = road()
    way.start_worker()
    # Of two mails to a mailbox that isn't there, the second is suppressed; one that is full is tried again.
    [first] = way.send(to("refuse-1@example.com", "full-1@example.com", "spam-1@example.com"))
    way.wait_for_end()
    assert [it.state for it in way.mailer.status(first).recipients] == [State.FAILED] * 3
    listed = {it.address: it for it in way.mailer.suppressions}
    assert list(listed) == ["refuse-1@example.com"]
    assert listed["refuse-1@example.com"].source == "bounce"
    assert listed["refuse-1@example.com"].reason.startswith("550 5.1.1 ")
    [second] = way.send(to("Refuse-1@example.com", "full-1@example.com"))
    way.wait_for_end()
    told = {it.address: it for it in way.mailer.status(second).recipients}
    assert told["Refuse-1@example.com"].state is State.SUPPRESSED
    assert "(bounce): 550 5.1.1 " in told["Refuse-1@example.com"].reply
    assert told["full-1@example.com"].state is State.FAILED

    # A retry leaves alone who is on the list, and sends once somebody has taken them off it.
    refusals = len(way.relay.refusals)
    said = way.command("retry", second, "--force", code=1)
    assert "left alone 1 recipient on the suppression list" in said
    way.wait_for_end()
    assert [it.recipient for it in way.relay.refusals[refusals:]] == ["full-1@example.com"]
    way.command("suppress", "remove", "refuse-1@example.com")
    assert way.command("retry", second) == "retried 2 recipients\n"
    wait_until(lambda: len(way.relay.refusals) == refusals + 3, what="both to be tried again")
    books = way.wait_for_end()
    books.agree()
    assert [it.address for it in way.mailer.suppressions] == ["refuse-1@example.com"]
    assert way.mailer.stats().tallies["bounced"] == 2


def test_who_comes_on_the_list_while_mail_waits_for_its_next_attempt_is_not_tried_again(road: Make) -> None:
    way = road(annotations={"default_retry_delay": 2, "retry_backoff": False, "retry_jitter": False})
    way.start_worker()
    [id] = way.send(to("defer@example.com", "bob@example.com"))
    wait_until(lambda: way.count(State.DEFERRED) == 1, what="the first attempt")
    way.mailer.suppressions.add("defer@example.com", source="unsubscribe")
    tried = len(way.relay.refusals)
    books = way.wait_for_end()
    books.agree()
    assert books.states == {State.SENT: 1, State.SUPPRESSED: 1}
    assert len(way.relay.refusals) == tried
    assert way.mailer.status(id).recipients[0].suppression.source == "unsubscribe"
