"""One connection to a relay, from the name look-up to QUIT: an `Engine` joined to a `Transport`.

A session is used by one thread at a time; what it says and reads is a dialogue that a `Loop` runs. What a
relay does is never an exception here, only an outcome for each recipient; the one exception is that no
usable connection could be had.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Final, Self, TypeVar

from mailtasks.errors import RelayUnavailable
from mailtasks.relay import Relay
from mailtasks.reply import How, Outcome, Stage
from mailtasks.smtp.auth import Credentials
from mailtasks.smtp.bearing import Bearing, Manner
from mailtasks.smtp.chunking import Chunking, suits
from mailtasks.smtp.engine import Engine, Event, Failed, Finished, Opening, State
from mailtasks.smtp.envelope import Envelope
from mailtasks.smtp.loop import Dialogue, Interrupted, Loop
from mailtasks.smtp.token_sources import TokenUnavailable
from mailtasks.smtp.tokens import Token, Tokens
from mailtasks.smtp.transport import Transport, UnusableFile, explain, tls_context

Answer = TypeVar("Answer")
Dialled = TypeVar("Dialled")


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait for what, in seconds; the defaults are the settings', or RFC 5321 4.5.3.2's."""

    connect: float = 20  # all of the host's addresses together
    greeting: float = 300  # 4.5.3.2.1
    ehlo: float = 300
    tls: float = 30  # the answer to STARTTLS, and again the handshake
    auth: float = 300  # each step
    mail: float = 300  # 4.5.3.2.2
    rcpt: float = 300  # 4.5.3.2.3
    data: float = 120  # 4.5.3.2.4
    block: float = 180  # 4.5.3.2.5, each piece that the network takes
    dot: float = 600  # 4.5.3.2.6
    quit: float = 2

    def of(self, stage: Stage) -> float:
        """How long to wait for the answer that is next."""
        seconds: float = getattr(self, stage)
        return seconds


DEFAULT_TIMEOUTS: Final = Timeouts()
_HOW_FAILED: Final[dict[type[OSError], How]] = {
    TimeoutError: How.TIMED_OUT,
    Interrupted: How.UNTOUCHED,
    ssl.SSLCertVerificationError: How.UNSUITABLE,
    UnusableFile: How.UNSUITABLE,
}
_GONE: Final = Outcome(Stage.MAIL, How.UNTOUCHED, detail="the connection was closed before")
LONG: Final = 65536
"""Bytes of a body that may take a while to write, so that the dot behind it is thought over again."""

FRESH: Final = 30.0
"""Seconds after which an idle connection may have been forgotten on its way, without a word to us. By DATA
that shows before there is a body; so BDAT isn't used then."""

_BUSY: Final = frozenset({State.TALKING, State.BODY})
_STOPPED: Final = "the worker stops, or has lost its lease"


class ConnectFailed(RelayUnavailable):
    """No usable connection, with the stage that failed and how.

    Attributes:
        failure: the outcome to hand to the policy; the same for every mail that waited for this.
    """

    def __init__(self, relay: Relay, failure: Outcome) -> None:
        self.failure = failure
        super().__init__(f"no connection to the relay {relay.name}: {failure}")


