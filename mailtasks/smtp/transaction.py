"""One envelope on its way: the lines that open it, whether a server can take it, and what becomes of whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, cast

from mailtasks.reply import How, Outcome, Stage
from mailtasks.smtp.envelope import Envelope
from mailtasks.smtp.grammar import canonical_pieces, path


@dataclass(frozen=True, slots=True)
class Extensions:
    """What a server offers (RFC 5321 4.1.1.1)."""

    offered: dict[str, tuple[str, ...]] = field(default_factory=dict)  # keyword to parameters, in capitals
    pipelining: bool = False  # RFC 2920
    chunking: bool = False  # RFC 3030
    eightbitmime: bool = False  # RFC 6152
    smtputf8: bool = False  # RFC 6531
    dsn: bool = False  # RFC 3461
    requiretls: bool = False  # RFC 8689; never without TLS
    sized: bool = False  # RFC 1870: wants to be told how large a message is
    size: int | None = None  # the largest in bytes; None where no limit is told

    @classmethod
    def parse(cls, lines: Sequence[bytes], secure: bool = False) -> Extensions:
        """From the lines of a reply to EHLO; the first is the server's name.

        Args:
            secure: it came over TLS, with a certificate that was verified.
        """
        offered: dict[str, tuple[str, ...]] = {}
        for line in lines[1:]:
            # "AUTH=LOGIN" is how some servers said it before RFC 2554.
            words = line[4:].decode("ascii", "replace").upper().replace("AUTH=", "AUTH ").split()
            if words:
                offered[words[0]] = offered.get(words[0], ()) + tuple(words[1:])
        return cls(
            offered,
            pipelining="PIPELINING" in offered,
            chunking="CHUNKING" in offered,
            eightbitmime="8BITMIME" in offered,
            smtputf8="SMTPUTF8" in offered,
            dsn="DSN" in offered,
            requiretls=secure and "REQUIRETLS" in offered,  # RFC 8689 2, 4.2.1
            sized="SIZE" in offered,
            size=_limit(offered.get("SIZE", ())),
        )


def _limit(parameters: Sequence[str]) -> int | None:
    """RFC 1870 4: at most twenty digits; none, or 0, say no limit."""
    told = "".join(parameters[:1])
    return (int(told) or None) if told.isdecimal() and len(told) <= 20 else None


class Written(Enum):
    """How the commands that open a transaction were written."""

    STEPWISE = "step by step"  # or not at all
    IN_FLIGHT = "in one flight"
    BEHIND_DOT = "behind the dot of the one before"
    WITH_BODY = "in one flight with the body"

    __hash__ = object.__hash__


# What every transaction needs, by a shorter way: until Python 3.12 an enum's member is slow to look up.
STEPWISE: Final = Written.STEPWISE
IN_FLIGHT: Final = Written.IN_FLIGHT
BEHIND_DOT: Final = Written.BEHIND_DOT
WITH_BODY: Final = Written.WITH_BODY


class Transaction:
    """One envelope in the dialogue; `Engine` moves it along.

    Attributes:
        index: which of the envelopes given to `Engine.begin`.
        pieces: its content with every line ended by CRLF, dots not yet stuffed. Each ends with a line, and a
            large one is what the envelope holds and no copy.
        size: bytes in all pieces.
        mail: how MAIL was refused, None if it wasn't.
        accepted: how many recipients were accepted so far.
        outcomes: one for each recipient, None while undecided.
        written: how its commands went out.
    """

    __slots__ = (
        "accepted",
        "ascii",
        "envelope",
        "index",
        "mail",
        "outcomes",
        "pieces",
        "size",
        "smtputf8",
        "written",
    )

    def __init__(self, index: int, envelope: Envelope) -> None:
        self.index = index
        self.envelope = envelope
        self._take(envelope.content)
        self.smtputf8 = envelope.needs_smtputf8
        self.mail: Outcome | None = None
        self.accepted = 0
        self.outcomes: list[Outcome | None] = [None] * len(envelope.recipients)
        self.written = STEPWISE

    def _take(self, content: bytes | tuple[bytes, ...]) -> None:
        pieces = self.pieces = canonical_pieces(content)
        if len(pieces) == 1:  # as nearly all have
            self.size = len(pieces[0])
            self.ascii = pieces[0].isascii()
        else:
            self.size = sum(map(len, pieces))
            self.ascii = all(map(bytes.isascii, pieces))

    @property
    def body(self) -> bytes:
        """All pieces in one: a copy, if there are several."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)

    @property
    def decided(self) -> bool:
        """No recipient is left to send to."""
        return self.mail is not None or None not in self.outcomes

    def suit(self, server: Extensions) -> str:
        """Make it such as the server takes; returns why it can't be, or an empty string."""
        if self.smtputf8 and not server.smtputf8:
            return "an address or header isn't ASCII, and the relay offers no SMTPUTF8"
        if self.envelope.require_tls and not server.requiretls:  # 5.7.30: RFC 8689 4.2.1
            return "5.7.30 the message requires TLS all the way, and the relay offers no REQUIRETLS"
        if not self.ascii and not server.eightbitmime and (why_not := self._reencode()):
            return f"the message isn't ASCII, the relay offers no 8BITMIME, and {why_not}"
        if server.size is not None and self.size > server.size:
            return f"the message has {self.size} bytes; the relay takes {server.size} (SIZE)"
        return ""

    def _reencode(self) -> str:
        """Take the content in ASCII instead (RFC 6152 3); returns why there is none, or an empty string."""
        if self.envelope.seven_bit is None:
            return "it can't be encoded anew"
        try:
            self._take(self.envelope.seven_bit())
        except Exception as error:  # whatever is wrong with one mail must not become the fate of others
            return f"encoding it anew failed: {error}"
        return "" if self.ascii else "what isn't ASCII stands in its headers"

    def lines(self, server: Extensions) -> list[bytes]:
        """MAIL, a RCPT for each recipient, DATA."""
        envelope = self.envelope
        if server.dsn and envelope.notifications:
            asked = envelope.notifications.with_rcpt
            recipients = [b"RCPT TO:<%b>%b\r\n" % (path(each), asked(each)) for each in envelope.recipients]
        else:
            recipients = [b"RCPT TO:<%b>\r\n" % path(each) for each in envelope.recipients]
        return [self._mail(server), *recipients, b"DATA\r\n"]

    def _mail(self, server: Extensions) -> bytes:
        envelope = self.envelope
        line = b"MAIL FROM:<%b>" % path(envelope.sender)
        if server.sized:
            line += b" SIZE=%d" % self.size  # RFC 1870 6.1
        if not self.ascii:
            line += b" BODY=8BITMIME"  # RFC 6152 3
        if self.smtputf8:
            line += b" SMTPUTF8"  # RFC 6531 3.4
        if envelope.require_tls:
            line += b" REQUIRETLS"  # RFC 8689 2
        if server.dsn and envelope.notifications:
            line += envelope.notifications.with_mail
        return line + b"\r\n"

    def decide(self, outcome: Outcome) -> None:
        """What becomes of each recipient that has no outcome yet."""
        self.outcomes = [known or outcome for known in self.outcomes]

    def disbelieve(self, detail: str) -> None:
        """The answers read since we were last in step may have been meant for others.

        What was refused before the body stays so: we were in step when that was written.
        """
        dotted = any(known and known.stage is Stage.DOT for known in self.outcomes)
        doubt = Outcome(Stage.DOT if dotted else Stage.DATA, How.GARBAGE, detail=detail, dot_begun=dotted)
        self.outcomes = [
            known if dotted and known and known.stage is not Stage.DOT else doubt for known in self.outcomes
        ]

    def forget_deliveries(self) -> None:
        """What LMTP answered behind the dot isn't believed."""
        self.outcomes = [known if known and known.stage is not Stage.DOT else None for known in self.outcomes]

    def final(self) -> tuple[Outcome, ...]:
        """The outcomes, once each recipient has one."""
        assert None not in self.outcomes, "each recipient has an outcome"
        outcomes = cast(list[Outcome], self.outcomes)
        if self.accepted and len(outcomes) > 1:
            return tuple(map(_beside_accepted, outcomes))
        return tuple(outcomes)


def _beside_accepted(outcome: Outcome) -> Outcome:
    refused = outcome.stage is Stage.RCPT and outcome.how is How.REFUSED
    return replace(outcome, others_accepted=True) if refused else outcome
