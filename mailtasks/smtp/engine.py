"""SMTP as a client speaks it: bytes in, events out, bytes to send out.

The rules:

1. No socket, no clock, no thread. Whoever drives an engine feeds what was read (`receive`), sends what
   `data_to_send` returns, and afterwards looks at `events()` and `state`. The same bytes give the
   same outcomes wherever the network cuts them, if the driver reads a flight before it answers.
2. Commands in flight are a FIFO: replies have no number, so the first reply belongs to the first command.
   With PIPELINING (RFC 2920) a transaction's MAIL, RCPT and DATA are one write, and they go right behind
   the final dot of the transaction before: one flight, and one round trip, a message.
3. What follows from an answer is written when we are in step: nothing in flight, nothing unread. A
   reply that nobody waits for, or of a kind that its command can't have, means that we are not. Then
   the connection is closed, and no answer read since the last time in step is believed.
4. Nothing is begun behind the driver's back: in state BODY it decides, `write_body()` or `abort()`.
5. The connection's end is one event for each transaction: the one whose answer was next bears
   how it ended, those behind it are UNTOUCHED, those before it keep what they have.
6. LMTP (RFC 2033) is the same dialogue with LHLO and, behind a dot, an answer for each recipient who was
   accepted, in their order; whoever has none when the connection ends is in doubt.
7. What the states may become, and which replies a command may have, are the two tables below.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Final

from mailtasks.errors import IllegalMove
from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.smtp.auth import Credentials, Exchange, choose, wanted
from mailtasks.smtp.envelope import Envelope
from mailtasks.smtp.grammar import MAX_LINE, GarbledReply, ReplyReader, make_reply, quote, stuff
from mailtasks.smtp.transaction import BEHIND_DOT, IN_FLIGHT, STEPWISE, Extensions, Transaction, Written


class State(Enum):
    """Where a connection is."""

    OPENING = "opening"  # greeting, EHLO, STARTTLS, AUTH
    HANDSHAKE = "handshake"  # STARTTLS was accepted: the driver does TLS, then calls `secured()`
    IDLE = "idle"  # in step, nothing to do: `begin()` may be called
    TALKING = "talking"  # answers are awaited
    BODY = "body"  # in step, and the next thing is a body: the driver decides
    QUITTING = "quitting"  # QUIT was written
    CLOSED = "closed"  # the driver closes the socket

    # Looked up for every flight and, below, for every reply: by identity, since members are unique.
    __hash__ = object.__hash__


MOVES: Final[dict[State, frozenset[State]]] = {
    State.OPENING: frozenset({State.HANDSHAKE, State.IDLE, State.CLOSED}),
    State.HANDSHAKE: frozenset({State.OPENING, State.CLOSED}),
    State.IDLE: frozenset({State.TALKING, State.QUITTING, State.CLOSED}),
    State.TALKING: frozenset({State.BODY, State.IDLE, State.CLOSED}),
    State.BODY: frozenset({State.TALKING, State.CLOSED}),
    State.QUITTING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


class Command(Enum):
    """What a reply is awaited for."""

    CONNECT = "the connection"
    EHLO = "EHLO"
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    RSET = "RSET"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "the final dot"
    DELIVERY = "the delivery to one recipient"  # LMTP: of what the dot ended (RFC 2033 4.2)
    LONE_DOT = "a lone dot"  # 354 though every recipient was refused
    QUIT = "QUIT"

    __hash__ = object.__hash__


_DONE_OR_REFUSED: Final = frozenset({2, 4, 5})
EXPECTED: Final[dict[Command, frozenset[int]]] = {
    command: _DONE_OR_REFUSED for command in Command if command not in {Command.AUTH, Command.DATA}
} | {Command.AUTH: frozenset({2, 3, 4, 5}), Command.DATA: frozenset({3, 4, 5})}
"""The first digits that a command's reply may have (RFC 5321 4.3.2, RFC 4954 4)."""

