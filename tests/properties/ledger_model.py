"""What the ledger should do, in plain Python: no Redis, no keys, one recipient a small object.

`test_ledger.py` plays the same moves against this and against the real one, and compares.
Times are milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mailtasks.message import PRIORITIES, Priority
from mailtasks.state import LAPSES_BEFORE_ASIDE, UNFINISHED, State
from mailtasks.store.ledger import Limits, Refusal, Result

BY_HAND = "a person"
LATEST_KEPT = 50  # additions to the suppression list that are remembered one by one


@dataclass
class Recipient:
    state: State = State.QUEUED
    due: int = 0  # if deferred
    attempts: int = 0
    resends: int = 0
    reported_by: str = ""  # the token of the claim that reported its last attempt
    in_window: tuple[str, int] = ("", -1)  # if nobody did: of the step that claimed it


@dataclass
class Found:
    """What holding a batch against the suppression list has brought."""

    token: str
    before: int  # the mark
    mark: int
    listed: set[int]
    withheld: set[int]


@dataclass
class Batch:
    priority: Priority
    sizes: Sequence[int]  # recipients of each message
    accepted: int
    not_before: int
    expires: int
    mailboxes: Sequence[str]
    checked: int = 0  # the suppression list's mark when it was held against it
    recipients: list[Recipient] = field(default_factory=list)
    found: Found | None = None  # by whoever holds the lease
    token: str = ""
    lease: int = 0
    lapses: int = 0
    is_aside: bool = False
    applied: tuple[str, int] = ("", -1)  # the last step: token, number

    def __post_init__(self) -> None:
        self.recipients = [Recipient() for _ in range(sum(self.sizes))]

    def having(self, *states: State) -> Iterator[Recipient]:
        return (recipient for recipient in self.recipients if recipient.state in states)

    def messages(self) -> Iterator[range]:
        first = 0
        for size in self.sizes:
            yield range(first, first + size)
            first += size

    @property
    def window(self) -> list[int]:
        return [index for index, one in enumerate(self.recipients) if one.state is State.SENDING]

    @property
    def unfinished(self) -> bool:
        return any(self.having(*UNFINISHED))

    @property
    def codes(self) -> str:
        return "".join(recipient.state.code for recipient in self.recipients)


class Model:
    """All batches, the clock, and who is paused."""

    def __init__(self, limits: Limits, now: int) -> None:
        self.limits = limits
        self.now = now
        self.looked: int | None = None
        self.quiet_until = 0
        self.paused: set[str] = set()
        self.batches: dict[str, Batch] = {}
        self.tallies: Counter[str] = Counter()
        self.lease = int(limits.lease * 1000)
        self.suppressed: set[str] = set()
        self.mark = 0
        self.latest: list[tuple[int, str]] = []  # additions and their marks

    @property
    def is_quiet(self) -> bool:
        jumped = self.looked is not None and abs(self.now - self.looked) > self.limits.jump * 1000
        return jumped or self.now < self.quiet_until

    def is_paused(self, batch: Batch) -> bool:
        return bool(self.paused & {"all", batch.priority})

    # Producers

    def accept(self, id: str, batch: Batch) -> None:
        self.batches[id] = batch
        batch.checked = self.mark
        for recipient, mailbox in zip(batch.recipients, batch.mailboxes, strict=True):
            if mailbox in self.suppressed:
                recipient.state = State.SUPPRESSED

    # The suppression list

    def enlist(self, mailboxes: Sequence[str]) -> int:
        """How many are new."""
        added = [it for it in dict.fromkeys(mailboxes) if it not in self.suppressed]
        if added:
            self.mark += 1
            self.suppressed.update(added)
            self.latest = [*((self.mark, it) for it in reversed(added)), *self.latest][:LATEST_KEPT]
        return len(added)

    def check(self, batch: Batch, token: str) -> None:
        """What whoever has claimed a window learns beside it."""
        batch.found = None
        if batch.checked != self.mark:
            marks = [mark for mark, _ in self.latest]
            known = marks.index(batch.checked) if batch.checked in marks else None
            listed = self.suppressed if known is None else {it for _, it in self.latest[:known]}
            found = {index for index, it in enumerate(batch.mailboxes) if it in listed}
            batch.found = Found(token, batch.checked, self.mark, found, found & set(batch.window))

    def suppress(self, batch: Batch, token: str) -> None:
        """What it makes of that with its next step."""
        found = batch.found
        if found is None or found.token != token:
            return
        for index in found.listed:
            recipient = batch.recipients[index]
            is_withheld = recipient.state is State.SENDING and index in found.withheld
            if batch.mailboxes[index] in self.suppressed:
                if is_withheld or recipient.state in (State.QUEUED, State.DEFERRED):
                    recipient.state = State.SUPPRESSED
            elif is_withheld:
                recipient.state = State.QUEUED
        if found.before == batch.checked:
            batch.checked = found.mark

    # The pump

    def look(self, due: Sequence[str]) -> None:
        if self.looked is not None and abs(self.now - self.looked) > self.limits.jump * 1000:
            self.quiet_until = self.now + self.lease
        self.looked = self.now
        for id in due:
            self._look(self.batches[id])

    def _look(self, batch: Batch) -> None:
        batch.lease = min(batch.lease, self.now + self.lease)
        if batch.token and (batch.lease > self.now or self.is_quiet):
            return
        if batch.token:
            self.lapse(batch)
        if self.now >= batch.expires and not self.is_quiet:
            self.expire(batch)

    def lapse(self, batch: Batch) -> None:
        for recipient in batch.having(State.SENDING):
            self.abandon(batch, recipient)
        batch.lapses += 1
        batch.token = ""
        self.tallies["lapses"] += 1

    def doubt(self, batch: Batch, recipient: Recipient) -> None:
        self.tallies["doubts"] += 1
        recipient.state = State.IN_DOUBT
        if (
            self.limits.doubt[batch.priority] == "resend"
            and not recipient.resends
            and self.now < batch.expires
        ):
            self.tallies["resends"] += 1
            recipient.state, recipient.resends = State.QUEUED, 1
        else:
            self.tallies["held"] += 1

    def abandon(self, batch: Batch, recipient: Recipient) -> None:
        self.doubt(batch, recipient)
        recipient.reported_by, recipient.in_window = "", batch.applied
        self.tallies["abandoned"] += 1

    def expire(self, batch: Batch) -> None:
        for recipient in batch.having(State.QUEUED, State.DEFERRED):
            recipient.state = State.EXPIRED

    # Workers

    def step(
        self,
        id: str,
        token: str,
        number: int,
        results: Sequence[Result],
        *,
        most: int | None,
        more: bool = True,
    ) -> tuple[Refusal | None, int]:
        """Why the claim is over (None: it isn't), and the evidence that was taken."""
        batch = self.batches[id]
        repeated = batch.applied == (token, number)
        if batch.applied[0] == token and number < batch.applied[1]:
            return Refusal.LOST, 0
        over = bool(batch.token) and batch.lease <= self.now and not self.is_quiet
        if repeated and (over or batch.token != token):
            return Refusal.NOTHING, 0
        if over:
            self.lapse(batch)
        if batch.token != token and number > 0:
            return Refusal.LOST, self.take_evidence(batch, (token, number - 1), results)
        if batch.token != token and batch.token:
            return Refusal.TAKEN, 0
        if not repeated:
            self.settle(batch, token, results)
            self.suppress(batch, token)
            self.tallies["bounced"] += self.enlist(self.bounces)
        if self.now >= batch.expires and not self.is_quiet:
            self.expire(batch)
        if not more:
            return self.give_back(batch, token, number, repeated), 0
        return self.claim(batch, token, number, repeated, most), 0

    def settle(self, batch: Batch, token: str, results: Sequence[Result]) -> None:
        self.bounces: list[str] = []
        for result in results:
            recipient = batch.recipients[result.index]
            if result.state is State.SENT:
                self.settle_as_sent(recipient, token, result)
            elif recipient.state is State.SENDING:
                self.settle_otherwise(batch, recipient, token, result)
        if results:
            batch.lapses = 0

    def settle_as_sent(self, recipient: Recipient, token: str, result: Result) -> bool:
        news = recipient.state is not State.SENT
        if not news and recipient.reported_by == token:
            return False
        self.tallies["duplicates"] += not news and recipient.reported_by != BY_HAND
        recipient.state, recipient.reported_by = State.SENT, token
        recipient.attempts += result.counted
        return news

    def settle_otherwise(self, batch: Batch, recipient: Recipient, token: str, result: Result) -> None:
        recipient.state = result.state
        if result.state is State.FAILED and result.suppress_after:
            self.bounces.append(batch.mailboxes[result.index])
        if result.state is State.DEFERRED:
            recipient.due = self.now + int(result.delay * 1000)
        if result.state is State.IN_DOUBT:
            self.doubt(batch, recipient)
        if result.state is not State.QUEUED:
            recipient.attempts += result.counted
            recipient.reported_by = token

    def take_evidence(self, batch: Batch, window: tuple[str, int], results: Sequence[Result]) -> int:
        news = 0
        for result in results:
            recipient = batch.recipients[result.index]
            if result.state is State.SENT:
                news += self.settle_as_sent(recipient, window[0], result)
            elif self.is_unbegun(recipient, result, window):
                recipient.state = State.QUEUED
                batch.checked = 0
                news += 1
        self.tallies["late_evidence"] += news
        return news

    @staticmethod
    def is_unbegun(recipient: Recipient, result: Result, window: tuple[str, int]) -> bool:
        """In doubt only for having been in this window, of which its owner says that it never began it."""
        freed = (result.state, recipient.state) == (State.QUEUED, State.IN_DOUBT)
        return freed and not recipient.reported_by and recipient.in_window == window

    def settle_the_rest(self, batch: Batch, repeated: bool) -> None:
        for recipient in batch.having(State.SENDING):
            if repeated:
                recipient.state = State.QUEUED
            else:
                self.abandon(batch, recipient)

    def give_back(self, batch: Batch, token: str, number: int, repeated: bool) -> Refusal:
        self.settle_the_rest(batch, repeated)
        batch.token, batch.applied = "", (token, number)
        return Refusal.NOTHING

    def claim(
        self, batch: Batch, token: str, number: int, repeated: bool, most: int | None
    ) -> Refusal | None:
        if not repeated:
            self.settle_the_rest(batch, repeated)
        if not batch.window and (self.is_paused(batch) or batch.lapses >= LAPSES_BEFORE_ASIDE):
            batch.token, batch.applied = "", (token, number)
            return Refusal.PAUSED if self.is_paused(batch) else Refusal.ASIDE
        for index in batch.window or self.choose(batch, most):
            batch.recipients[index].state = State.SENDING
        if not batch.window:
            return self.give_back(batch, token, number, repeated)
        batch.token, batch.lease, batch.applied = token, self.now + self.lease, (token, number)
        self.check(batch, token)
        return None

    def choose(self, batch: Batch, most: int | None) -> list[int]:
        if self.now >= batch.expires:
            return []
        window = self.limits.windows[batch.priority]
        ready = [[i for i in message if self.is_sendable(batch, i)] for message in batch.messages()]
        return [
            index
            for message in [each for each in ready if each][: min(window, most or window)]
            for index in message
        ]

    def begins(self, batch: Batch) -> int:
        """At once, whatever has become of the clock, unless it is planned for later."""
        at_once = batch.not_before == batch.accepted
        return min(batch.not_before, self.now) if at_once else batch.not_before

    def is_sendable(self, batch: Batch, index: int) -> bool:
        recipient = batch.recipients[index]
        if recipient.state is State.QUEUED:
            return self.begins(batch) <= self.now
        return recipient.state is State.DEFERRED and recipient.due <= self.now

    def renew(self, id: str, token: str) -> bool:
        batch = self.batches[id]
        renewed = batch.token == token and (batch.lease > self.now or self.is_quiet)
        if renewed:
            batch.lease = self.now + self.lease
        return renewed

    # The operator

    def cancel(self, id: str, indices: Sequence[int]) -> int:
        wanted = [self.batches[id].recipients[index] for index in indices]
        cancelled = [one for one in wanted if one.state in (State.QUEUED, State.DEFERRED)]
        for recipient in cancelled:
            recipient.state = State.CANCELLED
        return sum(one.state is State.CANCELLED for one in wanted)

    def retry(self, id: str, indices: Sequence[int]) -> None:
        batch = self.batches[id]
        for index in indices:
            if batch.recipients[index].state is State.IN_DOUBT:
                self.tallies["resends"] += 1
                batch.recipients[index].resends += 1
            batch.recipients[index].state = State.QUEUED
            batch.recipients[index].attempts = batch.recipients[index].due = 0
        if indices:
            before = self.begins(batch)
            begins = max(self.now, before)
            batch.expires += begins - before
            batch.not_before, batch.lapses, batch.checked = begins, 0, 0

    def settle_doubt(self, id: str, indices: Sequence[int], state: State) -> int:
        wanted = [self.batches[id].recipients[index] for index in indices]
        doubtful = [one for one in wanted if one.state is State.IN_DOUBT]
        for recipient in doubtful:
            recipient.state, recipient.reported_by = state, BY_HAND
        self.tallies["settled"] += len(doubtful)
        return len(doubtful)

    def counts(self) -> Counter[str]:
        """What the hash `counts` should hold, without its zeros."""
        counts = Counter(self.tallies)
        for batch in self.batches.values():
            counts["accepted"] += len(batch.recipients)
            counts[f"in_doubt:{batch.priority}"] += sum(1 for _ in batch.having(State.IN_DOUBT))
            counts[f"unfinished:{batch.priority}"] += sum(1 for _ in batch.having(*UNFINISHED))
            counts.update(recipient.state.value for recipient in batch.recipients)
        return +counts

    def waiting(self) -> dict[Priority, set[str]]:
        """The batches that must be in `due`."""
        return {
            priority: {id for id, one in self.batches.items() if one.priority is priority and one.unfinished}
            for priority in PRIORITIES
        }
