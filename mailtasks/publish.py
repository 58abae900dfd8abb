"""Hints: Celery tasks that carry a batch's id, so that a worker looks at it soon.

A hint may be lost or come twice; the ledger is the truth. So publishing never fails a caller: what
could not be hinted is found by the pump after `hint_margin`, or kept by the worker itself
(`mailtasks.stopgap`).

What a producer and a worker must agree upon (queues, routes, transport options) is `configuration`.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, Final, NamedTuple

from celery import Celery
from kombu import Exchange, Queue
from redis.backoff import NoBackoff
from redis.retry import Retry

from mailtasks.errors import StoreUnavailable
from mailtasks.message import PRIORITIES, Priority
from mailtasks.relay import mask_url
from mailtasks.sentinels import are_named, parse_sentinels, with_celerys_options
from mailtasks.settings import Settings

log = logging.getLogger(__name__)

DELIVER: Final = "mailtasks.deliver"
"""The task that a hint is."""

SEND_MAIL: Final = "mailtasks.send_mail"
"""The task that users call."""

HINTED: Final = "mailtasks_hinted"
"""A hint's header: when it was published, in milliseconds by the publisher's clock."""

FIRST: Final = "mailtasks_first"
"""A hint's header: it goes to the head of its queue (`mailtasks.transport` sees to that)."""

CELERYS_BROKER: Final = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
"""Environment variables that to Celery are stronger than what an app is configured with. They are meant for a
user's own app: where mail goes by ours, its broker is that of our settings, and another is refused."""

_HINTS_AT_ONCE: Final = 500  # published in one round trip
_POOL_TIMEOUT: Final = 5.0  # seconds to wait for a producer that other threads have
_QUIET: Final = 2.0  # times as long as a failure took: nothing is published then, since it would fail, too


def queue_name(priority: Priority, namespace: str = "mailtasks") -> str:
    """A priority's queue. The names sort in the order of urgency, for `queue_order_strategy="sorted"`."""
    return f"{namespace}-{PRIORITIES.index(priority) + 1}-{priority}"


URGENT_QUEUE: Final = queue_name(Priority.URGENT)
NORMAL_QUEUE: Final = queue_name(Priority.NORMAL)
BULK_QUEUE: Final = queue_name(Priority.BULK)


def priority_of(queue: str | None, namespace: str = "mailtasks") -> Priority:
    """The priority whose queue it is; normal, if it is none of ours."""
    by_name = {queue_name(priority, namespace): priority for priority in PRIORITIES}
    return by_name.get(queue or "", Priority.NORMAL)


def queues(namespace: str = "mailtasks") -> list[Queue]:
    """The three queues."""
    exchange = Exchange(namespace, type="direct")
    names = [queue_name(priority, namespace) for priority in PRIORITIES]
    return [Queue(name, exchange, routing_key=name) for name in names]


def routes(namespace: str = "mailtasks") -> dict[str, Any]:
    """Where mail goes that comes by name, with its body in the task; hints know their queue."""
    return {SEND_MAIL: {"queue": queue_name(Priority.NORMAL, namespace)}}


def configuration(settings: Settings) -> dict[str, Any]:
    """The Celery settings that hints need, in a producer and in a worker (see `celeryconfig.py`)."""
    broker, options = celerys_notation(settings.broker_url, transport_options(settings))
    return {
        "broker_url": broker,
        "broker_transport_options": options,
        "broker_use_ssl": _tls(settings.broker_url),
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "broker_connection_timeout": settings.redis_connect_timeout,
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_ignore_result": True,
        "task_send_sent_event": False,
        "task_create_missing_queues": False,  # a typo must not make a queue that nobody reads
        "task_routes": routes(settings.namespace),
        "task_queues": queues(settings.namespace),
        "task_default_queue": queue_name(Priority.NORMAL, settings.namespace),
        "task_default_exchange": settings.namespace,
        "task_default_routing_key": queue_name(Priority.NORMAL, settings.namespace),
    }


def _tls(broker_url: str) -> dict[str, Any] | None:
    """Verify certificates unless the URL says otherwise; kombu's own default for rediss:// is not to."""
    says_so = "ssl_cert_reqs=" in broker_url
    return (
        {"ssl_cert_reqs": ssl.CERT_REQUIRED} if broker_url.startswith("rediss://") and not says_so else None
    )


