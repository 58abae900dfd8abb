"""What can be asked about: a message and its recipients, the queue, the figures. Plain data.

Times are aware datetimes in UTC, durations seconds. `as_dict` gives what `--json` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from mailtasks.message import Priority
from mailtasks.state import LAPSES_BEFORE_ASIDE, State, summarise
from mailtasks.suppression import Suppression


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """One envelope recipient."""

    address: str
    state: State
    attempts: int = 0  # counted ones: a relay that could not be reached counts nothing
    reply: str = ""  # the relay's last words, or what happened instead
    relay: str = ""  # host:port
    worker: str = ""  # who tried last
    tried_at: datetime | None = None
    took: float | None = None  # seconds of the last attempt
    next_attempt: datetime | None = None  # if deferred
    resends: int = 0  # times it was sent again out of doubt, by policy or by a person
    suppression: Suppression | None = None  # if it is suppressed: what the list said when it became so

    @property
    def may_have_arrived(self) -> bool:
        """Whether an earlier attempt may have reached the relay, though this isn't `sent`."""
        return self.state is State.IN_DOUBT or (self.state is not State.SENT and self.resends > 0)


@dataclass(frozen=True, slots=True)
class MessageStatus:
    """One message: its own state is the most telling of its recipients' states."""

    id: str
    priority: Priority
    subject: str
    message_id: str  # the Message-ID header
    accepted_at: datetime
    send_at: datetime  # not tried before; accepted_at, if nothing else was asked for
    expires_at: datetime
    finished_at: datetime | None
    recipients: tuple[RecipientStatus, ...]
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    claimed_by: str = ""  # the worker that holds its lease

    @property
    def state(self) -> State:
        """The message's own state, derived (see `mailtasks.state.summarise`)."""
        return summarise(recipient.state for recipient in self.recipients)

    @property
    def attempts(self) -> int:
        """Of the recipient that was tried most often."""
        return max(recipient.attempts for recipient in self.recipients)

    @property
    def most_telling(self) -> RecipientStatus:
        """The recipient that the message's state comes from."""
        return next(recipient for recipient in self.recipients if recipient.state is self.state)

    @property
    def reply(self) -> str:
        """The last words about that recipient."""
        return self.most_telling.reply

    def about(self, fits: Callable[[RecipientStatus], bool]) -> MessageStatus:
        """The same message as those of its recipients see it that fit: `state` and `reply` are theirs."""
        return replace(self, recipients=tuple(filter(fits, self.recipients)))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: derived values first, times in ISO 8601."""
        derived = {"id": self.id, "state": self.state, "attempts": self.attempts, "reply": self.reply}
        return _plain_dict(derived | asdict(self))


@dataclass(frozen=True, slots=True)
class ResponseTimes:
    """From accept, or `send_at`, to the relay's 2xx; over the last hour, from buckets a tenth wide."""

    count: int
    average: float | None  # seconds
    median: float | None
    percentile_95: float | None


@dataclass(frozen=True, slots=True)
class Stats:
    """The figures of a whole installation."""

    accepted: int  # recipients, since the beginning; the sum of `states`
    states: Mapping[State, int]
    tallies: Mapping[str, int]  # doubts, resends, lapses and so on, since the beginning
    sent_per_second: float  # over the last five whole minutes
    sent_last_hour: int
    failed_last_hour: int  # failed and expired
    deferrals_last_hour: int
    success_rate: float | None  # of what came to an end in the last hour; None: nothing did
    response_times: Mapping[str, ResponseTimes]  # "all" and by priority
    suppressions: int = 0  # addresses that are on the suppression list

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return _plain_dict(asdict(self))


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What is unfinished in one priority."""

    priority: Priority
    recipients: int  # queued, sending or deferred
    batches: int
    due: int  # batches whose time has come
    next_due: datetime | None  # None: nothing, or all of it waits behind gates
    oldest: datetime | None  # accepted; of the thousand batches that are due first
    hints: int  # tasks waiting in its Celery queue
    paused: bool
    waiting: Mapping[str, int]  # batches behind gates, such as {"pause": 3, "rate": 40}
    in_doubt: int = 0  # recipients, held until they are settled; not among those above

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return _plain_dict(asdict(self))


_SET_ASIDE: Final = {
    True: (
        f"after {LAPSES_BEFORE_ASIDE} lapsed claims, the last workers that took it having died or hung",
        "mend the cause",
    ),
    False: ("because its records can't be read", "mend what the workers' log says of it"),
}


@dataclass(frozen=True, slots=True)
class SetAside:
    """A batch that isn't tried again by itself, since it may kill whoever tries, or can't be read."""

    id: str  # of its first message that isn't finished: to `retry` that brings back the whole batch
    priority: Priority
    set_aside_at: datetime
    lapses: int  # claims of it that lapsed one after the other; fewer than three: it can't be read

    @property
    def reply(self) -> str:
        """Why, and what to do, where a message has the relay's last words."""
        why, what = _SET_ASIDE[self.lapses >= LAPSES_BEFORE_ASIDE]
        return f"set aside {why}; {what}, then `mailtasks retry {self.id}`"

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in which it stands among messages; whose they are may not be readable."""
        told = {"id": self.id, "state": "set_aside", "reply": self.reply, "recipients": ()}
        return _plain_dict(told | asdict(self))


@dataclass(frozen=True, slots=True)
class Stray:
    """A batch that the sweep found where the mechanism should not have left it. There should be none."""

    batch: str
    found: str  # what was wrong; it is mended, or looked at now

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BlobStatus:
    """The large attachments that are stored at the moment."""

    where: str  # for people
    stored: int  # each once, however many mails have it
    bytes: int  # of them, before they are encoded
    cap: int | None  # bytes that there may be; None: no limit, since they aren't in Redis
    being_stored: int  # by producers, or left behind by such that died
    being_deleted: int
    elsewhere: Mapping[str, int]  # by kind of store, those that lie where `blobs` pointed before

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return _plain_dict(asdict(self))


@dataclass(frozen=True, slots=True)
class Doubt:
    """One recipient whose mail the relay may have taken without our knowing. Held until it is settled."""

    id: str  # of its message
    address: str
    since: datetime
    relay: str  # where: host:port; "" if its claim was lost before that was noted
    worker: str
    reply: str  # what was said, or what happened instead
    resends: int  # times it was sent again out of doubt already
    priority: Priority
    subject: str
    message_id: str  # the Message-ID header, to look for in the relay's log

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return _plain_dict(asdict(self))


@dataclass(frozen=True, slots=True)
class RetryReport:
    """What a retry or a resend did, or would do."""

    retried: int = 0  # recipients
    bodiless: int = 0  # can't be sent again: their body is gone
    hard_bounces: int = 0  # left alone: the address is refused for good, and `force` was not given
    doubtful: int = 0  # left alone: it was resent out of doubt and may have arrived; likewise
    suppressed: int = 0  # left alone: the address is on the suppression list
    bodiless_ids: tuple[str, ...] = ()  # the messages of those whose body is gone

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def _plain_dict(values: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat(timespec="milliseconds")
        case Mapping():
            return _plain_dict(value)
        case list() | tuple():
            return [_plain(item) for item in value]
        case State() | Priority():
            return value.value
    return value
