"""What happened: to a relay or a destination, recorded and acted upon later; to a mail, told at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from mailtasks.state import State

log = logging.getLogger(__name__)

PIPELINING_NOT_BORNE: Final = "pipelining_not_borne"
CHUNKING_NOT_BORNE: Final = "chunking_not_borne"
"""The cases of what is no row of the reply table: see `mailtasks.smtp.bearing`."""


@dataclass(frozen=True, slots=True)
class RelayEvent:
    """Something that a relay, or a domain behind it, should be spared or credited for."""

    relay: str  # host:port
    domain: str  # the recipient's; "" if it concerns the relay as a whole
    case: str  # a row of the reply table (mailtasks.policy.verdict.Case), or one of those above
    action: str  # what should follow (mailtasks.policy.verdict.Destination)
    reply: str  # the relay's words, or what happened instead
    worker: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of trying to send one message to one recipient, or of not trying: too old, suppressed."""

    id: str  # the message's
    recipient: str
    state: State  # what it became
    reply: str  # the relay's words, of now or the last time, or what happened instead; the list's reason
    attempt: int  # which one, counted from 1; one that wasn't the recipient's fault doesn't count
    tags: tuple[str, ...]
    metadata: Mapping[str, str]


attempt_listeners: Final[list[Callable[[Sequence[Attempt]], object]]] = []
"""Called when the ledger knows what became of recipients: in a thread of a worker, which sends nothing
meanwhile; of who is suppressed when mail is accepted, in the thread that accepts it. What a process that dies
hasn't told is never told: the ledger is the truth, this is news of it."""


_kept: ContextVar[list[Attempt] | None] = ContextVar("kept", default=None)


@contextmanager
def telling_afterwards(by: Callable[[Sequence[Attempt]], object] | None = None) -> Iterator[None]:
    """Within the block, in this thread, nothing is told; behind it all is, however it ended.

    For who holds what a listener must not hold up, or break.

    Args:
        by: what tells; by default `tell`.
    """
    news: list[Attempt] = []
    before = _kept.set(news)
    try:
        yield
    finally:
        _kept.reset(before)
        if news:
            (by or tell)(news)


def tell(news: Sequence[Attempt]) -> None:
    """Call the listeners, if there is news. None of them can make fail what was done."""
    if (kept := _kept.get()) is not None:
        kept.extend(news)
        return
    for listener in attempt_listeners if news else ():
        try:
            listener(news)
        except Exception:  # whatever a user's function raises
            log.exception("a listener to attempts failed")
