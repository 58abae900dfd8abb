"""How long a reply asks us to wait: "please try again in 5 minutes", "Greylisted for 300 seconds".

No RFC says how to say so, and servers say it in prose. What is read here is only ever a least wait, and a
bounded one: to come too early costs an attempt, to believe a wrong number would cost the mail.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from mailtasks.reply import Reply

LONGEST: Final = 3600.0
"""Seconds that a reply may make us wait, unless the user's own `retry_backoff_max` is more."""

SPREAD: Final = 0.1
"""Waits that a server has set are longer by up to this much, so that not all mail comes back at once."""

_READ: Final = 1000  # characters of a reply; a wait stands where people would see it
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# What asks to wait, then at most a few words, none of which ends the sentence.
_ASKED: Final = r"\b(?:again|retry|wait|back|after|greylist(?:ed|ing)?|deferred)\b[^\d.,;()]{0,30}?"
_NUMBERED: Final = re.compile(
    _ASKED + r"\b(\d{1,6})\s{0,2}(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)\b", re.IGNORECASE
).search
_CLOCKED: Final = re.compile(_ASKED + r"\b(\d{1,3}):([0-5]\d):([0-5]\d)\b", re.IGNORECASE).search


def named_wait(reply: Reply | None, longest: float = LONGEST) -> float:
    """Seconds that a reply asks us to wait; 0 if it names none that can be read.

    Args:
        reply: what was said, if anything was; only a 4xx can ask for another attempt.
        longest: what is never exceeded, in seconds.
    """
    if reply is None or reply.kind != 4:
        return 0.0
    text = " ".join(reply.text[:_READ].split())
    if clocked := _CLOCKED(text):
        hours, minutes, seconds = map(int, clocked.groups())
        asked = hours * 3600 + minutes * 60 + seconds
    elif numbered := _NUMBERED(text):
        asked = int(numbered[1]) * _SECONDS[numbered[2][0].lower()]
    else:
        asked = 0
    return min(float(asked), longest)


def stretched(delay: float, least: float, random: Callable[[], float] | None) -> float:
    """The delay, or the least wait if that is longer.

    Args:
        random: a source of numbers from 0 to 1; None if delays aren't to be spread.
    """
    if delay >= least:
        return delay
    return least * (1 + SPREAD * random()) if random else least
