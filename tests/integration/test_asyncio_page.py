"""`docs/how-to/asyncio.md` as a reader runs it: every block of Python, then its server, asked over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvicorn
from sqlalchemy import create_engine

import mailtasks
from mailtasks.settings import SETTINGS
from mailtasks.testing import wait_until
from tests.pages import fences

PAGE = Path(mailtasks.__file__).parents[1] / "docs" / "how-to" / "asyncio.md"


@pytest.fixture
def page(tmp_path, redis_url, monkeypatch, capsys) -> Iterator[dict[str, Any]]:
    """What the page's blocks define."""
    monkeypatch.chdir(tmp_path)
    for setting in SETTINGS.values():
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.setenv("MAILTASKS_BROKER_URL", redis_url)
    monkeypatch.setenv("MAILTASKS_DEFAULT_FROM", "shop@example.com")
    monkeypatch.setattr("mailtasks.default._default", None)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where FastAPI looks up what annotations name
    defined = vars(module)
    for language, code in fences(PAGE):
        if language == "python":
            exec(compile(code, PAGE.name, "exec", dont_inherit=True), defined)
    assert capsys.readouterr().out == "queued\n", "the program without a mailer of its own"
    yield defined
    asyncio.run(defined["engine"].dispose())
    mailtasks.default_mailer().close()


@pytest.fixture
def url(page) -> Iterator[str]:
    page["app"].router.lifespan_context = page["lifespan"]  # the page's last one
    server = uvicorn.Server(uvicorn.Config(page["app"], port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, timeout=45)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def ask(url: str, **query: str) -> Any:
    """POST, if there is a query; the answer, or the status that isn't one of success."""
    method = "POST" if query else "GET"
    request = urllib.request.Request(f"{url}?{urllib.parse.urlencode(query)}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


@contextmanager
def redis_at(url: str, app: Any, **settings: Any) -> Iterator[None]:
    """Within the block, the application has a mailer whose Redis is there."""
    before = app.state.mailer
    with mailtasks.Mailer(broker_url=url, **settings) as app.state.mailer:
        yield
    app.state.mailer = before


def test_the_page_does_what_it_says(page, url):
    outbox, engine = page["outbox"], create_engine("sqlite:///shop.db")
    sent = ask(f"{url}/signup", email="ann@example.com")["mail"]
    assert ask(f"{url}/mail/{sent}") == {"state": "queued"}
    assert ask(f"{url}/newsletter", subject="Spring") == {"accepted": 2}
    order = ask(f"{url}/orders", email="bob@example.com")
    assert ask(f"{url}/gifts", email="bob@example.com", item="elephant") == 409
    gift = ask(f"{url}/gifts", email="bob@example.com", item="tea")["mail"]
    codes = [ask(f"{url}/codes", email="eve@example.com", request="7")["mail"] for _ in range(2)]
    assert codes[0] == codes[1]
    mailer = mailtasks.default_mailer()
    assert outbox.relay(engine, mailer).drain().accepted == 1
    engine.dispose()
    assert {mailtasks.status(id).state for id in (order["thanks"], order["bill"], gift)} == {"queued"}
    assert mailer.stats().accepted == 8


def test_errors_become_statuses(page, url):
    assert ask(f"{url}/mail/nobody-knows-it") == 404
    assert ask(f"{url}/signup", email="nobody@") == 422
    ask(f"{url}/codes", email="ann@example.com", request="8")
    assert ask(f"{url}/codes", email="bob@example.com", request="8") == 409


def test_who_waits_too_long_is_told(page, url):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with redis_at(broker, page["app"], redis_timeout=60):
            assert ask(f"{url}/codes", email="ann@example.com", request="9") == 504
            silent.close()  # which ends the call that goes on


def test_a_committed_order_is_no_error(page, url):
    """Nobody is told to repeat it, and its mail is sent later, under the same id."""
    with redis_at("redis://127.0.0.1:1/0", page["app"]):
        assert ask(f"{url}/signup", email="ann@example.com") == 503
        [thanks] = ask(f"{url}/orders", email="ann@example.com")["mail"]
        [gift] = ask(f"{url}/gifts", email="ann@example.com", item="tea")["mail"]
    engine = create_engine("sqlite:///shop.db")
    with engine.connect() as connection:
        assert page["outbox"].status(connection).rows["waiting"] == 1, "the order's bill"
    engine.dispose()
    asyncio.run(page["send_again"]())
    assert not page["unsent"]
    assert {mailtasks.status(id).state for id in (thanks, gift)} == {"queued"}
