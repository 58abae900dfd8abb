"""The connection to Redis: time-outs, errors in our words, and scripts by digest.

The rules:

1. Every call ends within a stated time: one attempt, which may first wait for that of other threads, and one
   more where an open one broke at once; so at most three times `redis_connect_timeout + redis_timeout`. Where
   sentinels are asked for the master first, each that is silent adds up to twice `redis_connect_timeout`.
2. A call either was surely not carried out (no connection, or Redis refused it: `_REFUSALS`), or that is
   not known; the error says which, and what to do.
3. What redis-py raises doesn't leave this package: `available` turns it into `mailtasks.errors`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from typing import Any, Final, TypeAlias

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoScriptError, RedisError, ResponseError, TimeoutError
from redis.retry import Retry

from mailtasks.errors import IllegalMove, StoreError, StoreUnavailable
from mailtasks.relay import mask_url
from mailtasks.sentinels import are_named, parse_sentinels
from mailtasks.store import scripts
from mailtasks.store.line import DEMOTED, Command, Line
from mailtasks.store.sentinel import NOT_FOUND, connect_by_sentinels, sentinels_of

Client: TypeAlias = Any
"""A `redis.Redis` that returns bytes. Its own annotations can't tell bytes from text, so they help nobody."""

_AWAY: Final = "is it running and reachable?"
_NOTHING: Final = ", so nothing was accepted"
_REFUSALS: Final = (
    (NOT_FOUND, "is a failover under way? else see that they run, and are given the right name and login"),
    ("connecting to", _AWAY),
    ("loading the dataset", "it is reading its data; try again in a moment"),
    ("max number of clients", "it has too many clients; raise its `maxclients`"),
    ("already authenticated", "put user and password into its URL"),
    ("Authentication required", "put user and password into its URL"),
    ("username-password", "put the right user and password into its URL"),
    ("used memory > 'maxmemory'", "its memory is full; give it more, and keep finished mail for less long"),
    (DEMOTED, "it is a replica; use the URL of the primary"),
    ("MISCONF", "it can't write to its disk; look at its log"),
    ("NOREPLICAS", "it accepts no writes without its replicas; are they running?"),
    ("BUSY", "it is running somebody's script; try again in a moment"),
    ("CLUSTERDOWN", "its cluster is incomplete; are all nodes running?"),
    ("TRYAGAIN", "its cluster is moving keys; try again in a moment"),
    ("DB index is out of range", "it has no such database; put another number into its URL"),
    ("MASTERDOWN", "it is a replica that has lost its primary; use the URL of the primary"),
)
"""Words of Redis, or of redis-py about it, by which it is known that nothing was carried out; what to do."""

_NOISE: Final = re.compile(
    r"^Command # \d+ \(.*?\) of pipeline caused error: "  # redis-py: the command may hold what is private
    r"|^Error running script \(call to \w+\): (@?user_script: ?\d+: )*-?"  # Redis 6
    r"|^(@?user_script: ?\d+: )+"
    r"|\.? script: [0-9a-f]{40}, on @user_script:\d+"
)
_OURS: Final = re.compile(r"mailtasks (illegal|damaged): (.*)", re.DOTALL)
"""What our scripts say themselves: an illegal move, or records that a hand has damaged."""


def connect(url: str, *, timeout: float, connect_timeout: float) -> Client:
    """A client that returns bytes; connects on first use.

    Args:
        url: `redis://`, `rediss://`, `unix://` or `sentinel://`.
        timeout: seconds to wait for an answer.
        connect_timeout: seconds to wait for a connection.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": connect_timeout,
        "retry": Retry(NoBackoff(), 0),  # `Scripts` tries again itself: it must know what was written
        "client_name": "mailtasks",
    }
    if are_named(url):
        return connect_by_sentinels(parse_sentinels(url), **options)
    return Redis.from_url(url, **options)


def where(redis: Client) -> str:
    """The address of a client's Redis, for people: no password."""
    if sentinels := sentinels_of(redis):
        return sentinels.shown
    options = redis.connection_pool.connection_kwargs
    if path := options.get("path"):
        return mask_url(str(path))
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"


@contextmanager
def available(redis: Client, ids: Sequence[str] = (), *, before_accept: bool = False) -> Iterator[None]:
    """Turn redis-py's errors into ours.

    Args:
        ids: what may have been accepted all the same, unless it is known that nothing was.
        before_accept: what is asked decides whether anything will be accepted.

    Raises:
        StoreUnavailable: Redis is away, hangs, or can't do it now.
        IllegalMove: a script refused a move.
        StoreError: Redis answered something else than what was asked for.
    """
    try:
        yield
    except RedisError as error:
        raise _in_our_words(redis, error, ids, before_accept) from error


def _in_our_words(redis: Client, error: RedisError, ids: Sequence[str], before_accept: bool) -> Exception:
    reason = _plain(error)
    if ours := _OURS.search(reason):
        return IllegalMove(ours[2]) if ours[1] == "illegal" else StoreError(ours[2])
    advice = _refusal(error)
    if advice:
        verb = "can't be reached" if advice == _AWAY else "can't be used"
        nothing = _NOTHING if ids or before_accept else ""
        return StoreUnavailable(f"Redis at {where(redis)} {verb} ({reason}){nothing}; {advice}")
    if isinstance(error, (ConnectionError, TimeoutError)):
        return _unanswered(redis, reason, ids, _NOTHING if before_accept else "")
    return StoreError(
        f"Redis at {where(redis)} answered {reason!r} instead of doing what it was asked to do; "
        "is it of version 6.2 or later, and were its keys left alone?"
    )


