"""Campaigns' batches have their turn while little waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailtasks.feeder import Feeder
from mailtasks.message import Priority
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.testing import CatchingServer
from tests.bench import Bench
from tests.campaigns import a_campaign, people


@pytest.fixture
def one(redis_url: str, sink: CatchingServer) -> Iterator[Bench]:
    bench = Bench(redis_url, sink.url, RetryPolicy())
    yield bench
    bench.close()


def test_while_enough_waits_it_doesnt_ask(one: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    a_campaign(one.mailer, people(200), rows_a_batch=10)
    feeder = Feeder(one.mailer.campaigns, one.mailer.publisher, one.delivery.limiter, threads=4)
    asked: list[Priority] = []
    waiting = one.mailer.publisher.waiting
    monkeypatch.setattr(one.mailer.publisher, "waiting", lambda it: asked.append(it) or waiting(it))
    for _ in range(4):
        feeder.delivered(Priority.BULK)
    assert (len(asked), waiting(Priority.BULK)) == (1, 8)
    feeder.delivered(Priority.BULK)
    assert (len(asked), waiting(Priority.BULK)) == (2, 8)


def test_a_campaign_that_may_not_go_feeds_nothing(one: Bench) -> None:
    campaign = a_campaign(one.mailer, people(40), rows_a_batch=10)
    campaign.pause()
    one.delivery.feeder.feed(Priority.BULK)
    assert one.hints() == 0
    campaign.resume()
    one.delivery.limiter.set_rate(0.001)
    one.delivery.limiter.take(1, Priority.BULK)
    one.delivery.feeder.feed(Priority.BULK)
    assert one.hints() == 0, "nor what the process' rate doesn't let go"
