"""How options are read whose values are more than text: callbacks for click.

A wrong value is wrong use (exit code 2); the sentence shows what was given and how to write it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import click

from mailtasks.kinds import Duration
from mailtasks.message import LONGEST


def moment(context: click.Context, parameter: click.Parameter, given: str | None) -> datetime | None:
    """A point in time, ISO 8601, with its offset from UTC."""
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise click.BadParameter(f"{given!r} is no time; write one such as 2030-01-31T09:00+01:00") from None
    if moment.utcoffset() is None:
        raise click.BadParameter(f"{given!r} has no offset from UTC; add one, such as {given}+01:00, or Z")
    return moment


def seconds(context: click.Context, parameter: click.Parameter, given: str | None) -> float | None:
    """A duration, as in settings, and not none at all."""
    if given is None:
        return None
    try:
        duration = Duration(0).read(given)
        if not duration:
            raise ValueError
        return duration
    except ValueError:
        raise click.BadParameter(
            f"{given!r} is no duration; write one such as 90s, 15m or 2h, of at most {LONGEST.days} days"
        ) from None


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


def octets(context: click.Context, parameter: click.Parameter, given: str | None) -> bytes | None:
    """What a file holds, byte for byte; `-` is standard input."""
    if given is None:
        return None
    try:
        return sys.stdin.buffer.read() if given == "-" else Path(given).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{given!r} can't be read: {error.strerror}") from None


def message_id(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    """The id of one message, as an error or `mailtasks send` printed it."""
    from mailtasks.store.keys import split_id  # brings in Redis

    if given is None:
        return None
    try:
        split_id(given)
    except ValueError:
        raise click.BadParameter(f"{given!r} is no message id; give the one that the error printed") from None
    return given


def folder(context: click.Context, parameter: click.Parameter, given: Path | None) -> Path | None:
    """A folder to write into, made if it isn't there."""
    return None if given is None or context.resilient_parsing else made(given)


def made(given: Path) -> Path:
    """The same for a command that wants it later, once it knows of nothing else that is wrong."""
    try:
        given.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f"{str(given)!r} can't be made: {error.strerror}") from None
    if not os.access(given, os.W_OK | os.X_OK):
        raise click.BadParameter(f"{str(given)!r} can't be written to; name another folder")
    return given


def pairs(separator: str) -> Callable[[click.Context, click.Parameter, Sequence[str]], dict[str, str]]:
    """A callback that reads names and values with `separator` between them."""

    def read(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> dict[str, str]:
        return dict(_pair(text, separator) for text in given)

    return read


def headers(
    context: click.Context, parameter: click.Parameter, given: Sequence[str]
) -> dict[str, str | list[str]]:
    """Names and values, of which one that is given several times has a list."""
    read: dict[str, list[str]] = {}
    for name, value in (_pair(text, ":") for text in given):
        read.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in read.items()}


def _pair(text: str, separator: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name.strip():
        raise click.BadParameter(f"{text!r} is not NAME{separator}VALUE")
    return name.strip(), value.strip()
