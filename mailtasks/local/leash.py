"""Runs a command that must not outlive the process that started it, even when that one is killed.

Started by `mailtasks.local.processes.Child`, never imported: `python -I -S leash.py FD DEBRIS COMMAND…`

The rules:

1. This process *becomes* the command, so that its pid, its signals and its exit code are the
   command's own. Before that it forks a watcher.
2. The watcher reads the leash, a pipe whose other end only the parent holds. The parent's death,
   by whatever signal, closes that end; the watcher then ends the command and removes the debris.
3. The watcher is the command's child. While `getppid()` still names the command it is alive and
   its pid can't have been given to another process; once it doesn't, there is nothing left to end.

Why not PR_SET_PDEATHSIG: it fires when the *thread* that forked ends, is Linux only, and needs a
`preexec_fn`, which isn't safe in a process that has threads. A pipe has none of these traps.
Only cheap modules are imported: this is in the way of every start.
"""

import os
import signal
import sys
import time

GRACE = 3.0  # seconds between SIGTERM and SIGKILL once the parent is gone
NOT_FOUND = 127  # the exit code for a command that can't be run, as shells have it
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # and inherited, unless put back
UNHEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""The watcher ignores these: only the leash ends it, or a signal to the group would let the command loose."""


def main(leash: int, debris: str, command: list[str]) -> None:
    """Fork the watcher, then become `command`."""
    owner = os.getpid()
    if os.fork() == 0:
        _watch(leash, owner, debris)
        os._exit(0)
    os.close(leash)
    _become(command)


def _become(command: list[str]) -> None:
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606  # no shell is wanted
    except OSError:
        os._exit(NOT_FOUND)


def _watch(leash: int, owner: int, debris: str) -> None:
    for number in UNHEARD:
        signal.signal(number, signal.SIG_IGN)
    _let_go_of_all_but(leash)
    while os.read(leash, 1):
        pass
    if os.getppid() == owner:
        _end(owner)
        _remove(debris)


def _let_go_of_all_but(leash: int) -> None:
    """Or whoever waits for the command's output, or a lock that it inherited, would wait for us, too."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.closerange(3, leash)
    os.closerange(leash + 1, os.sysconf("SC_OPEN_MAX"))


def _end(owner: int) -> None:
    os.kill(owner, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while os.getppid() == owner and time.monotonic() < deadline:
        time.sleep(0.02)
    if os.getppid() == owner:
        os.kill(owner, signal.SIGKILL)
        while os.getppid() == owner:
            time.sleep(0.02)


def _remove(debris: str) -> None:
    if debris:
        import shutil

        shutil.rmtree(debris, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
