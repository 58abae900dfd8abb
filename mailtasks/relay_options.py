"""How an option of a relay's URL is read, from its percent-decoded text.

Each function here returns the value, or raises a ValueError whose text ends the sentence "its NAME …" and
quotes nothing of what was given. The table of options is `mailtasks.relay.Relay`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final, Literal

HELLO_NAME: Final = r"[A-Za-z0-9.-]+|\[[A-Za-z0-9.:]+\]"
"""A host name or an address literal (RFC 5321 4.1.4), near enough to keep a line in its place."""

MECHANISMS: Final[Mapping[str, Literal["password", "token"]]] = {
    "plain": "password",
    "login": "password",
    "cram-md5": "password",
    "xoauth2": "token",
    "oauthbearer": "token",
}
"""The ways to log in that a URL may ask for, the preferred first, and what each shows to the relay;
`mailtasks.smtp.auth` speaks them."""


def text(given: str) -> str:
    """Any text, such as a path."""
    if not given or "\0" in given:
        raise ValueError("holds a NUL" if given else "is empty")
    return given


def tls(given: str) -> str:
    """Whether STARTTLS is demanded."""
    if given not in {"required", "none"}:
        raise ValueError("is neither required nor none")
    return given


def yes_or_no(given: str) -> str:
    """Whether something is wanted."""
    if given not in {"yes", "no"}:
        raise ValueError("is neither yes nor no")
    return given


def auth(given: str) -> str:
    """The name of a mechanism."""
    if given not in MECHANISMS:
        raise ValueError(f"is none of {', '.join(MECHANISMS)}")
    return given


def local(given: str) -> str:
    """An IP address."""
    try:
        return str(ip_address(given))
    except ValueError:
        raise ValueError("is no IP address") from None


def hello(given: str) -> str:
    """What may stand behind EHLO."""
    if not re.fullmatch(HELLO_NAME, given):
        raise ValueError("is neither a host name nor an address in brackets")
    return given


def function(given: str) -> str:
    """Where in Python code a function is; it is looked for when it is needed, in a worker."""
    if not re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", given):
        raise ValueError("isn't of the form module:function")
    return given


def command(given: str) -> tuple[str, ...]:
    """A command's words, split as a shell would; nothing else of a shell is done."""
    text(given)
    try:
        words = tuple(shlex.split(given))
    except ValueError:
        raise ValueError("ends within quotes, or with a backslash") from None
    if not words or not words[0]:
        raise ValueError("is empty")
    return words


def seconds(given: str) -> float:
    """A time limit for something that a person would wait for."""
    number = float(given) if re.fullmatch(r"\d{1,4}(\.\d{1,3})?", given, re.ASCII) else 0.0
    if not 0.1 <= number <= 600:
        raise ValueError("is no number of seconds from 0.1 to 600")
    return number
