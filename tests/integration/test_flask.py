"""Flask with a real worker: the example, driven over HTTP, and an application that shares its Celery."""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import mailtasks
from mailtasks import Mailer, State
from mailtasks.local.processes import Child
from mailtasks.local.redis import free_port
from mailtasks.settings import PREFIX
from mailtasks.testing import CatchingServer, LocalRedis
from mailtasks.testing import wait_until as wait_until_within

EXAMPLE = Path(mailtasks.__file__).parents[1] / "examples" / "flask"
wait_until = partial(wait_until_within, timeout=45)  # seconds; other tests may run beside these

SHARED = '''
"""As Flask's documentation sets up Celery, and two lines."""
from celery import Celery, Task
from flask import Flask, current_app

import mailtasks.celery
from mailtasks.contrib.flask import Mail, Message

mail = Mail()

def celery_init_app(app):
    class FlaskTask(Task):
        def __call__(self, *args, **kwargs):
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    mailtasks.celery.install(celery_app)
    app.extensions["celery"] = celery_app
    return celery_app

def create_app():
    app = Flask("shared")
    app.config.from_prefixed_env()
    app.config["CELERY"] = {"broker_url": app.config["BROKER"], "task_ignore_result": True}
    celery = celery_init_app(app)
    mail.init_app(app)

    @celery.task(name="shared.greet")
    def greet(address):
        mail.send(Message(f"from {current_app.name}", [address], "Hello"))

    return app
'''


