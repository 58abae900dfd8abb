"""What Django's settings hold for us: `MAILTASKS = {"RELAY": "smtps://…", "ON_COMMIT": True}`.

Its names are those of our settings in capitals, and those below, which only Django's half has. Environment
variables are stronger than this dict, and it is stronger than a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from django.conf import ENVIRONMENT_VARIABLE, settings

from mailtasks.address import excerpt
from mailtasks.errors import SettingsError
from mailtasks.settings import FrameworkValues

NAME: Final = "MAILTASKS"

ON_COMMIT: Final = "ON_COMMIT"
"""Whether mail waits for the commit of the transaction in which it was sent; a mailer may say otherwise."""


def framework_values(celery: Any = None) -> FrameworkValues | None:
    """Our settings, whichever Celery app asks; None, if this process has no settings of Django's.

    What is None isn't set.

    Raises:
        SettingsError: MAILTASKS is no dict, or a name isn't in capitals.
    """
    if not _has_settings():
        return None
    given = _given().items()
    ours = {name.lower(): value for name, value in given if name != ON_COMMIT and value is not None}
    return FrameworkValues("Django's settings", ours)


def on_commit() -> bool:
    """What `MAILTASKS["ON_COMMIT"]` says.

    Raises:
        SettingsError: neither True nor False.
    """
    value = _given().get(ON_COMMIT, True)
    if not isinstance(value, bool):
        raise SettingsError(
            f"MAILTASKS[{ON_COMMIT!r}] in Django's settings: {excerpt(value)} is wrong; "
            "expected True or False"
        )
    return value


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
