"""Redis Sentinel as one URL says it: the sentinels, the database, and the name of the master they watch.

The rules:

1. `sentinel://:PASSWORD@HOST1:26379;sentinel://HOST2:26379/0?master_name=NAME` is Celery's own notation, with
   what Celery has in its transport options behind the question mark.
2. What is said at all need be said at one of the sentinels only; said at several, it must be the same.
3. As with relays, an error about a URL quotes nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode

from mailtasks.relay import split_url

SCHEME: Final = "sentinel"
PORT: Final = 26379
OPTIONS: Final = ("master_name", "sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """Who is to be asked for a master, and how to log in there and at the master."""

    hosts: tuple[tuple[str, int], ...]
    master_name: str
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The URL that says all of it, each thing once."""
        first, *others = self._addresses()
        hosts = ";".join([self._login() + first, *others])
        return f"{SCHEME}://{hosts.replace(';', f';{SCHEME}://')}/{self.database}?{self._options()}"

    @property
    def celerys_url(self) -> str:
        """The URL for Celery, which forgets login and database when it turns to the next of several."""
        return ";".join(
            f"{SCHEME}://{self._login()}{address}/{self.database}" for address in self._addresses()
        )

    @property
    def sentinel_login(self) -> dict[str, str]:
        """User and password that the sentinels themselves want, by redis-py's names."""
        login = {"username": self.sentinel_username, "password": self.sentinel_password}
        return {name: value for name, value in login.items() if value is not None}

    @property
    def shown(self) -> str:
        """The master, for people: no password."""
        return f"{self.master_name}/{self.database} of the sentinels {', '.join(self._addresses())}"

    def _addresses(self) -> list[str]:
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts]

    def _login(self) -> str:
        if self.username is None and self.password is None:
            return ""
        return f"{quote(self.username or '', safe='')}:{quote(self.password or '', safe='')}@"

    def _options(self) -> str:
        said = {name: getattr(self, name) for name in OPTIONS}
        return urlencode({name: value for name, value in said.items() if value is not None}, quote_via=quote)


def are_named(url: object) -> bool:
    """Whether a URL is one of sentinels."""
    return isinstance(url, str) and url.startswith(f"{SCHEME}://")


def parse_sentinels(url: str, **by_default: str) -> Sentinels:
    """The sentinels that a URL names.

    Args:
        by_default: options that hold where the URL doesn't say them.

    Raises:
        ValueError: what is wrong with it.
    """
    parts = [_part(text) for text in url.split(";")]
    options = by_default | _options(parts)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", options.get("master_name", "")):
        raise ValueError("it doesn't say what its sentinels call the master; add ?master_name=NAME")
    return Sentinels(
        hosts=tuple((part.hostname or "", part.port or PORT) for part in parts),
        database=int(_said_once([part.path.strip("/") for part in parts], "database") or 0),
        username=_said_once([unquote(part.username or "") for part in parts], "user"),
        password=_said_once([unquote(part.password or "") for part in parts], "password"),
        **options,
    )


def with_celerys_options(url: str, options: Mapping[str, Any]) -> str:
    """A URL in Celery's own notation, as one that says also what Celery has in its transport options.

    Raises:
        ValueError: as `parse_sentinels`.
    """
    login = options.get("sentinel_kwargs") or {}
    said = {
        "master_name": options.get("master_name"),
        "sentinel_username": login.get("username"),
        "sentinel_password": login.get("password"),
    }
    return parse_sentinels(url, **{name: str(value) for name, value in said.items() if value}).url


def _part(text: str) -> SplitResult:
    if not are_named(text):
        raise ValueError(
            f"each sentinel begins with {SCHEME}://, after a semicolon (in a password, write %3B)"
        )
    part = split_url(text, (SCHEME,))
    if not part.hostname:
        raise ValueError("it names a sentinel without a host")
    if not re.fullmatch(r"(/\d*)?", part.path, re.ASCII):
        raise ValueError("its database is no number")
    return part


def _options(parts: Sequence[SplitResult]) -> dict[str, str]:
    pairs = [
        pair for part in parts for pair in parse_qsl(part.query.replace("+", "%2B"), keep_blank_values=True)
    ]
    if not {name for name, _ in pairs} <= set(OPTIONS):
        raise ValueError(f"it holds an option other than {', '.join(OPTIONS)}")
    said = {name: _said_once([value for key, value in pairs if key == name], name) for name in OPTIONS}
    return {name: value for name, value in said.items() if value is not None}


def _said_once(values: Sequence[str], what: str) -> str | None:
    said = {value for value in values if value}
    if len(said) > 1:
        raise ValueError(f"its sentinels differ in {what}; say it once")
    return said.pop() if said else None