class Shop:
    """An application's web server and worker, in a folder, and a server that catches its mail."""

    def __init__(self, app: Path, folder: Path, sink: CatchingServer, **config: str) -> None:
        self.folder = folder
        self.sink = sink
        self.port = free_port()
        self._flask = [sys.executable, "-m", "flask", "--app", str(app)]
        ours = (PREFIX, "FLASK_")
        own = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        mark = os.environ["MAILTASKS_TEST_SESSION"]
        self.environment = {**own, "MAILTASKS_TEST_SESSION": mark, **config}
        self._children: list[Child] = []

    def start(self, *words: str, ready: str, times: int = 1) -> None:
        log = self.folder / f"process{len(self._children)}.log"
        there = ["sh", "-c", f"cd '{self.folder}' && exec \"$@\"", "sh"]
        child = Child([*there, *words], environment=self.environment, output=log)
        self._children.append(child)
        wait_until(lambda: log.read_text().count(ready) >= times, what=f"{words}: saying {ready!r}")

    def serve(self) -> None:
        self.start(*self._flask, "run", "--port", str(self.port), ready="Running on")

    def work(self) -> None:
        options = ("--processes", "1", "-c", "2")
        self.start(*self._flask, "mailtasks", "worker", *options, ready=" ready.", times=2)

    def post(self, path: str, headers: dict[str, str] | None = None, **form: str) -> tuple[int, Any]:
        data = urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                text = refused.read().decode()
            return refused.code, json.loads(text) if text.startswith("{") else text

    def command(self, *words: str) -> str:
        ran = subprocess.run(
            [*self._flask, *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def mail(self, number: int) -> Any:
        """What came as the mail of that number, from 1."""
        wait_until(lambda: len(self.sink.messages) >= number, what=f"mail {number}; {self.said()[-3000:]}")
        return email.message_from_bytes(self.sink.messages[number - 1].content, policy=email.policy.default)

    def said(self) -> str:
        return "\n".join(log.read_text() for log in self.folder.glob("*.log"))

    def close(self) -> None:
        for child in reversed(self._children):
            child.stop()


@pytest.fixture
def shop(tmp_path: Path, sink: CatchingServer) -> Iterator[Callable[..., Shop]]:
    shops: list[Shop] = []

    def make(app: Path, **config: str) -> Shop:
        shops.append(Shop(app, tmp_path, sink, **config))
        return shops[-1]

    yield make
    for one in shops:
        one.close()


def test_the_example(shop: Callable[..., Shop], own_redis: LocalRedis, sink: CatchingServer) -> None:
    one = shop(
        EXAMPLE / "shop.py",
        FLASK_MAIL_SERVER="127.0.0.1",
        FLASK_MAIL_PORT=str(sink.port),
        FLASK_MAIL_DEFAULT_SENDER="shop@example.com",
        FLASK_MAILTASKS_BROKER_URL=own_redis.url,
        FLASK_ADMIN_TOKEN="let-me-in",
    )
    one.serve()
    one.work()

    assert one.post("/signup", email="ann")[0] == 400
    assert one.post("/signup", email="ann@example.com") == (202, {"sent": True})
    mail = one.mail(1)
    assert (mail["To"], mail["From"], mail["Subject"]) == ("ann@example.com", "shop@example.com", "Your code")
    code = re.search(r"\d{6}", mail.get_content())
    assert code
    wrong = str((int(code[0]) + 1) % 10**6).zfill(6)
    assert one.post("/orders", email="ann@example.com", item="tea")[0] == 403
    for wrong_code in (wrong, "é"):
        assert one.post("/signup/confirm", email="ann@example.com", code=wrong_code)[0] == 400
    assert one.post("/signup/confirm", email="ann@example.com", code=code[0])[0] == 200

    assert one.post("/orders", email="ann@example.com", item="nothing")[0] == 409
    status, order = one.post("/orders", email="ann@example.com", item="tea")
    assert (status, order["order"]) == (201, 1), "the one before it was rolled back, with its mail"
    assert "You ordered: tea." in one.mail(2).get_content()
    assert one.mail(2)["Message-ID"] == f"<{order['mail']}@example.com>"
    with Mailer(broker_url=own_redis.url) as mailer:
        wait_until(lambda: mailer.status(order["mail"]).state is State.SENT, what="its being recorded")

    letter = {"name": "spring", "subject": "Spring", "text": "It is spring.\n{{ unsubscribe_url }}\n"}
    assert one.post("/newsletter", **letter)[0] == 403
    status, report = one.post("/newsletter", {"X-Admin-Token": "let-me-in"}, **letter)
    assert (status, report.get("accepted")) == (202, 1), report
    mail = one.mail(3)
    link = re.search(r"https://shop.example.com(/unsubscribe/\S+)", mail.get_content())
    assert link
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert one.post(link[1]) == (200, {"subscribed": False})
    status, refused = one.post("/newsletter", {"X-Admin-Token": "let-me-in"}, **letter)
    assert (status, list(refused)) == (422, ["error"]), "nobody is left who wants it"
    assert len(sink.messages) == 3
    assert sink.violations == []

    own_redis.stop()
    assert one.post("/orders", email="ann@example.com", item="rice")[0] == 201, "it is committed"
    assert one.post("/signup", email="bob@example.com")[0] == 503


def test_an_application_that_shares_its_celery(
    shop: Callable[..., Shop], tmp_path: Path, redis_url: str, sink: CatchingServer
) -> None:
    """Its workers run its tasks in its context and send its mail, through the relay of its config."""
    (tmp_path / "shared.py").write_text(SHARED)
    one = shop(
        tmp_path / "shared.py",
        FLASK_MAIL_SERVER="127.0.0.1",
        FLASK_MAIL_PORT=str(sink.port),
        FLASK_MAIL_DEFAULT_SENDER="Shop <shop@example.com>",
        FLASK_BROKER=redis_url,
        FLASK_MAILTASKS_NAMESPACE="shared",
    )
    one.environment["FLASK_APP"] = str(tmp_path / "shared.py")
    celery = (
        sys.executable,
        "-m",
        "celery",
        "-A",
        "mailtasks.contrib.flask.worker",
        "worker",
        "-P",
        "threads",
    )
    one.start(*celery, "-c", "2", "-l", "INFO", "--without-mingle", "--without-gossip", ready=" ready.")
    typed = ("--to", "ann@example.com", "--subject", "typed", "--text", "x")
    [id] = one.command("mailtasks", "send", *typed).split()
    assert one.mail(1)["From"] == "Shop <shop@example.com>"
    assert one.mail(1)["Message-ID"] == f"<{id}@example.com>"
    with Celery("elsewhere", broker=redis_url, set_as_current=False) as elsewhere:
        elsewhere.send_task("shared.greet", args=["bob@example.com"])
    assert one.mail(2)["Subject"] == "from shared"
