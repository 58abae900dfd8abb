"""Our own app, and `install` on one that a user has; in this process, without a worker."""

from __future__ import annotations

import importlib
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from kombu import Queue

import mailtasks
import mailtasks.celery as module
from mailtasks.celery import current_app, install, own_app, send_mail
from mailtasks.errors import SettingsError
from mailtasks.logs import JsonFormatter
from mailtasks.publish import BULK_QUEUE, CELERYS_BROKER, DELIVER, NORMAL_QUEUE, SEND_MAIL, URGENT_QUEUE
from mailtasks.settings import Settings
from mailtasks.state import State

OURS = [URGENT_QUEUE, NORMAL_QUEUE, BULK_QUEUE]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test has a first time, and a folder without a celeryconfig.py."""
    monkeypatch.setattr(module, "_own", None)
    monkeypatch.setattr(module, "_installed", None)
    monkeypatch.setattr("mailtasks.default._default", None)
    sys.modules.pop("celeryconfig", None)
    _search(monkeypatch, [path for path in sys.path if not (Path(path) / "celeryconfig.py").exists()])
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("celeryconfig", None)


def _search(monkeypatch: pytest.MonkeyPatch, path: list[str]) -> None:
    """Another sys.path. Never `syspath_prepend` beside it: that one's undoing would keep the list of here."""
    monkeypatch.setattr(sys, "path", path)
    importlib.invalidate_caches()


@pytest.fixture
def app() -> Celery:
    return Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)


# --- Our own ----------------------------------------------------------------------------------------


def test_our_own_app_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILTASKS_BROKER_URL", "redis://127.0.0.1:1/0")
    app = own_app()
    assert own_app() is module.app is current_app() is app
    assert app.conf.broker_url == "redis://127.0.0.1:1/0"
    assert [app.conf.worker_prefetch_multiplier, app.conf.worker_send_task_events] == [1, True]
    assert list(app.amqp.queues.consume_from) == OURS
    assert {DELIVER, SEND_MAIL} <= set(app.tasks)


@pytest.mark.parametrize("variable", CELERYS_BROKER)
@pytest.mark.parametrize(
    ("ours", "told"),
    [
        ("redis://127.0.0.1:1/0", "(environment MAILTASKS_BROKER_URL): redis://127.0.0.1:1/0"),
        (None, "(default): redis://127.0.0.1:6379/0"),
    ],
)
def test_celery_and_we_are_told_of_two_brokers(
    monkeypatch: pytest.MonkeyPatch, variable: str, ours: str | None, told: str
) -> None:
    if ours:
        monkeypatch.setenv("MAILTASKS_BROKER_URL", ours)
    monkeypatch.setenv(variable, "redis://ann:secret@127.0.0.1:2/0")
    with pytest.raises(SettingsError) as caught:
        send_mail.delay(to="ann@example.com", text="hi")
    assert str(caught.value) == (
        f"broker_url {told} is not what {variable} (or celery -b) says, redis://ann:***@127.0.0.1:2/0; "
        "set MAILTASKS_BROKER_URL instead, which producers know, too"
    )


def test_celery_may_be_told_of_our_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MAILTASKS_BROKER_URL", *CELERYS_BROKER):
        monkeypatch.setenv(variable, "redis://127.0.0.1:1/0")
    assert own_app().mailtasks.settings.broker_url == "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("said", ["variable", "option"])
