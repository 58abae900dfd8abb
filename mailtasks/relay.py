"""A relay: the SMTP server that takes our mail, as one URL says it.

The rules:

1. A relay may be printed and logged: its password is in no `repr`, no `str` and no error. An error
   about a URL quotes nothing of it but the `ca` file's path, since any part may be a misplaced password.
2. Nothing falls back to plain text: without TLS only on loopback, or where the URL says `tls=none`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from mailtasks.errors import SettingsError

MASK: Final = "***"
EXPECTED: Final = "a URL such as smtp://USER:PASSWORD@HOST:587, smtps://HOST or smtp://HOST?tls=none"

Tls = Literal["required", "none", "implicit"]


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine, without asking DNS."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def mask_url(url: str) -> str:
    """The URL with every password replaced by `***`; a lone user may be one that was misplaced."""
    masked = re.sub(r"//([^/?#@:]*:)?[^/?#]*@", rf"//\1{MASK}@", url)
    return re.sub(r"([?&][^=&]*pass[^=&]*=)[^&#]*", rf"\1{MASK}", masked, flags=re.IGNORECASE)


def split_url(given: object, schemes: tuple[str, ...]) -> SplitResult:
    """A URL's parts, or a ValueError that quotes nothing of it: any part may be a misplaced password."""
    if not isinstance(given, str):
        raise ValueError("it is no text")
    if re.search(r"[\x00-\x20\x7f]", given):  # urlsplit would drop some of these in silence
        raise ValueError("it holds a space or a control character")
    if not given.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        raise ValueError(f"it doesn't begin with {either([f'{scheme}://' for scheme in schemes])}")
    if not _is_whole_url(given):
        raise ValueError(
            "its host or port can't be read (in a password, write / ? # @ : % as %2F %3F %23 %40 %3A %25)"
        )
    return urlsplit(given)


def _is_whole_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.port != 0 and parts.netloc.count("@") <= 1 and not parts.fragment
    except ValueError:
        return False


def either(words: Sequence[str]) -> str:
    """The words as a person lists them: `a, b or c`."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """An SMTP server that takes our mail, and how to talk to it. Safe to print and to log."""

    scheme: Literal["smtp", "smtps"]
    host: str
    port: int
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    tls: Tls  # "required": STARTTLS with a verified certificate; "implicit": TLS from the first byte
    ca: str | None = None  # a PEM file with the certificates to trust instead of the system's

    @staticmethod
    def parse(url: str) -> Relay:
        """The relay of `smtp[s]://[USER:PASSWORD@]HOST[:PORT][?tls=required|none][&ca=FILE]`.

        User and password are percent-decoded. The port is 465 for `smtps`, 25 for `smtp` on
        loopback and 587 (RFC 6409 3.1) elsewhere. `smtp` demands STARTTLS unless the host is
        loopback or the URL says `tls=none`.

        Raises:
            SettingsError: the URL is wrong, or its `ca` file can't be read.
        """
        try:
            return parse_relay(url)
        except ValueError as error:
            wrong = str(error)
        raise SettingsError(f"relay: {wrong}; expected {EXPECTED}")

    @property
    def name(self) -> str:
        """`host:port`, for logs, metrics and the ledger."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url_masked(self) -> str:
        """The URL that says all of it except the password."""
        login = f"{quote(self.username, safe='')}:{MASK}@" if self.username is not None else ""
        said = {"tls": None if self.tls == "implicit" else self.tls, "ca": self.ca}
        query = "&".join(f"{key}={value}" for key, value in said.items() if value is not None)
        return f"{self.scheme}://{login}{self.name}{'?' if query else ''}{query}"

    def __str__(self) -> str:
        return self.url_masked


def parse_relay(url: object) -> Relay:
    """As `Relay.parse`, with a ValueError that leaves it to the caller to name the setting."""
    parts = split_url(url, ("smtp", "smtps"))
    if not parts.hostname or parts.path not in {"", "/"}:
        raise ValueError("it names no host" if not parts.hostname else "it holds a path")
    scheme: Literal["smtp", "smtps"] = "smtps" if parts.scheme == "smtps" else "smtp"
    username, password = _login(parts)
    options = _relay_options(parts.query)
    tls = _relay_tls(scheme, parts.hostname, options.get("tls"))
    return Relay(
        scheme=scheme,
        host=parts.hostname,
        port=parts.port or _relay_port(scheme, parts.hostname),
        username=username,
        password=password,
        tls=tls,
        ca=_relay_ca(tls, options.get("ca")),
    )


def _login(parts: SplitResult) -> tuple[str | None, str | None]:
    if parts.username is None:
        return None, None
    username, password = unquote(parts.username), unquote(parts.password or "")
    if not username or not password:
        raise ValueError("it holds a user without a password, or a password without a user")
    if "\0" in username + password:  # NUL parts the fields of AUTH PLAIN (RFC 4616 2)
        raise ValueError("its user or password holds a NUL")
    return username, password


def _relay_options(query: str) -> dict[str, str]:
    options = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)  # a plus in a path is a plus
    if not {key for key, _ in options} <= {"tls", "ca"}:
        raise ValueError("it holds an option other than tls and ca")
    if len(options) > len(dict(options)):
        raise ValueError("it says an option twice")
    return dict(options)


def _relay_tls(scheme: str, host: str, said: str | None) -> Tls:
    if said not in {None, "required", "none"}:
        raise ValueError("its tls is neither required nor none")
    if scheme == "smtps":
        if said == "none":
            raise ValueError("it says tls=none, and smtps:// is TLS from the first byte")
        return "implicit"
    if said is None:
        return "none" if is_loopback(host) else "required"
    return "none" if said == "none" else "required"


def _relay_port(scheme: str, host: str) -> int:
    if scheme == "smtps":
        return 465
    return 25 if is_loopback(host) else 587


def _relay_ca(tls: Tls, said: str | None) -> str | None:
    if said is None:
        return None
    if tls == "none":
        raise ValueError("it names a ca file and uses no TLS (add tls=required, or leave ca out)")
    try:
        Path(said).read_bytes()
    except OSError as error:
        raise ValueError(f"its ca file {said!r} can't be read ({error.strerror})") from None
    return said
