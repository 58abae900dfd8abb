"""What an installed app carries, made when it is first wanted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from celery import Celery

from mailtasks.errors import SettingsError
from mailtasks.installation import Installation, installation_of
from mailtasks.message import Message, Priority
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.settings import FrameworkValues, Settings
from mailtasks.state import State
from mailtasks.testing import CatchingServer, wait_until


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


def app_at(broker: str) -> Celery:
    return Celery("shop", broker=broker, set_as_current=False)


def test_given_settings_that_name_no_broker_get_the_apps() -> None:
    given = Settings.load(framework={"lease": 7}, environ={})
    settings = Installation(app_at("redis://here/3"), given).settings
    assert (settings.broker_url, settings.store_url, settings.lease) == (*["redis://here/3"] * 2, 7)


def test_a_ledger_of_its_own_is_left_where_it_is() -> None:
    given = Settings.load(framework={"store_url": "redis://ledger/0"}, environ={})
    settings = Installation(app_at("redis+socket:///run/redis.sock?virtual_host=3"), given).settings
    assert settings.broker_url == "redis+socket:///run/redis.sock?virtual_host=3"
    assert settings.store_url == "redis://ledger/0"
    socket = Installation(app_at(settings.broker_url), Settings.load(environ={})).settings
    assert socket.store_url == "unix:///run/redis.sock?db=3"


SENTINELS = "sentinel://:secret@a:26379;sentinel://b:26379/1?master_name=m&sentinel_password=pw"
IN_CELERYS_WORDS = {"master_name": "m", "sentinel_kwargs": {"password": "pw"}}


def test_sentinels_in_celerys_notation_are_those_of_our_settings() -> None:
    app = app_at("sentinel://:secret@a/1;sentinel://:secret@b/1")
    app.conf.broker_transport_options = IN_CELERYS_WORDS
    assert Installation(app).settings.broker_url == Installation(app).settings.store_url == SENTINELS
    given = Settings(broker_url=SENTINELS)
    assert Installation(app, given).settings is given
    assert Installation(app_at(SENTINELS), given).settings is given


def test_sentinels_without_the_masters_name() -> None:
    with pytest.raises(SettingsError) as caught:
        Installation(app_at("sentinel://a;sentinel://b")).settings  # noqa: B018
    assert str(caught.value).startswith(
        "broker_url (the Celery app): it doesn't say what its sentinels call the master; add ?master_name"
    )


def test_two_brokers_are_refused() -> None:
    given = Settings.load(environ={"MAILTASKS_BROKER_URL": "redis://ann:secret@elsewhere/0"})
    assert Installation(app_at("redis://ann:secret@elsewhere/0"), given).settings is given
    with pytest.raises(SettingsError) as caught:
        Installation(app_at("redis://here/3"), given).settings  # noqa: B018
    assert str(caught.value) == (
        "broker_url (environment MAILTASKS_BROKER_URL): redis://ann:***@elsewhere/0 is not the Celery app's "
        "broker, redis://here/3; give both the same, or leave it out of the settings"
    )


@pytest.mark.parametrize("given", [None, Settings()])
def test_a_broker_that_is_no_redis_is_the_apps_mistake(given: Settings | None) -> None:
    with pytest.raises(SettingsError) as caught:
        Installation(app_at("amqp://guest@here//"), given).settings  # noqa: B018
    assert str(caught.value).startswith("broker_url (the Celery app): ")


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


def test_what_is_kept_warm_is_what_the_first_task_gets(redis_url: str, sink: CatchingServer) -> None:
    installation = warm_installation(redis_url, sink)
    installation.keep_warm()
    wait_until(lambda: sink.open_connections == 1)
    delivery = installation.delivery(RetryPolicy())
    wait_until(lambda: delivery.route.pool.stats()["idle"] == 1)
    id = installation.mailer.send(Message(to="ann@example.com", text="hi"))
    assert delivery.deliver(id.partition(".")[0], Priority.NORMAL).counts == {State.SENT: 1}
    assert sink.connections == 1
    installation.close()
    wait_until(lambda: sink.open_connections == 0)


def test_a_worker_that_stops_before_it_is_ready_opens_nothing(redis_url: str, sink: CatchingServer) -> None:
    installation = warm_installation(redis_url, sink)
    installation.begin_stopping()
    installation.keep_warm()
    assert installation._route is None


def test_without_the_setting_nothing_is_kept_warm(installation: Installation) -> None:
    installation.keep_warm()
    assert installation._route is None


def warm_installation(redis_url: str, sink: CatchingServer) -> Installation:
    settings = Settings(broker_url=redis_url, relay=sink.url, default_from="shop@example.com", pool_warm=1)
    return Installation(Celery("shop", broker=redis_url, set_as_current=False), settings)


def test_closing_what_was_never_opened() -> None:
    installation = Installation(Celery("shop", set_as_current=False))
    installation.begin_stopping()
    installation.close()


def test_an_app_that_was_given_no_settings_asks_the_framework(monkeypatch):
    ours, others = (Celery(name, broker="redis://127.0.0.1:6379/3", set_as_current=False) for name in "ab")
    reader = ModuleType("reader_of_a_test")
    said = FrameworkValues("the shop's settings", {"default_from": "shop@example.com"})
    reader.framework_values = lambda app: said if app is ours else None
    monkeypatch.setitem(sys.modules, reader.__name__, reader)
    monkeypatch.setattr("mailtasks.settings.FRAMEWORK_READERS", {reader.__name__: reader.__name__})
    assert Installation(ours).settings.default_from == "shop@example.com"
    assert Installation(ours).settings.broker_url == "redis://127.0.0.1:6379/3"
    assert Installation(ours).without_app().source("default_from") == "the shop's settings"
    assert Installation(others).settings.default_from is None
    given = Installation(ours, Settings(lease=7))
    assert given.was_given_settings
    assert (given.settings.lease, given.settings.default_from) == (7, None)