def test_a_worker_that_celery_alone_is_told_of_a_broker_does_not_start(tmp_path: Path, said: str) -> None:
    elsewhere = "redis://127.0.0.1:9/0"
    command = [sys.executable, "-m", "celery", "-A", "mailtasks"]
    option = ["-b", elsewhere] if said == "option" else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAILTASKS_")}
    if said == "variable":
        environment["CELERY_BROKER_URL"] = elsewhere
    ran = subprocess.run(
        [*command, *option, "worker", "-P", "threads"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ran.returncode == 2
    assert ran.stderr.endswith(  # Celery may warn of root before it
        "mailtasks: broker_url (default): redis://127.0.0.1:6379/0 is not what CELERY_BROKER_URL "
        "(or celery -b) says, redis://127.0.0.1:9/0; set MAILTASKS_BROKER_URL instead, "
        "which producers know, too\n"
    )


def test_a_celeryconfig_is_stronger_than_our_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "celeryconfig.py").write_text(
        "worker_prefetch_multiplier = 3\ntask_annotations = {'mailtasks.deliver': {'max_retries': 2}}\n"
    )
    _search(monkeypatch, [str(tmp_path), *sys.path])
    app = own_app()
    assert app.conf.worker_prefetch_multiplier == 3
    assert app.tasks[DELIVER].max_retries == 2
    assert app.conf.accept_content == ["json"]


def test_the_one_that_a_user_may_copy_says_what_is_the_default_anyway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without = own_app().conf
    _search(monkeypatch, [str(Path(__file__).parents[2]), *sys.path])
    monkeypatch.setattr(module, "_own", None)
    with_it = own_app()
    import celeryconfig

    assert Path(celeryconfig.__file__) == Path(__file__).parents[2] / "celeryconfig.py"
    names = [name for name in vars(celeryconfig) if name.islower() and not name.startswith("_")]
    assert len(names) > 10
    for name in set(names) - {"task_annotations", "task_routes", "task_queues"}:
        assert without[name] == with_it.conf[name], name
    assert list(with_it.amqp.queues.consume_from) == OURS
    assert module.tasks.retry_policy_of(with_it) == module.tasks.RetryPolicy()


def test_one_that_has_transport_options_need_not_know_the_sentinels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILTASKS_BROKER_URL", "sentinel://a;sentinel://b/1?master_name=m")
    _search(monkeypatch, [str(Path(__file__).parents[2]), *sys.path])
    monkeypatch.setattr(module, "_own", None)
    app = own_app()
    assert app.conf.broker_url == "sentinel://a:26379/1;sentinel://b:26379/1"
    assert app.conf.broker_transport_options["master_name"] == "m"
    assert app.conf.broker_transport_options["visibility_timeout"] == 60
    assert app.mailtasks.settings.broker_url == "sentinel://a:26379;sentinel://b:26379/1?master_name=m"


def test_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MAILTASKS_LEASE", "soon")
    with pytest.raises(SettingsError, match="lease"):
        own_app()
    for command in ("/usr/bin/celery", "/lib/celery/__main__.py"):
        monkeypatch.setattr(sys, "argv", [command])
        with pytest.raises(SystemExit) as caught:
            own_app()
        assert caught.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("mailtasks: lease (environment MAILTASKS_LEASE): 'soon' is wrong; ")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            "import nosuch\n",
            "celeryconfig.py can't be imported (ModuleNotFoundError: No module named 'nosuch'); correct it",
        ),
        (
            "task_annotations =\n",
            "celeryconfig.py can't be imported (SyntaxError: invalid syntax (celeryconfig.py, line 1)); "
            "correct it",
        ),
        *[
            (
                f"{name} = 'redis://elsewhere/0'\n",
                f"celeryconfig.py: {name} can't stand there, for producers would not know it; "
                "set MAILTASKS_BROKER_URL instead",
            )
            for name in ("broker_url", "BROKER_URL", "broker_write_url")
        ],
    ],
    ids=["import", "syntax", "broker_url", "BROKER_URL", "broker_write_url"],
)
def test_a_wrong_celeryconfig(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: str, sentence: str
) -> None:
    Path("celeryconfig.py").write_text(config)
    importlib.invalidate_caches()
    with pytest.raises(SettingsError) as caught:
        own_app()
    assert str(caught.value) == sentence
    sys.modules.pop("celeryconfig", None)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/celery"])
    with pytest.raises(SystemExit):
        own_app()
    assert capsys.readouterr().err == f"mailtasks: {sentence}\n"


def test_a_name_that_isnt_there() -> None:
    with pytest.raises(AttributeError, match=r"module 'mailtasks\.celery' has no attribute 'ap'"):
        module.ap  # noqa: B018


# --- A user's ---------------------------------------------------------------------------------------


