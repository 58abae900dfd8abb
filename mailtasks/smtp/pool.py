"""Connections to one relay, lent to threads.

The rules:

1. What to do is decided under the lock; dialling, closing and asking whether a connection lives
   happen outside it. So a relay that hangs holds up its borrowers only.
2. A slot is the right to one connection. It is counted from the moment somebody may dial until that
   connection is closed or the dialling failed, so there are never more than `size`.
3. A hand-over must be accepted: a borrower that has given up says so, and the slot goes to the next.
4. Nothing is lent that is older than its lifetime, was used for its number of messages, or has had
   something to say while idle.
5. Who dials ahead takes a slot that nobody wants. A borrower who comes to wait for it gets what comes of the
   dialling, connection or failure, so that nobody waits longer than if they had dialled themselves.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from mailtasks.errors import PoolTimeout, RelayError
from mailtasks.relay import Relay
from mailtasks.smtp.bearing import Bearing
from mailtasks.smtp.loop import Loop
from mailtasks.smtp.session import Session, Timeouts
from mailtasks.smtp.tokens import Tokens
from mailtasks.smtp.warmer import LOOK, Warmer

SPREAD: Final = 0.1
"""Lifetimes differ by this much either way, and times of idleness by this much downwards, so that connections
that were opened together don't all end together."""


@dataclass(slots=True)
class Counters:
    """What a pool has done; `Pool.stats` adds the gauges."""

    lent: int = 0  # lends that succeeded
    opened: int = 0  # connections that became ready
    warmed: int = 0  # of these, opened ahead
    failed: int = 0  # attempts to connect that came to nothing
    found_dead: int = 0  # idle connections that the relay had closed or said 421 on
    worn: int = 0  # closed by us: lifetime or number of messages reached
    idled: int = 0  # closed by us: unused for too long
    broken: int = 0  # came back unusable
    timeouts: int = 0  # borrowers that gave up waiting
    messages: int = 0  # envelopes given to sessions that came back


@dataclass(frozen=True, slots=True)
class _Idle:
    session: Session
    until: float


class _Waiter:
    """A borrower who waits for a slot: with a session on it, or a failure instead; with neither, to dial."""

    __slots__ = ("_condition", "_given_up", "_handed", "failure", "session")

    def __init__(self) -> None:
        self.session: Session | None = None
        self.failure: BaseException | None = None
        self._condition = threading.Condition()
        self._handed = False
        self._given_up = False

    def wait(self, seconds: float) -> bool:
        """Whether a slot was handed over in time; afterwards none can be."""
        with self._condition:
            self._condition.wait_for(lambda: self._handed or self._given_up, max(0.0, seconds))
            self._given_up = not self._handed
            return self._handed

    def hand(self, session: Session | None, failure: BaseException | None) -> bool:
        """Whether the slot was accepted."""
        with self._condition:
            if not self._given_up:
                self.session, self.failure, self._handed = session, failure, True
                self._condition.notify()
            return self._handed

    def dismiss(self) -> None:
        """Nothing will come any more."""
        with self._condition:
            self._given_up = not self._handed
            self._condition.notify()


