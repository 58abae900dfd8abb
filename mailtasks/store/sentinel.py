"""The client of a Redis that sentinels watch: each connection leads to who is the master when it is opened.

redis-py's own discovery asks on where a sentinel is silent, and so do we; but its error holds what only
programmers can read, and threads that ask at once can make it forget one of the sentinels.
"""

from __future__ import annotations

from typing import Any, Final

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from mailtasks.sentinels import Sentinels

NOT_FOUND: Final = "no sentinel knows where it is"
"""What an error says if there is no master at the moment, or nobody who knows of one."""


def connect_by_sentinels(sentinels: Sentinels, **options: Any) -> Any:
    """A client of the master, which returns bytes; asks and connects on first use.

    Args:
        options: of the connections to the master, by redis-py's names.
    """
    return _Discovery(sentinels, options["socket_connect_timeout"]).master_for(  # type: ignore[no-untyped-call]
        sentinels.master_name,
        db=sentinels.database,
        username=sentinels.username,
        password=sentinels.password,
        **options,
    )


def sentinels_of(redis: Any) -> Sentinels | None:
    """What a client was made from; None if it knows its Redis by address."""
    manager = getattr(redis.connection_pool, "sentinel_manager", None)
    return manager.named if isinstance(manager, _Discovery) else None


class _Discovery(Sentinel):
    """Finds the master.

    Args:
        named: the sentinels.
        timeout: seconds for a connection to one of them, and for its answer.
    """

    def __init__(self, named: Sentinels, timeout: float) -> None:
        asking = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),  # the next one is asked instead
            **named.sentinel_login,
        }
        super().__init__(named.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
        self.named = named
        self._last = self.sentinels[0]

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Where the master is; the sentinel that knew it the last time is asked first.

        Raises:
            MasterNotFoundError: none of them knows a master by this name that is up.
        """
        last, reasons = self._last, []
        for sentinel in [last, *(other for other in self.sentinels if other is not last)]:
            try:
                known: Any = sentinel.sentinel_masters()
            except RedisError as error:
                reasons.append(f"{_address(sentinel)}: {error}".rstrip("."))
                continue
            finally:
                sentinel.connection_pool.disconnect(inuse_connections=False)  # seldom needed again
            master = known.get(service_name)
            if master and self.check_master_state(master, service_name):  # type: ignore[no-untyped-call]
                self._last = sentinel
                return master["ip"], master["port"]
            reasons.append(f"{_address(sentinel)}: {'it is down' if master else 'no such master_name'}")
        raise MasterNotFoundError(f"{NOT_FOUND}: {'; '.join(reasons)}")


def _address(sentinel: Any) -> str:
    options = sentinel.connection_pool.connection_kwargs
    return f"{options['host']}:{options['port']}"
