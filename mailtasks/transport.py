"""Celery's Redis transport and consumer, made to outlive a Redis that restarts.

In Celery and kombu 5.7 a worker whose Redis goes away closes its channels, and `Channel.close()` gives
up at the first thing that the dead connection can't answer. What is left half closed has forgotten
where its Redis is, so the next acknowledgement ends the process ("Unrecoverable error: 'NoneType'
object has no attribute 'hostname'"). Besides, every message that the threads still work on is put
back into its queue, to be run a second time.

The rules here:

1. Closing always comes to its end.
2. What was delivered to this process is still its own after the connection is lost: the threads go
   on, and acknowledge when Redis is back. Only what Celery itself drops at a loss (tasks that wait for
   an ETA or for Celery's rate limit) goes back to its queue.
3. A message in our hands is run, though Redis can't keep the copy that would survive our death.
4. Redis refusing a command (out of memory, a disk that is full, a replica) is a loss of the
   connection: the worker tries again and doesn't exit.
5. A hint is disposable (the ledger finds its mail again), so no copy of it is kept in Redis while a thread
   has it: two round trips less for each, a third of what Celery costs a hint.
6. What Flower is told of tasks is published ten times a second, not with each of them: a third of what a
   hint cost, and Flower looks no more often.
7. Nothing is patched. An app that isn't given to `install()` keeps kombu's own classes.

Only the thread that runs the worker's event loop touches a channel: no locks are needed.
"""
# mypy: disable-error-code="misc,no-untyped-call"
# (Celery and kombu are hardly typed, and strict mode objects to subclassing and calling what isn't.)

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from celery import Celery
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.connection import Connection as KombuConnection
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import dumps
from kombu.utils.url import url_to_parts
from redis.exceptions import ResponseError
from redis.sentinel import Sentinel

from mailtasks.publish import DELIVER, FIRST, celerys_notation

CONSUMER: Final = "mailtasks.transport:Consumer"
"""What `worker_consumer` is set to."""

OWN_TASKS: Final = "mailtasks."
"""Tasks whose name begins like this are limited in messages by our own limiter, not in tasks by Celery's."""

PAUSE_AFTER_REFUSAL: Final = (
    1.0  # seconds; a connection that is refused work can be had at once, again and again
)

EVENTS_EVERY: Final = 0.1  # seconds between publishing what has happened to tasks
EVENTS_AT_MOST: Final = 1000  # in between; then they are published by the thread that has one more

LOST: Final[tuple[type[Exception], ...]] = kombu_redis.Transport.connection_errors
TROUBLE: Final = (*LOST, ResponseError)

logger = logging.getLogger(__name__)


def install(app: Celery) -> None:
    """Make `app` use these classes: its workers, producers, events and remote control.

    Only Redis URLs (redis://, rediss://, redis+socket://, sentinel://, also as failover alternates) are
    concerned.
    Doesn't load the app's configuration, and may be called again.
    """
    app.amqp.Connection = Connection
    app.conf.worker_consumer = CONSUMER


