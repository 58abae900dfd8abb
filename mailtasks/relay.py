"""A relay: the SMTP server that takes our mail, as one URL says it.

The rules:

1. A relay may be printed and logged: its password and its token's command are in no `repr`, no `str` and
   no error. An error about a URL quotes nothing of it but the paths of certificate files, since any part may
   be a misplaced password.
2. Nothing falls back to plain text: without TLS only on loopback, or where the URL says `tls=none`.
3. An option of the URL is a field of `Relay` made by `_option`: how it is read, what it needs, and a sentence
   for the docs. What else must not be said together is a row of `CONTRADICTIONS`, a scheme one of `SCHEMES`.
"""

# ruff: noqa: RUF009  (what looks like a call as a default is `dataclasses.field` with metadata)

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Any, Final, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from mailtasks import relay_options as read
from mailtasks.certificates import check_authorities, check_own
from mailtasks.errors import SettingsError
from mailtasks.relay_options import MECHANISMS

MASK: Final = "***"
EXPECTED: Final = "a URL such as smtp://USER:PASSWORD@HOST:587, smtps://HOST or smtp://HOST?tls=none"

LONGEST_PATH: Final = 107
"""Bytes of a socket's path that Linux takes: unix(7)."""

Tls = Literal["required", "none", "implicit"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a URL's beginning says: a row of `SCHEMES`."""

    port: int
    loopback_port: int
    implicit_tls: bool = False  # TLS from the first byte
    lmtp: bool = False


SCHEMES: Final[Mapping[str, Scheme]] = {
    "smtp": Scheme(587, 25),  # RFC 6409 3.1
    "smtps": Scheme(465, 465, implicit_tls=True),  # RFC 8314 7.3
    "lmtp": Scheme(24, 24, lmtp=True),  # as IANA has it
}


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine, without asking DNS."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def mask_url(url: str) -> str:
    """The URL with what may be secret replaced by `***`; a lone user may be a password that was misplaced."""
    masked = re.sub(r"//([^/?#@:]*:)?[^/?#]*@", rf"//\1{MASK}@", url)
    return re.sub(
        r"([?&][^=&]*(?:pass|token_command)[^=&]*=)[^&#]*", rf"\1{MASK}", masked, flags=re.IGNORECASE
    )


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


class Needs(Enum):
    """What an option is of no use without: whether a relay has it, and what is said if it hasn't."""

    NOTHING = (lambda relay: True, "")
    TLS = (
        lambda relay: relay.tls != "none",
        "it says {name} and uses no TLS (add tls=required, or leave it out)",
    )
    CERT = (lambda relay: relay.cert is not None, "it says {name} and no cert")
    TOKEN = (lambda relay: relay.has_token, "it says {name} and neither token nor token_command")

    def refuse(self, relay: Relay, name: str) -> None:
        """ValueError, if the relay hasn't what its option `name` needs."""
        fits, otherwise = self.value
        if not fits(relay):
            raise ValueError(otherwise.format(name=name))


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a relay's URL: a row of the table in the docs."""

    expected: str  # for people: FILE, "required or none"
    read: Callable[[str], Any]
    needs: Needs
    help: str
    secret: bool


def _option(
    expected: str,
    read: Callable[[str], Any],
    help: str,
    *,
    default: Any = None,
    needs: Needs = Needs.NOTHING,
    secret: bool = False,
) -> Any:
    option = Option(expected, read, needs, help, secret)
    return dataclasses.field(default=default, repr=not secret, metadata={"option": option})


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """An SMTP server that takes our mail, and how to talk to it. Safe to print and to log.

    What an option means is told at its field, and in the reference of settings.
    """

    scheme: Literal["smtp", "smtps", "lmtp"]
    host: str
    port: int
    socket: str | None = (
        None  # the path of a Unix socket; then it isn't host and port that it is connected by
    )
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    tls: Tls = _option(  # "required": STARTTLS with a verified certificate; "implicit": TLS at once
        "required or none",
        read.tls,
        "Whether STARTTLS is demanded; by default it is, except on loopback.",
        default="required",
    )
    ca: str | None = _option(
        "FILE",
        read.text,
        "A PEM file with the certificates to trust instead of the system's.",
        needs=Needs.TLS,
    )
    cert: str | None = _option(
        "FILE",
        read.text,
        "A PEM file with our certificate, for a relay that wants one; it may hold the key, too.",
        needs=Needs.TLS,
    )
    key: str | None = _option(
        "FILE",
        read.text,
        "A PEM file with the certificate's key, not encrypted, if it isn't in the other.",
        needs=Needs.CERT,
    )
    auth: str | None = _option(
        ", ".join(MECHANISMS),
        read.auth,
        "The one way to log in; by default the first of these that is offered and fits password or token.",
    )
    token: str | None = _option(
        "MODULE:FUNCTION",
        read.function,
        "A function that returns a token, or a token and the seconds for which it is valid; called in a "
        "worker.",
    )
    token_command: tuple[str, ...] | None = _option(
        "COMMAND",
        read.command,
        "A command, run without a shell, that prints a token, or JSON with `access_token` and `expires_in`.",
        secret=True,
    )
    token_timeout: float = _option(
        "SECONDS",
        read.seconds,
        "How long the token may take; then its command is killed and the mail retried. By default 20.",
        default=20.0,
        needs=Needs.TOKEN,
    )
    local: str | None = _option(
        "ADDRESS",
        read.local,
        "The IP address of this machine to send from; only the relay's addresses of its family are tried.",
    )
    hello: str | None = _option(
        "NAME",
        read.hello,
        "What a worker calls itself in EHLO; goes before the setting `hello_name`.",
    )
    chunking: Literal["yes", "no"] = _option(
        "yes or no",
        read.yes_or_no,
        "Whether mail goes by BDAT where CHUNKING and PIPELINING are offered; for a relay that you know.",
        default="no",
    )

    @staticmethod
    def parse(url: str) -> Relay:
        """The relay of `smtp[s]://[USER[:PASSWORD]@]HOST[:PORT][?OPTION=VALUE[&…]]`; or with `lmtp`.

        User, password and values are percent-decoded. The port is 465 for `smtps`, 25 for `smtp` on
        loopback and 587 (RFC 6409 3.1) elsewhere. `smtp` demands STARTTLS unless the host is
        loopback or the URL says `tls=none`; so does `lmtp`, whose port is 24. `lmtp:///PATH` is a Unix
        socket. `OPTIONS` has the options.

        Raises:
            SettingsError: the URL is wrong, or a certificate file that it names can't be used.
        """
        try:
            return parse_relay(url)
        except ValueError as error:
            wrong = str(error)
        raise SettingsError(f"relay: {wrong}; expected {EXPECTED}")

    @property
    def name(self) -> str:
        """`host:port`, or the socket's path, for logs, metrics and the ledger."""
        if self.socket:
            return self.socket
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def lmtp(self) -> bool:
        """Whether it is spoken to by LMTP (RFC 2033), where each recipient has an answer of its own."""
        return SCHEMES[self.scheme].lmtp

    @property
    def has_token(self) -> bool:
        """Whether it logs in with a token that is fetched, instead of a password."""
        return self.token is not None or self.token_command is not None

    @property
    def logs_in(self) -> bool:
        """Whether it logs in at all."""
        return self.username is not None or self.has_token

    @property
    def url_masked(self) -> str:
        """The URL that says all of it except the secrets."""
        login = "" if self.username is None else quote(self.username, safe="")
        login += f":{MASK}" if self.password is not None else ""
        said = {name: self._said(name) for name in OPTIONS}
        query = "&".join(f"{name}={value}" for name, value in said.items() if value is not None)
        where = quote(self.name, safe="/:[]")
        return f"{self.scheme}://{login}{'@' if login else ''}{where}{'?' if query else ''}{query}"

    def _said(self, name: str) -> str | None:
        """An option's value as the URL says it, or None if it needn't."""
        value = getattr(self, name)
        if value == ("implicit" if name == "tls" else _DEFAULTS[name]):
            return None
        if OPTIONS[name].secret:
            return MASK
        return quote(f"{value:g}" if isinstance(value, float) else str(value), safe="/:+,[]")

    def __str__(self) -> str:
        return self.url_masked


OPTIONS: Final[Mapping[str, Option]] = {
    field.name: field.metadata["option"] for field in dataclasses.fields(Relay) if field.metadata
}
"""The table, by name."""

_DEFAULTS: Final = {field.name: field.default for field in dataclasses.fields(Relay)} | {"tls": None}

CONTRADICTIONS: Final[Sequence[tuple[Callable[[Relay], bool], str]]] = (
    (
        lambda relay: relay.token is not None and relay.token_command is not None,
        "it says both token and token_command",
    ),
    (
        lambda relay: relay.has_token and relay.password is not None,
        "it holds a password and says where to get a token (leave one of them out)",
    ),
    (
        lambda relay: relay.username is not None and relay.password is None and not relay.has_token,
        "it holds a user without a password, or a password without a user",
    ),
    (
        lambda relay: relay.auth is not None and not relay.logs_in,
        "it says auth and holds no user",
    ),
    (
        lambda relay: MECHANISMS.get(relay.auth or "") == "password" and relay.has_token,
        "it says where to get a token, and its auth is one with a password",
    ),
    (
        lambda relay: MECHANISMS.get(relay.auth or "") == "token" and not relay.has_token,
        "its auth is one with a token, and it says neither token nor token_command",
    ),
    (  # RFC 7628 3.1: the user may be in the token; Google's and Microsoft's XOAUTH2 wants one.
        lambda relay: relay.has_token and relay.username is None and relay.auth != "oauthbearer",
        "it says where to get a token and holds no user (write USER@HOST, or add auth=oauthbearer)",
    ),
    (  # Ctrl-A parts the fields of both.
        lambda relay: relay.has_token and re.search(r"[\x00-\x1f\x7f]", relay.username or "") is not None,
        "its user holds a control character, and no login with a token can carry it",
    ),
    (  # RFC 6750 5.3: whoever has the token is the user.
        lambda relay: relay.has_token and relay.tls == "none" and not is_loopback(relay.host),
        "it logs in with a token and uses no TLS (add tls=required)",
    ),
    (
        lambda relay: relay.socket is not None and (relay.tls != "none" or relay.local is not None),
        "it leads to a socket of this machine, and says tls or local",
    ),
    (
        lambda relay: len((relay.socket or "").encode()) > LONGEST_PATH,
        f"its socket's path has more than {LONGEST_PATH} bytes",
    ),
    (
        lambda relay: relay.lmtp and relay.port == 25,
        "it speaks LMTP on port 25, which is SMTP's alone (RFC 2033 5)",
    ),
    (
        lambda relay: relay.lmtp and relay.chunking == "yes",
        "it speaks LMTP and says chunking=yes, which is for SMTP (leave it out)",
    ),
    (
        lambda relay: _family(relay.host) not in {None, _family(relay.local or relay.host)},
        "its local and its host are addresses of two families, IPv4 and IPv6",
    ),
)
"""What a URL must not say, first match first."""


def _family(address: str) -> int | None:
    """4 or 6, or None for a name."""
    try:
        return ip_address(address).version
    except ValueError:
        return None


def parse_relay(url: object) -> Relay:
    """As `Relay.parse`, with a ValueError that leaves it to the caller to name the setting."""
    parts = split_url(url, tuple(SCHEMES))
    host, socket = _where(parts)
    username, password = _login(parts)
    options = _read_options(parts.query)
    scheme: Any = parts.scheme
    relay = Relay(
        scheme=scheme,
        host=host,
        port=0 if socket else parts.port or _port(SCHEMES[scheme], host),
        socket=socket,
        username=username,
        password=password,
        **{**options, "tls": _relay_tls(scheme, host, options.get("tls"))},
    )
    _demand_sense(relay, options)
    _check_files(relay)
    return relay


def _where(parts: SplitResult) -> tuple[str, str | None]:
    """The host, and the path of a Unix socket: that of `lmtp:///run/lmtp`, which is on this machine."""
    path = unquote(parts.path)
    if SCHEMES[parts.scheme].lmtp and not parts.hostname and path not in {"", "/"}:
        return "localhost", path
    if not parts.hostname or path not in {"", "/"}:
        raise ValueError("it names no host" if not parts.hostname else "it holds a path")
    return parts.hostname, None


def _login(parts: SplitResult) -> tuple[str | None, str | None]:
    if parts.username is None:
        return None, None
    username = unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    if not username or password == "":
        raise ValueError("it holds a user without a password, or a password without a user")
    if "\0" in username + (password or ""):  # NUL parts the fields of AUTH PLAIN (RFC 4616 2)
        raise ValueError("its user or password holds a NUL")
    return username, password


def _read_options(query: str) -> dict[str, Any]:
    given = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)  # a plus in a path is a plus
    if not {name for name, _ in given} <= OPTIONS.keys():
        *others, last = OPTIONS
        raise ValueError(f"it holds an option other than {', '.join(others)} and {last}")
    if len(given) > len(dict(given)):
        raise ValueError("it says an option twice")
    return {name: _read_option(name, text) for name, text in given}


def _read_option(name: str, text: str) -> Any:
    try:
        return OPTIONS[name].read(text)
    except ValueError as error:
        wrong = str(error)
    # Raised out here, so that no traceback leads back to the value.
    raise ValueError(f"its {name} {wrong}")


def _relay_tls(scheme: str, host: str, said: str | None) -> Tls:
    if SCHEMES[scheme].implicit_tls:
        if said == "none":
            raise ValueError(f"it says tls=none, and {scheme}:// is TLS from the first byte")
        return "implicit"
    if said is None:
        return "none" if is_loopback(host) else "required"
    return "none" if said == "none" else "required"


def _port(scheme: Scheme, host: str) -> int:
    return scheme.loopback_port if is_loopback(host) else scheme.port


def _demand_sense(relay: Relay, said: Mapping[str, Any]) -> None:
    for wrong, sentence in CONTRADICTIONS:
        if wrong(relay):
            raise ValueError(sentence)
    for name in said:
        OPTIONS[name].needs.refuse(relay, name)


def _check_files(relay: Relay) -> None:
    if relay.ca:
        check_authorities(relay.ca)
    if relay.cert:
        check_own(relay.cert, relay.key)
