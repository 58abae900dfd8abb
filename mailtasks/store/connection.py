"""The connection to Redis: time-outs, errors in our words, and scripts by digest.

Every call ends within a stated time: one attempt and, where an open connection broke, one more; so at
most twice `redis_connect_timeout + redis_timeout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from typing import Any, TypeAlias, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, NoScriptError, ReadOnlyError, TimeoutError
from redis.retry import Retry

from mailtasks.errors import StoreUnavailable
from mailtasks.relay import mask_url
from mailtasks.store import scripts

Client: TypeAlias = Any
"""A `redis.Redis` that returns bytes. Its own annotations can't tell bytes from text, so they help nobody."""

UNAVAILABLE = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError)
"""What redis-py raises while a Redis is away, hangs, loads its data or fails over."""


def connect(url: str, *, timeout: float, connect_timeout: float) -> Client:
    """A client that returns bytes; connects on first use.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout: seconds to wait for an answer.
        connect_timeout: seconds to wait for a connection.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=connect_timeout,
        retry=Retry(NoBackoff(), 0),  # `Scripts` tries again itself: it must know what was written
        client_name="mailtasks",
    )


def where(redis: Client) -> str:
    """The address of a client's Redis, for people: no password."""
    options = redis.connection_pool.connection_kwargs
    if path := options.get("path"):
        return mask_url(str(path))
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"


@contextmanager
def available(redis: Client, ids: Sequence[str] = ()) -> Iterator[None]:
    """Turn redis-py's errors into `StoreUnavailable`.

    Args:
        ids: what may have been accepted all the same, unless no connection could be had.
    """
    try:
        yield
    except UNAVAILABLE as error:
        raise _unavailable(redis, error, ids) from error


def _unavailable(redis: Client, error: Exception, ids: Sequence[str]) -> StoreUnavailable:
    reason = str(error).rstrip(".")
    if not ids:
        return StoreUnavailable(
            f"Redis at {where(redis)} can't be used ({reason}); is it running and reachable?"
        )
    if _never_connected(error):
        return StoreUnavailable(
            f"Redis at {where(redis)} can't be reached ({reason}), so nothing was accepted; "
            "is it running and reachable?"
        )
    return StoreUnavailable(
        f"Redis at {where(redis)} didn't answer ({reason}), so it is not known whether it accepted "
        f"{len(ids)} message{'s' if len(ids) != 1 else ''}; send the same again (that is safe) or ask "
        "`status` for the ids this error carries",
        ids,
    )


def _never_connected(error: Exception) -> bool:
    """Whether nothing can have been written, since no connection came about (redis-py's words)."""
    return "connecting to" in str(error)


class Scripts:
    """Runs the Lua scripts by their digests, and loads one where Redis has forgotten it."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self._digests = {name: sha1(scripts.text(name).encode()).hexdigest() for name in scripts.NAMES}  # noqa: S324 (Redis' own choice)

    def run(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """One call, one answer."""
        return self._insist(name, lambda: self._evaluate(self._redis, name, keys, arguments))

    def run_many(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Many calls of one script in one round trip. If Redis had lost the script, all are called again."""
        return cast(list[Any], self._insist(name, lambda: self._pipelined(name, calls)))

    def _insist(self, name: str, call: Callable[[], Any]) -> Any:
        """Call, and once more if a connection that was open broke."""
        try:
            return self._call(name, call)
        except ConnectionError as broken:
            if _never_connected(broken):
                raise
            try:
                return self._call(name, call)
            except UNAVAILABLE:
                # The first error is the one that tells whether something may have been written.
                raise broken from None

    def _call(self, name: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except NoScriptError:
            self._redis.script_load(scripts.text(name))
            return call()

    def _evaluate(self, redis: Client, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return redis.evalsha(self._digests[name], len(keys), *keys, *arguments)

    def _pipelined(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for keys, arguments in calls:
            self._evaluate(pipeline, name, keys, arguments)
        return cast(list[Any], pipeline.execute())