class QoS(kombu_redis.QoS):
    """The messages that were delivered over one channel and aren't finished."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unsaid: set[str] = set()
        self._hints: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Take a delivered message, with a copy of it in Redis unless it is a hint or that can't be had."""
        if message.headers.get("task") == DELIVER:
            self._hints.add(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
            return
        try:
            super().append(message, delivery_tag)
        except TROUBLE as error:
            logger.warning("Redis keeps no copy of message %s while it is run: %s", delivery_tag, error)
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """A message is finished; if Redis can't be told now, it is told with the next one."""
        virtual.QoS.ack(self, delivery_tag)
        if delivery_tag in self._hints:
            self._hints.remove(delivery_tag)
            return
        self._unsaid.add(delivery_tag)
        with suppress(*TROUBLE):
            self.say()

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """A message is finished without having been run; or it goes back to the head of its queue."""
        if requeue or delivery_tag not in self._hints:
            super().reject(delivery_tag, requeue=requeue)
        else:
            self.ack(delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back into its queue: a hint from our hands, others from the copy in Redis."""
        if tag in self._hints:
            self._hints.remove(tag)
            virtual.Channel._restore(self.channel, self._delivered[tag])
        else:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)

    def say(self) -> None:
        """Tell Redis of every finished message it doesn't know of yet."""
        if tags := tuple(self._unsaid):
            self._delete(tags)
            self._unsaid.difference_update(tags)

    def _delete(self, tags: Sequence[str]) -> None:
        """No transaction, because Redis refuses those while its memory is full.

        Should it end half way: an index entry without its message is dropped by the next sweep.
        """
        with self.channel.conn_or_acquire() as client:
            pipe = client.pipeline(transaction=False)
            pipe.hdel(self.unacked_key, *tags).zrem(self.unacked_index_key, *tags).execute()

    def restore_visible(self, *args: Any, **options: Any) -> None:
        """Put back what other processes left undone for too long; can wait while Redis refuses to work."""
        with suppress(ResponseError):
            super().restore_visible(*args, **options)

    @property
    def settled(self) -> bool:
        """Whether every message is finished and Redis knows it."""
        self._flush()
        return not self._delivered and not self._unsaid


class Channel(kombu_redis.Channel):
    """A channel that can be closed without a server, and still acknowledges and requeues after that."""

    QoS = QoS
    exchange_types: dict[str, Any]

    def __init__(self, connection: Any, **options: Any) -> None:
        self._state = connection.state
        super().__init__(connection, **options)
        self._parameters = super()._connparams()

    @property
    def state(self) -> Any:
        """The exchanges and bindings declared, which outlive the connection."""
        return self._state

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        """Publish a message, at the queue's head if it says so, like one that is given back."""
        if not message["headers"].get(FIRST):
            super()._put(queue, message, **options)
            return
        key, text = self._q_for_pri(queue, 0), dumps(message)
        batch = options.get("_publish_batch")
        if batch is not None:
            batch.add("rpush", key, text)
            return
        with self.conn_or_acquire() as client:
            client.rpush(key, text)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        parameters: dict[str, Any] = (
            super()._connparams(asynchronous=True) if asynchronous else dict(self._parameters)
        )
        return parameters

    def close(self) -> None:
        """Close everything that can be closed.

        kombu stumbles over a reply that never comes, then over each queue to delete, then over what it
        puts back, and gets further at each attempt.
        """
        transport, exchange_types = self.connection, self.exchange_types
        for _ in range(3 + len(self.auto_delete_queues)):
            with suppress(*TROUBLE):
                super().close()
                break
        self.exchange_types = exchange_types
        if transport is not None:
            transport.close_channel(self)


class Transport(kombu_redis.Transport):
    """kombu's Redis transport with our `Channel`."""

    Channel = Channel


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """The same for a Redis that sentinels watch: whenever it connects, it asks them where the master is."""

    def __init__(self, connection: Any, **options: Any) -> None:
        addresses = map(url_to_parts, connection.client.alt)
        self._sentinels = [(url.hostname, url.port or connection.default_port) for url in addresses]
        super().__init__(connection, **options)

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> Any:
        """As kombu's, which can't do it any more once the channel is closed."""
        parameters = self._connparams(asynchronous)
        alone = parameters.pop("host"), parameters.pop("port")
        manager = Sentinel(
            self._sentinels or [alone],
            min_other_sentinels=getattr(self, "min_other_sentinels", 0),
            sentinel_kwargs=getattr(self, "sentinel_kwargs", None),
            **parameters,
        )
        setattr(self, "_async_sentinel_manager" if asynchronous else "_sentinel_manager", manager)
        return manager.master_for(self.master_name).connection_pool


class SentinelTransport(kombu_redis.SentinelTransport):
    """kombu's Sentinel transport with our `Channel`."""

    Channel = SentinelChannel


OURS: Final = {kombu_redis.Transport: Transport, kombu_redis.SentinelTransport: SentinelTransport}
"""Which of kombu's transports ours stand in for."""


class Connection(KombuConnection):
    """A broker connection that takes `OURS` wherever the URL asks for one of kombu's Redis transports.

    Decided here and not by `broker_transport`, because that setting is passed over for redis+socket://
    and after a failover, and makes kombu forget that rediss:// means TLS. Sentinels may be named in Celery's
    notation or in ours.
    """

    def __init__(
        self, hostname: Any = "localhost", *args: Any, transport_options: Any = None, **options: Any
    ) -> None:
        hostname, transport_options = celerys_notation(hostname, transport_options or {})
        super().__init__(hostname, *args, transport_options=dict(transport_options), **options)

    def get_transport_cls(self) -> Any:
        """The class of the transport."""
        transport = super().get_transport_cls()
        return OURS.get(transport, transport)


class Consumer(CeleryConsumer):
    """The part of a worker that takes tasks from Redis."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connection_errors: tuple[type[Exception], ...] = (
            *self.conninfo.connection_errors,
            ResponseError,
        )
        self.connected = True  # until it turns out that it can't be
        self._outlived: list[QoS] = []
        self._dropped: list[Any] = []

    def bucket_for_task(self, type: Any) -> Any:
        """Celery's bucket for a task's `rate_limit`; none for our own tasks."""
        return None if type.name.startswith(OWN_TASKS) else super().bucket_for_task(type)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """The connection is lost: keep what the threads work on, remember what Celery is about to drop."""
        self.connected = False
        self._dropped += [request.message for request in self._held_back()]
        self._outlive(_channels(self.connection))
        super().on_connection_error_after_connected(exc)
        _pause_if_refused(exc)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """There is no connection yet: Celery logs it and tries again."""
        self.connected = False
        super().on_connection_error_before_connected(exc)
        _pause_if_refused(exc)

    def on_ready(self) -> None:
        """Connected (again): say and give back what couldn't be while Redis was away."""
        super().on_ready()
        self.connected = True
        if self.hub and self.event_dispatcher:
            self.event_dispatcher.buffer_limit = EVENTS_AT_MOST
            self.timer.call_repeatedly(EVENTS_EVERY, self._flush_events)
        for qos in self._outlived:
            qos.say()
        while self._dropped:
            _requeue(self._dropped[-1])
            self._dropped.pop()

    def on_send_event_buffered(self) -> None:
        """An event waits: for the timer, rule 6."""

    def shutdown(self) -> None:
        """The threads have ended: what they left undone goes back to its queue."""
        for qos in self._outlived:
            with suppress(*TROUBLE):
                qos.say()
                qos.restore_unacked()
        super().shutdown()

    def _held_back(self) -> list[Any]:
        """Requests that wait for an ETA or for Celery's rate limit, and that no thread has been given."""
        given = {*state.reserved_requests, *state.active_requests}
        limited = (
            request for bucket in self.task_buckets.values() if bucket for request, _ in bucket.contents
        )
        waiting = dict.fromkeys((*state.scheduled_requests, *limited))
        return [request for request in waiting if request not in given]

    def _outlive(self, channels: Sequence[Any]) -> None:
        for channel in channels:
            channel.do_restore = False
        lost = (channel.qos for channel in channels if isinstance(channel, Channel))
        self._outlived = [qos for qos in (*self._outlived, *lost) if not qos.settled]


def _channels(connection: Any) -> tuple[Any, ...]:
    return tuple(getattr(connection.transport, "channels", None) or ())


def _pause_if_refused(error: Exception) -> None:
    if isinstance(error, ResponseError):
        logger.error("Redis refuses to work, trying again: %s", error)
        time.sleep(PAUSE_AFTER_REFUSAL)


def _requeue(message: Any) -> None:
    if not message.acknowledged:
        message.requeue()
