"""The wait that a reply names: read where it is meant, bounded, and never less than the user's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtasks.policy.backoff import RetryPolicy
from mailtasks.policy.decision import decide
from mailtasks.policy.patience import LONGEST, SPREAD, named_wait, stretched
from mailtasks.reply import How, Outcome, Reply, Stage


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Greylisted, please try again in 900 seconds", 900),
        ("<a@b>: Recipient address rejected: Greylisted for 300 seconds (see http://isg.test/?a=1)", 300),
        ("Greylisting in action, please come back in 00:05:00", 300),
        ("Greylisted, see http://grey.test/ or wait 300 seconds", 300),
        ("greylisted, try again in 60s", 60),
        ("You are being greylisted. Please retry after 5 min", 300),
        ("Temporarily deferred, retry in\n2 hours", 7200),
        ("Server busy, please try again in about 10 minutes.", 600),
        ("Please wait at least 1 hour", 3600),
        ("Resource temporarily unavailable - Please try again later", 0),
        ("Sender ip address rejected: too many mails in the last 10 minutes", 0),
        ("You exceeded 100 messages per 5 minutes. Try again later", 0),
        ("Try again later. Error 4421 s", 0),
        ("back to 10.0.0.1 3 s", 0),
        ("retry 5 times", 0),
        ("", 0),
    ],
)
def test_what_is_read(text: str, seconds: float) -> None:
    assert named_wait(Reply(451, text, "4.7.1"), longest=10_000) == seconds


def test_only_a_4xx_can_ask_for_another_attempt() -> None:
    assert named_wait(Reply(550, "try again in 5 minutes")) == 0
    assert named_wait(None) == 0


@pytest.mark.parametrize("text", ["retry after 999999 days", "come back in 999:59:59"])
def test_it_is_bounded(text: str) -> None:
    assert named_wait(Reply(421, text)) == LONGEST


@given(st.text() | st.text(alphabet="again wait retry0123456789:;hms ", max_size=200))
def test_whatever_is_said_it_is_a_wait(text: str) -> None:
    assert 0 <= named_wait(Reply(450, text)) <= LONGEST


def test_a_long_text_is_read_in_no_time() -> None:
    assert named_wait(Reply(450, "again " * 200_000 + "in 5 minutes")) == 0


def test_a_wait_is_stretched_so_that_not_all_come_at_once() -> None:
    assert stretched(60, 0, lambda: 1.0) == 60
    assert stretched(600, 300, lambda: 1.0) == 600
    assert stretched(60, 300, lambda: 0.0) == 300
    assert stretched(60, 300, lambda: 1.0) == 300 * (1 + SPREAD)
    assert stretched(60, 300, None) == 300


def greylisted(text: str) -> Outcome:
    return Outcome(Stage.RCPT, How.REFUSED, Reply(451, text, "4.7.1"))


def test_the_next_attempt_keeps_it() -> None:
    policy = RetryPolicy(retry_jitter=False)
    assert decide(greylisted("try again in 300 seconds"), 0, "", policy, lambda: 1.0).delay == 300
    assert decide(greylisted("try again in 300 seconds"), 9, "", policy, lambda: 1.0).delay == 3600
    assert decide(greylisted("try again in 5 hours"), 0, "", policy, lambda: 1.0).delay == 3600


def test_who_backs_off_for_longer_is_also_told_to_wait_for_longer() -> None:
    policy = RetryPolicy(retry_jitter=False, retry_backoff_max=8 * 3600)
    assert decide(greylisted("try again in 5 hours"), 0, "", policy, lambda: 1.0).delay == 5 * 3600
