"""Flask-Mail's `Attachment`, and what becomes of one: an attachment of ours, or a MIME part."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from email.encoders import encode_base64
from email.message import Message as EmailObject
from email.mime.base import MIMEBase
from email.mime.message import MIMEMessage
from email.parser import BytesParser
from email.policy import SMTP
from mimetypes import guess_type
from typing import Any, Final

import mailtasks
from mailtasks.address import excerpt
from mailtasks.errors import AttachmentError
from mailtasks.message import check_line

_SPACES: Final = re.compile(r"\s+")


class Attachment:
    """A file that goes with a message.

    Args:
        filename: as the reader sees it; None: it has none.
        content_type: such as "application/pdf"; None: guessed from the filename, else by what `data` is.
        data: the bytes; a text is encoded as UTF-8.
        disposition: "attachment" or "inline".
        headers: further ones of this part, such as a Content-ID.
    """

    def __init__(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: bytes | str | None = None,
        disposition: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        self.filename = filename
        self.content_type = content_type or _guessed(filename, data)
        self.data = data
        self.disposition = disposition or "attachment"
        self.headers = dict(headers or {})


def _guessed(filename: str | None, data: Any) -> str:
    """As Flask-Mail guesses it."""
    other = "text/plain" if isinstance(data, str) else "application/octet-stream"
    return (guess_type(filename)[0] if filename else None) or other


def as_ours(given: Attachment | EmailObject[Any, Any], ascii_names: bool) -> mailtasks.Attachment:
    """An attachment as we have it: its bytes, stored once for all mails; or a part, if it says more."""
    if (
        isinstance(given, Attachment)
        and given.filename
        and given.disposition == "attachment"
        and not given.headers
    ):
        return mailtasks.Attachment(
            filename=_filename(given.filename, ascii_names) or "attachment",
            content=_octets(given),
            content_type=given.content_type,
        )
    return mailtasks.Attachment.from_part(as_part(given, ascii_names))


def as_part(given: Attachment | EmailObject[Any, Any], ascii_names: bool) -> EmailObject[Any, Any]:
    """An attachment as a MIME part."""
    if isinstance(given, EmailObject):
        return given
    if not isinstance(given, Attachment):
        raise AttachmentError(f"attachments holds {excerpt(given)}: make it an Attachment, or use attach()")
    name = _filename(given.filename, ascii_names) if given.filename else None
    typed = mailtasks.Attachment(
        filename=name or "part", content=_octets(given), content_type=given.content_type
    )
    part = _encoded(typed)
    shown = name if name is None or name.isascii() else ("utf-8", "", name)
    disposition = check_line("the attachment's disposition", given.disposition, AttachmentError)
    part.add_header("Content-Disposition", disposition, **({"filename": shown} if shown else {}))
    for header, value in given.headers.items():
        what = f"the header {header} of the attachment"
        part.add_header(
            check_line(what, header, AttachmentError), check_line(what, str(value), AttachmentError)
        )
    return part


def _encoded(typed: mailtasks.Attachment) -> EmailObject[Any, Any]:
    kind, _, subtype = typed.media_type.partition("/")
    if typed.media_type.lower() == "message/rfc822":  # RFC 2046 5.2.1: never in base64
        return MIMEMessage(BytesParser(policy=SMTP).parsebytes(typed.content))
    part = MIMEBase(kind, subtype)
    part.set_payload(typed.content)
    encode_base64(part)
    return part


def _octets(given: Attachment) -> bytes:
    content: Any = given.data.encode() if isinstance(given.data, str) else given.data
    return content  # type: ignore[no-any-return]  # what isn't bytes is refused by mailtasks.Attachment


def _filename(name: str, to_ascii: bool) -> str:
    if not to_ascii:
        return name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    return _SPACES.sub(" ", plain).strip()
