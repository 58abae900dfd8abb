"""The two tasks: what `send_mail` takes, and what `deliver` tells Celery."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from inspect import signature
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery, Task, chord, group
from celery.app.amqp import AMQP
from celery.app.trace import get_log_policy, log_policy_expected
from celery.exceptions import Reject, Retry
from kombu import Producer, Queue
from kombu.utils import json

import mailtasks
from mailtasks import celery as celery_module
from mailtasks import tasks
from mailtasks.blobs import Blobs
from mailtasks.celery import install
from mailtasks.errors import (
    AttachmentError,
    IdempotencyConflict,
    MailtasksError,
    MessageError,
    PermanentFailure,
    SettingsError,
    StoreError,
    StoreUnavailable,
    TemporaryFailure,
)
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Attachment, Message
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.publish import DELIVER, SEND_MAIL, configuration
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.tasks import SendMail, rate_of, retry_policy_of
from mailtasks.testing import CatchingServer

Make = Callable[..., Celery]
ANN = {"to": "ann@example.com", "subject": "hello", "text": "hi"}


@pytest.fixture
def make(redis_url: str, sink: CatchingServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes an installed app; the module's `send_mail` is the last one's."""
    monkeypatch.setattr(celery_module, "_installed", None)
    made: list[Celery] = []

    def make(broker: str = redis_url, **config: Any) -> Celery:
        settings = Settings(
            broker_url=broker, relay=sink.url, default_from="shop@example.com", redis_connect_timeout=0.3
        )
        app = Celery("shop", set_as_current=False)
        app.conf.update(configuration(settings) | config)
        made.append(install(app, settings))
        return app

    yield make
    for app in made:
        app.mailtasks.close()
        app.close()


@pytest.fixture
def app(make: Make) -> Celery:
    return make()


def mailer(app: Celery) -> Mailer:
    found: Mailer = app.mailtasks.mailer
    return found


def deliver(app: Celery, id: str) -> str:
    said: str = app.tasks[DELIVER](id.partition(".")[0])
    return said


# --- send_mail, accepted by the caller --------------------------------------------------------------


@pytest.mark.usefixtures("app")
def test_delay_accepts_now_and_its_result_is_the_messages(app: Celery) -> None:
    result = mailtasks.send_mail.delay(**ANN, priority="urgent")
    status = mailer(app).status(result.id)
    assert (status.state, status.subject, status.priority) == (State.QUEUED, "hello", "urgent")
    assert [row.hints for row in mailer(app).queue()] == [1, 0, 0]


def about(moment: datetime) -> Any:
    return pytest.approx(moment.timestamp(), abs=5)


def test_countdown_and_eta_become_send_at(app: Celery) -> None:
    task, now = app.tasks[SEND_MAIL], datetime.now(UTC)
    later = mailer(app).status(task.apply_async(kwargs=ANN, countdown=600).id)
    assert later.send_at.timestamp() == about(now + timedelta(seconds=600))
    at = now + timedelta(days=7)
    assert mailer(app).status(task.apply_async(kwargs=ANN, eta=at).id).send_at.timestamp() == about(at)
    assert [row.hints for row in mailer(app).queue()] == [0, 0, 0]


@pytest.mark.parametrize("as_moment", [False, True])
def test_expires_counts_from_when_it_may_be_sent(app: Celery, as_moment: bool) -> None:
    now = datetime.now(UTC)
    expires = now + timedelta(seconds=660) if as_moment else 60
    task = app.tasks[SEND_MAIL]
    status = mailer(app).status(task.apply_async(kwargs=ANN, countdown=600, expires=expires).id)
    assert status.expires_at.timestamp() == about(now + timedelta(seconds=660))


