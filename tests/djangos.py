"""A Django for tests, set up by importing this: SQLite in memory, our app, and the admin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import django
from django.conf import settings

BACKEND: Final = "mailtasks.contrib.django.backend.EmailBackend"
TEMPLATES: Final = Path(__file__).parent / "unit" / "contrib" / "django" / "templates"

if not settings.configured:
    settings.configure(
        EMAIL_BACKEND=BACKEND,
        INSTALLED_APPS=[
            "mailtasks.contrib.django",
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        DATABASES={
            alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
            for alias in ("default", "other")
        },
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "DIRS": [TEMPLATES],
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # it is quick
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        ROOT_URLCONF="tests.djangos",
        LANGUAGE_CODE="en",
        LOCALE_PATHS=[],
        STATIC_URL="static/",
        USE_TZ=True,
        USE_I18N=True,
        SECRET_KEY="of no use",
    )
    django.setup()

from django.contrib import admin  # noqa: E402  # once Django is set up
from django.db import ConnectionHandler, connections  # noqa: E402
from django.urls import path  # noqa: E402

from mailtasks.contrib.django import outbox, rows  # noqa: E402, F401  # for who can't wait until Django is set up

urlpatterns = [path("admin/", admin.site.urls)]


def database(url: str) -> dict[str, Any]:
    """The entry of DATABASES for a URL of SQLAlchemy's."""
    if url.startswith("sqlite:"):
        name = url.removeprefix("sqlite://").removeprefix("/")
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": name or ":memory:"}
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": parts.username,
        "HOST": parts.hostname,
        "PORT": parts.port,
    }


@contextmanager
def databases(**entries: Mapping[str, Any]) -> Iterator[None]:
    """More of DATABASES, for a while."""
    whole = ConnectionHandler({"default": {}, **entries}).settings
    connections.settings.update({alias: whole[alias] for alias in entries})
    try:
        yield
    finally:
        for alias in entries:
            connections[alias].close()
            del connections[alias]
            del connections.settings[alias]
