"""Three books compared: what producers were told, what the ledger says, what the relay wrote down.

The unit is a pair of Message-ID and recipient, as everywhere. Nothing here knows of processes or Redis: each
judge is a small function over plain data, and what it says is a sentence for a person.

- *Lost*: told and not in the ledger; sent by the ledger's word and never caught; neither at an end nor held.
- *Unexplained*: caught more often than once and once again for each resend that the ledger knows of; or
  caught, though the ledger says that it never was, and was never in doubt.
- *Untried*: failed, and the relay never refused it.
- *Unasked*: expired, cancelled or suppressed, and nobody had asked for that.
- *Untimely*: caught before its `send_at`, expired before its time, caught though told to be cancelled, or
  caught while everything was paused.
- *Abandoned*: put in doubt because a claim's owner never told, which is what a kill may cost. All other
  doubt is the relay's or the wire's doing, or too much.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mailtasks.local.book import Entry
from mailtasks.state import FINAL, State

Pair = tuple[str, str]  # Message-ID, recipient

BRIEF: Final = "brief"
LATER: Final = "later"
REGRETTED: Final = "regretted"
"""What a producer asks for, as the recipient's address says it: so it is known of mail, too, whose producer
died before it could write anything down."""

ASKED_BY: Final[Mapping[State, str]] = {State.EXPIRED: BRIEF, State.CANCELLED: REGRETTED}
"""Ends that come only if somebody wants them, and the word in the address that says so."""

MOST_RECIPIENTS: Final = 2  # of one message
SAME_MOMENT: Final = 0.01  # seconds by which clocks of one machine may disagree, rounded as they are
BUSY: Final = 3.0  # seconds by which a busy machine, or its disk, may be late
PLANNED_BY: Final = 4.0  # seconds after `send_at` at which the relay hears of it, when all is calm
ENOUGH_KILLS: Final = 3  # of which one at least must have hit somebody at work

_SOUND: Final = re.compile(r"[245]\d\d [^\r\n]*(?<!closing)")


@dataclass(frozen=True)
class Fate:
    """What the ledger says of a pair."""

    state: State
    resends: int = 0  # from doubt, by policy
    finished: float = 0.0  # seconds since the epoch, as all times here; 0: it isn't, or was never asked


@dataclass(frozen=True)
class Wish:
    """What a producer wanted of a pair, and was told about it."""

    not_before: float = 0.0
    expires: float = 0.0  # at the earliest; 0: in days
    cancelled: bool = False  # by the producer's word


@dataclass(frozen=True)
class Kill:
    """What one kill, or one stop for longer than a lease, came to."""

    abandoned: int = 0
    seconds: float = 0.0  # until the last of what it held was taken up or held
    due: float = 0.0  # seconds until the lease was over: longer, if Redis stood still when it would have been

    @property
    def latest(self) -> float:
        """When all of it must be taken up or held."""
        return self.due + BUSY


@dataclass(frozen=True)
class Ending:
    """What became of a worker that was told to end."""

    code: int = 0
    abandoned: int = 0


@dataclass(frozen=True)
class Books:
    """The three of them."""

    told: Mapping[Pair, Wish]
    ledger: Mapping[Pair, Fate]
    journal: Sequence[Entry]
    caught: Mapping[Pair, Sequence[float]] = field(init=False)  # when
    refused: frozenset[Pair] = field(init=False)  # for good; before the data without a Message-ID

    def __post_init__(self) -> None:
        caught: dict[Pair, list[float]] = {}
        for entry in self.journal:
            if entry.accepted:
                caught.setdefault((entry.message_id or "", entry.recipient), []).append(entry.time)
        refused = {
            (entry.message_id or "", entry.recipient)
            for entry in self.journal
            if entry.verdict.startswith("5") and not entry.accepted
        }
        object.__setattr__(self, "caught", caught)
        object.__setattr__(self, "refused", frozenset(refused))

    @property
    def states(self) -> Counter[State]:
        return Counter(fate.state for fate in self.ledger.values())

    def lost(self) -> Iterator[str]:
        for pair in self.told.keys() - self.ledger.keys():
            yield f"{pair} was accepted by the producer's word, and the ledger doesn't know it"
        for pair, fate in self.ledger.items():
            if fate.state is State.SENT and pair not in self.caught:
                yield f"{pair} is sent by the ledger's word, and was never caught"
            if fate.state not in FINAL | {State.IN_DOUBT}:
                yield f"{pair} came to no end: it is {fate.state}"

    def duplicates(self) -> dict[Pair, int]:
        """How often each pair was caught beyond once."""
        return {pair: len(times) - 1 for pair, times in self.caught.items() if len(times) > 1}

    def explained(self) -> int:
        """How many of the duplicates a resend accounts for."""
        return sum(
            min(more, self.ledger[pair].resends)
            for pair, more in self.duplicates().items()
            if pair in self.ledger
        )

    def unexplained(self) -> Iterator[str]:
        for pair, times in self.caught.items():
            fate = self.ledger.get(pair)
            if fate is None:
                yield f"{pair} was caught, and the ledger doesn't know it"
            elif fate.resends > 1:
                yield f"{pair} was resent {fate.resends} times, and once is the most"
            elif len(times) > 1 + fate.resends:
                yield f"{pair} was caught {len(times)} times and resent {fate.resends} times"
            elif fate.state not in (State.SENT, State.IN_DOUBT) and not fate.resends:
                yield f"{pair} was caught, and is {fate.state} without ever having been in doubt"

    def untried(self) -> Iterator[str]:
        for pair, fate in self.ledger.items():
            _, recipient = pair
            if fate.state is State.FAILED and not self.refused & {pair, ("", recipient)}:
                yield f"{pair} is failed, and the relay never refused it"

    def unasked(self) -> Iterator[str]:
        for pair, fate in self.ledger.items():
            word = ASKED_BY.get(fate.state)
            if (word and f"-{word}@" not in pair[1]) or fate.state is State.SUPPRESSED:
                yield f"{pair} is {fate.state}, and nobody asked for that"

    def untimely(self) -> Iterator[str]:
        for pair, wish in self.told.items():
            fate, caught = self.ledger.get(pair), self.caught.get(pair, ())
            early = wish.not_before - min(caught, default=wish.not_before)
            if early > SAME_MOMENT:
                yield f"{pair} was caught {early:.1f} s before its time"
            if fate is None:
                continue
            left = wish.expires - fate.finished
            if fate.state is State.EXPIRED and left > SAME_MOMENT:
                yield f"{pair} expired {left:.1f} s before its time"
            # What was in doubt and queued again can be cancelled then, and the first may have arrived.
            if wish.cancelled and len(caught) > fate.resends:
                yield f"{pair} was cancelled by the producer's word, and caught"


@dataclass(frozen=True)
class Toll:
    """What the monkey did, and what may follow from it."""

    kills: Sequence[Kill] = ()  # of workers: SIGKILL, or SIGSTOP for longer than a lease
    endings: Sequence[Ending] = ()  # of workers: SIGTERM
    pauses: Sequence[tuple[float, float]] = ()  # from when nothing was being sent any more, until its end
    window: int = 1  # recipients that one thread may have in its hands
    threads: int = 1
    abandoned: int = 0  # recipients put in doubt because their owner never told
    doubts: int = 0  # recipients put in doubt at all
    cut_off: int = 0  # connections to the relay, by a cut or the relay's end: one mail each was under way
    swept: int = 0  # what a sweep found that the mechanism should have caught
    twice: int = 0  # mails that the ledger itself counts as taken twice, by late evidence
    planned_late: float = 0.0  # seconds by which mail with a `send_at` was tried late, when all was calm

    @property
    def most_for_one(self) -> int:
        """What may be abandoned after one kill."""
        return self.threads * self.window

    @property
    def most(self) -> int:
        """What may be abandoned at all."""
        return len(self.kills) * self.most_for_one

    @property
    def worst(self) -> int:
        """The most that was abandoned after one kill."""
        return max((kill.abandoned for kill in self.kills), default=0)

    @property
    def slowest(self) -> Kill:
        """The kill whose work was taken up the latest, by what it was allowed."""
        return max(self.kills, key=lambda kill: kill.seconds - kill.latest, default=Kill())


def left_open(journal: Iterable[Entry]) -> int:
    """Recipients whose doubt may be the relay's doing: by no answer, nonsense, two answers, or its last."""
    return sum(
        # Before the data it hits the mail before, whose answer was still on its way.
        1 if entry.message_id is not None else MOST_RECIPIENTS
        for entry in journal
        if not _SOUND.fullmatch(entry.verdict)
    )