def test_task_id_is_the_idempotency_key(app: Celery) -> None:
    task = app.tasks[SEND_MAIL]
    first = task.apply_async(kwargs=ANN, task_id="order-7")
    assert task.apply_async(kwargs=ANN, task_id="order-7").id == first.id
    with pytest.raises(IdempotencyConflict):
        task.apply_async(kwargs={**ANN, "text": "other"}, task_id="order-7")
    assert mailer(app).stats().accepted == 1


def test_an_own_idempotency_key_is_stronger(app: Celery) -> None:
    task = app.tasks[SEND_MAIL]
    keyed = {**ANN, "idempotency_key": "k"}
    assert task.apply_async(kwargs=keyed, task_id="1").id == task.apply_async(kwargs=keyed, task_id="2").id


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"to": []}, "a message needs at least one recipient: give one in to, cc or bcc"),
        (
            {**ANN, "send_at": "soon"},
            "send_at 'soon' is no time; expected ISO 8601 with an offset",
        ),
        (
            {**ANN, "sbject": "x"},
            "send_mail: 'sbject' is no field of mailtasks.Message; it has "
            + ", ".join(signature(Message).parameters),
        ),
        (
            {**ANN, "attachments": [{"path": "x"}]},
            "send_mail: 'path' is no field of mailtasks.Attachment; it has "
            + ", ".join(signature(Attachment).parameters),
        ),
        (
            {**ANN, "attachments": [{"content": b"x"}]},
            "send_mail: the filename of a mailtasks.Attachment is missing",
        ),
        ({**ANN, "priority": "asap"}, "the priority 'asap' is unknown: use one of urgent, normal, bulk"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_input_is_said_to_the_caller(app: Celery, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MessageError) as caught:
        app.tasks[SEND_MAIL].delay(**given)
    assert str(caught.value) == sentence
    assert mailer(app).stats().accepted == 0


def test_no_positional_arguments(app: Celery) -> None:
    with pytest.raises(MessageError) as caught:
        app.tasks[SEND_MAIL].delay("ann@example.com")
    assert str(caught.value) == "send_mail takes keyword arguments only: to=…, subject=…, text=…"


CALLED_AFTERWARDS = (
    "send_mail: {} would never be called, since what becomes of a mail is no task's result; "
    "let send_mail be the end of a chain, and ask status(id)"
)


def test_nothing_is_called_after_a_mail(app: Celery) -> None:
    app.conf.result_backend = "cache+memory://"
    mail = app.tasks[SEND_MAIL].s(**ANN)
    after = app.tasks[SEND_MAIL].si(**ANN)
    for name, wrong in {
        "chain": mail | after,
        "link": mail.clone().set(link=after),
        "link_error": mail.clone().on_error(after),
        "chord": chord([mail], after),
    }.items():
        with pytest.raises(MessageError) as caught:
            wrong.apply_async()
        assert str(caught.value) == CALLED_AFTERWARDS.format(name)
    with pytest.raises(MessageError, match="link would never be called"):
        group([mail.clone().set(link=after)]).apply_async()
    assert mailer(app).stats().accepted == 0


def test_every_option_that_celery_has_is_decided_upon() -> None:
    ours = {*signature(SendMail.apply_async).parameters, "name", "body", "properties", "now", "timezone"}
    for theirs in (Task.apply_async, Celery.send_task, AMQP.as_task_v2, Producer.publish):
        assert not {*signature(theirs).parameters} - ours - {*tasks.OPTIONS}, theirs


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"routing_key": "mail"}, "routing_key would lead nowhere, since mail goes to the queue of its prio"),
        (
            {"exchange": "mail"},
            "exchange would lead nowhere, since mail goes to the queue of its priority; give p",
        ),
        (
            {"time_limit": 60},
            "time_limit would limit nothing; the settings timeout_dot and its like say how long ",
        ),
        ({"expiration": 60}, "expiration would expire nothing; give expires"),
        (
            {"headers": {"X-Shop": "7"}},
            "headers would be a task's, which no mail has; give the mail's own in kw",
        ),
        (
            {"subject": "Hello"},
            "subject is no option of apply_async; a mail's fields are given in kwargs={…}",
        ),
        ({"countdwn": 60}, "countdwn is no option of apply_async; a mail's fields are given in kwargs={…}"),
    ],
)
def test_an_option_that_would_promise_what_isnt_kept(app: Celery, option: dict[str, Any], why: str) -> None:
    with pytest.raises(MessageError) as caught:
        app.tasks[SEND_MAIL].apply_async(kwargs=ANN, **option)
    assert str(caught.value).startswith(f"send_mail: {why}")
    assert mailer(app).stats().accepted == 0


