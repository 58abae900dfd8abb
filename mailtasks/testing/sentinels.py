"""A Redis that sentinels watch, on loopback, for tests of a failover: master, replicas, three sentinels::

    with WatchedRedis() as watched:
        ...  # watched.url
        watched.hold_back()  # what is written from now on reaches no replica
        watched.master.kill()
        watched.wait_for_failover()

The sentinels take a master for dead after three seconds of silence, which a busy machine doesn't bring about;
a failover takes about five.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mailtasks.local.processes import Child
from mailtasks.local.redis import HOST, LocalRedis, find_binary, free_port
from mailtasks.testing.servers import wait_until

MASTER_NAME: Final = "mymaster"
SENTINELS: Final = 3
QUORUM: Final = 2
DOWN_AFTER: Final = 3.0  # seconds of silence
FAILOVER_TIMEOUT: Final = 10.0  # seconds; for as long a replica may follow another master
START_TIMEOUT: Final = 30.0  # seconds for all to know of each other; sentinels say hello every two


class WatchedRedis:
    """Master, replicas and sentinels; a context manager. Which of `servers` is the master may change.

    Args:
        replicas: how many; with two, one is left that can confirm after a failover.
        binary: the servers' program; see `mailtasks.local.redis.find_binary` if it is None.
    """

    def __init__(self, *, replicas: int = 2, binary: str | None = None) -> None:
        self._binary = binary or find_binary()
        self._folder = Path(tempfile.mkdtemp(prefix="mailtasks-sentinel-"))
        self._stack = ExitStack()
        self.servers = [LocalRedis(binary=self._binary) for _ in range(1 + replicas)]
        self.ports: list[int] = []
        """The sentinels'; known inside the `with` block."""
        self.sentinels: list[Child] = []
        self._began = self.servers[0]  # the master of the last failover's end

    @property
    def url(self) -> str:
        """What `MAILTASKS_BROKER_URL` takes."""
        hosts = ";".join(f"sentinel://{HOST}:{port}" for port in self.ports)
        return f"{hosts}/0?master_name={MASTER_NAME}"

    @property
    def master(self) -> LocalRedis:
        """The one that the sentinels name."""
        port = self._master_port(self.ports[0])
        return next(server for server in self.servers if server.port == port)

    def synchronise(self) -> None:
        """Until every replica has all that the master has now."""
        with self.master.client() as client:
            client.ping()  # WAIT is about what came before this connection's last command
            confirmed = client.wait(len(self.servers) - 1, 10_000)
        assert confirmed == len(self.servers) - 1, f"only {confirmed} replicas follow"

    def hold_back(self) -> None:
        """Cut the replicas off: what the master takes from now on, they don't get.

        For at most `FAILOVER_TIMEOUT` seconds, after which the sentinels set it right.
        """
        master = self.master
        for replica in self.servers:
            if replica is not master:
                with replica.client() as client:
                    client.replicaof(HOST, free_port())

    def fail_over(self) -> None:
        """Make a replica the master though the old one is well: it lives on as a replica."""
        with _sentinel(self.ports[0]) as sentinel:
            sentinel.execute_command("SENTINEL FAILOVER", MASTER_NAME)

    def wait_for_failover(self, timeout: float = 30.0) -> None:
        """Until all sentinels name another master than the last time, and that takes writes."""
        before = self._began.port

        def is_over() -> bool:
            named = {self._master_port(port) for port in self.ports}
            return before not in named and len(named) == 1 and _role(self.master) == "master"

        wait_until(is_over, timeout, "a failover")
        self._began = self.master

    def wait_for_return(self, server: LocalRedis, timeout: float = 30.0) -> None:
        """Until a former master, which is up again, has been made a replica."""
        wait_until(lambda: _role(server) == "slave", timeout, "the former master's becoming a replica")

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                self._stack.enter_context(server)
            for replica in self.servers[1:]:
                self._replicate(self._began, replica)
            for _ in range(SENTINELS):
                self._start_sentinel(self._began.port)
            wait_until(self._is_watched, START_TIMEOUT, "the sentinels' knowing of each other")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.kill()  # in good order a master would wait for its replicas
        self._stack.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _replicate(self, master: LocalRedis, replica: LocalRedis) -> None:
        with master.client() as leading, replica.client() as following:
            leading.config_set("repl-diskless-sync-delay", 0)
            following.replicaof(HOST, master.port)
            wait_until(
                lambda: _info(following)["master_link_status"] == "up", what="the first synchronisation"
            )

    def _start_sentinel(self, master: int) -> None:
        port = free_port()
        folder = self._folder / str(port)
        folder.mkdir()
        lines = [
            f"port {port}",
            f"bind {HOST}",
            f"dir {folder}",
            f"sentinel monitor {MASTER_NAME} {HOST} {master} {QUORUM}",
            f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER * 1000:.0f}",
            f"sentinel failover-timeout {MASTER_NAME} {FAILOVER_TIMEOUT * 1000:.0f}",
        ]
        file = folder / "sentinel.conf"  # which the sentinel writes anew
        file.write_text("\n".join(lines))
        command = [self._binary, str(file), "--sentinel"]
        child = Child(command, output=folder / "sentinel.log", debris=self._folder)
        self.sentinels.append(self._stack.enter_context(child))
        self.ports.append(port)

    def _is_watched(self) -> bool:
        return all(self._knows_everybody(port) for port in self.ports)

    def _knows_everybody(self, port: int) -> bool:
        try:
            with _sentinel(port) as sentinel:
                facts = sentinel.sentinel_master(MASTER_NAME)
        except redis.ConnectionError:  # it is still starting
            return False
        seen = facts["num-other-sentinels"], facts["num-slaves"], facts["flags"]
        return bool(seen == (SENTINELS - 1, len(self.servers) - 1, "master"))

    def _master_port(self, port: int) -> int:
        """What one sentinel says."""
        with _sentinel(port) as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(MASTER_NAME)[1])


def _sentinel(port: int) -> Any:
    return redis.Redis(HOST, port, socket_timeout=5, retry=Retry(NoBackoff(), 0))


def _role(server: LocalRedis) -> str:
    """ "master" or "slave"; "" while its role changes, which ends every connection."""
    try:
        with server.client() as client:
            return str(_info(client)["role"])
    except redis.ConnectionError:
        return ""


def _info(client: redis.Redis) -> Any:
    return client.info("replication")