def most_in_doubt(books: Books, toll: Toll) -> int:
    """What relay and wire may have put in doubt, whom nobody killed."""
    return left_open(books.journal) + toll.cut_off * MOST_RECIPIENTS


def complaints(books: Books, toll: Toll) -> list[str]:
    """A sentence for everything that the guarantee rules out."""
    return [
        *books.lost(),
        *books.unexplained(),
        *books.untried(),
        *books.unasked(),
        *books.untimely(),
        *_about_pauses(books, toll),
        *_about_doubt(books, toll),
        *_about_kills(toll),
        *_about_endings(toll),
        *_about_time(toll),
    ]


def _about_pauses(books: Books, toll: Toll) -> Iterator[str]:
    for entry in books.journal:
        if any(since < entry.time < until for since, until in toll.pauses):
            yield f"{(entry.message_id or '', entry.recipient)} was tried while everything was paused"


def _about_doubt(books: Books, toll: Toll) -> Iterator[str]:
    if toll.abandoned > toll.most:
        yield f"{toll.abandoned} were abandoned; {len(toll.kills)} kills may cost {toll.most}"
    if toll.worst > toll.most_for_one:
        yield f"{toll.worst} were abandoned after one kill, which may cost {toll.most_for_one}"
    others, most = toll.doubts - toll.abandoned, most_in_doubt(books, toll)
    if others > most:
        yield f"{others} came into doubt though nobody was killed; relay and wire account for {most}"


