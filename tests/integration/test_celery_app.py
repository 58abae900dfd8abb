"""The Celery way: our app and a user's own, tasks by name from a process that has only Celery, wrong use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import kombu
import pytest
from celery import Celery

from mailtasks.local.redis import LocalRedis
from mailtasks.message import Message
from mailtasks.publish import NORMAL_QUEUE
from mailtasks.state import State
from mailtasks.store.keys import new_batch_id
from mailtasks.testing import wait_until

Make = Callable[..., Any]

CELERY = str(Path(sys.executable).with_name("celery"))
"""The console script, which unlike `python -m celery` doesn't run with the working directory in its path."""

SHOP = """
from celery import Celery
from mailtasks.celery import install

app = Celery("shop")
{before}
app.config_from_object("shopconfig", namespace="CELERY")
{after}

@app.task
def note(path, text):
    with open(path, "a") as book:
        book.write(text)

@app.task(queue="orders")
def order(to):
    from mailtasks import send_mail, status
    return status(send_mail.delay(to=to, text="ordered").id).state
"""

SHOPCONFIG = """
import os
from kombu import Queue
CELERY_BROKER_URL = os.environ["MAILTASKS_BROKER_URL"]
CELERY_TASK_DEFAULT_QUEUE = "shop"
CELERY_TASK_QUEUES = [Queue("shop"), Queue("orders")]
CELERY_TASK_ANNOTATIONS = {
    "mailtasks.send_mail": {"max_retries": 1, "retry_backoff": 1, "retry_jitter": False},
}
"""


@pytest.fixture
def stranger(own_redis: LocalRedis) -> Iterator[Celery]:
    """A process that has Celery and not mailtasks."""
    with Celery("stranger", broker=own_redis.url, set_as_current=False) as app:
        yield app


# --- A user's own app -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "config"),
    [
        ("before", SHOPCONFIG),
        ("after", SHOPCONFIG),
        ("before", SHOPCONFIG.replace("CELERY_BROKER_URL = ", "unused = ")),
    ],
    ids=["before", "after", "without a broker"],
)
def test_an_app_that_a_user_has(road: Make, tmp_path: Path, when: str, config: str) -> None:
    """`install` before or after the app is configured: its own tasks and queues work, and so do ours."""
    (tmp_path / "shopconfig.py").write_text(config)
    places = {"before": "", "after": ""} | {when: "install(app)"}
    (tmp_path / "shop.py").write_text(SHOP.format(**places))
    way = road()
    way.start_worker(app="shop")
    shop = Celery("producer", broker=way.redis.url, set_as_current=False)
    shop.send_task("shop.note", args=[str(tmp_path / "book"), "hello"], queue="shop")
    shop.send_task("shop.order", args=["ann@example.com"], queue="orders")
    [late] = way.send(Message(to="defer@example.com", text="hi", priority="urgent"))
    [caught] = way.relay.wait_for(1)
    assert caught.recipients == ("ann@example.com",)
    wait_until(lambda: (tmp_path / "book").exists() and (tmp_path / "book").read_text() == "hello")
    wait_until(lambda: way.mailer.status(late).state is State.FAILED, what="the app's own max_retries")
    assert way.mailer.status(late).attempts == 2
    said = way.said()
    for queue in ("shop", "orders", "mailtasks-1-urgent", "mailtasks-2-normal", "mailtasks-3-bulk"):
        assert f".> {queue} " in said


# --- By name, from a process that has only Celery ---------------------------------------------------


def test_a_bare_send_task_is_accepted_when_a_worker_runs_it(road: Make, stranger: Celery) -> None:
    way = road()
    mail = {"to": "ann@example.com", "subject": "hello", "text": "hi", "priority": "bulk"}
    options = {"kwargs": mail, "queue": NORMAL_QUEUE, "task_id": "order-7"}
    for _ in range(2):  # a redelivery, or a caller who isn't sure
        stranger.send_task("mailtasks.send_mail", **options)
    way.start_worker()
    way.relay.wait_for(1)
    wait_until(lambda: way.said().count("mailtasks.send_mail[order-7] succeeded") == 2)
    assert way.mailer.stats().accepted == 1 == len(way.relay.messages)
    way.wait_for_sent(1)
    [status] = way.mailer.find("ann@example.com")
    assert (status.state, status.priority) == (State.SENT, "bulk")


def test_its_eta_becomes_send_at_and_is_held_in_no_memory(road: Make, stranger: Celery) -> None:
    way = road()
    way.start_worker()
    eta = datetime.now(UTC) + timedelta(hours=3)
    mail = {"to": "ann@example.com", "text": "hi"}
    stranger.send_task("mailtasks.send_mail", kwargs=mail, queue=NORMAL_QUEUE, eta=eta)
    [status] = wait_until(lambda: list(way.mailer.find("ann@example.com")))
    assert abs(status.send_at - eta) < timedelta(seconds=1)
    assert status.state is State.QUEUED
    with way.redis.client() as client:
        wait_until(lambda: client.hlen("unacked") == 0, what="the acknowledgement of the task")
    assert way.relay.messages == []


