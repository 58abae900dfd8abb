"""`examples/fastapi` as it is run: uvicorn, a worker, its outbox's relay, a server that catches the mail."""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mailtasks
from mailtasks.local.processes import Child
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.settings import PREFIX
from mailtasks.state import State
from mailtasks.testing import CatchingServer, LocalRedis
from mailtasks.testing import wait_until as wait_until_within
from mailtasks.testing.proxy import Proxy

EXAMPLE = Path(mailtasks.__file__).parents[1] / "examples" / "fastapi"
wait_until = partial(wait_until_within, timeout=45)  # seconds; other tests may run beside these
PROMPT = 10  # seconds, of which far less is needed
LONG = "60s"  # how long Redis is waited for, where it hangs until a test has seen enough


class Shop:
    """The application's processes, in a folder of their own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.port = free_port()
        own = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "SHOP_"))}
        mark = os.environ["MAILTASKS_TEST_SESSION"]
        self._environment = {
            **own,
            "MAILTASKS_TEST_SESSION": mark,
            "MAILTASKS_DEFAULT_FROM": "shop@example.com",
            "MAILTASKS_DATABASE_URL": f"sqlite:///{folder}/shop.db",
            "SHOP_DATABASE_URL": f"sqlite+aiosqlite:///{folder}/shop.db",
            "SHOP_PASSWORD": "let-me-in",
            **environment,
        }
        self._children: list[Child] = []

    def start(self, *words: str, ready: str, times: int = 1, **environment: str) -> Child:
        log = self.folder / f"process{len(self._children)}.log"
        child = Child(
            [sys.executable, "-m", *words], environment={**self._environment, **environment}, output=log
        )
        self._children.append(child)
        wait_until(lambda: log.read_text().count(ready) >= times, what=f"{words}: saying {ready!r}")
        return child

    def serve(self, **environment: str) -> Child:
        where = ("--app-dir", str(EXAMPLE), "--port", str(self.port))
        return self.start("uvicorn", "shop:app", *where, ready="Uvicorn running on", **environment)

    def work(self) -> None:
        options = ("--processes", "1", "-c", "2")
        self.start("mailtasks.cli", "worker", *options, ready=" ready.", times=2)
        self.start("mailtasks.cli", "outbox", "run", "--interval", "0.1", ready="")

    def ask(
        self, path: str, login: str = "", within: float = 30, **fields: str
    ) -> tuple[int, dict[str, Any]]:
        """GET, or POST if there are fields."""
        headers = {"Content-Type": "application/json"}
        if login:
            headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
        data = json.dumps(fields).encode() if fields else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=within) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)

    def said(self) -> str:
        return "\n".join(log.read_text() for log in self.folder.glob("*.log"))

    def close(self) -> None:
        for child in reversed(self._children):
            child.stop()


@pytest.fixture
def shop(tmp_path: Path, sink: CatchingServer) -> Iterator[Callable[..., Shop]]:
    shops: list[Shop] = []

    def make(redis_url: str, **environment: str) -> Shop:
        shops.append(Shop(tmp_path, MAILTASKS_BROKER_URL=redis_url, MAILTASKS_RELAY=sink.url, **environment))
        return shops[-1]

    yield make
    for one in shops:
        one.close()


def test_the_example(shop: Callable[..., Shop], redis_url: str, sink: CatchingServer) -> None:
    one = shop(redis_url)

    def mail(number: int) -> Any:
        """What came as the mail of that number, from 1."""
        wait_until(lambda: len(sink.messages) >= number, what=f"mail {number}; {one.said()[-3000:]}")
        return email.message_from_bytes(sink.messages[number - 1].content, policy=email.policy.default)

    server = one.serve()
    one.work()

    assert one.ask("/signup", email="ann")[0] == 422
    status, sent = one.ask("/signup", email="ann@example.com")
    assert status == 202
    assert (mail(1)["To"], mail(1)["From"], mail(1)["Subject"]) == (
        "ann@example.com",
        "shop@example.com",
        "Your code",
    )
    wait_until(lambda: one.ask(f"/mail/{sent['mail']}")[1].get("state") == "sent", what="its being recorded")
    assert one.ask("/mail/nothing")[0] == 404
    code = re.search(r"\d{6}", mail(1).get_content())
    assert code
    wrong = str((int(code[0]) + 1) % 10**6).zfill(6)
    assert one.ask("/orders", email="ann@example.com", item="tea")[0] == 403
    for wrong_code in (wrong, "é"):
        assert one.ask("/signup/confirm", email="ann@example.com", code=wrong_code)[0] == 400
    assert one.ask("/signup/confirm", email="ann@example.com", code=code[0])[0] == 200
    assert mail(2)["Subject"] == "Welcome"

    assert one.ask("/orders", email="ann@example.com", item="elephant")[0] == 409
    status, order = one.ask("/orders", email="ann@example.com", item="tea")
    assert (status, order["order"]) == (201, 1), "the one before it was rolled back, with its mail"
    assert "You ordered: tea." in mail(3).get_content()
    assert mail(3)["Message-ID"] == f"<{order['mail']}@example.com>"

    letter = {"name": "spring", "subject": "Spring", "text": "It is spring.\n{{ unsubscribe_url }}\n"}
    assert one.ask("/newsletter", **letter)[0] == 401
    assert one.ask("/newsletter", login="root:guess", **letter)[0] == 401
    status, report = one.ask("/newsletter", login="root:let-me-in", **letter)
    assert (status, report.get("accepted")) == (202, 1), report
    link = re.search(r"https://shop.example.com(/unsubscribe/\S+)", mail(4).get_content())
    assert link
    assert mail(4)["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert one.ask(link[1], it="List-Unsubscribe=One-Click") == (200, {"subscribed": False})
    status, refused = one.ask("/newsletter", login="root:let-me-in", **letter)
    assert (status, list(refused)) == (422, ["error"]), "nobody is left who wants it"

    server.stop()
    assert "Application shutdown complete." in one.said()
    assert len(sink.messages) == 4
    assert sink.violations == []


def test_while_redis_hangs_other_requests_are_answered(
    shop: Callable[..., Shop], own_redis: LocalRedis, sink: CatchingServer
) -> None:
    with Proxy("127.0.0.1", own_redis.port) as proxy, ThreadPoolExecutor() as browsers:
        proxy.hang()
        one = shop(own_redis.url)
        far = f"redis://127.0.0.1:{proxy.port}/0"
        one.serve(
            MAILTASKS_BROKER_URL=far, MAILTASKS_REDIS_TIMEOUT=LONG, MAILTASKS_REDIS_CONNECT_TIMEOUT=LONG
        )
        assert proxy.connections == 0, "it starts without Redis"

        waiting = [
            browsers.submit(one.ask, "/signup", email=f"r{n}@example.com", within=60) for n in range(3)
        ]
        wait_until(lambda: proxy.connections, what="the sign-ups being at Redis")
        assert one.ask("/", within=PROMPT) == (200, {"open": True})
        assert one.ask("/orders", within=PROMPT, email="r1@example.com", item="tea")[0] == 403
        assert not any(answer.done() for answer in waiting)

        proxy.resume()
        ids = [answer.result()[1]["mail"] for answer in waiting]
        with Mailer(broker_url=own_redis.url) as mailer:
            assert {mailer.status(id).state for id in ids} == {State.QUEUED}


def test_redis_away(shop: Callable[..., Shop]) -> None:
    """A code can't be sent, and that is said; nobody waits for a confirmation."""
    one = shop(f"redis://127.0.0.1:{free_port()}/0")
    one.serve()
    assert one.ask("/signup", email="ann@example.com")[0] == 503
    letter = {"name": "spring", "subject": "Spring", "text": "It is spring."}
    assert one.ask("/newsletter", login="root:let-me-in", **letter)[0] == 503


def test_a_wrong_setting_stops_the_start(shop: Callable[..., Shop], redis_url: str) -> None:
    one = shop(redis_url, MAILTASKS_LEASE="soon")
    where = ("--app-dir", str(EXAMPLE), "--port", str(one.port))
    one.start("uvicorn", "shop:app", *where, ready="Application startup failed")
    assert "lease (environment MAILTASKS_LEASE): 'soon' is wrong" in one.said()
