"""The pump, turn by turn; and a worker's steps, in a worker that runs in this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from celery import Celery
from celery import bootsteps as celery_bootsteps
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging, worker_ready
from celery.worker import WorkController
from celery.worker import state as worker_state

from mailtasks import bootsteps
from mailtasks import celery as celery_module
from mailtasks import stopgap as stopgap_module
from mailtasks.bootsteps import BUSY, GATE_INTERVAL, Pump, _Collecting, _Pumping
from mailtasks.celery import install
from mailtasks.errors import StoreUnavailable
from mailtasks.event import Attempt, attempt_listeners
from mailtasks.installation import Installation
from mailtasks.local.faults import Behaviour
from mailtasks.local.redis import free_port
from mailtasks.message import PRIORITIES, Message, Priority
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.publish import BULK_QUEUE, DELIVER, Publisher, configuration, producing_app, queue_name
from mailtasks.reply import Stage
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.stopgap import KEPT, Stopgap
from mailtasks.testing import CatchingServer, wait_until
from tests.campaigns import Begun, people


@pytest.fixture
def margin() -> float:
    """Seconds until a lost hint is noticed."""
    return 0.2


@pytest.fixture
def app(
    redis_url: str, sink: CatchingServer, monkeypatch: pytest.MonkeyPatch, margin: float
) -> Iterator[Celery]:
    monkeypatch.setattr(celery_module, "_installed", None)
    settings = Settings(
        broker_url=redis_url,
        relay=sink.url,
        default_from="shop@example.com",
        pump_interval=0.1,
        hint_margin=margin,
    )
    app = Celery("shop", set_as_current=False)
    app.conf.update(configuration(settings))
    install(app, settings)
    yield app
    app.mailtasks.close()
    app.close()


@pytest.fixture
def installation(app: Celery) -> Installation:
    found: Installation = app.mailtasks
    return found


@pytest.fixture
def pump(installation: Installation) -> _Pumping:
    return _Pumping(installation, threading.Event(), stopgap(installation))


def stopgap(installation: Installation, taken: Sequence[Priority] = PRIORITIES) -> Stopgap:
    """One that keeps what it is given."""
    kept = Stopgap(lambda run: None, lambda batch, priority: None, 1, lambda: taken)
    installation.publisher.on_refused = kept.take
    return kept


def send(installation: Installation, **more: object) -> str:
    return installation.mailer.send(Message(to="ann@example.com", text="hi", **more))


def hints(installation: Installation) -> list[int]:
    return [row.hints for row in installation.mailer.queue()]


# --- The pump ---------------------------------------------------------------------------------------


def test_a_lost_hint_is_published_again(installation: Installation, pump: _Pumping) -> None:
    send(installation)
    installation.mailer.redis.delete("mailtasks-2-normal")
    pump._look()
    assert hints(installation) == [0, 0, 0]
    wait_until(lambda: installation.mailer.queue()[1].due)
    pump._look()
    assert hints(installation) == [0, 1, 0]


def test_a_worker_that_cant_connect_takes_no_hint_for_merely_waiting(installation: Installation) -> None:
    """However long the queue is: it may be that nobody can take from it."""
    kept = stopgap(installation)
    pump = _Pumping(installation, threading.Event(), kept, connected=lambda: False)
    for _ in range(BUSY + 1):
        send(installation)
    wait_until(lambda: installation.mailer.queue()[1].due == BUSY + 1)
    with installation.mailer.redis.pipeline() as pipeline:  # memory full
        pipeline.config_set("maxmemory", 1).execute()
    try:
        pump._look()
        assert kept.room() == KEPT - KEPT // 3  # a share for each priority
    finally:
        installation.mailer.redis.config_set("maxmemory", 0)


@pytest.mark.parametrize("margin", [2.0])
def test_while_no_hint_can_be_published_only_what_this_worker_can_send_is_looked_at(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopgap_module, "KEPT", 2)
    monkeypatch.setattr(bootsteps, "taken", lambda app: [Priority.URGENT, Priority.NORMAL])
    kept = stopgap(installation, [Priority.URGENT, Priority.NORMAL])
    pump = _Pumping(installation, threading.Event(), kept)
    for priority in ("bulk", "normal", "normal", "normal"):
        send(installation, priority=priority)
    wait_until(lambda: [row.due for row in installation.mailer.queue()] == [0, 3, 1])
    monkeypatch.setattr(installation.publisher, "_published", lambda pending, first: False)
    installation.publisher.refused = True
    pump._look()
    assert [row.due for row in installation.mailer.queue()] == [0, 2, 1]  # a share for each priority
    assert kept.room() == 1


def test_while_a_queue_is_long_what_may_wait_in_it_isnt_hinted_again(
    installation: Installation, pump: _Pumping
) -> None:
    for _ in range(BUSY + 1):
        send(installation)
    wait_until(lambda: installation.mailer.queue()[1].due == BUSY + 1)
    pump._look()
    assert hints(installation) == [0, BUSY + 1, 0]
    assert installation.mailer.queue()[1].due == 0


@pytest.mark.parametrize("margin", [60])
def test_a_broker_that_cant_be_asked_doesnt_keep_the_ledger_from_being_looked_at(
    installation: Installation, pump: _Pumping
) -> None:
    nobody = producing_app(Settings(broker_url=f"redis://127.0.0.1:{free_port()}/0"))
    pump._publisher = Publisher(nobody)
    installation.mailer.pause()
    send(installation)
    installation.mailer.resume()
    assert installation.mailer.queue()[1].due == 1
    pump._look()
    assert installation.mailer.queue()[1].due == 0
    nobody.close()


@pytest.mark.parametrize("margin", [60])
def test_more_than_one_look_takes_what_is_due_all_the_same(
    installation: Installation, pump: _Pumping, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.mailer.pause("bulk")
    for _ in range(450):
        send(installation, priority="bulk")
    installation.mailer.resume("bulk")
    monkeypatch.setattr(bootsteps, "BUSY", 10_000)
    pump._look()
    assert hints(installation) == [0, 0, 450]


def test_the_rates_gate_opens_for_as_many_as_may_go_urgent_first(
    installation: Installation, pump: _Pumping
) -> None:
    for priority in (Priority.BULK, Priority.URGENT, Priority.NORMAL):
        for _ in range(2):
            id = send(installation, priority=priority)
            installation.mailer.ledger.park(id.partition(".")[0], "w")
    rate(installation, 3)
    wait_until(lambda: installation.limiter.available() == 3)
    pump._open_rate_gates()
    assert [row.waiting for row in installation.mailer.queue()] == [{}, {"rate": 1}, {"rate": 2}]


def test_urgent_mail_that_waits_for_the_rate_goes_before_more_bulk_mail(
    installation: Installation, pump: _Pumping, sink: CatchingServer
) -> None:
    """Though bulk mail asks first for each message that the rate allows."""
    rate(installation, 5)
    delivery = installation.delivery(RetryPolicy())
    many = [Message(to=f"bulk{n}@example.com", text="hi", priority="bulk") for n in range(20)]
    backlog = batch_of(installation.mailer.send_many(many)[0])
    urgent = batch_of(send(installation, priority="urgent"))
    installation.mailer.ledger.park(urgent, "w")
    pump._open_rate_gates()
    assert delivery.deliver(backlog, Priority.BULK).counts == {}
    assert waiting(installation) == [0, 0, 1]
    assert delivery.deliver(urgent, Priority.URGENT).counts == {State.SENT: 1}
    wait_until(installation.limiter.available)
    pump._open_rate_gates()
    assert delivery.deliver(backlog, Priority.BULK).counts[State.SENT] >= 1
    assert [message.recipients[0] for message in sink.messages][:2] == [
        "ann@example.com",
        "bulk0@example.com",
    ]


def test_the_gates_of_queues_that_others_take_from_stay_shut(
    installation: Installation, pump: _Pumping
) -> None:
    for priority in PRIORITIES:
        installation.mailer.ledger.park(batch_of(send(installation, priority=priority)), "w")
    rate(installation, 3)
    installation.app.amqp.queues.select([BULK_QUEUE])
    wait_until(lambda: installation.limiter.available() == 3)
    pump._open_rate_gates()
    assert waiting(installation) == [1, 1, 0]
    assert installation.limiter.take(1, Priority.BULK) == 1


def batch_of(id: str) -> str:
    return id.partition(".")[0]


def waiting(installation: Installation) -> list[int]:
    """How many wait for the rate, in each priority."""
    return [row.waiting.get("rate", 0) for row in installation.mailer.queue()]


def test_a_new_process_knows_the_rate_before_its_first_task(
    installation: Installation, pump: _Pumping
) -> None:
    rate(installation, None)
    installation.app.tasks[DELIVER].rate_limit = "5/s"
    for _ in range(2):
        installation.mailer.ledger.park(send(installation).partition(".")[0], "w")
    pump._open_rate_gates()
    assert installation.limiter.available() is not None
    assert installation.mailer.queue()[1].waiting == {"rate": 1}


def test_without_a_rate_the_gate_stands_open(installation: Installation, pump: _Pumping) -> None:
    for _ in range(3):
        installation.mailer.ledger.park(send(installation).partition(".")[0], "w")
    assert installation.mailer.queue()[1].waiting == {"rate": 3}
    pump._open_rate_gates()
    assert installation.mailer.queue()[1].waiting == {}


def rate(installation: Installation, messages: int | None) -> None:
    installation.app.tasks[DELIVER].rate_limit = messages and f"{messages}/s"
    installation.limiter.set_rate(messages)


def test_with_a_rate_it_looks_more_often(installation: Installation) -> None:
    slow = _Pumping(installation, threading.Event(), stopgap(installation))
    slow._interval = 5
    assert slow._pause() == 5
    installation.limiter.set_rate(1)
    assert slow._pause() == GATE_INTERVAL


def test_whatever_goes_wrong_is_said_once_and_survived(
    installation: Installation, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()
    pump = _Pumping(installation, stopped, stopgap(installation))
    pump._interval = 0.01
    turns: list[str] = []
    installation.mailer.redis.connection_pool.connection_kwargs["port"] = 1

    def fail() -> None:
        turns.append("looked")
        if len(turns) < 4:
            installation.mailer.stats()  # Redis is away
        elif len(turns) < 5:
            raise RuntimeError("a bug")
        else:
            stopped.set()

    installation.mailer.redis.connection_pool.disconnect()
    monkeypatch.setattr(pump, "_open_rate_gates", fail)
    monkeypatch.setattr(pump, "_look", lambda: None)
    pump.run()
    assert len(turns) == 5
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage()[:36] for record in warnings] == ["the pump can't look: Redis at 127.0."]
    assert "the pump stumbled, and goes on" in caplog.text
    assert "RuntimeError: a bug" in caplog.text


def test_a_rate_that_cant_be_read_keeps_nobody_from_looking(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's remote control takes -5/m for a rate."""
    monkeypatch.setattr(installation.app.tasks[DELIVER], "rate_limit", "-5/m")
    pump, looks = _Pumping(installation, threading.Event(), stopgap(installation)), []
    monkeypatch.setattr(pump, "_look", lambda: looks.append("looked"))
    pump._tick()
    assert looks == ["looked"]


