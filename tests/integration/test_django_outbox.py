"""Django's outbox, airtight: Redis is away while mail is written, the relay is killed, and the books agree.

What the shop committed is what the ledger has accepted, each mail once, and what the relay has caught.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from mailtasks.local.processes import Child
from mailtasks.state import State
from mailtasks.testing import wait_until as wait_until_within
from tests import djangos
from tests.integration.conftest import Road

wait_until = partial(wait_until_within, timeout=60)  # seconds; other tests may run beside these

pytestmark = pytest.mark.timeout(240)
TRANSACTIONS = 300  # for each life of a relay: more than it moves until it is killed

SETTINGS = """
SECRET_KEY = "of no use"
INSTALLED_APPS = ["mailtasks.contrib.django"]
USE_TZ = True
DATABASES = {{"default": {database!r}}}
EMAIL_BACKEND = "mailtasks.contrib.django.backend.EmailBackend"
DEFAULT_FROM_EMAIL = "shop@example.com"
MAILTASKS = {{"OUTBOX": True, "BROKER_URL": {redis!r}, "REDIS_TIMEOUT": 2, "REDIS_CONNECT_TIMEOUT": 1}}
"""

# A mail in each transaction, of which every tenth is rolled back; prints the ids of the others.
SHOP = """
import sys

import django
from django.core.mail import EmailMessage
from django.db import transaction

django.setup()
for number in range(int(sys.argv[1])):
    mail = EmailMessage(f"Order {number}", "Thank you", to=[f"r{number}@example.com"])
    with transaction.atomic():
        assert mail.send() == 1
        transaction.set_rollback(number % 10 == 3)
    if number % 10 != 3:
        print(*mail.mailtasks_ids)
"""


class Shop:
    """A project of Django's with an outbox, its transactions, and relay processes."""

    def __init__(self, folder: Path, database_url: str, made: Road) -> None:
        self.folder = folder
        self.made = made
        self.committed: list[str] = []
        self.relays: list[Child] = []
        self._engine = create_engine(database_url)
        database = djangos.database(database_url)
        if database_url.startswith("sqlite"):  # hundreds of transactions, and no power cut is tested
            database["OPTIONS"] = {"init_command": "PRAGMA synchronous = OFF", "timeout": 60}
        (folder / "here.py").write_text(SETTINGS.format(database=database, redis=made.redis.url))
        (folder / "shop.py").write_text(SHOP)
        path = ":".join([str(folder), *sys.path])
        self.environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "here"}
        self._ran("-m", "django", "migrate", "--verbosity=0")

    def _ran(self, *words: str) -> str:
        command = [sys.executable, *words]
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def fill(self, transactions: int) -> None:
        self.committed += self._ran(str(self.folder / "shop.py"), str(transactions)).split()

    def start_relay(self) -> Child:
        command = [sys.executable, "-m", "django", "mailtasks", "outbox", "run", "--interval", "0.05"]
        self.relays.append(Child(command, environment=self.environment, output=self.folder / "relay.log"))
        return self.relays[-1]

    def waiting(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM mailtasks_outbox")).scalar_one())

    def accepted(self) -> int:
        return self.made.mailer.stats().accepted

    def said(self) -> str:
        return (self.folder / "relay.log").read_text()

    def agree(self) -> None:
        """All that was committed is in the ledger, once, and nothing else."""
        batches = [id.partition(".")[0] for id in self.committed]
        assert {it.id for it in self.made.mailer.books.batches(batches)} == set(batches)
        assert self.accepted() == len(self.committed) == len(set(self.committed))

    def close(self) -> None:
        for relay in self.relays:
            relay.stop()
        self._engine.dispose()


@pytest.fixture
def shop(tmp_path: Path, database_url: str, road: Callable[..., Road]) -> Iterator[Shop]:
    shop = Shop(tmp_path, database_url, road())
    yield shop
    shop.close()


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_redis_away_in_the_request_and_a_relay_killed_in_the_middle(shop: Shop) -> None:
    shop.made.redis.kill()
    shop.fill(TRANSACTIONS * 3)
    assert shop.waiting() == len(shop.committed) == TRANSACTIONS * 3 * 9 // 10
    shop.start_relay()
    wait_until(lambda: "the outbox mailtasks_outbox has to wait: Redis at" in shop.said())
    shop.made.redis.start()
    for kill in range(2):
        before = shop.accepted()
        wait_until(lambda before=before: shop.accepted() > before)
        time.sleep(0.007 * kill)  # so that it dies at another step each time
        shop.relays[-1].kill()
        assert shop.waiting(), "it was not killed in the middle"
        shop.start_relay()
    wait_until(lambda: not shop.waiting())
    shop.agree()
    shop.made.start_worker()
    shop.made.ids += shop.committed
    books = shop.made.wait_for_end()
    books.agree()
    assert books.states[State.SENT] == len(shop.committed)


def test_two_relays_at_once_while_the_shop_goes_on(shop: Shop) -> None:
    relays = [shop.start_relay(), shop.start_relay()]
    for _ in range(2):
        shop.fill(200)
    wait_until(lambda: not shop.waiting())
    shop.agree()
    for relay in relays:
        relay.signal(signal.SIGTERM)
    assert [relay.wait(15) for relay in relays] == [0, 0]
