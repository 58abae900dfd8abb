"""How options are read whose values are more than text: callbacks for click.

A wrong value is wrong use (exit code 2); the sentence shows what was given and how to write it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import click

from mailtasks.kinds import Duration


def moment(context: click.Context, parameter: click.Parameter, given: str | None) -> datetime | None:
    """A point in time, ISO 8601; that it must have an offset from UTC is told by `Message`."""
    try:
        return None if given is None else datetime.fromisoformat(given)
    except ValueError:
        raise click.BadParameter(f"{given!r} is no time; write one such as 2030-01-31T09:00+01:00") from None


def seconds(context: click.Context, parameter: click.Parameter, given: str | None) -> float | None:
    """A duration, as in settings."""
    try:
        return None if given is None else Duration(0).read(given)
    except ValueError:
        raise click.BadParameter(f"{given!r} is no duration; write one such as 90s, 15m or 2h") from None


def content(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    """What a text file holds; `-` is standard input."""
    if given is None:
        return None
    try:
        return sys.stdin.read() if given == "-" else Path(given).read_text(encoding="utf-8")
    except OSError as error:
        raise click.BadParameter(f"{given!r} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.BadParameter(f"{given!r} is no UTF-8 text") from None


def pairs(separator: str) -> Callable[[click.Context, click.Parameter, Sequence[str]], dict[str, str]]:
    """A callback that reads names and values with `separator` between them."""

    def read(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> dict[str, str]:
        return dict(_pair(text, separator) for text in given)

    return read


def _pair(text: str, separator: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name.strip():
        raise click.BadParameter(f"{text!r} is not NAME{separator}VALUE")
    return name.strip(), value.strip()
