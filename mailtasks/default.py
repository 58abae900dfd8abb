"""The mailer behind the functions of `mailtasks`, which few programs need to name."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailtasks.mailer import Mailer

_default: Mailer | None = None
_default_lock = threading.Lock()


def default_mailer() -> Mailer:
    """The mailer behind this module's functions, made on first use.

    As with `send_mail`, it is that of the Celery app that was installed last, so that both know the same
    mail; without such an app, one from environment and file.

    Raises:
        SettingsError: environment or file hold a wrong setting.
    """
    global _default
    celery = sys.modules.get("mailtasks.celery")  # nothing was installed before it is imported
    if celery and (app := celery.installed_app()):
        mailer: Mailer = app.mailtasks.mailer
        return mailer
    with _default_lock:
        if _default is None:
            from mailtasks.mailer import Mailer

            _default = Mailer()
        return _default


def forget_default_mailer() -> None:
    """Make it anew when it is next wanted: what it was made from has changed."""
    global _default
    with _default_lock:
        mailer, _default = _default, None
    if mailer:
        mailer.close()
