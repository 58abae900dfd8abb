"""HTML with Jinja2's constructs in it, taken apart and put together again.

What reads HTML doesn't know Jinja2. So each construct is taken out, a mark stands in its place, and when the
HTML was changed the constructs come back where their marks are.

The rules:

1. A mark is a number between two code points that are no characters and stand in no source.
2. A comment of Jinja2 is left out, and so are the signs that strip spaces: the spaces are stripped here.
3. Text that only looks like a construct once it was changed (from `&#123;{`) is kept from being one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mailtasks.compose.template.sandbox import Sandbox

MARK: Final = re.compile("\ufdd0([0-9]+)\ufdd1")

_BRACE: Final = re.compile("\\{(?=[{%#\ufdd0])")
_OPENS: Final = {"variable_begin": "{{", "block_begin": "{%"}
_CLOSES: Final = {"variable_end": "}}", "block_end": "%}"}
_KEYWORD: Final = re.compile(r"\{%\s*(\w+)")


@dataclass(frozen=True, slots=True)
class Construct:
    """An expression or a statement of Jinja2, as it is written."""

    text: str

    @property
    def keyword(self) -> str:
        """A statement's first word; "": it is an expression."""
        found = _KEYWORD.match(self.text)
        return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class Masked:
    """HTML with marks, and what they stand for."""

    pieces: Sequence[str | Construct]

    @classmethod
    def of(cls, source: str) -> Masked:
        """Take the constructs out of a source that was parsed before."""
        return cls(list(_pieces(source)))

    def html(self, mark: Callable[[str, str], str] = lambda before, mark: mark) -> str:
        """The HTML with its marks.

        Args:
            mark: makes what stands for a construct, of the HTML before it and the bare mark.
        """
        html = ""
        for number, piece in enumerate(self.pieces):
            html += piece if isinstance(piece, str) else mark(html, f"\ufdd0{number}\ufdd1")
        return html

    def at(self, number: str) -> Construct:
        """What the mark with this number stands for."""
        found = self.pieces[int(number)]
        assert isinstance(found, Construct), "only constructs have marks"
        return found

    def restored(self, changed: str) -> str:
        """The text with constructs for marks."""
        guarded = _BRACE.sub("{{ '{' }}", changed)
        return MARK.sub(lambda mark: self.at(mark[1]).text, guarded)


def _pieces(source: str) -> Iterator[str | Construct]:
    construct = ""
    for _, kind, value in Sandbox(html=False).lex(source):
        if kind == "data":
            yield value
        elif kind in _OPENS:
            construct = _OPENS[kind]
        elif kind in _CLOSES:
            yield Construct(construct + _CLOSES[kind])
            construct = ""
        elif construct:
            construct += value
