"""Around the test servers: an empty database, waiting for a condition, finding what was left behind."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from mailtasks.local.redis import LocalRedis

T = TypeVar("T")

POLL: Final = 0.01  # seconds between two looks at first
LATER: Final = 0.05  # seconds between two looks once a second has passed: who looks takes time from who works
SERVER_FOLDERS: Final = "/usr/sbin:/usr/local/sbin:/sbin"


def wait_until(condition: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
    """Call `condition` until what it returns is true, and return that.

    It is called every 10 milliseconds at first, and every 50 once a second has passed.

    Raises:
        TimeoutError: it wasn't within `timeout` seconds; the sentence says what was waited for, and
            what the condition returned last.
    """
    began = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - began
        if waited > timeout:
            raise TimeoutError(f"{what or 'the condition'} didn't come within {timeout} s; last: {value!r}")
        time.sleep(min(max(POLL, waited * LATER), LATER))
    return value


def empty(server: LocalRedis) -> str:
    """Flush the server's database and return its URL.

    Before that the server is asked for its folder: whatever else answers on that port is never flushed.
    """
    with server.client() as client:
        folder = client.config_get("dir")["dir"]
        if Path(folder) != server.folder:
            raise RuntimeError(
                f"the Redis on port {server.port} keeps its data in {folder}, so it isn't ours"
            )
        client.flushdb()
    return server.url


def program(name: str) -> str | None:
    """Where a program is: on the PATH, or where mail servers live, which often isn't on it."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SERVER_FOLDERS}")


def descendants(mark: str) -> list[str]:
    """The processes whose environment holds `mark` (NAME=VALUE), one `pid command` each. Linux only.

    A mark is inherited, so it finds children of children, too, and those whose parent has died.
    Elsewhere than on Linux the list is empty.
    """
    found = (_marked(process, mark.encode()) for process in Path("/proc").glob("[0-9]*"))
    return sorted(each for each in found if each)


def _marked(process: Path, mark: bytes) -> str | None:
    try:
        if process.name == str(os.getpid()) or mark not in (process / "environ").read_bytes().split(b"\0"):
            return None
        command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # ended meanwhile, or somebody else's
        return None
    return f"{process.name} {command}"
