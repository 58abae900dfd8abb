from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import ForeignKey, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

import mailtasks
from mailtasks.errors import CommittedWithoutMail, IdempotencyConflict, MessageError, StoreUnavailable
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Attachment, Message
from mailtasks.sql import on_commit
from mailtasks.state import State


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[int | None] = mapped_column(ForeignKey("orders.id"))


@pytest.fixture
def session(engine):
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session


def mail(number=1, **fields):
    return Message(to=f"r{number}@example.com", text="Thank you", **fields)


@pytest.fixture
def ask(mailer):
    def ask(session, *messages):
        return on_commit(session, *(messages or [mail()]), mailer=mailer)

    return ask


def accepted(mailer):
    return mailer.stats().accepted


def test_it_is_sent_when_the_transaction_has_committed(session, mailer, ask):
    session.add(Order())
    [id] = ask(session)
    session.flush()
    assert accepted(mailer) == 0
    session.commit()
    assert mailer.status(id).state is State.QUEUED


def test_it_begins_the_sessions_transaction_if_it_is_first(session, mailer, ask):
    [id] = ask(session)
    assert session.in_transaction()
    session.commit()
    assert mailer.status(id).state is State.QUEUED


def test_all_of_a_transaction_is_one_call(session, mailer, ask, monkeypatch):
    calls = []
    send_many = mailer.send_many
    monkeypatch.setattr(
        mailer, "send_many", lambda *its, **more: calls.append(its) or send_many(*its, **more)
    )
    ids = ask(session, mail(1), mail(2)) + ask(session, mail(3))
    session.commit()
    assert len(calls) == 1
    assert [mailer.status(id).recipients[0].address for id in ids] == [f"r{n}@example.com" for n in (1, 2, 3)]


def test_a_second_transaction_sends_its_own(session, mailer, ask):
    ask(session)
    session.commit()
    session.commit()
    assert accepted(mailer) == 1
    ask(session)
    session.commit()
    assert accepted(mailer) == 2


@pytest.mark.parametrize("end", [Session.rollback, Session.close], ids=["rollback", "close"])
def test_a_rollback_drops_it(session, mailer, ask, end):
    ask(session)
    end(session)
    session.commit()
    assert accepted(mailer) == 0


def test_an_error_in_the_with_block_drops_it(session, mailer, ask):
    def fail():
        with session.begin():
            ask(session)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    session.commit()
    assert accepted(mailer) == 0


def test_a_commit_that_fails_drops_it(session, engine, mailer, ask):
    def refuse(connection):
        raise ConnectionError("the database is gone")

    session.add(Order())
    ask(session)
    event.listen(engine, "commit", refuse)
    with pytest.raises(ConnectionError):
        session.commit()
    event.remove(engine, "commit", refuse)
    session.rollback()
    session.commit()
    assert accepted(mailer) == 0


def test_a_flush_that_fails_drops_it(session, mailer, ask):
    session.add(Order(id=1))
    session.commit()
    ask(session)
    session.add(Order(id=1))
    with pytest.raises(Exception, match=r"(?i)unique"):
        session.commit()
    session.rollback()
    session.commit()
    assert accepted(mailer) == 0


def test_a_savepoint_that_is_rolled_back_drops_only_its_own(session, mailer, ask):
    kept = ask(session, mail(1))
    savepoint = session.begin_nested()
    dropped = ask(session, mail(2))
    savepoint.rollback()
    kept += ask(session, mail(3))
    session.commit()
    assert accepted(mailer) == 2
    assert all(mailer.status(id) for id in kept)
    with pytest.raises(mailtasks.errors.UnknownMessage):
        mailer.status(dropped[0])


def test_a_savepoint_that_is_released_hands_its_mail_on(session, mailer, ask):
    with session.begin_nested():
        ask(session, mail(1))
        with session.begin_nested():
            ask(session, mail(2))
    assert accepted(mailer) == 0
    session.commit()
    assert accepted(mailer) == 2


def test_what_a_savepoint_handed_on_is_dropped_with_the_enclosing_one(session, mailer, ask):
    ask(session, mail(1))
    outer = session.begin_nested()
    with session.begin_nested():
        ask(session, mail(2))
    outer.rollback()
    session.commit()
    assert accepted(mailer) == 1


