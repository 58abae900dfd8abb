"""Child processes that are gone when their parent is, however it ended.

`Child` is what starts Redis, the catching server, workers and Flower on this machine. An orderly end
is `stop()`; for the rest there is the leash (see `mailtasks.local.leash`).

The leash is a pipe, so a copy of this process made by a bare `os.fork()` holds it as well: children
then live until the copy ends, too. What is started by `exec`, as all of ours is, doesn't inherit it.

A child is the leader of a session of its own, so that Ctrl-C in a terminal reaches the parent alone,
which then stops its children in the order that it chooses.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from mailtasks.local import leash

STOP_TIMEOUT: Final = 10.0  # seconds that a child gets between SIGTERM and SIGKILL
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a terminal that was closed

_living: weakref.WeakSet[Child] = weakref.WeakSet()


class Child:
    """A running process; the constructor starts it.

    Args:
        command: the program and its arguments; a program without a slash is looked for on the PATH.
            One that can't be run shows as exit code 127.
        environment: the whole environment; ours if it is None.
        output: a file that stdout and stderr are appended to; or `subprocess.PIPE` to read stdout
            from `.stdout`, while stderr stays ours; nothing is kept if it is None.
        debris: a folder to remove if we are killed and can't do it ourselves.
        keep_open: file descriptors that the child inherits (a lock that lives as long as it does).

    As a context manager it calls `stop()` at the end.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        output: Path | int | None = None,
        debris: Path | None = None,
        keep_open: Sequence[int] = (),
    ) -> None:
        self.command = tuple(command)
        far_end, self._leash = os.pipe()
        try:
            self._process = _start(
                [sys.executable, "-I", "-S", leash.__file__, str(far_end), str(debris or ""), *command],
                environment,
                output,
                (far_end, *keep_open),
            )
        except BaseException:
            self._let_go()
            raise
        finally:
            os.close(far_end)
        _living.add(self)

    @property
    def pid(self) -> int:
        """The command's own process id."""
        return self._process.pid

    @property
    def stdout(self) -> IO[str]:
        """What the child prints, if it was started with `output=subprocess.PIPE`."""
        assert self._process.stdout is not None, "start the child with output=subprocess.PIPE"
        return self._process.stdout

    @property
    def running(self) -> bool:
        """Whether it hasn't ended yet."""
        return self.poll() is None

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._let_go()
        return code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code; `subprocess.TimeoutExpired` after `timeout` seconds."""
        self._process.wait(timeout)
        self._let_go()
        return self._process.returncode

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), without waiting."""
        self.signal(signal.SIGTERM)

    def kill(self) -> int:
        """End it at once (SIGKILL); return the exit code."""
        self.signal(signal.SIGKILL)
        return self._close()

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """Ask it to end, kill it after `timeout` seconds if it hasn't, and return the exit code."""
        self.terminate()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()
        return self._close()

    def _close(self) -> int:
        code = self.wait()
        if self._process.stdout:
            self._process.stdout.close()
        return code

    def _let_go(self) -> None:
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1
            _living.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Child {self.pid}: {' '.join(self.command)}>"


def living() -> list[Child]:
    """Every child of this process that was started here and hasn't been seen to end."""
    return [child for child in list(_living) if child.running]


@contextlib.contextmanager
def told_to_end() -> Iterator[threading.Event]:
    """An event that `ENDING` signals set, instead of ending the process where it stands.

    For the main thread only; the handlers from before are back afterwards. What `nohup` has asked for,
    that a closed terminal be of no concern, stays so.
    """
    told = threading.Event()
    unheard = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in set(ENDING) - unheard}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(
    command: Sequence[str],
    environment: Mapping[str, str] | None,
    output: Path | int | None,
    keep_open: Sequence[int],
) -> subprocess.Popen[str]:
    with contextlib.ExitStack() as stack:
        stdout, stderr = _streams(output, stack)
        return subprocess.Popen(  # noqa: S603  # a list of words, no shell
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=keep_open,
            start_new_session=True,
            text=True,
        )


def _streams(output: Path | int | None, stack: contextlib.ExitStack) -> tuple[IO[bytes] | int, int | None]:
    """What the child's stdout and stderr are, for `Child`'s `output`."""
    if output is None:
        return subprocess.DEVNULL, subprocess.DEVNULL
    if isinstance(output, Path):
        return stack.enter_context(output.open("ab")), subprocess.STDOUT
    return output, None
