"""When connections are dialled ahead again after failures, and what is said of it."""

import logging

import pytest

from mailtasks.errors import RelayError
from mailtasks.relay import Relay
from mailtasks.reply import How, Outcome, Stage
from mailtasks.smtp.session import ConnectFailed
from mailtasks.smtp.warmer import FIRST_PAUSE, LONGEST_AFTER_LOGIN, LONGEST_PAUSE, Warmer

RELAY = Relay.parse("smtp://127.0.0.1:2525")


class World:
    """A clock, and a pool that always wants one more."""

    def __init__(self):
        self.now = 1000.0
        self.error = None
        self.left_alone = False
        self.dialled = 0
        self.warmer = Warmer(RELAY.name, self.open_one, lambda: not self.left_alone, lambda: self.now)

    def open_one(self):
        self.dialled += 1
        if self.error:
            raise self.error
        self.warmer.worked()
        return True

    def wait(self):
        """Seconds until it dials again."""
        before, dialled = self.now, self.dialled
        while self.dialled == dialled:
            self.now += 0.25
            self.warmer.open_if_due()
        return self.now - before


@pytest.fixture
def world():
    return World()


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "mailtasks.smtp.warmer")
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


def refused(stage):
    return ConnectFailed(RELAY, Outcome(stage, How.LOST, detail="no"))


def test_it_is_tried_again_after_longer_and_longer(world):
    world.error = refused(Stage.CONNECT)
    assert not world.warmer.open_if_due()
    assert [world.wait() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (FIRST_PAUSE, LONGEST_PAUSE) == (1, 60)


def test_a_login_that_fails_is_hardly_tried_again(world):
    world.error = refused(Stage.AUTH)
    world.warmer.open_if_due()
    waits = [world.wait() for _ in range(13)]
    assert waits[5:8] == [32, 64, 128]
    assert waits[-1] == LONGEST_AFTER_LOGIN == 3600


def test_a_failure_is_said_once_and_so_is_its_end(world, said):
    world.error = refused(Stage.CONNECT)
    world.warmer.open_if_due()
    world.wait()
    world.error = None
    world.wait()
    world.warmer.open_if_due()
    assert said() == [
        (
            "WARNING",
            "nothing can be kept warm at the moment, and it is tried again: "
            "no connection to the relay 127.0.0.1:2525: connect: no",
        ),
        ("INFO", "connections to the relay 127.0.0.1:2525 are kept warm again"),
    ]


def test_whatever_is_raised_is_survived(world, said):
    world.error = RelayError("a surprise")
    assert not world.warmer.open_if_due()
    world.error = None
    assert world.wait() == 1
    assert said()[0][1].endswith("a surprise")


def test_a_borrowers_connection_ends_the_pause(world):
    world.error = refused(Stage.AUTH)
    world.warmer.open_if_due()
    for _ in range(9):
        world.wait()
    world.error = None
    world.warmer.worked()
    assert world.warmer.open_if_due()


def test_nothing_is_dialled_while_the_relay_is_left_alone(world):
    world.left_alone = True
    assert not world.warmer.open_if_due()
    assert world.dialled == 0
    world.left_alone = False
    assert world.warmer.open_if_due()


def test_a_relay_that_closes_unused_ones_is_dialled_more_and_more_seldom(world, said):
    waits = []
    for _ in range(8):
        world.warmer.died()
        waits.append(world.wait())
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert said() == [
        (
            "WARNING",
            "the relay 127.0.0.1:2525 closes unused connections again and again, so that few are kept warm; "
            "set connection_idle to less than it allows",
        )
    ]


def test_one_that_lived_as_long_as_it_should_ends_that(world):
    for _ in range(5):
        world.warmer.died()
    world.warmer.lived()
    assert world.warmer.open_if_due()
    world.warmer.died()
    assert world.wait() == 1


def test_what_is_broken_off_at_the_end_is_not_said(world, said):
    world.error = refused(Stage.GREETING)
    world.warmer.stop()
    assert not world.warmer.open_if_due()
    assert (world.dialled, said()) == (1, [])
