"""The outbox in `mailtasks check`; that `manage.py` asks for it is in the tests of Django's command."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mailtasks.cli.doctor import Level
from mailtasks.cli.outbox_check import judge_outbox, outbox_finding
from mailtasks.errors import DatabaseError
from mailtasks.outbox.report import OutboxStatus
from mailtasks.outbox.row import RowState


def status(waiting=0, aside=0, seconds=None):
    rows = dict.fromkeys(RowState, 0) | {RowState.WAITING: waiting, RowState.ASIDE: aside}
    return OutboxStatus(rows, None if seconds is None else datetime.now(UTC), seconds)


@pytest.mark.parametrize(
    ("given", "level", "found", "advice"),
    [
        (status(), Level.OK, "nothing waits", ""),
        (status(2, seconds=3.0), Level.OK, "2 rows waiting", ""),
        (
            status(1, seconds=3700.5),
            Level.FAIL,
            "1 row waiting, the oldest for 1:01:40",
            "start its relay, `mailtasks outbox run`; if one runs, its log says for what it waits",
        ),
        (status(9, aside=2, seconds=1.0), Level.FAIL, "2 rows set aside", "`mailtasks outbox list` says why"),
    ],
)
def test_what_is_said(given, level, found, advice):
    finding = judge_outbox(given)
    assert (finding.subject, finding.level, finding.found, finding.advice) == ("outbox", level, found, advice)


def test_a_table_that_isnt_there():
    class Store:
        def check(self):
            raise DatabaseError("there is no table; run `manage.py migrate`")

    finding = outbox_finding(Store())
    assert (finding.level, finding.found) == (Level.WARN, "there is no table; run `manage.py migrate`")
