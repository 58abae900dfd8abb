"""`examples/django` as it is run: its server, a worker, a server that catches the mail; driven over HTTP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener

import pytest

import mailtasks
from mailtasks.local.processes import Child
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.settings import SETTINGS, Settings
from mailtasks.state import State
from mailtasks.testing import CatchingServer, LocalRedis
from mailtasks.testing import wait_until as wait_until_within

wait_until = partial(wait_until_within, timeout=45)
EXAMPLE = Path(mailtasks.__file__).parents[1] / "examples" / "django"

# The shop's own settings, and, in MAILTASKS alone, where this test's servers are.
HERE = """
from shop.settings import *
MAILTASKS = MAILTASKS | {{"BROKER_URL": {redis!r}, "RELAY": {relay!r}}}
{more}
"""


class Browser:
    """Cookies, and forms that are sent back with what stands in them."""

    def __init__(self, base: str, language: str = "en") -> None:
        self.base = base
        self._open = build_opener(HTTPCookieProcessor(CookieJar())).open
        self._language = language

    def get(self, path: str, form: dict[str, object] | None = None) -> tuple[int, str]:
        data = urlencode(form, doseq=True).encode() if form else None
        request = Request(self.base + path, data, {"Accept-Language": self._language})
        try:
            with self._open(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def send(self, path: str, **fields: object) -> tuple[int, str]:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.get(path)[1])
        assert token, path
        return self.get(path, fields | {"csrfmiddlewaretoken": token[1]})


@dataclass
class Shop:
    """The example, running."""

    url: str
    relay: CatchingServer
    mailer: Mailer
    manage: Callable[..., str]

    def mail_to(self, address: str) -> EmailMessage:
        caught = wait_until(lambda: [it for it in self.relay.messages if it.recipients == (address,)])
        return message_from_bytes(caught[0].content, policy=policy.default)  # type: ignore[return-value]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    monkeypatch.chdir(EXAMPLE)
    ours = {setting.variable for setting in SETTINGS.values()}
    here = {name: value for name, value in os.environ.items() if name not in ours}
    return here | {
        "DJANGO_SETTINGS_MODULE": "here",
        "PYTHONPATH": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SHOP_DATABASE": str(tmp_path / "shop.db"),
        "DJANGO_SUPERUSER_PASSWORD": "secret",
    }


@pytest.fixture
def start(
    environment: dict[str, str], own_redis: LocalRedis, sink: CatchingServer, tmp_path: Path
) -> Iterator[Callable[..., Shop]]:
    running: list[Child] = []

    def start(*, more: str = "", worker: tuple[str, ...] = ()) -> Shop:
        (tmp_path / "here.py").write_text(HERE.format(redis=own_redis.url, relay=sink.url, more=more))
        manage = [sys.executable, "manage.py"]

        def run(*words: str) -> str:
            ran = subprocess.run(
                [*manage, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            assert ran.returncode == 0, ran.stderr
            return ran.stdout

        run("migrate", "--verbosity=0")
        url = f"127.0.0.1:{free_port()}"
        log = tmp_path / "log"
        for words in (
            ["runserver", "--noreload", url],
            ["mailtasks", "worker", "--processes=1", "--concurrency=2", *worker],
        ):
            running.append(Child([*manage, *words], environment=environment, output=log))
        wait_until(partial(answers, f"http://{url}/signup"), what=f"the server ({log.read_text()})")
        return Shop(f"http://{url}", sink, Mailer(Settings(broker_url=own_redis.url)), run)

    yield start
    for child in reversed(running):
        child.stop()


def answers(url: str) -> bool:
    try:
        return Browser(url).get("")[0] == 200
    except URLError:
        return False


def test_the_shop(start: Callable[..., Shop]) -> None:
    shop = start()
    shop.manage("createsuperuser", "--noinput", "--username=root", "--email=root@example.com")
    with shop.mailer:
        a_code_is_sent_in_the_browsers_language(shop)
        an_order_is_confirmed_if_it_is_committed(shop)
        the_admin_sends_a_newsletter(shop)
        assert "accepted" in shop.manage("mailtasks", "stats")


def a_code_is_sent_in_the_browsers_language(shop: Shop) -> None:
    assert Browser(shop.url, "de").send("/signup", email="ann@example.com") == (
        200,
        "We have sent you a code.",
    )
    assert Browser(shop.url).send("/signup", email="bob@example.com")[0] == 200
    assert re.fullmatch(r"Ihr Code: \d{6}", shop.mail_to("ann@example.com")["Subject"])
    mail = shop.mail_to("bob@example.com")
    code = mail["Subject"].removeprefix("Your code: ")
    text, html = mail.get_body(["plain"]), mail.get_body(["html"])
    assert text is not None
    assert html is not None
    assert text.get_content().strip() == code
    assert code in html.get_content()


def an_order_is_confirmed_if_it_is_committed(shop: Shop) -> None:
    before = shop.mailer.stats().accepted
    assert Browser(shop.url).send("/order", email="eve@example.com", item="elephant")[0] == 409
    status, id = Browser(shop.url).send("/order", email="eve@example.com", item="cake")
    assert status == 200
    assert shop.mail_to("eve@example.com").get_content().strip() == "Thank you for cake."
    wait_until(lambda: shop.mailer.status(id).state is State.SENT)
    assert shop.mailer.status(id).metadata == {"order": "1"}
    assert shop.mailer.stats().accepted == before + 1


def the_admin_sends_a_newsletter(shop: Shop) -> None:
    browser = Browser(shop.url)
    browser.send("/admin/login/?next=/admin/", username="root", password="secret")
    status, page = browser.send(
        "/admin/shop/subscriber/", action="send_newsletter", _selected_action=["1", "2"]
    )
    assert (status, "2 mails are on their way." in page) == (200, True)
    news = wait_until(lambda: [it for it in shop.relay.messages if b"Subject: News" in it.content][1:])
    assert len(news) == 1


PROJECT = """
import os

from celery import Celery

import mailtasks.celery
from mailtasks.contrib.django.signals import message_sent

app = Celery("proj", set_as_current=False)
app.config_from_object("django.conf:settings", namespace="CELERY")
mailtasks.celery.install(app)


def note(recipient, tags, **rest):
    with open(os.environ["SHOP_DATABASE"] + ".sent", "a") as book:
        print(recipient, *tags, file=book)


message_sent.connect(note)
"""


def test_in_a_project_that_shares_its_celery_app(
    start: Callable[..., Shop], own_redis: LocalRedis, tmp_path: Path
) -> None:
    (tmp_path / "proj.py").write_text(PROJECT)
    more = f"import proj\ndel MAILTASKS['BROKER_URL']\nCELERY_BROKER_URL = {own_redis.url!r}"
    shop = start(more=more, worker=("-A", "proj"))
    with shop.mailer:
        assert Browser(shop.url).send("/signup", email="ann@example.com")[0] == 200
        assert shop.mail_to("ann@example.com")["From"] == "The Shop <shop@example.com>"
        heard = tmp_path / "shop.db.sent"
        wait_until(lambda: heard.exists() and heard.read_text() == "ann@example.com\n")
