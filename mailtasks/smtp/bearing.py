"""Whether a relay that offers PIPELINING bears it, as far as this process knows; if not, one step at a time.

Some servers, and firewalls before them, offer what they don't bear: they lose what comes behind a command,
answer with nonsense, hang up or fall silent. The rules:

1. Trouble is an outcome: a flight that ended in confusion or silence before its dot was begun (`trouble`).
   Where flights of that kind went well lately, it isn't PIPELINING's fault, and counts as anywhere else.
2. Trouble raises a suspicion. The next dialogue goes step by step. If that fails as well, the relay is
   unwell, and nothing is held against PIPELINING for a while. If it goes well, one dialogue tries a flight
   again, and the others wait for what comes of that, step by step.
3. Only the second trouble proves it: a relay that died once, or was restarted, is not condemned. Then it
   is spoken to step by step for `FIRST_TERM`, and tried again; for twice as long each further time, up to
   `LONGEST_TERM`.
4. No mail pays for it: what was in a flight that made suspicious is untouched, and given back.
5. A flight with bodies in it (BDAT) that ends in confusion or silence may leave mail in doubt. That isn't
   tried a second time: from then on this process writes a body only behind a 354.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from mailtasks.reply import How, Outcome, Stage
from mailtasks.smtp.engine import Finished
from mailtasks.smtp.transaction import WITH_BODY, Written

FIRST_TERM: Final = 3600.0  # seconds
LONGEST_TERM: Final = 86400.0
LATELY: Final = 600.0  # seconds for which a flight that went well speaks for the relay

_DOT: Final = Stage.DOT  # looked up for every message
_BROKEN: Final = frozenset({How.GARBAGE, How.LOST, How.TIMED_OUT})
_DOUBTFUL: Final = frozenset({How.GARBAGE, How.TIMED_OUT})
"""What comes of it with bodies in the flight; a connection that was lost proves nothing."""
_BEFORE_DOT: Final = frozenset({Stage.MAIL, Stage.RCPT, Stage.DATA})
_LOST_COUNT: Final = frozenset({500, 502, 503})
"""Not understood, or out of sequence (RFC 5321 4.2.1): what comes of commands that were lost or cut."""

_WORDS: Final = ("pipelin", "synchroni")
"""How servers put it themselves: "improper command pipelining", "protocol synchronization error"."""


class Manner(Enum):
    """How a dialogue is held."""

    FREELY = auto()  # in flights
    STEPWISE = auto()
    PROBE = auto()  # in flights, to see whether they are borne


class _Phase(Enum):
    TRUSTED = auto()
    SUSPECTED = auto()  # step by step, to see whether that goes better
    PROBE_DUE = auto()  # it did
    PROBING = auto()
    PROVEN = auto()


@dataclass(frozen=True, slots=True)
class Finding:
    """A relay doesn't bear PIPELINING, or (without a time) CHUNKING."""

    detail: str  # what happened
    seconds: (
        float | None
    )  # for so long it is spoken to step by step; None: this process sends by DATA from now on


