"""Log lines: one structured line an attempt, text or JSON. No bodies or passwords; addresses masked on wish.

The line's fields are in the record as well (`record.mailtasks`), for a handler of one's own.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from mailtasks.reply import Outcome
from mailtasks.state import State

attempts_log = logging.getLogger("mailtasks.attempts")

_ADDRESS: Final = re.compile(r"""[^\s<>()"',:;]+@[^\s<>()"',:;]+""")
_NEEDS_QUOTES: Final = re.compile(r"""[\s"=\\]""")

_LEVELS: Final[Mapping[State, int]] = {
    State.FAILED: logging.WARNING,
    State.IN_DOUBT: logging.WARNING,
}


def mask(address: str) -> str:
    """`ann@example.com` → `a***@example.com`: enough to talk about, not enough to write to."""
    local, at, domain = address.rpartition("@")
    return f"{local[:1]}***{at}{domain}" if at else "***"


def mask_all(text: str) -> str:
    """Every address in a text: a relay may repeat the sender's, or the recipient's in other letters."""
    return _ADDRESS.sub(lambda found: mask(found[0]), text)


def log_attempt(
    *,
    id: str,
    recipient: str,
    relay: str,
    outcome: Outcome,
    state: State,
    seconds: float,
    attempt: int,
    masked: bool,
) -> None:
    """Write one attempt's line to the logger `mailtasks.attempts`.

    Args:
        masked: whether addresses are masked, in the relay's words, too.
    """
    level = _LEVELS.get(state, logging.INFO)
    if not attempts_log.isEnabledFor(level):
        return
    reply = outcome.words if outcome.reply else outcome.detail
    fields = {
        "id": id,
        "to": mask(recipient) if masked else recipient,
        "relay": relay,
        "domain": recipient.rpartition("@")[2],
        "stage": outcome.stage.value,
        "code": outcome.reply.code if outcome.reply else None,
        "state": state.value,
        "ms": round(seconds * 1000),
        "attempt": attempt,
        "reply": mask_all(reply) if masked else reply,
    }
    attempts_log.log(level, "%s", _as_text(fields), extra={"mailtasks": fields})


def _as_text(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_quoted(value)}" for name, value in fields.items() if value not in (None, ""))


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if _NEEDS_QUOTES.search(text) else text


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message or an attempt's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields = getattr(record, "mailtasks", None)
        line |= fields if fields is not None else {"message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
