"""From what happened to a recipient to what the ledger is told: verdict, then retry policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mailtasks.errors import PermanentFailure, TemporaryFailure
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.policy.patience import LONGEST, named_wait, stretched
from mailtasks.policy.verdict import (
    CONFUSED_CODES,
    CONSEQUENCES,
    DAYS_TO_SUPPRESS,
    Case,
    Destination,
    Move,
    case_of,
)
from mailtasks.reply import Outcome, Stage
from mailtasks.state import State


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one recipient."""

    case: Case
    state: State
    delay: float = 0.0  # seconds until the next attempt, if deferred
    counted: bool = True
    destination: Destination = Destination.NONE  # to be recorded
    suppress_after: int = 0  # days with such refusals until the address is suppressed; 0: never


_SETTLED: Final = {Move.SENT: State.SENT, Move.DOUBT: State.IN_DOUBT}
_FREE: Final = frozenset({Move.RETRY_FREE, Move.GIVE_BACK})
_SUPPRESSING: Final = {Move.FAIL_AND_SUPPRESS: 1, Move.FAIL_AND_COUNT: DAYS_TO_SUPPRESS}
_PERMANENT: Final = frozenset({Move.FAIL, *_SUPPRESSING})


def decide(
    outcome: Outcome, attempts: int, last_code: str, policy: RetryPolicy, random: Callable[[], float]
) -> Decision:
    """Decide about one recipient.

    Args:
        outcome: what happened.
        attempts: counted ones before this.
        last_code: the basic code of what the relay said to the attempt before; "" if it said nothing.
        policy: the task's retry settings.
        random: a source of numbers from 0 to 1.
    """
    case = case_of(outcome)
    consequence = CONSEQUENCES[case]
    move, counted = consequence.move, consequence.move not in _FREE
    if move is Move.GIVE_BACK:
        return Decision(case, State.QUEUED, counted=False, destination=consequence.destination)
    if state := _SETTLED.get(move):
        return Decision(case, state, destination=consequence.destination)
    so_far = attempts + counted
    failure = PermanentFailure if _is_permanent(move, outcome, last_code) else TemporaryFailure
    if counted and (not policy.retries(failure) or policy.is_exhausted(so_far)):
        # An answer to anything but RCPT says nothing of the address, whatever its code.
        days = _SUPPRESSING.get(move, 0) if outcome.stage is Stage.RCPT else 0
        return Decision(
            case, State.FAILED, counted=counted, destination=consequence.destination, suppress_after=days
        )
    longest = max(LONGEST, policy.retry_backoff_max)
    least = max(consequence.wait, named_wait(outcome.reply, longest))
    spread = random if policy.retry_jitter else None
    delay = stretched(policy.delay(so_far if counted else 0, random), least, spread)
    return Decision(case, State.DEFERRED, delay, counted, consequence.destination)


def _is_permanent(move: Move, outcome: Outcome, last_code: str) -> bool:
    refused_again = move is Move.ONCE_MORE and outcome.reply is not None and last_code in CONFUSED_CODES
    return move in _PERMANENT or refused_again
