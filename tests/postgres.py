"""A private PostgreSQL for tests: a cluster of its own in a temporary folder, on a free port.

It won't run as root, so there it runs as `postgres` or `nobody`. Debian's package keeps the programs in a
folder that isn't on the PATH.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final, Self

import psycopg

from mailtasks.local.processes import Child
from mailtasks.local.redis import free_port
from mailtasks.testing import wait_until

HOST: Final = "127.0.0.1"
USER: Final = "shop"
DEBIAN: Final = "/usr/lib/postgresql"
OPTIONS: Final = {"fsync": "off", "shared_buffers": "16MB", "max_connections": "40", "autovacuum": "off"}
OTHERS: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE usename = current_user AND pid <> pg_backend_pid()"
)


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path(DEBIAN).glob("*/bin"), default=None, key=lambda folder: int(folder.parent.name))


def missing() -> str | None:
    """Why there is no PostgreSQL."""
    if programs() is None:
        return "PostgreSQL isn't there; install it: apt-get install postgresql"
    if os.getuid() == 0 and (_account() is None or not shutil.which("setpriv")):
        return "PostgreSQL won't run as root, and there is no other user or no setpriv"
    return None


def _account() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


class LocalPostgres:
    """The server. A context manager; `kill()` and `start()` is what a crash does."""

    def __init__(self) -> None:
        folder = programs()
        assert folder is not None
        self._programs = folder
        self.folder = Path(tempfile.mkdtemp(prefix="mailtasks-postgres-"))
        self.port = free_port()
        self._child: Child | None = None
        self._as_whom: list[str] = []
        account = _account() if os.getuid() == 0 else None
        if account:
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            whom = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
            self._as_whom = ["setpriv", *whom]

    def __enter__(self) -> Self:
        try:
            self._make_cluster()
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_cluster(self) -> None:
        options = ["-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions", "--locale=C"]
        command = [*self._as_whom, str(self._programs / "initdb"), "-D", str(self.folder / "data")]
        subprocess.run([*command, *options], check=True, capture_output=True, cwd=self.folder)

    def start(self) -> Self:
        options = {**OPTIONS, "listen_addresses": HOST, "port": self.port, "unix_socket_directories": ""}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [*self._as_whom, str(self._programs / "postgres"), "-D", str(self.folder / "data")]
        self._child = Child([*command, *settings], output=self.folder / "log", debris=self.folder)
        wait_until(self._answers, timeout=30, what=f"an answer of PostgreSQL ({self.folder / 'log'})")
        return self

    def stop(self) -> None:
        """End it at once, whoever is connected; what was committed is there at the next `start()`."""
        if self._child:
            self._child.signal(signal.SIGINT)  # its "fast shutdown"; SIGTERM would wait for every client
            self._child.wait(30)
            self._child = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{USER}@{HOST}:{self.port}/postgres"

    def empty(self) -> str:
        """Drop whatever is there, whoever is connected; return the database's URL."""
        with self._connected() as connection:
            connection.execute(OTHERS)
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return self.url

    def _connected(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(host=HOST, port=self.port, user=USER, dbname="postgres", autocommit=True)

    def _answers(self) -> bool:
        assert self._child is not None
        assert self._child.running, (self.folder / "log").read_text()
        with contextlib.suppress(psycopg.OperationalError):
            self._connected().close()
            return True
        return False
