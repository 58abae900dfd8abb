"""`flask mailtasks …`: the whole command line on the application's settings."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import click
import pytest
from celery import Celery
from flask import Flask
from flask.cli import ScriptInfo

import mailtasks.celery
from mailtasks.cli.context import Context, Host
from mailtasks.contrib.flask import Mail
from mailtasks.contrib.flask.commands import WORKER, host_of, load, mailtasks_command
from mailtasks.errors import SettingsError
from mailtasks.settings import Settings

CONFIG = {
    "MAIL_SERVER": "mx.example.com",
    "MAIL_USERNAME": "me",
    "MAIL_PASSWORD": "s3cr/et",
    "MAIL_DEFAULT_SENDER": "shop@example.com",
    "MAILTASKS": {"LEASE": 90, "mask_addresses": True},
}


@pytest.fixture
def flask(make_app, redis_url, capfd):
    """Run `flask mailtasks …`; returns exit code, output and what is said of errors."""
    app = make_app(MAILTASKS_BROKER_URL=redis_url, **CONFIG)

    def call(*arguments):
        try:
            app.cli.main(["mailtasks", *arguments], prog_name="flask", obj=ScriptInfo(create_app=lambda: app))
        except SystemExit as ended:
            code = ended.code
        return code, *capfd.readouterr()

    return call


def test_it_runs_on_the_settings_of_the_application(flask):
    code, out, _ = flask("config", "--changed")
    assert code == 0
    shown = {line.split()[0]: line for line in out.splitlines()}
    assert "smtp://me:***@mx.example.com:25" in shown["relay"]
    assert "s3cr" not in out
    assert "Flask's config" in shown["lease"]
    assert "90" in shown["lease"]


def test_a_mail_is_sent_and_asked_for(flask):
    code, out, err = flask("send", "--to", "ann@example.com", "--text", "hi")
    assert (code, err) == (0, "")
    assert flask("status", out.strip())[0] == 0


def test_options_before_the_command_and_its_exit_codes(flask):
    assert "lease" in flask("--set", "lease=7s", "config", "--changed")[1]
    code, _, err = flask("status", "nothing.0")
    assert code == 1
    assert err.startswith("mailtasks: no message 'nothing.0' is known in redis://")
    code, _, err = flask("statsu")
    assert code == 2
    assert "See `flask mailtasks --help`" in err


def test_help_names_it_as_people_call_it(flask):
    assert flask("--help")[1].startswith("Usage: flask mailtasks [OPTIONS] COMMAND")
    assert flask("worker", "--help")[1].startswith("Usage: flask mailtasks worker [OPTIONS]")


def test_processes_come_to_the_same_settings(make_app, redis_url, monkeypatch):
    app = make_app(MAILTASKS_BROKER_URL=redis_url, **CONFIG)
    host = host_of(app.extensions["mail"], ScriptInfo())
    environment = Context(None, {}, debug=False, host=host).environment
    assert Settings.load(environ=environment) == app.extensions["mail"].settings
    assert host.app == "mailtasks"
    monkeypatch.setenv("MAILTASKS_LEASE", "5")
    monkeypatch.setenv("MAILTASKS_NAMESPACE", "")
    environment = Context(None, {"slice": "3"}, debug=False, host=host).environment
    assert Settings.load(environ=environment).lease == 5, "the environment is stronger, here and there"
    assert Settings.load(environ=environment).slice == 3
    assert "s3cr" not in repr(host)


# --- Its worker --------------------------------------------------------------------------------------


def make_shop() -> Flask:
    app = Flask("shop")
    app.config.update(CELERY_BROKER=os.environ.get("SHOP_BROKER", "redis://127.0.0.1:6379/0"), **CONFIG)
    app.extensions["celery"] = mailtasks.celery.install(
        Celery("shop", broker=app.config["CELERY_BROKER"], set_as_current=False)
    )
    Mail(app)
    return app


@pytest.fixture
def shop(monkeypatch):
    module = ModuleType("shop_of_a_test")
    module.make_shop, module.app = make_shop, make_shop()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize(
    ("script", "place"),
    [
        (ScriptInfo(app_import_path="shop_of_a_test:app"), "shop_of_a_test:app"),
        (ScriptInfo(), ""),
        (ScriptInfo(create_app=make_shop), f"{make_shop.__module__}:make_shop"),
    ],
)
def test_workers_load_the_application_whose_celery_it_is(shop, script, place):
    host = host_of(shop.app.extensions["mail"], script)
    assert (host.app, host.environment) == (WORKER, {"FLASK_APP": place})
    assert host.framework.values["broker_url"] == "redis://127.0.0.1:6379/0"
    variables = Context(None, {}, debug=False, host=host).environment
    assert Settings.load(environ=variables) == shop.app.extensions["mail"].settings


def test_a_program_that_nobody_can_load_is_told(shop):
    with pytest.raises(
        SettingsError, match=r"^workers can't load the Flask app as this program does; run `flask"
    ):
        host_of(shop.app.extensions["mail"], ScriptInfo(create_app=lambda: shop.app))
    with shop.app.app_context(), pytest.raises(click.UsageError, match=r"^workers can't load the Flask app"):
        mailtasks_command.main(["config"], standalone_mode=False, obj=ScriptInfo(create_app=lambda: shop.app))


def test_the_module_for_celery_has_the_applications_celery(shop, monkeypatch):
    monkeypatch.setenv("FLASK_APP", "shop_of_a_test:app")
    monkeypatch.delitem(sys.modules, WORKER, raising=False)
    from mailtasks.contrib.flask import worker

    assert worker.app is shop.app.extensions["celery"]
    assert load("shop_of_a_test:app") is shop.app
    del shop.app.extensions["celery"]
    monkeypatch.delitem(sys.modules, WORKER)
    with pytest.raises(
        SettingsError, match=r"^the Flask app 'shop' has no Celery app that mail goes through; call"
    ):
        __import__(WORKER)


def test_the_shell_has_no_host():
    assert Host().variables == {}
    assert Context(None, {}, debug=False).host == Host()
