"""The reply table of the design, row by row: what a recipient's fate is, and the connection's."""

from __future__ import annotations

from typing import Any

import pytest

from mailtasks.policy.backoff import RetryPolicy
from mailtasks.policy.decision import decide
from mailtasks.policy.verdict import CONSEQUENCES, HARD_BOUNCES, ROWS, Case, Connection, Destination, case_of
from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.state import State

POLICY = RetryPolicy(retry_jitter=False)


def refused(stage: Stage, code: int, enhanced: str | None = None, text: str = "no", **more: Any) -> Outcome:
    return Outcome(stage, How.REFUSED, Reply(code, text, enhanced), **more)


def rcpt(code: int, enhanced: str | None = None, text: str = "no", **more: Any) -> Outcome:
    return refused(Stage.RCPT, code, enhanced, text, **more)


def dot(code: int, enhanced: str | None = None, text: str = "no") -> Outcome:
    return refused(Stage.DOT, code, enhanced, text, dot_begun=True)


SIZE = "the message has 900 bytes; the relay takes 500 (SIZE)"
UTF8 = "an address or header isn't ASCII, and the relay offers no SMTPUTF8"
RETRY, FREE, FAIL = (State.DEFERRED, True), (State.DEFERRED, False), (State.FAILED, True)
KEEP, RESET, CLOSE, NONE = Connection.KEEP, Connection.RESET, Connection.CLOSE, Connection.NONE

