"""The pytest plugin as a type checker sees it. `mypy --strict` reads this file; nobody runs it."""

from __future__ import annotations

from email.message import EmailMessage
from typing import assert_type

import pytest
from celery import Celery

from mailtasks import MessageStatus, Priority
from mailtasks.contrib.django.testing import delivered_for_real
from mailtasks.testing import (
    Behaviour,
    CatchingServer,
    Caught,
    Faults,
    LocalRedis,
    OutgoingMail,
    Stage,
    Worker,
    recorded,
    running_worker,
)

pytest_plugins = ["mailtasks.testing.plugin"]


def test_what_goes_out(mailtasks_outbox: list[OutgoingMail]) -> None:
    [mail] = mailtasks_outbox
    assert_type(mail.message, EmailMessage)
    assert_type(mail.recipients, tuple[str, ...])
    assert_type(mail.priority, Priority)
    assert_type(mail.text, str)
    mail.sender = "eve@example.com"  # type: ignore[misc]  # frozen


def test_what_arrives(
    mailtasks_worker: Worker, mailtasks_smtp: CatchingServer, mailtasks_redis: LocalRedis
) -> None:
    assert_type(mailtasks_worker.wait_for("001", timeout=5), MessageStatus)
    assert_type(mailtasks_smtp.wait_for(1), list[Caught])
    assert_type(mailtasks_smtp.messages[0].message, EmailMessage)
    mailtasks_smtp.order("full", "bob@example.com")
    mailtasks_smtp.order(Behaviour(Stage.DOT, "452 4.2.2 not before Monday"))
    mailtasks_smtp.order(452)  # type: ignore[arg-type]
    mailtasks_smtp.faults = Faults(defer=0.5)
    assert_type(mailtasks_redis.url, str)


@pytest.fixture
def mailtasks_app() -> Celery:
    return Celery("shop")


# The same without pytest.
with recorded() as mails, running_worker(Celery("shop"), threads=4) as worker:
    assert_type(mails, list[OutgoingMail])
    assert_type(worker, Worker)
with delivered_for_real() as relay:
    assert_type(relay, CatchingServer)
