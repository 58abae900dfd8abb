"""A campaign under its name: watching and steering."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailtasks.campaign import Campaign
from mailtasks.errors import (
    CampaignError,
)
from mailtasks.message import Priority
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.state import State
from mailtasks.testing import CatchingServer
from tests.bench import Bench
from tests.campaigns import Begun, Person, people

NOW = datetime.now(UTC)


@pytest.fixture
def bench(redis_url: str, sink: CatchingServer) -> Iterator[Bench]:
    one = Bench(redis_url, sink.url, RetryPolicy(retry_jitter=False))
    yield one
    one.close()


def begin(bench: Bench, name: str = "spring", again: bool = False, **options: Any) -> Begun:
    return Begun(bench.mailer, name, again=again, rows_a_batch=10, **options)


def sent_to_all(bench: Bench, campaign: Campaign) -> None:
    """Workers and pumps have done their work."""
    while hints := bench.mailer.campaigns.feed(Priority.BULK, 100):
        for hint in hints:
            bench.delivery.deliver(hint.batch, hint.priority)
    bench.mailer.campaigns.tend()


def test_options_are_shown(bench: Bench) -> None:
    campaign = begin(
        bench, begins=NOW + timedelta(days=1), ends=NOW + timedelta(days=2), rate="100/m", tags=("a",)
    )
    campaign.add(people(10))
    status = campaign.status()
    assert (status.state, status.tags, status.subject) == ("scheduled", ("a",), "Hi {{ name }}")
    assert status.rate == pytest.approx(100 / 60)
    told = json.loads(json.dumps(status.as_dict()))
    assert (told["name"], told["states"]["queued"], told["priority"]) == ("spring", 10, "bulk")
    assert told["ends_at"].endswith("+00:00")
    [row] = [row for row in bench.mailer.queue() if row.priority is Priority.BULK]
    assert row.waiting == {"campaign": 1}
    assert row.next_due is None


# Steering


def test_pause_and_resume(bench: Bench) -> None:
    campaign = begin(bench)
    campaign.add(people(10))
    assert campaign.pause("lunch")
    assert (campaign.status().state, campaign.status().reason) == ("paused", "lunch")
    sent_to_all(bench, campaign)
    assert campaign.status().states[State.QUEUED] == 10
    assert campaign.resume()
    campaign.complete()
    sent_to_all(bench, campaign)
    assert campaign.status().state == "finished"


def test_cancel(bench: Bench) -> None:
    campaign = begin(bench)
    campaign.add(people(30))
    [hint] = bench.mailer.campaigns.feed(Priority.BULK, 1)
    bench.delivery.deliver(hint.batch, hint.priority)
    sent = campaign.status().states[State.SENT]
    assert campaign.cancel() == 30 - sent
    assert campaign.cancel() == 30 - sent
    assert campaign.status().state == "cancelled"
    assert campaign.status().unfinished == 0
    with pytest.raises(CampaignError, match="the campaign 'spring' was cancelled: 30 rows were accepted"):
        begin(bench)
    with pytest.raises(CampaignError, match="'spring' was cancelled and takes no more rows: 30 are accepted"):
        campaign.add(people(200, first=30))


def test_failures_and_their_retry(bench: Bench, sink: CatchingServer) -> None:
    campaign = begin(bench)
    campaign.add([*people(9), Person("refuse@example.com", {"name": "R", "city": "X"})])
    campaign.add([*people(9, first=9), Person("cy@example.com", {"name": "C"})])
    campaign.complete()
    sent_to_all(bench, campaign)
    assert campaign.status().states[State.FAILED] == 2
    refused, unrendered = campaign.failures()
    assert refused.recipients[0].address == "refuse@example.com"
    assert refused.metadata == {"campaign": "spring"}
    assert unrendered.recipients[0].address == "cy@example.com"
    assert "'city' is undefined" in unrendered.reply
    assert campaign.retry(dry_run=True).retried == 1, "one was refused for good"
    bench.mailer.suppressions.remove("refuse@example.com")
    assert campaign.retry(force=True).retried == 2
    assert campaign.status().state == "running"
    sent_to_all(bench, campaign)
    assert campaign.status().states[State.FAILED] == 2
    assert campaign.status().state == "finished"
    assert bench.mailer.retry(campaign="spring", reason="undefined").retried == 1


# The suppression list


def test_who_is_suppressed_gets_nothing(bench: Bench, sink: CatchingServer) -> None:
    bench.mailer.suppressions.add("ann3@example.com", "ann11@example.com")
    campaign = begin(bench)
    campaign.add(people(25))
    campaign.complete()
    bench.mailer.suppressions.add("ann20@example.com")
    sent_to_all(bench, campaign)
    states = campaign.status().states
    assert (states[State.SUPPRESSED], states[State.SENT]) == (3, 22)
    assert campaign.status().state == "finished"
    assert len(sink.messages) == 22


def test_a_batch_of_the_suppressed_is_over_at_once(bench: Bench) -> None:
    bench.mailer.suppressions.add(*(person.email for person in people(10)))
    campaign = begin(bench)
    campaign.add(people(10))
    campaign.complete()
    assert bench.mailer.sweep() == []
    bench.mailer.campaigns.tend()
    assert campaign.status().state == "finished"
    assert campaign.status().states[State.SUPPRESSED] == 10
    assert bench.mailer.sweep() == []