class Session:
    """A connection that is ready for mail.

    Attributes:
        relay: where it leads.
        opened_at: when it became ready, monotonic.
        messages: how many envelopes it was given so far.
        rested: it has been idle; the relay may have closed it meanwhile. Set by whoever lets it idle.
    """

    def __init__(
        self,
        relay: Relay,
        engine: Engine,
        transport: Transport,
        timeouts: Timeouts,
        loop: Loop,
        bearing: Bearing | None = None,
    ) -> None:
        self.relay = relay
        self.opened_at = time.monotonic()
        self.messages = 0
        self.rested = False
        self._engine = engine
        self._transport = transport
        self._timeouts = timeouts
        self._loop = loop
        self._bearing = bearing
        self._held_back = 0  # bytes of the engine's that the transport hasn't been given yet
        self._silent_since_tls = False  # True from the handshake to the first byte behind it
        self._heard = True  # since `deliver` began; False only on a connection that was idle before
        self._used_at = self.opened_at  # ready, or the end of the last `deliver`; monotonic

    @classmethod
    def connect(
        cls,
        relay: Relay,
        *,
        hello_name: str | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        loop: Loop | None = None,
        tokens: Tokens | None = None,
        bearing: Bearing | None = None,
    ) -> Self:
        """Connect, say EHLO, secure the connection and log in as the relay's URL says.

        A token that was used before and is refused now is fetched once more, for a second connection.

        Args:
            relay: where to, and how.
            hello_name: who we are, unless the relay's URL says it; by default the host name, or an address
                literal where that has no domain (RFC 5321 4.1.4).
            timeouts: how long to wait for what.
            loop: shared with the sessions of other threads; by default one of its own.
            tokens: the relay's, shared in the same way; they are asked for only if it logs in with one.
            bearing: what is known of how the relay bears PIPELINING, shared likewise; None: nothing.

        Raises:
            ConnectFailed: it came to nothing, and no connection is left behind.
        """
        dial = partial(cls._dial, relay, hello_name, timeouts, loop or Loop(), bearing)
        tokens = tokens or Tokens.of(relay)
        return _with_token(relay, tokens, dial) if tokens else dial("")

    @classmethod
    def _dial(
        cls,
        relay: Relay,
        hello_name: str | None,
        timeouts: Timeouts,
        loop: Loop,
        bearing: Bearing | None,
        token: str,
    ) -> Self:
        transport = _connected(relay, timeouts)
        hello_name = relay.hello or hello_name or transport.local_name()
        session = cls(relay, Engine(_opening(relay, hello_name, token)), transport, timeouts, loop, bearing)
        try:
            session._hold(session._open())
        except BaseException:
            session.abort()
            raise
        return session

    @property
    def usable(self) -> bool:
        """In step and idle: `deliver` may be called."""
        return self._engine.state is State.IDLE

    @property
    def alive(self) -> bool:
        """Usable, and the relay has neither closed it nor said anything (such as 421) meanwhile."""
        return self.usable and self._transport.silent()

    def deliver(
        self, envelopes: Sequence[Envelope], may_begin: Callable[[int], bool] = lambda index: True
    ) -> list[tuple[Outcome, ...]]:
        """Send each envelope in a transaction of its own; pipelined, if the relay offers that.

        By BDAT if the relay's URL says `chunking=yes`, it offers CHUNKING and PIPELINING, and nothing speaks
        against it; else by DATA.

        Args:
            envelopes: what to send, in order.
            may_begin: asked right before the body and dot of an envelope are written, and once more between
                the two if the body is long; by BDAT, right before the envelope is. False: nothing is begun
                any more, what isn't decided is
                UNTOUCHED, and the connection is closed.

        Returns:
            for each envelope a tuple with one outcome for each recipient, all in order. If `usable`
            is False afterwards, the connection is gone; if it was before, all are UNTOUCHED.
        """
        if not self.usable:
            return [(_GONE,) * len(envelope.recipients) for envelope in envelopes]
        outcomes: list[tuple[Outcome, ...]] = [()] * len(envelopes)
        self._heard = not (self.messages or self.rested)
        self.messages += len(envelopes)
        for event in self._deliver(envelopes, may_begin):
            outcomes[event.index] = event.outcomes
        return outcomes

    def _deliver(self, envelopes: Sequence[Envelope], may_begin: Callable[[int], bool]) -> Sequence[Finished]:
        manner = self._bearing.begin(len(envelopes)) if self._bearing else Manner.FREELY
        finished: Sequence[Finished] = ()
        chunked = self._may_chunk(manner)
        try:
            if chunked:
                events = self._hold(self._converse_by_bdat(envelopes, may_begin))
            else:
                events = self._hold(self._converse(envelopes, may_begin, stepwise=manner is Manner.STEPWISE))
            finished = [event for event in events if isinstance(event, Finished)]
        finally:
            if self._bearing:
                finished = self._bearing.judge_bodies(finished) if chunked else finished
                finished = self._bearing.judge(finished, manner)
            self._abort_unless_usable()
            self._used_at = time.monotonic()
        return finished

    def close(self, seconds: float | None = None) -> None:
        """Say QUIT if that makes sense, wait `seconds` for the answer (by default `timeouts.quit`), close."""
        seconds = self._timeouts.quit if seconds is None else seconds
        # Whatever goes wrong now, the connection goes away.
        with suppress(OSError):
            if self.usable:
                self._hold(self._say_quit(seconds))
        self.abort()

    def abort(self) -> None:
        """Close without a word. `usable` is False from here on."""
        self._transport.close()
        self._engine.break_off(How.LOST, "closed by us")

    def _abort_unless_usable(self) -> None:
        if not self.usable:
            self.abort()

    def _hold(self, dialogue: Dialogue[Answer]) -> Answer:
        return self._loop.run(self._transport.fileno(), dialogue)

    def _say_quit(self, seconds: float) -> Dialogue[None]:
        self._engine.quit()
        yield from self._transport.send(self._engine.data_to_send(), seconds)
        yield from self._transport.receive(time.monotonic() + seconds)

    def _open(self) -> Dialogue[None]:
        if self.relay.tls == "implicit":
            yield from self._secure()
        while not (events := self._engine.events()):
            if self._engine.state is State.HANDSHAKE:
                yield from self._secure()
                self._engine.secured()
            yield from self._exchange()
        for event in events:
            if isinstance(event, Failed):
                raise ConnectFailed(self.relay, event.outcome)

    def _secure(self) -> Dialogue[None]:
        """TLS now. There is no way back to plain text."""
        try:
            context = tls_context(self.relay.ca, self.relay.cert, self.relay.key)
            yield from self._transport.start_tls(context, self.relay.host, self._timeouts.tls)
        except OSError as error:
            raise _failed(self.relay, Stage.TLS, error) from error
        self._silent_since_tls = True

    def _converse(
        self,
        envelopes: Sequence[Envelope],
        may_begin: Callable[[int], bool],
        *,
        stepwise: bool = False,
        first: int = 0,
    ) -> Dialogue[list[Event]]:
        engine = self._engine
        engine.begin(envelopes, stepwise, first)
        may_end = _always
        while (state := engine.state) in _BUSY:
            if state is State.TALKING:
                yield from self._exchange(may_end)
            elif may_begin(index := engine.body_index):
                may_end = partial(may_begin, index)
                engine.write_body()
            else:
                engine.abort()
        return engine.events()

    def _exchange(self, may_end: Callable[[], bool] = _always) -> Dialogue[None]:
        """Write what is to be written, then read until an answer has come."""
        try:
            pieces = self._engine.pieces_to_send()
            if pieces:
                yield from self._write(pieces, may_end)
            yield from self._read_answer(self._engine)
        except Interrupted:
            self._break_off(How.UNTOUCHED, _STOPPED)
        except TimeoutError:
            self._break_off(How.TIMED_OUT, f"{self.relay.name} didn't answer in time")
        except OSError as error:
            error = (yield from self._hear_last_words(self._engine)) or error
            if self._silent_since_tls:
                # With TLS 1.3 a relay refuses our certificate, or misses it, after our part of the handshake.
                raise _failed(self.relay, Stage.TLS, _right_after_tls(self.relay, error)) from error
            self._break_off(How.LOST, explain(error, self.relay))

    def _write(self, pieces: list[bytes], may_end: Callable[[], bool]) -> Dialogue[None]:
        size = sum(map(len, pieces))
        if size - self._engine.behind_body > LONG and self._engine.stage is Stage.DOT:
            *body, ending = pieces
            self._held_back = size
            for piece in body:  # no copy of what is large
                self._held_back -= len(piece)
                yield from self._transport.send(piece, self._timeouts.block)
            if not may_end():
                raise Interrupted("the dot may not follow")
            self._held_back, pieces = 0, [ending]
        yield from self._transport.send(b"".join(pieces), self._timeouts.block)

    def _read_answer(self, engine: Engine | Chunking) -> Dialogue[None]:
        """Read until the next answer is whole; its time doesn't start again with each byte."""
        answered = engine.answered
        deadline = time.monotonic() + self._timeouts.of(engine.stage)
        while engine.answered == answered and engine.state is not State.CLOSED:
            try:
                data = yield from self._transport.receive(deadline)
            except Interrupted:
                if engine.stage is Stage.DOT:  # without its answer the mail would be in doubt
                    continue
                raise
            if not data:
                raise ConnectionResetError(f"{self.relay.name} closed it")
            engine.receive(data)
            self._heard = True
            self._silent_since_tls = False

    def _hear_last_words(self, engine: Engine | Chunking) -> Dialogue[ssl.SSLError | None]:
        """A relay that hangs up while we write has often said why: in a reply, or in an alert of TLS."""
        try:
            while data := (yield from self._transport.receive(time.monotonic())):
                engine.receive(data)
                self._silent_since_tls = False
        except ssl.SSLError as error:
            return error
        except OSError:
            pass
        return None

    def _break_off(self, how: How, detail: str) -> None:
        """An idle connection that turns out to be gone says nothing about the mail: UNTOUCHED."""
        stale = how is How.LOST and not self._heard
        unsent = self._transport.unsent + self._held_back
        self._engine.break_off(How.UNTOUCHED if stale else how, detail, unsent)

    # By BDAT

    def _may_chunk(self, manner: Manner) -> bool:
        return (
            self.relay.chunking == "yes"
            and not self.relay.lmtp
            and self._engine.extensions.chunking
            and self._engine.extensions.pipelining
            and manner is Manner.FREELY
            and (self._bearing is None or self._bearing.bears_bodies)
            and time.monotonic() - self._used_at < FRESH
        )

    def _converse_by_bdat(
        self, envelopes: Sequence[Envelope], may_begin: Callable[[int], bool]
    ) -> Dialogue[list[Event]]:
        """In runs: what is too large for BDAT goes by DATA, in its place."""
        events: list[Event] = []
        for small, members in groupby(enumerate(envelopes), lambda each: suits(each[1])):
            run = list(members)
            if not self.usable:
                events += [Finished(index, (_GONE,) * len(each.recipients)) for index, each in run]
            elif small:
                events += yield from self._chunk(run, may_begin)
            else:
                large = [envelope for _, envelope in run]
                events += yield from self._converse(large, may_begin, first=run[0][0])
        return events

    def _chunk(
        self, numbered: Sequence[tuple[int, Envelope]], may_begin: Callable[[int], bool]
    ) -> Dialogue[list[Finished]]:
        chunking = Chunking(self._engine.extensions, numbered)
        try:
            while (state := chunking.state) in _BUSY:
                if state is State.TALKING or chunking.waiting > LONG:
                    yield from self._exchange_chunks(chunking)
                elif may_begin(chunking.body_index):
                    chunking.write_body()
                else:
                    chunking.abort()
        finally:
            self._engine.reset_due |= chunking.reset_due
            if chunking.state is not State.IDLE:
                self._engine.break_off(How.LOST, "a flight by BDAT ended it")
        return chunking.events()

    def _exchange_chunks(self, chunking: Chunking) -> Dialogue[None]:
        """Write what is waiting. Then, unless the flight goes on, read until an answer has come."""
        try:
            yield from self._transport.send(chunking.data_to_send(), self._timeouts.block)
            if chunking.state is State.TALKING:
                yield from self._read_answer(chunking)
        except OSError as error:
            chunking.cut_off(self._transport.unsent)
            yield from self._hear_last_words(chunking)
            if isinstance(error, Interrupted):
                return chunking.break_off(How.UNTOUCHED, _STOPPED)
            stale = not self._heard and not isinstance(error, TimeoutError)
            how = How.UNTOUCHED if stale else _HOW_FAILED.get(type(error), How.LOST)
            chunking.break_off(how, explain(error, self.relay))


