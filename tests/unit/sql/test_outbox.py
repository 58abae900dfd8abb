from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import mailtasks
from mailtasks.errors import IdempotencyConflict, MessageError, SettingsError
from mailtasks.message import Attachment, Message
from mailtasks.outbox.content import decode
from mailtasks.settings import Settings
from mailtasks.sql import Keep, Outbox


def mail(number=1, **fields):
    return Message(to=f"r{number}@example.com", text="Your code is 1234", **fields)


def test_a_row_is_written_in_the_users_transaction(engine, outbox, rows):
    with engine.connect() as connection:
        outbox.send(connection, mail())
        connection.rollback()
        ids = outbox.send(connection, mail(1), mail(2))
        assert rows() == [] or engine.dialect.name == "sqlite"
        connection.commit()
    [row] = rows()
    assert ids == [f"{row.batch}.0", f"{row.batch}.1"]
    assert (row.state, row.keep, row.size) == ("waiting", "until_accepted", len(row.content))
    assert (row.accepted_at, row.look_at, row.error, row.outcome) == (None, None, None, None)
    assert len(decode(bytes(row.content), row.batch).bodies) == 2
    written = row.written_at if row.written_at.tzinfo else row.written_at.replace(tzinfo=UTC)
    assert abs(written - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_savepoint_that_is_rolled_back_takes_its_rows_along(engine, outbox, rows):
    with Session(engine) as session:
        [kept] = outbox.send(session, mail(1))
        savepoint = session.begin_nested()
        outbox.send(session, mail(2))
        savepoint.rollback()
        session.commit()
    assert [f"{row.batch}.0" for row in rows()] == [kept]


def test_a_scoped_session_will_do(engine, outbox, rows):
    session = scoped_session(sessionmaker(engine))
    outbox.send(session, mail())
    session.commit()
    session.remove()
    assert len(rows()) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_asyncio(database_url, outbox, rows):
    async def main():
        engine = create_async_engine(database_url.replace("sqlite:", "sqlite+aiosqlite:"))
        async with AsyncSession(engine) as session:
            with pytest.raises(MessageError, match=r"not AsyncSession; with asyncio, `await outbox.asend\("):
                outbox.send(session, mail())
            [id] = await outbox.asend(session, mail(), keep="forever")
            await session.commit()
            await outbox.asend(session, mail())
            await session.rollback()
        async with engine.begin() as connection:
            other = await outbox.asend(connection, mail())
        await engine.dispose()
        return [id, *other]

    ids = asyncio.run(main())
    assert [f"{row.batch}.0" for row in rows()] == ids
    assert [row.keep for row in rows()] == ["forever", "until_accepted"]


def test_nothing_writes_nothing(write, rows):
    assert write() == []
    assert rows() == []


def test_what_is_wrong_with_a_message_is_said_there(engine, rows, write, outbox):
    nameless = Outbox(name="other", settings=Settings())
    with engine.connect() as connection, pytest.raises(MessageError, match="has no sender"):
        nameless.send(connection, mail())
    with pytest.raises(MessageError, match="'hello' is no message"):
        write(mail(), "hello")
    with pytest.raises(IdempotencyConflict):
        write(mail(1, idempotency_key="k"), mail(2, idempotency_key="k"))
    with pytest.raises(MessageError, match=r"^outbox.send takes a Session or a Connection, not Engine;"):
        outbox.send(engine, mail())
    assert rows() == []


def test_attachments_are_read_there(tmp_path, write, rows):
    path = tmp_path / "bill.txt"
    path.write_text("7 pounds")
    write(mail(attachments=[path, Attachment(filename="a.bin", content=bytes(range(256)))]))
    path.unlink()
    [row] = rows()
    assert b"bill.txt" in decode(bytes(row.content), row.batch).bodies[0]


def test_the_settings_are_those_of_the_environment(engine, monkeypatch):
    outbox = Outbox()
    outbox.table.create(engine)
    monkeypatch.setenv("MAILTASKS_DEFAULT_FROM", "env@example.com")
    with engine.begin() as connection:
        [id] = outbox.send(connection, mail())
        [row] = connection.execute(outbox.table.select()).all()
    assert decode(bytes(row.content), row.batch).record.messages[0].message_id == f"<{id}@example.com>"


def test_keep_is_the_outboxes_unless_a_call_says_otherwise(engine, monkeypatch):
    outbox = Outbox(keep="until_final", settings=Settings(default_from="shop@example.com"))
    outbox.table.create(engine)
    with engine.begin() as connection:
        outbox.send(connection, mail())
        outbox.send(connection, mail(), keep=Keep.FOREVER)
        assert [row.keep for row in connection.execute(outbox.table.select())] == ["until_final", "forever"]


def test_a_wrong_keep_is_refused(outbox, write):
    with pytest.raises(SettingsError, match=r"^keep='always' is unknown"):
        Outbox(keep="always")
    with pytest.raises(SettingsError, match=r"^keep='always' is unknown"):
        write(mail(), keep="always")


def test_an_error_of_the_database_quotes_nothing_of_the_mail(engine):
    outbox = Outbox(name="not_there", settings=Settings(default_from="shop@example.com"))
    with engine.connect() as connection, pytest.raises(DBAPIError) as raised:
        outbox.send(connection, mail())
    assert "not_there" in str(raised.value)
    assert "parameters hidden" in str(raised.value)
    assert "1234" not in str(raised.value)


def test_what_was_set_aside_is_told_and_released(engine, outbox, rows, write):
    [id] = write(mail())
    with engine.begin() as connection:
        connection.execute(outbox.table.update().values(state="aside", error="no"))
        assert outbox.status(connection).aside == 1
        assert [row.messages for row in outbox.aside(connection)] == [(id,)]
        assert outbox.retry(connection, 1) == 1
        assert outbox.retry(connection) == 0
    assert [(row.state, row.error) for row in rows()] == [("waiting", None)]


def test_the_relays_mailer_is_by_default_the_default_one(outbox, engine, redis_url, write, monkeypatch):
    monkeypatch.setenv("MAILTASKS_BROKER_URL", redis_url)
    monkeypatch.setattr("mailtasks.default._default", None)
    [id] = write(mail())
    assert outbox.relay(engine).drain().accepted == 1
    assert mailtasks.status(id).id == id
    mailtasks.default_mailer().close()


def test_an_engine_of_the_users_is_left_open(engine, outbox, mailer):
    memory = create_engine("sqlite://")
    outbox.table.create(memory)
    outbox.relay(memory, mailer).drain()
    with memory.connect() as connection:
        assert connection.execute(outbox.table.select()).all() == []
    memory.dispose()
