"""The pytest plugin: `pytest_plugins = ["mailtasks.testing.plugin"]` in the conftest.py of the root folder.

Or `-p mailtasks.testing.plugin`. With it, no test's mail leaves this process: settings lead to a Redis and a
relay of the session's own (one of each for each process of pytest-xdist), which start when they are needed.

A test that asks for one of these fixtures sends by mailtasks, also if Django's test runner or Flask's TESTING
would only have kept the mail. To see

- what would have gone out: `mailtasks_outbox`, a list. No Redis, no worker, no relay.
- what arrives: `mailtasks_worker` sends it from threads of this process, `mailtasks_smtp` catches it.

It is no entry point, so whoever installs mailtasks has a session without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NoReturn
from unittest.mock import patch

import pytest

from mailtasks.errors import MailtasksError
from mailtasks.local.redis import LocalRedis
from mailtasks.local.sink import CatchingServer
from mailtasks.testing.outbox import other_parts
from mailtasks.testing.surroundings import Surroundings, environment, frameworks_send

if TYPE_CHECKING:
    from celery import Celery

    from mailtasks.testing.outbox import OutgoingMail
    from mailtasks.testing.worker import Worker

_SURROUNDINGS: Final = pytest.StashKey[Surroundings]()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """With -p, before any conftest.py is imported."""
    _surround(early_config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Otherwise before any test is."""
    _surround(config)


def _surround(config: pytest.Config) -> None:
    if _SURROUNDINGS in config.stash:
        return
    session = ExitStack()
    config.add_cleanup(session.close)
    surroundings = config.stash[_SURROUNDINGS] = session.enter_context(Surroundings())
    session.enter_context(environment(surroundings.variables))
    session.enter_context(other_parts({"room": _unasked}))


def _unasked(*_: object) -> NoReturn:
    """Before it accepts anything, a mailer asks for room."""
    raise MailtasksError(
        "this test sends mail, and has no fixture for it; let it ask for mailtasks_outbox, to see what would "
        "go out, or for mailtasks_worker, to have it sent"
    )


@pytest.fixture
def mailtasks_outbox(request: pytest.FixtureRequest) -> Iterator[list[OutgoingMail]]:
    """The mails that this test has sent, as they would go out; a plain list, that may be cleared.

    Each has its `id`, `sender` and `recipients` of the envelope, `content` (bytes), `message` (parsed),
    `text`, `html`, `priority`, `tags`, `metadata`, `send_at` and `expires_after`. What isn't real is told at
    the top of `mailtasks.testing.outbox`. With `mailtasks_redis` or `mailtasks_worker` in the same test all
    is: the list then has what the ledger has accepted.
    """
    from mailtasks.celery import forget_settings
    from mailtasks.testing.outbox import recorded

    if "mailtasks_redis" in request.fixturenames:
        request.getfixturevalue("mailtasks_redis")
        with recorded(stand_in=False) as mails:
            yield mails
        return
    try:
        with patch("mailtasks.installation.broker_of", return_value=None), frameworks_send():
            forget_settings()  # an app's broker may be one that mail couldn't have, and isn't asked
            with recorded() as mails:
                yield mails
    finally:
        forget_settings()


@pytest.fixture
def mailtasks_smtp(pytestconfig: pytest.Config) -> Iterator[CatchingServer]:
    """The relay, a catching server; nothing is caught yet, and nothing ordered.

    `wait_for(1)` and `messages` are what it has caught, `order("full", "bob@example.com")` and `faults` what
    it does wrong until this test ends, `stop()` and `start()` a relay that is away.
    """
    relay = pytestconfig.stash[_SURROUNDINGS].relay
    relay.reset()
    yield relay
    relay.reset()


@pytest.fixture
def mailtasks_redis(pytestconfig: pytest.Config) -> Iterator[LocalRedis]:
    """The session's Redis, empty. Mailers and Celery apps use it while this test runs."""
    with pytestconfig.stash[_SURROUNDINGS].with_redis() as redis, frameworks_send():
        yield redis


@pytest.fixture
def mailtasks_app(mailtasks_redis: LocalRedis) -> Celery:
    """The Celery app of `mailtasks_worker`; define your own, if it isn't the one that was installed last."""
    from mailtasks.celery import current_app

    return current_app()


@pytest.fixture
def mailtasks_worker(
    pytestconfig: pytest.Config,
    mailtasks_redis: LocalRedis,
    mailtasks_smtp: CatchingServer,
    mailtasks_app: Celery,
) -> Iterator[Worker]:
    """A worker in this process, which sends to `mailtasks_smtp`; `wait_for(id)` is what became of a mail."""
    with pytestconfig.stash[_SURROUNDINGS].worker(mailtasks_app) as worker:
        yield worker