class Pool:
    """Lends connections to one relay. Thread-safe; until `keep_warm` opens none before one is asked for.

    Args:
        relay: where they lead.
        size: how many there may be at once, lent, idle and dialling together.
        max_messages: after how many envelopes a connection is closed when it comes back.
        lifetime: seconds after which a connection isn't lent any more, a tenth more or less.
        idle: seconds after which an unused connection is closed; keep it under the relay's own limit
            (RFC 5321 4.5.3.2.7 has servers wait at least 300). A tenth less, for some.
        warm: how many `keep_warm` keeps open; not more than `size`.
        timeouts: how long a session waits for what.
        hello_name: how sessions introduce themselves.
        connect: makes a session; the place for a fake in tests.
    """

    def __init__(
        self,
        relay: Relay,
        *,
        size: int,
        max_messages: int,
        lifetime: float,
        idle: float,
        timeouts: Timeouts,
        warm: int = 0,
        hello_name: str | None = None,
        connect: Callable[[], Session] | None = None,
    ) -> None:
        self.relay = relay
        self._size = size
        self._max_messages = max_messages
        self._lifetime = lifetime
        self._idle_limit = idle
        self._warm = min(warm, size)
        self._loop = Loop()  # one thread talks over all of these connections
        self.bearing = Bearing()
        """What is known of how the relay bears PIPELINING."""
        self._tokens = Tokens.of(relay)
        self._connect = connect or (
            lambda: Session.connect(
                relay,
                hello_name=hello_name,
                timeouts=timeouts,
                loop=self._loop,
                tokens=self._tokens,
                bearing=self.bearing,
            )
        )
        self._lock = threading.Lock()
        self._idle: deque[_Idle] = deque()  # oldest first; the one used last is lent first
        self._waiters: deque[_Waiter] = deque()
        self._expires: dict[Session, float] = {}
        self._slots = 0
        self._counters = Counters()
        self._closed = threading.Event()
        self._tender: threading.Thread | None = None
        self._warmer: Warmer | None = None

    @contextmanager
    def lend(self, timeout: float) -> Iterator[Session]:
        """A connection for the length of a `with` block; at its end it comes back by itself.

        Args:
            timeout: seconds to wait for a connection while all are lent. Dialling has limits of its own.

        Raises:
            PoolTimeout: all were lent for that long.
            RelayUnavailable: a connection was dialled and came to nothing; it carries the `failure`.
            RelayError: the pool is closed.
        """
        session = self._borrow(timeout)
        before = session.messages
        try:
            yield session
        finally:
            self._count(messages=session.messages - before)
            self._give_back(session)

    def stats(self) -> dict[str, int]:
        """Counters since the start, and gauges of now.

        ============== ======================================================================
        ``lent``       lends that succeeded
        ``opened``     connections that became ready
        ``warmed``     of these, opened ahead, before anybody asked for one
        ``failed``     attempts to connect that came to nothing
        ``found_dead`` idle connections that the relay had closed or said 421 on
        ``worn``       closed by us: lifetime or number of messages reached
        ``idled``      closed by us: unused for too long
        ``broken``     came back unusable
        ``timeouts``   borrowers that gave up waiting
        ``messages``   envelopes given to sessions that came back
        ``slots``      now: connections lent, idle, being dialled or being closed
        ``idle``       now: connections that wait for a borrower
        ``waiting``    now: borrowers that wait for a connection
        ``stepwise``   now: 1 while it isn't trusted to bear PIPELINING, so that mail goes step by step
        ============== ======================================================================
        """
        with self._lock:
            gauges = {"slots": self._slots, "idle": len(self._idle), "waiting": len(self._waiters)}
            return asdict(self._counters) | gauges | {"stepwise": int(self.bearing.doubted)}

    def keep_warm(self, may_dial: Callable[[], bool] = lambda: True) -> None:
        """Have `warm` connections open from now on, lent or idle, though nothing is to be sent.

        They are opened by a thread, now and whenever there are fewer. An idle one that has died is noticed
        within a second or so.

        Args:
            may_dial: asked before each dialling; False while the relay is to be left alone.
        """
        with self._lock:
            if self._warm and not self._warmer and not self._closed.is_set():
                self._warmer = Warmer(self.relay.name, self._open_ahead, may_dial)
                self._warmer.start()

    def interrupt(self) -> None:
        """Wait for nothing any more but the answers to dots: the process is stopping.

        What is being opened comes to nothing, nothing is opened ahead any more, and what has no dot written
        yet is UNTOUCHED.
        """
        if self._warmer:
            self._warmer.stop()
        self._loop.interrupt()
        if self._tokens:
            self._tokens.interrupt()

    def close(self, seconds: float = 2) -> None:
        """Lend no more and wake whoever waits; say QUIT on what is idle, `seconds` for all together.

        Lent sessions are closed when they come back.
        """
        with self._lock:
            self._closed.set()
            idle, self._idle = self._idle, deque()
            waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            waiter.dismiss()
        if self._warmer:
            self._warmer.stop()
        if self._tokens:
            self._tokens.interrupt()
        deadline = time.monotonic() + seconds
        for each in idle:
            self._discard(each.session, max(0.0, deadline - time.monotonic()))
        for thread in (self._tender, self._warmer):
            if thread:
                thread.join(max(0.0, deadline - time.monotonic()))

    # Lending

    def _borrow(self, timeout: float) -> Session:
        deadline = time.monotonic() + timeout
        while True:
            session = self._take_slot(deadline, timeout)
            if session is None:
                session = self._dial()
            elif not self._fit(session):
                continue
            self._count(lent=1)
            return session

    def _take_slot(self, deadline: float, timeout: float) -> Session | None:
        """A slot is the caller's when this returns: with a session on it, or without one to dial."""
        with self._lock:
            self._refuse_if_closed()
            if self._idle:
                return self._idle.pop().session
            if self._slots < self._size:
                self._slots += 1
                return None
            waiter = _Waiter()
            self._waiters.append(waiter)
        if waiter.wait(deadline - time.monotonic()):
            if waiter.failure:
                self._free_slot()
                raise waiter.failure
            return waiter.session
        self._leave_queue(waiter)
        raise PoolTimeout(
            f"all {self._size} connections to the relay {self.relay.name} were lent for {timeout:g} s; "
            "try again later, or allow more connections"
        )

    def _leave_queue(self, waiter: _Waiter) -> None:
        with self._lock:
            self._refuse_if_closed()
            self._counters.timeouts += 1
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _refuse_if_closed(self) -> None:
        if self._closed.is_set():
            raise RelayError(
                f"the pool of connections to the relay {self.relay.name} is closed; make a new one"
            )

    def _dial(self, *, ahead: bool = False) -> Session:
        """A new connection on the caller's slot, which is given back if it comes to nothing."""
        try:
            session = self._connect()
        except BaseException as error:
            self._count(failed=1)
            self._free_slot(error if ahead else None)
            raise
        self._count(opened=1)
        if self._warmer:
            self._warmer.worked()
        spread = random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311  (no secret hangs on it)
        self._expires[session] = session.opened_at + self._lifetime * spread
        return session

    def _fit(self, session: Session) -> bool:
        """Whether an idle session may be lent; if not, it is closed."""
        fault = self._fault(session)
        if fault:
            self._count(**{fault: 1})
            self._discard(session)
        elif self._warmer:
            self._warmer.lived()
        return not fault

    def _fault(self, session: Session) -> str:
        """Why an idle session may not be lent, as the counters call it; empty if it may be."""
        if self._worn(session):
            return "worn"
        return "" if session.alive else "found_dead"

    def _worn(self, session: Session) -> bool:
        return session.messages >= self._max_messages or time.monotonic() >= self._expires[session]

    # Coming back

    def _give_back(self, session: Session) -> None:
        if not session.usable:
            self._count(broken=1)
        elif self._worn(session):
            self._count(worn=1)
        elif self._keep(session):
            return
        self._discard(session)

    def _keep(self, session: Session) -> bool:
        """Hand it to whoever waits, or let it be idle. False: the pool is closed."""
        with self._lock:
            if self._closed.is_set():
                return False
            if not self._hand_over(session):
                session.rested = True
                spread = random.uniform(1 - SPREAD, 1)  # noqa: S311  (as above)
                self._idle.append(_Idle(session, time.monotonic() + self._idle_limit * spread))
                self._start_tender()
            return True

    def _discard(self, session: Session, seconds: float | None = None) -> None:
        session.close(seconds)
        del self._expires[session]
        self._free_slot()

    def _free_slot(self, failure: BaseException | None = None) -> None:
        """Whoever waits may have it, or be told of the failure that they would have met themselves."""
        with self._lock:
            if not self._hand_over(None, failure):
                self._slots -= 1
                if self._warmer:
                    self._warmer.stir()

    def _hand_over(self, session: Session | None, failure: BaseException | None = None) -> bool:
        """Give a slot to the first borrower that still waits. Under the lock."""
        while self._waiters:
            if self._waiters.popleft().hand(session, failure):
                return True
        return False

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, by in more.items():
                setattr(self._counters, name, getattr(self._counters, name) + by)

    # Idleness

    def _start_tender(self) -> None:
        if self._tender is None:
            name = f"mailtasks pool {self.relay.name}"
            self._tender = threading.Thread(target=self._tend, name=name, daemon=True)
            self._tender.start()

    def _tend(self) -> None:
        """Close what shouldn't be idle any more, until the pool closes."""
        while not self._closed.wait(self._until_next()):
            for session, fault in self._take_faulty():
                self._count(**{fault: 1})
                if self._warmer:
                    (self._warmer.died if fault == "found_dead" else self._warmer.lived)()
                self._discard(session)

    def _until_next(self) -> float:
        """Seconds until the next look: when one is idle for too long, or soon, if some are kept warm."""
        now = time.monotonic()
        with self._lock:
            soonest = min((each.until for each in self._idle), default=now + self._idle_limit)
        return max(0.0, min(soonest - now, LOOK if self._warmer else math.inf))

    def _take_faulty(self) -> list[tuple[Session, str]]:
        """The idle ones to close, and why. While they are looked at, none can be lent."""
        with self._lock:
            idle, self._idle = self._idle, deque()
        faults = [self._fault_of_idle(each) for each in idle]
        self._put_back([each for each, fault in zip(idle, faults, strict=True) if not fault])
        return [(each.session, fault) for each, fault in zip(idle, faults, strict=True) if fault]

    def _fault_of_idle(self, each: _Idle) -> str:
        return "idled" if time.monotonic() >= each.until else self._fault(each.session)

    def _put_back(self, looked_at: list[_Idle]) -> None:
        """To whoever has come to wait, or to the idle ones, as older than what came back meanwhile."""
        with self._lock:
            closed = self._closed.is_set()
            if not closed:
                left = [each for each in looked_at if not self._hand_over(each.session)]
                self._idle.extendleft(reversed(left))
        if closed:
            for each in looked_at:
                self._discard(each.session)

    def _open_ahead(self) -> bool:
        """Dial, if fewer are open than are to be kept warm: for whoever waits by then, or to be idle."""
        with self._lock:
            if self._closed.is_set() or self._slots >= self._warm:
                return False
            self._slots += 1
        session = self._dial(ahead=True)
        self._count(warmed=1)
        if not self._keep(session):
            self._discard(session)
        return True
