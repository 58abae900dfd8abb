"""Many threads talk to relays, and one of them at a time does it for all.

A thread that waits for its own socket is woken for each answer, then waits for the interpreter's lock, which
the other threads want, too: that costs several times what the dialogue itself does (ADR 0012). So what a
connection says and reads is written as a generator, a `Dialogue`, and whichever thread finds nobody at it
leads: it waits for all sockets, and goes on with whatever dialogue has its answer. The others sleep until
theirs is over. There is no thread to start or stop, and a single dialogue is run by its own thread.

The rules:

1. A dialogue is run by one thread at a time: its own until it first waits, then the leader's.
2. A leader leads until its own dialogue is over, then appoints the next; nobody waits without a leader.
3. What a dialogue raises belongs to its own thread; the leader and the other dialogues never see it.
4. A dialogue doesn't block. It yields what it waits for, and is resumed with what the socket is ready
   for, or with a TimeoutError when the moment has passed.
5. Once the loop is interrupted, every dialogue is told so whenever it waits; it decides whether it goes on.
"""

from __future__ import annotations

import math
import selectors
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, Final, Generic, TypeAlias, TypeVar

READABLE: Final = selectors.EVENT_READ
WRITABLE: Final = selectors.EVENT_WRITE

LATE: Final = 0.5
"""Seconds by which a dialogue may be late in learning that its time is up, while another thread leads."""

Answer = TypeVar("Answer")
Wait: TypeAlias = tuple[int, float]
"""What the socket has to be ready for (`READABLE`, `WRITABLE` or both), and until when (monotonic)."""

Dialogue: TypeAlias = Generator[Wait, int, Answer]
"""Yields a `Wait`, is sent what the socket is ready for, and returns what it was held for."""


class Interrupted(OSError):
    """Thrown into a dialogue that waits: what need not be waited for should end. It may go on waiting."""


class Loop:
    """Runs dialogues. Thread-safe."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._talks: dict[int, _Talk[Any]] = {}  # by file descriptor
        self._led = False
        self._interrupted = False
        self._earliest = math.inf  # no dialogue's time is up before

    def run(self, fileno: int, dialogue: Dialogue[Answer]) -> Answer:
        """Hold a dialogue over a socket, and all others meanwhile if nobody else does.

        Args:
            fileno: the socket's file descriptor, which stays open until this returns.

        Returns:
            What the dialogue returns; raises what it raises.
        """
        talk = _Talk(fileno, dialogue)
        talk.start()
        if not talk.over:
            self._join(talk)
            try:
                if not talk.leads:
                    talk.turn.acquire()  # released when it is over, or when it is to lead
                while not talk.over:
                    self._look()
            finally:
                self._leave(talk)
        return talk.result()

    def interrupt(self) -> None:
        """Tell every dialogue, now and from now on, that what need not be waited for should end."""
        self._interrupted = True

    def _join(self, talk: _Talk[Any]) -> None:
        with self._lock:
            self._talks[talk.fileno] = talk
            self._selector.register(talk.fileno, talk.wanted)
            self._earliest = min(self._earliest, talk.deadline)
            talk.leads = not self._led
            self._led = True

    def _leave(self, talk: _Talk[Any]) -> None:
        """Its thread goes, with an answer or, if a signal interrupted it, without one."""
        with self._lock:
            self._forget(talk)
            if talk.leads:
                self._appoint()

    def _appoint(self) -> None:
        """Another one leads from now on. Under the lock."""
        successor = next(iter(self._talks.values()), None)
        self._led = successor is not None
        if successor:
            successor.leads = True
            successor.turn.release()

    def _forget(self, talk: _Talk[Any]) -> None:
        """Under the lock."""
        if self._talks.get(talk.fileno) is talk:
            del self._talks[talk.fileno]
            self._selector.unregister(talk.fileno)

    # What the leader does

    def _look(self) -> None:
        """Wait for what comes next, and go on with those that it is for."""
        # Late is whose time was up before this look, and for whom it brings nothing: a process that was
        # stopped for long hears what came meanwhile. (Interrupted, Python's `select` may bring nothing.)
        now = time.monotonic()
        events = self._selector.select(max(0.0, min(LATE, self._earliest - now)))
        for key, ready in events:
            talk = self._talks.get(key.fd)
            if talk:
                self._go_on(talk, talk.dialogue.send, ready)
        if now >= self._earliest:
            self._end_what_is_late(now)
        if self._interrupted:
            self._tell_all(Interrupted("nobody waits any more"))

    def _tell_all(self, error: Exception, late_at: float = math.inf) -> None:
        """Throw an error into every dialogue whose time is up by then."""
        with self._lock:
            talks = list(self._talks.values())
        for talk in talks:
            if talk.deadline <= late_at:
                self._go_on(talk, talk.dialogue.throw, error)

    def _end_what_is_late(self, now: float) -> None:
        self._tell_all(TimeoutError("no answer in time"), now)
        with self._lock:
            self._earliest = min((talk.deadline for talk in self._talks.values()), default=math.inf)

    def _go_on(self, talk: _Talk[Any], resume: Callable[[Any], Wait], what: object) -> None:
        wanted = talk.wanted
        talk.go_on(resume, what)
        if talk.over:
            with self._lock:
                self._forget(talk)
            talk.turn.release()
        elif talk.wanted != wanted or talk.deadline < self._earliest:
            self._note(talk)

    def _note(self, talk: _Talk[Any]) -> None:
        with self._lock:
            self._earliest = min(self._earliest, talk.deadline)
            if self._talks.get(talk.fileno) is talk:
                self._selector.modify(talk.fileno, talk.wanted)


class _Talk(Generic[Answer]):
    """A dialogue that is being held."""

    __slots__ = ("_answer", "_error", "deadline", "dialogue", "fileno", "leads", "over", "turn", "wanted")

    def __init__(self, fileno: int, dialogue: Dialogue[Answer]) -> None:
        self.fileno = fileno
        self.dialogue = dialogue
        self.wanted = 0
        self.deadline = math.inf
        self.over = False
        self.leads = False
        self.turn = threading.Lock()
        self.turn.acquire()
        self._answer: Answer | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        self.go_on(self.dialogue.send, None)

    def go_on(self, resume: Callable[[Any], Wait], what: object) -> None:
        """Resume the dialogue until it waits again, or is over."""
        try:
            self.wanted, self.deadline = resume(what)
        except StopIteration as end:
            self._answer, self.over = end.value, True
        except BaseException as error:  # its own thread raises it
            self._error, self.over = error, True

    def result(self) -> Answer:
        if self._error:
            raise self._error
        answer: Any = self._answer
        return answer  # type: ignore[no-any-return]
