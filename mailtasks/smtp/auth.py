"""Logins: what is said after `AUTH`, for the mechanisms that relays offer (RFC 4954).

A mechanism is a row of `MECHANISMS`. An `Exchange` is one login by one of them: a first line, and an answer
to each challenge of the server's. The rules:

1. What would make the command longer than 512 octets waits for the server's empty challenge: Gmail and
   Dovecot refuse longer commands, and tokens are often longer. An answer may have 12,288 (RFC 4954 4).
2. The login is in no repr, and what a server repeats of it is scrubbed from its replies.
3. A challenge too many, or one that can't be answered, is answered with a cancel, which the server refuses.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from mailtasks.errors import SettingsError
from mailtasks.relay_options import MECHANISMS as SHOWN
from mailtasks.smtp.grammar import printable

LONGEST_COMMAND: Final = 512
"""Octets of a command with its CRLF (RFC 5321 4.5.3.1.4); an initial response must fit in (RFC 4954 4)."""

LONGEST_TOKEN: Final = 8192
"""Characters: with a user and in base64 it still fits the 12,288 octets of an answer's line."""

CANCEL: Final = b"*"
SHORTEST_SECRET: Final = 4  # characters; scrubbing shorter ones would leave nothing of a reply to read
_REASONS: Final = ("status", "scope", "schemes")  # the fields that RFC 7628 3.2.2 and Google's XOAUTH2 name
_REASON_KEPT: Final = 100  # bytes of each


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who logs in, and what shows it: a password or, if there is one, a token. Neither is in the repr.

    Raises:
        SettingsError: NUL in user or password, which PLAIN can't carry (RFC 4616 2).
    """

    username: str = ""  # may be missing for OAUTHBEARER only
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    mechanism: str | None = None  # the only one to use, such as "cram-md5"
    host: str = ""  # where to; OAUTHBEARER tells the server (RFC 7628 3.1)
    port: int = 0

    def __post_init__(self) -> None:
        if "\0" in self.username + self.password:
            raise SettingsError(
                "the relay's username or password holds a NUL character; no login can carry it"
            )

    @property
    def mechanisms(self) -> list[str]:
        """Those that fit, the preferred first."""
        shown = "token" if self.token else "password"
        return [self.mechanism] if self.mechanism else [name for name, it in SHOWN.items() if it == shown]


Answer = Callable[[Credentials, bytes], bytes]
"""What to say to a challenge; both as they are before base64. ValueError: nothing can be said to that."""


def _plain(credentials: Credentials, _: bytes) -> bytes:
    return f"\0{credentials.username}\0{credentials.password}".encode()


def _username(credentials: Credentials, _: bytes) -> bytes:
    return credentials.username.encode()


def _password(credentials: Credentials, _: bytes) -> bytes:
    return credentials.password.encode()


def _digest(credentials: Credentials, challenge: bytes) -> bytes:
    if not challenge:
        raise ValueError("nothing to sign")
    digest = hmac.new(credentials.password.encode(), challenge, "md5").hexdigest()
    return f"{credentials.username} {digest}".encode()


def _xoauth2(credentials: Credentials, _: bytes) -> bytes:
    return f"user={credentials.username}\1auth=Bearer {credentials.token}\1\1".encode()


def _oauthbearer(credentials: Credentials, _: bytes) -> bytes:
    name = credentials.username.replace("=", "=3D").replace(",", "=2C")  # RFC 5801 4
    who = f"a={name}" if name else ""
    where = f"host={credentials.host}\1port={credentials.port}"
    return f"n,{who},\1{where}\1auth=Bearer {credentials.token}\1\1".encode()


@dataclass(frozen=True, slots=True)
class Mechanism:
    """How a login goes: a row of `MECHANISMS`."""

    initial: Answer | None = None  # what may be said with the command already
    answers: tuple[Answer, ...] = ()
    to_refusal: bytes | None = None  # what to say to a challenge which tells why it was refused


MECHANISMS: Final[dict[str, Mechanism]] = {
    "plain": Mechanism(_plain),  # RFC 4616
    "login": Mechanism(None, (_username, _password)),  # never standardised; Exchange and others offer it
    "cram-md5": Mechanism(None, (_digest,)),  # RFC 2195
    "xoauth2": Mechanism(_xoauth2, to_refusal=b""),  # Google's and Microsoft's
    "oauthbearer": Mechanism(_oauthbearer, to_refusal=b"\1"),  # RFC 7628 3.2.3
}


class Exchange:
    """What the client says in one login.

    Attributes:
        command: the first line, without CRLF.
        reason: why the server refused, if it has said so in a challenge.
        cancelled: whether the last answer was a cancel, behind which no challenge may come (RFC 4954 4).
    """

    def __init__(self, name: str, credentials: Credentials) -> None:
        mechanism = MECHANISMS[name]
        self.command = f"AUTH {name.upper()}".encode()
        self.reason = ""
        self.cancelled = False
        self._credentials = credentials
        self._answers = list(mechanism.answers)
        self._to_refusal = mechanism.to_refusal
        self._said: list[bytes] = []  # longest first
        if mechanism.initial:
            self._begin(mechanism.initial)

    def __repr__(self) -> str:
        return f"<Exchange {self.command.split()[1].decode()}>"

    def answer(self, challenge: bytes) -> bytes:
        """What to say to a 334, without CRLF.

        Args:
            challenge: what stood behind the code.
        """
        try:
            told = b64decode(challenge, validate=True)
        except ValueError:
            told = b""
        if self._answers:
            return self._reply(self._answers.pop(0), told)
        if self._to_refusal is not None and not self.reason:
            self.reason = read_reason(told)
            return b64encode(self._to_refusal)
        return self._cancel()

    def scrub(self, line: bytes) -> bytes:
        """A server's line without what it repeats of the login."""
        secrets = (self._credentials.password.encode(), self._credentials.token.encode())
        for secret in (*self._said, *secrets):
            if len(secret) >= SHORTEST_SECRET:
                line = line.replace(secret, b"***")
        return line

    def _begin(self, initial: Answer) -> None:
        said = self._reply(initial, b"")
        whole = self.command + b" " + said
        if len(whole) + len(b"\r\n") <= LONGEST_COMMAND:
            self.command = whole
        else:
            self._answers.insert(0, initial)

    def _reply(self, answer: Answer, challenge: bytes) -> bytes:
        try:
            said = b64encode(answer(self._credentials, challenge))
        except ValueError:
            return self._cancel()
        self._said.append(said)
        return said

    def _cancel(self) -> bytes:
        self.cancelled = True
        return CANCEL


def read_reason(told: bytes) -> str:
    """What a server says of a token that it refuses: JSON (RFC 7628 3.2.2), or whatever it is instead."""
    try:
        fields = json.loads(told)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        return printable(told[:_REASON_KEPT]) or "no reason given"
    known = [(name, str(fields[name]).encode()) for name in _REASONS if fields.get(name)]
    said = ", ".join(f"{name} {printable(value[:_REASON_KEPT])}" for name, value in known)
    return said or "no reason given"


def choose(offered: Collection[str], credentials: Credentials) -> Exchange | None:
    """The exchange of the first mechanism that both sides can use, or None."""
    names = {name.lower() for name in offered}
    return next((Exchange(name, credentials) for name in credentials.mechanisms if name in names), None)


def wanted(credentials: Credentials) -> str:
    """The mechanisms of which the relay would have to offer one, for people: `PLAIN, LOGIN or CRAM-MD5`."""
    *others, last = [name.upper() for name in credentials.mechanisms]
    return f"{', '.join(others)} or {last}" if others else last
