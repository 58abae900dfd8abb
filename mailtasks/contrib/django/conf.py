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

NAME: Final = "MAILTASKS"

ON_COMMIT: Final = "ON_COMMIT"
"""Whether mail waits for the commit of the transaction in which it was sent; a mailer may say otherwise."""


def framework_values() -> Mapping[str, Any]:
    """Our settings, by our names; none, if this process has no settings of Django's. What is None isn't set.

    Raises:
        SettingsError: MAILTASKS is no dict, or a name isn't in capitals.
    """
    given = _given().items()
    return {name.lower(): value for name, value in given if name != ON_COMMIT and value is not None}


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


def _given() -> Mapping[str, Any]:
    if not settings.configured and ENVIRONMENT_VARIABLE not in os.environ:
        return {}
    given = getattr(settings, NAME, {})
    if not isinstance(given, Mapping):
        raise SettingsError(f"MAILTASKS in Django's settings: {excerpt(given)} is wrong; expected a dict")
    for name in given:
        if not isinstance(name, str) or name != name.upper():
            raise SettingsError(
                f"MAILTASKS[{name!r}] in Django's settings: write the name in capitals, {str(name).upper()!r}"
            )
    return given
