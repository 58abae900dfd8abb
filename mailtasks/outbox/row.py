"""A row of the outbox: what it holds, what its `state` says, and what may become of it.

| state | meaning | the relay |
| --- | --- | --- |
| `waiting` | written, not known to be in the ledger | takes it, in the order of `id` |
| `accepted` | in the ledger, and kept | looks at `look_at` what became of it |
| `final` | every recipient of its mail is final; `outcome` says how it ended | leaves it alone |
| `aside` | it can't be moved; `error` says why | leaves it alone, until a person says otherwise |

While Redis refuses a row that waits, and it may be Redis' fault, `error` says why, and `look_at` until when
it is tried before it is set aside.

A row is a batch: what was sent in one call and is alike in priority and times, up to a hundred messages.
The ledger takes a batch as a whole or not at all, by its id, so a row may be moved any number of times.
The id isn't unique here: a second mail with the same idempotency key is a second row, and the ledger tells
whether it is the same mail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from mailtasks.errors import SettingsError
from mailtasks.outbox.content import encode
from mailtasks.relay import either
from mailtasks.store.records import NewBatch

DEFAULT_NAME: Final = "mailtasks_outbox"  # of the table
ROWS_A_ROUND: Final = 200
BYTES_A_ROUND: Final = 8_000_000  # of content, unless a single row has more


class Keep(StrEnum):
    """How long a row stays."""

    UNTIL_ACCEPTED = "until_accepted"  # the ledger holds the mail
    UNTIL_FINAL = "until_final"  # every recipient of its mail is final; accepted anew if Redis loses it
    FOREVER = "forever"  # the same, and then it stays with its outcome; you delete it


KEEPS: Final[Sequence[str]] = tuple(f'"{keep}"' for keep in Keep)  # for sentences


class RowState(StrEnum):
    """Where a row is; see the table above."""

    WAITING = "waiting"
    ACCEPTED = "accepted"
    FINAL = "final"
    ASIDE = "aside"


@dataclass(frozen=True, slots=True)
class Row:
    """A row that was taken, as it was then."""

    id: int
    batch: str
    content: bytes
    keep: str
    state: str
    written_at: datetime
    accepted_at: datetime | None
    seen_at: datetime | None
    look_at: datetime | None

    @property
    def patient_until(self) -> datetime | None:
        """When it is set aside if the ledger still refuses it; None: it has never refused it."""
        return self.look_at if self.state == RowState.WAITING else None


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a row: it is deleted, if there are no values."""

    row: Row
    values: dict[str, Any] | None

    @classmethod
    def deleted(cls, row: Row) -> Change:
        """It has served."""
        return cls(row, None)

    @classmethod
    def accepted(cls, row: Row, now: datetime, look_at: datetime) -> Change:
        """The ledger has it."""
        first = row.accepted_at or now
        state = RowState.ACCEPTED.value
        times = {"accepted_at": first, "seen_at": now, "look_at": look_at}
        return cls(row, {"state": state, **times, "error": None})

    @classmethod
    def final(cls, row: Row, now: datetime, outcome: dict[str, str]) -> Change:
        """All of it has come to an end."""
        values = {"state": RowState.FINAL.value, "seen_at": now, "look_at": None, "final_at": now}
        return cls(row, {**values, "outcome": outcome})

    @classmethod
    def refused(cls, row: Row, error: str, patient_until: datetime) -> Change:
        """The ledger doesn't take it, and it isn't known whose fault that is."""
        return cls(row, {"state": RowState.WAITING.value, "look_at": patient_until, "error": error})

    @classmethod
    def aside(cls, row: Row, error: str) -> Change:
        """A person has to look."""
        return cls(row, {"state": RowState.ASIDE.value, "look_at": None, "error": error})

    @property
    def set_aside_for(self) -> str | None:
        """Why the row is set aside, if it is."""
        values = self.values or {}
        return values["error"] if values.get("state") == RowState.ASIDE else None


def written(batch: NewBatch, keep: Keep, now: datetime) -> dict[str, Any]:
    """The values of a new row; those that aren't here are null."""
    content = encode(batch)
    return {
        "batch": batch.id,
        "content": content,
        "size": len(content),
        "keep": keep.value,
        "state": RowState.WAITING.value,
        "written_at": now,
    }


def released(now: datetime) -> dict[str, Any]:
    """The values of a row that a person lets the relay try again."""
    return {
        "state": RowState.WAITING.value,
        "look_at": None,
        "error": None,
        "seen_at": now,  # somebody has looked, and knows that it isn't to be forgotten
    }


def as_keep(given: Keep | str) -> Keep:
    """What was given, if it is one.

    Raises:
        SettingsError: it is none.
    """
    try:
        return Keep(given)
    except ValueError:
        raise SettingsError(f"keep={given!r} is unknown; expected {either(KEEPS)}") from None


def stays(keep: str) -> bool:
    """Whether a row stays once the ledger has its mail."""
    return keep != Keep.UNTIL_ACCEPTED


def fitting(found: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Of ids and sizes in bytes: as many of the first ids as have room in a round together; at least one."""
    total = 0
    for id, size in found:
        if total and total + size > BYTES_A_ROUND:
            return
        total += size
        yield id


def octets(content: Any) -> bytes:
    """SQLite keeps whatever a hand puts into a column; what isn't octets will not be readable."""
    return bytes(content) if isinstance(content, bytes | memoryview) else str(content).encode()


def utc(moment: datetime | None) -> datetime | None:
    """In UTC, as it was written: a database forgets the zone, or gives it in another."""
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
