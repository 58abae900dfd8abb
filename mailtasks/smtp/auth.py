"""Logins: what is said after `AUTH`, for the mechanisms that relays offer (RFC 4954).

A mechanism is a row of `MECHANISMS`: a first line and the answers to the server's challenges. The
challenges themselves decide nothing in PLAIN and LOGIN; a mechanism that reads them will need a
function in its row instead of a tuple.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from mailtasks.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who logs in. The password is in no repr.

    Raises:
        SettingsError: NUL in either, which PLAIN can't carry (RFC 4616 2).
    """

    username: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if "\0" in self.username + self.password:
            raise SettingsError(
                "the relay's username or password holds a NUL character; no login can carry it"
            )


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the client says in one login, base64 where RFC 4954 wants it."""

    command: bytes = field(repr=False)  # without CRLF
    answers: tuple[bytes, ...] = field(repr=False)  # one for each 334


def plain(credentials: Credentials) -> Exchange:
    """RFC 4616, with the initial response on the command's line: one round trip."""
    secret = f"\0{credentials.username}\0{credentials.password}"
    return Exchange(b"AUTH PLAIN " + b64encode(secret.encode()), ())


def login(credentials: Credentials) -> Exchange:
    """The undocumented LOGIN that Exchange and others offer: name and password, each asked for."""
    answers = (b64encode(part.encode()) for part in (credentials.username, credentials.password))
    return Exchange(b"AUTH LOGIN", tuple(answers))


MECHANISMS: Final[dict[str, Callable[[Credentials], Exchange]]] = {"PLAIN": plain, "LOGIN": login}
"""In the order in which they are preferred."""


def choose(offered: Collection[str], credentials: Credentials) -> Exchange | None:
    """The exchange of the first mechanism that both sides know, or None."""
    return next((make(credentials) for name, make in MECHANISMS.items() if name in offered), None)
