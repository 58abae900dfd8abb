"""The supervisor behind `mailtasks worker`: several Celery processes, kept running.

Some take mail of every priority, and one urgent and normal mail only, because no bulk delivery is cut
short enough for an urgent mail that waits behind it.

A process that dies is started again: at once if it had been up for a while, else after a pause that
doubles. That is the second line of defence; a Redis that restarts doesn't end a worker
(see `mailtasks.transport`).
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

from mailtasks.errors import SettingsError
from mailtasks.guard import FAILED, GRACE, LEASH, WRONG_USE, say
from mailtasks.message import PRIORITIES, Priority
from mailtasks.publish import CELERYS_BROKER, queue_name
from mailtasks.settings import Settings

OWN_APP: Final = "mailtasks"  # the default for `celery -A`: mailtasks.celery.own_app

DONE: Final = 0
IN_GOOD_ORDER: Final = (DONE, -signal.SIGTERM)  # the latter if it was still starting when it was told to stop

STEADY: Final = 10.0  # seconds after which a process counts as having started well
LONGEST_PAUSE: Final = 30.0  # seconds before a process that dies at once is started again

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last unless `nohup` ignores it


@dataclass(slots=True)
class _Worker:
    """One process and what is known of its predecessors."""

    name: str
    command: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0  # time.monotonic()
    due: float = 0.0  # time.monotonic() at which it is to be started, if it doesn't run
    failures: int = 0  # how often in a row it died before it was steady


class Supervisor:
    """Runs Celery worker processes until it is told to stop; `run()` does it all.

    Args:
        settings: names the queues (by the namespace). The processes load their settings themselves,
            from the same environment and file.
        processes: how many take mail of every priority; one more takes urgent and normal mail only.
        concurrency: threads in each process.
        app: what `celery -A` gets.
        log_level: what `celery -l` gets.
        grace: seconds that the processes have to finish what they are sending, once told to stop.
        environment: the processes' environment; ours if it is None. To our own app no broker is named by it
            but that of the settings.
        report: takes each sentence about what happens; by default it goes to stderr.

    Raises:
        SettingsError: fewer than one process or thread.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        processes: int = 2,
        concurrency: int = 8,
        app: str = OWN_APP,
        log_level: str = "INFO",
        grace: float = GRACE,
        environment: Mapping[str, str] | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        for name, value in (("processes", processes), ("concurrency", concurrency)):
            if value < 1:
                raise SettingsError(f"{name}: {value} is too few; expected at least 1")
        options = ("-P", "threads", "-c", str(concurrency), "-l", log_level)
        self._workers = [
            _Worker(name, celery_command(app, name, queues, options))
            for name, queues in roles(processes, settings.namespace).items()
        ]
        self._grace = grace
        self._environment = environment_of(app, environment)
        self._report = report or say
        self._heard: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._stops = 0
        self._exit_code = DONE

    def run(self) -> int:
        """Keep the processes running until SIGTERM, SIGINT or SIGHUP; to be called in the main thread.

        What `nohup` has asked for, that a closed terminal (SIGHUP) be of no concern, stays so.

        The first of these signals lets the processes finish what they are sending, within `grace`; the
        second kills them.

        Returns:
            0 if every process ended in good order, 1 if one had to be killed or ended with an error
            while stopping, 2 if one can't be started at all (a wrong app or setting; it has said why).
        """
        with self._listening(), _leash() as leash:
            while not self._stops:
                self._start_due(leash)
                self._listen(self._until_next_start())
                self._bury()
            self._stop()
        return self._exit_code

    def stop(self) -> None:
        """What the first signal does, from any thread."""
        self._heard.put(signal.SIGTERM)

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each process that runs, by its name."""
        return {worker.name: worker.process.pid for worker in self._workers if worker.process}

    # --- Running

    def _start_due(self, leash: int) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.process is None and worker.due <= now:
                worker.process = _start(worker.command, self._environment, leash)
                worker.started = now

    def _until_next_start(self) -> float | None:
        due = [worker.due for worker in self._workers if worker.process is None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _bury(self) -> None:
        """Take note of processes that have ended though nobody told them to."""
        for worker in self._workers:
            code = worker.process.poll() if worker.process else None
            if code == WRONG_USE:
                self._give_up(worker)
            elif code is not None:
                self._start_again(worker, code)

    def _give_up(self, worker: _Worker) -> None:
        worker.process = None
        self._report(f"{worker.name} can't be started (exit code {WRONG_USE}); see what it said above")
        self._exit_code = WRONG_USE
        self._stops += 1

    def _start_again(self, worker: _Worker, code: int) -> None:
        now = time.monotonic()
        worker.process = None
        worker.failures = 0 if now - worker.started >= STEADY else worker.failures + 1
        worker.due = now + pause_before(worker.failures)
        self._report(f"{worker.name} {_ending(code)}; {_plan(worker.failures)}")

    # --- Stopping

    def _stop(self) -> None:
        if running := self._running():
            self._report(
                f"stopping: {len(running)} processes finish what they are sending, "
                f"for at most {self._grace:g} s; a second signal kills them"
            )
        for worker in running:
            _signal(worker, signal.SIGTERM)
        self._wait(time.monotonic() + self._grace)
        for worker in self._running():
            self._kill(worker)
        self._note_endings()

    def _wait(self, deadline: float) -> None:
        while self._stops < 2 and self._running() and (left := deadline - time.monotonic()) > 0:
            self._listen(left)

    def _kill(self, worker: _Worker) -> None:
        _signal(worker, signal.SIGKILL)
        assert worker.process is not None
        worker.process.wait()
        self._report(
            f"{worker.name} was killed; the fate of what it was sending is known when its lease ends"
        )

    def _note_endings(self) -> None:
        codes = [worker.process.returncode for worker in self._workers if worker.process]
        if self._exit_code == DONE and not set(codes) <= set(IN_GOOD_ORDER):
            self._exit_code = FAILED

    def _running(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.process and worker.process.poll() is None]

    # --- Signals

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals are put into a queue, so that nothing but `_listen` is ever interrupted by one."""
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
        numbers = {*STOP_SIGNALS, signal.SIGCHLD} - ignored
        before = {number: signal.signal(number, self._hear) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard.put(number)

    def _listen(self, timeout: float | None) -> None:
        with suppress(queue.Empty):
            self._stops += self._heard.get(timeout=timeout) in STOP_SIGNALS


def environment_of(app: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """What worker processes of an app get: `environment`, or ours; our own app is named no other broker."""
    given = os.environ if environment is None else environment
    left_out = CELERYS_BROKER if app == OWN_APP else ()
    return {name: value for name, value in given.items() if name not in left_out}


def roles(processes: int, namespace: str = "mailtasks") -> dict[str, tuple[str, ...]]:
    """The name of each process and the queues that it takes tasks from."""
    every = tuple(queue_name(priority, namespace) for priority in PRIORITIES)
    swift = tuple(queue_name(priority, namespace) for priority in (Priority.URGENT, Priority.NORMAL))
    return {"urgent": swift} | {f"worker{number}": every for number in range(1, processes + 1)}


def celery_command(app: str, name: str, queues: Sequence[str], options: Sequence[str]) -> tuple[str, ...]:
    """The command line of one worker process.

    Our process id is in its name, since another supervisor on this host has processes of the same roles.
    Mingle and gossip are left out: they ask every other worker at the start, and need none of the answers.
    """
    node = f"{name}-{os.getpid()}@%h"
    celery = (sys.executable, "-m", "celery", "-A", app, "worker", "-n", node, "-Q", ",".join(queues))
    return (*celery, "--without-mingle", "--without-gossip", *options)


def pause_before(failures: int) -> float:
    """Seconds to wait before a process is started again that died so often in a row before it was steady."""
    return float(min(LONGEST_PAUSE, 2 ** (failures - 1))) if failures else 0.0


def _start(command: Sequence[str], environment: Mapping[str, str], leash: int) -> subprocess.Popen[bytes]:
    """A child in a session of its own: Ctrl-C in a terminal is for the supervisor alone."""
    return subprocess.Popen(  # noqa: S603  # a list of words, no shell
        command,
        env={**environment, LEASH: str(leash)},
        stdin=subprocess.DEVNULL,
        pass_fds=[leash],
        start_new_session=True,
    )


@contextmanager
def _leash() -> Iterator[int]:
    """The end that children inherit of a pipe whose other end closes with this process, however it ends."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        os.close(theirs)
        os.close(ours)


def _signal(worker: _Worker, number: int) -> None:
    assert worker.process is not None
    worker.process.send_signal(number)


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _plan(failures: int) -> str:
    if failures:
        return f"{failures} in a row just after a start; starting it again in {pause_before(failures):g} s"
    return "starting it again"