def test_install_reads_nothing_and_finalizes_nothing(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILTASKS_LEASE", "soon")
    assert install(app) is app is current_app()
    assert not app.finalized
    assert not app.configured


def test_queues_and_routes_beside_the_apps_own(app: Celery) -> None:
    install(app)
    app.conf.task_queues = [Queue("orders"), Queue("shop")]
    app.conf.task_routes = {"shop.*": {"queue": "orders"}}
    app.finalize()
    assert list(app.amqp.queues.consume_from) == ["orders", "shop", *OURS]
    route = app.amqp.router.route
    assert route({}, "shop.note")["queue"].name == "orders"
    assert route({}, SEND_MAIL)["queue"].name == NORMAL_QUEUE


def test_an_apps_own_route_for_our_task_is_stronger(app: Celery) -> None:
    app.conf.task_routes = [{SEND_MAIL: {"queue": BULK_QUEUE}}]
    app.finalize()
    install(app)
    assert app.amqp.router.route({}, SEND_MAIL)["queue"].name == BULK_QUEUE


def test_annotations_that_come_after_install_are_obeyed(app: Celery) -> None:
    install(app)
    app.config_from_object(SimpleNamespace(CELERY_TASK_ANNOTATIONS={DELIVER: {"max_retries": 2}}),
                           namespace="CELERY")  # fmt: skip
    assert app.tasks[DELIVER].max_retries == 2


def test_a_namespace_names_the_queues(app: Celery) -> None:
    install(app, Settings(namespace="shop"))
    app.finalize()
    assert set(app.amqp.queues.consume_from) == {"celery", "shop-1-urgent", "shop-2-normal", "shop-3-bulk"}


@pytest.mark.parametrize("own", [{}, {"socket_timeout": 9, "visibility_timeout": 60}])
def test_a_broker_that_hangs_holds_up_nobody_for_ever(app: Celery, own: dict[str, float]) -> None:
    app.conf.broker_transport_options = own
    install(app, Settings(redis_timeout=3, redis_connect_timeout=1))
    app.finalize()
    options = app.conf.broker_transport_options
    assert options == {"socket_timeout": 3, "socket_connect_timeout": 1, "health_check_interval": 3, **own}


def test_a_wrong_setting_leaves_an_apps_own_tasks_alone(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILTASKS_LEASE", "soon")
    install(app)
    app.finalize()
    assert list(app.amqp.queues.consume_from) == ["celery"]
    with pytest.raises(SettingsError, match="lease"):
        send_mail.delay(to="ann@example.com", text="hi")


def test_send_mail_is_the_task_of_the_app_that_was_installed_last(app: Celery) -> None:
    install(app)
    assert send_mail.app is app
    other = Celery("other", broker="redis://127.0.0.1:1/0", set_as_current=False)
    install(other)
    assert send_mail.app is other


# --- Which broker -----------------------------------------------------------------------------------


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> str:
    """The broker of our settings."""
    url = "rediss://ann:secret@127.0.0.1:1/7"
    monkeypatch.setenv("MAILTASKS_BROKER_URL", url)
    return url


def brokers(app: Celery) -> list[str]:
    """Where hints go, where workers look for them, where the ledger is."""
    connections = [app.connection_for_write(), app.connection_for_read()]
    return [*(it.as_uri(include_password=True) for it in connections), app.mailtasks.settings.store_url]


@pytest.mark.parametrize("given", [{}, {"broker": None}], ids=["nothing", "None"])
def test_an_app_that_names_no_broker_takes_ours(ours: str, given: dict[str, None]) -> None:
    app = install(Celery("shop", set_as_current=False, **given))
    assert brokers(app) == [ours] * 3
    assert app.conf.broker_use_ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}


def test_also_if_it_was_configured_before(ours: str) -> None:
    app = Celery("shop", set_as_current=False)
    assert app.conf.broker_url is None
    assert brokers(install(app)) == [ours] * 3


def test_settings_that_are_given_name_it_as_well() -> None:
    app = install(Celery("shop", set_as_current=False), Settings(broker_url="redis://127.0.0.1:1/5"))
    assert brokers(app) == ["redis://127.0.0.1:1/5"] * 3


@pytest.mark.usefixtures("ours")
def test_what_an_app_is_given_later_is_stronger() -> None:
    broker = "redis://127.0.0.1:1/3"
    app = install(Celery("shop", set_as_current=False))
    assert app.conf.broker_url
    app.conf.broker_url = broker
    assert brokers(app) == [broker] * 3
    other = install(Celery("shop", set_as_current=False))
    assert other.conf.broker_url
    other.config_from_object(SimpleNamespace(CELERY_BROKER_URL=broker), namespace="CELERY")
    assert brokers(other) == [broker] * 3


def test_a_wrong_setting_lends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILTASKS_LEASE", "soon")
    assert install(Celery("shop", set_as_current=False)).conf.broker_url is None


def test_the_modules_functions_go_through_the_app_that_was_installed_last(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILTASKS_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("MAILTASKS_DEFAULT_FROM", "shop@example.com")
    before = mailtasks.default_mailer()
    app = install(Celery("shop", broker=redis_url, set_as_current=False))
    result = send_mail.delay(to="ann@example.com", text="hi")
    assert mailtasks.status(result.id).state is State.QUEUED
    assert mailtasks.default_mailer() is app.mailtasks.mailer is not before
    monkeypatch.setattr(module, "_installed", None)
    own_app()
    assert mailtasks.default_mailer() is before, "our own app is no app of the user's"


# --- Settings that change, as in tests -----------------------------------------------------------------


def test_our_own_app_reads_them_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILTASKS_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("MAILTASKS_LEASE", "20")
    default = mailtasks.default_mailer()
    assert own_app().mailtasks.settings.lease == 20
    monkeypatch.setenv("MAILTASKS_LEASE", "30")
    monkeypatch.setenv("MAILTASKS_BROKER_URL", "redis://127.0.0.1:1/5")
    assert own_app().mailtasks.settings.lease == 20
    module.forget_settings()
    assert own_app().mailtasks.settings.lease == own_app().mailtasks.mailer.settings.lease == 30
    assert own_app().conf.broker_url == own_app().mailtasks.settings.broker_url == "redis://127.0.0.1:1/5"
    assert mailtasks.default_mailer() is not default


def test_an_app_that_was_configured_in_anothers_environment_is_lent_a_broker_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAILTASKS_BROKER_URL", "redis://127.0.0.1:1/5")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    app = install(Celery("shop", set_as_current=False))
    assert app.conf.broker_url == "redis://127.0.0.1:1/0"
    monkeypatch.delenv("CELERY_BROKER_URL")
    module.forget_settings()
    assert app.conf.broker_url == app.mailtasks.settings.broker_url == "redis://127.0.0.1:1/5"


def test_an_installed_app_that_is_led_to_another_broker(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = install(Celery("shop", broker="memory://", set_as_current=False))
    app.finalize()
    before = app.pool
    with pytest.raises(SettingsError, match=r"^broker_url \(the Celery app\): "):
        app.mailtasks.settings  # noqa: B018
    assert list(app.amqp.queues.consume_from) == ["celery"], "its queues aren't known"
    monkeypatch.setenv("CELERY_BROKER_URL", redis_url)
    for _ in range(2):
        module.forget_settings()
        assert app.mailtasks.settings.broker_url == app.mailtasks.settings.store_url == redis_url
        assert list(app.amqp.queues.consume_from) == ["celery", *OURS]
        assert app.pool is not before
        assert app.conf.task_routes == [{SEND_MAIL: {"queue": NORMAL_QUEUE}}]


def test_settings_that_were_given_stay(app: Celery) -> None:
    install(app, Settings(broker_url="redis://127.0.0.1:1/0", lease=20))
    module.forget_settings()
    assert app.mailtasks.settings.lease == 20


# --- Log lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_workers_log_is_json_on_demand(app: Celery, log_format: str) -> None:
    install(app, Settings(log_format=log_format))
    logger = logging.Logger("probe")
    logger.addHandler(logging.NullHandler())
    module._write_json(logger)
    assert isinstance(logger.handlers[0].formatter, JsonFormatter) == (log_format == "json")