def test_what_a_look_finds_is_told_by_a_thread_that_sends(installation: Installation) -> None:
    """A listener that hangs there keeps nobody from looking."""
    told: list[Callable[[], object]] = []
    stopped = threading.Event()
    pump = _Pumping(installation, stopped, stopgap(installation), in_pool=told.append)
    heard: list[Sequence[Attempt]] = []
    attempt_listeners.append(heard.append)
    thread = threading.Thread(target=pump.run)
    thread.start()
    try:
        id = send(installation, expires_after=0.2)
        wait_until(lambda: told, what="the news of who has expired")
        assert heard == []
        told[0]()
    finally:
        attempt_listeners.remove(heard.append)
        stopped.set()
        thread.join()
    assert [(it.id, it.state) for [it] in heard] == [(id, State.EXPIRED)]


def test_it_sweeps(installation: Installation, caplog: pytest.LogCaptureFixture) -> None:
    id = batch_of(send(installation))
    installation.mailer.redis.zrem(installation.mailer.ledger.keys.due(Priority.NORMAL), id)
    stopped = threading.Event()
    thread = threading.Thread(target=_Pumping(installation, stopped, stopgap(installation)).run)
    thread.start()
    try:
        wait_until(lambda: installation.mailer.stats().tallies["swept"] == 1)
        wait_until(lambda: installation.mailer.queue()[1].hints == 2)
    finally:
        stopped.set()
        thread.join()
    assert f"the sweep found batch {id}" in caplog.text


