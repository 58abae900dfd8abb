"""System checks: `manage.py check` says what is wrong in the settings, before a request finds it out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core import mail
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.utils.module_loading import import_string

from mailtasks.contrib.django import conf
from mailtasks.errors import SettingsError
from mailtasks.settings import Settings


def check_settings(**_: Any) -> list[CheckMessage]:
    """mailtasks.E001: MAILTASKS, the environment or the file hold a wrong setting."""
    try:
        Settings.load()
        conf.on_commit()
        conf.outbox()
    except SettingsError as error:
        return [Error(str(error), hint="Correct it where it stands.", id="mailtasks.E001")]
    return []


def check_mailers(**_: Any) -> list[CheckMessage]:
    """mailtasks.E002: an entry of MAILERS has options that the backend refuses."""
    return [Error(sentence, id="mailtasks.E002") for sentence in _wrong_mailers()]


def _wrong_mailers() -> Iterator[str]:
    for alias in _ours():
        try:
            _ = mail.mailers[alias]
        except ImproperlyConfigured as error:
            yield str(error)


def _ours() -> list[str]:
    """The entries of MAILERS that have our backend."""
    entries = getattr(settings, "MAILERS", {}) if hasattr(mail, "mailers") else {}  # since Django 6.1
    return [alias for alias, entry in entries.items() if is_ours(entry.get("BACKEND", ""))]


def is_ours(path: str) -> bool:
    """Whether it names our backend, or a subclass of it."""
    from mailtasks.contrib.django.backend import EmailBackend

    try:
        backend = import_string(path)
    except ImportError:  # said by Django
        return False
    return isinstance(backend, type) and issubclass(backend, EmailBackend)


def check_outbox(**_: Any) -> list[CheckMessage]:
    """mailtasks.E003: the outbox is wanted in a database that doesn't get its table, or isn't there."""
    return [Error(sentence, id="mailtasks.E003") for sentence in _without_table()]


def _without_table() -> Iterator[str]:
    from mailtasks.contrib.django.models import OutboxRow

    for alias in sorted(_outboxes()):
        if alias not in connections:
            yield f"The outbox is to be in the database {alias!r}, which is none of DATABASES."
        elif not router.allow_migrate_model(alias, OutboxRow):
            yield (
                f"The outbox is to be in the database {alias!r}, and DATABASE_ROUTERS keep its table out; "
                "let them migrate the app 'mailtasks' there."
            )


def _outboxes() -> set[str]:
    """The databases into which mail is written. A setting or an option that is wrong is said elsewhere."""
    from mailtasks.contrib.django.backend import EmailBackend

    found = set()
    aliases: list[str | None] = [*_ours()] or [None]
    for alias in aliases:
        with suppress(ImproperlyConfigured, SettingsError):
            backend = mail.mailers[alias] if alias else EmailBackend()
            found |= {backend.database} if backend.keep else set()
    return found


def check_relay(**_: Any) -> list[CheckMessage]:
    """mailtasks.W001: EMAIL_HOST is set, and isn't where mail goes."""
    if not settings.is_overridden("EMAIL_HOST") or hasattr(settings, "MAILERS"):
        return []
    if not is_ours(settings.EMAIL_BACKEND):
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
