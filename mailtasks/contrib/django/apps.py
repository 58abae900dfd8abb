"""The app as Django knows it."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import register
from django.core.signals import setting_changed

from mailtasks.contrib.django.conf import NAME
from mailtasks.default import forget_default_mailer
from mailtasks.event import attempt_listeners


class MailtasksConfig(AppConfig):  # type: ignore[misc]  # Django ships no types
    """`mailtasks.contrib.django` in INSTALLED_APPS."""

    name = "mailtasks.contrib.django"
    label = "mailtasks"
    verbose_name = "Mail"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks; send signals of attempts; follow tests that override MAILTASKS."""
        from mailtasks.contrib.django import checks, signals

        register(checks.check_settings)
        register(checks.check_mailers)
        register(checks.check_outbox)
        register(checks.check_relay)
        if signals.pass_on not in attempt_listeners:
            attempt_listeners.append(signals.pass_on)
        setting_changed.connect(_follow, dispatch_uid="mailtasks")


def _follow(*, setting: str, **_: Any) -> None:
    if setting == NAME:
        forget_default_mailer()
