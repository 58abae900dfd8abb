"""A worker in a thread of this process: how it starts and ends, and what it says if it doesn't."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from celery import Celery
from celery import _state as celery_state

from mailtasks.celery import install
from mailtasks.errors import SettingsError, UnknownMessage
from mailtasks.message import Message
from mailtasks.settings import Settings
from mailtasks.testing import CatchingServer
from mailtasks.testing import worker as module
from mailtasks.testing.worker import running_worker


@pytest.fixture
def app(redis_url: str, sink: CatchingServer) -> Iterator[Celery]:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    settings = Settings(
        broker_url=redis_url, relay=sink.url, default_from="shop@example.com", pump_interval=0.1
    )
    yield install(app, settings)
    app.mailtasks.mailer.close()


LETTER = Message(to="ann@example.com", text="1234")


def test_it_delivers_and_leaves_no_thread(app: Celery, sink: CatchingServer) -> None:
    threads, default = set(threading.enumerate()), celery_state.default_app

    @app.task
    def eager() -> str:
        return "done"

    for _ in range(2):
        with running_worker(app) as worker:
            status = worker.wait_for(app.mailtasks.mailer.send(LETTER))
            assert (status.state, worker.app) == ("sent", app)
            assert eager.apply().get() == "done", "a test may wait for a result"
        assert set(threading.enumerate()) == threads
        assert celery_state.default_app is default
    assert len(sink.messages) == 2


def test_what_it_has_in_hand_is_finished(app: Celery, sink: CatchingServer) -> None:
    sink.order("slow")
    with running_worker(app):
        id = app.mailtasks.mailer.send(LETTER)
        sink.wait_for(1)
    assert app.mailtasks.mailer.status(id).state == "sent"


def test_who_waits_is_told(app: Celery) -> None:
    mailer = app.mailtasks.mailer
    mailer.pause()
    with running_worker(app) as worker:
        id = mailer.send(LETTER)
        with pytest.raises(
            TimeoutError, match=rf"^an end of message {id} didn't come within 0.3 s; last: None$"
        ):
            worker.wait_for(id, timeout=0.3)
        with pytest.raises(UnknownMessage):
            worker.wait_for("nosuch")


def test_an_app_that_can_not_send_mail(redis_url: str) -> None:
    other = Celery("other", broker=redis_url, set_as_current=False)
    sentence = r"doesn't know mailtasks; call mailtasks.celery.install\(app\)"
    with pytest.raises(SettingsError, match=sentence), running_worker(other):
        pass


@pytest.mark.parametrize(
    ("start", "error", "sentence"),
    [
        (lambda _: None, RuntimeError, "the worker ended before it took tasks; its log says why"),
        (lambda _: GATE.wait(), TimeoutError, "the worker's start didn't come within 0.1 s; last: False"),
    ],
    ids=["ended", "hangs"],
)
def test_one_that_does_not_start(
    app: Celery, monkeypatch: pytest.MonkeyPatch, start, error: type[Exception], sentence: str
) -> None:
    GATE.clear()
    monkeypatch.setattr(module, "START_TIMEOUT", 0.1)
    monkeypatch.setattr(module._Controller, "start", start)
    releasing = threading.Timer(0.5, GATE.set)
    releasing.start()
    with pytest.raises(error) as caught, running_worker(app):
        pass
    assert str(caught.value) == sentence
    releasing.join()


GATE = threading.Event()


def test_one_that_does_not_end(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    GATE.clear()
    monkeypatch.setattr(module, "STOP_TIMEOUT", 0.1)
    monkeypatch.setattr(module._Controller, "start", lambda it: (it.ready.set(), GATE.wait()))
    with pytest.raises(TimeoutError) as caught, running_worker(app):
        pass
    GATE.set()
    assert str(caught.value) == (
        "the worker didn't end within 0.1 s: does a task of this test, or its relay, hang?"
    )
