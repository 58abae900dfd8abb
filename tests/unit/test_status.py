"""What is shown of messages, queues and figures."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

from mailtasks.message import Priority
from mailtasks.state import State
from mailtasks.status import MessageStatus, QueueStatus, RecipientStatus, ResponseTimes, RetryReport, Stats

AT = datetime(2030, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
MESSAGE = MessageStatus(
    id="B.0",
    priority=Priority.URGENT,
    subject="Zürich",
    message_id="<B.0@example.com>",
    accepted_at=AT,
    send_at=AT,
    expires_at=AT,
    finished_at=None,
    recipients=(
        RecipientStatus("a@example.com", State.SENT, attempts=1, reply="250 Ok", tried_at=AT, took=0.5),
        RecipientStatus("b@example.com", State.DEFERRED, attempts=3, reply="451 later", next_attempt=AT),
    ),
    tags=("news",),
    metadata={"order": "42"},
)


def test_a_message_is_told_by_its_most_telling_recipient() -> None:
    assert (MESSAGE.state, MESSAGE.attempts, MESSAGE.reply) == (State.DEFERRED, 3, "451 later")
    only = replace(MESSAGE, recipients=MESSAGE.recipients[:1])
    assert (only.state, only.attempts, only.reply) == (State.SENT, 1, "250 Ok")


def test_a_message_about_some_of_its_recipients() -> None:
    told = MESSAGE.about(lambda recipient: recipient.address == "a@example.com")
    assert (told.id, told.state, told.reply) == ("B.0", State.SENT, "250 Ok")


def test_a_message_as_json() -> None:
    shown = MESSAGE.as_dict()
    assert list(shown)[:4] == ["id", "state", "attempts", "reply"]
    assert (shown["state"], shown["priority"], shown["finished_at"]) == ("deferred", "urgent", None)
    assert shown["accepted_at"] == "2030-01-02T03:04:05.678+00:00"
    assert shown["recipients"][1]["next_attempt"] == "2030-01-02T03:04:05.678+00:00"
    assert (shown["tags"], shown["metadata"]) == (["news"], {"order": "42"})
    assert json.loads(json.dumps(shown)) == shown


def test_figures_as_json() -> None:
    none = ResponseTimes(0, None, None, None)
    stats = Stats(1, {State.SENT: 1, State.IN_DOUBT: 0}, {"doubts": 0}, 0.5, 1, 0, 0, 1.0, {"all": none})
    shown = stats.as_dict()
    assert shown["states"] == {"sent": 1, "in_doubt": 0}
    assert shown["response_times"]["all"]["average"] is None
    assert json.loads(json.dumps(shown)) == shown


def test_a_queue_as_json() -> None:
    queue = QueueStatus(Priority.BULK, 3, 2, 1, AT, None, 5, True, {"pause": 1})
    shown = queue.as_dict()
    assert (shown["priority"], shown["oldest"], shown["paused"]) == ("bulk", None, True)
    assert shown["waiting"] == {"pause": 1}
    assert json.loads(json.dumps(shown)) == shown


def test_a_retry_as_json() -> None:
    assert RetryReport(retried=2).as_dict() == {
        "retried": 2,
        "bodiless": 0,
        "hard_bounces": 0,
        "doubtful": 0,
        "suppressed": 0,
        "bodiless_ids": (),
    }