# --- The collector ----------------------------------------------------------------------------------


def test_the_collector_goes_on_whatever_it_stumbles_over(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped, outcomes = threading.Event(), iter([StoreUnavailable("away"), RuntimeError("a bug")])

    def collect(asks: object) -> int:
        if error := next(outcomes, None):
            raise error
        stopped.set()
        return 0

    monkeypatch.setattr(installation.mailer.blobs, "collect", collect)
    _Collecting(installation, stopped).run()
    assert caplog.text.count("the collector of attachments stumbled, and goes on") == 1
    assert "RuntimeError: a bug" in caplog.text


def test_a_store_that_hangs_keeps_no_pump_from_looking(
    app: Celery, installation: Installation, sink: CatchingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let_go = threading.Event(), threading.Event()

    def collect(asks: object) -> int:
        begun.set()
        let_go.wait(30)
        return 0

    monkeypatch.setattr(installation.mailer.blobs, "collect", collect)
    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
        assert begun.wait(10)
        soon = datetime.now(UTC) + timedelta(seconds=0.3)
        send(installation, send_at=soon)  # nobody hints it but the pump
        try:
            assert sink.wait_for(1)
        finally:
            let_go.set()


# --- The steps --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def logging_is_left_alone() -> Iterator[None]:
    """A worker sets up its process' logging, unless somebody else says that he did."""

    def done(**_: object) -> None: ...

    setup_logging.connect(done)
    yield
    setup_logging.disconnect(done)


def stop_as_sigterm_does(worker: WorkController) -> None:
    """Stop and wait for the end; `start_worker` by itself only knows the cold way."""
    worker_state.should_stop = 0
    wait_until(lambda: worker.blueprint.state == celery_bootsteps.TERMINATE, what="the worker's end")
    worker_state.should_stop = None


class Ready:
    """As much of a consumer as the signal's receivers look at."""

    def __init__(self, app: Celery) -> None:
        self.app = app


@pytest.mark.parametrize(("queues", "kept"), [(PRIORITIES, True), ((Priority.BULK,), False)])
def test_a_worker_that_takes_urgent_mail_is_warm_once_it_is_ready(
    app: Celery, monkeypatch: pytest.MonkeyPatch, queues: Sequence[Priority], kept: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(app.mailtasks, "keep_warm", lambda: asked.append(True))
    app.amqp.queues.select([queue_name(priority) for priority in queues])
    worker_ready.send(sender=Ready(app))
    assert asked == [True] * kept


def test_a_worker_of_an_app_that_was_not_installed_is_left_alone() -> None:
    [(_, answer)] = [
        (receiver, answer)
        for receiver, answer in worker_ready.send(sender=Ready(Celery(set_as_current=False)))
        if receiver is bootsteps._warm
    ]
    assert answer is None


def test_a_worker_in_this_process(app: Celery, installation: Installation, sink: CatchingServer) -> None:
    with start_worker(app, pool="threads", concurrency=3, perform_ping_check=False) as worker:
        ids = [send(installation) for _ in range(10)]
        sink.wait_for(10)
        wait_until(lambda: all(installation.mailer.status(id).state is State.SENT for id in ids))
        assert (installation.owner, installation.threads) == (worker.hostname, 3)
        names = {thread.name for thread in threading.enumerate()}
        assert {"mailtasks-pump", "mailtasks-keeper"} <= names
        stop_as_sigterm_does(worker)
    names = {thread.name for thread in threading.enumerate()}
    assert names & {"mailtasks-pump", "mailtasks-keeper"} == set()
    wait_until(lambda: not sink.open_connections, what="the connections' end")


def test_a_wrong_setting_stops_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAILTASKS_LEASE", "soon")
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.mailtasks = Installation(app)
    with pytest.raises(SystemExit) as caught:
        Pump(SimpleNamespace(app=app))
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "mailtasks: lease (environment MAILTASKS_LEASE): 'soon' is wrong; expected seconds, at least 1, "
        'at most 3650 days, as a number or a text such as "90s", "15m", "2h" or "5d"\n'
    )


@pytest.mark.parametrize(
    ("annotation", "sentence"),
    [
        (
            {"retry_backoff": "x"},
            "mailtasks: task_annotations: retry_backoff is 'x'; expected seconds, at least 0",
        ),
        (
            {"max_retries": "many"},
            "mailtasks: task_annotations: max_retries is 'many'; expected a whole number, "
            "or None for no limit but the maximum age",
        ),
        (
            {"rate_limit": "5 per s"},
            "mailtasks: task_annotations: rate_limit '5 per s' is no rate; "
            'expected a text such as "10/s", "100/m" or "500/h"',
        ),
    ],
)
def test_a_wrong_annotation_stops_the_start_with_one_line(
    redis_url: str, capsys: pytest.CaptureFixture[str], annotation: dict[str, object], sentence: str
) -> None:
    settings = Settings(broker_url=redis_url)
    app = Celery("shop", set_as_current=False)
    app.conf.update(configuration(settings), task_annotations={DELIVER: annotation})
    install(app, settings)
    with pytest.raises(SystemExit) as caught:
        Pump(SimpleNamespace(app=app))
    assert caught.value.code == 2
    assert capsys.readouterr().err == sentence + "\n"


def test_a_stopping_worker_renews_the_lease_until_the_relay_has_answered(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(celery_module, "_installed", None)
    late = {"late": Behaviour(Stage.DOT, "250 2.0.0 at last", accept=True, seconds=2.5)}
    with CatchingServer(convention=late) as server:
        settings = Settings(
            broker_url=redis_url,
            relay=server.url,
            default_from="shop@example.com",
            lease=1,
            pump_interval=0.1,
        )
        app = Celery("shop", set_as_current=False)
        app.conf.update(configuration(settings))
        mailer = install(app, settings).mailtasks.mailer
        with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False) as worker:
            id = mailer.send(Message(to="late@example.com", text="hi"))
            wait_until(lambda: server.messages)
            stop_as_sigterm_does(worker)
        assert mailer.status(id).reply == "250 2.0.0 at last"
        tallies = mailer.stats().tallies
        assert (tallies["lapses"], tallies["late_evidence"], tallies["duplicates"]) == (0, 0, 0)


# --- Campaigns --------------------------------------------------------------------------------------


def a_campaign(installation: Installation, rows: int, rows_a_batch: int = 10) -> Begun:
    campaign = Begun(installation.mailer, rows_a_batch=rows_a_batch)
    campaign.add(people(rows))
    campaign.complete()
    return campaign


def test_the_pump_feeds_campaigns_while_little_waits(pump: _Pumping, installation: Installation) -> None:
    a_campaign(installation, 50)
    assert pump._tick()
    assert installation.publisher.waiting(Priority.BULK) == 2
    assert pump._tick()
    assert installation.publisher.waiting(Priority.BULK) == 2
    assert installation.mailer.queue()[2].waiting == {"campaign": 3}


def test_while_hints_cant_be_published_the_pump_feeds_this_worker(
    pump: _Pumping, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_campaign(installation, 50)
    monkeypatch.setattr(Publisher, "_published", lambda *_: False)
    installation.publisher.refused = True
    pump._tick()
    assert pump._stopgap.room() == KEPT - 2


def test_the_pump_counts_what_is_finished_and_cancels_on(pump: _Pumping, installation: Installation) -> None:
    campaign = a_campaign(installation, 50)
    installation.mailer.campaigns.cancel(campaign._record())
    assert pump._tick()
    status = campaign.status()
    assert (status.state, status.states[State.CANCELLED]) == ("cancelled", 50)
    assert installation.mailer.campaigns.open() == []
