"""Deliver in a test for real: for `mailtasks.testing`, and for `unittest` without pytest.

    with delivered_for_real() as relay:
        self.client.post("/signup", {"email": "ann@example.com"})
        [mail] = relay.wait_for(1)
    self.assertEqual(mail.message["Subject"], "Your code")

The rules:

1. What Django's test runner has put in the place of our backend is put back, and nothing else is: of MAILERS
   those entries that are ours.
2. A `TestCase` runs in a transaction that never commits. What waits for a commit runs when the code that is
   tested leaves its own outermost `atomic()`, if that isn't rolled back; outside of any, at once.
3. No relay runs in a test, so what would go into the outbox is handed over on commit instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic
from django.test.utils import _TestState, override_settings

from mailtasks.celery import current_app, forget_settings
from mailtasks.contrib.django.backend import EmailBackend
from mailtasks.contrib.django.checks import is_ours
from mailtasks.contrib.django.handover import hand_over
from mailtasks.default import default_mailer
from mailtasks.local.sink import CatchingServer
from mailtasks.message import Message
from mailtasks.testing.surroundings import Surroundings, environment

log = logging.getLogger(__name__)


@contextmanager
def delivered_for_real() -> Iterator[CatchingServer]:
    """Within the block, what Django sends is sent by a worker in a thread, to a server that catches it.

    Redis, worker and server are this block's own. What the server has caught is in its `messages`; `order`
    tells it what to do wrong.

    Raises:
        SettingsError: a setting is wrong, or there is no Redis server to start.
    """
    try:
        with (
            Surroundings() as surroundings,
            environment(surroundings.variables),
            surroundings.with_redis(),
            sending(),
        ):
            relay = surroundings.relay
            with surroundings.worker(current_app()):
                yield relay
    finally:
        forget_settings()


@contextmanager
def sending() -> Iterator[None]:
    """Within the block, mail goes through mailtasks if Django's settings say so outside of tests."""
    if not settings.configured:
        yield
        return
    without_outbox = patch.object(EmailBackend, "_accepted", _handed_over)
    with override_settings(**_replaced()), without_outbox, _on_commit(), _on_exit():
        yield


def _replaced() -> Mapping[str, Any]:
    """The settings of ours that the test runner has changed."""
    saved = getattr(_TestState, "saved_data", None)
    if mailers := getattr(saved, "mailers", None):  # since Django 6.1, if the project has any
        ours = {alias: entry for alias, entry in mailers.items() if is_ours(entry.get("BACKEND", ""))}
        return {"MAILERS": {**settings.MAILERS, **ours}}
    backend = getattr(saved, "email_backend", None)
    return {"EMAIL_BACKEND": backend} if backend and is_ours(backend) else {}


def _handed_over(backend: EmailBackend, mails: Sequence[Message]) -> list[str]:
    awaited = backend._awaited if backend.keep is None else backend.database
    return hand_over(default_mailer(), mails, awaited)


def _on_commit() -> AbstractContextManager[Any]:
    register = BaseDatabaseWrapper.on_commit

    def on_commit(connection: Any, func: Any, robust: bool = False) -> None:
        register(connection, func, robust)
        _run_what_is_committed(connection)

    return patch.object(BaseDatabaseWrapper, "on_commit", on_commit)


def _on_exit() -> AbstractContextManager[Any]:
    leave = Atomic.__exit__

    def leave_and_commit(block: Any, *error: Any) -> None:
        leave(block, *error)
        _run_what_is_committed(connections[block.using or "default"])

    return patch.object(Atomic, "__exit__", leave_and_commit)


def _run_what_is_committed(connection: Any) -> None:
    """Run what waits for a commit, if only blocks of the test case are open; see rule 2."""
    blocks = connection.atomic_blocks
    if not blocks or connection.needs_rollback or not all(block._from_testcase for block in blocks):
        return
    waiting, connection.run_on_commit = connection.run_on_commit, []
    for _, func, robust in waiting:
        try:
            func()
        except Exception:
            if not robust:
                raise
            log.exception("a robust callback of on_commit failed")
