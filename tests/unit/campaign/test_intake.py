"""Rows enter the ledger: once each, whoever is interrupted, and in whatever order they come to it."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailtasks.campaign import Campaign, intake
from mailtasks.errors import (
    BacklogFull,
    CampaignConflict,
    CampaignError,
    InputChanged,
    MessageError,
    StoreUnavailable,
    UnknownCampaign,
)
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.state import State
from mailtasks.testing import CatchingServer, LocalRedis
from tests.bench import Bench
from tests.campaigns import Begun, Person, people, sent_to_all, template

NOW = datetime.now(UTC)


def begin(bench: Bench, name: str = "spring", again: bool = False, **options: Any) -> Begun:
    return Begun(bench.mailer, name, again=again, rows_a_batch=10, **options)


# Rows


def test_all_rows_are_mailed_once(bench: Bench, sink: CatchingServer) -> None:
    campaign = begin(bench)
    assert campaign.add(people(15)) == 15
    assert campaign.add(people(8, first=15)) == 23
    assert campaign.status().rows == 20, "in whole batches"
    assert campaign.status().state == "open"
    assert campaign.complete() == 23
    assert campaign.status().state == "running"
    sent_to_all(bench)
    status = campaign.status()
    assert (status.state, status.rows, status.states[State.SENT], status.unfinished) == (
        "finished",
        23,
        23,
        0,
    )
    assert status.finished_at is not None
    assert sorted(mail.recipients[0] for mail in sink.messages) == sorted(it.email for it in people(23))
    assert bench.mailer.sweep() == []


def test_a_campaign_without_rows_is_finished_at_once(bench: Bench) -> None:
    campaign = begin(bench)
    assert campaign.complete() == 0
    bench.mailer.campaigns.tend()
    assert campaign.status().state == "finished"


def test_who_was_interrupted_goes_on_where_he_was(bench: Bench) -> None:
    begin(bench).add(people(25))  # and dies with five rows in hand
    campaign = begin(bench)
    assert campaign.intake.accepted == 20
    assert campaign.add(people(32)) == 32
    assert campaign.complete() == 32
    assert bench.mailer.stats().accepted == 32


def test_two_who_send_the_same_at_once_accept_it_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_BATCHES_A_CALL", 1)
    one, other = begin(bench), begin(bench)
    for number in range(0, 40, 10):
        one.add(people(10, first=number))
        other.add(people(10, first=number))
    assert one.complete() == other.complete() == 40
    assert bench.mailer.stats().accepted == 40


def test_what_has_changed_is_refused_before_anything_is_accepted(bench: Bench) -> None:
    begin(bench).add(people(25))
    campaign = begin(bench)
    changed = [*people(13), Person("eve@example.com", {"name": "Eve", "city": "Paris"}), *people(20)]
    with pytest.raises(InputChanged) as raised:
        campaign.add(changed)
    assert str(raised.value) == (
        "the input of campaign 'spring' has changed: rows 11 to 20 aren't those that were accepted there; "
        "give the rows of then, in their order, or send the others under another name"
    )
    assert raised.value.row == 11
    assert bench.mailer.stats().accepted == 20


def test_two_at_once_with_other_rows_are_found_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_BATCHES_A_CALL", 1)
    one, other = begin(bench), begin(bench)
    one.add(people(10))
    with pytest.raises(InputChanged, match="rows 1 to 10 aren't those"):
        other.add(people(10, "eve"))


def test_fewer_rows_than_before_are_no_end(bench: Bench) -> None:
    begin(bench).add(people(25))
    campaign = begin(bench)
    campaign.add(people(10))
    with pytest.raises(InputChanged, match="there are 10 rows, and 20 were accepted before"):
        campaign.complete()
    assert campaign.status().state == "open"


def test_no_more_is_accepted_than_there_is_room_for(redis_url: str, sink: CatchingServer) -> None:
    """Who waits until there is, and goes on with the rows that follow, has lost none; all room is used."""
    with closing(Bench(redis_url, sink.url, RetryPolicy(), backlog_bulk=50)) as bench:
        campaign, rows, accepted = begin(bench), iter(people(120)), []
        for _ in range(2):
            with pytest.raises(BacklogFull):
                campaign.add(rows)
            accepted.append(campaign.status().rows)
            sent_to_all(bench)
            bench.mailer.room._looked = -1000.0  # a second later
        campaign.add(rows)
        assert (accepted, campaign.complete()) == ([50, 100], 120)
        sent_to_all(bench)
        assert len(sink.messages) == 120


def test_what_was_given_while_redis_was_away_is_accepted_when_it_is_back(
    own_redis: LocalRedis, sink: CatchingServer
) -> None:
    with closing(Bench(own_redis.url, sink.url, RetryPolicy())) as bench:
        campaign, rows = begin(bench), iter(people(300, first=10))
        campaign.add(people(10))
        own_redis.kill()
        with pytest.raises(StoreUnavailable):
            campaign.add(rows)
        own_redis.start()
        campaign.add(rows)
        assert campaign.complete() == 310
        assert bench.mailer.stats().accepted == 310


# Names


def test_another_template_under_the_same_name_is_a_conflict(bench: Bench) -> None:
    begin(bench)
    with pytest.raises(CampaignConflict) as raised:
        Begun(bench.mailer, record=template(subject="Other"), rate="10/s")
    assert str(raised.value) == (
        "the campaign 'spring' was begun with other values of template, subject, rate; give those of then to "
        "take it up, or another name to another campaign"
    )


def test_a_finished_one_is_sent_again_only_if_that_is_said(bench: Bench, sink: CatchingServer) -> None:
    campaign = begin(bench)
    campaign.add(people(10))
    campaign.complete()
    sent_to_all(bench)
    with pytest.raises(CampaignError) as raised:
        begin(bench)
    assert str(raised.value) == (
        "the campaign 'spring' is finished: 10 rows were accepted; to send it once more, to everybody, say "
        "so (--again, from Python again=True), or give it another name"
    )
    once_more = begin(bench, again=True)
    once_more.add(people(10))
    assert once_more.status().rows == 10
    taken_up = begin(bench, again=True)
    taken_up.add(people(10))
    assert taken_up.complete() == 10
    sent_to_all(bench)
    assert len(sink.messages) == 20
    assert [it.name for it in Campaign.all(bench.mailer)] == ["spring"]


def test_a_complete_one_takes_no_other_rows(bench: Bench) -> None:
    campaign = begin(bench)
    campaign.add(people(10))
    campaign.complete()
    with pytest.raises(CampaignError) as raised:
        begin(bench).add(people(1000))
    assert str(raised.value) == (
        "the campaign 'spring' is complete and takes no more rows: 10 are accepted; send more under "
        "another name"
    )


def test_an_unknown_name_is_told_with_those_that_are_known(bench: Bench) -> None:
    with pytest.raises(UnknownCampaign, match="no campaign is called 'spring'; there is none"):
        Campaign("spring", mailer=bench.mailer).status()
    begin(bench, "autumn")
    with pytest.raises(UnknownCampaign, match="no campaign is called 'spring'; there are autumn"):
        Campaign("spring", mailer=bench.mailer).status()
    with pytest.raises(UnknownCampaign):
        bench.mailer.retry(campaign="spring")


def test_all_are_listed_the_latest_first(bench: Bench, wait_until: Any) -> None:
    for name in ("a", "b"):
        begin(bench, name)
        begun = datetime.now(UTC)
        wait_until(lambda begun=begun: datetime.now(UTC) > begun + timedelta(milliseconds=5))
    assert [it.name for it in Campaign.all(bench.mailer)] == ["b", "a"]
    assert Campaign("a", mailer=bench.mailer).status().rows == 0


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "x" * 201])
def test_a_name_is_something_to_print(bench: Bench, name: str) -> None:
    with pytest.raises(MessageError, match="can't name a campaign: give up to 200 printable characters"):
        begin(bench, name)