def _with_token(relay: Relay, tokens: Tokens, dial: Callable[[str], Dialled]) -> Dialled:
    """Dial with a token; with another, if it was in the cache and is refused."""
    refused: ConnectFailed | None = None
    used = ""
    while True:
        token = _get_token(relay, tokens)
        if refused and token.value == used:  # its source has no other
            tokens.drop(token)
            raise refused
        try:
            return dial(token.value)
        except ConnectFailed as error:
            if not _says_that_the_login_is_wrong(error.failure):
                raise
            tokens.drop(token)
            if refused or token.fresh:
                raise
            refused, used = error, token.value


def _get_token(relay: Relay, tokens: Tokens) -> Token:
    try:
        return tokens.get()
    except TokenUnavailable as error:
        raise ConnectFailed(relay, Outcome(Stage.AUTH, error.how, detail=str(error))) from None


def _says_that_the_login_is_wrong(failure: Outcome) -> bool:
    return failure.stage is Stage.AUTH and failure.reply is not None and failure.reply.code == 535


def _connected(relay: Relay, timeouts: Timeouts) -> Transport:
    try:
        if relay.socket:
            return Transport.connect_socket(relay.socket, timeouts.connect)
        return Transport.connect(relay.host, relay.port, timeouts.connect, relay.local)
    except OSError as error:
        raise _failed(relay, Stage.CONNECT, error) from error


def _right_after_tls(relay: Relay, error: OSError) -> OSError:
    """An alert says what is wrong; a relay that only hangs up leaves us to guess."""
    if isinstance(error, ssl.SSLError):
        return error
    guess = "may not accept our certificate" if relay.cert else "may want a certificate of ours"
    return ConnectionResetError(f"it was closed right after the handshake of TLS (the relay {guess})")


def _failed(relay: Relay, stage: Stage, error: OSError) -> ConnectFailed:
    how = next((how for kind, how in _HOW_FAILED.items() if isinstance(error, kind)), How.LOST)
    return ConnectFailed(relay, Outcome(stage, how, detail=explain(error, relay)))


def _opening(relay: Relay, hello_name: str, token: str) -> Opening:
    return Opening(
        hello_name,
        starttls=relay.tls == "required",
        credentials=_credentials(relay, token),
        secure=relay.tls == "implicit",
        lmtp=relay.lmtp,
    )


def _credentials(relay: Relay, token: str) -> Credentials | None:
    if not relay.logs_in:
        return None
    return Credentials(
        username=relay.username or "",
        password=relay.password or "",
        token=token,
        mechanism=relay.auth,
        host=relay.host,
        port=relay.port,
    )
