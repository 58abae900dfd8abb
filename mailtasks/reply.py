"""What a relay said, and what became of one recipient in one transaction: plain data.

`Reply` is what came over the wire. `Outcome` is what the SMTP layer reports for a recipient (or for
a connection that could not be had): the stage that decided it, how, and the reply if there was one.
What an outcome *means* is decided in `mailtasks.policy.verdict`, not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply (RFC 5321 4.2), its lines joined."""

    code: int  # the basic code, 200 to 599
    text: str  # the lines without codes, joined by "\n", printable characters only
    enhanced: str | None = None  # RFC 2034, such as "5.1.1"; None if the server sent none

    @property
    def kind(self) -> int:
        """The first digit: 2 done, 3 go on, 4 try again later, 5 refused."""
        return self.code // 100

    def __str__(self) -> str:
        """The reply on one line, as it is shown to people: `550 5.1.1 no such user`."""
        parts = [str(self.code), self.enhanced or "", " ".join(self.text.split())]
        return " ".join(part for part in parts if part)


class Stage(StrEnum):
    """Where in the dialogue something happened."""

    CONNECT = "connect"  # name look-up and TCP
    GREETING = "greeting"
    EHLO = "ehlo"
    TLS = "tls"  # STARTTLS or implicit: refused, handshake, certificate
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"  # body and final dot
    CONTENT = "content"  # before all of it: what is to be sent was to be had


class How(StrEnum):
    """How a stage ended."""

    ACCEPTED = "accepted"  # 2xx to the final dot: the mail is the relay's now
    REFUSED = "refused"  # a 4xx or 5xx; `reply` is set
    LOST = "lost"  # the connection was closed or reset
    TIMED_OUT = "timed_out"
    GARBAGE = "garbage"  # not a reply, or one that nobody waited for
    UNSUITABLE = "unsuitable"  # known before sending: larger than SIZE, SMTPUTF8 not offered
    UNTOUCHED = "untouched"  # nothing of this transaction was decided; it may be given back


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one recipient in one transaction, or of a connection attempt."""

    stage: Stage
    how: How
    reply: Reply | None = None
    detail: str = ""  # for people, beside the reply or instead: "connection refused", "status 401"
    dot_begun: bool = False  # bytes of body and dot may have reached the relay
    others_accepted: bool = False  # RCPT refused while another of this transaction was accepted

    def __str__(self) -> str:
        """One line for logs and `status`."""
        what = self.words if self.reply else self.detail or self.how.value
        return f"{self.stage}: {what}"

    @property
    def words(self) -> str:
        """The relay's reply and what it told besides, or what happened instead, with its stage."""
        if not self.reply:
            return str(self)
        return f"{self.reply} ({self.detail})" if self.detail else str(self.reply)
