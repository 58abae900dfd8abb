"""What one mail's rendering may take, and how it is counted.

Steps and characters are counted as they come. At each thousandth step the thread's own time is looked at,
since what else runs on a busy machine is no fault of the template's.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from time import thread_time
from typing import Any, Final

_STEPS_A_LOOK: Final = 1000  # at the clock


class Refused(Exception):
    """Something that may not be rendered. Its text says what, and what to do."""


class LimitReached(Exception):
    """A rendering has taken more than it may. Its text says of what."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one mail's rendering may take, all its parts together.

    Attributes:
        steps: turns of loops, calls and includes.
        characters: rendered, before they are encoded.
        seconds: of the processor, so that a busy machine refuses nobody's mail.
    """

    steps: int = 100_000
    characters: int = 10_000_000
    seconds: float = 10.0


class Budget:
    """What is left of the limits during one rendering."""

    __slots__ = ("_given", "characters", "steps", "until")

    def __init__(self, limits: Limits) -> None:
        self._given = limits
        self.steps = limits.steps
        self.characters = limits.characters
        self.until: float | None = None  # known when it is first looked at: most renderings end before

    def step(self) -> None:
        """Take a step.

        Raises:
            LimitReached: there was none left, or no time.
        """
        self.steps -= 1
        if self.steps < 0:
            raise LimitReached(
                f"it takes more than {self._given.steps:,} steps (turns of loops, calls, includes)"
            )
        if self.steps % _STEPS_A_LOOK == 0:
            self._look()

    def _look(self) -> None:
        now = thread_time()
        self.until = self.until or now + self._given.seconds
        if now > self.until:
            raise LimitReached(f"it takes more than {self._given.seconds:g} s")

    def spend(self, characters: int) -> None:
        """Count what was rendered.

        Raises:
            LimitReached: it is too much.
        """
        self.characters -= characters
        if self.characters < 0:
            raise LimitReached(f"it renders to more than {self._given.characters:,} characters")


_current: Final[ContextVar[Budget]] = ContextVar("budget of the rendering")


class within:
    """Render within these limits, in this thread."""

    __slots__ = ("_budget", "_token")

    def __init__(self, limits: Limits) -> None:
        self._budget = Budget(limits)

    def __enter__(self) -> Budget:
        self._token = _current.set(self._budget)
        return self._budget

    def __exit__(self, *raised: object) -> None:
        _current.reset(self._token)


def current() -> Budget:
    """The budget of the rendering that is going on."""
    return _current.get()


def weigh(value: Any) -> Any:
    """The same value; if it is text, it is counted, where something is being rendered."""
    budget = _current.get(None)  # Jinja2 computes what is constant when it compiles
    if budget is not None and isinstance(value, str):
        budget.spend(len(value))
    return value
