"""A batch that kills whoever sends it: three workers die of it, and the fourth leaves it alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from mailtasks.local.faults import OK, Behaviour
from mailtasks.message import Message
from mailtasks.reply import Stage
from mailtasks.state import LAPSES_BEFORE_ASIDE, State
from mailtasks.testing import CatchingServer

from .conftest import Road, wait_until

POISON = 12  # mails, of one batch
WINDOW = 4  # of which so many are in doubt when a worker dies
HEALTHY = 10  # mails that are accepted before each worker is started
NEVER = 600.0  # seconds until the relay answers


class PoisonedRelay(CatchingServer):
    """Takes some mails and never says so: a worker that sends one holds its claim until it is killed."""

    def __init__(self) -> None:
        self._convention = {"poison": Behaviour(Stage.DOT, OK, accept=True, seconds=NEVER)}
        super().__init__(convention=self._convention)

    @property
    def poisonous(self) -> Counter[str]:
        """How often which of them was taken."""
        return Counter(to for caught in self.messages for to in caught.recipients if to.startswith("poison"))

    def mend(self) -> None:
        self._convention["poison"] = Behaviour(Stage.DOT, OK, accept=True)


@pytest.fixture
def poisoned(road: Callable[..., Road]) -> Iterator[tuple[Road, PoisonedRelay]]:
    """A batch of which three workers have died, and some mail that all of them have sent meanwhile."""
    with PoisonedRelay() as relay:
        way = road(relay, timeout_dot=NEVER)
        way.send(*mails(POISON, "poison"))
        for turn in range(1, LAPSES_BEFORE_ASIDE + 1):
            way.send_singly(mails(HEALTHY, f"ann-{turn}"))
            victim = way.start_worker()
            wait_until(lambda turn=turn: relay.poisonous.total() == turn, what="the poison's being taken")
            way.wait_for_sent(turn * HEALTHY)
            victim.kill()
        yield way, relay
        relay.mend()
        way.close()


def mails(number: int, name: str) -> list[Message]:
    return [Message(to=f"{name}-{n}@example.com", text="hello") for n in range(number)]


def test_what_kills_three_workers_is_set_aside(poisoned: tuple[Road, PoisonedRelay]) -> None:
    """The fourth sends the rest and leaves it alone, until an operator says that the cause is mended."""
    road, relay = poisoned
    taken = relay.poisonous
    [poison] = {id.partition(".")[0] for id in road.ids[:POISON]}
    road.send_singly(mails(HEALTHY, "bob"))
    healthy = HEALTHY * (LAPSES_BEFORE_ASIDE + 1)
    road.start_worker()
    road.wait_for_sent(healthy)
    wait_until(
        lambda: f"batch {poison} is set aside, until somebody retries" in road.said(LAPSES_BEFORE_ASIDE)
    )
    assert "3 claims of it lapsed one after the other" in road.said(LAPSES_BEFORE_ASIDE)
    assert relay.poisonous == taken
    assert road.count(State.SENT) == healthy

    first, *rest = road.command("failed").splitlines()[1:]
    assert first.split()[:2] == [f"{poison}.{WINDOW}", "set_aside"]
    assert len(rest) == WINDOW
    assert all("in_doubt" in line and poison in line for line in rest)
    assert road.mailer.queue()[1].waiting["aside"] == 1
    assert "aren't tried again by themselves: 1" in road.command("check")

    relay.mend()
    road.command("retry", f"{poison}.{WINDOW}")
    road.wait_for_sent(healthy + POISON - WINDOW)
    road.command("in-doubt", "resend", "--all", "--yes")
    books = road.wait_for_end()
    assert books.states == {State.SENT: healthy + POISON}
    assert books.duplicates == taken.total()
    assert not [*road.mailer.aside(), *road.mailer.failed()]
    assert road.workers[-1].running
