"""Where templates run: a sandbox, and limits on what one rendering may take.

What is held:

1. Nothing outside the fields is reached: no private attribute, no class, no frame (Jinja2's sandbox), and
   nothing that was given is changed.
2. Every turn of a loop, every call and every include is a step, and steps are counted; at each thousandth the
   thread's own time is looked at. So a template that loops or calls itself for ever ends.
3. What is rendered is counted as it comes. `range()` yields 100,000 numbers at most.
4. One operation can't make a giant of small things: `*`, `**`, `+`, `%`, `~`, the filters and the methods of
   text that pad, repeat or join are refused what would yield more than `_LARGEST`.

What isn't: the time of one single operation on what the fields bring (a `sort` of a list of a million), since
Python can't be stopped in the midst of one. Fields are bounded by who accepts them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from math import prod
from time import thread_time
from typing import Any, Final

from jinja2 import StrictUndefined, pass_context, pass_eval_context
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment

COUNTED: Final = "the turns of a loop"
"""The filter that counts what it passes on. No template can name it, for its name has spaces."""

STEP: Final = "one step"
"""The filter that takes one step, and yields nothing."""

JOINED: Final = "joined by ~"
"""The filter that `~` becomes."""

_LARGEST: Final = 10_000_000
"""Characters or items that one operation may yield: more than a mail may have, and made in a moment."""

_A_BIT: Final = 100  # a number's bit weighs as much, for what is done with large numbers takes longer

_STEPS_A_LOOK: Final = 1000  # at the clock
_WIDE: Final = re.compile(r"\d{6}")  # a width in a format; no column of a mail is as wide

_GROWING_FILTERS: Final = ["batch", "center", "format", "indent", "join", "replace", "slice", "wordwrap"]
_GROWING_METHODS: Final = frozenset(
    [
        "center",
        "expandtabs",
        "format",
        "format_map",
        "join",
        "ljust",
        "replace",
        "rjust",
        "translate",
        "zfill",
    ]
)
_ABSENT: Final = ("lipsum",)  # globals of Jinja2 that no mail wants, and that can be asked for any length


_LONGEST_RANGE: Final = 100_000  # that of Jinja2's own sandbox


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


class Sandbox(ImmutableSandboxedEnvironment):
    """A Jinja2 environment for templates of mail.

    Args:
        html: whether values are escaped for HTML.
    """

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self, *, html: bool, **options: Any) -> None:
        super().__init__(autoescape=html, undefined=StrictUndefined, cache_size=-1, **options)
        for name in _ABSENT:
            del self.globals[name]
        self.globals["range"] = _range
        self.filters |= {name: _bounded(self.filters[name]) for name in _GROWING_FILTERS}
        self.filters |= {COUNTED: _counted, STEP: _step, JOINED: _joined}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator that could make a giant."""
        _check(_grown(operator, left, right))
        if operator == "%" and isinstance(left, str):
            _check_format(left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call is a step; its double underscores are Jinja2's, so that keywords are free for templates."""
        budget = current()
        budget.step()
        owner = getattr(__obj, "__self__", None)
        owner = getattr(getattr(__obj, "__wrapped__", None), "__self__", owner)  # the sandbox's own format
        if isinstance(owner, str) and getattr(__obj, "__name__", "") in _GROWING_METHODS:
            _check_growth([owner, *args, *kwargs.values()], formats="format" in __obj.__name__)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, str):
            budget.spend(len(result))
        return result


def _range(*numbers: int) -> range:
    found = range(*numbers)
    if len(found) > _LONGEST_RANGE:
        raise LimitReached(f"range() would yield more than {_LONGEST_RANGE:,} numbers")
    return found


@pass_context  # so that Jinja2 never computes it when it compiles
def _counted(context: Context, items: Iterable[Any], characters: int = 0) -> Iterator[Any]:
    """The items, each a step.

    Args:
        characters: that each turn renders where its output isn't seen.
    """
    budget = current()
    for item in items:
        budget.step()
        if characters:
            budget.spend(characters)
        yield item


@pass_context
def _step(context: Context, nothing: str) -> str:
    current().step()
    return nothing


@pass_eval_context
def _joined(eval_context: EvalContext, parts: list[Any]) -> str:
    joined = markup_join(parts) if eval_context.autoescape else str_join(parts)
    _check(len(joined))
    return joined


def _bounded(growing: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is refused what would make a giant."""

    formats = growing.__name__ == "do_format"

    @wraps(growing)
    def checked(*arguments: Any, **named: Any) -> Any:
        _check_growth([*arguments, *named.values()], formats=formats)
        result = growing(*map(_weighed, arguments), **named)
        _weigh(result)
        return result

    return checked


def _weighed(value: Any) -> Any:
    """The same; what an iterator yields is counted as it comes."""
    return map(_weigh, value) if isinstance(value, Iterator) else value


def _weigh(value: Any) -> Any:
    budget = _current.get(None)  # Jinja2 computes what is constant when it compiles
    if budget and isinstance(value, str):
        budget.spend(len(value))
    return value


def _check_growth(arguments: Iterable[Any], *, formats: bool) -> None:
    """Refuse arguments whose two largest could together yield too much."""
    given = [one for one in arguments if isinstance(one, str | int | list | tuple | dict)]
    if formats:
        for text in given:
            _check_format(text, ())
    _check(prod(sorted(map(_extent, given))[-2:]))


def _check_format(text: object, values: object) -> None:
    several = values.values() if isinstance(values, Mapping) else values
    numbers = [one for one in (several if isinstance(several, tuple) else (several,)) if isinstance(one, int)]
    if isinstance(text, str) and (
        _WIDE.search(text) or ("*" in text and max(map(abs, numbers), default=0) > 999)
    ):
        raise LimitReached("a format asks for a width of six digits or more")


def _grown(operator: str, left: Any, right: Any) -> int:
    """How large the result may be, in characters or items."""
    if operator == "**":
        return _bits(left) * min(abs(right), _LARGEST) * _A_BIT if isinstance(right, int) else 0
    if operator == "*":
        sized = isinstance(left, Sized) or isinstance(right, Sized)
        return _extent(left) * _extent(right) if sized else (_bits(left) + _bits(right)) * _A_BIT
    return _extent(left) + _extent(right) if isinstance(left, Sized) else 0


def _extent(value: object) -> int:
    if isinstance(value, list | tuple):
        return sum([len(item) if isinstance(item, str) else 1 for item in value])
    if isinstance(value, Sized):
        return max(1, len(value))
    return max(1, abs(value)) if isinstance(value, int) else 1


def _bits(value: object) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _check(size: int) -> None:
    if size > _LARGEST:
        raise LimitReached(f"one operation of it may yield more than {_LARGEST:,} characters or items")