class Bearing:
    """What is known of one relay. Thread-safe; shared by all sessions with it.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._phase = _Phase.TRUSTED
        self._kind = Written.IN_FLIGHT  # of flight, that made trouble
        self._spoken_for: dict[Written, float] = {}  # until when trouble with such a flight proves nothing
        self._proven_until = 0.0
        self._term = FIRST_TERM
        self._news: list[Finding] = []
        self._only_data = False  # a flight with bodies in it went wrong: this process writes no other

    @property
    def bears_bodies(self) -> bool:
        """Bodies may be written blind (BDAT)."""
        return self._phase is _Phase.TRUSTED and not self._only_data

    @property
    def doubted(self) -> bool:
        """PIPELINING is under suspicion, or was proven not to be borne."""
        return self._phase is not _Phase.TRUSTED

    def news(self) -> list[Finding]:
        """What was found since the last call."""
        if not self._news:
            return []
        with self._lock:
            news, self._news = self._news, []
            return news

    def begin(self, messages: int) -> Manner:
        """How a dialogue about so many messages is to be held. `judge` must be told what came of it."""
        if self._phase is _Phase.TRUSTED or (self._kind is Written.BEHIND_DOT and messages == 1):
            return Manner.FREELY
        with self._lock:
            if self._phase is _Phase.PROVEN and self._clock() >= self._proven_until:
                self._phase = _Phase.PROBE_DUE
            if self._phase is _Phase.PROBE_DUE:
                self._phase = _Phase.PROBING
                return Manner.PROBE
            return Manner.STEPWISE

    def judge(self, finished: Sequence[Finished], manner: Manner) -> Sequence[Finished]:
        """Learn from what came of a dialogue.

        Returns:
            the same, with what PIPELINING may have spoilt untouched.
        """
        if manner is Manner.STEPWISE:
            self._learn_from_steps(finished)
            return finished
        others = [each for each in finished if each.outcomes[-1].stage is not _DOT]
        well = [each for each in finished if each not in others] if others else finished
        borne = {well[0].written, well[-1].written} if well else set()
        with self._lock:
            self._spoken_for.update(dict.fromkeys(borne, self._clock() + LATELY))
            spoilt = next((each for each in others if each.written is not WITH_BODY and trouble(each)), None)
            if spoilt and spoilt.written is not Written.STEPWISE:
                return self._judge_trouble(finished, spoilt, manner)
            if self._phase is not _Phase.TRUSTED:
                self._judge_success(manner, borne)
            return finished

    def judge_bodies(self, finished: Sequence[Finished]) -> Sequence[Finished]:
        """Learn from what came of a dialogue by BDAT, before `judge` learns from what of it went by DATA.

        Returns:
            the same, with what was spoilt and is in no doubt untouched.
        """
        spoilt = {each.index: why for each in finished if (why := _trouble_with_bodies(each))}
        if spoilt:
            with self._lock:
                self._news += [] if self._only_data else [Finding(next(iter(spoilt.values())), None)]
                self._only_data = True
        return [
            _untouched(each, spoilt[each.index]) if each.index in spoilt and trouble(each) else each
            for each in finished
        ]

    def _learn_from_steps(self, finished: Sequence[Finished]) -> None:
        with self._lock:
            if self._phase is not _Phase.SUSPECTED:
                return
            if any(map(trouble, finished)):
                self._acquit()
            elif any(outcome.stage is Stage.DOT for each in finished for outcome in each.outcomes):
                self._phase = _Phase.PROBE_DUE

    def _judge_success(self, manner: Manner, borne: set[Written]) -> None:
        """Under the lock."""
        if manner is Manner.PROBE:
            self._phase = _Phase.PROBE_DUE
        if self._kind in borne:
            self._acquit()

    def _judge_trouble(
        self, finished: Sequence[Finished], spoilt: Finished, manner: Manner
    ) -> Sequence[Finished]:
        """Under the lock."""
        kind, detail = spoilt.written, trouble(spoilt)
        if manner is Manner.PROBE:
            self._prove(kind, detail)
        elif self._clock() < self._spoken_for.get(kind, 0.0):
            return finished
        elif self._phase is _Phase.TRUSTED or (kind is not self._kind and kind is Written.IN_FLIGHT):
            # The latter happens to a lone message, which flies although nothing may be behind a dot.
            self._phase, self._kind = _Phase.SUSPECTED, kind
        return [_untouched(each, detail) if each is spoilt else each for each in finished]

    def _prove(self, kind: Written, detail: str) -> None:
        self._phase, self._kind = _Phase.PROVEN, kind
        self._proven_until = self._clock() + self._term
        self._news.append(Finding(detail, self._term))
        self._term = min(LONGEST_TERM, 2 * self._term)

    def _acquit(self) -> None:
        self._phase, self._term = _Phase.TRUSTED, FIRST_TERM
        self._spoken_for[self._kind] = self._clock() + LATELY


def trouble(finished: Finished) -> str:
    """What, before any dot, looks as if the relay had lost count; an empty string if nothing does."""
    if any(outcome.dot_begun for outcome in finished.outcomes):
        return ""
    return next((str(outcome) for outcome in finished.outcomes if _confused(outcome)), "")


def _trouble_with_bodies(finished: Finished) -> str:
    """What looks as if the relay had lost count; a connection that was only lost proves nothing."""
    if finished.written is not WITH_BODY:
        return ""
    confused = (it for it in finished.outcomes if it.how in _DOUBTFUL or _confused(it))
    return next((str(it) for it in confused if it.how is not How.LOST), "")


def _confused(outcome: Outcome) -> bool:
    if outcome.stage not in _BEFORE_DOT:
        return False
    if outcome.how is not How.REFUSED:
        return outcome.how in _BROKEN
    reply = outcome.reply
    assert reply, "a refusal has a reply"
    return reply.code in _LOST_COUNT or _has_words(reply.text)


def _has_words(text: str, words: Iterable[str] = _WORDS) -> bool:
    return any(word in text.lower() for word in words)


def _untouched(finished: Finished, detail: str) -> Finished:
    outcome = Outcome(
        Stage.MAIL, How.UNTOUCHED, detail=f"the relay may not bear the PIPELINING that it offers ({detail})"
    )
    return replace(finished, outcomes=(outcome,) * len(finished.outcomes))
