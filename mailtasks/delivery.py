"""A hint becomes sent mail: claim, route, talk, settle. The whole story of a worker's thread.

The rules:

1. Nothing is sent that isn't claimed, and nothing claimed is forgotten: every recipient of a window is
   settled by name, and what can't be recorded because Redis is away is recorded again until it is.
2. No dot is begun with less than half the lease left, after the lease was lost, or while the process
   is stopping. What was not begun is given back.
3. A delivery works for a bounded time, then gives back what is left, so that priorities take turns.
4. What a failover could make somebody else send, because no replica has the claim, is given back, too.
5. What may not go yet (paused, over the rate) holds neither thread nor connection: it waits in the ledger.
6. A campaign's rows become mail when their window is claimed, and then only; whoever ends a delivery lets the
   next of the campaigns' batches have their turn.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, repeat
from shlex import quote
from typing import Final

from mailtasks.blob_cache import BlobCache, Encoded, NoRoom
from mailtasks.blobs import BlobLost, Blobs
from mailtasks.errors import PoolTimeout, RelayError, StoreError, StoreUnavailable
from mailtasks.event import (
    CHUNKING_NOT_BORNE,
    PIPELINING_NOT_BORNE,
    Attempt,
    RelayEvent,
    attempt_listeners,
    tell,
)
from mailtasks.feeder import Feeder
from mailtasks.keeper import Keeper
from mailtasks.limiter import Limiter
from mailtasks.logs import log_attempt, mask_all
from mailtasks.message import Priority
from mailtasks.pieces import Blob, blobs_in, filled
from mailtasks.policy import brake
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.policy.decision import Decision, decide
from mailtasks.policy.verdict import Destination
from mailtasks.publish import Publisher
from mailtasks.rendering import Rendering
from mailtasks.reply import How, Outcome, Stage
from mailtasks.routing import Route
from mailtasks.settings import Settings
from mailtasks.smtp.envelope import Envelope, Notifications
from mailtasks.smtp.grammar import canonical_pieces
from mailtasks.smtp.session import ConnectFailed
from mailtasks.state import State
from mailtasks.store.campaigns import Campaigns
from mailtasks.store.events import Events
from mailtasks.store.keys import uid_in
from mailtasks.store.ledger import (
    Claim,
    ClaimedMessage,
    ClaimedRecipient,
    Ledger,
    Refusal,
    Released,
    Result,
    new_claim,
)
from mailtasks.store.records import CampaignPart
from mailtasks.suppression import one_line

log = logging.getLogger(__name__)

_BEFORE_MAIL: Final = frozenset(
    {Stage.CONTENT, Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.TLS, Stage.AUTH}
)
_RECORD_AGAIN_AFTER: Final = (0.1, 0.2, 0.5, 1.0, 2.0)  # seconds; the last one again and again
_RECORD_IN_VAIN: Final = 10.0  # seconds of trying, if the process stops or Redis answers what it should not
_WORDS_KEPT: Final = (
    300  # characters of a reply; a relay may say kilobytes, and each failed recipient keeps it
)
_WAIT_FOR_CONNECTION: Final = 10.0  # seconds; then the window is given back
_WAIT_FOR_ROOM: Final = 10.0  # seconds, the same, for attachments in this process' memory


@dataclass(slots=True)
class Report:
    """What a delivery did, for the task that ran it. Holds nothing private."""

    counts: Counter[State] = field(default_factory=Counter)  # of the recipients that were claimed
    ended: Refusal | None = None
    next_attempt: float | None = None  # seconds until the earliest retry; None: nothing was deferred
    reason: str = ""  # why the last one was deferred, else was not sent: stage and code only

    def note(self, settled: _Settled) -> None:
        """Count one recipient."""
        decision, outcome = settled.decision, settled.outcome
        self.counts[decision.state] += 1
        if decision.state is State.DEFERRED:
            earlier = decision.delay if self.next_attempt is None else self.next_attempt
            self.next_attempt = min(decision.delay, earlier)
        is_stronger = decision.state is State.DEFERRED or self.next_attempt is None
        if decision.state not in (State.SENT, State.QUEUED) and is_stronger:
            code = f" {outcome.reply.code} {outcome.reply.enhanced or ''}".rstrip() if outcome.reply else ""
            self.reason = f"{decision.case} at {outcome.stage}{code}"

    def __str__(self) -> str:
        parts = [f"{count} {state}" for state, count in self.counts.items()]
        told = ", ".join(parts) or f"nothing sent ({self.ended})"
        return f"{told} ({self.reason})" if self.reason else told


class Delivery:
    """Delivers batches. One for a process, used by all of its threads.

    Args:
        owner: this worker's name, as `status` and doubt show it.
        retry_policy, limiter: what `task_annotations` say; see `mailtasks.tasks`.
        stopping: set when no dot may be begun any more.
        threads: that deliver, in this process.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        events: Events,
        publisher: Publisher,
        route: Route,
        keeper: Keeper,
        settings: Settings,
        owner: str,
        retry_policy: RetryPolicy,
        limiter: Limiter,
        stopping: threading.Event | None = None,
        threads: int = 1,
    ) -> None:
        self.ledger = ledger
        self.events = events
        self.publisher = publisher
        self.route = route
        self.keeper = keeper
        self.settings = settings
        self.owner = owner
        self.retry_policy = retry_policy
        self.limiter = limiter
        self.stopping = stopping or threading.Event()
        self._largest_window = max(ledger.limits.windows.values())
        self.campaigns = Campaigns(ledger)
        self.rendering = Rendering(self.campaigns.template, settings.size_limit)
        self.feeder = Feeder(self.campaigns, publisher, limiter, threads)
        self.blob_cache = BlobCache(settings.blob_memory, Blobs(ledger.redis, ledger.keys, settings).fetch)

    def deliver(self, batch: str, priority: Priority) -> Report:
        """Send what of a batch can be sent now, within `settings.slice` seconds or a little more.

        Raises:
            StoreUnavailable: Redis is away, so nothing was claimed. The pump hints the batch again.
            StoreError: the batch's records are damaged; it is set aside.
        """
        report = Report()
        if self.stopping.is_set():
            report.ended = Refusal.STOPPING
            self.publisher.hint([(batch, priority)])
            return report
        try:
            self._deliver(batch, priority, report)
        finally:
            if uid_in(batch) and not self.stopping.is_set():
                self._feed(priority)
        return report

    def _feed(self, priority: Priority) -> None:
        """There is room for the next batches of campaigns."""
        try:
            self.feeder.delivered(priority)
        except StoreError as error:
            log.warning("campaigns have to wait for a pump to go on: %s", error)

    def _deliver(self, batch: str, priority: Priority, report: Report) -> None:
        allowed = self.limiter.take(self._largest_window, priority)
        if not allowed:
            report.ended = self.ledger.park(batch, self.owner).why
            return
        claim = new_claim(batch, self.route.relay)
        try:
            refused = self._move(claim, (), allowed)
        except StoreError:
            self.limiter.give_back(allowed)
            raise
        if refused:
            self.limiter.give_back(allowed)
            report.ended = self._conclude(claim, refused).why
            return
        with self.keeper.keeping(claim):
            report.ended = self._work(claim, allowed, priority, report).why

    def _work(self, claim: Claim, allowed: int, priority: Priority, report: Report) -> Released:
        """Window after window, until nothing is left or the time is up."""
        ends = time.monotonic() + self.settings.slice
        while True:
            self.limiter.give_back(allowed - len(claim.window))
            report.counts.update({State.SUPPRESSED: len(claim.withheld)} if claim.withheld else {})
            settled = self._send_window(claim, report) if claim.window else []
            results = [each.result(self.route.relay, self._reason(each)) for each in settled]
            self._brake(claim, settled)  # before more is claimed
            unsafe = not claim.confirmed
            over = unsafe or self.stopping.is_set() or claim.lost or time.monotonic() > ends
            allowed = 0 if over else self.limiter.take(self._largest_window, priority)
            released = self._move(claim, results, allowed, rated=not over)
            self._record_events(settled)
            if attempt_listeners:
                _tell_listeners(settled, late=claim.lost)
            if released:
                self.limiter.give_back(allowed)
                return self._conclude(claim, replace(released, hint=released.hint and not unsafe))

    def _conclude(self, claim: Claim, released: Released) -> Released:
        """Say what somebody should know of, and hint what can go on."""
        if released.why is Refusal.LOST:
            log.warning(
                "the lease of batch %s was lost before its window was settled; %d of it was late evidence",
                claim.batch,
                released.evidence,
            )
        if released.why is Refusal.ASIDE:
            log.error(
                "batch %s is set aside, until somebody retries its messages: "
                "its last claims lapsed one after the other",
                claim.batch,
            )
        if released.hint and released.priority:
            self.publisher.hint([(claim.batch, released.priority)])
        return released

    def _move(
        self, claim: Claim, results: Sequence[Result], allowed: int, *, rated: bool = False
    ) -> Released | None:
        """Settle, and claim as many messages as are allowed, or give back; until Redis has answered.

        What was sent must be known, and a window that was claimed, though nobody was told, be sent: so the
        same move is made again and again while Redis can't.
        """
        give_up: float | None = None
        at_stake = bool(results or claim.withheld)
        for wait in chain(_RECORD_AGAIN_AFTER, repeat(_RECORD_AGAIN_AFTER[-1])):
            stopping = self.stopping.is_set()
            try:
                if allowed and not stopping:
                    return self.ledger.step(claim, self.owner, results, most=allowed)
                return self.ledger.release(claim, self.owner, results, rated=rated)
            except StoreError as error:
                away = isinstance(error, StoreUnavailable)
                at_stake |= error.unanswered
                if not at_stake:
                    raise
                if stopping or not away:
                    give_up = give_up or time.monotonic() + _RECORD_IN_VAIN
                    if time.monotonic() > give_up:
                        log.critical("the ledger could not be told of batch %s: %s", claim.batch, error)
                        raise
                log.warning("the ledger can't be told of batch %s yet: %s", claim.batch, error)
                time.sleep(wait)
        raise AssertionError("unreachable: waits never end")

    # Talk

    def _send_window(self, claim: Claim, report: Report) -> list[_Settled]:
        began = time.monotonic()
        left_alone = self.route.closed() if claim.confirmed else self._unconfirmed(claim)
        outcomes = _all_alike(claim, left_alone) if left_alone else self._talk_or_set_aside(claim)
        seconds = time.monotonic() - began
        self.limiter.give_back(sum(_is_unused(of_message) for of_message in outcomes))
        settled = [
            _Settled(message, recipient, outcome, self._decide(outcome, recipient), seconds, not left_alone)
            for message, of_message in zip(claim.window, outcomes, strict=True)
            for recipient, outcome in zip(message.recipients, of_message, strict=True)
        ]
        for each in settled:
            self._tell(each, report)
        return settled

    def _unconfirmed(self, claim: Claim) -> Outcome:
        log.warning(
            "within %g s no replica confirmed the claim of batch %s, so nothing of it is sent yet; "
            "are Redis' replicas running?",
            self.ledger.limits.confirm,
            claim.batch,
        )
        return Outcome(Stage.CONNECT, How.UNTOUCHED, detail="no replica has confirmed the claim")

    def _talk_or_set_aside(self, claim: Claim) -> list[tuple[Outcome, ...]]:
        """An exception of ours, or records that a hand has changed, must not put a window in doubt.

        Unless a dot was begun: then it lapses.
        """
        begun: list[int] = []
        try:
            return self._talk(claim, begun)
        except Exception as error:
            if begun:
                raise
            window = [recipient.index for message in claim.window for recipient in message.recipients]
            raise self.ledger.set_aside(claim, self.owner, window, error) from error

    def _talk(self, claim: Claim, begun: list[int]) -> list[tuple[Outcome, ...]]:
        """What became of each recipient of the window, whatever happened to the relay.

        Args:
            begun: gets the number of each message whose dot may be begun.
        """

        def may_begin(number: int) -> bool:
            may = self._may_begin(claim)
            begun.extend([number] if may else [])
            return may

        unrendered = self._render(claim)
        needed = self._needed(claim.window)
        if not needed and not unrendered:
            return self._send([_envelope(message, {}) for message in claim.window], may_begin)
        try:
            with self.blob_cache.lend(needed, _WAIT_FOR_ROOM) as attachments:
                return self._talk_about(claim, attachments, unrendered, may_begin)
        except NoRoom:
            return self._talk_about(claim, {}, unrendered, may_begin)

    def _render(self, claim: Claim) -> dict[str, Outcome]:
        """Give a campaign's messages their bodies; returns by id why some can't have one."""
        part = claim.record.campaign
        failures: dict[str, Outcome] = {}
        if part is None:
            return failures
        rendered = []
        for message in claim.window:
            made = self._rendered(part, message)
            if isinstance(made, Outcome):
                failures[message.id] = made
            rendered.append(message if isinstance(made, Outcome) else made)
        claim.window = tuple(rendered)
        return failures

    def _rendered(self, part: CampaignPart, message: ClaimedMessage) -> ClaimedMessage | Outcome:
        try:
            return self.rendering.message(part, message)
        except StoreUnavailable as error:
            return Outcome(Stage.CONTENT, How.LOST, detail=str(error))

    def _needed(self, window: Sequence[ClaimedMessage]) -> list[Blob]:
        """The attachments of as much of a window as there is memory for; the rest is given back."""
        needed: list[Blob] = []
        for message in window:
            more = blobs_in(message.body)
            if needed and more and not self.blob_cache.fits([*needed, *more]):
                break
            needed += more
        return needed

    def _talk_about(
        self,
        claim: Claim,
        attachments: Mapping[str, Encoded | Exception],
        unrendered: Mapping[str, Outcome],
        may_begin: Callable[[int], bool],
    ) -> list[tuple[Outcome, ...]]:
        """Send what can be sent: a message that can't be rendered or has no attachment stops no other."""
        had = {digest: it for digest, it in attachments.items() if not isinstance(it, Exception)}
        unsendable = [
            unrendered.get(message.id) or _unsendable(message, attachments) for message in claim.window
        ]
        envelopes = [
            _envelope(message, had)
            for message, failure in zip(claim.window, unsendable, strict=True)
            if not failure
        ]
        sent = iter(self._send(envelopes, may_begin) if envelopes else ())
        return [
            (failure,) * len(message.recipients) if failure else next(sent)
            for message, failure in zip(claim.window, unsendable, strict=True)
        ]

    def _send(
        self, envelopes: Sequence[Envelope], may_begin: Callable[[int], bool]
    ) -> list[tuple[Outcome, ...]]:
        try:
            with self.route.pool.lend(_WAIT_FOR_CONNECTION) as session:
                self.route.worked()
                return session.deliver(envelopes, may_begin)
        except ConnectFailed as error:
            if error.failure.how is not How.UNTOUCHED:
                self.route.failed(error.failure)
            failure = error.failure
        except (PoolTimeout, RelayError) as error:
            failure = Outcome(Stage.CONNECT, How.UNTOUCHED, detail=str(error))
        return [(failure,) * len(envelope.recipients) for envelope in envelopes]

    def _may_begin(self, claim: Claim) -> bool:
        return not self.stopping.is_set() and claim.remaining() > self.ledger.limits.lease / 2

    def _decide(self, outcome: Outcome, recipient: ClaimedRecipient) -> Decision:
        return decide(outcome, recipient.attempts, recipient.last_code, self.retry_policy, random.random)

    # Tell

    def _tell(self, settled: _Settled, report: Report) -> None:
        decision = settled.decision
        report.note(settled)
        if settled.attempted and decision.state is not State.QUEUED:
            log_attempt(
                id=settled.message.id,
                recipient=settled.recipient.address,
                relay=self.route.relay,
                outcome=settled.outcome,
                state=decision.state,
                seconds=settled.seconds,
                attempt=settled.recipient.attempts + decision.counted,
                masked=self.settings.mask_addresses,
            )

    def _reason(self, settled: _Settled) -> str:
        """The relay's words, if they are for the suppression list."""
        if not settled.decision.suppress_after:
            return ""
        return one_line(mask_all(settled.words) if self.settings.mask_addresses else settled.words)

    def _record_events(self, settled: Sequence[_Settled]) -> None:
        """What the relay or a domain should be spared. A statistic: not worth failing a delivery for."""
        events = set(self._findings()) | {
            RelayEvent(
                relay=self.route.relay,
                domain=each.recipient.address.rpartition("@")[2],
                case=each.decision.case.value,
                action=each.decision.destination.value,
                reply=each.words,
                worker=self.owner,
            )
            for each in settled
            if each.attempted and each.decision.destination not in (Destination.NONE, Destination.CREDIT)
        }
        if events:
            try:
                self.events.record(list(events))
            except StoreError as error:
                log.warning("%d relay events were not recorded: %s", len(events), error)

    def _brake(self, claim: Claim, settled: Sequence[_Settled]) -> None:
        """Pause a campaign that would be refused, whoever its recipients are."""
        uid = uid_in(claim.batch)
        if uid is None:
            return
        run = brake.run_at_end(each.decision.case for each in settled)
        if not run.length and not (run.is_broken and claim.brake):
            return
        try:
            length = self.campaigns.brake(uid, run.case or "", run.length, run.is_broken)
            if run.case and brake.is_too_long(length):
                last = next(each for each in reversed(settled) if each.decision.case is run.case)
                self._pause(uid, brake.reason(run.case, length, last.words))
        except StoreError as error:
            log.warning("refusals of a campaign's mail were not counted: %s", error)

    def _pause(self, uid: str, reason: str) -> None:
        record = self.campaigns.record(uid)
        if record and self.campaigns.pause(record, reason):
            log.error(
                "campaign %s is paused, and the rest of it stays queued: %s; when that is mended, "
                "`mailtasks campaign resume %s` lets it go on",
                record.name,
                reason,
                quote(record.name),
            )

    def _findings(self) -> Iterator[RelayEvent]:
        """What was found out about the relay as a whole."""
        for finding in self.route.pool.bearing.news():
            case, action, follows = _follows(finding.seconds)
            log.warning("the relay %s offers %s", self.route.relay, follows.format(finding.detail))
            yield RelayEvent(
                relay=self.route.relay,
                domain="",
                case=case,
                action=action,
                reply=finding.detail[:_WORDS_KEPT],
                worker=self.owner,
            )


