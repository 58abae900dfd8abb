"""What a relay's answer means: the reply table, as data.

The rules:

1. An outcome is named first (`Case`), by the first row of `ROWS` that fits it; what follows from a case
   is one line of `CONSEQUENCES`. No other place in the package looks at reply codes to decide.
2. If the basic and the enhanced code disagree, the basic one wins: a row asks for both.
3. "Free" means that the attempt doesn't count: it wasn't the recipient's fault.
4. After the dot has been begun, only a sound reply settles anything. Everything else is doubt.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mailtasks.reply import How, Outcome, Stage


class Case(StrEnum):
    """The rows of the reply table."""

    SENT = "sent"
    UNTOUCHED = "untouched"
    CONTENT_LOST = "content_lost"
    CONTENT_AWAY = "content_away"
    UNREACHABLE = "unreachable"
    GREETING_DEFERRED = "greeting_deferred"
    GREETING_REFUSED = "greeting_refused"
    TLS_FAILED = "tls_failed"
    LOGIN_REFUSED = "login_refused"
    LOGIN_DEFERRED = "login_deferred"
    RELAYING_DENIED = "relaying_denied"
    SHUTTING_DOWN = "shutting_down"
    RATE_LIMITED = "rate_limited"
    QUOTA_SPENT = "quota_spent"
    SENDER_DEFERRED = "sender_deferred"
    SENDER_REFUSED = "sender_refused"
    TOO_LARGE = "too_large"
    UTF8_UNSUPPORTED = "utf8_unsupported"
    TLS_UNSUPPORTED = "tls_unsupported"
    TOO_MANY_RECIPIENTS = "too_many_recipients"
    POLICY_DEFERRED = "policy_deferred"
    RECIPIENT_DEFERRED = "recipient_deferred"
    RECIPIENT_UNKNOWN = "recipient_unknown"
    RECIPIENT_DISABLED = "recipient_disabled"
    POLICY_REFUSED = "policy_refused"
    RECIPIENT_REFUSED = "recipient_refused"
    CONTENT_DEFERRED = "content_deferred"
    CONTENT_REFUSED = "content_refused"
    CONFUSED = "confused"
    LOST = "lost"
    IN_DOUBT = "in_doubt"


class Move(StrEnum):
    """What becomes of the recipient."""

    SENT = "sent"
    GIVE_BACK = "give back"  # queued again at once, free
    RETRY = "retry"
    RETRY_FREE = "retry, free"
    ONCE_MORE = "once more"  # a counted retry; refused the second time
    FAIL = "fail"
    FAIL_AND_SUPPRESS = "fail and suppress"  # the address is at fault, for good
    FAIL_AND_COUNT = "fail, suppress after several"  # the mailbox is at fault, perhaps for a while
    DOUBT = "in doubt"


class Destination(StrEnum):
    """What the destination (relay and recipient domain) or the relay should be spared. Recorded as events."""

    NONE = ""
    CREDIT = "credit"
    SUSPEND = "suspend"  # about a minute, growing; next relay
    SUSPEND_AND_ALERT = "suspend, alert"
    FEWER_CONNECTIONS = "fewer connections, pause"
    PAUSE = "pause"
    SLOW_DOWN = "slow down"
    LEARN_LIMIT = "learn the recipients a transaction may have"
    BRAKE = "many alike: pause the campaign"
    ALERT_IF_REPEATED = "alert if repeated"


class Connection(StrEnum):
    """What becomes of the connection. Acted upon by the SMTP engine; here for the table's readers.

    RESET and CLOSE wait for the end of a transaction that goes on for other recipients.
    """

    NONE = ""
    KEEP = "keep"
    RESET = "RSET"  # before the next transaction, if this one didn't come to its end
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Row:
    """A row fits an outcome if everything that it names does.

    The example is a reply that it is about, as a server really said it, addresses apart: for the page that is
    made from the table, and for the test that plays each row. A row of refusals has one.
    """

    case: Case
    stages: tuple[Stage, ...] = ()
    hows: tuple[How, ...] = (How.REFUSED,)
    codes: tuple[str, ...] = ()  # beginnings of the basic code: "5", "45", "421"
    enhanced: tuple[str, ...] = ()  # whole enhanced codes, or beginnings that end in a dot: "4.7."
    words: tuple[str, ...] = ()  # any of them in the text (without a reply: in the detail), lower case
    dot_begun: bool | None = None
    others_accepted: bool | None = None
    example: str = ""

    def fits(self, outcome: Outcome) -> bool:
        """Whether this row is about that outcome."""
        return (
            (not self.stages or outcome.stage in self.stages)
            and outcome.how in self.hows
            and self.dot_begun in (None, outcome.dot_begun)
            and self.others_accepted in (None, outcome.others_accepted)
            and self._fits_reply(outcome)
        )

    def _fits_reply(self, outcome: Outcome) -> bool:
        reply = outcome.reply
        code, enhanced, text = (
            (str(reply.code), reply.enhanced or "", reply.text) if reply else ("", "", outcome.detail)
        )
        return (
            (not self.codes or code.startswith(self.codes))
            and (not self.enhanced or any(_is_code(enhanced, wanted) for wanted in self.enhanced))
            and (not self.words or any(word in f" {text.lower()}" for word in self.words))
        )


def _is_code(enhanced: str, wanted: str) -> bool:
    return enhanced.startswith(wanted) if wanted.endswith(".") else enhanced == wanted


_BROKEN: Final = (How.LOST, How.TIMED_OUT, How.GARBAGE)
_ANY: Final = tuple(How)
_IN_SESSION: Final = (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT)

# Words stand beside codes, never instead of them: each row asks for a 4xx or a 5xx as well.
_SPENT_WORDS: Final = (
    "daily user sending",
    "daily smtp relay limit",
    "daily sending quota",
    "daily message quota",
    "submissionquotaexceeded",
    "max emails per hour",
    "emails per second",
    "sender throttled",
)
_OUR_LIMIT_WORDS: Final = ("relay limit exceeded", "sender thread limit")
_RATE_WORDS: Final = (
    " rate",  # not "corporate"
    "throttl",
    "too fast",
    "too frequent",
    "too many messages",
    "too many recipients from",
    "too much mail",
    "per hour",
    "this hour",
)
_TRANSACTION_WORDS: Final = ("too many recipients", "multiple destination domains", "separate transaction")
_STRANGER_WORDS: Final = (
    "relay access denied",
    "relay not permitted",
    "relaying denied",
    "unable to relay",
    "authentication required",
    "authentication is required",
    "not authorized to perform",
)
_SENDER_WORDS: Final = (
    "sender address rejected",
    "sendasdenied",
    "permissions to send as",
    "address is not verified",
    "verified sender identity",
)
_SIZE_WORDS: Final = ("message size", "size limit", "too big", "too large")
_LISTED_WORDS: Final = ("spamhaus", "blocked using", "block list", "blocklist", "blacklist", "dnsbl")

CONFUSED_CODES: Final = ("500", "501", "502", "503", "504")
"""The server didn't understand (RFC 5321 4.2.1): the connection's fault, perhaps; twice, it is the mail's."""

