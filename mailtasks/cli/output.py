"""What a command prints: one JSON document for programs, tables and lines for people.

Tables are drawn by rich on a terminal, if it is installed; otherwise, and into a pipe, they are plain
text that is never cut. Values may come from anybody's mail, so nothing in them is taken for markup and
no control character reaches the terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import click

GAP: Final = "  "
_CONTROL: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)  # and bidi overrides
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # how one begins, for one spreadsheet or another


def print_json(data: Any) -> None:
    """One JSON document; a date is ISO 8601."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=_plain))


def print_line(text: str) -> None:
    """A line for people."""
    click.echo(safe(text))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "nothing") -> None:
    """A table for people, or the word for none."""
    cells = [[cell(value) for value in row] for row in rows]
    if not cells:
        print_line(empty)
    elif not _draw(columns, cells):
        _write(columns, cells)


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        click.echo(f"{name:<{width}}{GAP}{cell(value)}")


def cell(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        # A small rate isn't none: two digits of it, at least.
        return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) >= 0.1 else f"{value:.2g}"
    if isinstance(value, datetime):
        return value.astimezone().isoformat(sep=" ", timespec="seconds")
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    return safe(str(value))


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 mail`, `2,000 mails`; the plural is given where it isn't the noun and an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def for_sheet(text: str) -> str:
    """A text for CSV, which people open with a spreadsheet: it isn't taken for a formula there."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def safe(text: str) -> str:
    """The text without control characters: a terminal does nothing but show it."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _write(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in ([name.upper() for name in columns], *cells):
        padded = (f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
        click.echo(GAP.join(padded).rstrip())


def _draw(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> bool:
    """Draw it with rich; False if that isn't to be had or this is no terminal."""
    if not sys.stdout.isatty():
        return False
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")  # an id or an address that is cut can't be copied
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)
    return True
