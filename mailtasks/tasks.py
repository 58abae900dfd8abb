"""The two tasks: `mailtasks.send_mail`, which users call, and `mailtasks.deliver`, which a hint is.

`send_mail.delay(…)` and `.apply_async(…)` accept the mail in the caller's process and publish a hint; no
body travels through Celery. Only `app.send_task("mailtasks.send_mail", …)`, from a process that has
Celery and not mailtasks, carries one: it is accepted when a worker runs it.

Retry and rate settings are Celery's, read from `task_annotations`: those of `mailtasks.deliver`, else
those of `mailtasks.send_mail`, else our defaults, which sit on the task class.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from inspect import signature
from typing import Any, ClassVar, Final

from celery import Celery, Task
from celery.exceptions import Reject, Retry
from celery.worker.request import Request
from celery.worker.strategy import default as default_strategy

from mailtasks.address import excerpt
from mailtasks.delivery import Report
from mailtasks.errors import (
    IdempotencyConflict,
    MessageError,
    PermanentFailure,
    SettingsError,
    StoreError,
    TemporaryFailure,
)
from mailtasks.installation import installation_of
from mailtasks.message import MOMENTS, PRIORITIES, Alternative, Attachment, Message, Priority
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.policy.rate import parse_rate
from mailtasks.publish import DELIVER, SEND_MAIL, priority_of, queue_name
from mailtasks.state import State

log = logging.getLogger(__name__)

_DEFAULTS: Final = RetryPolicy()
_SETTINGS: Final = (*(field.name for field in fields(RetryPolicy)), "retry_kwargs", "rate_limit")
_REJECTED_PAUSE: Final = 1.0  # seconds before mail that Redis couldn't accept goes back to its queue


class PolicyTask(Task):  # type: ignore[misc]  # Celery ships no types
    """What both tasks share: the retry settings, with our defaults."""

    autoretry_for = _DEFAULTS.autoretry_for
    dont_autoretry_for = _DEFAULTS.dont_autoretry_for
    max_retries = _DEFAULTS.max_retries
    retry_backoff = _DEFAULTS.retry_backoff
    retry_backoff_max = _DEFAULTS.retry_backoff_max
    retry_jitter = _DEFAULTS.retry_jitter
    default_retry_delay = _DEFAULTS.default_retry_delay
    retry_kwargs: ClassVar[Mapping[str, Any]] = {}
    ignore_result = True
    typing = False
    # Celery wraps `run` in retries of its own unless a task has this; ours are moves in the ledger.
    _orig_run = None


class HintRequest(Request):  # type: ignore[misc]  # Celery ships no types
    """A hint as a worker receives it: it can't be revoked, for its batch may hold others' mail as well.

    `cancel` is what stops a mail; a hint that is dropped would only come again.
    """

    def revoked(self) -> bool:
        """Never."""
        return False


class Deliver(PolicyTask):
    """Deliver one batch. Early acknowledged: a lost hint is published again by the pump."""

    name = DELIVER
    Request = "mailtasks.tasks:HintRequest"
    acks_late = False
    throws = (PermanentFailure,)  # shown as FAILURE, and logged without a traceback

    def run(self, batch: str) -> str:
        """Returns what was done, for Flower.

        Raises:
            Retry: something was deferred; nothing is published, the ledger knows when it is due.
            PermanentFailure: nothing was surely sent; something was refused for good or is in doubt.
        """
        queue = (self.request.delivery_info or {}).get("routing_key")
        namespace = installation_of(self.app).settings.namespace
        return _tell(deliver(self.app, batch, priority_of(queue, namespace)))


def deliver(app: Celery, batch: str, priority: Priority) -> Report:
    """Deliver one batch by what `task_annotations` say now.

    Raises:
        As `Delivery.deliver`.
    """
    installation = installation_of(app)
    installation.limiter.set_rate(rate_of(app))
    return installation.delivery(retry_policy_of(app)).deliver(batch, priority)


def demand_settings(app: Celery) -> None:
    """What a worker needs, read once before it starts.

    Raises:
        SettingsError: a setting is wrong, or what stands in `task_annotations`; or what the store of
            attachments needs isn't installed.
    """
    installation = installation_of(app)
    installation.settings  # noqa: B018  (reading it is the check)
    installation.mailer.blobs.store  # noqa: B018  (opening it is)
    rate_of(app)
    retry_policy_of(app)


def rate_of(app: Celery) -> float | None:
    """Messages a second that a worker process may send now; None: no limit. `celery control` may change it.

    Raises:
        SettingsError: it can't be read.
    """
    given = app.tasks[DELIVER].rate_limit
    return parse_rate(app.tasks[SEND_MAIL].rate_limit if given is None else given)


def retry_policy_of(app: Celery) -> RetryPolicy:
    """The retry settings in `task_annotations`.

    Raises:
        SettingsError: one has a wrong name or value.
    """
    for annotation in app.annotations:
        for task, given in annotation.items() if isinstance(annotation, Mapping) else ():
            _refuse_unknown(app, task, given)
    return RetryPolicy.annotated(_annotated(app))


def _refuse_unknown(app: Celery, task: str, given: Mapping[str, Any]) -> None:
    """Celery would set whatever attribute it is told to, of whatever task there may be some day."""
    if task.startswith("mailtasks.") and task not in app.tasks:
        raise SettingsError(f"task_annotations: there is no task {task}; expected {DELIVER} or {SEND_MAIL}")
    for name in given if task in (DELIVER, SEND_MAIL) else ():
        if not hasattr(PolicyTask, name.removeprefix("@")):  # "@run" wraps what is there
            near = get_close_matches(name, _SETTINGS, n=1) or _SETTINGS
            raise SettingsError(f"task_annotations: {task} has no {name}; expected {', '.join(near)}")


def _annotated(app: Celery) -> dict[str, Any]:
    """What our tasks were given (Celery sets annotations on a task's own class); deliver's is stronger."""
    given = vars(type(app.tasks[SEND_MAIL])) | vars(type(app.tasks[DELIVER]))
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if name in _SETTINGS and name != "rate_limit"
    }


def _tell(report: Report) -> str:
    if report.next_attempt is not None:
        # The Retry that Celery shows as RETRY, with nothing published; Flower shows its `exc`.
        raise Retry(str(report), exc=TemporaryFailure(str(report)), when=report.next_attempt)
    if (
        any(report.counts[state] for state in (State.FAILED, State.IN_DOUBT))
        and not report.counts[State.SENT]
    ):
        raise PermanentFailure(str(report))
    return str(report)


class SendMail(PolicyTask):
    """Accept one mail. Keyword arguments are those of `Message`."""

    name = SEND_MAIL
    throws = (PermanentFailure,)
    acks_late = True  # the task carries the mail itself: it is lost only after it was accepted
    Strategy = "mailtasks.tasks:strategy_without_eta"

    def apply_async(
        self,
        args: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        expires: float | datetime | None = None,
        queue: Any = None,
        **options: Any,
    ) -> Any:
        """Accept the mail now, in this process.

        Args:
            kwargs: the fields of `Message`.
            task_id: taken as the idempotency key, if the message has none.
            countdown: seconds from now, or
            eta: the moment, before which it isn't sent.
            expires: seconds from the moment it may be sent, or the moment after which it is not.
            queue: one of the three; its priority is taken, if the message has none.
            **options: `priority`, if it is one of ours, is taken as well. Celery's others, its numeric
                priority too, mean nothing here and change nothing, except those that would promise what
                isn't kept: `OPTIONS` has them all.

        Returns:
            An AsyncResult whose id is the message's.

        Raises:
            As `Mailer.send`; MessageError also for an option that is refused or that Celery doesn't have.
        """
        _refuse_positional(args)
        _refuse_options(options)
        given = dict(kwargs or {})
        if countdown is not None:
            given["send_at"] = _from_now(countdown)
        if eta is not None:
            given["send_at"] = eta
        if expires is not None:
            given["expires_after"] = _expires_after(expires, given.get("send_at"))
        if isinstance(options.get("priority"), str):
            given.setdefault("priority", options["priority"])
        if queue is not None:
            given.setdefault("priority", self._priority_of(getattr(queue, "name", queue)))
        if task_id is not None:
            given.setdefault("idempotency_key", task_id)
        return self.AsyncResult(installation_of(self.app).mailer.send(message_from(given)))

    def _priority_of(self, queue: str) -> Priority:
        namespace = installation_of(self.app).settings.namespace
        ours = [queue_name(priority, namespace) for priority in PRIORITIES]
        if queue not in ours:
            raise MessageError(f"send_mail: mail has no queue {queue!r}; expected {', '.join(ours)}")
        return priority_of(queue, namespace)

    def run(self, *args: Any, **given: Any) -> str:
        """The weaker road: the mail came through Celery. Returns the message's id.

        An attachment comes with its content: a path would name a file of this machine, and whoever may
        write to the broker could have it mailed.

        Raises:
            Reject: Redis didn't accept it; the task goes back to its queue.
            PermanentFailure: it can't be mailed.
        """
        try:
            _refuse_positional(args)
            _refuse_paths(given.get("attachments", ()))
            return installation_of(self.app).mailer.send(message_from(self._with_options(given)))
        except StoreError as error:
            time.sleep(_REJECTED_PAUSE)
            raise Reject(error, requeue=True) from error
        except (MessageError, IdempotencyConflict) as error:
            # The sentence may hold an address or a subject, and what is raised is shown in Flower.
            why = f"{type(error).__name__}; mailtasks.Message(…) with the same fields says why"
            log.error("mail that came by name as task %s can't be mailed: %s", self.request.id, why)
            raise PermanentFailure(why) from None

    def _with_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields with what `apply_async` would have made of the task's options; fields are stronger."""
        options = {"idempotency_key": self.request.id, "send_at": getattr(self.request, SEND_AT, None)}
        fields = {name: value for name, value in options.items() if value is not None} | dict(given)
        if self.request.expires:
            moment = _moment("expires", self.request.expires)
            fields.setdefault("expires_after", _expires_after(moment, fields.get("send_at")))
        return fields


_NO_RESULT: Final = (
    "would never be called, since what becomes of a mail is no task's result; "
    "let send_mail be the end of a chain, and ask status(id)"
)
_NO_ROUTE: Final = "would lead nowhere, since mail goes to the queue of its priority; give priority or queue"
_NO_LIMIT: Final = "would limit nothing; the settings timeout_dot and its like say how long a relay may take"
_NO_OPTION: Final = "is no option of apply_async; a mail's fields are given in kwargs={…}"

_HARMLESS: Final = (
    *("priority",),  # taken, if it is one of ours
    # How a message travels: no mail travels, only a hint, which may be lost.
    *("producer", "publisher", "connection", "router", "route_name", "retry", "retry_policy"),
    *("serializer", "compression", "content_type", "content_encoding", "delivery_mode", "declare"),
    *("mandatory", "immediate", "timeout", "confirm_timeout", "event_dispatcher", "exchange_type"),
    # How a task is shown, and what it belongs to: what canvases pass on. The result's id is the message's.
    *("shadow", "argsrepr", "kwargsrepr", "origin", "task_type", "stamped_headers", "create_sent_event"),
    *("root_id", "parent_id", "group_id", "group_index", "add_to_parent", "replaced_task_nesting", "retries"),
    # Where a result goes: there is none.
    *("ignore_result", "result_cls", "reply_to", "correlation_id"),
)

OPTIONS: Final[Mapping[str, str | None]] = {
    **dict.fromkeys(_HARMLESS),
    **dict.fromkeys(("link", "link_error", "chain", "chord", "callbacks", "errbacks"), _NO_RESULT),
    **dict.fromkeys(("exchange", "routing_key"), _NO_ROUTE),
    **dict.fromkeys(("time_limit", "soft_time_limit"), _NO_LIMIT),
    "expiration": "would expire nothing; give expires",
    "headers": "would be a task's, which no mail has; give the mail's own in kwargs={'headers': {…}}",
}
"""What Celery's `apply_async` takes beside what ours names: None if it changes nothing here, else why it is
refused."""


def _refuse_options(options: Mapping[str, Any]) -> None:
    stamps = options.get("stamped_headers") or ()
    for name, value in options.items():
        why = None if name in stamps else OPTIONS.get(name, _NO_OPTION)
        if why and value:
            raise MessageError(f"send_mail: {name} {why}")


def _refuse_positional(args: Any) -> None:
    if args:
        raise MessageError("send_mail takes keyword arguments only: to=…, subject=…, text=…")


def _refuse_paths(attachments: Any) -> None:
    for item in attachments if isinstance(attachments, list | tuple) else [attachments]:
        if not isinstance(item, Mapping):
            raise MessageError(
                f"send_mail: the attachment {excerpt(item)} is a path, and means nothing to the worker; "
                "give filename and content"
            )


SEND_AT: Final = "mailtasks_send_at"
"""The header into which an ETA is turned, since Celery would hold an ETA task in a worker's memory."""


def strategy_without_eta(task: Any, app: Celery, consumer: Any, **options: Any) -> Any:
    """Celery's way of receiving a task, except that it is never held back for its ETA."""
    receive = default_strategy(task, app, consumer, **options)

    def receive_at_once(message: Any, *args: Any, **kwargs: Any) -> Any:
        message.headers[SEND_AT] = message.headers.pop("eta", None)
        # Events and Flower show these; without them they would show addresses and text.
        message.headers |= {"argsrepr": "()", "kwargsrepr": "{…}"}
        return receive(message, *args, **kwargs)

    return receive_at_once


_NESTED: Final[dict[str, type[Attachment | Alternative]]] = {
    "attachments": Attachment,
    "alternatives": Alternative,
}


def message_from(given: Mapping[str, Any]) -> Message:
    """A message from arguments that may have been JSON: times as ISO 8601, attachments as mappings.

    Raises:
        MessageError: as `Message`, and for an argument that it doesn't have.
    """
    values = _fields_of(Message, given)
    if isinstance(values.get("send_at"), str):
        values["send_at"] = _moment("send_at", values["send_at"])
    for name, kind in _NESTED.items():
        if isinstance(values.get(name), list | tuple):
            values[name] = [
                kind(**_fields_of(kind, item)) if isinstance(item, Mapping) else item for item in values[name]
            ]
    return Message(**values)


def _fields_of(kind: type[Message | Attachment | Alternative], given: Mapping[str, Any]) -> dict[str, Any]:
    known = signature(kind).parameters
    for name in given:
        if name not in known:
            raise MessageError(
                f"send_mail: {name!r} is no field of mailtasks.{kind.__name__}; it has {', '.join(known)}"
            )
    for name, field in known.items():
        if field.default is field.empty and name not in given:
            raise MessageError(f"send_mail: the {name} of a mailtasks.{kind.__name__} is missing")
    return dict(given)


def _moment(name: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise MessageError(f"{name} {text!r} is no time; expected ISO 8601 with an offset") from None


def _from_now(countdown: float) -> datetime:
    try:
        return datetime.now(UTC) + timedelta(seconds=countdown)
    except (TypeError, ValueError, OverflowError):
        raise MessageError(
            f"countdown={countdown} is out of range: "
            f"give a number of seconds that ends before {MOMENTS[1].year}"
        ) from None


def _expires_after(expires: float | datetime, send_at: datetime | str | None) -> float | timedelta:
    if not isinstance(expires, datetime):
        return expires
    if expires.tzinfo is None:
        raise MessageError(f"expires {expires} has no time zone; give an aware datetime, or seconds")
    since = _moment("send_at", send_at) if isinstance(send_at, str) else send_at
    try:
        return expires - (since or datetime.now(UTC))
    except TypeError:
        raise MessageError(f"expires can't count from {excerpt(since)}; give an aware datetime") from None


def register(app: Celery) -> None:
    """Give `app` the two tasks, as classes of its own: Celery keeps app and annotations on the class."""
    for task in (Deliver, SendMail):
        app.register_task(type(task.__name__, (task,), {"__doc__": task.__doc__, "__module__": __name__})())
