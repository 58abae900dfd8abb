"""The rules of style sheets become `style` attributes, once for the template: many readers drop `<style>`.

The library that does it, css-inline, knows HTML and not Jinja2. So constructs are marks while it works:
comments where text or elements may stand, since a comment is what HTML's parser moves out of no table, and
bare marks inside a tag, a comment, or what holds no elements.

Each source is done by itself, with the rules of all sources of the template. So a selector sees the elements
of its own source, and `.card p` needs both in one file. `@media` and the like stay in their `<style>`.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final

from mailtasks.compose.template.markup import MARK, Masked
from mailtasks.compose.template.sources import Part, Source
from mailtasks.errors import TemplateError

if TYPE_CHECKING:
    from css_inline import CSSInliner

_COMMENT: Final = re.compile("<!--(\ufdd0[0-9]+\ufdd1)-->")
_EMPTY: Final = re.compile('(\ufdd1)=""')  # a construct among the attributes is none of them
_UNQUOTED: Final = re.compile("=[^\\s\"'<>\ufdd0]+\ufdd0([0-9]+)\ufdd1")
_DOCUMENT: Final = re.compile(r"(?i)<(?:!doctype|html|head|body)\b")
_STYLE: Final = re.compile(r"(?is)<style\b[^>]*>(.*?)</style\s*>")
_RAW: Final = re.compile(r"(?is)<(style|script|title|textarea|noscript)\b[^>]*>(?!.*</\1\s*>)")
_OPEN_COMMENT: Final = re.compile(r"(?s)<!--(?!.*-->)")
_IMPLIED: Final = frozenset(["html", "head", "body", "tbody", "colgroup"])  # which a parser may add


def with_styles_inlined(part: Part) -> Part:
    """The HTML with the rules of its style sheets in its elements.

    Raises:
        TemplateError: css-inline isn't installed, or a source can't be written anew without a loss.
    """
    sheets = [css for source in part.sources.values() for css in _STYLE.findall(source.text)]
    rules = _static("\n".join(sheets))
    inliner = _inliner(part, rules)
    return part.changed(lambda source: _inlined(source, inliner, rules))


def _inliner(part: Part, rules: str) -> CSSInliner:
    try:
        from css_inline import CSSInliner
    except ImportError:
        raise TemplateError(
            part.main.where, None, "inline_css needs css-inline: pip install mailtasks[css], or leave it out"
        ) from None
    return CSSInliner(keep_style_tags=True, load_remote_stylesheets=False, extra_css=rules)


def _static(rules: str) -> str:
    """The rules without constructs: what is decided when a mail is rendered can't be inlined before."""
    return MARK.sub("", Masked.of(rules).html())


def _inlined(source: Source, inliner: CSSInliner, rules: str) -> str:
    masked = Masked.of(source.text)
    html = masked.html(_marked)
    for number in _UNQUOTED.findall(html):
        if masked.at(number).keyword:  # quotes will be set around the value, and half of them be conditional
            raise TemplateError(
                source.where,
                None,
                f"its styles can't be inlined, since {masked.at(number).text} ends a value without quotes; "
                "put the value in quotes",
            )
    try:
        changed = inliner.inline(html) if _DOCUMENT.search(html) else inliner.inline_fragment(html, rules)
    except ValueError as error:  # the library's own error is one
        raise TemplateError(
            source.where,
            None,
            f"its styles can't be read: {error}; mend its style sheet, or the style attribute that is one "
            "expression",
        ) from None
    if "<tbody" not in html:  # a parser adds it to any table, and there may be a loop around what it adds
        changed = changed.replace("<tbody>", "").replace("</tbody>", "")
    _check_kept(source, masked, html, changed)
    return masked.restored(_EMPTY.sub(r"\1", _COMMENT.sub(r"\1", changed)))


def _marked(before: str, mark: str) -> str:
    """A mark as it may stand behind this HTML."""
    in_tag = before.rfind("<") > before.rfind(">") and re.match("<[a-zA-Z/!]", before[before.rfind("<") :])
    bare = in_tag or _RAW.search(before) or _OPEN_COMMENT.search(before)
    return mark if bare else f"<!--{mark}-->"


def _check_kept(source: Source, masked: Masked, before: str, after: str) -> None:
    was, now = _tags(before), _tags(after)
    lost = next((f"<{tag}>" for tag in was if was.count(tag) != now.count(tag)), None)
    if lost is None and MARK.findall(before) != MARK.findall(after):
        kept = set(MARK.findall(after))
        lost = next((masked.at(one).text for one in MARK.findall(before) if one not in kept), "a construct")
    if lost is not None:
        raise TemplateError(
            source.where,
            None,
            f"its styles can't be inlined, since {lost} wouldn't stay where it is; let the file hold whole "
            "elements, such as a table and not its rows, or leave inline_css out",
        )


def _tags(html: str) -> list[str]:
    lister = _Tags()
    lister.feed(html)
    lister.close()
    return [tag for tag in lister.found if tag not in _IMPLIED]


class _Tags(HTMLParser):
    """The names of all elements that begin."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
