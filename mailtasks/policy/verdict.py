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
    SHUTTING_DOWN = "shutting_down"
    RATE_LIMITED = "rate_limited"
    SENDER_DEFERRED = "sender_deferred"
    SENDER_REFUSED = "sender_refused"
    TOO_LARGE = "too_large"
    UTF8_UNSUPPORTED = "utf8_unsupported"
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
    """What becomes of the connection. Acted upon by the SMTP engine; here for the table's readers."""

    NONE = ""
    KEEP = "keep"
    RESET = "RSET"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Row:
    """A row fits an outcome if everything that it names does."""

    case: Case
    stages: tuple[Stage, ...] = ()
    hows: tuple[How, ...] = (How.REFUSED,)
    codes: tuple[str, ...] = ()  # beginnings of the basic code: "5", "45", "421"
    enhanced: tuple[str, ...] = ()  # whole enhanced codes, or beginnings that end in a dot: "4.7."
    words: tuple[str, ...] = ()  # any of them in the text (without a reply: in the detail), lower case
    dot_begun: bool | None = None
    others_accepted: bool | None = None

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
_RATE_WORDS: Final = (" rate", "quota", "throttl", "too many messages", "too fast")  # not "corporate"

CONFUSED_CODES: Final = ("500", "501", "502", "503", "504")
"""The server didn't understand (RFC 5321 4.2.1): the connection's fault, perhaps; twice, it is the mail's."""

HARD_BOUNCES: Final = ("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10")
"""Enhanced codes (RFC 3463 3.2) which say that the address itself is wrong: sent again only by force."""

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
    Row(Case.CONTENT_REFUSED, (Stage.MAIL,), (How.UNSUITABLE,)),
    # Before there is a session
    Row(Case.GREETING_REFUSED, (Stage.GREETING,), codes=("5",)),
    Row(Case.GREETING_DEFERRED, (Stage.GREETING,)),
    Row(Case.TLS_FAILED, (Stage.TLS,), _ANY),
    Row(Case.LOGIN_DEFERRED, (Stage.AUTH,), codes=("4",)),
    Row(Case.LOGIN_REFUSED, (Stage.AUTH,), codes=("5",)),
    Row(Case.LOGIN_REFUSED, (Stage.AUTH,), (How.UNSUITABLE,)),
    Row(Case.UNREACHABLE, (Stage.CONNECT, Stage.GREETING, Stage.AUTH), (*_BROKEN, How.REFUSED)),
    Row(Case.UNREACHABLE, (Stage.EHLO,), _ANY),
    Row(Case.SHUTTING_DOWN, codes=("421",)),
    # "Too many recipients" is about the transaction, not about the recipient (RFC 5321 4.5.3.1.10).
    Row(Case.TOO_MANY_RECIPIENTS, (Stage.RCPT,), codes=("452",), others_accepted=True),
    Row(Case.TOO_MANY_RECIPIENTS, (Stage.RCPT,), enhanced=("4.5.3", "5.5.3"), others_accepted=True),
    Row(Case.TOO_MANY_RECIPIENTS, (Stage.RCPT,), words=("too many recipients",), others_accepted=True),
    Row(Case.RECIPIENT_DEFERRED, (Stage.RCPT,), codes=("452",)),
    # Authentication asked for in mid-session is the relay's matter, not the recipient's.
    Row(Case.LOGIN_REFUSED, (Stage.MAIL, Stage.RCPT), codes=("530", "535", "534")),
    # A full mailbox names a quota, too, and it is the recipient's own.
    Row(Case.RECIPIENT_DEFERRED, (Stage.RCPT, Stage.DOT), codes=("4",), enhanced=("4.2.",)),
    Row(Case.RATE_LIMITED, (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT), codes=("4",), words=_RATE_WORDS),
    Row(
        Case.POLICY_DEFERRED,
        (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT),
        codes=("4",),
        enhanced=("4.7.",),
    ),
    # Before the confusion: Postfix says 501 5.1.3 to an address whose syntax it doesn't like.
    Row(Case.RECIPIENT_UNKNOWN, (Stage.RCPT,), codes=("5",), enhanced=HARD_BOUNCES),
    Row(Case.CONFUSED, (Stage.MAIL, Stage.RCPT, Stage.DATA), codes=CONFUSED_CODES),
    Row(Case.TOO_LARGE, (Stage.MAIL, Stage.RCPT), codes=("5",), enhanced=("5.3.4",)),
    Row(Case.SENDER_DEFERRED, (Stage.MAIL,), codes=("4",)),
    Row(Case.SENDER_REFUSED, (Stage.MAIL,), codes=("5",)),
    Row(Case.RECIPIENT_DEFERRED, (Stage.RCPT,), codes=("4",)),
    Row(Case.RECIPIENT_DISABLED, (Stage.RCPT,), codes=("5",), enhanced=("5.2.1", "5.2.2")),
    Row(Case.POLICY_REFUSED, (Stage.RCPT, Stage.DATA, Stage.DOT), codes=("5",), enhanced=("5.7.1", "5.7.26")),
    Row(Case.RECIPIENT_REFUSED, (Stage.RCPT,), codes=("5",)),
    Row(Case.CONTENT_DEFERRED, (Stage.DATA, Stage.DOT), codes=("4",)),
    Row(Case.CONTENT_REFUSED, (Stage.DATA, Stage.DOT), codes=("5",)),
    Row(Case.CONFUSED, hows=(How.GARBAGE,), dot_begun=False),
    Row(Case.LOST, hows=(How.LOST, How.TIMED_OUT), dot_begun=False),
    # A reply that is neither 2xx, 4xx nor 5xx where one of them was due.
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
    Case.SHUTTING_DOWN: Consequence(Move.RETRY, Destination.SLOW_DOWN, Connection.CLOSE),
    Case.RATE_LIMITED: Consequence(Move.RETRY_FREE, Destination.SLOW_DOWN, Connection.KEEP),
    Case.SENDER_DEFERRED: Consequence(Move.RETRY, Destination.BRAKE, Connection.RESET),
    Case.SENDER_REFUSED: Consequence(Move.FAIL, Destination.BRAKE, Connection.RESET),
    Case.TOO_LARGE: Consequence(Move.FAIL, Destination.NONE, Connection.KEEP),
    Case.UTF8_UNSUPPORTED: Consequence(Move.FAIL, Destination.NONE, Connection.KEEP),
    Case.TOO_MANY_RECIPIENTS: Consequence(Move.GIVE_BACK, Destination.LEARN_LIMIT, Connection.KEEP),
    Case.POLICY_DEFERRED: Consequence(Move.RETRY, Destination.SLOW_DOWN, Connection.KEEP),
    Case.RECIPIENT_DEFERRED: Consequence(Move.RETRY, Destination.NONE, Connection.KEEP),
    Case.RECIPIENT_UNKNOWN: Consequence(Move.FAIL_AND_SUPPRESS, Destination.NONE, Connection.KEEP),
    Case.RECIPIENT_DISABLED: Consequence(Move.FAIL, Destination.NONE, Connection.KEEP),
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