def _follows(seconds: float | None) -> tuple[str, str, str]:
    """Case, action and sentence of what was found out about a relay."""
    if seconds is None:
        return (
            CHUNKING_NOT_BORNE,
            "by DATA",
            "CHUNKING and doesn't bear it ({}); this process sends by DATA from now on: "
            "take chunking=yes out of the relay's URL",
        )
    return (
        PIPELINING_NOT_BORNE,
        "step by step",
        f"PIPELINING and doesn't bear it ({{}}); for {seconds / 60:g} minutes it is spoken to step by step, "
        "which takes four or five round trips a message instead of one",
    )


@dataclass(frozen=True, slots=True)
class _Settled:
    """One recipient of a window, with what happened and what follows."""

    message: ClaimedMessage
    recipient: ClaimedRecipient
    outcome: Outcome
    decision: Decision
    seconds: float  # the window's, in which it was one of a few
    attempted: bool = True  # False: the relay is left alone for a while

    @property
    def words(self) -> str:
        """The relay's words, or what happened instead; at most what is worth keeping."""
        return self.outcome.words[:_WORDS_KEPT]

    @property
    def attempt(self) -> Attempt:
        """The same for who wants to hear of it."""
        record = self.message.record
        return Attempt(
            id=self.message.id,
            recipient=self.recipient.address,
            state=self.decision.state,
            reply=self.words,
            attempt=self.recipient.attempts + self.decision.counted,
            tags=record.tags,
            metadata=record.metadata,
        )

    def result(self, relay: str, reason: str) -> Result:
        """What the ledger is told; the reason is for the suppression list."""
        return Result(
            index=self.recipient.index,
            state=self.decision.state,
            delay=self.decision.delay,
            counted=self.decision.counted,
            reply=self.words,
            relay=relay,
            took=self.seconds,
            suppress_after=self.decision.suppress_after,
            reason=reason,
        )