def test_an_option_that_means_nothing_here_changes_nothing(app: Celery) -> None:
    harmless = {name: 1 for name, why in tasks.OPTIONS.items() if why is None} | {"stamped_headers": ["shop"]}
    id = app.tasks[SEND_MAIL].apply_async(kwargs=ANN, **harmless, shop="7").id
    assert mailer(app).status(id).state is State.QUEUED


def test_a_stamped_mail(app: Celery) -> None:
    mail = app.tasks[SEND_MAIL].s(**ANN)
    mail.stamp(shop="7")
    assert mail.apply_async().id
    group([mail]).apply_async()
    assert mailer(app).stats().accepted == 2


FAR = datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=12)))


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (
            {"countdown": 1e12},
            "countdown=1000000000000.0 is out of range: give a number of seconds that ends befor",
        ),
        (
            {"countdown": 3e11},
            "countdown=300000000000.0 is out of range: give a number of seconds that ends befor",
        ),
        (
            {"countdown": math.nan},
            "countdown=nan is out of range: give a number of seconds that ends before 2100",
        ),
        (
            {"countdown": "soon"},
            "countdown=soon is out of range: give a number of seconds that ends before 2100",
        ),
        (
            {"eta": FAR},
            "send_at=9999-12-31T23:00:00-12:00 is out of range: give a time from 1970 on and before 2100",
        ),
        (
            {"eta": FAR, "expires": FAR},
            "send_at=9999-12-31T23:00:00-12:00 is out of range: give a time from 1970",
        ),
        (
            {"expires": 1e12},
            "expires_after=1000000000000.0 is no time to live: give a timedelta or a number of sec",
        ),
        (
            {"expires": math.inf},
            "expires_after=inf is no time to live: give a timedelta or a number of seconds, mor",
        ),
        ({"expires": FAR}, "expires_after="),
        (
            {"eta": datetime(2030, 1, 1), "expires": FAR},
            "expires can't count from '2030-01-01 00:00:00' (datetime); give an aware datetime",
        ),
    ],
    ids=str,
)
def test_a_time_that_is_no_time(app: Celery, option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MessageError) as caught:
        app.tasks[SEND_MAIL].apply_async(kwargs=ANN, **option)
    assert str(caught.value).startswith(sentence)
    assert mailer(app).stats().accepted == 0


def test_the_end_of_a_chain(app: Celery) -> None:
    """What a worker passes on to the last task of a chain."""
    options = {"chain": [], "parent_id": "1", "root_id": "1", "priority": None, "task_id": "2"}
    assert app.tasks[SEND_MAIL].si(**ANN).apply_async(("what came before",), **options).id
    assert mailer(app).stats().accepted == 1


def test_a_group_of_mails(app: Celery) -> None:
    group(app.tasks[SEND_MAIL].s(**ANN) for _ in range(2)).apply_async()
    assert len([*mailer(app).find("ann@example.com")]) == 2


def test_a_queue_or_priority_of_ours_is_the_messages_if_it_has_none(app: Celery) -> None:
    def priority(fields: dict[str, Any], **options: Any) -> str:
        id = app.tasks[SEND_MAIL].apply_async(kwargs=fields, **options).id
        return mailer(app).status(id).priority

    assert priority(ANN, queue="mailtasks-1-urgent") == "urgent"
    assert priority(ANN, queue=Queue("mailtasks-3-bulk")) == "bulk"
    assert priority(ANN, priority="urgent") == "urgent"
    assert priority(ANN, priority=0) == "normal"  # Celery's own, as of the task that began a chain
    assert priority({**ANN, "priority": "bulk"}, queue="mailtasks-1-urgent", priority="normal") == "bulk"


