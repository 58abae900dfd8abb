"""What Django's settings hold for us: `MAILTASKS = {"RELAY": "smtps://…", "ON_COMMIT": True}`.

Its names are those of our settings in capitals, and those below, which only Django's half has. Environment
variables are stronger than this dict, and it is stronger than a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from django.conf import ENVIRONMENT_VARIABLE, settings

from mailtasks.address import excerpt
from mailtasks.errors import SettingsError
from mailtasks.relay import either
from mailtasks.settings import FrameworkValues

if TYPE_CHECKING:
    from mailtasks.outbox.row import Keep

NAME: Final = "MAILTASKS"

ON_COMMIT: Final = "ON_COMMIT"
"""Whether mail waits for the commit of the transaction in which it was sent; a mailer may say otherwise."""

OUTBOX: Final = "OUTBOX"
"""Whether mail goes through the table in the database: a bool, or how long its rows stay; a mailer may say
otherwise."""

_OWN: Final = {ON_COMMIT, OUTBOX}


def framework_values(celery: Any = None) -> FrameworkValues | None:
    """Our settings, whichever Celery app asks; None, if this process has no settings of Django's.

    What is None isn't set.

    Raises:
        SettingsError: MAILTASKS is no dict, or a name isn't in capitals.
    """
    if not _has_settings():
        return None
    given = _given().items()
    ours = {name.lower(): value for name, value in given if name not in _OWN and value is not None}
    return FrameworkValues("Django's settings", {**_of_django(), **ours})


def on_commit() -> bool:
    """What `MAILTASKS["ON_COMMIT"]` says.

    Raises:
        SettingsError: neither True nor False.
    """
    value = _given().get(ON_COMMIT)
    if value is None:
        return True
    if not isinstance(value, bool):
        raise SettingsError(
            f"MAILTASKS[{ON_COMMIT!r}] in Django's settings: {excerpt(value)} is wrong; "
            "expected True or False"
        )
    return value


def outbox() -> Keep | None:
    """How long a row stays, if `MAILTASKS["OUTBOX"]` wants an outbox.

    Raises:
        SettingsError: it is none of what it may be.
    """
    value = _given().get(OUTBOX)
    try:
        return as_outbox(False if value is None else value)
    except ValueError as error:
        raise SettingsError(
            f"MAILTASKS[{OUTBOX!r}] in Django's settings: {excerpt(value)} is wrong; {error}"
        ) from None


def as_outbox(value: object) -> Keep | None:
    """How long a row stays, if an outbox is wanted; True is "until_accepted".

    Raises:
        ValueError: it is none of what it may be; its text says what is expected.
    """
    from mailtasks.outbox.row import KEEPS, Keep

    if isinstance(value, bool):
        return Keep.UNTIL_ACCEPTED if value else None
    try:
        return Keep(value)  # type: ignore[arg-type]  # that it may be none is what is found out
    except ValueError:
        raise ValueError(f"expected {either(['True', 'False', *KEEPS])}") from None


def _of_django() -> Mapping[str, Any]:
    """Django's own settings that mean the same as one of ours, unless they are Django's defaults."""
    is_set = settings.is_overridden("DEFAULT_FROM_EMAIL") and settings.DEFAULT_FROM_EMAIL
    return {"default_from": settings.DEFAULT_FROM_EMAIL} if is_set else {}


def _has_settings() -> bool:
    return bool(settings.configured) or ENVIRONMENT_VARIABLE in os.environ


def _given() -> Mapping[str, Any]:
    given = getattr(settings, NAME, {})
    if not isinstance(given, Mapping):
        raise SettingsError(f"MAILTASKS in Django's settings: {excerpt(given)} is wrong; expected a dict")
    for name in given:
        if not isinstance(name, str) or name != name.upper():
            raise SettingsError(
                f"MAILTASKS[{name!r}] in Django's settings: write the name in capitals, {str(name).upper()!r}"
            )
    return given