# (what happened, the row's name, (state, whether the attempt counts), the connection)
TABLE = [
    # An attachment can't be had, before anybody is spoken to
    (Outcome(Stage.CONTENT, How.UNSUITABLE, detail="isn't there"), Case.CONTENT_LOST, FAIL, NONE),
    (Outcome(Stage.CONTENT, How.LOST, detail="can't be read"), Case.CONTENT_AWAY, FREE, NONE),
    # DNS temporary failure, refused, connect or greeting timeout
    (Outcome(Stage.CONNECT, How.LOST, detail="no address for the name"), Case.UNREACHABLE, FREE, NONE),
    (Outcome(Stage.CONNECT, How.LOST, detail="connection refused"), Case.UNREACHABLE, FREE, NONE),
    (Outcome(Stage.CONNECT, How.TIMED_OUT), Case.UNREACHABLE, FREE, NONE),
    (Outcome(Stage.GREETING, How.TIMED_OUT), Case.UNREACHABLE, FREE, NONE),
    (Outcome(Stage.GREETING, How.LOST), Case.UNREACHABLE, FREE, NONE),
    (Outcome(Stage.GREETING, How.GARBAGE), Case.UNREACHABLE, FREE, NONE),
    (refused(Stage.EHLO, 550), Case.UNREACHABLE, FREE, NONE),
    (Outcome(Stage.EHLO, How.LOST), Case.UNREACHABLE, FREE, NONE),
    # 421 or 4xx greeting; 5xx greeting
    (refused(Stage.GREETING, 421), Case.GREETING_DEFERRED, FREE, CLOSE),
    (refused(Stage.GREETING, 451), Case.GREETING_DEFERRED, FREE, CLOSE),
    (refused(Stage.GREETING, 554), Case.GREETING_REFUSED, FREE, CLOSE),
    # STARTTLS refused or not offered, handshake or certificate error
    (refused(Stage.TLS, 454), Case.TLS_FAILED, FREE, CLOSE),
    (refused(Stage.TLS, 502), Case.TLS_FAILED, FREE, CLOSE),
    (Outcome(Stage.TLS, How.UNSUITABLE, detail="offers no STARTTLS"), Case.TLS_FAILED, FREE, CLOSE),
    (Outcome(Stage.TLS, How.LOST, detail="certificate expired"), Case.TLS_FAILED, FREE, CLOSE),
    (Outcome(Stage.TLS, How.TIMED_OUT), Case.TLS_FAILED, FREE, CLOSE),
    # AUTH
    (refused(Stage.AUTH, 535, "5.7.8"), Case.LOGIN_REFUSED, FREE, CLOSE),
    (refused(Stage.AUTH, 534), Case.LOGIN_REFUSED, FREE, CLOSE),
    (refused(Stage.MAIL, 530, "5.7.0"), Case.LOGIN_REFUSED, FREE, CLOSE),
    (rcpt(530), Case.LOGIN_REFUSED, FREE, CLOSE),
    (Outcome(Stage.AUTH, How.UNSUITABLE, detail="no login by PLAIN"), Case.LOGIN_REFUSED, FREE, CLOSE),
    (refused(Stage.AUTH, 454, "4.7.0"), Case.LOGIN_DEFERRED, FREE, CLOSE),
    (Outcome(Stage.AUTH, How.LOST), Case.UNREACHABLE, FREE, NONE),
    (refused(Stage.EHLO, 421), Case.UNREACHABLE, FREE, NONE),
    # 4xx that names a rate or quota; a full mailbox does, too, but that is the recipient's own
    (rcpt(454, None, "over your sending rate"), Case.RATE_LIMITED, FREE, KEEP),
    (rcpt(450, "4.7.1", "Rate limit exceeded"), Case.RATE_LIMITED, FREE, KEEP),
    (refused(Stage.MAIL, 451, None, "hourly QUOTA reached"), Case.RATE_LIMITED, FREE, KEEP),
    (dot(452, None, "too many messages"), Case.RATE_LIMITED, FREE, KEEP),
    (rcpt(452, "4.2.2", "the account is over quota"), Case.RECIPIENT_DEFERRED, RETRY, KEEP),
    (rcpt(451, None, "see our corporate policy"), Case.RECIPIENT_DEFERRED, RETRY, KEEP),
    # MAIL 4xx, 5xx
    (refused(Stage.MAIL, 451), Case.SENDER_DEFERRED, RETRY, RESET),
    (refused(Stage.MAIL, 550), Case.SENDER_REFUSED, FAIL, RESET),
    (refused(Stage.MAIL, 550, "5.7.1"), Case.SENDER_REFUSED, FAIL, RESET),
    # Larger than SIZE; SMTPUTF8 needed
    (Outcome(Stage.MAIL, How.UNSUITABLE, detail=SIZE), Case.TOO_LARGE, FAIL, KEEP),
    (refused(Stage.MAIL, 552, "5.3.4"), Case.TOO_LARGE, FAIL, KEEP),
    (Outcome(Stage.MAIL, How.UNSUITABLE, detail=UTF8), Case.UTF8_UNSUPPORTED, FAIL, KEEP),
    (Outcome(Stage.MAIL, How.UNSUITABLE, detail="offers no 8BITMIME"), Case.CONTENT_REFUSED, FAIL, KEEP),
    # RCPT 452, with and without another recipient accepted
    (rcpt(452, None, others_accepted=True), Case.TOO_MANY_RECIPIENTS, (State.QUEUED, False), KEEP),
    (rcpt(451, "4.5.3", others_accepted=True), Case.TOO_MANY_RECIPIENTS, (State.QUEUED, False), KEEP),
    (rcpt(552, "5.5.3", others_accepted=True), Case.TOO_MANY_RECIPIENTS, (State.QUEUED, False), KEEP),
    (
        rcpt(451, None, "Too many recipients", others_accepted=True),
        Case.TOO_MANY_RECIPIENTS,
        (State.QUEUED, False),
        KEEP,
    ),
    (rcpt(452), Case.RECIPIENT_DEFERRED, RETRY, KEEP),
    (rcpt(452, None, "over quota"), Case.RECIPIENT_DEFERRED, RETRY, KEEP),
    (rcpt(550, None, "Too many recipients"), Case.RECIPIENT_REFUSED, FAIL, KEEP),
    # RCPT
    *((rcpt(550, f"5.1.{n}"), Case.RECIPIENT_UNKNOWN, FAIL, KEEP) for n in (1, 2, 3, 6, 10)),
    (rcpt(550, "5.2.1"), Case.RECIPIENT_DISABLED, FAIL, KEEP),
    (rcpt(552, "5.2.2"), Case.RECIPIENT_DISABLED, FAIL, KEEP),
    (rcpt(451, "4.7.1", "greylisted"), Case.POLICY_DEFERRED, RETRY, KEEP),
    (rcpt(450), Case.RECIPIENT_DEFERRED, RETRY, KEEP),
    (rcpt(550), Case.RECIPIENT_REFUSED, FAIL, KEEP),
    (rcpt(550, "5.1.11"), Case.RECIPIENT_REFUSED, FAIL, KEEP),
    (rcpt(501, "5.1.3", "Bad recipient address syntax"), Case.RECIPIENT_UNKNOWN, FAIL, KEEP),
    # 421 in mid-session, at any stage; to the dot it says that the mail wasn't taken
    (refused(Stage.MAIL, 421), Case.SHUTTING_DOWN, RETRY, CLOSE),
    (rcpt(421), Case.SHUTTING_DOWN, RETRY, CLOSE),
    (refused(Stage.DATA, 421), Case.SHUTTING_DOWN, RETRY, CLOSE),
    (dot(421), Case.SHUTTING_DOWN, RETRY, CLOSE),
    # 5.7.1, 5.7.26
    (rcpt(550, "5.7.1"), Case.POLICY_REFUSED, FAIL, RESET),
    (dot(550, "5.7.26"), Case.POLICY_REFUSED, FAIL, RESET),
    # 500-504 or garbage before the dot
    *((rcpt(code), Case.CONFUSED, RETRY, CLOSE) for code in (500, 501, 502, 503, 504)),
    (Outcome(Stage.RCPT, How.GARBAGE), Case.CONFUSED, RETRY, CLOSE),
    # Lost before the dot was begun; lost, timed out or garbage after it
    (Outcome(Stage.RCPT, How.LOST), Case.LOST, RETRY, CLOSE),
    (Outcome(Stage.DATA, How.TIMED_OUT), Case.LOST, RETRY, CLOSE),
    *(
        (Outcome(Stage.DOT, how, dot_begun=True), Case.IN_DOUBT, (State.IN_DOUBT, True), CLOSE)
        for how in (How.LOST, How.TIMED_OUT, How.GARBAGE)
    ),
    (dot(354), Case.IN_DOUBT, (State.IN_DOUBT, True), CLOSE),
    # Dot 4xx, 5xx, 2xx
    (dot(451), Case.CONTENT_DEFERRED, RETRY, KEEP),
    (dot(554), Case.CONTENT_REFUSED, FAIL, KEEP),
    (refused(Stage.DATA, 451), Case.CONTENT_DEFERRED, RETRY, KEEP),
    (refused(Stage.DATA, 554), Case.CONTENT_REFUSED, FAIL, KEEP),
    (Outcome(Stage.DOT, How.ACCEPTED, Reply(250, "ok"), dot_begun=True), Case.SENT, (State.SENT, True), KEEP),
    (Outcome(Stage.MAIL, How.UNTOUCHED), Case.UNTOUCHED, (State.QUEUED, False), NONE),
    # If basic and enhanced code disagree, the basic one wins.
    (rcpt(450, "5.1.1"), Case.RECIPIENT_DEFERRED, RETRY, KEEP),
    (rcpt(550, "4.7.1"), Case.RECIPIENT_REFUSED, FAIL, KEEP),
    (dot(451, "5.7.1"), Case.CONTENT_DEFERRED, RETRY, KEEP),
]