def _about_kills(toll: Toll) -> Iterator[str]:
    if len(toll.kills) >= ENOUGH_KILLS and not toll.abandoned:
        yield f"{len(toll.kills)} kills hit nobody at work, so they have shown nothing"


def _about_endings(toll: Toll) -> Iterator[str]:
    for ending in toll.endings:
        if ending.code:
            yield f"a worker that was told to end ended with {ending.code}"
        if ending.abandoned:
            yield f"a worker that was told to end left {ending.abandoned} in doubt or claimed"


def _about_time(toll: Toll) -> Iterator[str]:
    for kill in toll.kills:
        if kill.seconds > kill.latest:
            yield f"a kill's work was taken up after {kill.seconds:.1f} s, and {kill.latest:.1f} are the most"
    if toll.swept:
        yield f"a sweep found {toll.swept} batches that nothing else would have taken up"
    if toll.planned_late > PLANNED_BY:
        yield f"mail was tried {toll.planned_late:.1f} s after its time, and {PLANNED_BY:.1f} are the most"


def table(books: Books, toll: Toll, more: Mapping[str, object]) -> str:
    """The whole run as one table in Markdown."""
    duplicates, slowest = sum(books.duplicates().values()), toll.slowest
    others, most = toll.doubts - toll.abandoned, most_in_doubt(books, toll)
    rows: list[tuple[str, object]] = [
        ("told to producers", len(books.told)),
        ("accepted", len(books.ledger)),
        *((state.value, count) for state, count in sorted(books.states.items())),
        ("lost", _number(books.lost())),
        ("duplicates", duplicates),
        ("– explained by a resend out of doubt", books.explained()),
        ("– of these known to the ledger, by late evidence", toll.twice),
        ("– not explained", _number(books.unexplained())),
        ("failed without a refusal", _number(books.untried())),
        ("expired or cancelled unasked", _number(books.unasked())),
        ("against a producer's wish or a pause", _number([*books.untimely(), *_about_pauses(books, toll)])),
        ("in doubt because an owner never told", f"{toll.abandoned} (at most {toll.most})"),
        ("– the most for one kill", f"{toll.worst} (at most {toll.most_for_one})"),
        ("in doubt by the relay or the wire", f"{others} (at most {most})"),
        ("longest until taken up or held", f"{slowest.seconds:.1f} s (at most {slowest.latest:.1f} s)"),
        ("planned mail late, when calm", f"{toll.planned_late:.1f} s (at most {PLANNED_BY:.1f} s)"),
        ("found by a sweep", toll.swept),
        *more.items(),
    ]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _number(sentences: Iterable[str]) -> int:
    return sum(1 for _ in sentences)
