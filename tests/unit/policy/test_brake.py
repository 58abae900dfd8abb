"""Which refusals pause a campaign."""

from __future__ import annotations

import pytest

from mailtasks.policy.brake import BLAMELESS, LONGEST_RUN, Run, is_too_long, reason, run_at_end
from mailtasks.policy.verdict import CONSEQUENCES, Case, Destination

REFUSED, SPENT, UNKNOWN = Case.SENDER_REFUSED, Case.QUOTA_SPENT, Case.RECIPIENT_UNKNOWN


@pytest.mark.parametrize(
    ("cases", "run"),
    [
        ([], Run()),
        ([Case.SENT, Case.SENT], Run(is_broken=True)),
        ([REFUSED] * 3, Run(REFUSED, 3)),
        ([REFUSED, UNKNOWN, REFUSED], Run(REFUSED, 2)),
        ([REFUSED, Case.SENT, REFUSED], Run(REFUSED, 1, is_broken=True)),
        ([REFUSED, REFUSED, Case.SENT], Run(is_broken=True)),
        ([REFUSED, SPENT, SPENT], Run(SPENT, 2, is_broken=True)),
        ([UNKNOWN, Case.UNTOUCHED], Run()),
    ],
)
def test_the_run_at_the_end_of_a_window(cases: list[Case], run: Run) -> None:
    assert run_at_end(cases) == run


def test_a_run_is_too_long_at_its_longest() -> None:
    assert not is_too_long(LONGEST_RUN - 1)
    assert is_too_long(LONGEST_RUN)


def test_whatever_the_reply_table_would_brake_for_brakes() -> None:
    named = {case for case, follows in CONSEQUENCES.items() if follows.destination is Destination.BRAKE}
    assert named <= set(BLAMELESS)
    assert not {case for case in BLAMELESS if case.value.startswith("recipient")}


def test_the_reason_says_what_how_often_and_in_whose_words() -> None:
    assert reason(REFUSED, 20, "550 5.7.60 not yours") == (
        "the relay refuses the sender: 20 refusals in a row, the last one: 550 5.7.60 not yours"
    )
