"""One line an attempt: what it holds, and what it never does."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from mailtasks.logs import JsonFormatter, attempts_log, log_attempt, mask
from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.state import State

REFUSED = Outcome(Stage.RCPT, How.REFUSED, Reply(550, "<ann@example.com>: no such user", "5.1.1"))
SENT = Outcome(Stage.DOT, How.ACCEPTED, Reply(250, 'ok queued as "X"', "2.0.0"), dot_begun=True)
LOST = Outcome(Stage.CONNECT, How.LOST, detail="connection refused")


def attempt(outcome: Outcome, state: State, **more: Any) -> dict[str, Any]:
    return {
        "id": "0abc.0",
        "recipient": "ann@example.com",
        "relay": "mx:25",
        "outcome": outcome,
        "state": state,
        "seconds": 0.0123,
        "attempt": 2,
        "masked": False,
        **more,
    }


def test_the_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_attempt(**attempt(SENT, State.SENT))
    [record] = caplog.records
    assert (record.name, record.levelname) == ("mailtasks.attempts", "INFO")
    assert record.getMessage() == (
        "id=0abc.0 to=ann@example.com relay=mx:25 domain=example.com stage=dot code=250 state=sent ms=12 "
        r'attempt=2 reply="250 2.0.0 ok queued as \"X\""'
    )


def test_without_a_reply_there_is_what_happened(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_attempt(**attempt(LOST, State.DEFERRED))
    assert "stage=connect state=deferred" in caplog.text
    assert 'reply="connection refused"' in caplog.text
    assert "code=" not in caplog.text


@pytest.mark.parametrize(
    ("state", "level"), [(State.FAILED, "WARNING"), (State.IN_DOUBT, "WARNING"), (State.DEFERRED, "INFO")]
)
def test_what_a_person_should_see_is_a_warning(
    caplog: pytest.LogCaptureFixture, state: State, level: str
) -> None:
    with caplog.at_level(logging.INFO):
        log_attempt(**attempt(REFUSED, state))
    assert [record.levelname for record in caplog.records] == [level]


def test_masked_in_the_relays_words_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_attempt(**attempt(REFUSED, State.FAILED, masked=True))
    assert "ann@" not in caplog.text + str(caplog.records[0].mailtasks)
    assert "to=a***@example.com" in caplog.text


def test_masked_are_the_senders_address_and_other_spellings(caplog: pytest.LogCaptureFixture) -> None:
    words = Reply(550, "mail from shop@example.org to <ANN@Example.COM>: denied")
    with caplog.at_level(logging.INFO):
        log_attempt(**attempt(Outcome(Stage.RCPT, How.REFUSED, words), State.FAILED, masked=True))
    assert 'reply="550 mail from s***@example.org to <A***@Example.COM>: denied"' in caplog.text


def test_a_line_stays_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_attempt(**attempt(Outcome(Stage.CONNECT, How.LOST, detail="two\nlines"), State.DEFERRED))
    assert caplog.records[0].getMessage().endswith(r'reply="two\nlines"')


def test_nothing_is_made_that_nobody_reads(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger=attempts_log.name):
        log_attempt(**attempt(SENT, State.SENT))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("address", "masked"),
    [("ann@example.com", "a***@example.com"), ("@x", "***@x"), ("nonsense", "***"), ("", "***")],
)
def test_mask(address: str, masked: str) -> None:
    assert mask(address) == masked


def test_as_json_the_fields_are_the_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_attempt(**attempt(REFUSED, State.FAILED))
    line = json.loads(JsonFormatter().format(caplog.records[0]))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "mailtasks.attempts",
        "id": "0abc.0",
        "to": "ann@example.com",
        "relay": "mx:25",
        "domain": "example.com",
        "stage": "rcpt",
        "code": 550,
        "state": "failed",
        "ms": 12,
        "attempt": 2,
        "reply": "550 5.1.1 <ann@example.com>: no such user",
    }


def test_any_other_line_as_json(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise RuntimeError("oh\nno")
    except RuntimeError:
        logging.getLogger("elsewhere").exception("it %s", "broke")
    text = JsonFormatter().format(caplog.records[0])
    assert "\n" not in text
    line = json.loads(text)
    assert (line["message"], line["level"], line["logger"]) == ("it broke", "error", "elsewhere")
    assert line["exception"].endswith("RuntimeError: oh\nno")
