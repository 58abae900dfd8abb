"""What one SMTP transaction carries: a sender, recipients, content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mailtasks.errors import AddressError, MessageError
from mailtasks.smtp.grammar import path, xtext

_NOTIFY: Final = {"never": b"NEVER", "success": b"SUCCESS", "failure": b"FAILURE", "delay": b"DELAY"}
_RETURN: Final = {"": b"", "full": b"FULL", "headers": b"HDRS"}


@dataclass(frozen=True, slots=True)
class Notifications:
    """What the sender wants to be told by the servers behind the relay (DSN, RFC 3461).

    Raises:
        MessageError: a word that RFC 3461 doesn't have.
    """

    notify: tuple[str, ...] = ()  # "never", or some of "success", "failure", "delay"; (): as servers like
    returned: str = ""  # how much of the mail comes back with a failure: "full", "headers"; "": as they like
    id: str = ""  # ENVID: comes back with each notification; below 100 characters

    def __post_init__(self) -> None:
        if not {*self.notify} <= {*_NOTIFY} or self.returned not in _RETURN:
            raise MessageError(
                f"the notifications {self.notify!r} and {self.returned!r} are none that RFC 3461 knows"
            )

    @property
    def with_mail(self) -> bytes:
        """The parameters of MAIL (RFC 3461 4.3, 4.4)."""
        returned = b" RET=" + _RETURN[self.returned] if self.returned else b""
        return returned + (b" ENVID=" + xtext(self.id) if self.id else b"")

    def with_rcpt(self, recipient: str) -> bytes:
        """The parameters of RCPT (RFC 3461 4.1, 4.2); ORCPT is whom the sender meant, before any alias.

        A non-ASCII address has an ORCPT of another kind (RFC 6533), which few servers know; it gets none.
        """
        if not self.notify:
            return b""
        meant = b" ORCPT=rfc822;" + xtext(path(recipient).decode()) if recipient.isascii() else b""
        return b" NOTIFY=" + b",".join(_NOTIFY[word] for word in self.notify) + meant


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
    notifications: Notifications | None = None  # asked for where the relay offers DSN
    require_tls: bool = False  # RFC 8689: only over TLS, here and on the whole way behind the relay
    seven_bit: Callable[[], bytes] | None = None  # the content in ASCII, for a relay without 8BITMIME

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