def test_its_countdown_is_kept(road: Make, stranger: Celery) -> None:
    way = road()
    way.start_worker()
    began = datetime.now(UTC).timestamp()
    mail = {"to": "ann@example.com", "text": "hi"}
    stranger.send_task("mailtasks.send_mail", kwargs=mail, queue=NORMAL_QUEUE, countdown=2)
    [caught] = way.relay.wait_for(1)
    assert 2 <= caught.time - began < 4.5


def test_its_expiry_is_kept(road: Make, stranger: Celery) -> None:
    way = road()
    way.start_worker()
    began = datetime.now(UTC)
    for name, options in {"ann": {"expires": 600}, "bob": {"countdown": 600, "expires": 900}}.items():
        mail = {"to": f"{name}@example.com", "text": "hi"}
        stranger.send_task("mailtasks.send_mail", kwargs=mail, queue=NORMAL_QUEUE, **options)
        [status] = wait_until(partial(lambda to: list(way.mailer.find(to)), mail["to"]))
        assert abs(status.expires_at - began - timedelta(seconds=options["expires"])) < timedelta(seconds=5)


def test_what_expired_before_a_worker_saw_it_is_not_mailed(road: Make, stranger: Celery) -> None:
    way = road()
    for to, options in {"late@example.com": {"expires": 0.01}, "ann@example.com": {}}.items():
        mail = {"to": to, "text": "hi"}
        stranger.send_task("mailtasks.send_mail", kwargs=mail, queue=NORMAL_QUEUE, **options)
    way.start_worker()
    assert [caught.recipients for caught in way.relay.wait_for(1)] == [("ann@example.com",)]
    assert way.mailer.stats().accepted == 1


def test_bad_input_by_name_fails_once(road: Make, stranger: Celery) -> None:
    """Its task's id and what kind of mistake are told, and nothing of the mail."""
    way = road()
    way.start_worker()
    wrong = [
        ([], {"to": "nobody", "subject": "secret"}),
        ([], {"too": "ann@example.com"}),
        ([], {"to": "a@example.com", "priority": "secret"}),
        ([], {"to": "a@example.com", "attachments": ["/secret"]}),
        (["secret"], {}),
    ]
    for number, (args, kwargs) in enumerate(wrong):
        id = f"order-{number}"
        stranger.send_task("mailtasks.send_mail", args, kwargs, queue=NORMAL_QUEUE, task_id=id)
    wait_until(lambda: way.said().count("raised expected: PermanentFailure(") == len(wrong))
    said = way.said()
    assert "mail that came by name as task order-0 can't be mailed: AddressError; " in said
    for number in range(1, len(wrong)):
        assert f"mail that came by name as task order-{number} can't be mailed: MessageError; " in said
    for private in ("nobody", "secret", "example.com", "Traceback"):
        assert private not in said
    assert way.mailer.stats().accepted == 0
    with way.redis.client() as client:
        assert client.hlen("unacked") == client.llen(NORMAL_QUEUE) == 0


def test_a_hint_cant_be_revoked(road: Make, stranger: Celery) -> None:
    """`mailtasks cancel` stops a mail; a hint that is dropped would only come again."""
    way = road(hint_margin=600)
    way.start_worker()
    id = f"{new_batch_id()}.0"
    stranger.control.revoke(id)
    wait_until(lambda: f"Tasks flagged as revoked: {id}" in way.said())
    way.mailer.send(Message(to="ann@example.com", text="hi"), id=id)
    assert way.relay.wait_for(1)


def test_flower_is_told_why_something_is_tried_again(road: Make, stranger: Celery) -> None:
    way = road()
    way.start_worker("-E")
    told: list[dict[str, Any]] = []
    with stranger.connection() as connection:
        receiver = stranger.events.Receiver(connection, handlers={"task-retried": told.append})
        with receiver.consumer_context() as (listening, *_):
            way.send(Message(to="defer@example.com", text="hi"))
            wait_until(lambda: told or listening.drain_events(timeout=10))
    summary = "TemporaryFailure('1 deferred (recipient_deferred at rcpt 451 4.3.0)')"
    assert summary in told[0]["exception"]


def test_pickle_is_refused(road: Make, stranger: Celery, tmp_path: Path) -> None:
    """What could run code in a worker is dropped unread, and the worker goes on."""
    way = road()
    way.start_worker()
    trap = tmp_path / "trapped"
    kombu.serialization.enable_insecure_serializers(["pickle"])
    try:
        stranger.send_task(
            "mailtasks.send_mail", args=[Trap(str(trap))], queue=NORMAL_QUEUE, serializer="pickle"
        )
    finally:
        kombu.serialization.disable_insecure_serializers()
    way.send(Message(to="ann@example.com", text="hi"))
    way.relay.wait_for(1)
    wait_until(lambda: "Refusing to deserialize untrusted content of type pickle" in way.said())
    assert not trap.exists()
    assert way.workers[0].running


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


# --- Wrong use --------------------------------------------------------------------------------------


