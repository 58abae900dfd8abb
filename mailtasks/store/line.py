"""One connection for all threads of a process: what they ask while an answer is awaited goes out together.

A round trip costs the process more than the answer does: system calls on both sides, and a thread that
has to be woken. Eight threads that share them drain more mail than eight with a
connection each (benchmarks/drain.py).

The rules:

1. One thread talks, for all who have asked by then. At its end it wakes the others, who have their
   answers, and one of those who have asked since, to talk for them. No call waits for more than one
   other group than its own, however often others ask.
2. An answer is given to who asked, or to nobody: whatever breaks off closes the connection.
3. Redis' hanging costs nobody more than one time-out: who asked meanwhile is told so, too.
4. A signal's handler may ask while its thread talks: the lock is one that a thread can take twice, and
   the handler talks over another connection.
5. Who wants a replica to confirm waits together with all of a group: one WAIT at its end is about everything
   that was written before, whoever wrote it.
6. A connection to a Redis that has become a replica isn't used again: the next may lead to the new primary.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from queue import Empty, SimpleQueue
from threading import RLock, get_ident
from typing import Any, Final, TypeAlias
from weakref import WeakSet

from hiredis import pack_command
from redis.exceptions import BusyLoadingError, ConnectionError, RedisError, ResponseError, TimeoutError

Command: TypeAlias = tuple[Any, ...]
"""Words of text, bytes or numbers."""

DEMOTED: Final = "read only replica"
"""What Redis says if it is asked to write and isn't, or isn't any more, the primary."""

_PATIENCE: Final = 30.0  # seconds until who waits looks for itself whether anybody talks
_LEFT: Final = "the thread that talked to Redis was interrupted"


class _Call:
    """Commands of one caller, and what became of them."""

    __slots__ = ("answers", "commands", "confirmed", "error", "packed", "wait", "woken")

    def __init__(self, commands: Sequence[Command], wait: int) -> None:
        self.commands = len(commands)
        self.wait = wait  # ms for a replica to confirm
        self.confirmed = None if wait else True  # None: not known yet
        self.packed = b"".join([pack_command(command) for command in commands])
        self.answers: list[Any] = []
        self.error: RedisError | None = None
        self.woken: SimpleQueue[None] = SimpleQueue()  # if it is over, or its caller should talk

    @property
    def is_over(self) -> bool:
        """Whether its caller may go on."""
        is_answered = len(self.answers) == self.commands and self.confirmed is not None
        return self.error is not None or is_answered


class Line:
    """A connection to Redis, lent to nobody and used by all.

    Args:
        redis: the client whose pool it is taken from, at the first call.
    """

    def __init__(self, redis: Any) -> None:
        self._pool = redis.connection_pool
        self._restart()
        _lines.add(self)

    def _restart(self) -> None:
        """Begin anew. Also in the child of a fork, where a lock that was held would be so for ever."""
        self._talking = RLock()
        self._talker: int | None = None
        self._asked: deque[_Call] = deque()

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, in one go.

        Returns:
            Their answers, in order; where Redis refused one, a `ResponseError` or `BusyLoadingError`.

        Raises:
            RedisError: there is no connection, it broke off, or an answer took longer than the client's
                time-out. Then some of the commands may have been carried out.
        """
        return self.ask_confirmed(commands, 0)[0]

    def ask_confirmed(self, commands: Sequence[Command], seconds: float) -> tuple[list[Any], bool]:
        """As `ask`; then wait for a replica to have all that was written by then.

        Args:
            seconds: to wait for it, less than the client's time-out; 0: don't.

        Returns:
            The answers, and whether a replica has confirmed, which is true if none was asked to.
        """
        call = _Call(commands, round(seconds * 1000))
        self._asked.append(call)
        try:
            if not self._is_woken(call):
                with self._talking:
                    if not call.is_over:
                        self._talk()
                self._wake_one()
        except BaseException:
            with suppress(ValueError):  # an interrupted caller wants nothing any more
                self._asked.remove(call)
            self._wake_one()
            raise
        if not call.is_over:
            raise ConnectionError(_LEFT)  # who took it was interrupted before there was anybody to tell
        if call.error is not None:
            raise copy(call.error)  # each caller's own: a traceback is written into it
        return call.answers, bool(call.confirmed)

    def _is_woken(self, call: _Call) -> bool:
        """Wait while another thread talks; whether it has brought what the call wants."""
        while not call.is_over and self._talker not in (None, get_ident()):
            try:
                call.woken.get(timeout=_PATIENCE)
            except Empty:
                return False  # an interrupt may have come between; the lock tells
        return call.is_over

    def _wake_one(self) -> None:
        """The last who has asked: of two calls of one thread, the one of a signal's handler is waited for."""
        with suppress(IndexError):
            self._asked[-1].woken.put(None)

    def _talk(self) -> None:
        before, self._talker = self._talker, get_ident()
        calls: list[_Call] = []
        try:
            self._talk_for(calls)
        finally:
            self._talker = before
            for call in calls:
                call.woken.put(None)

    def _talk_for(self, calls: list[_Call]) -> None:
        connection = None
        try:
            self._take(calls)
            connection = self._pool.get_connection()
            wait = max([call.wait for call in calls], default=0)
            packed = [call.packed for call in calls] + ([_wait_for_replica(wait)] if wait else [])
            connection.send_packed_command([b"".join(packed)])
            for call in calls:
                while len(call.answers) < call.commands:
                    call.answers.append(_answer(connection))
            if wait:
                _confirm(calls, _answer(connection))
            if any(_is_refusal_to_write(answer) for call in calls for answer in call.answers):
                connection.disconnect()
        except BaseException as error:
            if connection is not None:
                connection.disconnect()
            # And those in the pool: redis-py puts one back into it whose handshake was interrupted.
            self._pool.disconnect(inuse_connections=False)
            if isinstance(error, TimeoutError):
                self._take(calls)
            for call in calls:
                if not call.is_over:
                    call.error = _for_callers(error)
            if not isinstance(error, Exception):
                raise
        finally:
            if connection is not None:
                self._pool.release(connection)

    def _take(self, calls: list[_Call]) -> None:
        """All that was asked, in one step between which no signal comes."""
        with suppress(IndexError):
            calls.extend(iter(self._asked.popleft, None))


def _for_callers(error: BaseException) -> RedisError:
    match error:
        case RedisError():
            return error
        case Exception():  # what redis-py stumbles over if another thread closes the client
            return ConnectionError(f"the connection was lost: {error}")
    return ConnectionError(_LEFT)


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response(disconnect_on_error=False)  # that is done by who catches it
    except (ResponseError, BusyLoadingError) as refused:  # the latter is a broken connection to redis-py only
        return refused


def _wait_for_replica(milliseconds: int) -> bytes:
    command: Command = ("WAIT", 1, milliseconds)
    packed: bytes = pack_command(command)
    return packed


def _confirm(calls: Sequence[_Call], answer: Any) -> None:
    """Take down WAIT's answer; a Redis that can't say how many replicas have it hasn't confirmed."""
    for call in filter(lambda call: call.wait, calls):
        call.confirmed = isinstance(answer, int) and answer > 0


def _is_refusal_to_write(answer: Any) -> bool:
    return isinstance(answer, RedisError) and DEMOTED in str(answer)


_lines: WeakSet[Line] = WeakSet()


def _restart_all() -> None:
    for line in _lines:
        line._restart()


os.register_at_fork(after_in_child=_restart_all)
