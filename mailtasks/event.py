"""What happened: to a relay or a destination, recorded and acted upon later; in an attempt, told at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mailtasks.state import State

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
    """What came of trying to send one message to one recipient."""

    id: str  # the message's
    recipient: str
    state: State  # what it became
    reply: str  # the relay's words, or what happened instead
    attempt: int  # which one, counted from 1; one that wasn't the recipient's fault doesn't count
    tags: tuple[str, ...]
    metadata: Mapping[str, str]


attempt_listeners: Final[list[Callable[[Sequence[Attempt]], object]]] = []
"""Called in a worker's thread when the ledger has been told of attempts. The thread sends nothing meanwhile.
What a worker that dies hasn't told is never told: the ledger is the truth, this is news of it."""