@pytest.mark.parametrize(("outcome", "case", "fate", "connection"), TABLE, ids=lambda value: str(value))
def test_the_table(outcome: Outcome, case: Case, fate: tuple[State, bool], connection: Connection) -> None:
    decision = decide(outcome, 0, "", POLICY, lambda: 1.0)
    assert decision.case is case
    assert (decision.state, decision.counted) == fate
    assert CONSEQUENCES[case].connection is connection


@pytest.mark.parametrize("how", How)
@pytest.mark.parametrize("stage", Stage)
def test_every_outcome_has_a_case(stage: Stage, how: How) -> None:
    for begun in (False, True):
        assert case_of(Outcome(stage, how, dot_begun=begun)) in CONSEQUENCES
        for code in (220, 354, 421, 451, 550):
            assert case_of(Outcome(stage, how, Reply(code, "?"), dot_begun=begun)) in CONSEQUENCES


def test_after_the_dot_only_a_sound_reply_settles() -> None:
    for stage in Stage:
        for how in (How.LOST, How.TIMED_OUT, How.GARBAGE):
            assert case_of(Outcome(stage, how, dot_begun=True)) is Case.IN_DOUBT


def test_every_case_has_a_row_and_a_consequence() -> None:
    assert {row.case for row in ROWS} == set(Case) == set(CONSEQUENCES)


def test_what_a_destination_should_be_spared() -> None:
    alerts = {
        case for case, then in CONSEQUENCES.items() if then.destination is Destination.SUSPEND_AND_ALERT
    }
    assert alerts == {Case.GREETING_REFUSED, Case.TLS_FAILED, Case.LOGIN_REFUSED, Case.POLICY_REFUSED}
    assert CONSEQUENCES[Case.SENT].destination is Destination.CREDIT


@pytest.mark.parametrize("code", HARD_BOUNCES)
def test_an_address_that_is_wrong_is_a_hard_bounce(code: str) -> None:
    assert case_of(rcpt(550, code)) is Case.RECIPIENT_UNKNOWN


def test_what_may_pass_is_no_hard_bounce() -> None:
    assert {"5.1.8", "5.2.1", "5.2.2", "5.7.1", "5.7.26"} & set(HARD_BOUNCES) == set()
