"""What runs inside a worker process before any of its parts is started: the guard.

`install(app)` is for every app that runs our tasks: the guard refuses pools other than threads, and ends
a worker whose supervisor is gone (see `mailtasks.supervisor`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from typing import Any, Final, NoReturn

from celery import Celery, bootsteps
from celery.concurrency import solo, thread
from celery.exceptions import CPendingDeprecationWarning

POOLS: Final = (thread.TaskPool, solo.TaskPool)  # solo, one task at a time, is for debugging

FAILED: Final = 1
WRONG_USE: Final = 2
"""Also what `celery worker` ends with if its app can't be loaded: starting it again won't help."""

GRACE: Final = 30.0  # seconds from SIGTERM to SIGKILL; longer than a slice, shorter than a tarpit's answer

LEASH: Final = "_MAILTASKS_LEASH"
"""Environment variable: the file descriptor of a pipe whose other end only the supervisor holds."""


def install(app: Celery) -> None:
    """Let the workers of `app` run on threads only, and no longer than the supervisor that started them."""
    app.steps["worker"].add(Guard)


class Guard(bootsteps.Step):  # type: ignore[misc]  # Celery ships no types
    """Looks at a worker before any of its parts is started."""

    def __init__(self, parent: Any, **options: Any) -> None:
        refuse_pool(parent.pool_cls)
        obey_leash()
        # Said at every loss of the connection, and untrue here: `mailtasks.transport` keeps those tasks.
        warnings.filterwarnings("ignore", "\\s*In Celery 5.1 we introduced", CPendingDeprecationWarning)
        super().__init__(parent, **options)


def refuse_pool(pool: type) -> None:
    """End this process with one sentence and exit code 2 if `pool` is none that mailtasks can run on."""
    if issubclass(pool, POOLS):
        return
    name = pool.__module__.rpartition(".")[2]
    refuse(
        f"the {name} pool is not supported (connections and leases are shared by threads); "
        "start the worker with -P threads"
    )


def refuse(sentence: str) -> NoReturn:
    """End this process with one sentence and the exit code that keeps a supervisor from trying again."""
    say(sentence)
    raise SystemExit(WRONG_USE)


def obey_leash() -> None:
    """If a supervisor started this process: end, in good order, when that one is gone."""
    descriptor = os.environ.pop(LEASH, None)
    if descriptor is not None:
        os.set_inheritable(int(descriptor), False)
        threading.Thread(target=_end_with, args=(int(descriptor),), name="leash", daemon=True).start()


def _end_with(descriptor: int) -> None:
    os.read(descriptor, 1)  # returns when the other end is closed: nothing is ever written to it
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(FAILED)


def say(sentence: str) -> None:
    """A sentence on stderr, as every part of a worker says it."""
    sys.stderr.write(f"mailtasks: {sentence}\n")
    sys.stderr.flush()
