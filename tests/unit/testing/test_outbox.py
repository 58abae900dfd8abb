"""What mailers accept, in a list. What holds for the ledger as well is asked of both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import mailtasks
from mailtasks import Attachment, Mailer, Message, State, send_mail
from mailtasks.campaign import Campaign
from mailtasks.default import forget_default_mailer
from mailtasks.errors import IdempotencyConflict, MailtasksError, MessageError, UnknownMessage
from mailtasks.message import Priority
from mailtasks.sql import Outbox, on_commit
from mailtasks.testing.outbox import OutgoingMail, recorded

NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def mailer() -> Iterator[Mailer]:
    """One that was there before the list, and whose Redis is nowhere."""
    with Mailer(broker_url=NOBODY, default_from="Shop <shop@example.com>") as mailer:
        yield mailer


@pytest.fixture
def outbox(mailer: Mailer) -> Iterator[list[OutgoingMail]]:
    with recorded() as mails:
        yield mails


def letter(**fields: object) -> Message:
    return Message(**{"to": "ann@example.com", "subject": "Your code", "text": "1234", **fields})


# --- What is in the list ----------------------------------------------------------------------------


def test_a_mail_as_it_would_go_out(mailer: Mailer, outbox: list[OutgoingMail]) -> None:
    later = datetime(2035, 1, 31, 9, tzinfo=UTC)
    id = mailer.send(
        letter(
            cc="bob@example.com",
            bcc="cy@example.com",
            html="<p>1234</p>",
            priority="urgent",
            send_at=later,
            expires_after=90,
            tags=["login"],
            metadata={"user": "7"},
            envelope_sender="bounces@example.com",
        )
    )
    [mail] = outbox
    assert (mail.id, mail.message_id) == (id, f"<{id}@example.com>")
    assert mail.sender == "bounces@example.com"
    assert mail.recipients == ("ann@example.com", "bob@example.com", "cy@example.com")
    assert (mail.priority, mail.tags, mail.metadata) == (Priority.URGENT, ("login",), {"user": "7"})
    assert (mail.send_at, mail.expires_after) == (later, timedelta(seconds=90))
    assert (mail.message["From"], mail.message["Message-ID"]) == ("Shop <shop@example.com>", mail.message_id)
    assert (mail.text, mail.html) == ("1234\n", "<p>1234</p>\n")
    assert b"cy@example.com" not in mail.content
    assert b"Subject: Your code\r\n" in mail.content


def test_what_says_nothing_of_itself(mailer: Mailer, outbox: list[OutgoingMail]) -> None:
    mailer.send(letter())
    [mail] = outbox
    assert (mail.sender, mail.priority, mail.send_at) == ("shop@example.com", Priority.NORMAL, None)
    assert mail.expires_after == timedelta(days=5)
    assert (mail.html, mail.tags, mail.metadata) == ("", (), {})


def test_a_large_attachment_is_in_its_place(mailer: Mailer, outbox: list[OutgoingMail]) -> None:
    content = bytes(range(256)) * 400
    mailer.send(letter(attachments=[Attachment(filename="large.bin", content=content)]))
    [attached] = outbox[0].message.iter_attachments()
    assert attached.get_content() == content


# --- Whatever sends ends there ----------------------------------------------------------------------


@pytest.fixture
def _default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MAILTASKS_BROKER_URL", NOBODY)
    monkeypatch.setenv("MAILTASKS_DEFAULT_FROM", "shop@example.com")
    forget_default_mailer()
    monkeypatch.setattr("mailtasks.celery._own", None)
    yield
    forget_default_mailer()


@pytest.mark.usefixtures("_default")
def test_the_functions_of_the_module_and_the_task(outbox: list[OutgoingMail]) -> None:
    ids = [mailtasks.send(letter()), asyncio.run(mailtasks.asend(letter()))]
    ids += mailtasks.send_many([letter(), letter(to=["ann@example.com", "bob@example.com"])], one_each=True)
    ids.append(send_mail.delay(to="ann@example.com", text="1234").id)
    ids.append(send_mail.apply(kwargs={"to": "ann@example.com", "text": "1234"}).result)
    assert [mail.id for mail in outbox] == ids
    assert mailtasks.status(ids[0]).state is State.QUEUED


def test_a_sessions_commit_and_an_outboxs_relay(mailer: Mailer, outbox: list[OutgoingMail]) -> None:
    engine, table = create_engine("sqlite://"), Outbox(settings=mailer.settings)
    table.table.create(engine)
    with Session(engine) as session:
        [committed] = on_commit(session, letter(), mailer=mailer)
        [written] = table.send(session, letter())
        assert outbox == []
        session.commit()
        on_commit(session, letter(), mailer=mailer)
        session.rollback()
    assert [mail.id for mail in outbox] == [committed]
    table.relay(engine, mailer).drain()
    assert [mail.id for mail in outbox] == [committed, written]
    engine.dispose()


# --- What the ledger promises, too ------------------------------------------------------------------


@pytest.fixture(params=["list", "ledger", "both"])
def any_mailer(request: pytest.FixtureRequest) -> Iterator[Mailer]:
    url = NOBODY if request.param == "list" else request.getfixturevalue("redis_url")
    with Mailer(broker_url=url, default_from="shop@example.com") as mailer:
        if request.param == "ledger":
            yield mailer
            return
        with recorded(stand_in=request.param == "list"):
            yield mailer


def test_status(any_mailer: Mailer) -> None:
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    first, second = any_mailer.send_many(
        [letter(to=["ann@example.com", "bob@example.com"], tags=["login"]), letter()]
    )
    planned = any_mailer.status(any_mailer.send(letter(send_at=later, expires_after=60)))
    status = any_mailer.status(first)
    assert [(it.address, it.state) for it in status.recipients] == [
        ("ann@example.com", State.QUEUED),
        ("bob@example.com", State.QUEUED),
    ]
    assert (status.subject, status.tags, status.finished_at) == ("Your code", ("login",), None)
    assert (status.id, status.message_id) == (first, f"<{first}@example.com>")
    assert abs(status.accepted_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert len(any_mailer.status(second).recipients) == 1
    assert (planned.send_at, planned.expires_at) == (later, later + timedelta(minutes=1))


def test_what_is_not_known(any_mailer: Mailer) -> None:
    known = any_mailer.send(letter())
    for id in ("nosuch", "00123456789abcdefghjkmnpqr.0", f"{known.partition('.')[0]}.7"):
        with pytest.raises(UnknownMessage):
            any_mailer.status(id)
        with pytest.raises(UnknownMessage):
            any_mailer.cancel(id)


def test_cancel(any_mailer: Mailer) -> None:
    gone, stays = any_mailer.send_many([letter(to=["ann@example.com", "bob@example.com"]), letter()])
    assert any_mailer.cancel(gone) == 2
    assert any_mailer.cancel(gone) == 2
    assert any_mailer.status(gone).state is State.CANCELLED
    assert any_mailer.status(stays).state is State.QUEUED


def test_a_key_and_an_id_mean_one_mail(any_mailer: Mailer) -> None:
    keyed = any_mailer.send(letter(idempotency_key="order-7"))
    assert any_mailer.send(letter(idempotency_key="order-7")) == keyed
    with pytest.raises(IdempotencyConflict):
        any_mailer.send(letter(idempotency_key="order-7", text="5678"))
    id = any_mailer.send(letter())
    assert any_mailer.send(letter(), id=id) == id


def test_one_that_cannot_be_mailed_leaves_nothing(any_mailer: Mailer) -> None:
    large = letter(text="x" * (any_mailer.settings.size_limit + 1))
    with pytest.raises(MessageError):
        any_mailer.send_many([letter(idempotency_key="order-8"), large])
    assert any_mailer.send(letter(idempotency_key="order-8", text="other"))


# --- The list ---------------------------------------------------------------------------------------


def test_it_has_each_mail_once_and_not_what_was_cancelled(mailer: Mailer, outbox: list[OutgoingMail]) -> None:
    for _ in range(2):
        mailer.send(letter(idempotency_key="order-7"))
    gone = mailer.send(letter(to=["ann@example.com", "bob@example.com"]))
    assert len(outbox) == 2
    mailer.cancel(gone)
    assert [mail.recipients for mail in outbox] == [("ann@example.com",)]
    outbox.clear()
    mailer.send(letter(idempotency_key="order-7"))
    assert outbox == []


def test_beside_a_ledger_it_has_what_that_accepts(redis_url: str) -> None:
    large = Attachment(filename="large.bin", content=bytes(100_000))
    with Mailer(broker_url=redis_url, default_from="shop@example.com") as mailer:
        with recorded(stand_in=False) as outbox:
            ids = [mailer.send(letter(idempotency_key="order-7", attachments=[large])) for _ in range(2)]
        mailer.send(letter())
        assert [mail.id for mail in outbox] == ids[:1]
        assert next(outbox[0].message.iter_attachments()).get_content() == large.content
        assert mailer.stats().accepted == 2


def test_afterwards_mailers_are_as_before(redis_url: str) -> None:
    with recorded() as outbox:
        made_within = Mailer(broker_url=redis_url, default_from="shop@example.com")
        made_within.send(letter())
    made_within.send(letter())
    assert (len(outbox), made_within.stats().accepted, Campaign.all(mailer=made_within)) == (1, 1, [])
    made_within.close()


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda mailer, id: mailer.stats(), "stats"),
        (lambda mailer, id: mailer.pause(), "pause"),
        (lambda mailer, id: mailer.retry(id), "suppressions.among"),
        (lambda mailer, id: list(mailer.find("ann@example.com")), "find"),
        (lambda mailer, id: Campaign("spring", mailer=mailer).status(), "campaigns.uid_of"),
    ],
)
@pytest.mark.usefixtures("outbox")
def test_what_needs_more_is_refused(mailer: Mailer, call, what: str) -> None:
    id = mailer.send(letter())
    with pytest.raises(MailtasksError) as caught:
        call(mailer, id)
    assert str(caught.value) == (
        f"{what} needs a ledger, and a test with mailtasks_outbox alone has none; "
        "let it have the fixture mailtasks_redis or mailtasks_worker as well"
    )