STAGES: Final[dict[Command, Stage]] = {
    Command.CONNECT: Stage.GREETING,
    Command.EHLO: Stage.EHLO,
    Command.HELO: Stage.EHLO,
    Command.STARTTLS: Stage.TLS,
    Command.AUTH: Stage.AUTH,
    Command.RSET: Stage.MAIL,
    Command.MAIL: Stage.MAIL,
    Command.RCPT: Stage.RCPT,
    Command.DATA: Stage.DATA,
    Command.DOT: Stage.DOT,
    Command.DELIVERY: Stage.DOT,
    Command.LONE_DOT: Stage.DATA,
}
"""QUIT has none: nothing depends on its answer."""

# By a shorter way, for what is looked up for every message: see `mailtasks.smtp.transaction`.
_TALKING: Final = State.TALKING
_BODY: Final = State.BODY
_CLOSED: Final = State.CLOSED
_DOT: Final = Stage.DOT
_ACCEPTED: Final = How.ACCEPTED

_UNOPENED: Final = frozenset({State.OPENING, State.HANDSHAKE})

USELESS: Final = frozenset({*range(500, 505), 530, 534, 535, 538})
"""The server didn't understand (RFC 5321 4.2.1), or wants another login (RFC 4954 6): if that ended a
transaction, a new connection is wiser."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What has to happen before the first transaction."""

    hello_name: str  # a host name or an address literal, RFC 5321 4.1.4
    starttls: bool = False  # not "if offered": without it the connection is of no use
    credentials: Credentials | None = None
    secure: bool = False  # TLS is up before the greeting
    lmtp: bool = False  # RFC 2033: LHLO, and an answer for each recipient behind the dot


@dataclass(frozen=True, slots=True)
class Opened:
    """The connection is ready for transactions."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The connection is of no use: close it."""

    outcome: Outcome


@dataclass(slots=True)  # not frozen: there is one a message, and that would be most of its cost
class Finished:
    """A transaction is over."""

    index: int  # of the envelope: as `begin` counts
    outcomes: tuple[Outcome, ...]  # one a recipient, in order
    written: Written = STEPWISE  # how its commands went out


Event = Opened | Failed | Finished


_InFlight = tuple[Command, Transaction | None, int]
_Step = tuple[bytes, _InFlight]
_Flight = tuple[Transaction | None, Transaction | None]  # whose dot, and whose commands right behind it


