"""The brake: when refusals that are nobody's fault pause a campaign.

A sender that isn't verified, a block, a quota that is spent: the next recipient would be refused as the last
one was. One of these may be a relay's mood, or one recipient's domain; a run of them, with nothing sent in
between, isn't.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mailtasks.policy.verdict import Case

LONGEST_RUN: Final = 20
"""Like refusals in a row, of all workers together, at which a campaign is paused. Nobody else is refused but
those who are in the windows of other threads at that moment."""

BLAMELESS: Final = {
    Case.SENDER_REFUSED: "the relay refuses the sender",
    Case.SENDER_DEFERRED: "the relay puts the sender off",
    Case.POLICY_REFUSED: "the mail is refused by a policy or a block list",
    Case.QUOTA_SPENT: "what the account may send is used up",
    Case.RELAYING_DENIED: "the relay takes no mail from us",
}
"""The cases for which no recipient is to blame, in words."""


@dataclass(frozen=True, slots=True)
class Run:
    """Like refusals at the end of a window.

    Attributes:
        case: their kind; None: the window doesn't end with any.
        length: how many.
        is_broken: something was sent before them, or other refusals came, so that they begin a run.
    """

    case: Case | None = None
    length: int = 0
    is_broken: bool = False


def run_at_end(cases: Iterable[Case]) -> Run:
    """The run with which a window ends. What a recipient is to blame for doesn't count, and ends none."""
    run = Run()
    for case in cases:
        if case is Case.SENT:
            run = Run(is_broken=True)
        elif case in BLAMELESS:
            is_same = case is run.case
            broken = run.is_broken or (run.case is not None and not is_same)
            run = Run(case, run.length + 1 if is_same else 1, broken)
    return run


def is_too_long(length: int) -> bool:
    """Whether a run pauses the campaign."""
    return length >= LONGEST_RUN


def reason(case: Case, length: int, reply: str) -> str:
    """Why it was paused: a sentence for people."""
    return f"{BLAMELESS[case]}: {length} refusals in a row, the last one: {reply}"
