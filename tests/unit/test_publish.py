"""Hints: where they go, what they hold, and that a failure fails nobody."""

from __future__ import annotations

import base64
import json
import logging
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import QueueNotFound

from mailtasks import celery as celery_module
from mailtasks.celery import install
from mailtasks.errors import StoreUnavailable
from mailtasks.local.redis import free_port
from mailtasks.message import PRIORITIES, Priority
from mailtasks.publish import (
    BULK_QUEUE,
    CELERYS_BROKER,
    NORMAL_QUEUE,
    URGENT_QUEUE,
    Publisher,
    celerys_notation,
    configuration,
    producing_app,
    queue_name,
    queues,
)
from mailtasks.settings import Settings
from mailtasks.testing import LocalRedis, wait_until
from mailtasks.testing.sentinels import WatchedRedis

BATCH = "0" * 27


@pytest.fixture
def publisher(redis_url: str) -> Iterator[Publisher]:
    publisher = Publisher(lambda: producing_app(Settings(broker_url=redis_url)))
    yield publisher
    publisher.app.close()


def waiting(server: LocalRedis, queue: str) -> list[dict[str, Any]]:
    with server.client() as client:
        return [json.loads(task) for task in client.lrange(queue, 0, -1)]


def test_queue_names_sort_in_the_order_of_urgency() -> None:
    names = [queue_name(priority) for priority in PRIORITIES]
    assert names == sorted(names) == [URGENT_QUEUE, NORMAL_QUEUE, BULK_QUEUE]
    assert [queue.name for queue in queues("shop")] == ["shop-1-urgent", "shop-2-normal", "shop-3-bulk"]


def test_a_hint_holds_an_id_and_nothing_of_the_mail(publisher: Publisher, redis_server: LocalRedis) -> None:
    assert publisher.hint([(BATCH, Priority.URGENT)])
    [task] = waiting(redis_server, URGENT_QUEUE)
    assert json.loads(base64.b64decode(task["body"]))[:2] == [[BATCH], {}]
    headers = task["headers"]
    assert (headers["task"], headers["id"]) == ("mailtasks.deliver", f"{BATCH}.0")
    assert (headers["argsrepr"], headers["kwargsrepr"]) == (f"('{BATCH}',)", "{'priority': 'urgent'}")
    assert (headers["ignore_result"], headers["eta"], task["content-type"]) == (
        True,
        None,
        "application/json",
    )


def test_many_at_once_and_how_many_wait(publisher: Publisher) -> None:
    assert [publisher.waiting(priority) for priority in PRIORITIES] == [0, 0, 0]
    hints = [(f"{n:027}", PRIORITIES[n % 3]) for n in range(1500)]
    assert publisher.hint(iter(hints))
    assert [publisher.waiting(priority) for priority in PRIORITIES] == [500, 500, 500]
    assert publisher.hint([])


def test_first_is_at_the_head_of_the_queue(redis_url: str, redis_server: LocalRedis) -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.update(configuration(Settings(broker_url=redis_url)))
    install(app)  # a producer's own app would have kombu's transport
    publisher = Publisher(app)
    assert publisher.lines()[Priority.BULK].next_hinted is None
    for batch, first in (("a" * 27, False), ("b" * 27, False), ("c" * 27, True)):
        assert publisher.hint([(batch, Priority.BULK)], first=first)
    ids = [task["headers"]["id"][0] for task in waiting(redis_server, BULK_QUEUE)]
    assert ids == ["b", "a", "c"]  # taken from the end
    assert publisher.lines()[Priority.BULK].next_hinted is None  # it is out of its turn
    assert publisher.waiting(Priority.BULK) == 3
    app.close()


@pytest.mark.parametrize("prefix", ["", "shop-"])
def test_when_the_next_in_a_queue_was_hinted(redis_url: str, prefix: str) -> None:
    app = producing_app(Settings(broker_url=redis_url))
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "global_keyprefix": prefix}
    publisher, before = Publisher(app), time.time()
    assert publisher.hint([(BATCH, Priority.BULK)])
    assert before - 0.01 <= (publisher.lines()[Priority.BULK].next_hinted or 0) <= time.time()
    app.close()


def test_the_next_in_a_queue_may_be_no_hint(publisher: Publisher) -> None:
    publisher.app.send_task("mailtasks.send_mail", kwargs={"to": "ann@example.com"})
    assert publisher.lines()[Priority.NORMAL].next_hinted is None


def test_what_cant_be_published_goes_to_whoever_takes_it(own_redis: LocalRedis) -> None:
    publisher = Publisher(lambda: producing_app(Settings(broker_url=own_redis.url)))
    taken: list[tuple[str, Priority]] = []
    publisher.on_refused = taken.extend
    assert publisher.hint([(BATCH, Priority.BULK)])
    with own_redis.client() as client:
        client.config_set("maxmemory", 1)
        assert not publisher.hint([(BATCH, Priority.URGENT)])
        assert publisher.waiting(Priority.BULK) == 1
    assert (taken, publisher.refused) == ([(BATCH, Priority.URGENT)], True)