LOGIN_CODES: Final = ("530", "534", "535", "538")
"""A login is wanted, or another one (RFC 4954 4, 6). In mid-session the connection is of no more use."""

DAYS_TO_SUPPRESS: Final = 3
"""On so many days of thirty a mailbox must refuse (disabled, full) until its address is suppressed."""

HARD_BOUNCES: Final = ("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10")
"""Enhanced codes (RFC 3463 3.2) which say that the address itself is wrong: sent again only by force."""

_BAD_SENDERS: Final = ("5.1.7", "5.1.8", "5.7.27", "5.7.60")
"""Enhanced codes that speak of the sender's address, or of who may use it (the last one is Exchange's)."""

_POLICY: Final = ("5.7.1", *(f"5.7.{number}" for number in range(20, 30)), "5.7.509", "5.7.511", "5.7.606")
"""Policy, signatures, SPF, DMARC, floods (RFC 7372 and the registry), and Exchange Online's own for these."""

ROWS: Final[tuple[Row, ...]] = (
    Row(Case.SENT, hows=(How.ACCEPTED,)),
    Row(Case.UNTOUCHED, hows=(How.UNTOUCHED,)),
    # Once body and dot may have reached the relay, a broken connection leaves doubt, whatever the stage.
    Row(Case.IN_DOUBT, hows=_BROKEN, dot_begun=True),
    # An attachment that is stored apart: it isn't there any more, or its store can't be asked now.
    Row(Case.CONTENT_LOST, (Stage.CONTENT,), (How.UNSUITABLE,)),
    Row(Case.CONTENT_AWAY, (Stage.CONTENT,), _BROKEN),
    # What the engine says of a message that this relay's EHLO rules out.
    Row(Case.TOO_LARGE, (Stage.MAIL,), (How.UNSUITABLE,), words=("(size)",)),
    Row(Case.UTF8_UNSUPPORTED, (Stage.MAIL,), (How.UNSUITABLE,), words=("smtputf8",)),
    Row(Case.TLS_UNSUPPORTED, (Stage.MAIL,), (How.UNSUITABLE,), words=("requiretls",)),
    Row(Case.CONTENT_REFUSED, (Stage.MAIL,), (How.UNSUITABLE,)),
    # Before there is a session
    Row(
        Case.GREETING_REFUSED,
        (Stage.GREETING,),
        codes=("5",),
        example="554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
    ),
    Row(
        Case.GREETING_DEFERRED,
        (Stage.GREETING,),
        example="421 4.7.0 mx.example.com Error: too many connections from 192.0.2.1",
    ),
    Row(Case.TLS_FAILED, (Stage.TLS,), _ANY, example="454 4.7.0 TLS not available due to local problem"),
    Row(
        Case.LOGIN_DEFERRED,
        (Stage.AUTH,),
        codes=("4",),
        example="454 4.7.0 Temporary authentication failure: Connection lost to authentication server",
    ),
    Row(
        Case.LOGIN_REFUSED,
        (Stage.AUTH,),
        codes=("5",),
        example="535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
    ),
    Row(Case.LOGIN_REFUSED, (Stage.AUTH,), (How.UNSUITABLE,)),
    Row(Case.UNREACHABLE, (Stage.CONNECT, Stage.GREETING, Stage.AUTH), _BROKEN),
    Row(Case.UNREACHABLE, (Stage.EHLO,), _ANY, example="550 5.7.1 Helo command rejected: Access denied"),
    Row(
        Case.SHUTTING_DOWN,
        codes=("421",),
        example="421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume",
    ),
    # What an account may send is used up. Some say so with a 5xx, and mean until tomorrow.
    Row(
        Case.QUOTA_SPENT,
        _IN_SESSION,
        codes=("4", "5"),
        words=_SPENT_WORDS,
        example="454 Throttling failure: Daily message quota exceeded.",
    ),
    Row(
        Case.QUOTA_SPENT,
        _IN_SESSION,
        codes=("5",),
        enhanced=("5.4.5",),
        example="550 5.4.5 Daily sending limit exceeded. - gsmtp",
    ),
    Row(
        Case.RATE_LIMITED,
        _IN_SESSION,
        codes=("4",),
        words=_OUR_LIMIT_WORDS,
        example="432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",
    ),
    # "Too many recipients" is about the transaction, not about the recipient (RFC 5321 4.5.3.1.10).
    Row(
        Case.TOO_MANY_RECIPIENTS,
        (Stage.RCPT,),
        enhanced=("4.5.3", "5.5.3"),
        others_accepted=True,
        example="452 4.5.3 Error: too many recipients",
    ),
    # A mailbox that is full, or gets too much, names a quota or a rate, too, and it is the recipient's own.
    Row(
        Case.RECIPIENT_DEFERRED,
        (Stage.RCPT, Stage.DOT),
        codes=("4",),
        enhanced=("4.2.",),
        example="452 4.2.2 The email account that you tried to reach is over quota. - gsmtp",
    ),
    Row(
        Case.RATE_LIMITED,
        _IN_SESSION,
        codes=("4",),
        words=_RATE_WORDS,
        example="450 4.7.1 Error: too much mail from 192.0.2.1",
    ),
    Row(
        Case.TOO_MANY_RECIPIENTS,
        (Stage.RCPT,),
        codes=("452",),
        others_accepted=True,
        example="452 Requested action not taken: insufficient system storage",
    ),
    Row(
        Case.TOO_MANY_RECIPIENTS,
        (Stage.RCPT,),
        words=_TRANSACTION_WORDS,
        others_accepted=True,
        example="451 4.3.0 Multiple destination domains per transaction is unsupported. Please try again.",
    ),
    Row(
        Case.RECIPIENT_DEFERRED,
        (Stage.RCPT,),
        codes=("452",),
        example="452 4.3.1 Insufficient system storage",
    ),
    Row(
        Case.RATE_LIMITED,
        _IN_SESSION,
        codes=("4",),
        words=("quota",),
        example="451 4.7.1 Sending quota exceeded, try again later",
    ),
    # Authentication asked for in mid-session is the relay's matter, not the recipient's.
    Row(
        Case.LOGIN_REFUSED,
        (Stage.MAIL, Stage.RCPT, Stage.DATA),
        codes=LOGIN_CODES,
        example="530 5.7.57 Client not authenticated to send mail.",
    ),
    Row(
        Case.RELAYING_DENIED,
        _IN_SESSION,
        codes=("5",),
        words=_STRANGER_WORDS,
        example="554 5.7.1 <ann@example.com>: Relay access denied",
    ),
    Row(
        Case.POLICY_DEFERRED,
        _IN_SESSION,
        codes=("4",),
        enhanced=("4.7.",),
        example="451 4.7.1 Greylisting in action, please come back in 00:05:00",
    ),
    # Before the recipient's codes: whoever speaks of the sender suppresses nobody.
    Row(
        Case.SENDER_REFUSED,
        _IN_SESSION,
        codes=("5",),
        words=_SENDER_WORDS,
        example="553 5.7.1 <shop@example.com>: Sender address rejected: not owned by user ann",
    ),
    # Before the confusion: Postfix says 501 5.1.3 to an address, 501 5.1.7 to a sender, that it can't read.
    Row(
        Case.RECIPIENT_UNKNOWN,
        (Stage.RCPT,),
        codes=("5",),
        enhanced=HARD_BOUNCES,
        example="550 5.1.1 <ann@example.com>: Recipient address rejected: User unknown",
    ),
    Row(
        Case.SENDER_REFUSED,
        _IN_SESSION,
        codes=("5",),
        enhanced=_BAD_SENDERS,
        example="550 5.1.8 Access denied, bad outbound sender",
    ),
    Row(
        Case.UTF8_UNSUPPORTED,
        _IN_SESSION,
        codes=("5",),
        enhanced=("5.6.7", "5.6.9"),
        example="553 5.6.7 Must declare SMTPUTF8 to send unicode address",
    ),
    Row(
        Case.CONFUSED,
        (Stage.MAIL, Stage.RCPT, Stage.DATA),
        codes=CONFUSED_CODES,
        example="503 5.5.1 Bad sequence of commands",
    ),
    Row(
        Case.TOO_LARGE,
        _IN_SESSION,
        codes=("5",),
        enhanced=("5.2.3", "5.3.4"),
        example="552 5.3.4 Message size exceeds fixed limit",
    ),
    Row(
        Case.TOO_LARGE,
        (Stage.MAIL,),  # RFC 1870 6.1
        codes=("552",),
        example="552 Message size exceeds maximum permitted",
    ),
    Row(
        Case.TOO_LARGE,
        (Stage.DATA, Stage.DOT),
        codes=("552", "554"),
        words=_SIZE_WORDS,
        example="552 Message size exceeds maximum permitted",
    ),
    Row(
        Case.POLICY_REFUSED,
        _IN_SESSION,
        codes=("5",),
        words=_LISTED_WORDS,
        example="553 [BL21] Connections not accepted from IP addresses on Spamhaus XBL",
    ),
    Row(
        Case.SENDER_DEFERRED,
        (Stage.MAIL,),
        codes=("4",),
        example="450 4.1.8 <shop@example.com>: Sender address rejected: Domain not found",
    ),
    Row(
        Case.SENDER_DEFERRED,
        (Stage.RCPT, Stage.DATA, Stage.DOT),
        codes=("4",),
        words=("sender address rejected",),
        example="450 4.1.8 <shop@example.com>: Sender address rejected: Domain not found",
    ),
    Row(
        Case.SENDER_REFUSED,
        (Stage.MAIL,),
        codes=("5",),
        example="550 Administrative prohibition",
    ),
    Row(
        Case.RECIPIENT_DEFERRED,
        (Stage.RCPT,),
        codes=("4",),
        example="450 4.1.1 <ann@example.com>: Recipient address rejected: unverified address",
    ),
    Row(
        Case.RECIPIENT_DISABLED,
        (Stage.RCPT, Stage.DOT),  # the dot: LMTP says there what became of each recipient
        codes=("5",),
        enhanced=("5.2.1", "5.2.2"),
        example="552 5.2.2 <ann@example.com> Quota exceeded (mailbox for user is full)",
    ),
    Row(
        Case.POLICY_REFUSED,
        (Stage.RCPT, Stage.DATA, Stage.DOT),
        codes=("5",),
        enhanced=_POLICY,
        example="550 5.7.26 This mail has been blocked because the sender is unauthenticated. - gsmtp",
    ),
    Row(
        Case.RECIPIENT_REFUSED,
        (Stage.RCPT,),
        codes=("5",),
        example="550 5.4.1 Recipient address rejected: Access denied.",
    ),
    Row(
        Case.CONTENT_DEFERRED,
        (Stage.DATA, Stage.DOT),
        codes=("4",),
        example="451 4.3.0 Error: queue file write error",
    ),
    Row(
        Case.CONTENT_REFUSED,
        (Stage.DATA, Stage.DOT),
        codes=("5",),
        example="554 5.6.0 Message contains invalid header",
    ),
    Row(Case.CONFUSED, hows=(How.GARBAGE,), dot_begun=False),
    Row(Case.LOST, hows=(How.LOST, How.TIMED_OUT), dot_begun=False),
    # Nets for what an engine that is sound never says: a reply that is neither 2xx, 4xx nor 5xx.
    Row(Case.IN_DOUBT, hows=_ANY, dot_begun=True),
    Row(Case.CONFUSED, hows=_ANY),
)
"""First match wins."""


