"""One SMTP conversation of the catching server: bytes in, replies out, strictly in order. Sans-IO.

It speaks RFC 5321 with PIPELINING, SIZE, 8BITMIME, SMTPUTF8 and ENHANCEDSTATUSCODES, without TLS and
login, and is strict where a client's mistake would hurt elsewhere: only CRLF ends a line and only
CRLF.CRLF a message, and what a careless server would let pass is noted as a violation.

The rules of the hot path, so that a benchmark measures the client and not this:

1. One `receive` may hold many commands. All are answered with one `output`, and before it all
   verdicts go to the journal with one write.
2. A command costs a dictionary look-up and one regular expression.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mailtasks.local.book import Book, message_id_of
from mailtasks.local.faults import OK, Behaviour, Ending, Faults, Orders
from mailtasks.reply import Stage

SIZE_LIMIT: Final = 50 * 1024 * 1024  # bytes
LINE_LIMIT: Final = 4096  # bytes of a command; RFC 5321 4.5.3.1.4 asks for 512, extensions add to it
EXTENSIONS: Final = ("PIPELINING", f"SIZE {SIZE_LIMIT}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
NO_ANSWER: Final = "no answer"

_PATH: Final = re.compile(rb'(FROM|TO):\s*<((?:"(?:[^"\\]|\\.)*"|[^>"])*)>(.*)', re.IGNORECASE)
_SIZE: Final = re.compile(rb"\bSIZE=(\d+)", re.IGNORECASE)
_END: Final = b"\r\n.\r\n"
_LAST_OF_GROUP: Final = frozenset({b"EHLO", b"HELO", b"DATA", b"QUIT", b"NOOP", b"VRFY"})
"""Commands that a client must wait behind: RFC 2920 3.1."""


class Desk:
    """What all conversations of a server share: its book, its rules and what it remembers of attempts."""

    def __init__(
        self,
        book: Book,
        convention: Mapping[str, Behaviour],
        faults: Faults | None,
        extensions: Sequence[str],
        max_recipients: int,
    ) -> None:
        self.book = book
        self.faults = faults
        self._first_faults = faults
        self.extensions = tuple(extensions)
        self.pipelining = "PIPELINING" in extensions
        self.max_recipients = max_recipients
        self._orders = Orders(convention)
        self._given: dict[tuple[Stage, str], Behaviour] = {}  # by recipient; "" is everybody
        self._attempts: Counter[tuple[Stage, str]] = Counter()

    def order(self, behaviour: Behaviour, recipient: str) -> None:
        """From now on, for a recipient, or for everybody ("") whose address orders nothing itself."""
        self._given[behaviour.at, recipient.lower()] = behaviour
        self._attempts.clear()

    def reset(self) -> None:
        """Forget all orders and attempts; the odds are those of the beginning."""
        self.faults = self._first_faults
        self._given.clear()
        self._attempts.clear()

    def behaviour(self, at: Stage, recipients: Sequence[str], subject: str) -> Behaviour | None:
        """What goes wrong now, by order of one of the recipients or by the odds; None: nothing."""
        for recipient in recipients:
            ordered = self._ordered(at, recipient)
            if ordered and self._nth(at, recipient) <= (ordered.times or sys.maxsize):
                return ordered
        return self.faults.draw(at, subject, self._nth(at, subject)) if self.faults else None

    def _ordered(self, at: Stage, recipient: str) -> Behaviour | None:
        given = self._given.get((at, recipient.lower())) if self._given else None
        ordered = given or self._orders.of(recipient)
        return ordered if ordered and ordered.at is at else self._given.get((at, ""))

    def _nth(self, at: Stage, subject: str) -> int:
        self._attempts[at, subject] += 1
        return self._attempts[at, subject]


class Conversation:
    """One client's conversation: give it what was received, send its output. Sans-IO."""

    _sender: str | None  # of the transaction; "" is the null sender, None: there is no transaction
    _smtputf8: bool
    _recipients: list[str]  # accepted so far

    def __init__(self, desk: Desk) -> None:
        self.pause = 0.0  # seconds to wait before `resume()`; until then nothing is answered
        self.ending = Ending.GO_ON  # what to do once the output is sent
        self._desk = desk
        self._book = desk.book
        self._buffer = bytearray()
        self._replies = ["220 mailtasks catching server ESMTP"]
        self._late: Behaviour | None = None  # what `resume()` answers
        self._greeted = False
        self._reading_data = False
        self._scanned = 0  # so much of the buffer holds no end of data
        self._forget_transaction()

    def receive(self, data: bytes) -> None:
        """Take what the client sent; then send `output()`, and obey `pause` and `ending`."""
        if self.ending is Ending.GO_ON:
            self._buffer += data
            self._go_on()

    def output(self) -> bytes:
        """What is to be sent, once; all that it promises is in the journal."""
        if not self._replies:
            return b""
        self._replies.append("")
        text = "\r\n".join(self._replies)
        self._replies.clear()
        return text.encode()

    def resume(self) -> None:
        """The pause is over: give the late answer, and go on with what came meanwhile."""
        late, self._late, self.pause = self._late, None, 0.0
        assert late is not None, "there was no pause"
        self._answer(late)
        self._go_on()

    def _go_on(self) -> None:
        while self._listening() and (self._take_content() if self._reading_data else self._take_command()):
            pass
        self._book.flush()

    def _listening(self) -> bool:
        return self._late is None and self.ending is Ending.GO_ON

    def _say(self, reply: str) -> None:
        self._replies.append(reply)

    def _perform(self, behaviour: Behaviour) -> None:
        if behaviour.seconds:
            self.pause, self._late = behaviour.seconds, behaviour
        else:
            self._answer(behaviour)

    def _answer(self, behaviour: Behaviour) -> None:
        if behaviour.reply is not None:
            self._say(behaviour.reply)
        self.ending = behaviour.ending

    # Commands

    def _take_command(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            self._refuse_endless_line()
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        if self._buffer and (verb in _LAST_OF_GROUP or not self._desk.pipelining):
            self._book.violation(f"{verb.decode()} was followed by more before it was answered")
        _COMMANDS.get(verb, Conversation._unknown)(self, argument)
        return True

    def _refuse_endless_line(self) -> None:
        if len(self._buffer) > LINE_LIMIT:
            self._say("500 5.5.2 line too long")
            self.ending = Ending.CLOSE

    def _ehlo(self, argument: bytes) -> None:
        self._greeted = True
        self._forget_transaction()
        *lines, last = ("mailtasks catching server", *self._desk.extensions)
        for line in lines:
            self._say(f"250-{line}")
        self._say(f"250 {last}")

    def _helo(self, argument: bytes) -> None:
        self._greeted = True
        self._forget_transaction()
        self._say("250 mailtasks catching server")

    def _mail(self, argument: bytes) -> None:
        path = _PATH.fullmatch(argument)
        if not self._greeted or self._sender is not None:
            self._say("503 5.5.1 EHLO comes first, and one MAIL at a time")
        elif path is None:
            self._say("501 5.1.7 no address is understood here")
        elif (size := _SIZE.search(path[3])) and int(size[1]) > SIZE_LIMIT:
            self._say("552 5.3.4 larger than SIZE allows")
        else:
            self._smtputf8 = b"SMTPUTF8" in path[3].upper()
            self._sender = path[2].decode("utf-8", "replace")
            self._say(OK)

    def _rcpt(self, argument: bytes) -> None:
        path = _PATH.fullmatch(argument)
        if self._sender is None:
            self._say("503 5.5.1 MAIL comes first")
        elif path is None:
            self._say("501 5.1.3 no address is understood here")
        elif not path[2].isascii() and not self._smtputf8:
            self._say("553 5.6.7 a non-ASCII address needs SMTPUTF8")
        elif len(self._recipients) >= self._desk.max_recipients:
            self._say("452 4.5.3 too many recipients")
        else:
            self._recipient(path[2].decode("utf-8", "replace"))

    def _recipient(self, recipient: str) -> None:
        behaviour = self._desk.behaviour(Stage.RCPT, (recipient,), recipient)
        if behaviour is None:
            self._recipients.append(recipient)
            self._say(OK)
        else:
            self._book.refuse(self._sender or "", (recipient,), None, behaviour.reply or NO_ANSWER)
            self._perform(behaviour)

    def _data(self, argument: bytes) -> None:
        if not self._recipients:
            self._say("554 5.5.1 no valid recipients")
        else:
            self._reading_data = True
            self._scanned = 0
            self._say("354 go on, end with a dot")

    def _rset(self, argument: bytes) -> None:
        self._forget_transaction()
        self._say(OK)

    def _noop(self, argument: bytes) -> None:
        self._say(OK)

    def _vrfy(self, argument: bytes) -> None:
        self._say("252 2.1.5 send it and see")

    def _quit(self, argument: bytes) -> None:
        self._say("221 2.0.0 bye")
        self.ending = Ending.CLOSE

    def _unknown(self, argument: bytes) -> None:
        self._say("500 5.5.2 unknown command")

    def _forget_transaction(self) -> None:
        self._sender = None
        self._smtputf8 = False
        self._recipients = []

    # Content

    def _take_content(self) -> bool:
        if self._buffer.startswith(b".\r\n"):
            return self._content(0, 3)
        end = self._buffer.find(_END, max(0, self._scanned - len(_END)))
        if end < 0:
            self._scanned = len(self._buffer)
            return False
        return self._content(end + 2, end + len(_END))

    def _content(self, length: int, consumed: int) -> bool:
        content = bytes(self._buffer[:length])
        del self._buffer[:consumed]
        self._reading_data = False
        if not content.count(b"\r") == content.count(b"\n") == content.count(b"\r\n"):
            self._book.violation("the content holds a bare CR or LF")
        self._decide(_unstuff(content))
        self._forget_transaction()
        return True

    def _decide(self, content: bytes) -> None:
        message_id = message_id_of(content)
        behaviour = self._behaviour_at_dot(content, message_id)
        sender, verdict = self._sender or "", behaviour.reply or NO_ANSWER
        if behaviour.accept:
            self._book.accept(sender, self._recipients, message_id, content, verdict)
        else:
            self._book.refuse(sender, self._recipients, message_id, verdict)
        self._perform(behaviour)

    def _behaviour_at_dot(self, content: bytes, message_id: str) -> Behaviour:
        if len(content) > SIZE_LIMIT:
            return _TOO_LARGE
        return self._desk.behaviour(Stage.DOT, self._recipients, message_id) or _ACCEPT


_ACCEPT: Final = Behaviour(Stage.DOT, OK, accept=True)
_TOO_LARGE: Final = Behaviour(Stage.DOT, "552 5.3.4 larger than SIZE allows")
_COMMANDS: Final[dict[bytes, Callable[[Conversation, bytes], None]]] = {
    b"EHLO": Conversation._ehlo,
    b"HELO": Conversation._helo,
    b"MAIL": Conversation._mail,
    b"RCPT": Conversation._rcpt,
    b"DATA": Conversation._data,
    b"RSET": Conversation._rset,
    b"NOOP": Conversation._noop,
    b"VRFY": Conversation._vrfy,
    b"QUIT": Conversation._quit,
}


def _unstuff(content: bytes) -> bytes:
    """Take off the dots that the client put before lines that begin with one: RFC 5321 4.5.2."""
    unstuffed = content.replace(b"\r\n.", b"\r\n")
    return unstuffed[1:] if unstuffed.startswith(b".") else unstuffed