def transport_options(settings: Settings) -> dict[str, Any]:
    """How kombu talks to Redis."""
    return {
        # Hints leave no copy to be restored (the pump finds what was lost). What does is mail that came by
        # name, on its way into the ledger: that takes moments, and twice changes nothing.
        "visibility_timeout": settings.lease,
        "unacked_restore_interval": max(1, int(settings.lease / 6)),
        "unacked_restore_throttle": 1,
        "socket_timeout": settings.redis_timeout,
        "socket_connect_timeout": settings.redis_connect_timeout,
        "socket_keepalive": True,
        # A worker that waits for hints has no time-out: this is how it notices a Redis that hangs or whose
        # machine is gone. kombu gives up at the third look, and looks every 25 seconds if it isn't told.
        "health_check_interval": settings.redis_timeout,
        # Names that sort, taken in that order: a queue that is paused and resumed keeps its place.
        "queue_order_strategy": "sorted",
    }


def celerys_notation(url: str, options: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """A broker's URL and transport options as Celery wants them; only sentinels' differ from what is given.

    Args:
        url: of a broker; the sentinels' in our notation or in Celery's own.
        options: what is said there of sentinels is stronger.
    """
    if not are_named(url):
        return url, options
    sentinels = parse_sentinels(with_celerys_options(url, options))
    asking = {
        "socket_timeout": options.get("socket_connect_timeout"),
        "socket_connect_timeout": options.get("socket_connect_timeout"),
        "retry": Retry(NoBackoff(), 0),  # of a sentinel that is away the next one is asked instead
        **sentinels.sentinel_login,
        **(options.get("sentinel_kwargs") or {}),
    }
    return sentinels.celerys_url, {
        **options,
        "master_name": sentinels.master_name,
        "sentinel_kwargs": asking,
    }


class ProducingApp(Celery):  # type: ignore[misc]  # Celery ships no types
    """Knows one broker, that of our settings, though Celery takes `CELERYS_BROKER` for stronger."""

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """A connection to the broker, whatever the URL that Celery comes with."""
        return super().connection_for_write(self.conf["broker_url"], **options)

    connection_for_read = connection_for_write


def producing_app(settings: Settings) -> Celery:
    """A Celery app that only publishes; never the current app, so that a user's own is left alone."""
    app = ProducingApp("mailtasks-producer", set_as_current=False)
    app.conf.update(configuration(settings))
    return app


class HintLine(NamedTuple):
    """What stands in a priority's queue.

    Attributes:
        hints: how many wait.
        next_hinted: when the next was published, in seconds since 1970 by its publisher's clock, if known.
    """

    hints: int
    next_hinted: float | None


class Publisher:
    """Publishes hints through a Celery app.

    A broker that is away holds up a caller for at most 7 seconds with the defaults, which is
    `redis_connect_timeout + redis_timeout` (in an app that sets a longer one, `broker_connection_timeout`),
    and 5 more if other threads have all producers. After a failure nothing is published for twice as long
    as that took, so of many calls in a row one in a while waits, and no more.

    Args:
        app: the app, or what makes it when the first hint is published.
        namespace: what the queues' names begin with.
    """

    def __init__(self, app: Celery | Callable[[], Celery], namespace: str = "mailtasks") -> None:
        self._app = app
        self._queues = dict(zip(PRIORITIES, queues(namespace), strict=True))
        self._quiet_until = 0.0  # time.monotonic()
        self.refused = False
        """Whether the last hint could not be published."""
        self.on_refused: Callable[[Sequence[tuple[str, Priority]]], None] | None = None
        """Gets the hints that could not be published, if there is somebody to take them."""

    @property
    def app(self) -> Celery:
        """The Celery app, made now if it wasn't yet."""
        if not isinstance(self._app, Celery):
            self._app = self._app()
        return self._app

    def hint(self, batches: Iterable[tuple[str, Priority]], *, first: bool = False) -> bool:
        """Publish a hint for each batch; returns whether all went out.

        A failure is logged and not raised: the batches are accepted, and due again in a while.

        Args:
            first: to the heads of the queues, since they have waited there already.
        """
        pending = list(batches)
        self.refused = not self._published(pending, first)
        if self.refused and self.on_refused:
            self.on_refused(pending)
        return not self.refused

    def _published(self, pending: Sequence[tuple[str, Priority]], first: bool) -> bool:
        began = time.monotonic()
        if began < self._quiet_until:
            return False
        try:
            with self._producer(first) as producer, producer.batch(_HINTS_AT_ONCE):
                for batch, priority in pending:
                    self._publish(producer, batch, priority, first)
        except (
            Exception
        ) as error:  # whatever a transport raises: the ledger has the mail, and the pump finds it
            log.warning(
                "hints that could not be published: %d (%s); their mail is found without",
                len(pending),
                error,
            )
            self._quiet_until = time.monotonic() + _QUIET * (time.monotonic() - began)
            return False
        return True

    @contextmanager
    def _producer(self, first: bool) -> Iterator[Any]:
        """One of the pool's; but their connections are kombu's own, which know nothing of a queue's head."""
        if first:
            with self.app.connection_for_write() as connection:
                yield self.app.amqp.Producer(connection, auto_declare=False)
        else:
            with self.app.producer_pool.acquire(block=True, timeout=_POOL_TIMEOUT) as producer:
                yield producer

    def _publish(self, producer: Any, batch: str, priority: Priority, first: bool) -> None:
        """One task whose id is the batch's first message's, so that Flower shows a mail under its id."""
        amqp = self.app.amqp
        id = f"{batch}.0"
        message = amqp.as_task_v2(
            id,
            DELIVER,
            args=[batch],
            root_id=id,
            ignore_result=True,
            # Shown in events and Flower: an id and a summary, nothing of the mail.
            argsrepr=f"('{batch}',)",
            kwargsrepr=f"{{'priority': '{priority}'}}",
        )
        # At the head it is out of its turn, and its time says nothing about those behind it.
        message.headers.update({FIRST: True} if first else {HINTED: time.time_ns() // 1_000_000})
        amqp.send_task_message(producer, DELIVER, message, queue=self._queues[priority], retry=False)

    def waiting(self, priority: Priority) -> int:
        """How many hints wait in a priority's queue.

        Raises:
            StoreUnavailable: the broker can't be asked.
        """
        return self.lines()[priority].hints

    def lines(self) -> dict[Priority, HintLine]:
        """What stands in the queue of each priority, asked in one call.

        Raises:
            StoreUnavailable: the broker can't be asked.
        """
        try:
            with self.app.connection_or_acquire() as connection:
                connection.ensure_connection(max_retries=0)  # a failed hint leaves one that was lost
                with connection.channel() as channel:
                    return _lines(channel, {each: queue.name for each, queue in self._queues.items()})
        except Exception as error:  # whatever a transport raises
            broker = mask_url(self.app.connection_for_write().as_uri(include_password=True))
            raise StoreUnavailable(
                f"the broker {broker} can't be asked ({error}); is it running and reachable?"
            ) from error


def _lines(channel: Any, queues: Mapping[Priority, str]) -> dict[Priority, HintLine]:
    """By the lengths of all of kombu's lists for a queue: declaring it is refused while memory is full."""
    # kombu puts this before the keys of a few commands, of which LINDEX is none.
    prefix = getattr(channel, "global_keyprefix", "")
    with channel.conn_or_acquire() as client:
        pipeline = client.pipeline(transaction=False)
        for queue in queues.values():
            pipeline.lindex(f"{prefix}{queue}", -1)
            for step in channel.priority_steps:
                pipeline.llen(channel._q_for_pri(queue, step))
        answers = iter(pipeline.execute())
    return {
        priority: HintLine(
            next_hinted=_hinted(next(answers)), hints=sum(islice(answers, len(channel.priority_steps)))
        )
        for priority in queues
    }


def _hinted(message: bytes | str | None) -> float | None:
    with suppress(ValueError, KeyError, TypeError):  # nothing waits, or no hint
        return float(json.loads(message)["headers"][HINTED]) / 1000  # type: ignore[arg-type]
    return None
