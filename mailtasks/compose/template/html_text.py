"""A text for those who read no HTML, made of the HTML's template: once, and not for every recipient.

Each source of the HTML becomes a source of the text, whose statements and expressions are the same ones.

- Paragraphs, headings (`#`), lists (`-`, `1.`), rules, rows of tables and line breaks stay what they are.
- A link's address stands behind its text, in angle brackets (RFC 3986, appendix C); an image is its `alt`.
- What no reader sees (head, style, script, comments) is left out, but for what it assigns.
- A value that is marked `|safe` is HTML, and becomes text when it is rendered.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

from mailtasks.compose.template.markup import MARK, Masked

_UNSEEN: Final = frozenset(["head", "style", "script", "title", "template", "noscript", "svg"])
_KEPT_UNSEEN: Final = frozenset(
    [
        "set",
        "endset",
        "import",
        "from",
        "macro",
        "endmacro",
        "if",
        "elif",
        "else",
        "endif",
        "for",
        "endfor",
        "with",
        "endwith",
        "extends",
    ]
)
_BLOCKS: Final = frozenset(
    [
        "address",
        "article",
        "aside",
        "body",
        "center",
        "dd",
        "div",
        "dt",
        "fieldset",
        "figure",
        "figcaption",
        "footer",
        "form",
        "header",
        "html",
        "li",
        "main",
        "nav",
        "section",
        "tbody",
        "tfoot",
        "thead",
        "tr",
    ]
)
_APART: Final = frozenset(
    ["blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table", "ul"]
)  # an empty line before and after
_UNENDED: Final = frozenset(["dd", "dt", "li", "p", "tr"])  # whose end tag HTML lets one leave out
_HEADING: Final = re.compile("h([1-6])")
_SPACES: Final = re.compile(r"[ \t\n\r\f]+")  # HTML's; a no-break space is none
_RULE: Final = "-" * 40
_CELLS: Final = " | "


def text_of(html: str) -> str:
    """The text of a piece of HTML that holds no Jinja2."""
    writer = _Writer(Masked([html]))
    writer.feed(html)
    writer.close()
    return writer.text.strip("\n")


def text_template(source: str) -> str:
    """The text template of an HTML template, which was parsed before."""
    masked = Masked.of(source)
    writer = _Writer(masked)
    writer.feed(masked.html())
    writer.close()
    return masked.restored(writer.text)


class _Writer(HTMLParser):
    """Writes text while it reads HTML. A line is ended where a block ends, so that a loop's turns are."""

    def __init__(self, masked: Masked) -> None:
        super().__init__(convert_charrefs=True)
        self._masked = masked
        self._written: list[str] = []
        self._breaks = 2  # line ends that stand last: nothing stands before the first line
        self._space = False  # the last character is one that a further space would double
        self._unseen: list[str] = []
        self._pre = 0
        self._lists: list[int | None] = []  # the next number; None: no numbers
        self._links: list[tuple[str, int]] = []  # address, and where its text begins
        self._cell = False
        self._unended = False  # such an element has begun
        self._loops: list[bool] = []  # what that was when the loop began

    @property
    def text(self) -> str:
        """What was written."""
        return "".join(self._written)

    # HTMLParser calls these

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        if self._unseen:
            return
        given = {name: value or "" for name, value in attrs}
        if tag in _APART or tag in _BLOCKS:
            self._break(1)
        self._unended |= tag in _UNENDED
        start = getattr(self, f"_start_{tag}", None)
        if start is not None:
            start(given)
        elif heading := _HEADING.fullmatch(tag):
            self._put("#" * int(heading[1]) + " ")

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            if tag in self._unseen:
                del self._unseen[self._unseen.index(tag) :]
            return
        end = getattr(self, f"_end_{tag}", None)
        if end is not None:
            end()
        if tag in _UNENDED:
            self._unended = False
        if tag in _APART or tag in _BLOCKS:
            self._break(1 if self._lists or tag not in _APART else 2)

    def handle_data(self, data: str) -> None:
        at = 0
        for mark in MARK.finditer(data):
            self._text(data[at : mark.start()])
            self._construct(mark)
            at = mark.end()
        self._text(data[at:])

    # Tags that do more than begin or end a line

    def _start_br(self, given: dict[str, str]) -> None:
        self._put("\n")

    def _start_hr(self, given: dict[str, str]) -> None:
        self._break(1)
        self._put(f"{_RULE}\n")

    def _start_img(self, given: dict[str, str]) -> None:
        if alt := given.get("alt", "").strip():
            self._put(alt)

    def _start_pre(self, given: dict[str, str]) -> None:
        self._pre += 1

    def _end_pre(self) -> None:
        self._pre = max(0, self._pre - 1)

    def _start_ul(self, given: dict[str, str]) -> None:
        self._lists.append(None)

    def _start_ol(self, given: dict[str, str]) -> None:
        self._lists.append(1)

    def _end_ul(self) -> None:
        if self._lists:
            self._lists.pop()

    _end_ol = _end_ul

    def _start_li(self, given: dict[str, str]) -> None:
        number = self._lists[-1] if self._lists else None
        if number is not None:
            self._lists[-1] = number + 1
        # A list that a loop writes has one template for all its items, and no number of its own.
        bullet = "- " if number is None or self._loops else f"{number}. "
        self._put("  " * max(0, len(self._lists) - 1) + bullet)

    def _start_tr(self, given: dict[str, str]) -> None:
        self._cell = False

    def _start_td(self, given: dict[str, str]) -> None:
        if self._cell and not self._breaks:
            self._put(_CELLS.lstrip() if self._space else _CELLS)
        self._cell = True

    _start_th = _start_td

    def _start_a(self, given: dict[str, str]) -> None:
        self._links.append((given.get("href", "").strip(), len(self._written)))

    def _end_a(self) -> None:
        if not self._links:
            return
        address, began = self._links.pop()
        text = "".join(self._written[began:]).strip()
        if address and not address.startswith("#") and address.removeprefix("mailto:") != text:
            self._text(f" <{address}>" if text else f"<{address}>")

    # Writing

    def _text(self, data: str) -> None:
        if self._unseen or not data:
            return
        if self._pre:
            self._put(data)
            return
        text = _SPACES.sub(" ", data)
        if self._breaks or self._space:
            text = text.removeprefix(" ")
        if text:
            self._put(text)

    def _construct(self, mark: re.Match[str]) -> None:
        keyword = self._masked.at(mark[1]).keyword
        if self._unseen and keyword not in _KEPT_UNSEEN:
            return
        if keyword == "endfor" and self._loops:
            self._end_turn()
        self._written.append(mark[0])
        if keyword == "for":
            self._loops.append(self._unended)
        if not keyword:
            self._breaks, self._space = 0, False

    def _end_turn(self) -> None:
        before = self._loops.pop()
        if self._unended and not before:
            self._break(1)
            self._unended = False

    def _put(self, text: str) -> None:
        self._written.append(text)
        self._space = text.endswith((" ", "\n"))
        ends = len(text) - len(text.rstrip("\n"))
        self._breaks = self._breaks + ends if ends == len(text) else ends

    def _break(self, lines: int) -> None:
        """End the line, and leave lines empty, unless they are."""
        if self._breaks == 0 and self._written and not MARK.fullmatch(self._written[-1]):
            self._written[-1] = self._written[-1].rstrip(" ")
        if self._breaks < lines:
            self._put("\n" * (lines - self._breaks))
