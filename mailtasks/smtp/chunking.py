"""Mail by BDAT (RFC 3030): several messages with their bodies in one flight, and what its answers say.

`mailtasks.smtp.engine` opens the connection and sends by DATA; this stands beside it, for a relay whose URL
says `chunking=yes`, with the same interface and the same first rule: bytes in, events out, no socket, no
clock. The other rules:

1. A body is written blind, before anything is known of its MAIL and RCPT. Behind a BDAT that failed RSET is a
   must (RFC 3030 2), or the relay may take the next body for the recipients of that message. So each message
   begins with RSET; it has 3 answers, and one more for each recipient.
2. The driver is asked before each message (state BODY), and may send what is `waiting` before the next.
3. An answer is believed once the whole flight is answered and nothing is left unread. If a reply comes that
   nobody waits for, is garbled, or is of a kind that its command can't have, all of the flight is in doubt.
   So it is if RSET is answered with another enhanced code than before: an answer is missing, and this is the
   one to MAIL. (With DATA the 354 shows that; here all answers are 2xx.)
4. If the connection only ends, who has all answers keeps them. Of the others in doubt is whose body may have
   left as a whole: the relay may have taken it. The first of those who aren't bears how it ended.
5. After a 421 the relay takes nothing more (RFC 5321 3.8): who is behind it is untouched.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.smtp.engine import USELESS, Finished, State
from mailtasks.smtp.envelope import Envelope
from mailtasks.smtp.grammar import MAX_LINE, GarbledReply, ReplyReader, make_reply, quote
from mailtasks.smtp.transaction import WITH_BODY, Extensions, Transaction

LARGEST: Final = 65536
"""Bytes of the largest message that goes by BDAT. A larger one isn't much faster by it, and would be written
in vain where its recipients are refused."""

FLIGHT: Final = 262144
"""Bytes in a flight: the message with which there would be more waits for the answers."""

DONE_OR_REFUSED: Final = frozenset({2, 4, 5})
EXPECTED: Final[dict[str, tuple[Stage, frozenset[int]]]] = {
    "RSET": (Stage.MAIL, frozenset({2})),  # refused, it leaves us without knowing whose body came
    "MAIL": (Stage.MAIL, DONE_OR_REFUSED),
    "RCPT": (Stage.RCPT, DONE_OR_REFUSED),
    "BDAT": (Stage.DOT, DONE_OR_REFUSED),
}
"""By command: where in the dialogue its reply is, and the first digits that it may have."""

NOT_UNDERSTOOD: Final = frozenset(range(500, 505))
"""Said to BDAT, they are about the command and not about the message (RFC 5321 4.2.1)."""


def suits(envelope: Envelope) -> bool:
    """Whether it is small enough to be sent by BDAT."""
    content = envelope.content
    return (len(content) if isinstance(content, bytes) else sum(map(len, content))) <= LARGEST


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message of the flight."""

    transaction: Transaction
    begins: int  # at which of all bytes of this dialogue
    ends: int  # behind its body


