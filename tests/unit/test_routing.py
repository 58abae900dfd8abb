"""A relay that can't be reached is left alone for a while, longer each time; settings reach the pool."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from mailtasks import routing
from mailtasks.guard import GRACE
from mailtasks.local.redis import free_port
from mailtasks.reply import Stage
from mailtasks.routing import FIRST_PAUSE, LONGEST_PAUSE, Route, open_route
from mailtasks.settings import Settings
from mailtasks.smtp import Timeouts
from mailtasks.testing import CatchingServer, wait_until


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(routing, "time", clock)
    return clock


@pytest.fixture
def route(clock: Clock) -> Route:
    return Route(SimpleNamespace(relay=SimpleNamespace(name="mx:25")))


def pauses(route: Route, clock: Clock, times: int) -> list[float]:
    """How long it stays closed after each failure."""
    seen = []
    for _ in range(times):
        began = clock.now
        route.failed("connection refused")
        while route.closed():
            clock.now += 0.25
        seen.append(clock.now - began)
    return seen


def test_closed_for_longer_each_time(route: Route, clock: Clock) -> None:
    assert route.closed() is None
    assert pauses(route, clock, 8) == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (FIRST_PAUSE, LONGEST_PAUSE) == (1, 60)


def test_its_last_words_are_what_everybody_else_is_told(route: Route) -> None:
    route.failed("connect: connection refused")
    assert route.closed() == "connect: connection refused"


def test_many_threads_that_fail_at_once_count_as_one(route: Route, clock: Clock) -> None:
    for _ in range(8):
        route.failed("connection refused")
    clock.now += 1
    assert route.closed() is None


def test_one_connection_ends_the_growth(route: Route, clock: Clock) -> None:
    pauses(route, clock, 5)
    route.worked()
    assert pauses(route, clock, 1) == [1]


def test_the_defaults_of_a_session_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Timeouts] = []
    monkeypatch.setattr(routing, "Pool", lambda *_, timeouts, **__: made.append(timeouts))
    open_route(Settings(), threads=1)
    assert made == [Timeouts()]


def test_a_relay_that_cant_be_reached_is_given_up_before_a_worker_that_stops_is_killed() -> None:
    assert Settings().timeout_connect < GRACE


def test_what_is_kept_warm_respects_that_it_is_left_alone(route: Route, clock: Clock) -> None:
    given: list[Callable[[], bool]] = []
    route.pool.keep_warm = given.append
    route.keep_warm()
    [may_dial] = given
    assert may_dial()
    route.failed("connection refused")
    assert not may_dial()
    clock.now += 1
    assert may_dial()


def test_a_failure_to_keep_warm_leaves_the_relay_open_to_mail() -> None:
    route = open_route(Settings(relay=f"smtp://127.0.0.1:{free_port()}", pool_warm=1), threads=2)
    route.keep_warm()
    wait_until(lambda: route.pool.stats()["failed"])
    assert route.closed() is None
    route.pool.close()


def test_the_settings_reach_the_pool(sink: CatchingServer) -> None:
    settings = Settings(
        relay=sink.url, hello_name="shop.example.com", timeout_dot=7, timeout_data=3, pool_warm=2
    )
    route = open_route(settings, threads=2)
    assert route.relay == sink.url.removeprefix("smtp://")
    with route.pool.lend(5) as session:
        assert session.usable
        assert [session._timeouts.of(stage) for stage in (Stage.DOT, Stage.DATA, Stage.RCPT)] == [7, 3, 300]
    assert route.pool.stats()["opened"] == 1
    route.keep_warm()
    wait_until(lambda: route.pool.stats()["idle"] == 2)
    route.pool.close()
