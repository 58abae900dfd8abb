"""Three books compared: what producers were told, what the ledger says, what the relay wrote down.

The unit is a pair of Message-ID and recipient, as everywhere. Nothing here knows of processes or Redis.

- *Lost*: told and not in the ledger; sent by the ledger's word and never caught; neither at an end nor held.
- *Unexplained*: caught more often than once and once again for each resend that the ledger knows of; or
  caught, though the ledger says that it never was, and was never in doubt.
- *Abandoned*: put in doubt because a claim's owner never told, which is what a kill may cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mailtasks.state import FINAL, State

Pair = tuple[str, str]  # Message-ID, recipient


@dataclass(frozen=True)
class Fate:
    """What the ledger says of a pair."""

    state: State
    resends: int = 0  # from doubt, by policy


@dataclass(frozen=True)
class Books:
    """The three of them."""

    told: frozenset[Pair]
    ledger: Mapping[Pair, Fate]
    caught: Counter[Pair]

    @property
    def states(self) -> Counter[State]:
        return Counter(fate.state for fate in self.ledger.values())

    def lost(self) -> Iterator[str]:
        for pair in self.told - self.ledger.keys():
            yield f"{pair} was accepted by the producer's word, and the ledger doesn't know it"
        for pair, fate in self.ledger.items():
            if fate.state is State.SENT and not self.caught[pair]:
                yield f"{pair} is sent by the ledger's word, and was never caught"
            if fate.state not in FINAL | {State.IN_DOUBT}:
                yield f"{pair} came to no end: it is {fate.state}"

    def duplicates(self) -> dict[Pair, int]:
        """How often each pair was caught beyond once."""
        return {pair: times - 1 for pair, times in self.caught.items() if times > 1}

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
            elif times > 1 + fate.resends:
                yield f"{pair} was caught {times} times and resent {fate.resends} times"
            elif fate.state not in (State.SENT, State.IN_DOUBT) and not fate.resends:
                yield f"{pair} was caught, and is {fate.state} without ever having been in doubt"


@dataclass(frozen=True)
class Toll:
    """What the monkey did, and what may follow from it."""

    kills: int = 0  # workers: SIGKILL, or SIGSTOP for longer than a lease
    window: int = 1  # recipients that one thread may have in its hands
    threads: int = 1
    abandoned: int = 0  # recipients put in doubt because their owner never told
    worst: int = 0  # the most of them after one kill
    lease: float = 3.0  # seconds
    slowest: float = 0.0  # seconds from a kill to the last of them being taken up or held
    swept: int = 0  # what a sweep found that the mechanism should have caught
    twice: int = 0  # mails that the ledger itself counts as taken twice, by late evidence

    @property
    def most_for_one(self) -> int:
        """What may be abandoned after one kill."""
        return self.threads * self.window

    @property
    def latest(self) -> float:
        """When all of it must be taken up or held: a lease; another, if Redis stood still; a look."""
        return 2 * self.lease + 1

    @property
    def most(self) -> int:
        """What may be abandoned at all."""
        return self.kills * self.most_for_one


def complaints(books: Books, toll: Toll) -> list[str]:
    """A sentence for everything that the guarantee rules out."""
    wrong = [*books.lost(), *books.unexplained()]
    if toll.swept:
        wrong.append(f"a sweep found {toll.swept} batches that nothing else would have taken up")
    if toll.abandoned > toll.most:
        wrong.append(f"{toll.abandoned} were abandoned; {toll.kills} kills may cost {toll.most}")
    if toll.worst > toll.most_for_one:
        wrong.append(f"{toll.worst} were abandoned after one kill, which may cost {toll.most_for_one}")
    if toll.slowest > toll.latest:
        wrong.append(
            f"a kill's work was taken up after {toll.slowest:.1f} s, and {toll.latest:.1f} are the most"
        )
    return wrong


def table(books: Books, toll: Toll, more: Mapping[str, object]) -> str:
    """The whole run as one table in Markdown."""
    duplicates = sum(books.duplicates().values())
    rows: list[tuple[str, object]] = [
        ("told to producers", len(books.told)),
        ("accepted", len(books.ledger)),
        *((state.value, count) for state, count in sorted(books.states.items())),
        ("lost", _number(books.lost())),
        ("duplicates", duplicates),
        ("– explained by a resend out of doubt", books.explained()),
        ("– of these known to the ledger, by late evidence", toll.twice),
        ("– not explained", _number(books.unexplained())),
        ("in doubt because an owner never told", f"{toll.abandoned} (at most {toll.most})"),
        ("– the most for one kill", f"{toll.worst} (at most {toll.most_for_one})"),
        ("– longest until taken up or held", f"{toll.slowest:.1f} s (at most {toll.latest:.1f} s)"),
        ("found by a sweep", toll.swept),
        *more.items(),
    ]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _number(sentences: Iterable[str]) -> int:
    return sum(1 for _ in sentences)