class Engine:
    """One connection's dialogue, from the greeting to QUIT."""

    def __init__(self, opening: Opening) -> None:
        self.state = State.OPENING
        self.answered = 0
        """Grows with every answer that is read: there is progress."""
        self.reset_due = False
        """The server may still hold a transaction of ours: the next one begins with RSET."""
        self.extensions = Extensions()
        self._opening = opening
        self._secured = opening.secure
        self._ready = False  # nothing is left to be done before the first transaction
        self._login: Exchange | None = None  # once AUTH was said
        self._reader = ReplyReader()
        self._in_flight: deque[_InFlight] = deque([(Command.CONNECT, None, 0)])
        self._latest = Command.CONNECT  # answered last
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._pending: deque[tuple[int, Envelope]] = deque()  # given to `begin`, not opened
        self._script: deque[_Step] = deque()  # commands decided upon, not written yet
        self._current: Transaction | None = None  # opened, not over
        self._over: list[Transaction] = []  # over, but not yet in step again
        self._behind_dot = b""  # what was written with the latest dot, from its line on
        self._flight: _Flight | None = None  # in flight as a whole, not taken apart into `_in_flight`
        self._pipelining = False  # flights are written
        self._leave = False  # begin nothing more on this connection

    # What the driver calls

    @property
    def stage(self) -> Stage:
        """What is being waited for: it says how long to wait (RFC 5321 4.5.3.2)."""
        if self._flight:
            return Stage.DOT if self._flight[0] else Stage.MAIL
        return STAGES[self._in_flight[0][0] if self._in_flight else self._latest]

    @property
    def body_index(self) -> int:
        """Which envelope's body is next. Only in state BODY."""
        assert self.state is State.BODY, "asked in state BODY"
        assert self._current is not None
        return self._current.index

    def data_to_send(self) -> bytes:
        """What is to be written, once. Send it whenever an engine's method was called."""
        return b"".join(self.pieces_to_send())

    def pieces_to_send(self) -> list[bytes]:
        """As `data_to_send`, without a copy of the body. What goes behind a body is one piece, the last."""
        pieces, self._out = self._out, []
        return pieces

    def events(self) -> list[Event]:
        """What has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def receive(self, data: bytes) -> None:
        """Take what was read. Then look at `events()` and `state`, and send `data_to_send()`."""
        if self.state is _CLOSED or self._went_well(data):
            return
        try:
            self._take_all(data)
        except GarbledReply as error:
            # What is quoted may be the beginning of a login that is repeated to us.
            detail = "no reply to AUTH" if self._login and self.state in _UNOPENED else str(error)
            self._out_of_step(detail)

    def secured(self) -> None:
        """TLS is up: what was said in plain text is forgotten, and EHLO said again (RFC 3207 4.2)."""
        self._become(State.OPENING)
        self._secured = True
        self._reader = ReplyReader()
        self._say(Command.EHLO, self._hello(Command.EHLO))
        self._in_step()

    def begin(self, envelopes: Iterable[Envelope], stepwise: bool = False, first: int = 0) -> None:
        """Start with transactions. Only in state IDLE.

        Args:
            stepwise: write each command when the one before is answered, even if PIPELINING is offered.
            first: the number of the first of them.
        """
        self._become(State.TALKING)
        self._pipelining = self.extensions.pipelining and not stepwise
        self._pending.extend(enumerate(envelopes, first))
        self._go_on()

    @property
    def behind_body(self) -> int:
        """How many bytes of what `write_body` wrote come behind the body: the dot and what follows it."""
        return len(self._behind_dot)

    def write_body(self) -> None:
        """Write the body, the dot and, with PIPELINING, the next transaction's commands."""
        self._become(_TALKING)
        sent = self._current
        assert sent is not None
        following = self._current = self._next() if self._pipelining else None
        self._behind_dot = b".\r\n"
        if following:
            following.written = BEHIND_DOT
            self._behind_dot = b"".join([b".\r\n", *following.lines(self.extensions)])
        pieces = sent.pieces
        body = [stuff(pieces[0])] if len(pieces) == 1 else map(stuff, pieces)
        self._out = [*body, self._behind_dot]
        self._flight = sent, self._current
        if self._opening.lmtp:
            self._take_apart()

    def abort(self) -> None:
        """Don't write the body: what is undecided is UNTOUCHED. Close the connection without QUIT."""
        self._close(How.UNTOUCHED)

    def break_off(self, how: How, detail: str, unsent: int = 0) -> None:
        """The connection was lost or timed out, or TLS failed.

        Args:
            how: LOST, TIMED_OUT, UNTOUCHED if the driver wants no more, or REFUSED by the handshake.
            unsent: how many of the bytes last taken from `data_to_send` surely never left. A dot
                among them was not begun.
        """
        if self.state is not State.CLOSED:
            self._take_apart()
            self._close(how, detail=detail, dot_begun=unsent < self.behind_body)

    def quit(self) -> None:
        """Say QUIT (RFC 5321 4.1.1.10). Only in state IDLE."""
        self._become(State.QUITTING)
        self._write(b"QUIT\r\n", (Command.QUIT, None, 0))

    # Replies

    def _went_well(self, data: bytes) -> bool:
        """The short road: a flight that went well, as nearly all do, is recognised as a whole.

        That halves the work for a message. What it does is what the long road would do, and the
        property tests compare the two. False: the flight was taken apart, for the long road.
        """
        if not self._flight:
            return False
        sent, opened = self._flight
        well = not self._out and _well(sent is not None, opened and len(opened.outcomes))(data)
        if not well:
            self._take_apart()
            return False
        self._flight = None
        self.answered += 1
        if sent:
            self._latest = Command.DOT
            self._on_dot(sent, 0, int(well[1][:3]), well.groups())
        if opened:
            self._latest = Command.DATA
            opened.accepted = len(opened.outcomes)
        self._in_step()
        return True

    def _take_apart(self) -> None:
        """Make a flight into the commands that it consists of."""
        sent, opened = self._flight or (None, None)
        self._flight = None
        if sent and self._opening.lmtp:
            accepted = [position for position, known in enumerate(sent.outcomes) if known is None]
            self._in_flight += [(Command.DELIVERY, sent, position) for position in accepted]
        elif sent:
            self._in_flight.append((Command.DOT, sent, 0))
        if opened:
            self._in_flight += _awaited(opened)

    def _take_all(self, data: bytes) -> None:
        for code, lines in self._reader.feed(data):
            self._take(code, lines)
            if self.state is State.CLOSED:
                return
        if not self._in_flight and self._reader.empty:
            self._in_step()
        elif self.state is State.HANDSHAKE:
            self._out_of_step("plain text behind the answer to STARTTLS")

    def _take(self, code: int, lines: Sequence[bytes]) -> None:
        """Attribute one reply."""
        self.answered += 1
        lines = self._without_login(lines)
        awaited = self._in_flight and not self._out  # what wasn't sent can't be answered
        if code == 421 or not awaited or code // 100 not in EXPECTED[self._in_flight[0][0]]:
            self._unexpected(code, lines)
        else:
            command, transaction, position = self._in_flight.popleft()
            self._latest = command
            if transaction:
                ANSWERS[command](self, transaction, position, code, lines)
            else:
                OPENING_ANSWERS[command](self, code, lines)

    def _unexpected(self, code: int, lines: Sequence[bytes]) -> None:
        if code == 421:  # "to any command", and unasked (RFC 5321 3.8, 4.2.3)
            self._close(How.REFUSED, make_reply(code, lines))
        elif self._in_flight and not self._out:
            self._out_of_step(f"no answer to {self._in_flight[0][0].value}: {quote(lines[0])}")
        else:
            self._out_of_step(f"a reply that nobody waits for: {quote(lines[0])}")

    def _on_greeting(self, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            self._refused(Stage.GREETING, code, lines)
        else:
            self._say(Command.EHLO, self._hello(Command.EHLO))

    def _on_ehlo(self, code: int, lines: Sequence[bytes]) -> None:
        if code >= 500 and not self._opening.lmtp:  # RFC 5321 3.2: a server of before 1995
            self._say(Command.HELO, self._hello(Command.HELO))
        elif code >= 400:
            self._refused(Stage.EHLO, code, lines)
        else:
            self._after_hello(Extensions.parse(lines, secure=self._secured))

    def _on_helo(self, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            self._refused(Stage.EHLO, code, lines)
        else:
            self._after_hello(Extensions())

    def _after_hello(self, extensions: Extensions) -> None:
        self.extensions = extensions
        if self._opening.starttls and not self._secured:
            self._start_tls()
        elif self._opening.credentials:
            self._log_in(self._opening.credentials)
        else:
            self._opened()

    def _start_tls(self) -> None:
        if "STARTTLS" in self.extensions.offered:
            self._say(Command.STARTTLS, b"STARTTLS")
        else:
            self._unusable(Stage.TLS, "the relay offers no STARTTLS, and nothing goes in plain text")

    def _on_starttls(self, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            self._refused(Stage.TLS, code, lines)
        else:
            self._become(State.HANDSHAKE)

    def _log_in(self, credentials: Credentials) -> None:
        offered = self.extensions.offered.get("AUTH", ())
        self._login = choose(offered, credentials)
        if self._login:
            self._say(Command.AUTH, self._login.command)
        else:
            names = " ".join(offered) or "none"
            detail = f"the relay offers no login by {wanted(credentials)} (offered: {names})"
            self._unusable(Stage.AUTH, detail)

    def _on_auth(self, code: int, lines: Sequence[bytes]) -> None:
        assert self._login, "it is what AUTH was said for"
        if code >= 400:
            self._fail(Outcome(Stage.AUTH, How.REFUSED, make_reply(code, lines), self._login.reason))
        elif code < 300:
            self._opened()
        else:
            self._say(Command.AUTH, self._login.answer(lines[-1][4:].strip()))

    def _without_login(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        """A server may repeat what it was told, and what it says is logged."""
        if self._login and self.state in _UNOPENED:
            return [self._login.scrub(line) for line in lines]
        return lines

    def _on_quit(self, code: int, lines: Sequence[bytes]) -> None:
        self._become(State.CLOSED)

    def _on_reset(self, transaction: Transaction, _: int, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            self._close(How.UNTOUCHED, detail=f"RSET was refused: {make_reply(code, lines)}")

    def _on_mail(self, transaction: Transaction, _: int, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            transaction.mail = Outcome(Stage.MAIL, How.REFUSED, make_reply(code, lines))

    def _on_rcpt(self, transaction: Transaction, position: int, code: int, lines: Sequence[bytes]) -> None:
        if code < 300:
            transaction.accepted += 1
        elif transaction.mail is None:
            transaction.outcomes[position] = Outcome(Stage.RCPT, How.REFUSED, make_reply(code, lines))

    def _on_data(self, transaction: Transaction, _: int, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            self.reset_due = True  # MAIL may still stand
            self._conclude(transaction, Outcome(Stage.DATA, How.REFUSED, make_reply(code, lines)))

    def _on_dot(self, transaction: Transaction, _: int, code: int, lines: Sequence[bytes]) -> None:
        how = _ACCEPTED if code < 300 else How.REFUSED
        transaction.decide(Outcome(_DOT, how, make_reply(code, lines), dot_begun=True))
        self._over.append(transaction)

    def _on_delivery(
        self, transaction: Transaction, position: int, code: int, lines: Sequence[bytes]
    ) -> None:
        how = How.ACCEPTED if code < 300 else How.REFUSED
        transaction.outcomes[position] = Outcome(Stage.DOT, how, make_reply(code, lines), dot_begun=True)
        if None not in transaction.outcomes:
            self._over.append(transaction)

    def _on_lone_dot(self, transaction: Transaction, _: int, code: int, lines: Sequence[bytes]) -> None:
        """Whatever the server makes of no message: its recipients were refused one by one."""

    # The opening

    def _hello(self, command: Command) -> bytes:
        verb = "LHLO" if self._opening.lmtp else command.value  # RFC 2033 4.1
        return f"{verb} {self._opening.hello_name}".encode()

    def _say(self, command: Command, line: bytes) -> None:
        """Written once we are in step: what is unread can't be meant for it."""
        self._script.append((line + b"\r\n", (command, None, 0)))

    def _opened(self) -> None:
        """Ready once we are in step: behind the last answer there may be more, or a 421."""
        self._ready = True

    def _refused(self, stage: Stage, code: int, lines: Sequence[bytes]) -> None:
        self._fail(Outcome(stage, How.REFUSED, make_reply(code, lines)))

    def _unusable(self, stage: Stage, detail: str) -> None:
        self._fail(Outcome(stage, How.UNSUITABLE, detail=detail))

    def _fail(self, outcome: Outcome) -> None:
        self._become(State.CLOSED)
        self._events.append(Failed(outcome))

    # Transactions

    def _in_step(self) -> None:
        """Nothing in flight, nothing unread: what was answered is believed, and it goes on."""
        self._settle()
        if self.state is _TALKING:
            self._go_on()
        elif self._script:
            self._write(*self._script.popleft())
        elif self._ready and self.state is State.OPENING:
            self._become(State.IDLE)
            self._events.append(Opened())

    def _go_on(self) -> None:
        """What comes next, first match first."""
        transaction = self._current
        if transaction and transaction.decided:
            self._dismiss(transaction)
        elif self._script:
            self._write(*self._script.popleft())
        elif transaction:
            self._become(_BODY)
        elif self._leave:
            self._close(How.UNTOUCHED)
        elif not self._in_flight:
            self._open_or_rest()

    def _open_or_rest(self) -> None:
        following = self._next()
        if following:
            self._open(following)
        else:
            self._become(State.IDLE)

    def _dismiss(self, transaction: Transaction) -> None:
        """End a transaction that needs no body: before DATA, or behind a 354."""
        if self._script:
            self._script.clear()
            self.reset_due = True
            self._conclude(transaction, None)
            self._in_step()
        elif transaction.accepted:
            self._out_of_step("the relay wants a message whose sender it has refused")
        elif self._opening.lmtp:  # a lone dot would have no answer, or one: nobody knows (RFC 2033 4.2)
            self._conclude(transaction, None)
            self._close(How.UNTOUCHED)
        else:
            self._conclude(transaction, None)
            self._settle()
            self._write(b".\r\n", (Command.LONE_DOT, transaction, 0))

    def _conclude(self, transaction: Transaction, outcome: Outcome | None) -> None:
        """It ends without a body; `outcome` is for those whom neither MAIL nor RCPT decided."""
        self._current = None
        final = transaction.mail or outcome
        if final:
            transaction.decide(final)
        self._over.append(transaction)
        self._leave |= any(
            known and known.reply and known.reply.code in USELESS for known in transaction.outcomes
        )

    def _settle(self) -> None:
        if self._over:
            self._events += [Finished(each.index, each.final(), each.written) for each in self._over]
            self._over.clear()

    def _next(self) -> Transaction | None:
        """The next transaction that this server can take at all."""
        while self._pending:
            transaction = Transaction(*self._pending.popleft())
            unsuitable = transaction.suit(self.extensions)
            if not unsuitable:
                return transaction
            transaction.decide(Outcome(Stage.MAIL, How.UNSUITABLE, detail=unsuitable))
            self._events.append(Finished(transaction.index, transaction.final()))
        return None

    def _open(self, transaction: Transaction) -> None:
        """Write its commands; without PIPELINING, or where a reset is due, the first one only."""
        self._current = transaction
        lines = transaction.lines(self.extensions)
        if self.reset_due:
            self.reset_due = False
            self._script.append((b"RSET\r\n", (Command.RSET, transaction, 0)))
        if self._script or not self._pipelining:
            self._script += zip(lines, _awaited(transaction), strict=True)
            self._write(*self._script.popleft())
        else:
            transaction.written = IN_FLIGHT
            self._out += lines
            self._flight = None, transaction

    def _write(self, line: bytes, awaited: _InFlight) -> None:
        self._out.append(line)
        self._in_flight.append(awaited)

    # Endings

    def _out_of_step(self, detail: str) -> None:
        """Rule 3: since the last time in step, an answer may have been meant for another command."""
        for transaction in self._over:
            transaction.disbelieve(detail)
        self._close(How.GARBAGE, detail=detail)

    def _close(self, how: How, reply: Reply | None = None, detail: str = "", dot_begun: bool = True) -> None:
        """The end, rule 5."""
        if self.state in _UNOPENED:
            self._fail(Outcome(self.stage, how, reply, detail))
        else:
            self._break_up(how, reply, detail, dot_begun)

    def _break_up(self, how: How, reply: Reply | None, detail: str, dot_begun: bool) -> None:
        self._become(State.CLOSED)
        blamed = self._blamed()
        if blamed:
            self._blame(blamed, Outcome(self.stage, how, reply, detail), dot_begun)
        self._settle()
        if self._current and self._current is not blamed:
            self._pending.appendleft((self._current.index, self._current.envelope))
        self._leave_untouched(detail)

    def _blamed(self) -> Transaction | None:
        """The transaction whose answer was next."""
        if not self._in_flight:
            return self._current
        command, transaction, _ = self._in_flight[0]
        return None if command is Command.LONE_DOT else transaction

    def _blame(self, transaction: Transaction, outcome: Outcome, dot_begun: bool) -> None:
        if outcome.stage is Stage.DOT:
            touched = dot_begun and outcome.how is How.UNTOUCHED  # whatever the driver meant
            outcome = replace(outcome, how=How.LOST if touched else outcome.how, dot_begun=dot_begun)
            if self._opening.lmtp:
                outcome = self._blame_rest(transaction, outcome)
        elif outcome.how is How.GARBAGE:
            transaction.mail = None
            transaction.outcomes = [None] * len(transaction.outcomes)
        transaction.decide(transaction.mail or outcome)
        self._over.append(transaction)

    def _blame_rest(self, transaction: Transaction, outcome: Outcome) -> Outcome:
        """LMTP: what becomes of the recipients for whom no answer came behind the dot, or none to believe."""
        if outcome.how is How.GARBAGE:
            transaction.forget_deliveries()
        elif outcome.how is How.REFUSED:  # 421 answers for the one whose turn it was
            transaction.outcomes[self._in_flight[0][2]] = outcome
            return replace(outcome, how=How.LOST, reply=None, detail="the relay left before it told")
        return outcome

    def _leave_untouched(self, detail: str) -> None:
        outcome = Outcome(Stage.MAIL, How.UNTOUCHED, detail=detail)
        for index, envelope in self._pending:
            self._events.append(Finished(index, (outcome,) * len(envelope.recipients)))
        self._pending.clear()

    def _become(self, state: State) -> None:
        if state not in MOVES[self.state]:
            allowed = ", ".join(sorted(move.value for move in MOVES[self.state])) or "nothing"
            raise IllegalMove(
                f"an SMTP connection that is {self.state.value} can't become {state.value}; "
                f"it may become {allowed}"
            )
        self.state = state


def _awaited(transaction: Transaction) -> list[_InFlight]:
    """What is awaited for the lines that open it."""
    recipients = range(len(transaction.outcomes))
    rcpt: list[_InFlight] = [(Command.RCPT, transaction, position) for position in recipients]
    return [(Command.MAIL, transaction, 0), *rcpt, (Command.DATA, transaction, 0)]


@lru_cache(maxsize=64)
def _well(dot: bool, recipients: int | None) -> Callable[[bytes], re.Match[bytes] | None]:
    """Matches the answers to a flight that went well, each of one line, and nothing else.

    That is a 2xx for the dot, if there is one (group 1); then, unless `recipients` is None, 2xx for MAIL and
    each RCPT, 3xx for DATA.
    """
    text = rb"[^\r\n]{0,%d}\r\n" % (MAX_LINE - len(b"250 \r"))
    for_dot = rb"(2\d\d %b)" % text if dot else b""
    for_rest = b"" if recipients is None else rb"(?:2\d\d %b){%d}3\d\d %b" % (text, 1 + recipients, text)
    return re.compile(for_dot + for_rest).fullmatch


OPENING_ANSWERS: Final[dict[Command, Callable[[Engine, int, Sequence[bytes]], None]]] = {
    Command.CONNECT: Engine._on_greeting,
    Command.EHLO: Engine._on_ehlo,
    Command.HELO: Engine._on_helo,
    Command.STARTTLS: Engine._on_starttls,
    Command.AUTH: Engine._on_auth,
    Command.QUIT: Engine._on_quit,
}

ANSWERS: Final[dict[Command, Callable[[Engine, Transaction, int, int, Sequence[bytes]], None]]] = {
    Command.RSET: Engine._on_reset,
    Command.MAIL: Engine._on_mail,
    Command.RCPT: Engine._on_rcpt,
    Command.DATA: Engine._on_data,
    Command.DOT: Engine._on_dot,
    Command.DELIVERY: Engine._on_delivery,
    Command.LONE_DOT: Engine._on_lone_dot,
}