def test_a_savepoint_that_is_still_open_at_the_commit_is_released(session, mailer, ask):
    session.begin_nested()
    ask(session)
    session.commit()
    session.commit()
    assert accepted(mailer) == 1


def test_it_may_be_asked_for_in_a_listener_while_flushing(session, mailer, ask):
    event.listen(session, "before_flush", lambda *_: ask(session))
    session.add(Order())
    session.commit()
    assert accepted(mailer) == 1


def test_the_connection_is_back_in_the_pool_when_it_is_sent(session, engine, mailer, ask, monkeypatch):
    seen = []
    monkeypatch.setattr(mailer, "send_many", lambda *_, **__: seen.append(engine.pool.checkedout()))
    session.add(Order())
    ask(session)
    session.commit()
    assert seen == [0]


def test_a_scoped_session_will_do(engine, mailer, ask):
    session = scoped_session(sessionmaker(engine))
    ask(session)
    session.commit()
    session.remove()
    assert accepted(mailer) == 1


def test_without_autobegin_a_transaction_must_have_begun(engine, mailer, ask):
    with Session(engine, autobegin=False) as session:
        with pytest.raises(MessageError, match=r"the session has no transaction .*; begin one first"):
            ask(session)
        with session.begin():
            ask(session)
    assert accepted(mailer) == 1


def test_what_is_wrong_with_a_message_is_said_at_once(session, redis_url, mailer):
    with Mailer(broker_url=redis_url) as nameless, pytest.raises(MessageError, match="has no sender"):
        on_commit(session, mail(), mailer=nameless)
    with pytest.raises(MessageError, match="is no message"):
        on_commit(session, "hello", mailer=mailer)
    session.commit()
    assert accepted(mailer) == 0


def test_what_is_no_session_is_refused(engine, mailer):
    with (
        engine.connect() as connection,
        pytest.raises(MessageError, match=r"not Connection; .* use an Outbox"),
    ):
        on_commit(connection, mail(), mailer=mailer)


def test_one_key_for_two_mails_is_said_at_once(session, mailer, ask):
    ids = ask(session, mail(1, idempotency_key="k"))
    assert ask(session, mail(1, idempotency_key="k")) == ids
    with pytest.raises(IdempotencyConflict):
        ask(session, mail(2, idempotency_key="k"))
    session.commit()
    assert accepted(mailer) == 1


def test_a_key_that_was_used_before_is_said_by_the_commit(session, mailer, ask):
    mailer.send(mail(1, idempotency_key="k"))
    session.add(Order(id=7))
    ask(session, mail(2, idempotency_key="k"))
    with pytest.raises(IdempotencyConflict) as raised:
        session.commit()
    assert raised.value.__notes__ == ["The transaction is committed."]
    assert session.get(Order, 7)


def test_two_mailers_each_send_their_own(session, redis_url, mailer, ask):
    with Mailer(broker_url=redis_url, default_from="shop@example.com", namespace="other") as other:
        ask(session)
        on_commit(session, mail(), mail(), mailer=other)
        session.commit()
        assert (accepted(mailer), accepted(other)) == (1, 2)


def test_by_default_it_is_the_default_mailer(session, redis_url, monkeypatch):
    monkeypatch.setenv("MAILTASKS_BROKER_URL", redis_url)
    monkeypatch.setenv("MAILTASKS_DEFAULT_FROM", "shop@example.com")
    monkeypatch.setattr("mailtasks.default._default", None)
    on_commit(session, mail())
    session.commit()
    assert mailtasks.default_mailer().stats().accepted == 1
    mailtasks.default_mailer().close()


