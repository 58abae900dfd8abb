"""The states of one envelope recipient, and every move between them.

The rules:

1. A state belongs to one recipient of one message, never to a message: a relay may answer 250 for
   one recipient, 550 for the next and 451 for the third. A message's own status is derived.
2. This table is the only place that says which move is legal. The Lua scripts get theirs from it,
   the diagram in the docs is drawn from it, and an illegal move raises.
3. Conservation: the number accepted is the sum over all states, after every move.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where one recipient's mail is."""

    QUEUED = "queued"  # accepted, not yet tried
    SENDING = "sending"  # in a claimed window, under a lease
    DEFERRED = "deferred"  # a transient failure; tried again at a known time
    SENT = "sent"  # the relay answered the final dot with 2xx
    FAILED = "failed"  # refused for good, or out of attempts
    EXPIRED = "expired"  # too old
    IN_DOUBT = "in_doubt"  # the final dot may have been written and its answer is not known
    CANCELLED = "cancelled"  # never sent, because somebody said so in time
    SUPPRESSED = "suppressed"  # never sent, because the address is on the suppression list

    @property
    def code(self) -> str:
        """The one character that stands for this state in the ledger."""
        return CODES[self]


CODES: Final[dict[State, str]] = {
    State.QUEUED: "q",
    State.SENDING: "s",
    State.DEFERRED: "d",
    State.SENT: "+",
    State.FAILED: "f",
    State.EXPIRED: "x",
    State.IN_DOUBT: "?",
    State.CANCELLED: "c",
    State.SUPPRESSED: "u",
}
BY_CODE: Final[dict[str, State]] = {code: state for state, code in CODES.items()}

MOVES: Final[dict[State, frozenset[State]]] = {
    State.QUEUED: frozenset({State.SENDING, State.CANCELLED, State.EXPIRED, State.SUPPRESSED}),
    # Back to queued: given back by its living owner, the dot not begun.
    State.SENDING: frozenset(
        {State.SENT, State.DEFERRED, State.FAILED, State.SUPPRESSED, State.QUEUED, State.IN_DOUBT}
    ),
    # To queued: "retry now".
    State.DEFERRED: frozenset(
        {State.SENDING, State.QUEUED, State.CANCELLED, State.EXPIRED, State.FAILED, State.SUPPRESSED}
    ),
    State.SENT: frozenset(),
    # To queued, here and below: an operator's explicit retry.
    State.FAILED: frozenset({State.QUEUED}),
    State.EXPIRED: frozenset({State.QUEUED}),
    # By late evidence, policy or an operator.
    State.IN_DOUBT: frozenset({State.SENT, State.FAILED, State.EXPIRED, State.CANCELLED, State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
    State.SUPPRESSED: frozenset({State.QUEUED}),
}

UNFINISHED: Final = frozenset({State.QUEUED, State.SENDING, State.DEFERRED})
"""What the mechanism still has work with; `in_doubt` is held, neither finished nor waiting."""

LAPSES_BEFORE_ASIDE: Final = 3
"""Claims of a batch that lapse one after the other until it is set aside."""

FINAL: Final = frozenset(State) - UNFINISHED - {State.IN_DOUBT}
"""What stays as it is unless an operator says otherwise."""


def summarise(states: Iterable[State]) -> State:
    """A message's own status from those of its recipients.

    The most telling one wins: what needs a person first (in doubt, failed), then what is still on
    its way, then what is over.
    """
    present = set(states)
    for state in _TELLING:
        if state in present:
            return state
    raise ValueError("a message has at least one recipient")


_TELLING: Final = (
    State.IN_DOUBT,
    State.SENDING,
    State.DEFERRED,
    State.QUEUED,
    State.FAILED,
    State.EXPIRED,
    State.SUPPRESSED,
    State.CANCELLED,
    State.SENT,
)
