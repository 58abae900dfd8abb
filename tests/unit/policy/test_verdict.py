"""The reply table of the design, row by row: what a recipient's fate is, and the connection's."""

from __future__ import annotations

from typing import Any

import pytest

from mailtasks.policy.backoff import RetryPolicy
from mailtasks.policy.decision import decide
from mailtasks.policy.verdict import (
    CONSEQUENCES,
    HARD_BOUNCES,
    ROWS,
    Case,
    Connection,
    Destination,
    Row,
    case_of,
)
from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.smtp.grammar import make_reply
from mailtasks.state import State

POLICY = RetryPolicy(retry_jitter=False)


def refused(stage: Stage, code: int, enhanced: str | None = None, text: str = "no", **more: Any) -> Outcome:
    return Outcome(stage, How.REFUSED, Reply(code, text, enhanced), **more)


def rcpt(code: int, enhanced: str | None = None, text: str = "no", **more: Any) -> Outcome:
    return refused(Stage.RCPT, code, enhanced, text, **more)


def dot(code: int, enhanced: str | None = None, text: str = "no") -> Outcome:
    return refused(Stage.DOT, code, enhanced, text, dot_begun=True)


SIZE = "the message has 900 bytes; the relay takes 500 (SIZE)"
TLS = "5.7.30 the message requires TLS all the way, and the relay offers no REQUIRETLS"
UTF8 = "5.6.7 an address or header isn't ASCII, and the relay offers no SMTPUTF8"
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
    (Outcome(Stage.MAIL, How.UNSUITABLE, detail=TLS), Case.TLS_UNSUPPORTED, FAIL, KEEP),
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


