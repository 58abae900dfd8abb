"""A compiled template makes a mail for each recipient: the whole message, as it goes over the wire.

The rules:

1. What is alike for all is made once: the layout of the MIME parts, with its boundaries, files in base64.
2. What a field brings into a header is text or is refused: it can't end a line.
3. An error says whose mail it is, and where in the template; the others' mail isn't concerned.
4. The same fields, id and date give the same bytes, in every process that has compiled the same record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TypeAlias, TypeVar

from jinja2 import Template as JinjaTemplate
from jinja2.exceptions import SecurityError, UndefinedError

from mailtasks import fields as header_fields
from mailtasks.address import Address, excerpt, parse
from mailtasks.compose.headers import address_header, given_header, text_header
from mailtasks.compose.mime import Part as MimePart
from mailtasks.compose.mime import attachment_part, date_header, from_header, multipart, own_file_part
from mailtasks.compose.template.budget import Budget, LimitReached, Limits, Refused, within
from mailtasks.compose.template.roads import Body, Renderer, values_of
from mailtasks.compose.template.sources import Source
from mailtasks.compose.template.unsubscribe import URL_NAME, fault, header_lines
from mailtasks.errors import MailtasksError, MessageError, MessageTooLarge, RenderError, TemplateError, place
from mailtasks.message import Attachment
from mailtasks.pieces import Blob, Content, OwnFile, joined, pieces_of, size_of

_LINE_ENDS: Final = re.compile(r"[\r\n\0]")
_SURROGATES: Final = re.compile(r"[\ud800-\udfff]")
_PLAIN: Final = 60  # characters of a value; twelve times as many octets in a URL, at most
_MARKS: Final = {"text": b"\0text\0", "html": b"\0html\0"}
"""What stands in the layout for a body. NUL stands in nothing else of it: no message may hold one."""

_Result = TypeVar("_Result")
_Layout: TypeAlias = tuple[bytes | Blob | str, ...]  # a string names the body that comes there


@dataclass(frozen=True, slots=True)
class Rendered:
    """One recipient's mail.

    Attributes:
        content: RFC 5322, canonical CRLF lines, as `compose` makes it; in pieces, if an attachment is a blob.
        smtputf8: the relay must offer SMTPUTF8.
        subject: as people read it.
    """

    content: Content
    smtputf8: bool
    subject: str


@dataclass(frozen=True, slots=True)
class Header:
    """A header line of the template's: what renders it, and the names that this asks for.

    `is_bare` says that it is text and values as they are, so that no plain value can spoil it.
    """

    name: str
    renderer: Renderer
    source: Source
    names: frozenset[str]
    is_bare: bool = False


class CompiledTemplate:
    """A template that renders mails. Thread-safe; made by `TemplateRecord.compile`.

    Attributes:
        fast: for each body, "text" and "html", whether it takes the fast road.
    """

    def __init__(
        self,
        *,
        digest: str,
        subject: Header | str,
        bodies: Mapping[str, Body],
        unsubscribe: Header | None,
        headers: Sequence[Header],
        fixed_headers: str,
        sender: str,
        files: Sequence[Attachment],
        own_files: bool,
        blob_threshold: int | None,
        limits: Limits,
    ) -> None:
        self.fast = {name: body.fast for name, body in bodies.items()}
        self._subject = subject
        # The HTML first: what is wrong there is wrong in the text that was made of it, at another line.
        self._bodies = [(name, bodies[name]) for name in ("html", "text") if name in bodies]
        self._unsubscribe = unsubscribe
        self._headers = headers
        rendered = [it for it in (subject, unsubscribe, *headers) if isinstance(it, Header)]
        self._bare = all(header.is_bare for header in rendered)
        self._in_headers = frozenset[str]().union(*(header.names for header in rendered)) - {"email"}
        self._from = from_header(sender)
        self._fixed = f"{fixed_headers}MIME-Version: 1.0\r\n"
        self._limits = limits
        self._token = digest
        self._blob_threshold = blob_threshold
        inline = [file for file in files if file.cid and "html" in bodies]
        self._files = [attachment_part(file, blob_threshold) for file in files if file not in inline]
        self._root = _root(bodies, [attachment_part(file, blob_threshold) for file in inline], digest)
        whole = multipart("mixed", [self._root, *self._files], digest) if self._files else self._root
        # With files of a recipient's own the outermost part is laid out for each.
        self._part = self._root if own_files else whole
        self._own_files = own_files
        self._layout = _layout(self._part.body)

    def render(
        self,
        fields: Mapping[str, Any],
        *,
        to: str | Address,
        message_id: str,
        date: datetime,
        attachments: Sequence[Attachment | OwnFile] = (),
        size_limit: int | None = None,
    ) -> Rendered:
        """The mail for one recipient.

        Args:
            fields: what the template's names stand for; `email`, if it isn't one of them, is the address.
            to: the recipient.
            message_id: with or without angle brackets.
            date: aware.
            attachments: the recipient's own files, or what is stored apart of them; only if the template has
                `attachment_fields`.
            size_limit: octets that the content may have; None: any number.

        Raises:
            RenderError: the fields don't fit the template.
            AddressError: `to` is no address.
            MessageTooLarge: with both sizes.
        """
        address = to if isinstance(to, Address) else parse(to)
        values = values_of(fields)
        values.setdefault("email", address.address)
        with within(self._limits) as budget:
            subject, lines = self._header_lines(address, values, budget)
            bodies = {
                name: _guarded(address, name, body.render, values, budget) for name, body in self._bodies
            }
        part, layout = self._laid_out(attachments)
        head = "".join(
            [
                date_header(date.astimezone(UTC).replace(microsecond=0)),
                self._from,
                address_header("To", [address]),
                _subject_line(subject),
                f"Message-ID: <{message_id.strip('<>')}>\r\n",
                *lines,
                self._fixed,
                part.headers,
                "\r\n",
            ]
        )
        body = [bodies[piece] if isinstance(piece, str) else _content(piece) for piece in layout]
        content = joined(head.encode(), *body)
        _check_size(address, size_of(content), size_limit)
        return Rendered(content, not head.isascii(), subject)

    def check_headers(self, fields: Mapping[str, Any], *, to: str) -> None:
        """Make the headers of one mail and nothing else of it, for what is wrong with them.

        Where all are text and names alone, and the values short texts of one line, that can be seen without
        (but for a URL that is nearly too long for a header).

        Args:
            As `render`.

        Raises:
            RenderError: the fields don't fit: a line break in the subject, a URL that is none.
            AddressError: `to` is no address.
        """
        if self._bare and all(map(_is_plain, map(fields.get, self._in_headers))):
            return
        address, values = parse(to), values_of(fields)
        values.setdefault("email", address.address)
        with within(self._limits) as budget:
            self._header_lines(address, values, budget)

    def _header_lines(
        self, address: Address, values: dict[str, Any], budget: Budget
    ) -> tuple[str, Sequence[str]]:
        """The subject, and the lines of other headers that fields bring something into."""
        given = self._subject
        subject = given if isinstance(given, str) else self._line(address, given, values, budget)
        unsubscribe = self._unsubscribe_lines(address, values, budget)
        return subject, [unsubscribe, *[self._header(address, it, values, budget) for it in self._headers]]

    def _laid_out(self, attachments: Sequence[Attachment | OwnFile]) -> tuple[MimePart, _Layout]:
        if not attachments and not (self._own_files and self._files):
            return self._part, self._layout
        if not self._own_files:
            raise MessageError("the template has no attachment_fields, so that no mail has files of its own")
        own = [
            own_file_part(file) if isinstance(file, OwnFile) else attachment_part(file, self._blob_threshold)
            for file in attachments
        ]
        # Its boundary stands in none of them, though an attached message may be one of this template's.
        part = multipart("mixed", [self._root, *self._files, *own], self._token)
        return part, _layout(part.body)

    def _line(self, address: Address, header: Header, values: dict[str, Any], budget: Budget) -> str:
        """A header's text, which is one line and not empty."""
        text = _guarded(address, header.source.where, header.renderer.text, values, budget)
        told = _broken(header.names, values, text) or _unfit(text)
        if told:
            raise RenderError(address.address, f"{header.source.where} {told}")
        return text

    def _unsubscribe_lines(self, address: Address, values: dict[str, Any], budget: Budget) -> str:
        """The headers of the URL, which what is rendered next has among its values; "": there is none."""
        header = self._unsubscribe
        if header is None:
            return ""
        url = self._line(address, header, values, budget)
        told = fault(url)
        if told:
            raise RenderError(address.address, f"{header.source.where} renders to {excerpt(url)}; {told}")
        values[URL_NAME] = url
        return header_lines(url)

    def _header(self, address: Address, header: Header, values: dict[str, Any], budget: Budget) -> str:
        text = self._line(address, header, values, budget)
        try:
            return checked_header(header, text)
        except MessageError as error:
            raise RenderError(address.address, str(error)) from None


