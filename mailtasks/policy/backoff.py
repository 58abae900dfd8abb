"""When to try again, with Celery's names and meanings, for one recipient.

The settings are those of a Celery task (`autoretry_for`, `max_retries`, `retry_backoff`, …); what they
mean is what https://docs.celeryq.dev says of automatic retries, except that they count attempts for a
recipient and that the waiting is done in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from mailtasks.errors import DeliveryError, SettingsError, TemporaryFailure


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and value >= 0


def _is_count_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int) and value >= 0)


def _are_exceptions(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(one, type) and issubclass(one, Exception) for one in value
    )


def _is_about_delivery(exception: type[Exception]) -> bool:
    return issubclass(exception, DeliveryError) or issubclass(DeliveryError, exception)


_EXPECTED: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "autoretry_for": (_are_exceptions, "a tuple of exception classes"),
    "dont_autoretry_for": (_are_exceptions, "a tuple of exception classes"),
    "max_retries": (_is_count_or_none, "a whole number, or None for no limit but the maximum age"),
    "retry_backoff": (_is_seconds, "seconds, at least 0"),
    "retry_backoff_max": (_is_seconds, "seconds, at least 0"),
    "default_retry_delay": (_is_seconds, "seconds, at least 0"),
}


def _are_retry_kwargs(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.keys() <= {"max_retries", "countdown"}
        and _is_count_or_none(value.get("max_retries"))
        and _is_seconds(value.get("countdown") or 0)
    )


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The retry settings of a task. The defaults are ours: Celery's would give up after ten minutes,
    and lose every mail that is greylisted for longer (RFC 6647 4.4 speaks of up to 24 hours).

    Raises:
        SettingsError: a value is wrong.
    """

    autoretry_for: tuple[type[Exception], ...] = (TemporaryFailure,)
    dont_autoretry_for: tuple[type[Exception], ...] = ()
    max_retries: int | None = None  # None: until the message's maximum age
    retry_backoff: float = 60  # seconds before the first retry, doubling; 0: default_retry_delay each time
    retry_backoff_max: float = 3600  # seconds
    retry_jitter: bool = True  # full: anything from 0 to the computed wait
    default_retry_delay: float = 180  # seconds, used without back-off

    def __post_init__(self) -> None:
        for name, (is_right, expected) in _EXPECTED.items():
            if not is_right(getattr(self, name)):
                raise SettingsError(
                    f"task_annotations: {name} is {getattr(self, name)!r}; expected {expected}"
                )
        if self.autoretry_for and not any(map(_is_about_delivery, self.autoretry_for)):
            # Meant for an app's other tasks ("*"): it must not turn deferrals into failures.
            object.__setattr__(self, "autoretry_for", (TemporaryFailure,))

    @classmethod
    def annotated(cls, given: Mapping[str, Any]) -> Self:
        """The policy of what `task_annotations` says, `retry_kwargs` included.

        As in Celery its `max_retries` is stronger than the task's, and `retry_backoff` than its `countdown`;
        our default for `retry_backoff` is not, since Celery's is to have none.

        Raises:
            SettingsError: a value is wrong.
        """
        settings = dict(given)
        arguments = settings.pop("retry_kwargs", {})
        if not _are_retry_kwargs(arguments):
            raise SettingsError(
                f"task_annotations: retry_kwargs is {arguments!r}; "
                "expected max_retries and countdown (seconds, at least 0), and nothing else"
            )
        if arguments.get("max_retries") is not None:
            settings["max_retries"] = arguments["max_retries"]
        if arguments.get("countdown") is not None:
            settings = {"retry_backoff": 0, **settings, "default_retry_delay": arguments["countdown"]}
        return cls(**settings)

    def retries(self, failure: type[Exception]) -> bool:
        """Whether a failure of this class is tried again at all."""
        return issubclass(failure, self.autoretry_for) and not issubclass(failure, self.dont_autoretry_for)

    def is_exhausted(self, attempts: int) -> bool:
        """Whether this many counted attempts are enough (the first one is no retry)."""
        return self.max_retries is not None and attempts > self.max_retries

    def delay(self, attempts: int, random: Callable[[], float]) -> float:
        """Seconds until the next attempt.

        Args:
            attempts: counted ones so far, this one included; 0 if it was free.
            random: a source of numbers from 0 to 1.
        """
        if not self.retry_backoff:
            return self.default_retry_delay
        # Celery takes `True` for one second; 2 ** 32 is beyond any maximum and keeps the power small.
        wait = min(
            self.retry_backoff_max, max(1, int(self.retry_backoff)) * 2.0 ** min(max(attempts - 1, 0), 32)
        )
        return wait * random() if self.retry_jitter else wait