def test_a_broker_that_is_away_fails_nobody(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    publisher = Publisher(producing_app(Settings(broker_url=f"redis://127.0.0.1:{port}/0")))
    with caplog.at_level(logging.WARNING):
        assert not publisher.hint([(BATCH, Priority.BULK), (BATCH, Priority.BULK)])
    assert caplog.messages[-1].startswith("hints that could not be published: 2 (")
    assert caplog.messages[-1].endswith("); their mail is found without")


def test_a_broker_that_is_away_holds_up_one_call_and_not_the_next(
    own_redis: LocalRedis, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Publisher(producing_app(Settings(broker_url=own_redis.url, redis_connect_timeout=0.3)))
    hints = [(BATCH, Priority.URGENT)]
    own_redis.stop()
    assert not publisher.hint(hints)
    began = time.monotonic()
    assert not any(publisher.hint(hints) for _ in range(10))
    assert time.monotonic() - began < 0.1
    assert len(caplog.messages) == 1
    own_redis.start()
    wait_until(lambda: publisher.hint(hints), what="another try")
    assert publisher.waiting(Priority.URGENT) == 1


def test_what_fails_at_once_silences_nothing(own_redis: LocalRedis) -> None:
    """As the first hint after Redis has restarted, whose connection is of before."""
    publisher = Publisher(producing_app(Settings(broker_url=own_redis.url)))
    assert publisher.hint([(BATCH, Priority.URGENT)])
    own_redis.stop()
    own_redis.start()
    assert any(publisher.hint([(BATCH, Priority.URGENT)]) or time.sleep(0.01) for _ in range(10))


def test_asking_a_broker_that_is_away_after_a_hint_that_failed() -> None:
    broker = f"redis://127.0.0.1:{free_port()}/0"
    publisher = Publisher(producing_app(Settings(broker_url=broker, redis_connect_timeout=0.3)))
    assert not publisher.hint([(BATCH, Priority.BULK)])
    with pytest.raises(StoreUnavailable) as caught:
        publisher.waiting(Priority.BULK)
    assert str(caught.value) == (
        f"the broker {broker} can't be asked (Error 111 connecting to {broker[8:-2]}. Connection refused.); "
        "is it running and reachable?"
    )


def test_an_app_is_made_once_and_never_becomes_the_current_one(redis_url: str) -> None:
    from celery import current_app

    made = []

    def make() -> Any:
        made.append(producing_app(Settings(broker_url=redis_url)))
        return made[-1]

    publisher = Publisher(make)
    assert made == []
    assert publisher.app is publisher.app is made[0]
    assert current_app._get_current_object() is not made[0]


def test_our_broker_is_stronger_than_celerys_variables(
    publisher: Publisher, redis_server: LocalRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's variable is for the user's app."""
    monkeypatch.setattr(celery_module, "_installed", None)
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    for name in CELERYS_BROKER:
        monkeypatch.setenv(name, nowhere)
    assert publisher.hint([(BATCH, Priority.BULK)])
    assert len(waiting(redis_server, BULK_QUEUE)) == publisher.waiting(Priority.BULK) == 1
    for connect in (publisher.app.connection, publisher.app.connection_for_read):  # Flower, control
        with connect() as connection:
            connection.ensure_connection(max_retries=1)
    users = Publisher(install(Celery("shop", set_as_current=False)))
    with pytest.raises(StoreUnavailable, match=f"the broker {nowhere} can't be asked"):
        users.waiting(Priority.BULK)


def test_a_typo_in_a_queue_name(publisher: Publisher) -> None:
    with pytest.raises(QueueNotFound) as caught:
        publisher.app.send_task("mailtasks.send_mail", queue="mailtasks-1-urgnt")
    assert caught.value.args == ("Queue 'mailtasks-1-urgnt' missing from task_queues",)


def test_mail_by_name_goes_to_the_normal_queue(publisher: Publisher, redis_server: LocalRedis) -> None:
    publisher.app.send_task("mailtasks.send_mail", kwargs={"to": "ann@example.com"})
    assert len(waiting(redis_server, NORMAL_QUEUE)) == 1


def test_only_json() -> None:
    configured = configuration(Settings())
    assert (configured["task_serializer"], configured["accept_content"]) == ("json", ["json"])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host/0", None),
        ("rediss://host/0", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("rediss://host/0?ssl_cert_reqs=none", None),
    ],
)
def test_the_brokers_certificate_is_verified(url: str, expected: object) -> None:
    assert configuration(Settings(broker_url=url))["broker_use_ssl"] == expected


def test_sentinels_are_named_as_celery_wants_them() -> None:
    url = "sentinel://:secret@a;sentinel://b/1?master_name=m&sentinel_password=pw"
    said = configuration(Settings(broker_url=url, redis_connect_timeout=3))
    assert said["broker_url"] == "sentinel://:secret@a:26379/1;sentinel://:secret@b:26379/1"
    options = said["broker_transport_options"]
    assert options["master_name"] == "m"
    asking = options["sentinel_kwargs"]
    assert (asking["password"], asking["socket_timeout"], asking["socket_connect_timeout"]) == ("pw", 3, 3)
    assert asking["retry"].get_retries() == 0
    assert celerys_notation(said["broker_url"], options) == (said["broker_url"], options)


def test_other_brokers_are_left_as_they_are() -> None:
    options = {"socket_timeout": 1}
    assert celerys_notation("redis://a", options) == ("redis://a", options)


def test_a_hint_goes_to_the_master() -> None:
    with WatchedRedis(replicas=1) as watched:
        publisher = Publisher(lambda: producing_app(Settings(broker_url=watched.url)))
        assert publisher.hint([(BATCH, Priority.NORMAL)])
        assert publisher.waiting(Priority.NORMAL) == 1
        assert len(waiting(watched.master, NORMAL_QUEUE)) == 1
        publisher.app.close()
