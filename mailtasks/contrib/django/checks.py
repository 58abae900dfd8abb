"""System checks: `manage.py check` says what is wrong in the settings, before a request finds it out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.conf import settings
from django.core import mail
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from mailtasks.contrib.django import conf
from mailtasks.errors import SettingsError
from mailtasks.settings import Settings

BACKEND: Final = "mailtasks.contrib.django.backend.EmailBackend"


def check_settings(**_: Any) -> list[CheckMessage]:
    """mailtasks.E001: MAILTASKS, the environment or the file hold a wrong setting."""
    try:
        Settings.load()
        conf.on_commit()
    except SettingsError as error:
        return [
            Error(str(error), hint="`manage.py mailtasks config` shows the settings.", id="mailtasks.E001")
        ]
    return []


def check_mailers(**_: Any) -> list[CheckMessage]:
    """mailtasks.E002: an entry of MAILERS has options that the backend refuses."""
    return [Error(sentence, id="mailtasks.E002") for sentence in _wrong_mailers()]


def _wrong_mailers() -> Iterator[str]:
    entries = getattr(settings, "MAILERS", {}) if hasattr(mail, "mailers") else {}  # since Django 6.1
    for alias, entry in entries.items():
        try:
            _ = entry.get("BACKEND") == BACKEND and mail.mailers[alias]
        except ImproperlyConfigured as error:
            yield str(error)


def check_relay(**_: Any) -> list[CheckMessage]:
    """mailtasks.W001: EMAIL_HOST is set, and isn't where mail goes."""
    if not settings.is_overridden("EMAIL_HOST") or hasattr(settings, "MAILERS"):
        return []
    if settings.EMAIL_BACKEND != BACKEND:
        return []
    try:
        loaded = Settings.load()
    except SettingsError:
        return []  # said by E001
    if loaded.source("relay") != "default":
        return []
    return [
        Warning(
            f"EMAIL_HOST is {settings.EMAIL_HOST!r}, but mail goes to the relay {loaded.relay}, the default.",
            hint='Set MAILTASKS["RELAY"], such as "smtp://USER:PASSWORD@HOST:587", or MAILTASKS_RELAY where '
            "the workers run.",
            id="mailtasks.W001",
        )
    ]
