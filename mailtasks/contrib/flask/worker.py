"""The Celery app of a Flask application: `celery -A mailtasks.contrib.flask.worker worker -P threads`.

`FLASK_APP` names the application, as for `flask`; `flask mailtasks worker` runs this.
"""

from __future__ import annotations

import os

from celery import Celery

from mailtasks.contrib.flask.commands import FLASK_APP, load
from mailtasks.errors import SettingsError

flask_app = load(os.environ.get(FLASK_APP, ""))


def _celery() -> Celery:
    state = flask_app.extensions.get("mail")
    if state is None or state.celery is None:
        raise SettingsError(
            f"the Flask app {flask_app.name!r} has no Celery app that mail goes through; call "
            "mailtasks.celery.install(celery_app) and mail.init_app(app), or leave out -A"
        )
    celery: Celery = state.celery
    return celery


app = _celery()
