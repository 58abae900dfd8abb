"""Flask's configuration becomes our settings: Flask-Mail's `MAIL_*`, and `MAILTASKS` and `MAILTASKS_*`, ours.

The rules:

1. Ours win over Flask-Mail's; the environment wins over both, as over every framework.
2. What is None or "" is not set: that is what `os.environ.get` leaves there.
3. An error names the key and quotes nothing that could be a password.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from mailtasks.address import Address, parse
from mailtasks.errors import AddressError, SettingsError
from mailtasks.kinds import Flag, Whole
from mailtasks.relay import Relay, parse_relay
from mailtasks.settings import NOT_SETTINGS, PREFIX

Person: TypeAlias = str | tuple[str, str]
"""An address, or a name and an address."""

OURS: Final = "MAILTASKS"
RELAY_KEYS: Final = (
    *("MAIL_SERVER", "MAIL_PORT", "MAIL_USE_TLS", "MAIL_USE_SSL"),
    *("MAIL_USERNAME", "MAIL_PASSWORD"),
)
"""What together names the relay."""

SMTP_PORT: Final = 25  # Flask-Mail's default
SMTPS_PORT: Final = 465  # RFC 8314 7.3


def settings_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings by our names, as the framework's share of `Settings.load`.

    Raises:
        SettingsError: a key of Flask-Mail's has a value that can't be understood.
    """
    ours = _ours(config)
    theirs: dict[str, Callable[[], Any]] = {
        "relay": lambda: relay_url(config),
        "default_from": lambda: _default_from(config.get("MAIL_DEFAULT_SENDER")),
        "connection_messages": lambda: config.get("MAIL_MAX_EMAILS") or None,
    }
    read = {name: value() for name, value in theirs.items() if name not in ours}
    return {name: value for name, value in read.items() if value is not None} | ours


def _ours(config: Mapping[str, Any]) -> dict[str, Any]:
    together = config.get(OURS) or {}
    if not isinstance(together, Mapping):
        raise SettingsError(
            f"{OURS} (Flask's config): it must map names of settings to values, such as {{'LEASE': 60}}"
        )
    alone = {
        key.removeprefix(PREFIX): value
        for key, value in config.items()
        if key.startswith(PREFIX) and key not in NOT_SETTINGS
    }
    given = {str(name).lower(): value for name, value in (*together.items(), *alone.items())}
    if isinstance(given.get("relay"), Relay):
        raise SettingsError(
            "MAILTASKS_RELAY (Flask's config): give it as a URL, which workers can be told, too"
        )
    return {name: value for name, value in given.items() if not _is_unset(value)}


def relay_url(config: Mapping[str, Any]) -> str | None:
    """The relay that `MAIL_SERVER` and its kin name, as a URL with its password; None: they name none.

    Raises:
        SettingsError: they contradict each other, or one can't be understood.
    """
    if all(_is_unset(config.get(key)) for key in RELAY_KEYS):
        return None
    url = _url(config)
    try:
        parse_relay(url)
    except ValueError as error:
        wrong = str(error)
    else:
        return url
    # Raised out here, so that no traceback leads back to the password.
    raise SettingsError(f"MAIL_SERVER and what belongs to it (Flask's config): {wrong}; correct {_LIST}")


_LIST: Final = f"{', '.join(RELAY_KEYS[:-1])} or {RELAY_KEYS[-1]}"


def _url(config: Mapping[str, Any]) -> str:
    implicit, starttls = flag(config, "MAIL_USE_SSL"), flag(config, "MAIL_USE_TLS")
    if implicit and starttls:
        raise SettingsError(
            "MAIL_USE_TLS and MAIL_USE_SSL (Flask's config): both are set, and a connection has TLS either "
            "from the first byte (MAIL_USE_SSL, port 465) or by STARTTLS (MAIL_USE_TLS, port 587); leave one "
            "out"
        )
    host = _text(config, "MAIL_SERVER") or "127.0.0.1"
    if not host.isprintable() or any(character in host for character in "/?#@\\ "):
        raise SettingsError(
            "MAIL_SERVER (Flask's config): it is no host name; give one such as 'smtp.example.com', and a "
            "whole URL as MAILTASKS_RELAY"
        )
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    port = _port(config, SMTPS_PORT if implicit else SMTP_PORT)
    tls = {True: "?tls=required", False: "?tls=none", None: ""}[None if implicit else starttls]
    return f"{'smtps' if implicit else 'smtp'}://{_login(config)}{host}:{port}{tls}"


def _login(config: Mapping[str, Any]) -> str:
    """With one of both alone Flask-Mail doesn't log in."""
    username, password = _text(config, "MAIL_USERNAME"), _text(config, "MAIL_PASSWORD")
    return f"{quote(username, safe='')}:{quote(password, safe='')}@" if username and password else ""


def _port(config: Mapping[str, Any], default: int) -> int:
    given, kind = config.get("MAIL_PORT"), Whole(1, 65535)
    try:
        return default if _is_unset(given) else kind.read(given)
    except ValueError:
        raise SettingsError(
            f"MAIL_PORT (Flask's config): {given!r} is wrong; expected {kind.expected}"
        ) from None


def flag(config: Mapping[str, Any], key: str) -> bool | None:
    """Yes, no, or not set; also as a text, as the environment has it, where Flask-Mail takes "false" for yes.

    Raises:
        SettingsError: it is neither.
    """
    given = config.get(key)
    if _is_unset(given):
        return None
    try:
        return Flag().read(bool(given) if given in (0, 1) else given)
    except ValueError:
        raise SettingsError(f"{key} (Flask's config): {given!r} is wrong; expected {Flag.expected}") from None


def person(given: Person) -> str:
    """An address as one text: `("Me", "me@example.com")` is "Me <me@example.com>"."""
    return str(Address(*given)) if isinstance(given, tuple) else str(given)


def _default_from(given: Any) -> str | None:
    if _is_unset(given):
        return None
    try:
        return str(parse(person(given)))
    except (AddressError, TypeError) as error:
        raise SettingsError(
            f"MAIL_DEFAULT_SENDER (Flask's config): {error}; expected an address or a name and an address"
        ) from None


def _text(config: Mapping[str, Any], key: str) -> str:
    given = config.get(key)  # digits alone are a number, if `from_prefixed_env` has read them
    return "" if _is_unset(given) else str(given)


def _is_unset(given: Any) -> bool:
    return given is None or given == ""