def _tell_listeners(settled: Sequence[_Settled], *, late: bool) -> None:
    """News of attempts, for whoever wants it.

    Args:
        late: the lease was lost before the ledger was told, which then believes nothing but what was sent.
    """
    tell(
        [
            each.attempt
            for each in settled
            if each.attempted and each.decision.state is not State.QUEUED
            if not late or each.decision.state is State.SENT
        ]
    )


def _unsendable(message: ClaimedMessage, attachments: Mapping[str, Encoded | Exception]) -> Outcome | None:
    """Why a message can't be sent now, or not at all; None, if it can."""
    for blob in blobs_in(message.body):
        match attachments.get(blob.digest):
            case None:
                return _NO_ROOM
            case BlobLost() as lost:
                return Outcome(Stage.CONTENT, How.UNSUITABLE, detail=str(lost))
            case Exception() as error:
                return Outcome(Stage.CONTENT, How.LOST, detail=str(error) or repr(error))
    return None


_NO_ROOM: Final = Outcome(Stage.CONTENT, How.UNTOUCHED, detail="there is no room for its attachments yet")


def _envelope(message: ClaimedMessage, attachments: Mapping[str, Encoded]) -> Envelope:
    """A message that can be sent, its attachments in their places."""
    record = message.record
    content = filled(message.body, attachments)
    return Envelope(
        sender=record.sender,
        recipients=tuple(recipient.address for recipient in message.recipients),
        content=content,
        smtputf8=record.smtputf8,
        notifications=_notifications(message) if record.dsn_notify or record.dsn_return else None,
        require_tls=record.require_tls,
        seven_bit=partial(_seven_bit, content),
    )


def _seven_bit(content: bytes | tuple[bytes, ...]) -> bytes:
    from mailtasks.compose.reencode import to_seven_bit  # brings in `email`, which few mails need

    return to_seven_bit(b"".join(canonical_pieces(content)))


def _notifications(message: ClaimedMessage) -> Notifications:
    """What comes back names the message by its id."""
    return Notifications(message.record.dsn_notify, message.record.dsn_return, message.id)


def _is_unused(outcomes: Sequence[Outcome]) -> bool:
    """Whether a message never got as far as a relay that would count it."""
    return all(outcome.how is How.UNTOUCHED or outcome.stage in _BEFORE_MAIL for outcome in outcomes)


def _all_alike(claim: Claim, outcome: Outcome) -> list[tuple[Outcome, ...]]:
    return [tuple(outcome for _ in message.recipients) for message in claim.window]
