"""A template as it is described, and as it travels: `Template` and `TemplateRecord`.

A `Template` names files. Loading it reads them, and all that they include; finds what is wrong; makes the
text of the HTML, and inlines styles, where that is asked for. The `TemplateRecord` holds it all, so that a
worker that has none of the files compiles the very same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

import msgspec
from jinja2 import BaseLoader

from mailtasks.address import parse
from mailtasks.compose.headers import address_header
from mailtasks.compose.template.budget import Limits
from mailtasks.compose.template.checks import Asked, asked_for, check_names, check_part, is_bare, names_in
from mailtasks.compose.template.compiled import CompiledTemplate, Header, checked_header, static_line
from mailtasks.compose.template.css import with_styles_inlined
from mailtasks.compose.template.html_text import text_template
from mailtasks.compose.template.roads import Body, Renderer
from mailtasks.compose.template.sandbox import Sandbox
from mailtasks.compose.template.sources import Given, Part, Source, read_part
from mailtasks.compose.template.sources import parse as parse_source
from mailtasks.compose.template.unsubscribe import HEADERS, URL_NAME, check_template, urlencode
from mailtasks.errors import MessageError, TemplateError
from mailtasks.message import Attachment, Message, check_header_name, check_line

_ANYBODY: Final = "somebody@example.com"
_LIMITS: Final = Limits()
_GIVEN: Final = frozenset(["email"])  # to every mail
_WITH_HOST: Final = re.compile(r"https?://[\w.:-]+/", re.ASCII)
_TAG: Final = re.compile(r"<[a-zA-Z!/]")
# An image within the HTML (RFC 2392), by an attribute or by url() in a style.
_SHOWS: Final = re.compile(r"""[=(]\s*["']?cid:([^"'\s)>{}]+)""", re.IGNORECASE)


class File(msgspec.Struct, frozen=True, array_like=True):
    """An attachment, as `mailtasks.message.Attachment` has it."""

    filename: str
    content: bytes
    content_type: str | None
    cid: str | None
    is_part: bool


class TemplateRecord(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A template with all that it needs. Made by `Template.load`; plain data, for msgpack.

    Attributes:
        subject, text, html, headers: sources, each with what it includes.
        text_from_html: the text was made of the HTML.
        attachments: files that all mails have.
        attachment_fields: names of fields, each of which names a file of the recipient's own; "" is none.
        unsubscribe: the source of the URL.
    """

    subject: Part
    sender: str
    text: Part | None = None
    html: Part | None = None
    headers: dict[str, Part] = {}
    reply_to: tuple[str, ...] = ()
    attachments: tuple[File, ...] = ()
    attachment_fields: tuple[str, ...] = ()
    text_from_html: bool = False
    unsubscribe: Part | None = None

    @classmethod
    def decode(cls, octets: bytes) -> TemplateRecord:
        """What `encode` has made."""
        return msgspec.msgpack.decode(octets, type=cls)

    def encode(self) -> bytes:
        """As msgpack; equal records give equal octets."""
        return msgspec.msgpack.encode(self, order="deterministic")

    @property
    def digest(self) -> str:
        """32 hex digits over it, by which it is known."""
        return blake2b(self.encode(), digest_size=16, person=b"mailtasks").hexdigest()

    def compile(
        self,
        fields: Iterable[str] | None = None,
        *,
        blob_threshold: int | None = None,
        limits: Limits = _LIMITS,
    ) -> CompiledTemplate:
        """Make of it what renders mails.

        Args:
            fields: the names that mails are rendered with; None: they were looked at when it was loaded.
            blob_threshold: octets from which an attachment is a blob; None: none is.
            limits: of one mail.

        Raises:
            TemplateError: something in it is wrong.
        """
        self.check(fields)
        bodies = {}
        if self.text is not None:
            bodies["text"] = Body(self.text, from_html=self.text_from_html)
        if self.html is not None:
            bodies["html"] = Body(self.html, html=True)
        subject = _subject(self.subject)
        headers = [_header(name, part) for name, part in self.headers.items()]
        fixed = [_fixed(header) for header in headers if not header.names]
        if self.reply_to:
            fixed.insert(0, address_header("Reply-To", map(parse, self.reply_to)))
        return CompiledTemplate(
            digest=self.digest,
            subject=subject if subject.names else static_line(subject),
            unsubscribe=None if self.unsubscribe is None else _url(self.unsubscribe),
            bodies=bodies,
            headers=[header for header in headers if header.names],
            fixed_headers="".join(fixed),
            sender=self.sender,
            files=[Attachment(**msgspec.structs.asdict(file)) for file in self.attachments],
            own_files=bool(self.attachment_fields),
            blob_threshold=blob_threshold,
            limits=limits,
        )

    def check(self, fields: Iterable[str] | None = None) -> None:
        """Look for what is wrong in its sources.

        Args:
            fields: the names that mails are rendered with, `email` or not; None: they aren't known.

        Raises:
            TemplateError: with file and line.
        """
        plain, html = Sandbox(html=False), Sandbox(html=True)
        for part in (self.unsubscribe, self.subject, *self.headers.values(), self.html, self.text):
            if part is not None:
                check_part(html if part is self.html else plain, part)
        if self.unsubscribe is not None:
            check_template(self.unsubscribe)
        if fields is None:
            return
        given = frozenset(fields)
        check_names(self._asked(), given)
        for name in self.attachment_fields:
            if name not in given:
                raise TemplateError(
                    "attachment_fields", None, f"there is no field {name!r}; give one, or leave it out"
                )

    @property
    def required_names(self) -> frozenset[str]:
        """The names that the fields of a mail must have; `email` isn't one, since each mail has it.

        A name that the template assigns isn't required, nor one that it asks about (`default`, `is defined`),
        nor `unsubscribe_url` where it is given. `check` refuses fields that lack one of these. All sources
        are parsed for it: ask once for a template, not for each mail.

        Raises:
            TemplateError: a record that `load` hasn't made is no template.
        """
        return frozenset([*[asked.name for asked in self._asked()], *self.attachment_fields])

    def _asked(self) -> Iterator[Asked]:
        """What its parts ask the fields for."""
        text = None if self.text_from_html else self.text  # asks for nothing but what the HTML does
        url = frozenset() if self.unsubscribe is None else frozenset([URL_NAME])
        for part in (self.unsubscribe, self.subject, *self.headers.values(), self.html, text):
            if part is not None:
                # The subject is rendered before there is a URL.
                given = _GIVEN if part is self.unsubscribe or part is self.subject else _GIVEN | url
                yield from [asked for asked in asked_for(part) if asked.name not in given]


def _url(part: Part) -> Header:
    renderer = Renderer(part, filters={"urlencode": urlencode})
    bare = is_bare(part, "urlencode") and _WITH_HOST.match(part.main.text) is not None
    return Header("List-Unsubscribe", renderer, part.main, names_in(part), bare)


def _subject(part: Part) -> Header:
    return Header("Subject", Renderer(part), part.main, names_in(part), is_bare(part))


def _header(name: str, part: Part) -> Header:
    return Header(name, Renderer(part), part.main, names_in(part))


def _fixed(header: Header) -> str:
    try:
        return checked_header(header, static_line(header))
    except MessageError as error:
        if isinstance(error, TemplateError):
            raise
        raise TemplateError(header.source.where, None, str(error)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A mail for many: what is alike for all of them, and where their fields come.

    A string is a Jinja2 template itself. A path names a file: of `folder`, else anywhere, and then what it
    includes is looked for beside it; or, with a `loader`, it is a name that this knows. Values are escaped in
    HTML and nowhere else. One that is None can't be printed.

    Attributes:
        subject: one line.
        sender: the From header, as `News <news@example.com>`.
        text, html: the bodies; one at least. Without `text` one is made of the HTML, once for the template.
        reply_to: where answers should go.
        headers: further headers, whose values are templates too.
        attachments: files that all mails have, as `Attachment` objects or paths, which are read when the
            template is loaded; one is shown in the HTML by `<img src="cid:...">`, with its `cid` or its name.
        attachment_fields: names of fields, each of which names a file of the recipient's own; "" is none.
        attachment_folder: where these files lie, however deep: a field has a file's path in it.
        folder: where paths and includes are looked for.
        loader: a loader of Jinja2, instead of files.
        text_from_html: False: without `text` the mail has HTML only.
        inline_css: rules in <style> become style attributes; needs `pip install mailtasks[css]`.
        unsubscribe: the https URL by which a recipient unsubscribes in one click, such as
            `https://example.com/u/{{ token|urlencode }}`, or `{{ link }}` where a field has it whole. It
            makes List-Unsubscribe and List-Unsubscribe-Post; bodies and headers have it as `unsubscribe_url`.
    """

    subject: Given
    sender: str
    text: Given | None = None
    html: Given | None = None
    reply_to: str | Sequence[str] = ()
    headers: Mapping[str, Given] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    attachments: Sequence[Attachment | str | os.PathLike[str]] = ()
    attachment_fields: Sequence[str] = ()
    attachment_folder: str | os.PathLike[str] | None = None
    folder: Given | None = None
    loader: BaseLoader | None = None
    text_from_html: bool = True
    inline_css: bool = False
    unsubscribe: Given | None = None

    def load(self, fields: Iterable[str] | None = None) -> TemplateRecord:
        """Read everything, and look at it: what compiling would find is found here.

        Args:
            fields: the names that mails will be rendered with, `email` or not; None: they aren't known yet.

        Raises:
            TemplateError: something isn't there or is wrong; with file and line.
            AddressError, AttachmentError, MessageError: the sender, a file or the name of a header is.
        """
        if not self.sender:
            raise TemplateError("the template", None, "it has no sender; give one")
        checked = self._checked()
        subject = _in_one_line(self._part("subject", self.subject))
        headers = {name: _in_one_line(self._part(name, value)) for name, value in self.headers.items()}
        url = None if self.unsubscribe is None else _in_one_line(self._part("unsubscribe", self.unsubscribe))
        text = None if self.text is None else self._part("text", self.text)
        html = None if self.html is None else self._part("html", self.html)
        if text is None and html is None:
            raise TemplateError("the template", None, "it has no body; give text, html or both")
        record = TemplateRecord(
            subject=subject,
            sender=str(checked.sender),
            text=text,
            html=html,
            headers=headers,
            reply_to=checked.reply_to,
            attachments=tuple(
                File(file.filename, file.content, file.media_type, file.cid, file.is_part)
                for file in _shown(html, checked.attachments)
            ),
            attachment_fields=tuple(self.attachment_fields),
            unsubscribe=url,
        )
        record.check(fields)  # before the HTML is changed, so that its lines are those of the files
        finished = self._finished(record)
        finished.compile()
        return finished

    def compile(
        self, fields: Iterable[str], *, blob_threshold: int | None = None, limits: Limits = _LIMITS
    ) -> CompiledTemplate:
        """Load it and compile it, in one process.

        Raises:
            TemplateError, MessageError: as `load` and `TemplateRecord.compile` do.
        """
        return self.load(fields).compile(blob_threshold=blob_threshold, limits=limits)

    def _part(self, what: str, given: Given) -> Part:
        if not isinstance(given, str | os.PathLike):
            raise TemplateError(what, None, f"it must be a string or a path, not {type(given).__name__}")
        return read_part(what, given, self.folder, self.loader)

    def _checked(self) -> Message:
        """What isn't a template, checked as a message's."""
        for name in self.headers:
            check_header_name(check_line("headers: a name", name))
            if self.unsubscribe is not None and name.lower() in HEADERS:
                raise MessageError(
                    f"headers: {name} can't be given beside `unsubscribe`, which makes it: leave one out"
                )
        return Message(to=_ANYBODY, sender=self.sender, reply_to=self.reply_to, attachments=self.attachments)

    def _finished(self, record: TemplateRecord) -> TemplateRecord:
        """With the text that is made of the HTML, and with styles in its elements."""
        html = record.html
        if html is None:
            return record
        _check_html(html)
        changes: dict[str, Part | bool] = {}
        if record.text is None and self.text_from_html:
            changes |= {"text": _text_of(html), "text_from_html": True}
        if self.inline_css:
            changes |= {"html": with_styles_inlined(html)}
        return msgspec.structs.replace(record, **changes)


def _shown(html: Part | None, files: Sequence[Attachment]) -> Iterator[Attachment]:
    """The files; one that the HTML shows by its name (`cid:logo.png`) has that as its cid.

    Raises:
        TemplateError: the HTML shows what no file is.
    """
    shown = {} if html is None else _shown_in(html)
    known = {file.cid or file.filename for file in files}
    for name, (source, at) in shown.items():
        if name not in known:
            raise TemplateError(
                source.where,
                source.text.count("\n", 0, at) + 1,
                f"it shows cid:{name}, and no file has that name or cid; attach it",
            )
    for file in files:
        by_name = not (file.cid or file.is_part) and file.filename in shown
        yield replace(file, cid=file.filename) if by_name else file


def _shown_in(html: Part) -> dict[str, tuple[Source, int]]:
    """What HTML shows by `cid:`, and where."""
    return {
        unquote(found[1]): (source, found.start())
        for source in html.sources.values()
        for found in _SHOWS.finditer(source.text)
    }


def _in_one_line(part: Part) -> Part:
    """A header's template: what stands around it in a file is no part of the line."""
    entry = {part.entry: Source(part.main.where, part.main.text.strip())}
    return Part(part.entry, part.sources | entry)


def _check_html(part: Part) -> None:
    if not any(_TAG.search(source.text) or "{{" in source.text for source in part.sources.values()):
        raise TemplateError(
            part.main.where,
            1,
            "it holds no HTML, not a single tag; give it as text, or see whether it is the right file",
        )


def _text_of(html: Part) -> Part:
    text = html.changed(lambda source: text_template(source.text))
    try:
        for source in text.sources.values():
            parse_source(Sandbox(html=False), source)
    except TemplateError:
        raise TemplateError(
            html.main.where,
            None,
            "no text can be made of it, since conditions or loops begin in a tag and end elsewhere; give "
            "`text`, or text_from_html=False",
        ) from None
    return text