class Chunking:
    """The dialogue about some messages, from one moment in step to the next.

    Args:
        extensions: what the relay offers; CHUNKING and PIPELINING are among it.
        numbered: what to send, in order, each with the number by which its event will name it.
    """

    def __init__(self, extensions: Extensions, numbered: Iterable[tuple[int, Envelope]]) -> None:
        self.state = State.TALKING
        self.answered = 0
        """Grows with every answer that is read: there is progress."""
        self.reset_due = False
        """The relay may still hold the last transaction."""
        self._extensions = extensions
        self._pending = deque(numbered)
        self._next: Transaction | None = None  # the one to be written
        self._flight: deque[_Sent] = deque()  # written, and not wholly answered
        self._awaited: deque[tuple[str, int]] = deque()  # of the first of these, once an answer wasn't plain
        self._over: list[_Sent] = []  # wholly answered, but not yet in step again
        self._reset_codes: tuple[bytes | None, ...] = ()  # basic and enhanced, as RSET was answered first
        self._reader = ReplyReader()
        self._out: list[bytes] = []
        self._written = 0  # bytes, all told
        self._taken = 0  # of these, by the driver
        self._landed = 0  # bytes that had been written when the flight began
        self._leave = False  # write nothing more
        self._events: list[Finished] = []
        self._go_on()

    # What the driver calls

    @property
    def stage(self) -> Stage:
        """What is being waited for. A relay may answer MAIL when it answers the body (RFC 2920 3.2)."""
        return Stage.DOT

    @property
    def body_index(self) -> int:
        """Which message is next. Only in state BODY."""
        assert self._next, "asked in state BODY"
        return self._next.index

    @property
    def waiting(self) -> int:
        """Bytes that are written here and not taken yet."""
        return self._written - self._taken

    def data_to_send(self) -> bytes:
        """What is to be written, once."""
        data, self._out = b"".join(self._out), []
        self._taken = self._written
        return data

    def events(self) -> list[Finished]:
        """What has happened since the last call."""
        events, self._events = self._events, []
        return events

    def write_body(self) -> None:
        """Write a message: RSET, MAIL, a RCPT for each recipient, BDAT, the body."""
        transaction = self._next
        assert transaction, "asked in state BODY"
        *opening, _ = transaction.lines(self._extensions)
        last = b"BDAT %d LAST\r\n" % transaction.size
        pieces = [b"RSET\r\n", *opening, last, *transaction.pieces]
        transaction.written = WITH_BODY
        begins = self._written
        self._written += sum(map(len, pieces))
        self._out += pieces
        self._flight.append(_Sent(transaction, begins, self._written))
        self._next = None
        self._go_on()

    def abort(self) -> None:
        """Write no more; what was written is still answered. Close the connection then, without QUIT."""
        self._leave = True
        if self._flight:
            self.state = State.TALKING
        else:
            self._close(How.UNTOUCHED)

    def receive(self, data: bytes) -> None:
        """Take what was read. Then look at `events()` and `state`."""
        if self.state is State.CLOSED:
            return
        try:
            self._take_all(data)
        except GarbledReply as error:
            self._out_of_step(str(error))

    def cut_off(self, unsent: int) -> None:
        """So many of the bytes last taken surely never left, nor will: tell this before the last words."""
        self._taken -= unsent

    def break_off(self, how: How, detail: str) -> None:
        """The connection was lost or timed out, or (UNTOUCHED) the driver wants no more."""
        if self.state is not State.CLOSED:
            self._close(how, detail=detail)

    # What comes next

    def _go_on(self) -> None:
        if self._leave and not self._flight:
            return self._close(How.UNTOUCHED)
        self._next = self._next or self._fitting()
        if self._next and self._has_room(self._next):
            self.state = State.BODY
        else:
            self.state = State.TALKING if self._flight else State.IDLE
        return None

    def _fitting(self) -> Transaction | None:
        """The next transaction that this relay can take at all."""
        while self._pending:
            transaction = Transaction(*self._pending.popleft())
            unsuitable = transaction.suit(self._extensions)
            if not unsuitable:
                return transaction
            transaction.decide(Outcome(Stage.MAIL, How.UNSUITABLE, detail=unsuitable))
            self._finish(transaction)
        return None

    def _has_room(self, transaction: Transaction) -> bool:
        return not self._flight or self._written - self._landed + transaction.size <= FLIGHT

    # Replies

    def _take_all(self, data: bytes) -> None:
        for code, lines in self._reader.feed(self._behind_what_went_well(data)):
            self._take(code, lines)
            if self.state is State.CLOSED:
                return
        if not self._flight and self._reader.empty:
            self._in_step()

    def _behind_what_went_well(self, data: bytes) -> bytes:
        """The short road: messages that went well, as nearly all do, are recognised as a whole."""
        position = 0
        while self._flight and not self._awaited and self._reader.empty:
            sent = self._flight[0]
            found = _well(len(sent.transaction.outcomes))(data, position)
            if not found or sent.ends > self._taken or not self._answers_reset(data, position):
                break
            position = found.end()
            self.answered += 1
            sent.transaction.accepted = len(sent.transaction.outcomes)
            self._on_bdat(sent, 0, int(found[1][:3]), found.groups())
        return data[position:]

    def _take(self, code: int, lines: Sequence[bytes]) -> None:
        """Attribute one reply."""
        self.answered += 1
        if code == 421:  # "to any command", and unasked (RFC 5321 3.8, 4.2.3)
            return self._close(How.REFUSED, make_reply(code, lines))
        sent = self._flight[0] if self._flight else None
        if not sent or sent.begins >= self._taken:
            return self._out_of_step(f"a reply that nobody waits for: {quote(lines[0])}")
        command, position = self._first_awaited()
        if code // 100 not in EXPECTED[command][1]:
            return self._out_of_step(f"no answer to {command}: {quote(lines[0])}")
        self._awaited.popleft()
        return ANSWERS[command](self, sent, position, code, lines)

    def _first_awaited(self) -> tuple[str, int]:
        if not self._awaited:
            recipients = range(len(self._flight[0].transaction.outcomes))
            self._awaited += [("RSET", 0), ("MAIL", 0), *(("RCPT", each) for each in recipients), ("BDAT", 0)]
        return self._awaited[0]

    def _on_reset(self, sent: _Sent, _: int, code: int, lines: Sequence[bytes]) -> None:
        if not self._answers_reset(lines[0]):
            self._out_of_step(f"RSET was answered otherwise before: {quote(lines[0])}")

    def _answers_reset(self, data: bytes, position: int = 0) -> bool:
        found = _CODES(data, position)
        assert found, "it is a 2xx"
        self._reset_codes = self._reset_codes or found.groups()
        return found.groups() == self._reset_codes

    def _on_mail(self, sent: _Sent, _: int, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            sent.transaction.mail = Outcome(Stage.MAIL, How.REFUSED, make_reply(code, lines))

    def _on_rcpt(self, sent: _Sent, position: int, code: int, lines: Sequence[bytes]) -> None:
        transaction = sent.transaction
        if code < 300:
            transaction.accepted += 1
        elif transaction.mail is None:
            transaction.outcomes[position] = Outcome(Stage.RCPT, How.REFUSED, make_reply(code, lines))

    def _on_bdat(self, sent: _Sent, _: int, code: int, lines: Sequence[bytes]) -> None:
        transaction = sent.transaction
        taken = code < 300
        if taken and transaction.decided:
            return self._out_of_step("the relay took a message whose sender or recipients it had all refused")
        if taken and sent.ends > self._taken:
            return self._out_of_step("the relay took a message before it had all of it")
        self._over.append(self._flight.popleft())
        transaction.decide(transaction.mail or _of_the_message(code, make_reply(code, lines)))
        return None

    def _in_step(self) -> None:
        """All of the flight is answered, and nothing unread: it is believed, and it goes on."""
        self._settle()
        self._landed = self._written
        if self.state is State.TALKING:
            self._go_on()

    def _settle(self) -> None:
        for sent in self._over:
            outcomes = self._finish(sent.transaction)
            self.reset_due = outcomes[-1].how is not How.ACCEPTED
            self._leave |= _shows_that_a_new_connection_is_wiser(outcomes)
        self._over.clear()

    def _finish(self, transaction: Transaction) -> tuple[Outcome, ...]:
        outcomes = transaction.final()
        self._events.append(Finished(transaction.index, outcomes, transaction.written))
        return outcomes

    # Endings

    def _out_of_step(self, detail: str) -> None:
        """Rule 3: which answer was meant for which message isn't known."""
        flight = [*self._over, *self._flight]
        for sent in flight:
            transaction = sent.transaction
            transaction.mail, transaction.accepted = None, 0
            transaction.outcomes = [None] * len(transaction.outcomes)
        self._flight, self._over = deque(flight), []
        self._awaited.clear()
        self._close(How.GARBAGE, detail=detail)

    def _close(self, how: How, reply: Reply | None = None, detail: str = "") -> None:
        """The end, rules 4 and 5."""
        self.state = State.CLOSED
        for place, sent in enumerate(self._flight):
            fate = self._fate(sent, place == 0, how, reply, detail)
            sent.transaction.decide(sent.transaction.mail or fate)
        self._over += self._flight
        self._flight.clear()
        self._settle()
        self._leave_untouched(detail)

    def _fate(self, sent: _Sent, first: bool, how: How, reply: Reply | None, detail: str) -> Outcome:
        """Of those about whom the relay hasn't told."""
        untouched = Outcome(Stage.MAIL, How.UNTOUCHED, detail=detail)
        if how is not How.REFUSED and sent.ends <= self._taken:
            doubt = How.LOST if how is How.UNTOUCHED else how  # whatever the driver meant
            return Outcome(Stage.DOT, doubt, detail=detail, dot_begun=True)
        if how is How.UNTOUCHED or not first or sent.begins >= self._taken:
            return untouched
        stage = EXPECTED[self._first_awaited()[0]][0]
        return Outcome(stage, how, reply, detail, dot_begun=how is How.REFUSED and stage is Stage.DOT)

    def _leave_untouched(self, detail: str) -> None:
        outcome = Outcome(Stage.MAIL, How.UNTOUCHED, detail=detail)
        left = [(self._next.index, self._next.envelope)] if self._next else []
        for index, envelope in [*left, *self._pending]:
            self._events.append(Finished(index, (outcome,) * len(envelope.recipients)))
        self._pending.clear()


def _shows_that_a_new_connection_is_wiser(outcomes: Sequence[Outcome]) -> bool:
    """As `Engine` has it: not where the body was taken, or refused, for some."""
    replies = [it.reply for it in outcomes if it.reply]
    return not any(it.dot_begun for it in outcomes) and any(it.code in USELESS for it in replies)


def _of_the_message(code: int, reply: Reply) -> Outcome:
    """What the answer to BDAT says to those who were accepted."""
    if code in NOT_UNDERSTOOD:
        return Outcome(Stage.DATA, How.REFUSED, reply)
    return Outcome(Stage.DOT, How.ACCEPTED if code < 300 else How.REFUSED, reply, dot_begun=True)


_CODES: Final = re.compile(rb"(2\d\d)(?:[ -](2\.\d{1,3}\.\d{1,3})(?!\d))?").match


@lru_cache(maxsize=64)
def _well(recipients: int) -> Callable[[bytes, int], re.Match[bytes] | None]:
    """Matches the answers to a message that went well, each of one line; group 1 is the one to BDAT."""
    reply = rb"2\d\d [^\r\n]{0,%d}\r\n" % (MAX_LINE - len(b"250 \r"))
    return re.compile(rb"(?:%b){%d}(%b)" % (reply, 2 + recipients, reply)).match


ANSWERS: Final[dict[str, Callable[[Chunking, _Sent, int, int, Sequence[bytes]], None]]] = {
    "RSET": Chunking._on_reset,
    "MAIL": Chunking._on_mail,
    "RCPT": Chunking._on_rcpt,
    "BDAT": Chunking._on_bdat,
}
