"""One operation of a template that would make a giant of small things is refused, before it is done.

Counting what is rendered comes too late for `'a' * 10**10`. So `*`, `**`, `+`, `%` and `~` are looked at, and
the filters and the methods of text that pad, repeat, join or fill in. What they could yield is estimated
from their arguments, and rather too high.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import wraps
from math import prod
from typing import Any, Final

from mailtasks.compose.template.budget import LimitReached, weigh

_LARGEST: Final = 10_000_000
"""Characters or items that one operation may yield: more than a mail may have, and made in a moment."""

_A_BIT: Final = 100  # a number's bit weighs as much, for what is done with large numbers takes longer

_Check = Callable[[list[Any]], None]


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Refuse `left operator right`, if it could yield a giant.

    Raises:
        LimitReached: it could.
    """
    check_size(_grown(operator, left, right))
    if operator == "%" and isinstance(left, str):
        _check_format([left, *(right if isinstance(right, tuple) else (right,))])


def check_call(called: Any, arguments: Iterable[Any]) -> None:
    """Refuse the call of a method of text, if it could yield a giant.

    Raises:
        LimitReached: it could.
    """
    owner = getattr(called, "__self__", None)
    owner = getattr(getattr(called, "__wrapped__", None), "__self__", owner)  # the sandbox's own `format`
    check = _METHODS.get(getattr(called, "__name__", ""))
    if check is not None and isinstance(owner, str):
        check([owner, *arguments])


def bounded(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Those of the filters that could yield a giant, so that they are refused to."""
    return {name: _bounded(filters[name], check) for name, check in _FILTERS.items()}


def check_size(size: int) -> None:
    """Refuse what has so many characters or items.

    Raises:
        LimitReached: they are too many.
    """
    if size > _LARGEST:
        raise LimitReached(f"one operation of it may yield more than {_LARGEST:,} characters or items")


def _bounded(growing: Callable[..., Any], check: _Check) -> Callable[..., Any]:
    @wraps(growing)
    def checked(*arguments: Any, **named: Any) -> Any:
        check([*arguments, *named.values()])
        result = growing(*map(_weighed, arguments), **named)
        weigh(result)
        return result

    return checked


def _weighed(value: Any) -> Any:
    """The same; what an iterator yields is counted as it comes."""
    return map(weigh, value) if isinstance(value, Iterator) else value


def _check_fill(arguments: list[Any]) -> None:
    """For what is filled up to a width, or as often as a number says."""
    _check_product([_extent(one) for one in arguments if isinstance(one, int | str | list | tuple)])


def _check_insert(arguments: list[Any]) -> None:
    """For what puts one text into another, at many places."""
    _check_product([_extent(one) for one in arguments if isinstance(one, str | list | tuple | dict)])


def _check_product(extents: list[int]) -> None:
    check_size(prod(sorted(extents)[-2:]))


def _check_format(arguments: list[Any]) -> None:
    """For a format, which may name a width, or a value that is one."""
    given = [*arguments, *(value for one in arguments if isinstance(one, dict) for value in one.values())]
    numbers = [abs(one) for one in given if isinstance(one, int)]
    for text in arguments:
        if isinstance(text, str) and (
            _WIDE.search(text) or (_GIVEN_WIDTH.search(text) and max(numbers, default=0) > _WIDEST)
        ):
            raise LimitReached("a format asks for a width of six digits or more")


_WIDE: Final = re.compile(r"\d{6}")
_WIDEST: Final = 99_999
_GIVEN_WIDTH: Final = re.compile(r"\*|\{[^{}]*\{")  # `%*d`, `{:{}}`

_FILTERS: Final[dict[str, _Check]] = {
    **dict.fromkeys(("batch", "center", "indent", "slice"), _check_fill),
    **dict.fromkeys(("join", "replace", "wordwrap"), _check_insert),
    "format": _check_format,
}
"""Filters that grow, and what is looked at."""

_METHODS: Final[dict[str, _Check]] = {
    **dict.fromkeys(("center", "expandtabs", "ljust", "rjust", "zfill"), _check_fill),
    **dict.fromkeys(("join", "replace", "translate"), _check_insert),
    **dict.fromkeys(("format", "format_map"), _check_format),
}
"""Methods of text that do."""


def _grown(operator: str, left: Any, right: Any) -> int:
    """How large the result may be, in characters or items."""
    if operator == "**":
        return _bits(left) * min(abs(right), _LARGEST) * _A_BIT if isinstance(right, int) else 0
    if operator == "*":
        sized = isinstance(left, Sized) or isinstance(right, Sized)
        return _extent(left) * _extent(right) if sized else (_bits(left) + _bits(right)) * _A_BIT
    if operator == "+" and isinstance(left, Sized):
        return _extent(left) + _extent(right)
    return 0


def _extent(value: object) -> int:
    if isinstance(value, list | tuple):
        return sum([1 + len(item) if isinstance(item, str) else 1 for item in value])
    if isinstance(value, Sized):
        return max(1, len(value))
    return max(1, abs(value)) if isinstance(value, int) else 1


def _bits(value: object) -> int:
    return value.bit_length() if isinstance(value, int) else 0