# (where, what a real server says there, the row's name). Addresses and hosts are others.
SAID: list[tuple[Stage, str, Case]] = [
    # Postfix
    (Stage.GREETING, "421 4.7.0 mx.test Error: too many connections from 192.0.2.1", Case.GREETING_DEFERRED),
    (Stage.GREETING, "421 4.3.2 All server ports are busy", Case.GREETING_DEFERRED),
    (Stage.MAIL, "450 4.7.1 Error: too much mail from 192.0.2.1", Case.RATE_LIMITED),
    (Stage.MAIL, "452 4.3.1 Insufficient system storage", Case.SENDER_DEFERRED),
    (Stage.MAIL, "501 5.1.7 Bad sender address syntax", Case.SENDER_REFUSED),
    (Stage.MAIL, "552 5.3.4 Message size exceeds fixed limit", Case.TOO_LARGE),
    (Stage.MAIL, "553 5.6.7 Must declare SMTPUTF8 to send unicode address", Case.UTF8_UNSUPPORTED),
    (Stage.MAIL, "530 5.7.0 Must issue a STARTTLS command first", Case.LOGIN_REFUSED),
    (Stage.RCPT, "450 4.7.1 Error: too many recipients from 192.0.2.1", Case.RATE_LIMITED),
    (Stage.RCPT, "450 4.2.0 <a@b>: Recipient address rejected: Greylisted", Case.RECIPIENT_DEFERRED),
    (Stage.RCPT, "450 4.1.8 <s@b>: Sender address rejected: Domain not found", Case.SENDER_DEFERRED),
    (Stage.RCPT, "450 4.1.2 <a@b>: Recipient address rejected: Domain not found", Case.RECIPIENT_DEFERRED),
    (Stage.RCPT, "452 4.5.3 Error: too many recipients", Case.RECIPIENT_DEFERRED),
    (Stage.RCPT, "501 5.1.3 Bad recipient address syntax", Case.RECIPIENT_UNKNOWN),
    (Stage.RCPT, "550 5.1.1 <a@b>: Recipient address rejected: User unknown", Case.RECIPIENT_UNKNOWN),
    (Stage.RCPT, "553 5.7.1 <s@b>: Sender address rejected: not owned by user x", Case.SENDER_REFUSED),
    (Stage.RCPT, "554 5.7.1 <a@b>: Relay access denied", Case.RELAYING_DENIED),
    (Stage.RCPT, "554 5.7.1 Service unavailable; Client host blocked using bl.test", Case.POLICY_REFUSED),
    (Stage.DATA, "554 5.5.1 Error: no valid recipients", Case.CONTENT_REFUSED),
    (Stage.DOT, "451 4.3.0 Error: queue file write error", Case.CONTENT_DEFERRED),
    (Stage.DOT, "552 5.3.4 Error: message file too big", Case.TOO_LARGE),
    # Exim, and cPanel's
    (
        Stage.GREETING,
        "421 Too many concurrent SMTP connections; please try again later.",
        Case.GREETING_DEFERRED,
    ),
    (Stage.MAIL, "452 space shortage, please try later", Case.SENDER_DEFERRED),
    (Stage.MAIL, "552 Message size exceeds maximum permitted", Case.TOO_LARGE),
    (Stage.DOT, "552 Message size exceeds maximum permitted", Case.TOO_LARGE),
    (Stage.RCPT, "451 Temporary local problem - please try later", Case.RECIPIENT_DEFERRED),
    (Stage.RCPT, "550 relay not permitted, authentication required", Case.RELAYING_DENIED),
    (Stage.RCPT, "550 Unrouteable address", Case.RECIPIENT_REFUSED),
    (Stage.RCPT, "550 Domain b.test has exceeded the max emails per hour (100/100)", Case.QUOTA_SPENT),
    # Gmail and its relay
    (Stage.RCPT, "421 4.7.28 Our system has detected an unusual rate of mail", Case.SHUTTING_DOWN),
    (Stage.DOT, "421 4.7.0 Try again later, closing connection.", Case.SHUTTING_DOWN),
    (
        Stage.RCPT,
        "450 4.2.1 The user you are contacting is receiving mail too quickly",
        Case.RECIPIENT_DEFERRED,
    ),
    (Stage.RCPT, "450 4.2.1 Peak SMTP relay limit exceeded for customer.", Case.RATE_LIMITED),
    (Stage.RCPT, "452 4.2.2 The email account is over quota.", Case.RECIPIENT_DEFERRED),
    (Stage.RCPT, "550 5.2.1 The account that you tried to reach is disabled.", Case.RECIPIENT_DISABLED),
    (Stage.MAIL, "550 5.4.5 Daily user sending limit exceeded.", Case.QUOTA_SPENT),
    (Stage.DOT, "550 5.4.5 Daily SMTP relay limit exceeded for user.", Case.QUOTA_SPENT),
    (Stage.MAIL, "550 5.7.1 Daily SMTP relay limit exceeded for customer.", Case.QUOTA_SPENT),
    (Stage.DOT, "550 5.7.28 Mail sent from your IP address has been blocked.", Case.POLICY_REFUSED),
    (Stage.DOT, "550 5.7.26 This mail is unauthenticated", Case.POLICY_REFUSED),
    (Stage.DOT, "552 5.2.3 Your message exceeded the message size limits.", Case.TOO_LARGE),
    (Stage.AUTH, "535 5.7.8 Username and Password not accepted.", Case.LOGIN_REFUSED),
    (Stage.AUTH, "454 4.7.0 Too many login attempts, please try again later.", Case.LOGIN_DEFERRED),
    # Exchange Online
    (
        Stage.AUTH,
        "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
        Case.LOGIN_REFUSED,
    ),
    (Stage.MAIL, "530 5.7.57 Client not authenticated to send mail.", Case.LOGIN_REFUSED),
    (
        Stage.MAIL,
        "421 4.4.2 Message submission rate for this client has exceeded the limit",
        Case.SHUTTING_DOWN,
    ),
    (Stage.DOT, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", Case.RATE_LIMITED),
    (Stage.RCPT, "451 4.7.500 Server busy. Please try again later from 192.0.2.1", Case.POLICY_DEFERRED),
    (
        Stage.DOT,
        "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
        Case.SENDER_REFUSED,
    ),
    (Stage.DOT, "554 5.2.252 SendAsDenied; s@b not allowed to send as t@b", Case.SENDER_REFUSED),
    (Stage.DOT, "550 5.2.252 Sender throttled due to continuous send as denied errors.", Case.QUOTA_SPENT),
    (Stage.DOT, "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", Case.QUOTA_SPENT),
    (Stage.DOT, "550 5.1.8 Access denied, bad outbound sender", Case.SENDER_REFUSED),
    (Stage.RCPT, "550 5.1.10 RESOLVER.ADR.RecipientNotFound", Case.RECIPIENT_UNKNOWN),
    (Stage.RCPT, "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain", Case.RELAYING_DENIED),
    (Stage.DOT, "550 5.7.509 Access denied, sending domain b.test does not pass DMARC", Case.POLICY_REFUSED),
    (Stage.RCPT, "550 5.4.1 Recipient address rejected: Access denied.", Case.RECIPIENT_REFUSED),
    # Amazon SES
    (Stage.DOT, "454 Throttling failure: Maximum sending rate exceeded.", Case.RATE_LIMITED),
    (Stage.DOT, "454 Throttling failure: Daily message quota exceeded.", Case.QUOTA_SPENT),
    (Stage.DOT, "554 Message rejected: Email address is not verified.", Case.SENDER_REFUSED),
    (
        Stage.DOT,
        "554 Access denied: User x is not authorized to perform ses:SendRawEmail",
        Case.RELAYING_DENIED,
    ),
    (Stage.MAIL, "530 Authentication required", Case.LOGIN_REFUSED),
    (Stage.DOT, "451 Temporary service failure", Case.CONTENT_DEFERRED),
    (Stage.MAIL, "421 Too many concurrent SMTP connections", Case.SHUTTING_DOWN),
    # SendGrid, Mailtrap
    (Stage.AUTH, "451 Authentication failed: Maximum credits exceeded", Case.LOGIN_DEFERRED),
    (Stage.RCPT, "452 Too many recipients received this hour (throttled)", Case.RATE_LIMITED),
    (Stage.RCPT, "450 too frequent connects from 192.0.2.1, please try again later.", Case.RATE_LIMITED),
    (Stage.DOT, "550 The from address does not match a verified Sender Identity.", Case.SENDER_REFUSED),
    (Stage.DATA, "550 5.7.0 Too many emails per second. Please upgrade your plan", Case.QUOTA_SPENT),
    # Yahoo
    (Stage.MAIL, "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred", Case.SHUTTING_DOWN),
    (Stage.MAIL, "553 5.7.1 [BL21] Connections not accepted, on Spamhaus XBL", Case.POLICY_REFUSED),
    (Stage.DOT, "554 5.7.9 Message not accepted for policy reasons.", Case.CONTENT_REFUSED),
    # Dovecot's LMTP; RFC 5321 3.4
    (Stage.DOT, "552 5.2.2 <a@b> Quota exceeded (mailbox for user is full)", Case.RECIPIENT_DISABLED),
    (Stage.DOT, "452 4.2.2 <a@b> Mailbox is full / Blocks limit exceeded", Case.RECIPIENT_DEFERRED),
    (Stage.RCPT, "551 User not local; please try <c@d>", Case.RECIPIENT_REFUSED),
]


def heard(stage: Stage, said: str, **more: Any) -> Outcome:
    return Outcome(
        stage, How.REFUSED, make_reply(int(said[:3]), [said.encode()]), dot_begun=stage is Stage.DOT, **more
    )


@pytest.mark.parametrize(("stage", "said", "case"), SAID, ids=lambda value: str(value))
def test_what_real_servers_say(stage: Stage, said: str, case: Case) -> None:
    assert case_of(heard(stage, said)) is case


@pytest.mark.parametrize(
    ("said", "case"),
    [
        ("452 4.5.3 Your message has too many recipients. On sending limits see", Case.TOO_MANY_RECIPIENTS),
        ("452 4.5.3 Domain policy size per transaction exceeded", Case.TOO_MANY_RECIPIENTS),
        ("451 4.3.0 Multiple destination domains per transaction is unsupported.", Case.TOO_MANY_RECIPIENTS),
        ("452 Too many recipients received this hour (throttled)", Case.RATE_LIMITED),
        ("450 4.7.1 Error: too many recipients from 192.0.2.1", Case.RATE_LIMITED),
        ("452 4.2.2 The email account that you tried to reach is over quota", Case.RECIPIENT_DEFERRED),
        ("550 5.1.1 No such user", Case.RECIPIENT_UNKNOWN),
    ],
)
def test_what_they_say_beside_an_accepted_recipient(said: str, case: Case) -> None:
    """A new transaction helps where the transaction was too large, and nowhere else."""
    assert case_of(heard(Stage.RCPT, said, others_accepted=True)) is case


def test_a_spent_quota_and_a_stranger_wait_and_cost_no_attempt() -> None:
    for said, least in [("550 5.4.5 Daily sending limit", 900.0), ("554 5.7.1 Relay access denied", 300.0)]:
        decision = decide(heard(Stage.MAIL, said), 0, "", POLICY, lambda: 1.0)
        assert (decision.state, decision.counted, decision.delay) == (*FREE, least)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if How.REFUSED in row.hows][:-2], ids=lambda row: row.example
)
def test_a_row_of_refusals_has_an_example_that_it_fits(row: Row) -> None:
    stage = row.stages[0] if row.stages else Stage.MAIL
    assert row.fits(heard(stage, row.example, others_accepted=bool(row.others_accepted)))


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
    assert alerts == {
        Case.GREETING_REFUSED,
        Case.TLS_FAILED,
        Case.LOGIN_REFUSED,
        Case.RELAYING_DENIED,
        Case.QUOTA_SPENT,
        Case.POLICY_REFUSED,
    }
    assert CONSEQUENCES[Case.SENT].destination is Destination.CREDIT


@pytest.mark.parametrize("code", HARD_BOUNCES)
def test_an_address_that_is_wrong_is_a_hard_bounce(code: str) -> None:
    assert case_of(rcpt(550, code)) is Case.RECIPIENT_UNKNOWN


def test_what_may_pass_is_no_hard_bounce() -> None:
    assert {"5.1.8", "5.2.1", "5.2.2", "5.7.1", "5.7.26"} & set(HARD_BOUNCES) == set()
