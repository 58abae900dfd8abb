"""The Django of `tests/djangos.py`, its databases in memory, and Redis by `redis_url`."""

from __future__ import annotations

from email import message_from_bytes, policy

import django
import pytest
from django.core.management import call_command

from mailtasks.default import default_mailer, forget_default_mailer
from mailtasks.local.redis import free_port
from mailtasks.settings import SETTINGS
from tests import djangos

if django.VERSION < (6, 1):
    collect_ignore = ["test_mailers.py"]


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

    override(DEFAULT_FROM_EMAIL="The Shop <shop@example.com>")  # no other test's settings should have it
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


@pytest.fixture(scope="session")
def _migrated():
    for alias in ("default", "other"):
        call_command("migrate", database=alias, verbosity=0)


@pytest.fixture
def outbox(override, _migrated):
    """Mail goes into the outbox, and there is no Redis; what is in the table."""
    override(MAILTASKS={"OUTBOX": True, "BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"})
    model = djangos.rows.OutboxRow
    yield lambda alias="default": list(model.objects.using(alias).order_by("id"))
    for alias in ("default", "other"):
        model.objects.using(alias).all().delete()
    forget_default_mailer()
