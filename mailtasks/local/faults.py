"""What the catching server does wrong, and to whom: to order by address, or at random by odds.

By address: a recipient whose local part begins with one of these words, alone or followed by anything
but a letter (`refuse@example.com`, `slow.ann@example.org`, `defer-once-17@example.net`):

==================  =====  =================================================================
word                stage  what happens
==================  =====  =================================================================
defer-once          rcpt   451 4.7.1 to the first attempt, as greylisting does; then accepted
defer               rcpt   451 4.3.0, always
refuse              rcpt   550 5.1.1, always: no such user
full                rcpt   552 5.2.2, always: the mailbox is full
busy-once           rcpt   421 4.3.2 and the connection is closed; then accepted
busy                rcpt   421 4.3.2 and the connection is closed, always
slow                dot    accepted, but answered after 0.5 seconds
spam                dot    554 5.7.1, always: the content is refused
defer-dot-once      dot    451 4.3.0 to the first attempt; then accepted
defer-dot           dot    451 4.3.0, always
drop-once           dot    not kept, and the connection is reset without an answer; then accepted
drop                dot    not kept, and the connection is reset without an answer, always
keep-drop-once      dot    kept, and the connection is reset without an answer; then accepted
keep-drop           dot    kept, and the connection is reset without an answer, always
==================  =====  =================================================================

Whom else it shall befall is told by `CatchingServer.order`: `order("full", "bob@example.com")`.

A fault at the dot falls on the whole message: the first recipient that orders one decides.

By odds: see `Faults`. What is decided depends on the seed, the stage, the recipient (at the dot: the
Message-ID) and the number of the attempt, and on nothing else: not on the order in which threads come.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum, auto
from random import Random
from typing import Any, Final, Self

from mailtasks.errors import SettingsError
from mailtasks.reply import Stage

OK: Final = "250 2.0.0 ok"


class Ending(Enum):
    """What becomes of the connection after the reply."""

    GO_ON = auto()
    CLOSE = auto()  # in good order (FIN)
    RESET = auto()  # RST: what is still on its way to the client may be lost


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the server does at one point of the dialogue instead of just saying 250."""

    at: Stage  # RCPT or DOT
    reply: str | None  # as it is written, without the last CRLF; None: nothing is said
    accept: bool = False  # at the dot: the message is kept, whatever is said
    seconds: float = 0.0  # waited before the reply
    times: int | None = None  # so often for one recipient, then all is well; None: always
    ending: Ending = Ending.GO_ON


CONVENTION: Final[Mapping[str, Behaviour]] = {
    "defer-once": Behaviour(Stage.RCPT, "451 4.7.1 greylisted, try again later", times=1),
    "defer": Behaviour(Stage.RCPT, "451 4.3.0 try again later"),
    "refuse": Behaviour(Stage.RCPT, "550 5.1.1 no such user here"),
    "full": Behaviour(Stage.RCPT, "552 5.2.2 the mailbox is full"),
    "busy-once": Behaviour(Stage.RCPT, "421 4.3.2 too busy, closing", times=1, ending=Ending.CLOSE),
    "busy": Behaviour(Stage.RCPT, "421 4.3.2 too busy, closing", ending=Ending.CLOSE),
    "slow": Behaviour(Stage.DOT, OK, accept=True, seconds=0.5),
    "spam": Behaviour(Stage.DOT, "554 5.7.1 the content looks like spam"),
    "defer-dot-once": Behaviour(Stage.DOT, "451 4.3.0 no room at the moment", times=1),
    "defer-dot": Behaviour(Stage.DOT, "451 4.3.0 no room at the moment"),
    "drop-once": Behaviour(Stage.DOT, None, times=1, ending=Ending.RESET),
    "drop": Behaviour(Stage.DOT, None, ending=Ending.RESET),
    "keep-drop-once": Behaviour(Stage.DOT, None, accept=True, times=1, ending=Ending.RESET),
    "keep-drop": Behaviour(Stage.DOT, None, accept=True, ending=Ending.RESET),
}

