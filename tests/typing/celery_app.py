"""A user's own Celery app as a type checker sees it. `mypy --strict` reads this file; nobody runs it."""

from __future__ import annotations

from celery import Celery

from mailtasks import Settings
from mailtasks.celery import install

app = install(Celery("shop"))
install(app, Settings(namespace="shop"))
install(app, {"namespace": "shop"})  # type: ignore[arg-type]
