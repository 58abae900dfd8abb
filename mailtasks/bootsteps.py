"""What a worker runs beside its tasks: pump, collector, the beginning and end of what its threads share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from celery import Celery, bootsteps
from celery.signals import worker_ready, worker_shutdown

from mailtasks.errors import SettingsError, StoreError, StoreUnavailable
from mailtasks.event import Attempt, tell, telling_afterwards
from mailtasks.feeder import Feeder
from mailtasks.guard import refuse
from mailtasks.installation import Installation, installation_of, is_installed
from mailtasks.message import PRIORITIES, Priority
from mailtasks.publish import queue_name
from mailtasks.stopgap import Stopgap
from mailtasks.store.ledger import LOOK_AT_MOST, Hint
from mailtasks.tasks import deliver, demand_settings, rate_of

log = logging.getLogger(__name__)

BUSY: Final = 100
"""Hints in a queue, above which one may merely be waiting there and isn't published again."""

PATIENCE: Final = 0.01
"""Seconds for each hint in such a queue until a batch is looked at again: so that looking at batches which
only wait takes half of what a pump can do in a second (`LOOK_AT_MOST`), however many they are."""

OPENED_AT_MOST: Final = 1000
"""Batches that one look lets through a gate where no rate holds any more."""

GATE_INTERVAL: Final = 0.25  # seconds between looks at the rate's gate, so that a second's tokens come evenly
_STOP_TIMEOUT: Final = 20.0  # seconds; a thread that waits for a Redis or a store that hangs is left behind


def install(app: Celery) -> None:
    """Add the pump to the workers of `app`."""
    app.steps["worker"].add(Pump)


