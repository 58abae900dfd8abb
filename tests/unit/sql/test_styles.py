"""`on_commit` and the outbox under the sessions that programs have: 2.0 and older, sync and async."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import scoped_session, sessionmaker

from mailtasks.errors import CommittedWithoutMail
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.sql import on_commit
from mailtasks.state import State


def mail(number=1):
    return Message(to=f"r{number}@example.com", text="Thank you")


@pytest.fixture
def run(database_url):
    """Run a coroutine function with an engine of asyncio."""

    def run(main):
        async def with_engine():
            engine = create_async_engine(database_url.replace("sqlite:", "sqlite+aiosqlite:"))
            try:
                return await main(engine)
            finally:
                await engine.dispose()

        return asyncio.run(with_engine())

    return run


@pytest.fixture
def either(mailer, outbox, engine):
    """Ask for a mail by `on_commit`, and for one by the outbox; what became of both."""

    class Either:
        def ask(self, session, number=1):
            [first] = on_commit(session, mail(number), mailer=mailer)
            [second] = outbox.send(session, mail(number))
            return first, second

        async def ask_async(self, session, number=1):
            [first] = on_commit(session, mail(number), mailer=mailer)
            [second] = await outbox.asend(session, mail(number))
            return first, second

        def accepted(self):
            """By the ledger: at the commit, and once the relay has moved the rows."""
            before = mailer.stats().accepted
            outbox.relay(engine, mailer).drain()
            return before, mailer.stats().accepted - before

    return Either()


# --- Sync


@pytest.mark.parametrize("make", [sessionmaker, lambda engine: scoped_session(sessionmaker(engine))])
def test_a_commit_by_hand(engine, mailer, either, make):
    session = make(engine)()
    first, second = either.ask(session)
    session.commit()
    either.ask(session)
    session.rollback()
    session.close()
    assert either.accepted() == (1, 1)
    assert mailer.status(first).state is mailer.status(second).state is State.QUEUED


def test_a_sessionmakers_begin(engine, either):
    sessions = sessionmaker(engine)
    for error in (None, RuntimeError):
        with suppress(RuntimeError), sessions.begin() as session:
            either.ask(session)
            if error:
                raise error
    assert either.accepted() == (1, 1)


def test_the_session_of_each_thread(engine, either):
    """A `scoped_session` is one registry and many sessions: what one rolls back is no matter of another's."""
    registry = scoped_session(sessionmaker(engine))

    def work(number):
        try:
            either.ask(registry, number)
            registry.commit() if number % 2 else registry.rollback()
        finally:
            registry.remove()

    for number in range(4):  # SQLite has one writer at a time
        with ThreadPoolExecutor(1) as thread:
            thread.submit(work, number).result()
    assert either.accepted() == (2, 2)


def test_flask_sqlalchemy(database_url, either):
    app, db = Flask("shop"), SQLAlchemy()
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url
    db.init_app(app)

    @app.post("/<end>")
    def order(end):
        either.ask(db.session)
        with db.session.begin_nested():
            either.ask(db.session)
        if end == "commit":
            db.session.commit()
        elif end == "rollback":
            db.session.rollback()
        return {}

    for end in ("rollback", "nothing", "commit"):
        assert app.test_client().post(f"/{end}").status_code == 200
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()
    assert either.accepted() == (2, 2)


def test_a_request_of_flask_that_fails_sends_nothing(database_url, either):
    app, db = Flask("shop"), SQLAlchemy()
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url
    db.init_app(app)

    @app.post("/")
    def order():
        either.ask(db.session)
        raise RuntimeError

    assert app.test_client().post("/").status_code == 500
    with app.app_context():
        db.session.commit()
        for engine in db.engines.values():
            engine.dispose()
    assert either.accepted() == (0, 0)


# --- Async


@pytest.mark.parametrize(
    "make", [async_sessionmaker, lambda engine: sessionmaker(engine, class_=AsyncSession), AsyncSession]
)
def test_an_async_session(run, either, make):
    async def main(engine):
        made = make(engine)
        async with made if isinstance(made, AsyncSession) else made() as session:
            await either.ask_async(session)
            await session.rollback()
            await either.ask_async(session)
            await session.commit()
            await either.ask_async(session)  # closed, and so rolled back

    run(main)
    assert either.accepted() == (1, 1)


def test_its_begin(run, either):
    async def main(engine):
        sessions = async_sessionmaker(engine)
        for error in (None, RuntimeError):
            with suppress(RuntimeError):
                async with sessions.begin() as session:
                    await either.ask_async(session)
                    if error:
                        raise error

    run(main)
    assert either.accepted() == (1, 1)


def test_its_savepoints(run, either):
    async def main(engine):
        async with async_sessionmaker(engine).begin() as session:
            await session.execute(text("SELECT 1"))
            async with session.begin_nested():
                await either.ask_async(session, 1)
            savepoint = await session.begin_nested()
            await either.ask_async(session, 2)
            await savepoint.rollback()
            await either.ask_async(session, 3)

    run(main)
    assert either.accepted() == (2, 2)


def test_an_async_scoped_session(run, mailer, outbox, engine):
    async def main(async_engine):
        registry = async_scoped_session(async_sessionmaker(async_engine), asyncio.current_task)
        on_commit(registry, mail(1), mailer=mailer)
        await outbox.asend(registry, mail(2))
        await registry.commit()
        on_commit(registry, mail(3), mailer=mailer)
        await outbox.asend(registry, mail(4))
        await registry.remove()

    run(main)
    outbox.relay(engine, mailer).drain()
    assert [it.recipients[0].address for n in range(1, 5) for it in mailer.find(f"r{n}@example.com")] == [
        "r1@example.com",
        "r2@example.com",
    ]


def test_the_loop_goes_on_while_mail_is_sent_with_the_commit(run, mailer, monkeypatch):
    """What holds up the hand-over waits for another task of the same loop."""

    async def main(engine):
        loop, may = asyncio.get_running_loop(), asyncio.Event()
        send_many = mailer.send_many

        def patient(*messages, **more):
            loop.call_soon_threadsafe(may.set)
            assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "it goes"), loop).result(30) == "it goes"
            return send_many(*messages, **more)

        monkeypatch.setattr(mailer, "send_many", patient)
        async with async_sessionmaker(engine).begin() as session:
            on_commit(session, mail(), mailer=mailer)
        assert may.is_set()

    run(main)
    assert mailer.stats().accepted == 1


def test_redis_away_under_asyncio_reaches_the_caller_and_can_be_sent_again(run, mailer):
    async def place(engine, away):
        async with async_sessionmaker(engine).begin() as session:
            on_commit(session, mail(), mailer=away)

    async def main(engine):
        nowhere = Mailer(broker_url=f"redis://127.0.0.1:{free_port()}/0", default_from="a@example.com")
        with nowhere, pytest.raises(CommittedWithoutMail) as caught:
            await place(engine, nowhere)
        error = caught.value
        assert await mailer.asend_many(error.messages, ids=error.ids) == list(error.ids)

    run(main)
    assert mailer.stats().accepted == 1
