"""A mailer and a worker's delivery in a test's own process, without Celery."""

from __future__ import annotations

from typing import Any

from mailtasks.delivery import Delivery, Report
from mailtasks.keeper import Keeper
from mailtasks.limiter import Limiter
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.routing import open_route
from mailtasks.settings import Settings
from mailtasks.state import State


class Bench:
    """A mailer and a delivery that share a ledger."""

    def __init__(self, redis_url: str, relay_url: str, policy: RetryPolicy, **values: Any) -> None:
        quick = {"redis_timeout": 1, "redis_connect_timeout": 0.5, "default_from": "shop@example.com"}
        self.settings = Settings(broker_url=redis_url, relay=relay_url, **{**quick, **values})
        self.mailer = Mailer(self.settings)
        self.keeper = Keeper(self.mailer.ledger)
        self.delivery = Delivery(
            ledger=self.mailer.ledger,
            events=self.mailer.events,
            publisher=self.mailer.publisher,
            route=open_route(self.settings, threads=4),
            keeper=self.keeper,
            settings=self.settings,
            owner="w@here",
            retry_policy=policy,
            limiter=Limiter(),
        )

    def send(self, *to: str, **more: Any) -> str:
        return self.mailer.send(Message(to=list(to), **{"text": "hi", **more}))

    def deliver(self, id: str) -> Report:
        return self.delivery.deliver(id.partition(".")[0], self.mailer.status(id).priority)

    def state(self, id: str) -> State:
        return self.mailer.status(id).state

    def hints(self) -> int:
        return sum(row.hints for row in self.mailer.queue())

    def close(self) -> None:
        self.keeper.stop()
        self.delivery.route.pool.close()
        self.mailer.close()
