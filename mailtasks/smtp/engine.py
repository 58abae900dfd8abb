"""SMTP as a client speaks it: bytes in, events out, bytes to send out.

The rules:

1. No socket, no clock, no thread. Whoever drives an engine feeds what was read (`receive`), sends what
   `data_to_send` returns, and afterwards looks at `events()` and `state`. The same bytes give the
   same outcomes wherever the network cuts them, if the driver reads a flight before it answers.
2. Commands in flight are a FIFO: replies have no number, so the first reply belongs to the first command.
   With PIPELINING (RFC 2920) a transaction's MAIL, RCPT and DATA are one write, and they go right behind
   the final dot of the transaction before: one round trip a message.
3. A body is never written unless we are in step: nothing in flight, nothing unread. A reply that
   nobody waits for, or of a kind that its command can't have, means that we are not. Then the
   connection is closed, and no answer read since the last time in step is believed.
4. Nothing is begun behind the driver's back: in state BODY it decides, `write_body()` or `abort()`.
5. The connection's end is one event for each transaction: the one whose answer was next bears
   how it ended, those behind it are UNTOUCHED, those before it keep what they have.
6. What the states may become, and which replies a command may have, are the two tables below.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from mailtasks.errors import IllegalMove
from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.smtp.auth import Credentials, choose
from mailtasks.smtp.envelope import Envelope
from mailtasks.smtp.grammar import GarbledReply, ReplyReader, canonical, make_reply, path, quote, stuff


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
    Command.LONE_DOT: Stage.DATA,
}
"""QUIT has none: nothing depends on its answer."""

_UNOPENED: Final = frozenset({State.OPENING, State.HANDSHAKE})

_BAFFLED: Final = range(500, 505)
"""RFC 5321 4.2.1: the server didn't understand. If that ended a transaction, a new connection is wiser."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What has to happen before the first transaction."""

    hello_name: str  # a host name or an address literal, RFC 5321 4.1.4
    starttls: bool = False  # not "if offered": without it the connection is of no use
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True)
class Extensions:
    """What the server offers (RFC 5321 4.1.1.1): keyword to parameters, in capitals."""

    offered: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, lines: Sequence[bytes]) -> Extensions:
        """From the lines of a reply to EHLO; the first is the server's name."""
        offered: dict[str, tuple[str, ...]] = {}
        for line in lines[1:]:
            # "AUTH=LOGIN" is how some servers said it before RFC 2554.
            words = line[4:].decode("ascii", "replace").upper().replace("AUTH=", "AUTH ").split()
            if words:
                offered[words[0]] = offered.get(words[0], ()) + tuple(words[1:])
        return cls(offered)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.offered

    @property
    def size(self) -> int | None:
        """The largest message in bytes, None where no limit is told (RFC 1870 4)."""
        told = "".join(self.offered.get("SIZE", ())[:1])
        return (int(told) or None) if told.isdecimal() and len(told) <= 20 else None


