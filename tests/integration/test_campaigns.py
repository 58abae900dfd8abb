"""Campaigns on the whole road: real workers, a kill, a pause; each address once in both books."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from mailtasks.campaign import Campaign
from mailtasks.message import Message
from mailtasks.state import State
from tests.campaigns import Begun, people
from tests.integration.conftest import Road, wait_until

Make = Callable[..., Any]
LARGE, SMALL = 4000, 60


def begin(road: Road, name: str, **options: Any) -> Begun:
    return Begun(road.mailer, name, rows_a_batch=100, **options)


def sent(campaign: Campaign) -> int:
    return campaign.status().states[State.SENT]


def caught(road: Road, name: str) -> Counter[str]:
    """How often each of these people was mailed."""
    found = Counter(recipient for _, recipient in road.relay.accepted.elements())
    return Counter({address: times for address, times in found.items() if address.startswith(name)})


def test_two_campaigns_and_the_kill_of_a_worker(highway: Make) -> None:
    road = highway(doubt_bulk="resend")
    large, small = begin(road, "large"), begin(road, "small")
    large.add(people(LARGE, "ann"))
    large.complete()
    victim = road.start_worker()
    road.start_worker()
    wait_until(lambda: sent(large) > 200)
    small.add(people(SMALL, "bob"))
    small.complete()
    wait_until(lambda: small.status().state == "finished")
    assert sent(large) < LARGE, "the small one had its turn among the large one's"
    victim.kill()
    wait_until(lambda: large.status().state == "finished", what=f"the end of {large.status()}")
    assert sent(large) == LARGE
    assert caught(road, "ann").keys() == {person.email for person in people(LARGE, "ann")}
    doubts = road.mailer.stats().tallies["doubts"]
    assert sum(caught(road, "ann").values()) - LARGE <= doubts <= 4 * 8, "a window a thread"
    assert caught(road, "bob") == Counter(person.email for person in people(SMALL, "bob"))
    assert road.mailer.sweep() == []
    assert road.mailer.stats().states[State.SENT] == LARGE + SMALL


def test_a_pause_bites_within_a_second_and_lasts_over_a_restart(highway: Make) -> None:
    road = highway()
    campaign = begin(road, "spring")
    campaign.add(people(LARGE))
    campaign.complete()
    first = road.start_worker()
    road.start_worker()
    wait_until(lambda: sent(campaign) > 200)
    campaign.pause()
    time.sleep(1)  # what is promised
    before = sent(campaign)
    assert 200 < before < LARGE
    road.send_singly([Message(to="urgent@example.com", text="now", priority="urgent")])
    road.wait_for_sent(before + 1)
    assert sent(campaign) == before, "nothing of it went on, while other mail did"
    first.stop()
    road.start_worker()
    road.send_singly([Message(to="urgent@example.com", text="now", priority="urgent")])
    road.wait_for_sent(before + 2)
    assert sent(campaign) == before
    campaign.resume()
    wait_until(lambda: campaign.status().state == "finished")
    assert caught(road, "ann") == Counter(person.email for person in people(LARGE))


def test_who_dies_while_he_cancels_is_followed_by_pumps(highway: Make) -> None:
    road = highway()
    campaign = begin(road, "spring")
    campaign.add(people(LARGE))
    road.start_worker()
    wait_until(lambda: sent(campaign) > 100)
    road.mailer.campaigns.cancel(campaign._record())  # and no more than that
    wait_until(lambda: not campaign.status().unfinished)
    states = campaign.status().states
    assert states[State.SENT] + states[State.CANCELLED] == LARGE
    assert 0 < states[State.CANCELLED] < LARGE
    assert sum(caught(road, "ann").values()) == states[State.SENT]


def test_a_rate_is_that_of_all_workers_together(highway: Make) -> None:
    road = highway()
    campaign = begin(road, "spring", rate="40/s")
    for _ in range(2):
        road.start_worker()
    campaign.add(people(200))
    campaign.complete()
    wait_until(lambda: sent(campaign) >= 1)
    began = time.monotonic()
    wait_until(lambda: campaign.status().state == "finished")
    seconds, burst = time.monotonic() - began, 41
    assert (200 - burst) / seconds <= 40
    assert 200 / seconds > 10
