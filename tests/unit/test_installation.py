"""What an installed app carries, made when it is first wanted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from mailtasks.errors import SettingsError
from mailtasks.installation import Installation, installation_of
from mailtasks.message import Message, Priority
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.testing import CatchingServer


@pytest.fixture
def installation(redis_url: str, sink: CatchingServer) -> Iterator[Installation]:
    settings = Settings(broker_url=redis_url, relay=sink.url, default_from="shop@example.com")
    installation = Installation(Celery("shop", broker=redis_url, set_as_current=False), settings)
    yield installation
    installation.close()


def test_an_app_that_was_not_installed() -> None:
    with pytest.raises(SettingsError) as caught:
        installation_of(Celery("shop", set_as_current=False))
    assert "doesn't know mailtasks; call mailtasks.celery.install(app)" in str(caught.value)


def test_the_broker_is_the_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILTASKS_BROKER_URL", "redis://elsewhere/0")
    monkeypatch.setenv("MAILTASKS_LEASE", "7")
    settings = Installation(Celery("shop", broker="redis://here/3", set_as_current=False)).settings
    assert (settings.broker_url, settings.store_url, settings.lease) == (*["redis://here/3"] * 2, 7)


def test_nothing_is_read_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILTASKS_LEASE", "soon")
    installation = Installation(Celery("shop", set_as_current=False))
    with pytest.raises(SettingsError, match="lease"):
        installation.settings  # noqa: B018


def test_one_delivery_for_a_process_and_a_new_one_after_closing(
    installation: Installation, sink: CatchingServer
) -> None:
    delivery = installation.delivery(RetryPolicy())
    assert installation.delivery(RetryPolicy()) is delivery
    ids = [installation.mailer.send(Message(to="ann@example.com", text="hi")) for _ in range(2)]
    assert delivery.deliver(ids[0].partition(".")[0], Priority.NORMAL).counts == {State.SENT: 1}
    installation.close()
    assert installation.delivery(RetryPolicy()) is not delivery
    assert installation.delivery(RetryPolicy()).deliver(ids[1].partition(".")[0], Priority.NORMAL).counts == {
        State.SENT: 1
    }
    assert sink.connections == 2


def test_stopping_reaches_the_delivery(installation: Installation, sink: CatchingServer) -> None:
    delivery = installation.delivery(RetryPolicy())
    id = installation.mailer.send(Message(to="ann@example.com", text="hi"))
    installation.begin_stopping()
    delivery.deliver(id.partition(".")[0], Priority.NORMAL)
    assert installation.mailer.status(id).state is State.QUEUED
    assert sink.messages == []


def test_closing_what_was_never_opened() -> None:
    installation = Installation(Celery("shop", set_as_current=False))
    installation.begin_stopping()
    installation.close()
