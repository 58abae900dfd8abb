"""What one SMTP transaction carries: a sender, recipients, content."""

from __future__ import annotations

from dataclasses import dataclass

from mailtasks.errors import AddressError
from mailtasks.smtp.grammar import path


@dataclass(frozen=True, slots=True)
class Envelope:
    """One transaction. Addresses are bare; they are checked here, before anything is on the wire.

    Raises:
        AddressError: no recipient, or an address that is none or would break the dialogue.
    """

    sender: str  # "" is the null sender, as bounces have it
    recipients: tuple[str, ...]
    content: bytes | tuple[bytes, ...]  # RFC 5322, in one or in pieces; line ends are made CRLF on the way
    smtputf8: bool = False  # the headers need SMTPUTF8 (RFC 6531)

    def __post_init__(self) -> None:
        path(self.sender)
        if not self.recipients:
            raise AddressError("an envelope without a recipient can't be sent; give at least one address")
        for recipient in self.recipients:
            if not path(recipient):
                raise AddressError("a recipient's address is empty; only the sender may be")

    @property
    def needs_smtputf8(self) -> bool:
        """The headers or an address can't be said in ASCII."""
        return self.smtputf8 or not (self.sender.isascii() and all(map(str.isascii, self.recipients)))
