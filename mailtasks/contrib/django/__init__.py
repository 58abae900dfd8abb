"""Django: `EMAIL_BACKEND = "mailtasks.contrib.django.backend.EmailBackend"`, and what goes with it.

In INSTALLED_APPS it brings `manage.py mailtasks`, system checks and the outbox; the backend works without.
`MAILTASKS` in Django's settings holds our settings.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailtasks.contrib.django.templating import send_template, template_message

__all__ = ["send_template", "template_message"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("mailtasks.contrib.django.templating"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
