"""The kinds of value that a setting can have: how each is read from any source, and shown to anybody.

Reading is idempotent: what `read` returned is read again to the same. A kind that may hold a secret
says so, words its errors without what was given, and masks what it shows.
"""
# ruff: noqa: D102  (`expected`, `read` and `show` are told in Kind)

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import parse_qsl

from mailtasks import address
from mailtasks.errors import AddressError
from mailtasks.message import LONGEST
from mailtasks.relay import EXPECTED, MASK, Relay, either, mask_url, parse_relay, split_url
from mailtasks.sentinels import SCHEME, are_named, parse_sentinels

IN_REDIS: Final = "redis"
"""Of attachments: stored where the ledger is."""

FILE: Final = "file://"


class Kind(Protocol):
    """How a setting's value is read from any source, and shown to anybody."""

    @property
    def expected(self) -> str:
        """What an error says should be there."""

    @property
    def secret(self) -> bool:
        """Whether a value may hold what nobody else should see."""

    def read(self, given: Any) -> Any:
        """The value. Raises ValueError: its text, which may be empty, says what is wrong."""

    def show(self, value: Any) -> Any:
        """The value with its secrets masked: text, a number or a boolean."""


class Plain:
    """A kind with nothing to hide."""

    secret: ClassVar[bool] = False

    def show(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Whole(Plain):
    """A whole number between limits."""

    minimum: int
    maximum: int | None = None

    @property
    def expected(self) -> str:
        if self.maximum is None:
            return f"a whole number of at least {self.minimum}"
        return f"a whole number from {self.minimum} to {self.maximum}"

    def read(self, given: Any) -> int:
        number = _plain_number(given)
        if not isinstance(number, int):
            raise ValueError
        return int(_within(number, self.minimum, self.maximum))


@dataclass(frozen=True, slots=True)
class Duration(Plain):
    """Seconds, with or without a unit."""

    minimum: float  # seconds

    MAXIMUM: ClassVar[float] = LONGEST.total_seconds()
    UNITS: ClassVar[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    FORMS: ClassVar[str] = ', as a number or a text such as "90s", "15m", "2h" or "5d"'

    @property
    def expected(self) -> str:
        return f"seconds, at least {self.minimum:g}, at most {LONGEST.days} days{self.FORMS}"

    def read(self, given: Any) -> float:
        unit = 1
        if isinstance(given, str) and given[-1:] in self.UNITS:
            unit, given = self.UNITS[given[-1]], given[:-1]
        return _within(_plain_number(given) * unit, self.minimum, self.MAXIMUM)


def _plain_number(given: Any) -> float:
    """A number, from itself or from digits; no exponent, no underscore, no space, as people write it."""
    if isinstance(given, str) and re.fullmatch(r"\d{1,15}", given, re.ASCII):
        return int(given)
    if isinstance(given, str) and re.fullmatch(r"\d{1,15}\.\d{1,15}", given, re.ASCII):
        return float(given)
    if isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
        return given
    raise ValueError


def _within(number: float, minimum: float, maximum: float | None) -> float:
    if number < minimum or (maximum is not None and number > maximum):
        raise ValueError
    return number


class Flag(Plain):
    """Yes or no."""

    expected = "true or false"
    WORDS: ClassVar[Mapping[str, bool]] = {
        **dict.fromkeys(("true", "yes", "on", "1"), True),
        **dict.fromkeys(("false", "no", "off", "0"), False),
    }

    def read(self, given: Any) -> bool:
        value = self.WORDS.get(given.lower()) if isinstance(given, str) else given
        if not isinstance(value, bool):
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Choice(Plain):
    """One of a few words."""

    options: tuple[str, ...]

    @property
    def expected(self) -> str:
        return either([f'"{option}"' for option in self.options])

    def read(self, given: Any) -> str:
        if given not in self.options:
            raise ValueError
        return str(given)


@dataclass(frozen=True, slots=True)
class Text(Plain):
    """Text of a stated form."""

    pattern: str
    expected: str

    def read(self, given: Any) -> str:
        if not isinstance(given, str) or not re.fullmatch(self.pattern, given):
            raise ValueError
        return given


class MailAddress(Plain):
    """A mail address, with or without a display name."""

    expected = 'an address such as "shop@example.com" or "The Shop <shop@example.com>"'

    def read(self, given: Any) -> str:
        if not isinstance(given, str):
            raise ValueError
        try:
            address.parse(given)
        except AddressError as error:
            raise ValueError from error
        return given


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """Where a Redis is, as redis-py or kombu spells it."""

    schemes: tuple[str, ...]
    secret: ClassVar[bool] = True

    # What kombu or redis-py take; they raise a TypeError for others, late.
    OPTIONS: ClassVar[frozenset[str]] = frozenset(
        {
            "db",
            "virtual_host",
            "username",
            "password",
            "protocol",
            "ssl_ca_certs",
            "ssl_cert_reqs",
            "ssl_certfile",
            "ssl_check_hostname",
            "ssl_keyfile",
            "ssl_keyfile_password",
        }
    )

    @property
    def expected(self) -> str:
        such = ["redis://:PASSWORD@HOST:6379/0"]
        if SCHEME in self.schemes:
            such.append("sentinel://:PASSWORD@HOST1:26379;sentinel://HOST2:26379/0?master_name=NAME")
        return f"a URL such as {either(such)} ({either([f'{it}://' for it in self.schemes])})"

    def read(self, given: Any) -> str:
        if SCHEME in self.schemes and are_named(given):
            return parse_sentinels(given).url
        parts = split_url(given, self.schemes)
        # redis-py takes a database that is no number for 0, in silence.
        if parts.scheme in {"redis", "rediss"} and not re.fullmatch(r"(/\d*)?", parts.path, re.ASCII):
            raise ValueError("its database is no number")
        if not {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} <= self.OPTIONS:
            raise ValueError(f"it holds an option other than {', '.join(sorted(self.OPTIONS))}")
        return str(given)

    def show(self, value: str) -> str:
        return mask_url(value)


class BlobsUrl:
    """Where attachments are stored: in Redis, in a folder, or wherever fsspec leads."""

    expected = '"redis", a folder such as file:///srv/blobs, or a URL of fsspec\'s such as s3://BUCKET/PREFIX'
    secret = True

    def read(self, given: Any) -> str:
        if given == IN_REDIS:
            return IN_REDIS
        if not isinstance(given, str) or not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+", given):
            raise ValueError("it is no URL")
        if given.startswith(FILE) and not given.startswith(f"{FILE}/"):
            raise ValueError("a folder is given by its whole path, after three slashes")
        if given.startswith(("redis://", "rediss://", "unix://", "sentinel://")):
            raise ValueError("the Redis that holds attachments is that of the ledger")
        return given

    def show(self, value: str) -> str:
        return re.sub(r"(?i)([?&][^=&]*(secret|token|key)[^=&]*=)[^&#]*", rf"\1{MASK}", mask_url(value))


class DatabaseUrl:
    """Where a database is, as SQLAlchemy spells it."""

    expected = "a URL such as postgresql://USER:PASSWORD@HOST/NAME or sqlite:///FILE"
    secret = True

    def read(self, given: Any) -> str:
        if not isinstance(given, str) or not re.fullmatch(r"[a-z0-9_]+(\+[a-z0-9_]+)?://\S*", given):
            raise ValueError("it is no URL")
        return given

    def show(self, value: str) -> str:
        return mask_url(value)


class RelayUrl:
    """A relay, or its URL."""

    expected = EXPECTED
    secret = True

    def read(self, given: Any) -> Relay:
        return given if isinstance(given, Relay) else parse_relay(given)

    def show(self, value: Relay) -> str:
        return value.url_masked


class Login:
    """A user and a password."""

    expected = '"USER:PASSWORD"'
    secret = True

    def read(self, given: Any) -> str:
        if not isinstance(given, str) or not re.fullmatch(r"[^:\s]+:\S+", given):
            raise ValueError("it isn't a user, a colon and a password without spaces")
        return given

    def show(self, value: str) -> str:
        return MASK
