"""Commit and send, airtight: the relay is killed, there are two of it, Redis goes, and the books agree.

What the shop committed is what the ledger has accepted, each mail once, and what the relay has caught.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, func, select

from mailtasks.local.processes import Child
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.settings import Settings
from mailtasks.sql import Outbox
from mailtasks.state import State
from mailtasks.testing import CatchingServer, LocalRedis
from mailtasks.testing import wait_until as wait_until_within

wait_until = partial(wait_until_within, timeout=60)  # seconds; other tests may run beside these

pytestmark = pytest.mark.timeout(240)
TRANSACTIONS = 600  # for each life of a relay: more than it moves until it is killed


class Shop:
    """A database with an outbox, the transactions of a shop, and relay processes."""

    def __init__(self, folder: Path, database_url: str, redis: LocalRedis) -> None:
        self.folder = folder
        self.database_url = database_url
        self.engine: Engine = create_engine(database_url, connect_args=self._patience())
        if self.engine.dialect.name == "sqlite":  # thousands of transactions, and no power cut is tested
            event.listen(self.engine, "connect", lambda it, _: it.execute("PRAGMA synchronous = OFF"))
        self.redis = redis
        self.outbox = Outbox(settings=Settings(default_from="shop@example.com"))
        self.outbox.table.create(self.engine)
        self.mailer = Mailer(broker_url=redis.url, default_from="shop@example.com")
        self.committed: list[str] = []
        self.relays: list[Child] = []

    def _patience(self) -> dict[str, int]:
        return {"timeout": 60} if self.database_url.startswith("sqlite") else {}

    def fill(self, transactions: int, **options: str) -> None:
        """Write a mail in each transaction; every tenth is rolled back."""
        with self.engine.connect() as connection:
            for number in range(transactions):
                ids = self.outbox.send(connection, mail(number), **options)
                if number % 10 == 3:
                    connection.rollback()
                else:
                    connection.commit()
                    self.committed += ids

    def start_relay(self, *options: str) -> Child:
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
            "MAILTASKS_BROKER_URL": self.redis.url,
            "MAILTASKS_DATABASE_URL": self.database_url,
            "MAILTASKS_REDIS_TIMEOUT": "2",
        }
        command = [sys.executable, "-m", "mailtasks.cli", "outbox", "run", "--interval", "0.05", *options]
        self.relays.append(Child(command, environment=environment, output=self.folder / "relay.log"))
        return self.relays[-1]

    def waiting(self) -> int:
        with self.engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(self.outbox.table)).scalar_one()

    def accepted(self) -> int:
        return self.mailer.stats().accepted

    def agree(self) -> None:
        """All that was committed is in the ledger, once, and nothing else."""
        batches = [id.partition(".")[0] for id in self.committed]
        assert {it.id for it in self.mailer.books.batches(batches)} == set(batches)
        assert self.accepted() == len(self.committed) == len(set(self.committed))

    def close(self) -> None:
        for relay in self.relays:
            relay.stop()
        self.engine.dispose()
        self.mailer.close()


def mail(number: int) -> Message:
    return Message(to=f"r{number}@example.com", subject=f"Order {number}", text="Thank you")


@pytest.fixture
def shop(tmp_path: Path, database_url: str, own_redis: LocalRedis) -> Iterator[Shop]:
    shop = Shop(tmp_path, database_url, own_redis)
    yield shop
    shop.close()


@pytest.mark.parametrize("kills", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_kill_9_of_the_relay_again_and_again(shop: Shop, kills: int) -> None:
    shop.fill(TRANSACTIONS * (kills + 1))
    for kill in range(kills):
        relay = shop.start_relay()
        before = shop.accepted()
        wait_until(lambda before=before: shop.accepted() > before)
        time.sleep(0.007 * kill)  # so that it dies at another step each time
        relay.kill()
        assert shop.waiting(), "it was not killed in the middle"
    shop.start_relay()
    wait_until(lambda: not shop.waiting())
    shop.agree()


def test_two_relays_at_once_while_the_shop_goes_on(shop: Shop) -> None:
    shop.fill(300)
    with ThreadPoolExecutor() as pool:
        relays = [shop.start_relay(), shop.start_relay()]
        for _ in range(3):
            pool.submit(shop.fill, 300).result()
        wait_until(lambda: not shop.waiting())
    shop.agree()
    for relay in relays:
        relay.terminate()
    assert [relay.wait(15) for relay in relays] == [0, 0]


def test_redis_is_killed_and_comes_back(shop: Shop) -> None:
    relay = shop.start_relay()
    shop.fill(200)
    wait_until(lambda: not shop.waiting())
    shop.redis.kill()
    shop.fill(200)
    wait_until(lambda: "has to wait: Redis at" in (shop.folder / "relay.log").read_text())
    assert shop.waiting()
    shop.redis.start()
    wait_until(lambda: not shop.waiting())
    assert relay.running
    shop.agree()


def test_a_kept_row_outlives_a_redis_that_forgets_everything(shop: Shop) -> None:
    shop.start_relay()
    shop.fill(20, keep="until_final")
    wait_until(lambda: shop.accepted() == len(shop.committed))
    with shop.redis.client() as client:
        client.flushall()
    wait_until(lambda: shop.accepted() == len(shop.committed))
    shop.agree()
    assert shop.waiting() == len(shop.committed)
    wait_until(lambda: "it is accepted again" in (shop.folder / "relay.log").read_text())


def test_the_whole_road(road: Callable, sink: CatchingServer, database_url: str, tmp_path: Path) -> None:
    """From the shop's transaction to the relay's journal; a kept row goes when its mail is sent."""
    made = road()
    shop = Shop(tmp_path, database_url, made.redis)
    try:
        made.start_worker()
        relay = shop.start_relay()
        shop.fill(40, keep="until_final")
        made.ids += shop.committed
        wait_until(lambda: shop.accepted() == len(shop.committed))
        books = made.wait_for_end()
        books.agree()
        assert books.states[State.SENT] == 36
        wait_until(lambda: not shop.waiting())
        relay.signal(signal.SIGTERM)
        assert relay.wait(15) == 0
    finally:
        shop.close()
