"""A Django of the tests' own: one SQLite database in memory, our app, and Redis by `redis_url`."""

from __future__ import annotations

from email import message_from_bytes, policy
from pathlib import Path

import django
import pytest
from django.conf import settings

from mailtasks.default import default_mailer, forget_default_mailer
from mailtasks.settings import SETTINGS

BACKEND = "mailtasks.contrib.django.backend.EmailBackend"
HERE = Path(__file__).parent

if django.VERSION < (6, 1):
    collect_ignore = ["test_mailers.py"]

if not settings.configured:
    settings.configure(
        EMAIL_BACKEND=BACKEND,
        DEFAULT_FROM_EMAIL="The Shop <shop@example.com>",
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "mailtasks.contrib.django"],
        DATABASES={
            alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
            for alias in ("default", "other")
        },
        TEMPLATES=[
            {"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [HERE / "templates"]}
        ],
        LANGUAGE_CODE="en",
        LOCALE_PATHS=[],
        USE_TZ=True,
        USE_I18N=True,
        SECRET_KEY="of no use",
    )
    django.setup()


@pytest.fixture
def _no_settings_around(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for setting in SETTINGS.values():
        monkeypatch.delenv(setting.variable, raising=False)


@pytest.fixture
def override(_no_settings_around):
    """Override Django's settings until the test ends."""
    from django.test import override_settings

    overrides = []

    def override(**changes):
        overrides.append(override_settings(**changes))
        overrides[-1].enable()

    yield override
    for one in reversed(overrides):
        one.disable()


@pytest.fixture
def queue(override, redis_url):
    """The mailer that Django's mail goes to."""
    override(MAILTASKS={"BROKER_URL": redis_url})
    yield default_mailer()
    forget_default_mailer()


@pytest.fixture
def claimed(queue):
    """A mail as a worker gets it."""
    claims = {}

    def claimed(id):
        batch = id.partition(".")[0]
        claims[batch] = claims.get(batch) or queue.ledger.claim(batch, "worker@here")
        return next(message for message in claims[batch].window if message.id == id)

    return claimed


@pytest.fixture
def goes_out(claimed):
    """A mail as it goes out, parsed; of a message that was sent."""

    def goes_out(message):
        [id] = message.mailtasks_ids
        return message_from_bytes(claimed(id).body, policy=policy.default)

    return goes_out
