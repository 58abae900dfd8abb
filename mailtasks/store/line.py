"""One connection for all threads of a process: what they ask while an answer is awaited goes out together.

A round trip costs the process more than the answer does: system calls on both sides, and a thread that
has to be woken. Eight threads that share them drain a quarter to a third more mail than eight with a
connection each (benchmarks/drain.py).

The rules:

1. One thread talks, for all who have asked by then. The others wait for the one lock there is, and find
   their answers when they have it.
2. An answer is given to who asked, or to nobody: whatever breaks off closes the connection.
3. Redis' hanging costs nobody more than one time-out: who asked meanwhile is told so, too.
4. Who wants a replica to confirm waits together with all who went out in the same go: one WAIT at its end is
   about everything that was written before, whoever wrote it.
5. A connection to a Redis that has become a replica isn't used again: the next may lead to the new primary.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from typing import Any, Final, TypeAlias
from weakref import WeakSet

from hiredis import pack_command
from redis.exceptions import ConnectionError, RedisError, TimeoutError

Command: TypeAlias = tuple[Any, ...]
"""Words of text, bytes or numbers."""

DEMOTED: Final = "read only replica"
"""What Redis says if it is asked to write and isn't, or isn't any more, the primary."""

_LEFT: Final = "the thread that talked to Redis was interrupted"


class _Call:
    """Commands of one caller, and what became of them."""

    __slots__ = ("answers", "commands", "confirmed", "error", "packed", "wait")

    def __init__(self, commands: Sequence[Command], wait: int) -> None:
        self.commands = len(commands)
        self.wait = wait  # ms for a replica to confirm
        self.confirmed = None if wait else True  # None: not known yet
        self.packed = b"".join([pack_command(command) for command in commands])
        self.answers: list[Any] = []
        self.error: RedisError | None = None

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
        self._talking = threading.Lock()
        self._asked: deque[_Call] = deque()

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, in one go.

        Returns:
            Their answers, in order; where Redis answered with an error, a `ResponseError`.

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
            with self._talking:
                if not call.is_over:
                    self._talk()
        except BaseException:
            with suppress(ValueError):  # an interrupted caller wants nothing any more
                self._asked.remove(call)
            raise
        if call.error is not None:
            raise copy(call.error)  # each caller's own: a traceback is written into it
        return call.answers, bool(call.confirmed)

    def _talk(self) -> None:
        calls, connection = self._all_asked(), None
        try:
            connection = self._pool.get_connection()
            wait = max([call.wait for call in calls])
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
                calls += self._all_asked()
            for call in calls:
                if not call.is_over:
                    call.error = error if isinstance(error, RedisError) else ConnectionError(_LEFT)
            if not isinstance(error, RedisError):
                raise
        finally:
            if connection is not None:
                self._pool.release(connection)

    def _all_asked(self) -> list[_Call]:
        return [self._asked.popleft() for _ in range(len(self._asked))]


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except (ConnectionError, TimeoutError):
        raise
    except RedisError as refused:
        return refused


def _wait_for_replica(milliseconds: int) -> bytes:
    command: Command = ("WAIT", 1, milliseconds)
    packed: bytes = pack_command(command)
    return packed


def _confirm(calls: Sequence[_Call], answer: Any) -> None:
    """Take down WAIT's answer; a Redis that can't say how many replicas have it hasn't confirmed."""
    for call in calls:
        call.confirmed = isinstance(answer, int) and answer > 0


def _is_refusal_to_write(answer: Any) -> bool:
    return isinstance(answer, RedisError) and DEMOTED in str(answer)


_lines: WeakSet[Line] = WeakSet()


def _restart_all() -> None:
    for line in _lines:
        line._restart()


os.register_at_fork(after_in_child=_restart_all)