FAULTS: Final[Mapping[str, Behaviour]] = {
    "defer": Behaviour(Stage.RCPT, "451 4.3.0 try again later"),
    "refuse": Behaviour(Stage.RCPT, "550 5.1.1 no such user here"),
    "reset": Behaviour(Stage.RCPT, None, ending=Ending.RESET),
    "defer_dot": Behaviour(Stage.DOT, "451 4.3.0 no room at the moment"),
    "refuse_dot": Behaviour(Stage.DOT, "554 5.7.1 the content looks like spam"),
    "stall": Behaviour(Stage.DOT, OK, accept=True),
    "garbage": Behaviour(Stage.DOT, "?\x01 what the cat typed", accept=True),
    "shift": Behaviour(Stage.DOT, f"{OK}\r\n{OK}", accept=True),
    "lose": Behaviour(Stage.DOT, None, ending=Ending.RESET),
    "die_before": Behaviour(Stage.DOT, None, accept=True, ending=Ending.RESET),
    "die_after": Behaviour(Stage.DOT, f"{OK}, closing", accept=True, ending=Ending.CLOSE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How likely each fault is, from 0 to 1; those of one stage add up to at most 1.

    Raises:
        SettingsError: odds that are none.
    """

    seed: int = 0
    defer: float = 0.0  # RCPT is answered 451
    refuse: float = 0.0  # RCPT is answered 550
    reset: float = 0.0  # the connection is reset instead of an answer to RCPT
    defer_dot: float = 0.0  # the dot is answered 451
    refuse_dot: float = 0.0  # the dot is answered 554
    stall: float = 0.0  # kept, but answered only after `stall_seconds`
    garbage: float = 0.0  # kept, but the answer is no SMTP
    shift: float = 0.0  # kept, and answered twice: later replies are off by one
    lose: float = 0.0  # not kept, and reset without an answer
    die_before: float = 0.0  # kept, and reset before the answer
    die_after: float = 0.0  # kept, and closed after the answer
    stall_seconds: float = 2.0

    def __post_init__(self) -> None:
        for stage in (Stage.RCPT, Stage.DOT):
            odds = [getattr(self, name) for name, behaviour in FAULTS.items() if behaviour.at is stage]
            if min(odds) < 0 or sum(odds) > 1:
                raise SettingsError(
                    f"the odds of the faults at {stage} are {odds}; "
                    "each must be at least 0, their sum at most 1"
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `defer=0.1,stall=0.02,seed=7`, as the command line takes it; an empty text means no faults."""
        pairs = [pair.strip().partition("=") for pair in text.split(",") if pair.strip()]
        return cls(**{name: _number(name, value) for name, _, value in pairs})

    def __str__(self) -> str:
        """What `parse` takes."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return ",".join(f"{name}={value}" for name, value in values.items())

    def draw(self, stage: Stage, subject: str, attempt: int) -> Behaviour | None:
        """What goes wrong at this stage with this recipient or message, this time; None: nothing."""
        point = Random(f"{self.seed}/{stage}/{subject}/{attempt}").random()  # noqa: S311  # no secret
        for name, behaviour in FAULTS.items():
            if behaviour.at is stage:
                point -= getattr(self, name)
                if point < 0:
                    return replace(behaviour, seconds=self.stall_seconds) if name == "stall" else behaviour
        return None


def _number(name: str, value: str) -> Any:
    names = [field.name for field in fields(Faults)]
    if name not in names or not re.fullmatch(r"\d+(\.\d+)?", value):
        raise SettingsError(
            f"fault {name}={value} isn't understood; write NAME=ODDS,… with names from {', '.join(names)}"
        )
    return int(value) if name == "seed" and value.isdecimal() else float(value)


def behaviour_of(fault: str | Behaviour) -> Behaviour:
    """What a word of the table stands for; a behaviour is one already.

    Raises:
        SettingsError: there is no such word.
    """
    if isinstance(fault, Behaviour):
        return fault
    if fault not in CONVENTION:
        raise SettingsError(f"the catching server knows no fault {fault!r}; expected {', '.join(CONVENTION)}")
    return CONVENTION[fault]


class Orders:
    """The convention as a look-up: which behaviour an address orders, if any."""

    def __init__(self, convention: Mapping[str, Behaviour] = CONVENTION) -> None:
        self._convention = convention
        longest_first = sorted(map(re.escape, convention), key=len, reverse=True)
        self._word = re.compile(f"({'|'.join(longest_first) or '(?!)'})(?![a-z])", re.IGNORECASE)

    def of(self, recipient: str) -> Behaviour | None:
        """What this recipient's address orders; None for an ordinary one."""
        match = self._word.match(recipient)
        return self._convention[match[1].lower()] if match else None