def test_redis_away_reaches_the_caller_of_commit_and_the_transaction_is_committed(session, mailer):
    with Mailer(broker_url=f"redis://127.0.0.1:{free_port()}/0", default_from="shop@example.com") as away:
        session.add(Order(id=7))
        ids = on_commit(session, mail(1), mail(2), mailer=away)
        with pytest.raises(CommittedWithoutMail) as raised:
            session.commit()
    error = raised.value
    assert isinstance(error, StoreUnavailable)
    assert list(error.ids) == ids
    assert str(error).startswith(
        "the transaction is committed, but not known to be sent with it: 2 mails; don't repeat it, "
        "but call send_many with this error's messages and ids (Redis at 127.0.0.1:"
    )
    assert session.get(Order, 7), "the session is usable, and the row is there"
    session.commit()
    assert mailer.send_many(error.messages, ids=error.ids) == ids
    assert accepted(mailer) == 2


def test_the_same_in_a_with_block(engine):
    Base.metadata.create_all(engine)

    def order():
        with Session(engine) as session, session.begin():
            session.add(Order(id=7))
            on_commit(session, mail(), mailer=away)

    with Mailer(broker_url=f"redis://127.0.0.1:{free_port()}/0", default_from="shop@example.com") as away:
        with pytest.raises(CommittedWithoutMail, match="with it: 1 mail;"):
            order()
        with Session(engine) as session:
            assert session.get(Order, 7)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_async_session_sends_in_a_thread(database_url, mailer, ask, monkeypatch):
    threads = []
    send_many = mailer.send_many

    def note(*its, **more):
        threads.append(threading.current_thread())
        return send_many(*its, **more)

    monkeypatch.setattr(mailer, "send_many", note)

    async def main():
        engine = create_async_engine(database_url.replace("sqlite:", "sqlite+aiosqlite:"))
        async with AsyncSession(engine) as session:
            await session.execute(text("SELECT 1"))
            ask(session, mail(1))
            await session.rollback()
            ask(session, mail(2))
            ask(session.sync_session, mail(3))
            await session.commit()
        async with AsyncSession(engine) as session, session.begin():
            ask(session, mail(4))
        await engine.dispose()

    asyncio.run(main())
    assert accepted(mailer) == 3
    assert len(threads) == 2
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_under_asyncio_redis_away_reaches_the_caller_of_commit(database_url):
    async def main():
        engine = create_async_engine(database_url.replace("sqlite:", "sqlite+aiosqlite:"))
        async with AsyncSession(engine) as session:
            on_commit(session, mail(), mailer=away)
            await session.execute(text("CREATE TABLE t (id INTEGER)"))
            with pytest.raises(CommittedWithoutMail):
                await session.commit()
            await session.execute(text("SELECT * FROM t"))
        await engine.dispose()

    with Mailer(broker_url=f"redis://127.0.0.1:{free_port()}/0", default_from="shop@example.com") as away:
        asyncio.run(main())


def test_a_session_joined_into_an_outer_transaction_is_the_outermost_that_it_knows(mailer, ask):
    engine = create_engine("sqlite://")
    with engine.connect() as connection, connection.begin() as outer:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            ask(session)
            session.commit()
        outer.rollback()
    assert accepted(mailer) == 1
    engine.dispose()


# --- Attachments that are stored apart


def large():
    return mail(attachments=[Attachment(filename="bill.pdf", content=b"%PDF" * 20_000)])


def test_attachments_are_stored_when_the_transaction_has_committed(session, mailer, ask):
    session.add(Order())
    [id] = ask(session, large())
    assert not mailer.redis.keys("*blob*")
    session.commit()
    assert mailer.status(id).state is State.QUEUED
    assert mailer.attachments().stored == 1
    session.add(Order())
    ask(session, large())
    session.rollback()
    assert (accepted(mailer), mailer.attachments().being_stored) == (1, 0)


def test_a_folder_that_is_away_at_the_commit_is_told_and_the_call_can_be_repeated(
    session, redis_url, tmp_path
):
    folder = tmp_path / "mount"
    with Mailer(broker_url=redis_url, default_from="shop@example.com", blobs=f"file://{folder}") as mailer:
        session.add(Order())
        on_commit(session, large(), mailer=mailer)
        with pytest.raises(CommittedWithoutMail, match="can't take an attachment") as raised:
            session.commit()
        folder.mkdir()
        [id] = mailer.send_many(raised.value.messages, ids=raised.value.ids)
        assert mailer.status(id).state is State.QUEUED
    assert session.query(Order).count() == 1
