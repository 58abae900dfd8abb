"""`docs/how-to/flask.md` as a reader runs it: every block of Python, in order, in one process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask import Flask

import mailtasks
from mailtasks.cli import COMMANDS
from mailtasks.contrib.flask import Mail
from mailtasks.settings import SETTINGS
from mailtasks.state import State
from tests.pages import fences

PAGE = Path(mailtasks.__file__).parents[1] / "docs" / "how-to" / "flask.md"


@pytest.fixture
def names(tmp_path, redis_url, monkeypatch):
    """What the page's blocks define."""
    monkeypatch.chdir(tmp_path)
    for setting in SETTINGS.values():
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.setenv("FLASK_MAIL_DEFAULT_SENDER", "shop@example.com")
    monkeypatch.setenv("FLASK_MAILTASKS_BROKER_URL", redis_url)
    defined: dict[str, object] = {}
    for language, code in fences(PAGE):
        if language == "python":
            exec(compile(code, PAGE.name, "exec", dont_inherit=True), defined)
    yield defined
    with defined["app"].app_context():
        defined["mail"].mailer.close()
    defined["engine"].dispose()


def test_the_page_does_what_it_says(names):
    client = names["app"].test_client()
    ids = [client.post(path).get_json()["mail"] for path in ("/orders", "/invoices")]
    assert client.post("/signup").get_json() == {"state": "queued"}
    names["test_an_order_is_confirmed"]()
    with names["app"].app_context():
        mailer = names["mail"].mailer
        assert [mailer.status(id).subject for id in ids] == ["Your order", "Your invoice"]
        assert mailer.status(ids[0]).state is State.QUEUED
        assert mailer.stats().accepted == 3


def test_its_pattern_shares_a_celery(names, redis_url):
    app = Flask("shop")
    app.config["CELERY"] = {"broker_url": redis_url}
    celery = names["celery_init_app"](app)
    assert Mail(app).mailer is celery.mailtasks.mailer


def test_what_it_names_is_there():
    page = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"`flask mailtasks (\w+)", page)
    assert len(commands) > 2
    assert set(commands) <= set(COMMANDS)
