"""How a campaign stands, told from its record and from the states of its rows."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from mailtasks.campaign.status import status_of
from mailtasks.message import Priority
from mailtasks.state import State
from mailtasks.store.campaigns import CampaignRecord

FUTURE = time.time() + 3600


def a_record(**fields: Any) -> CampaignRecord:
    return CampaignRecord("u", "spring", **{"begun": 1.5, "rows": 3, "complete": 2.0, **fields})


@pytest.mark.parametrize(
    ("fields", "states", "state", "is_over"),
    [
        ({"complete": 0.0}, {State.QUEUED: 3}, "open", False),
        ({"complete": 0.0}, {State.SENT: 3}, "open", False),
        ({}, {State.SENT: 2, State.DEFERRED: 1}, "running", False),
        ({"begins": FUTURE}, {State.QUEUED: 3}, "scheduled", False),
        ({"begins": FUTURE}, {State.SUPPRESSED: 3}, "finished", True),
        ({"begins": 1.0}, {State.QUEUED: 3}, "running", False),
        ({}, {State.SENT: 1, State.FAILED: 1, State.IN_DOUBT: 1}, "finished", True),
        ({"state": "paused"}, {State.QUEUED: 3}, "paused", False),
        ({"state": "paused", "complete": 0.0}, {State.SENT: 3}, "paused", False),
        ({"state": "paused"}, {State.SENT: 3}, "finished", True),
        ({"state": "cancelled"}, {State.SENDING: 1, State.CANCELLED: 2}, "cancelled", False),
        ({"state": "cancelled"}, {State.SENT: 1, State.CANCELLED: 2}, "cancelled", True),
    ],
)
def test_its_state(fields: Any, states: Any, state: str, is_over: bool) -> None:
    status = status_of(a_record(**fields), states)
    assert (status.state, status.is_over) == (state, is_over)
    assert status.unfinished == sum(
        states.get(one, 0) for one in (State.QUEUED, State.SENDING, State.DEFERRED)
    )


def test_all_states_are_told_and_what_isnt_set_is_none() -> None:
    status = status_of(a_record(), {State.SENT: 3})
    assert status.states == {state: 3 if state is State.SENT else 0 for state in State}
    assert (status.rate, status.begins_at, status.ends_at, status.finished_at) == (None, None, None, None)


def test_it_is_json() -> None:
    record = a_record(
        rate=2.5,
        tags=("a",),
        priority=Priority.NORMAL,
        subject="Hi",
        state="paused",
        reason="lunch",
        ends=4.0,
    )
    told = json.loads(json.dumps(status_of(record, {State.QUEUED: 3}).as_dict()))
    assert told["states"].pop("queued") == 3
    assert set(told.pop("states").values()) == {0}
    assert told == {
        "name": "spring",
        "state": "paused",
        "rows": 3,
        "begun_at": "1970-01-01T00:00:01.500+00:00",
        "reason": "lunch",
        "begins_at": None,
        "ends_at": "1970-01-01T00:00:04.000+00:00",
        "finished_at": None,
        "rate": 2.5,
        "priority": "normal",
        "subject": "Hi",
        "tags": ["a"],
    }