def _is_plain(value: object) -> bool:
    """Whether it can stand in any bare header: it is one line, not blank, and not long, even if encoded."""
    return (
        isinstance(value, str)
        and len(value) <= _PLAIN
        and value.isprintable()
        and not value.isspace()
        and value != ""
    )


@lru_cache(maxsize=1024)  # many recipients share a first name, or the whole subject
def _subject_line(subject: str) -> str:
    return text_header("Subject", subject)


def _unfit(text: str) -> str:
    """What is wrong with a header's text, behind the words that say which; "": nothing."""
    if _SURROGATES.search(text):
        return "renders to a surrogate, which can't be mailed: see to the encoding of the fields"
    if not text.strip():
        return "renders to nothing; give it a text for every case"
    return ""


def _check_size(address: Address, size: int, limit: int | None) -> None:
    if limit is not None and size > limit:
        raise MessageTooLarge(
            f"the mail to {address.address} has {size:,} bytes; the size limit is {limit:,}: make the "
            "template or its attachments smaller, or raise `size_limit`"
        )


def _broken(names: frozenset[str], fields: Mapping[str, Any], text: str) -> str:
    """What is said of a header that isn't one line."""
    if not _LINE_ENDS.search(text):
        return ""
    for name in sorted(names):
        found = _LINE_ENDS.search(str(fields[name])) if name in fields else None
        if found:
            return (
                f"would be broken by the field {name!r}, which holds {found[0]!r}: "
                f"{excerpt(str(fields[name]))}; remove line breaks and NUL from it"
            )
    return f"renders to two lines: {excerpt(text)}; make it one"


