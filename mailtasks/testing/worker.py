"""`running_worker`: a Celery worker in a thread of this process. Behind the fixture `mailtasks_worker`.

It is a real one, with its pump, its threads and its connections; only the process' logging and its handlers
of signals are left as they are. It ends as by SIGTERM: what it has in hand is finished, and no thread stays.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from celery import Celery
from celery import _state as celery_state
from celery.signals import worker_ready
from celery.worker import WorkController, state

from mailtasks.celery import current_app
from mailtasks.installation import installation_of
from mailtasks.state import State
from mailtasks.status import MessageStatus
from mailtasks.tasks import demand_settings
from mailtasks.testing.servers import wait_until

THREADS: Final = 2
START_TIMEOUT: Final = 30.0  # seconds
STOP_TIMEOUT: Final = 60.0  # seconds; a relay that says nothing is waited for
POLL: Final = 0.05  # seconds between two looks whether it is to end, where Celery and kombu take a second

_ON_ITS_WAY: Final = (State.QUEUED, State.SENDING)


class Worker:
    """What a test has of its worker."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        """The Celery app."""

    def wait_for(self, id: str, timeout: float = 10.0) -> MessageStatus:
        """What became of a message, once each recipient was tried: sent, refused, deferred, …

        What is planned for later, or paused, is waited for as well. To have something deferred tried again at
        once, call `mailtasks.retry(id)`.

        Raises:
            UnknownMessage: there is none with this id.
            TimeoutError: it wasn't tried within `timeout` seconds.
        """
        mailer = installation_of(self.app).mailer

        def tried() -> MessageStatus | None:
            status = mailer.status(id)
            return None if any(one.state in _ON_ITS_WAY for one in status.recipients) else status

        found = wait_until(tried, timeout, f"an end of message {id}")
        assert found is not None
        return found


@contextmanager
def running_worker(app: Celery | None = None, *, threads: int = THREADS) -> Iterator[Worker]:
    """Run a worker as long as the block; one at a time.

    Args:
        app: by default the one that was given to `mailtasks.celery.install` last, else mailtasks' own.

    Raises:
        SettingsError: the app isn't installed, or a setting is wrong.
        RuntimeError: it ended before it took tasks; its log says why.
        TimeoutError: it didn't start, or didn't end, in time.
    """
    app = app or current_app()
    app.finalize()
    demand_settings(app)
    controller = _Controller(
        app=app, pool_cls="threads", concurrency=threads, without_mingle=True, without_gossip=True
    )
    thread = threading.Thread(target=controller.start, name="mailtasks-test-worker", daemon=True)
    with _as_default(app):
        thread.start()
        try:
            _await_start(controller.ready, thread)
            yield Worker(app)
        finally:
            _end(thread)


@contextmanager
def _as_default(app: Celery) -> Iterator[None]:
    """A worker's threads look for their tasks in Celery's default app."""
    before = celery_state.default_app
    celery_state.set_default_app(app)
    try:
        yield
    finally:
        celery_state.set_default_app(before)


def _await_start(ready: threading.Event, thread: threading.Thread) -> None:
    try:
        wait_until(lambda: ready.is_set() or not thread.is_alive(), START_TIMEOUT, "the worker's start")
    finally:
        celery_state._set_task_join_will_block(False)  # its pool forbids `.get()`, to the test's thread, too
    if not ready.is_set():
        raise RuntimeError("the worker ended before it took tasks; its log says why")


def _end(thread: threading.Thread) -> None:
    """As SIGTERM would. Celery keeps its being told so for all workers of a process."""
    state.should_stop = 0
    thread.join(STOP_TIMEOUT)
    state.should_stop = None
    if thread.is_alive():
        raise TimeoutError(
            f"the worker didn't end within {STOP_TIMEOUT:g} s: does a task of this test, or its relay, hang?"
        )


class _Controller(WorkController):  # type: ignore[misc]  # Celery ships no types
    """Celery's worker without what belongs to a process: it says when it takes tasks, and ends soon."""

    def __init__(self, **options: Any) -> None:
        self.ready = threading.Event()
        super().__init__(**options)

    def on_consumer_ready(self, consumer: Any) -> None:
        """It takes tasks now (Celery calls this)."""
        consumer.timer.call_repeatedly(POLL, lambda: None)  # so that its loop looks up
        consumer.task_consumer.channel.brpop_timeout = POLL  # which is waited out at the end
        worker_ready.send(sender=consumer)
        self.ready.set()