def not_confirmed(redis: Client, seconds: float, ids: Sequence[str]) -> StoreUnavailable:
    """What to raise for messages that were accepted, and that no replica is known to have."""
    return StoreUnavailable(
        f"Redis at {where(redis)} accepted {_messages(ids)}, but no replica confirmed that within "
        f"{seconds:g} s, so a failover may forget it; {_try_again(ids)}",
        ids,
        unanswered=True,
    )


def _unanswered(redis: Client, reason: str, ids: Sequence[str], nothing: str) -> StoreUnavailable:
    if not ids:
        return StoreUnavailable(
            f"Redis at {where(redis)} didn't answer ({reason}){nothing}; {_AWAY}", unanswered=not nothing
        )
    return StoreUnavailable(
        f"Redis at {where(redis)} didn't answer ({reason}), so it is not known whether it accepted "
        f"{_messages(ids)}; {_try_again(ids)}",
        ids,
        unanswered=True,
    )


def _messages(ids: Sequence[str]) -> str:
    if not ids:
        return "rows of a campaign"
    return f"{len(ids)} message{'s' if len(ids) != 1 else ''}"


def _try_again(ids: Sequence[str]) -> str:
    if not ids:
        return "give all rows again (then nobody is mailed twice)"
    return (
        "try again with the ids that this error carries or with idempotency keys (then nothing is sent "
        f"twice), or ask `status` for them: {', '.join(ids[:3])}{', …' if len(ids) > 3 else ''}"
    )


def _plain(error: Exception) -> str:
    """What Redis said, without which command of ours or line of a script it said it to."""
    return _NOISE.sub("", str(error)).rstrip(".")


def _refusal(error: Exception) -> str | None:
    """What to do about an error by which it is known that nothing was carried out; None: it isn't known."""
    return next((advice for words, advice in _REFUSALS if words in str(error)), None)


def now_of(redis: Client, clock_key: str | None = None) -> int:
    """Milliseconds by Redis' clock.

    Args:
        clock_key: for tests, see `scripts.text`.
    """
    clock = redis.time() if clock_key is None else redis.lrange(clock_key, 0, 1)
    return int(clock[0]) * 1000 + int(clock[1]) // 1000


class Scripts:
    """Runs the Lua scripts by their digests, and loads one where Redis has forgotten it.

    Args:
        clock_key: for tests, see `scripts.text`.
    """

    def __init__(self, redis: Client, clock_key: str | None = None) -> None:
        self._line = Line(redis)
        self._timeout = redis.connection_pool.connection_kwargs["socket_timeout"]
        self._texts = {name: scripts.text(name, clock_key) for name in scripts.NAMES}
        self._digests = {name: sha1(text.encode()).hexdigest() for name, text in self._texts.items()}  # noqa: S324 (Redis' own choice)

    def run(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """One call, one answer."""
        return self.run_many(name, [(keys, arguments)])[0]

    def run_many(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Many calls of one script in one round trip. If Redis had lost the script, all are called again."""
        return self.run_confirmed(name, calls, 0)[0]

    def run_confirmed(
        self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]], seconds: float
    ) -> tuple[list[Any], bool]:
        """As `run_many`, and wait for a replica to have what was written by then.

        Args:
            seconds: to wait for it; 0: don't.

        Returns:
            The answers, and whether a replica has confirmed, which is true if none was asked to.
        """
        digest, began = self._digests[name], time.monotonic()
        commands = [("EVALSHA", digest, len(keys), *keys, *arguments) for keys, arguments in calls]
        try:
            return self._load_and_ask(name, commands, seconds)
        except (ConnectionError, ResponseError) as broken:
            if not _is_worth_another(broken) or time.monotonic() - began > self._timeout:
                raise
            try:
                return self._load_and_ask(name, commands, seconds)
            except (ConnectionError, TimeoutError, ResponseError) as again:
                raise _telling(broken, again) from None

    def _load_and_ask(self, name: str, commands: Sequence[Command], seconds: float) -> tuple[list[Any], bool]:
        try:
            return self._ask(commands, seconds)
        except NoScriptError:
            [loaded] = self._line.ask([("SCRIPT", "LOAD", self._texts[name])])
            if isinstance(loaded, Exception):
                raise loaded from None
            return self._ask(commands, seconds)

    def _ask(self, commands: Sequence[Command], seconds: float) -> tuple[list[Any], bool]:
        answers, confirmed = self._line.ask_confirmed(commands, seconds)
        if errors := [answer for answer in answers if isinstance(answer, Exception)]:
            raise _error_of_many(errors, len(answers))
        return answers, confirmed


def _is_worth_another(error: Exception) -> bool:
    """Whether it may be the open connection's fault: broken, or to who was the primary until now."""
    if DEMOTED in str(error):
        return True
    return isinstance(error, ConnectionError) and _refusal(error) is None


def _telling(first: Exception, second: Exception) -> Exception:
    """Of two attempts' errors the one that tells whether something may have been written."""
    answered = isinstance(second, ResponseError) and _refusal(second) is None
    return second if answered or DEMOTED in str(first) else first


def _error_of_many(errors: Sequence[Exception], calls: int) -> Exception:
    """The first, unless it would tell that nothing was carried out while some of the calls were."""
    for error in errors:
        if isinstance(error, NoScriptError):
            return error
    if len(errors) < calls and _refusal(errors[0]):
        return ConnectionError(f"only {calls - len(errors)} of {calls} calls were carried out")
    return errors[0]