def refused(tmp_path: Path, redis_url: str, *options: str, app: str = "mailtasks", **variables: str) -> str:
    """What a worker says that must not start: one line on stderr, and exit code 2."""
    environment = {
        **os.environ,
        "MAILTASKS_BROKER_URL": redis_url,
        "PYTHONWARNINGS": "ignore",
        **variables,
    }
    ran = subprocess.run(
        [CELERY, "-A", app, "worker", *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
    )
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    return ran.stderr.rstrip()


@pytest.fixture
def shop(tmp_path: Path) -> str:
    (tmp_path / "shopconfig.py").write_text(SHOPCONFIG)
    (tmp_path / "shop.py").write_text(SHOP.format(before="install(app)", after=""))
    return "shop"


def test_the_prefork_pool_is_refused_in_one_sentence(tmp_path: Path, redis_url: str) -> None:
    assert refused(tmp_path, redis_url) == (
        "mailtasks: the prefork pool is not supported (connections and leases are shared by threads); "
        "start the worker with -P threads"
    )


QUEUE_TYPO = (
    "mailtasks: there is no queue 'mailtasks-1-urgnt'; "
    "expected mailtasks-1-urgent, mailtasks-2-normal, mailtasks-3-bulk"
)


def test_a_typo_in_q(tmp_path: Path, redis_url: str) -> None:
    assert refused(tmp_path, redis_url, "-P", "threads", "-Q", "mailtasks-1-urgnt") == QUEUE_TYPO


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("app", ["shop", pytest.param("mailtasks", marks=pytest.mark.slow)])
def test_a_typo_in_x(tmp_path: Path, redis_url: str, app: str) -> None:
    typo = ["-P", "threads", "-X", "mailtasks-3-bulk,mailtasks-1-urgnt"]
    assert refused(tmp_path, redis_url, *typo, app=app) == QUEUE_TYPO


@pytest.mark.slow  # quick: the one before it, and the first
def test_a_typo_in_q_of_a_users_app(tmp_path: Path, redis_url: str, shop: str) -> None:
    typo = ["-P", "threads", "-Q", "orders,mailtasks-1-urgnt"]
    assert refused(tmp_path, redis_url, *typo, app=shop) == QUEUE_TYPO


def test_every_queue_that_is_not_there_is_refused(tmp_path: Path, redis_url: str) -> None:
    ours = "mailtasks-1-urgent, mailtasks-2-normal, mailtasks-3-bulk"
    said = refused(tmp_path, redis_url, "-P", "threads", "-Q", "Urgent")
    assert said == f"mailtasks: there is no queue 'Urgent'; expected {ours}"


def test_a_users_app_that_makes_no_queues_refuses_every_one(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "shopconfig.py").write_text(SHOPCONFIG + "CELERY_TASK_CREATE_MISSING_QUEUES = False\n")
    (tmp_path / "shop.py").write_text(SHOP.format(before="install(app)", after=""))
    said = refused(tmp_path, redis_url, "-P", "threads", "-Q", "shop,odrers", app="shop")
    assert said == (
        "mailtasks: there is no queue 'odrers'; "
        "expected shop, orders, mailtasks-1-urgent, mailtasks-2-normal, mailtasks-3-bulk"
    )


@pytest.mark.parametrize(
    ("annotations", "sentence"),
    [
        (
            {"mailtasks.deliver": {"retry_backof": 1}},
            "mailtasks: task_annotations: mailtasks.deliver has no retry_backof; expected retry_backoff",
        ),
        pytest.param(  # quick: tests/unit/test_tasks.py
            {"mailtasks.delivr": {"rate_limit": "1/s"}},
            "mailtasks: task_annotations: there is no task mailtasks.delivr; "
            "expected mailtasks.deliver or mailtasks.send_mail",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_typo_in_annotations(
    tmp_path: Path, redis_url: str, annotations: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "celeryconfig.py").write_text(f"task_annotations = {annotations}\n")
    assert refused(tmp_path, redis_url, "-P", "threads") == sentence


def test_the_celery_command_reads_the_celeryconfig_of_its_folder(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "celeryconfig.py").write_text(
        "task_annotations = {'mailtasks.deliver': {'max_retries': 41}}\n"
    )
    told = subprocess.run(
        [CELERY, "-A", "mailtasks", "report"],
        env=os.environ | {"MAILTASKS_BROKER_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
    )
    assert "'max_retries': 41" in told.stdout, told.stderr


def test_a_typo_in_a_setting(tmp_path: Path, redis_url: str) -> None:
    assert refused(tmp_path, redis_url, "-P", "threads", MAILTASKS_LEESE="3") == (
        "mailtasks: MAILTASKS_LEESE (environment): there is no such setting; did you mean MAILTASKS_LEASE?"
    )


def test_a_wrong_setting_of_a_users_app(tmp_path: Path, redis_url: str, shop: str) -> None:
    said = refused(tmp_path, redis_url, "-P", "threads", app=shop, MAILTASKS_LEASE="soon")
    assert said == (
        "mailtasks: lease (environment MAILTASKS_LEASE): 'soon' is wrong; expected seconds, at least 1, "
        'at most 3650 days, as a number or a text such as "90s", "15m", "2h" or "5d"'
    )
