"""A Flask application whose mail really goes into a ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from mailtasks.contrib.flask import Mail
from mailtasks.settings import SETTINGS


@pytest.fixture(autouse=True)
def _none_of_our_variables(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("MAILTASKS_CONFIG", *(setting.variable for setting in SETTINGS.values())):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def make_app() -> Iterator[Callable[..., Flask]]:
    """Make an application with mail; connections are closed in the end."""
    made: list[Flask] = []

    def make(name: str = "shop", **config: Any) -> Flask:
        app = Flask(name)
        app.config.update({"MAIL_DEFAULT_SENDER": "shop@example.com", **config})
        Mail().init_app(app)
        made.append(app)
        return app

    yield make
    for app in made:
        if mailer := app.extensions["mail"].__dict__["_mailer"]:
            mailer.close()


@pytest.fixture
def app(make_app: Callable[..., Flask], redis_url: str) -> Iterator[Flask]:
    """One with a Redis; its context is the current one."""
    app = make_app(MAILTASKS_BROKER_URL=redis_url)
    with app.app_context():
        yield app


@pytest.fixture
def mail(app: Flask) -> Mail:
    """As a module has it that called `init_app` on the application."""
    return Mail()
