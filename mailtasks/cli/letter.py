"""One mail as people read it: its headers, decoded, and its text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from mailtasks.compose.template import Rendered


@dataclass(frozen=True, slots=True)
class Letter:
    """What is in a mail."""

    headers: list[tuple[str, str]]
    text: str
    html: str
    attachments: list[str]
    size: int  # octets

    @classmethod
    def of(cls, rendered: Rendered) -> Self:
        """Read a mail that was rendered, without attachments that are stored apart."""
        content = rendered.content
        assert isinstance(content, bytes), "no part of it is stored apart"
        mail = message_from_bytes(content, policy=default)
        hidden = ("mime-version", "content-type", "content-transfer-encoding")
        return cls(
            headers=[(name, str(value)) for name, value in mail.items() if name.lower() not in hidden],
            text=_body(mail, "plain"),
            html=_body(mail, "html"),
            attachments=[part.get_filename("") for part in mail.iter_attachments()],
            size=len(content),
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"headers": [list(header) for header in self.headers]}

    def lines(self) -> Iterator[str]:
        """For a terminal: the HTML is only mentioned."""
        yield from (f"{name}: {value}" for name, value in self.headers)
        yield ""
        yield from self.text.expandtabs().splitlines()
        if self.html:
            yield ""
            yield f"(and HTML of {len(self.html):,} characters; look at it with --test-to)"
        for name in self.attachments:
            yield f"(and the file {name})"


def _body(mail: EmailMessage, kind: str) -> str:
    part = mail.get_body(preferencelist=(kind,))
    return str(part.get_content()).replace("\r\n", "\n") if part else ""
