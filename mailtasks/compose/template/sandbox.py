"""Where templates run: a sandbox, and limits on what one rendering may take.

What is held:

1. Nothing outside the fields is reached: no private attribute, no class, no frame (Jinja2's sandbox), and
   nothing that was given is changed.
2. Every turn of a loop, every call and every include is a step of a budget (`budget.py`), and so is what is
   rendered. So a template that loops or calls itself for ever ends. `range()` has its limit, too.
3. One operation can't make a giant of small things (`growth.py`).

What isn't: the time of one single operation on what the fields bring (a `sort` of a list of a million), since
Python can't be stopped in the midst of one. Fields are bounded by who accepts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from jinja2 import StrictUndefined, pass_context, pass_eval_context
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mailtasks.compose.template.budget import LimitReached, current, weigh
from mailtasks.compose.template.growth import bounded, check_call, check_operator, check_size

COUNTED: Final = "the turns of a loop"
"""The filter that counts what it passes on. No template can name it, for its name has spaces."""

STEP: Final = "one step"
"""The filter that takes one step, and yields nothing."""

JOINED: Final = "joined by ~"
"""The filter that `~` becomes."""

_LONGEST_RANGE: Final = 100_000  # that of Jinja2's own sandbox
_ABSENT: Final = ("lipsum",)  # globals of Jinja2 that no mail wants, and that can be asked for any length


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
        self.filters |= bounded(self.filters)
        self.filters |= {COUNTED: _counted, STEP: _step, JOINED: _joined}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator that could make a giant."""
        check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call is a step; its double underscores are Jinja2's, so that keywords are free for templates."""
        current().step()
        check_call(__obj, [*args, *kwargs.values()])
        return weigh(super().call(__context, __obj, *args, **kwargs))


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
    check_size(len(joined))
    return joined
