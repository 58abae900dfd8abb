"""What an application's mail needs: settings, a mailer, and the Celery app that it goes through."""

from __future__ import annotations

import threading
from typing import Any, Final
from weakref import WeakSet

from celery import Celery
from flask import Flask

from mailtasks.contrib.flask.config import Person, flag, settings_in
from mailtasks.errors import SettingsError
from mailtasks.installation import Installation, installation_of, is_installed, with_broker
from mailtasks.mailer import Mailer
from mailtasks.settings import FrameworkValues, Settings


class AppMail:
    """What one application's mail needs. May be changed, in tests for instance.

    Attributes:
        app: whose it is.
        default_sender: of messages that name none.
        suppress: whether messages are only checked and signalled.
        ascii_attachments: whether attachments' names become ASCII.
        framework: what Flask's configuration says of our settings.
        own_settings: all of them, from every source.
    """

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.framework: FrameworkValues = FrameworkValues("Flask's config", settings_in(app.config))
        self.own_settings = Settings.load(framework=self.framework)
        self.default_sender: Person | None = self.own_settings.default_from
        suppressed = flag(app.config, "MAIL_SUPPRESS_SEND")
        self.suppress = app.testing if suppressed is None else suppressed
        self.ascii_attachments = bool(flag(app.config, "MAIL_ASCII_ATTACHMENTS"))
        self._mailer: Mailer | None = None
        self._lock = threading.Lock()
        _known.add(self)

    @property
    def celery(self) -> Celery | None:
        """The application's Celery, if mail goes through it."""
        celery = self.app.extensions.get("celery")
        return celery if is_installed(celery) else None

    @property
    def settings(self) -> Settings:
        """Those that mail is sent with: with the broker of the application's Celery, if it goes through that.

        Raises:
            SettingsError: they name another broker than that Celery.
        """
        return self.own_settings if self.celery is None else self._installation(self.celery).settings

    @property
    def mailer(self) -> Mailer:
        """The way in, for whatever else it does: `status`, `cancel`, a campaign. Made on first use."""
        if (celery := self.celery) is not None:
            return self._installation(celery).mailer
        with self._lock:
            self._mailer = self._mailer or Mailer(self.own_settings)
            return self._mailer

    def _installation(self, celery: Celery) -> Installation:
        installation = installation_of(celery)
        if not installation.was_given_settings:
            settings = installation.settings
            if settings != with_broker(self.own_settings, settings.broker_url):
                raise SettingsError(
                    f"the Celery app {celery.main!r} has read its settings before Mail was told of the Flask "
                    "app, so it doesn't know Flask's config; call `mail.init_app(app)` and set "
                    "app.extensions['celery'] first"
                )
        return installation


_known: Final[WeakSet[AppMail]] = WeakSet()


def framework_values(celery: Any) -> FrameworkValues | None:
    """What the configuration says of the Flask application whose Celery it is; None: it is none's."""
    for state in list(_known):
        if celery is not None and state.app.extensions.get("celery") is celery:
            return state.framework
    return None