class Pump(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Hints what is due: retries, sends planned for now, lost hints, claims of dead workers. Sweeps, too.

    Attachments are collected in a thread beside it, so that a store that hangs holds up no mail.
    """

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012  (Celery's own way to say it)

    def __init__(self, parent: Any, **options: Any) -> None:
        try:
            demand_settings(parent.app)
        except SettingsError as error:
            refuse(str(error))
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stopgap: Stopgap | None = None
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        """Tell the installation who and how many we are, and start the two threads."""
        installation, threads = installation_of(parent.app), max(1, int(parent.concurrency or 1))
        installation.begin(owner=parent.hostname, threads=threads)
        in_pool = partial(parent.pool.apply_async, callback=_ignore)
        self._stopgap = Stopgap(
            in_pool,
            partial(deliver, parent.app),
            threads,
            partial(taken, parent.app),
        )
        installation.publisher.on_refused = self._stopgap.take
        pump = _Pumping(installation, self._stopped, self._stopgap, partial(_is_connected, parent), in_pool)
        collector = _Collecting(installation, self._stopped)
        self._threads = [
            threading.Thread(target=pump.run, name="mailtasks-pump", daemon=True),
            threading.Thread(target=collector.run, name="mailtasks-collector", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, parent: Any) -> None:
        """The worker is shutting down, its threads are still at work: begin no more dots, look no more."""
        installation_of(parent.app).begin_stopping()
        self._stopped.set()
        if self._stopgap:
            self._stopgap.stop()
        deadline = time.monotonic() + _STOP_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    terminate = stop


def taken(app: Celery) -> list[Priority]:
    """The priorities whose queues this worker takes from, the most urgent first."""
    queues, namespace = app.amqp.queues.consume_from, installation_of(app).settings.namespace
    return [priority for priority in PRIORITIES if queue_name(priority, namespace) in queues]


def _ignore(result: Any) -> None:
    """The pool wants somebody to tell."""


def _is_connected(worker: Any) -> bool:
    """Whether it takes tasks from the broker, as far as is known."""
    return bool(getattr(getattr(worker, "consumer", None), "connected", True))


@worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery ships no types
def _warm(sender: Any, **_: Any) -> None:
    """It takes tasks now. An urgent mail may come to any worker that takes from its queue."""
    if is_installed(sender.app) and Priority.URGENT in taken(sender.app):
        installation_of(sender.app).keep_warm()


@worker_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery ships no types
def _close(sender: Any, **_: Any) -> None:
    """The last thread has ended: QUIT to the relay, and no more renewing."""
    if is_installed(sender.app):
        installation_of(sender.app).close()


class _Pumping:
    """The pump's loop."""

    def __init__(
        self,
        installation: Installation,
        stopped: threading.Event,
        stopgap: Stopgap,
        connected: Callable[[], bool] = lambda: True,
        in_pool: Callable[[Callable[[], object]], object] = lambda run: run(),
    ) -> None:
        self._app = installation.app
        self._publisher = installation.publisher
        self._ledger = installation.mailer.ledger
        self._campaigns = installation.mailer.campaigns
        self._feeder = Feeder(self._campaigns, self._publisher, installation.limiter, installation.threads)
        self._limiter = installation.limiter
        self._interval = installation.settings.pump_interval
        self._stopped = stopped
        self._stopgap = stopgap
        self._connected = connected
        self._in_pool = in_pool
        self._away = False

    def run(self) -> None:
        while not self._stopped.wait(self._pause()):
            try:
                with telling_afterwards(self._tell):
                    self._away = not self._tick()
            except StoreUnavailable as error:
                self._say_away(error)

    def _tell(self, news: Sequence[Attempt]) -> None:
        """In a thread that sends: a listener that hangs must not stop recovery."""
        with suppress(RuntimeError):  # the pool is closed: the process ends
            self._in_pool(partial(tell, news))

    def _tick(self) -> bool:
        """Whether all went well. What one act stumbles over, a rate or a record, stops no other."""
        well = True
        for act in (
            self._open_rate_gates,
            self._look,
            self._campaigns.tend,
            self._feed,
            self._ledger.sweep_on,
        ):
            try:
                act()
            except StoreUnavailable:
                raise
            except StoreError as error:
                well = False
                self._say_away(error)
            except Exception:  # a thread that dies takes recovery with it; whatever it is, it is logged
                log.exception("the pump stumbled, and goes on")
        return well

    def _pause(self) -> float:
        limited = self._limiter.available() is not None
        return min(self._interval, GATE_INTERVAL) if limited else self._interval

    def _look(self) -> None:
        """Look at what is due, and hint it. While that can't be, no more than this worker itself can send."""
        while not self._stopped.is_set():
            room = self._room()
            due = self._ledger.due()
            busy, hinted = self._long_lines() if due and room is None else ({}, {})
            hints = self._ledger.look(due, busy, hinted, room=room)
            for first in (True, False):
                self._hint((hint for hint in hints if hint.first is first), first)
            if len(due) < LOOK_AT_MOST or busy or room is not None:
                return

    def _room(self) -> dict[Priority, int] | None:
        """How many hints this worker can do with by itself; None: they can be published, it seems."""
        if self._connected() and not self._publisher.refused:
            self._stopgap.rest()
            return None
        mine = taken(self._app)
        share = self._stopgap.room() // max(1, len(mine))
        return {priority: share if priority in mine else 0 for priority in PRIORITIES}

    def _long_lines(self) -> tuple[dict[Priority, float], dict[Priority, float]]:
        """Of each queue that is long: for how long its hints may wait, and when the next was published."""
        try:
            lines = self._publisher.lines()
        except StoreUnavailable:
            return {}, {}  # the broker's trouble must not keep the ledger from being looked at
        long = {priority: line for priority, line in lines.items() if line.hints > BUSY}
        hinted = {priority: line.next_hinted for priority, line in long.items() if line.next_hinted}
        return {priority: line.hints * PATIENCE for priority, line in long.items()}, hinted

    def _hint(self, hints: Iterable[Hint], first: bool) -> None:
        if wanted := [(hint.batch, hint.priority) for hint in hints]:
            self._publisher.hint(wanted, first=first)

    def _open_rate_gates(self) -> None:
        """As many batches of our queues as there are messages allowed now, the most urgent first.

        The rate is read here, too: what waits behind the gate has no task that could. Until the next look
        the messages allowed are kept from lower priorities than the first that waits.
        """
        self._limiter.set_rate(rate_of(self._app))
        allowed = self._limiter.available()
        waiting = [priority for priority in taken(self._app) if self._ledger.waiting("rate", priority)]
        self._limiter.keep_for(waiting[0] if waiting else None)
        for priority in waiting:
            room = OPENED_AT_MOST if allowed is None else allowed
            if room:
                opened = self._ledger.open("rate", priority, room)
                allowed = None if allowed is None else allowed - opened

    def _feed(self) -> None:
        """The next batches of campaigns. While that can't be, no more than this worker itself can send."""
        room = self._room()
        for priority in taken(self._app):
            self._feeder.feed(priority, None if room is None else room[priority])

    def _say_away(self, error: Exception) -> None:
        if not self._away:
            log.warning("the pump can't look: %s", error)
        self._away = True


class _Collecting:
    """The collector's loop: deletes the attachments that nothing needs any more."""

    def __init__(self, installation: Installation, stopped: threading.Event) -> None:
        self._blobs = installation.mailer.blobs
        self._interval = installation.settings.pump_interval
        self._stopped = stopped

    def run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self._blobs.collect(self._stopped.is_set)
            except StoreUnavailable:
                pass  # the pump says so
            except Exception:  # a thread that dies would leave everything lying; whatever it is, it is logged
                log.exception("the collector of attachments stumbled, and goes on")
