"""`mailtasks.sql` as a user's type checker sees it. `mypy --strict` reads this; nobody runs it."""

from __future__ import annotations

from typing import Any, assert_type

from sqlalchemy import Connection, Engine, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, scoped_session

from mailtasks import Mailer, Message, Settings, send_many
from mailtasks.errors import CommittedWithoutMail, DatabaseError, MailtasksError, StoreUnavailable
from mailtasks.sql import Keep, Moved, Outbox, OutboxRelay, OutboxStatus, RowAside, on_commit

message = Message(to="ann@example.com", text="1234")


def commit(session: Session, scoped: scoped_session[Session], asynchronous: AsyncSession) -> None:
    assert_type(on_commit(session, message, message), list[str])
    on_commit(scoped, message)
    on_commit(asynchronous, message, mailer=Mailer())
    on_commit("session", message)  # type: ignore[arg-type]
    on_commit(session, "mail")  # type: ignore[arg-type]


def again(error: CommittedWithoutMail) -> list[str]:
    as_caught: StoreUnavailable = error
    assert_type(as_caught.ids, tuple[str, ...])
    return send_many(error.messages, ids=error.ids)


outbox = Outbox(MetaData(), name="mail", schema="app", keep="until_final", settings=Settings())
assert_type(outbox.table, Table)
Outbox(keep=Keep.FOREVER)
Outbox(keep=7)  # type: ignore[arg-type]


def write(session: Session, scoped: scoped_session[Any], connection: Connection, engine: Engine) -> None:
    assert_type(outbox.send(session, message, message, keep="forever"), list[str])
    outbox.send(scoped, message)
    outbox.send(connection, message)
    outbox.send(engine, message)  # type: ignore[arg-type]
    assert_type(outbox.retry(connection, 1, 2), int)
    assert_type(outbox.status(session), OutboxStatus)
    assert_type(list(outbox.aside(connection)), list[RowAside])


async def awrite(session: AsyncSession, connection: AsyncConnection) -> None:
    assert_type(await outbox.asend(session, message), list[str])
    assert_type(await outbox.asend(connection, message, keep=Keep.UNTIL_FINAL), list[str])
    outbox.send(session, message)  # type: ignore[arg-type]


def move(engine: Engine) -> Moved:
    relay = outbox.relay(engine, Mailer(), interval=0.5)
    assert_type(relay, OutboxRelay)
    relay.run()
    relay.stop()
    assert_type(relay.drain().accepted, int)
    return relay.drain() + Moved(aside=1)


away: MailtasksError = DatabaseError("it is away")