def test_another_queue(app: Celery) -> None:
    with pytest.raises(MessageError) as caught:
        app.tasks[SEND_MAIL].apply_async(kwargs=ANN, queue="celery")
    assert str(caught.value) == (
        "send_mail: mail has no queue 'celery'; "
        "expected mailtasks-1-urgent, mailtasks-2-normal, mailtasks-3-bulk"
    )


def test_redis_away_is_said_to_the_caller(make: Make) -> None:
    app = make(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(StoreUnavailable, match="nothing was accepted"):
        app.tasks[SEND_MAIL].delay(**ANN)


def test_what_json_leaves_of_a_message_is_understood() -> None:
    made = tasks.message_from(
        {
            **ANN,
            "send_at": "2030-01-02T03:04:05+01:00",
            "attachments": [{"filename": "a.txt", "content": b"a"}, Attachment(filename="b", content=b"b")],
        }
    )
    assert made.send_at == datetime(2030, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert [attachment.filename for attachment in made.attachments] == ["a.txt", "b"]
    with pytest.raises(AttachmentError, match=r"gone\.pdf"):
        tasks.message_from({**ANN, "attachments": ["/nowhere/gone.pdf"]})


RAW = (
    b"DKIM-Signature: v=1;\r\n\tbh=abc; b=def\r\nDate: Thu, 02 Jan 2025 03:04:05 +0000\r\n"
    b"From: Shop <shop@example.com>\r\nTo: ann@example.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    b"Message-ID: <4711@shop.example.com>\r\n\r\n.\r\nFrom here  \xe4\r\n"
)


@pytest.mark.parametrize("raw", [RAW, RAW.replace(b"\r\n", b"\n")], ids=["CRLF", "LF"])
def test_a_ready_made_mail_arrives_octet_for_octet(app: Celery, sink: CatchingServer, raw: bytes) -> None:
    id = app.tasks[SEND_MAIL].delay(raw=raw).id
    status = mailer(app).status(id)
    assert (status.subject, status.message_id) == ("Grüße", "<4711@shop.example.com>")
    assert deliver(app, id) == "1 sent"
    [caught] = sink.messages
    assert (caught.sender, caught.recipients) == ("shop@example.com", ("ann@example.com",))
    assert caught.content == RAW
    assert sink.violations == []


@pytest.mark.parametrize("raw", [RAW, RAW.replace(b"\xe4", "ä".encode()).decode()], ids=["bytes", "text"])
def test_a_ready_made_mail_by_name_is_json(app: Celery, raw: bytes | str) -> None:
    given = json.loads(json.dumps({"raw": raw, "bcc": ["bob@example.com"]}))
    id = app.tasks[SEND_MAIL].apply(kwargs=given, task_id="order-9").get()
    assert [it.address for it in mailer(app).status(id).recipients] == ["bob@example.com"]


# --- send_mail, run by a worker ---------------------------------------------------------------------


def test_run_by_a_worker_it_accepts_once(app: Celery) -> None:
    task = app.tasks[SEND_MAIL]
    ids = {task.apply(kwargs=ANN, task_id="order-7").get() for _ in range(2)}
    assert len(ids) == 1
    assert mailer(app).stats().accepted == 1


def test_one_that_expires_and_comes_again_is_the_same_mail(app: Celery) -> None:
    """Though less time is left to it now."""
    task, expires = app.tasks[SEND_MAIL], datetime.now(UTC) + timedelta(hours=1)
    ids = set()
    for _ in range(2):
        task.push_request(id="order-7", expires=expires.isoformat())
        ids.add(task.run(**ANN))
        task.pop_request()
    assert len(ids) == 1
    assert mailer(app).stats().accepted == 1


def refusal(app: Celery, *args: Any, **given: Any) -> str:
    """What Flower shows of mail by name that can't be mailed."""
    result = app.tasks[SEND_MAIL].apply(args, given, task_id="order-7")
    assert isinstance(result.result, PermanentFailure)
    return str(result.result)


def test_a_worker_mails_no_file_of_its_own(app: Celery) -> None:
    for paths in (["/etc/passwd"], "/etc/passwd", [{"filename": "a", "content": b"a"}, "/etc/passwd"]):
        assert refusal(app, **ANN, attachments=paths).startswith("MessageError; ")
        with pytest.raises(MessageError) as caught:
            tasks._refuse_paths(paths)
        assert str(caught.value) == (
            "send_mail: the attachment '/etc/passwd' is a path, and means nothing to the worker; "
            "give filename and content"
        )
    attached = {**ANN, "attachments": [{"filename": "a.txt", "content": b"a"}]}
    assert app.tasks[SEND_MAIL].apply(kwargs=attached, task_id="order-8").get()


@pytest.mark.parametrize(
    ("args", "given", "kind"),
    [
        (("ann@example.com",), {}, "MessageError"),
        ((), {"to": "ann-at-example.com", "text": "hi"}, "AddressError"),
        ((), {**ANN, "subject": "ann\nBcc: bob@example.com"}, "MessageError"),
        ((), {**ANN, "headers": {"Ann Bob": "x"}}, "MessageError"),
        ((), {**ANN, "text": "other"}, "IdempotencyConflict"),
    ],
)
def test_what_cant_be_mailed_is_told_without_a_word_of_it(
    app: Celery, caplog: pytest.LogCaptureFixture, args: tuple[Any, ...], given: dict[str, Any], kind: str
) -> None:
    app.tasks[SEND_MAIL].apply(kwargs=ANN, task_id="order-7")
    said = f"{kind}; mailtasks.Message(…) with the same fields says why"
    assert refusal(app, *args, **given) == said
    [line] = [record.getMessage() for record in caplog.records if record.name == "mailtasks.tasks"]
    assert line == f"mail that came by name as task order-7 can't be mailed: {said}"
    shown = "".join(record.getMessage() + str(record.exc_text) for record in caplog.records).lower()
    assert "ann" not in shown
    assert "bob" not in shown


@pytest.mark.parametrize("text", ["2030-01-02T03:04:05", "soon"])
def test_an_eta_or_expiry_that_is_no_moment(app: Celery, text: str) -> None:
    sentence = "no time zone" if text != "soon" else "expires 'soon' is no time; expected ISO 8601 with an"
    with pytest.raises(MessageError, match=sentence):
        tasks._expires_after(tasks._moment("expires", text), None)


def test_what_redis_answers_puts_the_task_back(
    make: Make, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether Redis is away or says something odd: the mail is in the task only."""
    monkeypatch.setattr(tasks, "_REJECTED_PAUSE", 0)
    away = make(f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setattr(mailer(app).ledger, "accept", Mock(side_effect=StoreError("WRONGTYPE")))
    for wrong in (away, app):
        with pytest.raises(Reject) as caught:
            wrong.tasks[SEND_MAIL].run(**ANN, idempotency_key="k")
        assert caught.value.requeue


def test_events_show_neither_arguments_nor_hold_an_eta(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "default_strategy", lambda *_, **__: lambda message: message.headers)
    receive = tasks.strategy_without_eta(app.tasks[SEND_MAIL], app, None)
    eta = datetime(2030, 1, 1, tzinfo=UTC)
    headers = app.amqp.as_task_v2("order-7", SEND_MAIL, kwargs=ANN, eta=eta).headers
    assert "ann@example.com" in headers["kwargsrepr"]
    shown = receive(SimpleNamespace(headers=headers))
    assert (shown["argsrepr"], shown["kwargsrepr"]) == ("()", "{…}")
    assert (shown.get("eta"), shown[tasks.SEND_AT]) == (None, eta.isoformat())


# --- deliver ----------------------------------------------------------------------------------------


def test_delivered(app: Celery, sink: CatchingServer) -> None:
    id = app.tasks[SEND_MAIL].delay(**ANN).id
    assert deliver(app, id) == "1 sent"
    assert deliver(app, id) == "nothing sent (nothing)"
    assert sink.messages[0].recipients == ("ann@example.com",)


def test_deferred_is_a_retry_to_celery_and_nothing_is_published(app: Celery) -> None:
    id = app.tasks[SEND_MAIL].delay(to="defer@example.com", text="hi").id
    hints = mailer(app).queue()[1].hints
    with pytest.raises(Retry) as caught:
        deliver(app, id)
    assert caught.value.message == "1 deferred (recipient_deferred at rcpt 451 4.3.0)"
    assert 0 <= caught.value.when <= 60
    assert repr(caught.value.exc) == "TemporaryFailure('1 deferred (recipient_deferred at rcpt 451 4.3.0)')"
    assert mailer(app).queue()[1].hints == hints


def test_refused_for_good_is_a_failure_to_celery(app: Celery) -> None:
    id = app.tasks[SEND_MAIL].delay(to="refuse@example.com", text="hi").id
    with pytest.raises(PermanentFailure) as caught:
        deliver(app, id)
    assert str(caught.value) == "1 failed (recipient_unknown at rcpt 550 5.1.1)"


def test_some_refused_is_no_failure(app: Celery) -> None:
    id = app.tasks[SEND_MAIL].delay(to=["ann@example.com", "refuse@example.com"], text="hi").id
    assert deliver(app, id) == "1 sent, 1 failed (recipient_unknown at rcpt 550 5.1.1)"


# --- task_annotations -------------------------------------------------------------------------------


def policy(app: Celery) -> RetryPolicy:
    return retry_policy_of(app)


def test_without_annotations_the_defaults_are_ours(app: Celery) -> None:
    assert policy(app) == RetryPolicy()
    assert rate_of(app) is None


def test_celerys_names_are_read_from_either_task(make: Make) -> None:
    retries = {"max_retries": 5, "retry_backoff": True, "retry_backoff_max": 60, "retry_jitter": False}
    retries |= {"autoretry_for": [MailtasksError], "default_retry_delay": 7}
    expected = RetryPolicy(
        autoretry_for=(MailtasksError,),
        max_retries=5,
        retry_backoff=True,
        retry_backoff_max=60,
        retry_jitter=False,
        default_retry_delay=7,
    )
    for name in (SEND_MAIL, DELIVER):
        assert policy(make(task_annotations={name: retries})) == expected


def test_a_none_in_annotations_is_a_value(make: Make) -> None:
    assert policy(make(task_annotations={DELIVER: {"max_retries": None}})).max_retries is None


def test_deliver_is_stronger_than_send_mail_and_star_holds_for_both(make: Make) -> None:
    annotations = {SEND_MAIL: {"max_retries": 1, "rate_limit": "1/s"}, DELIVER: {"max_retries": 2}}
    app = make(task_annotations=annotations)
    assert policy(app).max_retries == 2
    assert rate_of(app) == 1
    assert policy(make(task_annotations={"*": {"max_retries": 9}})).max_retries == 9


def test_apps_dont_share_annotations(make: Make) -> None:
    strict = make(task_annotations={SEND_MAIL: {"max_retries": 0}})
    assert (policy(strict).max_retries, policy(make()).max_retries) == (0, None)


@pytest.mark.parametrize("name", [SEND_MAIL, DELIVER])
def test_a_rate_reaches_the_limiter(make: Make, name: str) -> None:
    app = make(task_annotations={name: {"rate_limit": "100/m"}})
    assert deliver(app, "0" * 27) == "nothing sent (gone)"
    assert app.mailtasks.limiter.available() == 1
    app.tasks[DELIVER].rate_limit = "0"  # `celery control rate_limit mailtasks.deliver 0`, at run time
    deliver(app, "0" * 27)
    assert app.mailtasks.limiter.available() is None


def test_a_rate_that_is_none(make: Make) -> None:
    app = make(task_annotations={SEND_MAIL: {"rate_limit": "fast"}})
    with pytest.raises(SettingsError) as caught:
        deliver(app, "0" * 27)
    assert str(caught.value) == (
        'task_annotations: rate_limit \'fast\' is no rate; expected a text such as "10/s", "100/m" or "500/h"'
    )


def test_retry_kwargs(make: Make) -> None:
    annotated = {"autoretry_for": (TemporaryFailure,), "retry_kwargs": {"max_retries": 5, "countdown": 9}}
    for name in (SEND_MAIL, DELIVER, "*"):
        assert policy(make(task_annotations={name: annotated})) == RetryPolicy(
            max_retries=5, retry_backoff=0, default_retry_delay=9
        )


@pytest.mark.parametrize(
    ("annotations", "sentence"),
    [
        ({DELIVER: {"retry_backof": 1}}, "mailtasks.deliver has no retry_backof; expected retry_backoff"),
        ({SEND_MAIL: {"rate_limt": 1}}, "mailtasks.send_mail has no rate_limt; expected rate_limit"),
        (
            [{}, {DELIVER: {"xyz": 1}}],
            "mailtasks.deliver has no xyz; expected autoretry_for, dont_autoretry_for, max_retries, "
            "retry_backoff, retry_backoff_max, retry_jitter, default_retry_delay, retry_kwargs, rate_limit",
        ),
        (
            {"mailtasks.delivr": {}},
            "there is no task mailtasks.delivr; expected mailtasks.deliver or mailtasks.send_mail",
        ),
    ],
)
def test_a_wrong_name_in_annotations(make: Make, annotations: Any, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        policy(make(task_annotations=annotations))
    assert str(caught.value) == f"task_annotations: {sentence}"


def test_annotations_of_others_and_of_celerys_own_are_let_be(make: Make) -> None:
    annotations = {"*": {"flavour": 1}, "shop.order": {"flavour": 2}}
    annotations |= {DELIVER: {"on_failure": print, "@run": lambda run: run}}
    assert policy(make(task_annotations=annotations)) == RetryPolicy()


def test_celery_wraps_no_retries_of_its_own_around_ours(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make(task_annotations={DELIVER: {"max_retries": 1}})
    failing = Mock(side_effect=TemporaryFailure("not now"))
    monkeypatch.setattr(app.mailtasks.delivery(RetryPolicy()), "deliver", failing)
    assert app.tasks[DELIVER].apply(["0" * 27]).state == "FAILURE"
    assert failing.call_count == 1


@pytest.mark.parametrize("name", [SEND_MAIL, DELIVER])
def test_a_permanent_failure_is_an_expected_one(app: Celery, name: str) -> None:
    """Celery logs it in one line, without a traceback."""
    einfo = SimpleNamespace(internal=False)
    assert get_log_policy(app.tasks[name], einfo, PermanentFailure("no")) is log_policy_expected


def test_only_temporary_failures_are_retried_by_default() -> None:
    assert tasks.PolicyTask.autoretry_for == (TemporaryFailure,)


def test_a_worker_doesnt_start_without_what_its_store_of_attachments_needs(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make()
    app.mailtasks.mailer.settings = replace(app.mailtasks.settings, blobs="s3://bucket/prefix")
    tasks.demand_settings(app)
    app.mailtasks.mailer.blobs = Blobs(mailer(app).redis, mailer(app).ledger.keys, mailer(app).settings)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(SettingsError, match=r"^blobs: s3://bucket/prefix needs what isn't installed"):
        tasks.demand_settings(app)