# Errors


def _guarded(
    address: Address,
    part: str,
    render: Callable[[dict[str, Any], Budget], _Result],
    values: dict[str, Any],
    budget: Budget,
) -> _Result:
    """What is rendered; whatever goes wrong is told as this recipient's error."""
    try:
        return render(values, budget)
    except MailtasksError:
        raise
    except Exception as error:  # the fields are anything, and so is what a template does with them
        where, line = _origin(error) or (part, None)
        raise RenderError(address.address, f"{place(where, line)}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """An error of the template's or of Python's, and what to do."""
    if isinstance(error, RecursionError):
        return "the template calls or includes itself for ever; end it by a condition"
    if isinstance(error, LimitReached):
        return f"{error}; let it do less, or raise the limit"
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, SecurityError):
        return f"{str(error).rstrip('.')}; leave it out of the template"
    if isinstance(error, UndefinedError):
        return f"{error}; give the field, or leave it out of the template"
    if isinstance(error, UnicodeEncodeError):
        return "a field holds a surrogate, which can't be mailed: decode it with its real charset"
    return f"{type(error).__name__}: {error}; see whether the field is of the kind that the template expects"


def _origin(error: Exception) -> tuple[str, int] | None:
    """File and line of the template where it happened; None: it wasn't in one."""
    found = None
    trace = error.__traceback__
    while trace is not None:
        template = trace.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, JinjaTemplate):
            found = template.filename or "", template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return found


# Layout


def _root(bodies: Mapping[str, Body], inline: Sequence[MimePart], token: str) -> MimePart:
    """alternative(text, related(html, inline images)), each only where needed; marks stand for the bodies."""
    forms = []
    if "text" in bodies:
        forms.append(_marked("plain", "text", bodies["text"]))
    if "html" in bodies:
        html = _marked("html", "html", bodies["html"])
        forms.append(multipart("related", [html, *inline], token) if inline else html)
    return forms[0] if len(forms) == 1 else multipart("alternative", forms, token)


def _marked(subtype: str, name: str, body: Body) -> MimePart:
    return MimePart(
        f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {body.encoding}\r\n',
        _MARKS[name],
    )


def _layout(content: Content) -> _Layout:
    """The content, cut where bodies come."""
    layout: list[bytes | Blob | str] = []
    names = {mark: name for name, mark in _MARKS.items()}
    for piece in pieces_of(content):
        if isinstance(piece, Blob):
            layout.append(piece)
            continue
        for cut in re.split(rb"(\0\w+\0)", piece):
            if cut:
                layout.append(names.get(cut, cut))
    return tuple(layout)


def _content(piece: bytes | Blob) -> Content:
    return piece if isinstance(piece, bytes) else (piece,)


def static_line(header: Header) -> str:
    """The text of a header that is the same for all.

    Raises:
        TemplateError: it isn't one line, or is empty.
    """
    try:
        with within(Limits()) as budget:
            text = header.renderer.text(values_of({}), budget)
        told = _broken(frozenset(), {}, text) or _unfit(text)
    except Exception as error:  # a template may divide by zero without a field
        where, line = _origin(error) or (header.source.where, None)
        raise TemplateError(where, line, _told(error)) from error
    if told:
        raise TemplateError(header.source.where, None, f"it {told}")
    return text


def checked_header(header: Header, text: str) -> str:
    """The lines of a header that has this text.

    Raises:
        MessageError: it isn't of the header's kind.
    """
    values = header_fields.checked(header.name, [text])
    return "".join([given_header(header.name, value) for value in values])
