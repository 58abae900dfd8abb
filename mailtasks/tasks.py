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
from inspect import signature
from typing import Any, Final

from celery import Celery, Task
from celery.exceptions import Reject, Retry
from celery.worker.request import Request
from celery.worker.strategy import default as default_strategy

from mailtasks.address import excerpt
from mailtasks.delivery import Report
from mailtasks.errors import MessageError, PermanentFailure, StoreUnavailable
from mailtasks.installation import installation_of
from mailtasks.message import Attachment, Message
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.policy.rate import parse_rate
from mailtasks.publish import DELIVER, SEND_MAIL, priority_of
from mailtasks.state import State

log = logging.getLogger(__name__)

_DEFAULTS: Final = RetryPolicy()
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
        installation = installation_of(self.app)
        installation.limiter.set_rate(rate_of(self.app))
        delivery = installation.delivery(retry_policy_of(self.app))
        queue = (self.request.delivery_info or {}).get("routing_key")
        return _tell(delivery.deliver(batch, priority_of(queue, installation.settings.namespace)))


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
        SettingsError: one has a wrong value.
    """
    return RetryPolicy(**{field.name: _annotated(app, field.name) for field in fields(RetryPolicy)})


def _annotated(app: Celery, name: str) -> Any:
    """A setting of the first task that was given one (Celery sets annotations on the task's own class)."""
    for task in (app.tasks[DELIVER], app.tasks[SEND_MAIL]):
        if name in vars(type(task)):
            value = getattr(task, name)
            return tuple(value) if isinstance(value, list) else value
    return getattr(PolicyTask, name)


def _tell(report: Report) -> str:
    if report.next_attempt is not None:
        # The Retry that Celery shows as RETRY, with nothing published.
        raise Retry(str(report), when=report.next_attempt)
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
        **options: Any,
    ) -> Any:
        """Accept the mail now, in this process.

        Args:
            kwargs: the fields of `Message`.
            task_id: taken as the idempotency key, if the message has none.
            countdown: seconds from now, or
            eta: the moment, before which it isn't sent.
            expires: seconds from the moment it may be sent, or the moment after which it is not.
            **options: Celery's others mean nothing here: the queue follows from the priority.

        Returns:
            An AsyncResult whose id is the message's.

        Raises:
            As `Mailer.send`.
        """
        if args:
            raise MessageError("send_mail takes keyword arguments only: to=…, subject=…, text=…")
        given = dict(kwargs or {})
        if countdown is not None:
            given["send_at"] = datetime.now(UTC) + timedelta(seconds=countdown)
        if eta is not None:
            given["send_at"] = eta
        if expires is not None:
            given["expires_after"] = _expires_after(expires, given.get("send_at"))
        if task_id is not None:
            given.setdefault("idempotency_key", task_id)
        return self.AsyncResult(installation_of(self.app).mailer.send(message_from(given)))

    def run(self, **given: Any) -> str:
        """The weaker road: the mail came through Celery. Returns the message's id.

        An attachment comes with its content: a path would name a file of this machine, and whoever may
        write to the broker could have it mailed.
        """
        _refuse_paths(given.get("attachments", ()))
        send_at = getattr(self.request, SEND_AT, None)
        if send_at:
            given.setdefault("send_at", send_at)
        given.setdefault("idempotency_key", self.request.id)
        try:
            return installation_of(self.app).mailer.send(message_from(given))
        except StoreUnavailable as error:
            time.sleep(_REJECTED_PAUSE)
            raise Reject(error, requeue=True) from error
        except MessageError as error:
            log.error("mail that came by name can't be mailed: %s", error)
            # What is raised is shown in Flower, and the sentence may hold an address.
            raise PermanentFailure(f"{type(error).__name__}: the worker's log says why") from None


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


def message_from(given: Mapping[str, Any]) -> Message:
    """A message from arguments that may have been JSON: times as ISO 8601, attachments as mappings.

    Raises:
        MessageError: as `Message`, and for an argument that it doesn't have.
    """
    values = _fields_of(Message, given)
    if isinstance(values.get("send_at"), str):
        values["send_at"] = _moment(values["send_at"])
    if isinstance(values.get("attachments"), list | tuple):
        values["attachments"] = [
            Attachment(**_fields_of(Attachment, item)) if isinstance(item, Mapping) else item
            for item in values["attachments"]
        ]
    return Message(**values)


def _fields_of(kind: type[Message | Attachment], given: Mapping[str, Any]) -> dict[str, Any]:
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


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise MessageError(f"send_at {text!r} is no time; expected ISO 8601 with an offset") from None


def _expires_after(expires: float | datetime, send_at: datetime | str | None) -> float | timedelta:
    if not isinstance(expires, datetime):
        return expires
    if expires.tzinfo is None:
        raise MessageError(f"expires {expires} has no time zone; give an aware datetime, or seconds")
    since = _moment(send_at) if isinstance(send_at, str) else send_at
    return expires - (since or datetime.now(UTC))


def register(app: Celery) -> None:
    """Give `app` the two tasks, as classes of its own: Celery keeps app and annotations on the class."""
    for task in (Deliver, SendMail):
        app.register_task(type(task.__name__, (task,), {"__doc__": task.__doc__, "__module__": __name__})())
