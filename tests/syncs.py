"""A disk that stalls: holds the fsync and fdatasync calls of a process, and tells how far each of them got.

    with Syncs(redis.pid, folder / "syncs", let_through=1) as syncs:
        ...  # one is let through and noted in `syncs.done`; the next of each thread never returns
        wait_until(lambda: syncs.held)

This file is also the program that does it, as a debugger would (ptrace): each thread stops at each system
call and is let go on, but for those that sync. It is a process of its own, since a debugger must reap what it
holds. When it ends, everything goes on as if nothing had been.

Linux 5.3 or later. Where the kernel doesn't let us trace, who enters the block is skipped, with the reason.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SYNCING = {"x86_64": {74, 75}, "aarch64": {82, 83}}
"""The numbers of fsync and fdatasync."""

SYSCALL, SEIZE, INTERRUPT, GET_SYSCALL_INFO = 24, 0x4206, 0x4207, 0x420E
MARK_SYSCALLS, FOLLOW_THREADS = 0x1, 0x8
AT_SYSCALL = signal.SIGTRAP | 0x80
ENTRY, EXIT = 1, 2
EVERY_THREAD = 0x40000000  # waitpid's __WALL

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


class Info(ctypes.Structure):
    """Linux's ptrace_syscall_info, as it is at a call's entry."""

    _fields_ = (
        ("where", ctypes.c_uint8),
        ("_arch", ctypes.c_uint32),
        ("_pointers", ctypes.c_uint64 * 2),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


@dataclass(frozen=True)
class Synced:
    """What is safe on the disk for certain: so much of a file."""

    size: int
    path: Path

    def forget_the_rest(self) -> None:
        """What a crash of the machine may do at worst to the file of a process that has ended."""
        os.truncate(self.path, self.size)


class Syncs:
    """A context manager; see above.

    Args:
        pid: of the process.
        log: a file for what is noted.
        let_through: so many are to succeed before one is held.
    """

    def __init__(self, pid: int, log: Path, *, let_through: int = 0) -> None:
        from mailtasks.local.processes import Child

        self._log = log
        self._child = Child([sys.executable, "-I", "-S", __file__, str(pid), str(let_through)], output=log)

    @property
    def held(self) -> bool:
        """Whether one is held."""
        return any(line.startswith("held ") for line in self._words().splitlines())

    @property
    def done(self) -> list[Synced]:
        """Those that succeeded."""
        notes = (line.split(" ", 2) for line in self._words().splitlines() if line.startswith("done"))
        return [Synced(int(size), Path(path)) for _, size, path in notes]

    def __enter__(self) -> Syncs:
        import pytest

        from mailtasks.testing import wait_until

        wait_until(self._words, what="the tracer's first word")
        if refusal := re.search("can't be traced: .*", self._words()):
            self._child.stop()
            pytest.skip(refusal[0])
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()

    def _words(self) -> str:
        return self._log.read_text().rpartition("\n")[0] if self._log.exists() else ""


# --- The program


def main(pid: int, let_through: int) -> None:
    """Trace every thread of a process until the last of them has ended."""
    if platform.machine() not in SYNCING:
        say(f"{pid} can't be traced: on {platform.machine()} the numbers of the calls aren't known")
        return
    tracer = Tracer(pid, let_through)
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            trace(SEIZE, int(thread), data=MARK_SYSCALLS | FOLLOW_THREADS)
            trace(INTERRUPT, int(thread))
    except PermissionError as error:
        say(f"{pid} can't be traced: {error.strerror}; run as root, or in a container with SYS_PTRACE")
        return
    say("watching")
    while True:
        try:
            thread, status = os.waitpid(-1, EVERY_THREAD)
        except ChildProcessError:
            return
        if os.WIFSTOPPED(status):
            tracer.look(thread, status)


class Tracer:
    """What is done about a thread that has stopped."""

    def __init__(self, pid: int, left: int) -> None:
        self.pid = pid
        self.left = left
        self.under_way: dict[int, str] = {}  # thread: how much of what it syncs

    def look(self, thread: int, status: int) -> None:
        """Let it go on, unless it syncs and none is let through any more."""
        number = os.WSTOPSIG(status)
        if number == AT_SYSCALL:
            if not self.may_go_on(thread):
                return
            number = 0
        elif status >> 16:  # a thread that is new, or that was told to stop by us
            number = 0
        go_on(thread, number)

    def may_go_on(self, thread: int) -> bool:
        """Note the beginning and the end of each sync."""
        info = syscall(thread)
        if info.where == EXIT and (what := self.under_way.pop(thread, None)):
            say(f"done {what}")
        if info.where != ENTRY or info.number not in SYNCING[platform.machine()]:
            return True
        what = self.describe(info.arguments[0])
        self.left -= 1
        if self.left < 0:
            say(f"held {what}")
            return False
        self.under_way[thread] = what
        return True

    def describe(self, descriptor: int) -> str:
        """The size and the path of a file that the process has open."""
        link = f"/proc/{self.pid}/fd/{descriptor}"
        return f"{os.stat(link).st_size} {os.readlink(link)}"


def go_on(thread: int, number: int) -> None:
    """Until its next system call, with a signal that was on its way to it."""
    with suppress(ProcessLookupError):  # killed meanwhile
        trace(SYSCALL, thread, data=number)


def syscall(thread: int) -> Info:
    """What a thread has stopped at; nothing, if it was killed meanwhile."""
    info = Info()
    with suppress(ProcessLookupError):
        trace(GET_SYSCALL_INFO, thread, ctypes.sizeof(info), ctypes.addressof(info))
    return info


def trace(request: int, thread: int, address: int = 0, data: int = 0) -> None:
    if libc.ptrace(request, thread, address, data) < 0:
        raise OSError(number := ctypes.get_errno(), os.strerror(number))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
