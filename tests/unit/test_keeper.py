"""Leases are renewed while claims are held, and no longer."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from mailtasks.keeper import Keeper
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.store.ledger import Claim, Released, lease_clock
from mailtasks.testing import LocalRedis, wait_until


@pytest.fixture
def mailer(own_redis: LocalRedis) -> Iterator[Mailer]:
    settings = Settings(
        broker_url=own_redis.url, default_from="a@example.com", lease=1, redis_timeout=0.3,
        redis_connect_timeout=0.3,
    )  # fmt: skip
    with Mailer(settings) as mailer:
        mailer.ledger.look([], {})
        yield mailer


@pytest.fixture
def keeper(mailer: Mailer) -> Iterator[Keeper]:
    keeper = Keeper(mailer.ledger)
    yield keeper
    keeper.stop()


@pytest.fixture
def claim(mailer: Mailer) -> Claim:
    id = mailer.send(Message(to="ann@example.com", text="hi"))
    claim = mailer.ledger.claim(id.partition(".")[0], "w")
    assert isinstance(claim, Claim)
    return claim


def look_on(mailer: Mailer, seconds: float) -> None:
    """A pump's part: time passes, and what is due is looked at."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        mailer.ledger.look(mailer.ledger.due(), {})
        time.sleep(0.05)


def test_a_claim_outlives_its_lease_while_it_is_kept(mailer: Mailer, keeper: Keeper, claim: Claim) -> None:
    with keeper.keeping(claim):
        look_on(mailer, 2.2)
        assert not claim.lost
        assert claim.remaining() > 0.4
        assert mailer.stats().states[State.SENDING] == 1
    assert mailer.stats().tallies["lapses"] == 0
    look_on(mailer, 1.3)
    assert mailer.stats().tallies["lapses"] == 1


def test_a_wedged_claim_isnt_renewed_for_ever(mailer: Mailer, keeper: Keeper, claim: Claim) -> None:
    claim.give_up = lease_clock()
    with keeper.keeping(claim):
        look_on(mailer, 1.3)
    assert claim.remaining() == 0
    assert mailer.stats().tallies["lapses"] == 1


def test_a_lost_lease_is_noticed_and_said_once(
    mailer: Mailer, keeper: Keeper, claim: Claim, caplog: pytest.LogCaptureFixture
) -> None:
    with keeper.keeping(claim), caplog.at_level(logging.WARNING):
        mailer.redis.hset(mailer.ledger.keys.batch(claim.batch)[0], "t", "somebody-else")
        wait_until(lambda: claim.lost)
        assert claim.remaining() == 0
        for _ in range(3):
            keeper.renew()
    assert caplog.messages == [
        f"the lease of batch {claim.batch} was lost; what it has not begun is left to others"
    ]


def test_what_is_given_back_is_not_lost(
    mailer: Mailer, keeper: Keeper, claim: Claim, caplog: pytest.LogCaptureFixture
) -> None:
    with keeper.keeping(claim):
        mailer.ledger.release(claim, "w", [])
        keeper.renew()  # before its thread could say that it is over
    assert not caplog.messages


def test_a_lease_is_renewed_though_other_calls_take_long(
    mailer: Mailer, keeper: Keeper, claim: Claim
) -> None:
    before = claim.lease_ends
    with keeper.keeping(claim), mailer.ledger._scripts._line._talking:
        wait_until(lambda: claim.lease_ends > before, what="the next renewal")


def test_redis_away_is_logged_and_survived(
    mailer: Mailer, keeper: Keeper, claim: Claim, own_redis: LocalRedis, caplog: pytest.LogCaptureFixture
) -> None:
    with keeper.keeping(claim):
        own_redis.stop()
        wait_until(lambda: "1 leases could not be renewed: Redis at" in caplog.text)
        own_redis.start()
        before = claim.lease_ends
        wait_until(lambda: claim.lease_ends > before, what="the next renewal")
    assert not isinstance(mailer.ledger.release(claim, "w", []), Claim)


def test_nothing_to_keep_is_no_call_at_all(mailer: Mailer) -> None:
    keeper = Keeper(mailer.ledger)
    mailer.close()
    keeper.renew()
    keeper.stop()
    assert isinstance(mailer.ledger.claim("0" * 27, "w"), Released)
