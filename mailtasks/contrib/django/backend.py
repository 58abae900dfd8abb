"""`EmailBackend`: what Django sends goes into the queue.

Django builds one for each look-up, so nothing costly lives here: the connection to Redis is that of the
default mailer, which is the installed Celery app's, if there is one. `open()` and `close()` do nothing.
With the outbox mail goes into a table of the database instead, and Redis isn't asked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.base import BaseEmailBackend
from django.db import DEFAULT_DB_ALIAS

from mailtasks.contrib.django import conf
from mailtasks.contrib.django.handover import hand_over
from mailtasks.contrib.django.messages import as_mail
from mailtasks.default import default_mailer
from mailtasks.errors import MessageError, StoreUnavailable
from mailtasks.message import Message

if TYPE_CHECKING:
    from mailtasks.outbox.row import Keep

APP: Final = "mailtasks.contrib.django"

_OPTIONS: Final = (
    *("fail_silently", "on_commit", "outbox", "database"),
    *("priority", "expires_after", "tags"),
)
_DJANGOS: Final = {"alias", "username", "password", "_ignore_unknown_kwargs"}
"""What Django gives to every backend."""

log = logging.getLogger(__name__)


class EmailBackend(BaseEmailBackend):  # type: ignore[misc]  # Django ships no types
    """Django's `EMAIL_BACKEND`, or, from 6.1 on, the `BACKEND` of an entry of `MAILERS`.

    Args:
        fail_silently: a Redis that is away is logged, and nothing counts as sent. What is wrong with a
            message is raised all the same.
        on_commit: whether mail waits for the commit of an open transaction; None: MAILTASKS says it.
        outbox: whether mail is written into the outbox: a bool, or how long its rows stay,
            "until_accepted" (as with True), "until_final" or "forever"; None: MAILTASKS says it.
        database: the alias of the database whose transaction is meant, and which has the outbox.
        priority, expires_after, tags: of messages that don't say them themselves.
        **kwargs: for Django. What neither it nor we know is refused.

    Raises:
        InvalidMailer (ImproperlyConfigured before Django 6.1): an option is wrong.
    """

    def __init__(
        self,
        *,
        fail_silently: bool = False,
        on_commit: bool | None = None,
        outbox: bool | str | None = None,
        database: str = DEFAULT_DB_ALIAS,
        priority: str | None = None,
        expires_after: timedelta | float | None = None,
        tags: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.alias = kwargs.get("alias")
        if self.alias is None and (unknown := kwargs.keys() - _DJANGOS):  # of MAILERS Django refuses them
            raise self._refused(f"there is no option {sorted(unknown)[0]!r}; known are {', '.join(_OPTIONS)}")
        super().__init__(**kwargs)
        self.fail_silently = fail_silently
        self.on_commit = on_commit
        self.outbox = outbox
        self.database = database
        given: dict[str, Any] = {"priority": priority, "expires_after": expires_after, "tags": tags}
        self.defaults: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self._check()

    def _check(self) -> None:
        if self.on_commit is not None and not isinstance(self.on_commit, bool):
            raise self._refused(f"on_commit is {self.on_commit!r}: give True, False or None")
        try:
            conf.as_outbox(False if self.outbox is None else self.outbox)
        except ValueError as error:
            raise self._refused(f"outbox is {self.outbox!r}: {error}") from None
        try:
            Message(to="ann@example.com", **self.defaults)
        except MessageError as error:
            raise self._refused(str(error)) from None

    def _refused(self, sentence: str) -> Exception:
        refusal: Any = getattr(mail, "InvalidMailer", None)  # since Django 6.1
        error: Exception = (
            refusal(f"{sentence}.", alias=self.alias) if refusal else ImproperlyConfigured(f"{sentence}.")
        )
        return error

    def send_messages(self, email_messages: Iterable[Any]) -> int:
        """Hand messages over, all in few batches; each then has `mailtasks_ids`, a list of its one id.

        Returns:
            How many; with `fail_silently` 0 if Redis was away. A message without recipients doesn't count.

        Raises:
            ValueError: one can't be mailed as it is (Django's refusal, or a MessageError); none is sent.
            IdempotencyConflict: a key was used before for other content.
            StoreUnavailable: Redis is away; said within the time that `Mailer.send` states.
            SettingsError: a setting is wrong.
            django.db.Error: the database doesn't take it into the outbox; with `fail_silently`, too, since a
                transaction in which that happens can't go on.
        """
        messages = [message for message in email_messages or () if message.recipients()]
        if not messages:
            return 0
        mails = [as_mail(message, self.defaults) for message in messages]
        try:
            ids = self._accepted(mails)
        except StoreUnavailable as error:
            if not self.fail_silently:
                raise
            log.error("mails that could not be accepted: %d (%s)", len(messages), error)
            return 0
        for message, id in zip(messages, ids, strict=True):
            message.mailtasks_ids = [id]
        return len(messages)

    def _accepted(self, mails: Sequence[Message]) -> list[str]:
        """The ids of what was handed over, or will be."""
        keep = self.keep
        if keep is None:
            return hand_over(default_mailer(), mails, self._awaited)
        if not apps.is_installed(APP):
            raise self._refused(
                f"the outbox is a table of the app {APP!r}: put that into INSTALLED_APPS and migrate"
            )
        from mailtasks.contrib.django.outbox import write

        return write(mails, default_mailer().settings, self.database, keep)

    @property
    def keep(self) -> Keep | None:
        """How long rows of the outbox stay; None: mail doesn't go there.

        Raises:
            SettingsError: MAILTASKS says it, and is wrong.
        """
        return conf.outbox() if self.outbox is None else conf.as_outbox(self.outbox)

    @property
    def _awaited(self) -> str | None:
        """The database whose commit is waited for."""
        waits = conf.on_commit() if self.on_commit is None else self.on_commit
        return self.database if waits else None