@dataclass(frozen=True, slots=True)
class Consequence:
    """What follows from a case."""

    move: Move
    destination: Destination = Destination.NONE
    connection: Connection = Connection.NONE
    wait: float = 0.0  # seconds until the next attempt at the least


CONSEQUENCES: Final[dict[Case, Consequence]] = {
    Case.SENT: Consequence(Move.SENT, Destination.CREDIT, Connection.KEEP),
    Case.UNTOUCHED: Consequence(Move.GIVE_BACK),
    Case.CONTENT_LOST: Consequence(Move.FAIL),
    Case.CONTENT_AWAY: Consequence(Move.RETRY_FREE),
    Case.UNREACHABLE: Consequence(Move.RETRY_FREE, Destination.SUSPEND),
    Case.GREETING_DEFERRED: Consequence(Move.RETRY_FREE, Destination.FEWER_CONNECTIONS, Connection.CLOSE),
    Case.GREETING_REFUSED: Consequence(Move.RETRY_FREE, Destination.SUSPEND_AND_ALERT, Connection.CLOSE),
    Case.TLS_FAILED: Consequence(Move.RETRY_FREE, Destination.SUSPEND_AND_ALERT, Connection.CLOSE),
    Case.LOGIN_REFUSED: Consequence(Move.RETRY_FREE, Destination.SUSPEND_AND_ALERT, Connection.CLOSE),
    Case.LOGIN_DEFERRED: Consequence(Move.RETRY_FREE, Destination.PAUSE, Connection.CLOSE),
    Case.RELAYING_DENIED: Consequence(
        Move.RETRY_FREE, Destination.SUSPEND_AND_ALERT, Connection.RESET, wait=5 * 60
    ),
    Case.SHUTTING_DOWN: Consequence(Move.RETRY, Destination.SLOW_DOWN, Connection.CLOSE),
    Case.RATE_LIMITED: Consequence(Move.RETRY_FREE, Destination.SLOW_DOWN, Connection.KEEP),
    # Amazon SES asks for up to ten minutes; Gmail means up to a day.
    Case.QUOTA_SPENT: Consequence(
        Move.RETRY_FREE, Destination.SUSPEND_AND_ALERT, Connection.KEEP, wait=15 * 60
    ),
    Case.SENDER_DEFERRED: Consequence(Move.RETRY, Destination.BRAKE, Connection.RESET),
    Case.SENDER_REFUSED: Consequence(Move.FAIL, Destination.BRAKE, Connection.RESET),
    Case.TOO_LARGE: Consequence(Move.FAIL, Destination.NONE, Connection.KEEP),
    Case.UTF8_UNSUPPORTED: Consequence(Move.FAIL, Destination.NONE, Connection.KEEP),
    Case.TLS_UNSUPPORTED: Consequence(Move.FAIL, Destination.NONE, Connection.KEEP),
    Case.TOO_MANY_RECIPIENTS: Consequence(Move.GIVE_BACK, Destination.LEARN_LIMIT, Connection.KEEP),
    Case.POLICY_DEFERRED: Consequence(Move.RETRY, Destination.SLOW_DOWN, Connection.KEEP),
    Case.RECIPIENT_DEFERRED: Consequence(Move.RETRY, Destination.NONE, Connection.KEEP),
    Case.RECIPIENT_UNKNOWN: Consequence(Move.FAIL_AND_SUPPRESS, Destination.NONE, Connection.KEEP),
    Case.RECIPIENT_DISABLED: Consequence(Move.FAIL_AND_COUNT, Destination.NONE, Connection.KEEP),
    Case.POLICY_REFUSED: Consequence(Move.FAIL, Destination.SUSPEND_AND_ALERT, Connection.RESET),
    Case.RECIPIENT_REFUSED: Consequence(Move.FAIL, Destination.NONE, Connection.KEEP),
    Case.CONTENT_DEFERRED: Consequence(Move.RETRY, Destination.NONE, Connection.KEEP),
    Case.CONTENT_REFUSED: Consequence(Move.FAIL, Destination.NONE, Connection.KEEP),
    Case.CONFUSED: Consequence(Move.ONCE_MORE, Destination.ALERT_IF_REPEATED, Connection.CLOSE),
    Case.LOST: Consequence(Move.RETRY, Destination.NONE, Connection.CLOSE),
    Case.IN_DOUBT: Consequence(Move.DOUBT, Destination.NONE, Connection.CLOSE),
}


def case_of(outcome: Outcome) -> Case:
    """The name of what happened; every outcome has one."""
    return next(row.case for row in ROWS if row.fits(outcome))
