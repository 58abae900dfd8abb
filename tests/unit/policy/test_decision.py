"""From an outcome and the retry settings to what the ledger is told."""

from __future__ import annotations

import pytest

from mailtasks.errors import MailtasksError, PermanentFailure, TemporaryFailure
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.policy.decision import decide
from mailtasks.policy.verdict import Destination
from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.state import State

GREYLISTED = Outcome(Stage.RCPT, How.REFUSED, Reply(451, "later", "4.7.1"))
UNKNOWN = Outcome(Stage.RCPT, How.REFUSED, Reply(550, "no such user", "5.1.1"))
BAFFLED = Outcome(Stage.RCPT, How.REFUSED, Reply(503, "bad sequence"))
UNREACHABLE = Outcome(Stage.CONNECT, How.LOST)
DOUBTFUL = Outcome(Stage.DOT, How.LOST, dot_begun=True)


def one() -> float:
    return 1.0


def test_a_delay_grows_with_counted_attempts() -> None:
    policy = RetryPolicy()
    assert [decide(GREYLISTED, n, "", policy, one).delay for n in range(8)] == [
        *(60, 120, 240, 480, 960, 1920),
        *(3600, 3600),
    ]


def test_a_free_retry_does_not_grow_and_does_not_count() -> None:
    decision = decide(UNREACHABLE, 7, "", RetryPolicy(), one)
    assert (decision.state, decision.counted, decision.delay) == (State.DEFERRED, False, 60)
    assert decision.destination is Destination.SUSPEND


def test_an_unreachable_relay_never_fails_a_mail_though_its_attempts_are_used_up() -> None:
    assert decide(UNREACHABLE, 99, "", RetryPolicy(max_retries=1), one).state is State.DEFERRED


@pytest.mark.parametrize(("max_retries", "tries"), [(0, 1), (1, 2), (3, 4)], ids=lambda value: f"{value}")
def test_max_retries_are_retries_as_for_celery(max_retries: int, tries: int) -> None:
    """One try and then so many more."""
    policy = RetryPolicy(max_retries=max_retries)
    states = [decide(GREYLISTED, n, "", policy, one).state for n in range(tries)]
    assert states == [State.DEFERRED] * (tries - 1) + [State.FAILED]


def test_what_baffles_a_relay_is_tried_once_more() -> None:
    assert decide(BAFFLED, 0, "", RetryPolicy(), one).state is State.DEFERRED
    assert decide(BAFFLED, 1, "503", RetryPolicy(), one).state is State.FAILED
    assert decide(BAFFLED, 1, "451", RetryPolicy(), one).state is State.DEFERRED


@pytest.mark.parametrize(
    ("stage", "code", "words", "days"),
    [
        (Stage.RCPT, "5.1.1", "User unknown", 1),
        (Stage.RCPT, "5.1.10", "Recipient not found", 1),
        (Stage.RCPT, "5.2.1", "disabled", 3),
        (Stage.RCPT, "5.2.2", "mailbox full", 3),
        (Stage.DOT, "5.2.2", "mailbox full", 0),
        (Stage.DOT, "5.1.1", "User unknown", 0),
        (Stage.MAIL, "5.1.1", "User unknown", 0),
        (Stage.RCPT, "5.1.1", "<shop@example.com>: Sender address rejected: User unknown", 0),
        (Stage.RCPT, "5.1.8", "Sender address rejected: Domain not found", 0),
        (Stage.RCPT, "5.7.1", "blocked using zen.spamhaus.org", 0),
        (Stage.RCPT, "5.7.26", "unauthenticated", 0),
        (Stage.RCPT, "5.4.1", "Access denied", 0),
        (Stage.DOT, "5.6.0", "invalid header", 0),
    ],
)
def test_only_what_rcpt_says_of_the_address_suppresses_it(
    stage: Stage, code: str, words: str, days: int
) -> None:
    outcome = Outcome(stage, How.REFUSED, Reply(550, words, code))
    decision = decide(outcome, 0, "", RetryPolicy(), one)
    assert (decision.state, decision.suppress_after) == (State.FAILED, days)


def test_who_is_tried_again_is_not_suppressed_yet() -> None:
    policy = RetryPolicy(autoretry_for=(MailtasksError,), max_retries=1)
    told = [decide(UNKNOWN, n, "", policy, one) for n in range(2)]
    assert [(it.state, it.suppress_after) for it in told] == [(State.DEFERRED, 0), (State.FAILED, 1)]


def test_autoretry_for_widens_and_dont_autoretry_for_narrows() -> None:
    assert decide(UNKNOWN, 0, "", RetryPolicy(), one).state is State.FAILED
    assert decide(UNKNOWN, 0, "", RetryPolicy(autoretry_for=(MailtasksError,)), one).state is State.DEFERRED
    never = RetryPolicy(autoretry_for=(Exception,), dont_autoretry_for=(PermanentFailure,))
    assert decide(UNKNOWN, 0, "", never, one).state is State.FAILED
    assert decide(GREYLISTED, 0, "", never, one).state is State.DEFERRED
    none = RetryPolicy(dont_autoretry_for=(TemporaryFailure,))
    assert decide(GREYLISTED, 0, "", none, one).state is State.FAILED


def test_doubt_is_never_retried_here() -> None:
    decision = decide(DOUBTFUL, 0, "", RetryPolicy(autoretry_for=(Exception,)), one)
    assert (decision.state, decision.delay) == (State.IN_DOUBT, 0)