@dataclass(frozen=True, slots=True)
class Opened:
    """The connection is ready for transactions."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The connection is of no use: close it."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Finished:
    """A transaction is over."""

    index: int  # in what was given to `begin`
    outcomes: tuple[Outcome, ...]  # one a recipient, in order


Event = Opened | Failed | Finished


class _Transaction:
    """One envelope on its way."""

    __slots__ = ("accepted", "ascii", "body", "envelope", "index", "mail", "outcomes", "smtputf8")

    def __init__(self, index: int, envelope: Envelope) -> None:
        self.index = index
        self.envelope = envelope
        self.body = canonical(envelope.content)
        self.ascii = self.body.isascii()
        self.smtputf8 = envelope.needs_smtputf8
        self.mail: Outcome | None = None  # how MAIL was refused
        self.accepted = 0  # recipients so far
        self.outcomes: list[Outcome | None] = [None] * len(envelope.recipients)

    def decide(self, outcome: Outcome) -> None:
        """What becomes of each recipient that has no outcome yet."""
        self.outcomes = [outcome if known is None else known for known in self.outcomes]

    def finished(self) -> Finished:
        outcomes = [outcome for outcome in self.outcomes if outcome is not None]
        assert len(outcomes) == len(self.outcomes), "each recipient has an outcome"
        if self.accepted and len(outcomes) > 1:
            outcomes = [_beside_accepted(outcome) for outcome in outcomes]
        return Finished(self.index, tuple(outcomes))


def _beside_accepted(outcome: Outcome) -> Outcome:
    refused = outcome.stage is Stage.RCPT and outcome.how is How.REFUSED
    return replace(outcome, others_accepted=True) if refused else outcome


_InFlight = tuple[Command, _Transaction | None, int]
_Step = tuple[bytes, _InFlight]


class Engine:
    """One connection's dialogue, from the greeting to QUIT."""

    def __init__(self, opening: Opening) -> None:
        self.state = State.OPENING
        self.answered = 0
        """How many replies were read: it grows while there is progress."""
        self.extensions = Extensions()
        self._opening = opening
        self._secured = False
        self._answers: Iterator[bytes] = iter(())  # to challenges, during AUTH
        self._reader = ReplyReader()
        self._in_flight: deque[_InFlight] = deque([(Command.CONNECT, None, 0)])
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._pending: deque[tuple[int, Envelope]] = deque()  # given to `begin`, not opened
        self._script: deque[_Step] = deque()  # commands of the open transaction, not written
        self._current: _Transaction | None = None  # opened, not over
        self._over: list[_Transaction] = []  # over, but not yet in step again
        self._behind_dot: list[bytes] = []  # what was written with the latest dot, from its line on
        self._reset = False  # the server may still hold a transaction of ours
        self._leave = False  # begin nothing more on this connection

    # What the driver calls

    @property
    def stage(self) -> Stage:
        """What is being waited for: it says how long to wait (RFC 5321 4.5.3.2)."""
        if self._in_flight:
            return STAGES[self._in_flight[0][0]]
        return Stage.TLS if self.state is State.HANDSHAKE else Stage.DATA

    @property
    def body_index(self) -> int:
        """Which envelope's body is next. Only in state BODY."""
        assert self.state is State.BODY, "asked in state BODY"
        assert self._current is not None
        return self._current.index

    def data_to_send(self) -> bytes:
        """What is to be written, once. Send it whenever an engine's method was called."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def events(self) -> list[Event]:
        """What has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def receive(self, data: bytes) -> None:
        """Take what was read. Then look at `events()` and `state`, and send `data_to_send()`."""
        if self.state is State.CLOSED:
            return
        try:
            self._take_all(data)
        except GarbledReply as error:
            self._out_of_step(str(error))

    def secured(self) -> None:
        """TLS is up: what was said in plain text is forgotten, and EHLO said again (RFC 3207 4.2)."""
        self._become(State.OPENING)
        self._secured = True
        self._reader = ReplyReader()
        self._hello(Command.EHLO)

    def begin(self, envelopes: Iterable[Envelope]) -> None:
        """Start with transactions, numbered from 0. Only in state IDLE."""
        self._become(State.TALKING)
        self._pending.extend(enumerate(envelopes))
        self._open_next()
        if not self._in_flight:
            self._in_step()

    def write_body(self) -> None:
        """Write the body, the dot and, with PIPELINING, the next transaction's commands."""
        self._become(State.TALKING)
        transaction, self._current = self._current, None
        assert transaction is not None
        self._out.append(stuff(transaction.body))
        before = len(self._out)
        self._write(b".\r\n", (Command.DOT, transaction, 0))
        self._open_behind()
        self._behind_dot = self._out[before:]

    def abort(self) -> None:
        """Don't write the body: what is undecided is UNTOUCHED. Close the connection without QUIT."""
        self._close(How.UNTOUCHED)

    def break_off(self, how: How, detail: str, unsent: int = 0) -> None:
        """The connection was lost or timed out, or TLS failed.

        Args:
            how: LOST, TIMED_OUT or, where it is the handshake that failed, REFUSED.
            unsent: how many of the bytes last taken from `data_to_send` surely never left. A dot
                among them was not begun.
        """
        if self.state is not State.CLOSED:
            self._close(how, detail=detail, dot_begun=unsent < sum(map(len, self._behind_dot)))

    def quit(self) -> None:
        """Say QUIT (RFC 5321 4.1.1.10). Only in state IDLE."""
        self._become(State.QUITTING)
        self._write(b"QUIT\r\n", (Command.QUIT, None, 0))

    # Replies

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
        if code == 421:  # "to any command", and unasked (RFC 5321 3.8, 4.2.3)
            self._close(How.REFUSED, make_reply(code, lines))
        elif not self._in_flight:
            self._out_of_step(f"a reply that nobody waits for: {quote(lines[0])}")
        elif code // 100 not in EXPECTED[self._in_flight[0][0]]:
            self._out_of_step(f"no answer to {self._in_flight[0][0].value}: {quote(lines[0])}")
        else:
            command, transaction, position = self._in_flight.popleft()
            if transaction:
                ANSWERS[command](self, transaction, position, code, lines)
            else:
                OPENING_ANSWERS[command](self, code, lines)

    def _on_greeting(self, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            self._refused(Stage.GREETING, code, lines)
        else:
            self._hello(Command.EHLO)

    def _on_ehlo(self, code: int, lines: Sequence[bytes]) -> None:
        if code >= 500:  # RFC 5321 3.2: a server of before 1995
            self._hello(Command.HELO)
        elif code >= 400:
            self._refused(Stage.EHLO, code, lines)
        else:
            self._after_hello(Extensions.parse(lines))

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
        if "STARTTLS" in self.extensions:
            self._write(b"STARTTLS\r\n", (Command.STARTTLS, None, 0))
        else:
            self._unusable(Stage.TLS, "the relay offers no STARTTLS, and nothing goes in plain text")

    def _on_starttls(self, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            self._refused(Stage.TLS, code, lines)
        else:
            self._become(State.HANDSHAKE)

    def _log_in(self, credentials: Credentials) -> None:
        offered = self.extensions.offered.get("AUTH", ())
        exchange = choose(offered, credentials)
        if exchange:
            self._answers = iter(exchange.answers)
            self._write(exchange.command + b"\r\n", (Command.AUTH, None, 0))
        else:
            names = " ".join(offered) or "none"
            self._unusable(Stage.AUTH, f"the relay offers no login by PLAIN or LOGIN (offered: {names})")

    def _on_auth(self, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            self._refused(Stage.AUTH, code, lines)
        elif code < 300:
            self._opened()
        else:
            # One challenge too many is answered with a cancel, which the server refuses (RFC 4954 4).
            self._write(next(self._answers, b"*") + b"\r\n", (Command.AUTH, None, 0))

    def _on_quit(self, code: int, lines: Sequence[bytes]) -> None:
        self._become(State.CLOSED)

    def _on_reset(self, transaction: _Transaction, _: int, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            self._close(How.UNTOUCHED, detail=f"RSET was refused: {make_reply(code, lines)}")

    def _on_mail(self, transaction: _Transaction, _: int, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            transaction.mail = Outcome(Stage.MAIL, How.REFUSED, make_reply(code, lines))

    def _on_rcpt(self, transaction: _Transaction, position: int, code: int, lines: Sequence[bytes]) -> None:
        if code < 300:
            transaction.accepted += 1
        elif transaction.mail is None:
            transaction.outcomes[position] = Outcome(Stage.RCPT, How.REFUSED, make_reply(code, lines))

    def _on_data(self, transaction: _Transaction, _: int, code: int, lines: Sequence[bytes]) -> None:
        if code >= 400:
            self._reset = True  # the next one begins with RSET: MAIL may still stand
            self._conclude(transaction, Outcome(Stage.DATA, How.REFUSED, make_reply(code, lines)))
        elif transaction.mail and transaction.accepted:
            self._out_of_step(f"go-ahead for a message whose sender was refused: {quote(lines[0])}")

    def _on_dot(self, transaction: _Transaction, _: int, code: int, lines: Sequence[bytes]) -> None:
        how = How.ACCEPTED if code < 300 else How.REFUSED
        transaction.decide(Outcome(Stage.DOT, how, make_reply(code, lines), dot_begun=True))
        self._over.append(transaction)

    def _on_lone_dot(self, transaction: _Transaction, _: int, code: int, lines: Sequence[bytes]) -> None:
        """Whatever the server makes of no message: its recipients were refused one by one."""

    # The opening

    def _hello(self, command: Command) -> None:
        line = f"{command.value} {self._opening.hello_name}\r\n"
        self._write(line.encode(), (command, None, 0))

    def _opened(self) -> None:
        self._become(State.IDLE)
        self._events.append(Opened())

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
        if self.state is State.TALKING:
            self._go_on()

    def _go_on(self) -> None:
        """What comes next, first match first."""
        transaction = self._current
        if transaction and self._decided(transaction):
            self._dismiss(transaction)
        elif self._script:
            self._follow_script()
        elif transaction:
            self._become(State.BODY)
        elif self._leave:
            self._close(How.UNTOUCHED)
        else:
            self._open_next()
            self._rest_if_done()

    def _rest_if_done(self) -> None:
        if not self._in_flight:
            self._become(State.IDLE)

    def _decided(self, transaction: _Transaction) -> bool:
        """No recipient is left to send to."""
        return transaction.mail is not None or None not in transaction.outcomes

    def _dismiss(self, transaction: _Transaction) -> None:
        """End a transaction that no body is needed for: before DATA, or behind a 354 for nobody."""
        self._conclude(transaction, None)
        self._settle()
        if self._script:
            self._script.clear()
            self._reset = True
            self._go_on()
        else:
            self._write(b".\r\n", (Command.LONE_DOT, transaction, 0))
            self._open_behind()

    def _conclude(self, transaction: _Transaction, outcome: Outcome | None) -> None:
        """It ends without a body; `outcome` is for those whom neither MAIL nor RCPT decided."""
        self._current = None
        final = transaction.mail or outcome
        if final:
            transaction.decide(final)
        self._over.append(transaction)
        self._leave |= any(
            known and known.reply and known.reply.code in _BAFFLED for known in transaction.outcomes
        )

    def _settle(self) -> None:
        self._events += [transaction.finished() for transaction in self._over]
        self._over.clear()

    def _open_behind(self) -> None:
        """With PIPELINING the next transaction's commands ride behind a dot (RFC 2920 3.1)."""
        if "PIPELINING" in self.extensions and not self._leave:
            self._open_next()

    def _open_next(self) -> None:
        """Open the next transaction that this server can take at all."""
        while self._pending and not self._current:
            transaction = _Transaction(*self._pending.popleft())
            unsuitable = self._unsuitable(transaction)
            if unsuitable:
                transaction.decide(Outcome(Stage.MAIL, How.UNSUITABLE, detail=unsuitable))
                self._events.append(transaction.finished())
            else:
                self._open(transaction)

    def _unsuitable(self, transaction: _Transaction) -> str:
        """Why this server can't take it, or an empty string."""
        limit, size = self.extensions.size, len(transaction.body)
        if limit is not None and size > limit:
            return f"the message has {size} bytes; the relay takes {limit} (SIZE)"
        if transaction.smtputf8 and "SMTPUTF8" not in self.extensions:
            return "an address or header isn't ASCII, and the relay offers no SMTPUTF8"
        if not transaction.ascii and "8BITMIME" not in self.extensions:
            return "the message isn't ASCII, and the relay offers no 8BITMIME"
        return ""

    def _open(self, transaction: _Transaction) -> None:
        self._current = transaction
        self._script.extend(self._steps(transaction))
        self._follow_script()

    def _follow_script(self) -> None:
        """Write the open transaction's next command; with PIPELINING, all that are left."""
        self._write(*self._script.popleft())
        if "PIPELINING" in self.extensions:
            while self._script:
                self._write(*self._script.popleft())

    def _steps(self, transaction: _Transaction) -> Iterator[_Step]:
        """The transaction's commands up to DATA."""
        if self._reset:
            self._reset = False
            yield b"RSET\r\n", (Command.RSET, transaction, 0)
        yield self._mail_line(transaction), (Command.MAIL, transaction, 0)
        for position, recipient in enumerate(transaction.envelope.recipients):
            yield b"RCPT TO:<%b>\r\n" % path(recipient), (Command.RCPT, transaction, position)
        yield b"DATA\r\n", (Command.DATA, transaction, 0)

    def _mail_line(self, transaction: _Transaction) -> bytes:
        line = b"MAIL FROM:<%b>" % path(transaction.envelope.sender)
        if "SIZE" in self.extensions:  # RFC 1870 6.1
            line += b" SIZE=%d" % len(transaction.body)
        if not transaction.ascii:  # RFC 6152 3
            line += b" BODY=8BITMIME"
        if transaction.smtputf8:  # RFC 6531 3.4
            line += b" SMTPUTF8"
        return line + b"\r\n"

    def _write(self, line: bytes, awaited: _InFlight) -> None:
        self._out.append(line)
        self._in_flight.append(awaited)

    # Endings

    def _out_of_step(self, detail: str) -> None:
        """Rule 3: since the last time in step, an answer may have been meant for another command."""
        for transaction in self._over:
            self._disbelieve(transaction, detail)
        self._close(How.GARBAGE, detail=detail)

    def _disbelieve(self, transaction: _Transaction, detail: str) -> None:
        """What was refused before the body stays so: we were in step when it was written."""
        dotted = any(known and known.stage is Stage.DOT for known in transaction.outcomes)
        doubt = Outcome(Stage.DOT if dotted else Stage.DATA, How.GARBAGE, detail=detail, dot_begun=dotted)
        believed = [
            known for known in transaction.outcomes if dotted and known and known.stage is not Stage.DOT
        ]
        transaction.outcomes = [known if known in believed else doubt for known in transaction.outcomes]

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

    def _blamed(self) -> _Transaction | None:
        """The transaction whose answer was next."""
        if not self._in_flight:
            return self._current
        command, transaction, _ = self._in_flight[0]
        return None if command is Command.LONE_DOT else transaction

    def _blame(self, transaction: _Transaction, outcome: Outcome, dot_begun: bool) -> None:
        if outcome.stage is Stage.DOT:
            outcome = replace(outcome, dot_begun=dot_begun)
        elif outcome.how is How.GARBAGE:
            transaction.mail = None
            transaction.outcomes = [None] * len(transaction.outcomes)
        transaction.decide(transaction.mail or outcome)
        self._over.append(transaction)

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


OPENING_ANSWERS: Final[dict[Command, Callable[[Engine, int, Sequence[bytes]], None]]] = {
    Command.CONNECT: Engine._on_greeting,
    Command.EHLO: Engine._on_ehlo,
    Command.HELO: Engine._on_helo,
    Command.STARTTLS: Engine._on_starttls,
    Command.AUTH: Engine._on_auth,
    Command.QUIT: Engine._on_quit,
}

ANSWERS: Final[dict[Command, Callable[[Engine, _Transaction, int, int, Sequence[bytes]], None]]] = {
    Command.RSET: Engine._on_reset,
    Command.MAIL: Engine._on_mail,
    Command.RCPT: Engine._on_rcpt,
    Command.DATA: Engine._on_data,
    Command.DOT: Engine._on_dot,
    Command.LONE_DOT: Engine._on_lone_dot,
}
