"""A small shop in FastAPI: a sign-up with a code, orders confirmed by mail, a newsletter.

    mailtasks up    # Redis, a server that catches the mail, workers; it says what to export
    export MAILTASKS_DEFAULT_FROM=shop@example.com SHOP_PASSWORD=change-me
    uvicorn shop:app    # in another terminal, with that exported

    curl -H 'Content-Type: application/json' -d '{"email": "ann@example.com"}' http://127.0.0.1:8000/signup

Confirmations of orders wait in the shop's own database until a relay takes them, in a third terminal:

    MAILTASKS_DATABASE_URL=sqlite:///shop.db mailtasks outbox run
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel, EmailStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mailtasks import Campaign, Mailer, Message, Template
from mailtasks.errors import CommittedWithoutMail, MailtasksError, StoreUnavailable, UnknownMessage
from mailtasks.sql import Outbox, on_commit

DATABASE_URL = os.environ.get("SHOP_DATABASE_URL", "sqlite+aiosqlite:///shop.db")
BASE_URL = os.environ.get("SHOP_BASE_URL", "https://shop.example.com")
CODE_LIFETIME = 600  # seconds
MOST_TRIES = 5  # of a code

log = logging.getLogger("shop")


# What the shop knows


class Base(DeclarativeBase):
    """The tables."""


class Customer(Base):
    """Who has signed up, or is about to."""

    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    code: Mapped[str]
    code_ends: Mapped[float]
    tries: Mapped[int] = mapped_column(default=0)
    confirmed: Mapped[bool] = mapped_column(default=False)
    subscribed: Mapped[bool] = mapped_column(default=True)
    token: Mapped[str] = mapped_column(default=lambda: secrets.token_urlsafe(16))


class Order(Base):
    """What was ordered, and the id of the mail that confirms it."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int]
    item: Mapped[str]
    mail: Mapped[str | None]


outbox = Outbox(Base.metadata)


# What comes in


class SignUp(BaseModel):
    """Who signs up."""

    email: EmailStr


class Confirmation(SignUp):
    """The code that was mailed."""

    code: str


class NewOrder(SignUp):
    """What is ordered; nobody has an elephant."""

    item: str


class Newsletter(BaseModel):
    """A name goes out once; sent a second time, it is taken up where it was interrupted."""

    name: str
    subject: str
    text: str


# The application


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """A wrong setting stops the start. A Redis that is away doesn't: mailers connect when they are used."""
    engine = create_async_engine(DATABASE_URL)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    app.state.sessions = async_sessionmaker(engine)
    with Mailer() as app.state.mailer:
        yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


def get_mailer(request: Request) -> Mailer:
    """The application's."""
    return request.app.state.mailer


def get_sessions(request: Request) -> async_sessionmaker[AsyncSession]:
    """What makes sessions of the application's database."""
    return request.app.state.sessions


TheMailer = Annotated[Mailer, Depends(get_mailer)]
Sessions = Annotated[async_sessionmaker[AsyncSession], Depends(get_sessions)]


async def begin(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """A transaction; an HTTPException rolls it back."""
    async with sessions.begin() as session:
        yield session


# Of scope "function", so that it is committed before the answer is sent, and not after that.
Transaction = Annotated[AsyncSession, Depends(begin, scope="function")]
Credentials = Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]


@app.post("/signup", status_code=202)
async def sign_up(form: SignUp, sessions: Sessions, mailer: TheMailer) -> dict[str, str]:
    """Somebody waits for this code: it goes before everything else, and not once it is no good."""
    code = f"{secrets.randbelow(10**6):06}"
    async with sessions.begin() as session:
        customer = await find(session, form.email) or Customer(email=form.email)
        customer.code, customer.code_ends, customer.tries = code, time.time() + CODE_LIFETIME, 0
        session.add(customer)
    text = f"Your code is {code}."
    message = Message(
        to=form.email, subject="Your code", text=text, priority="urgent", expires_after=CODE_LIFETIME
    )
    return {"mail": await mailer.asend(message)}


@app.post("/signup/confirm")
async def confirm(form: Confirmation, sessions: Sessions, mailer: TheMailer) -> dict[str, bool]:
    """The welcome needs no relay, and may be lost: if Redis is away just after the commit."""
    try:
        async with sessions.begin() as session:
            customer = await find(session, form.email)
            if customer is None or customer.tries >= MOST_TRIES or customer.code_ends < time.time():
                raise HTTPException(400, "no such code")
            customer.tries += 1
            is_right = hmac.compare_digest(customer.code.encode(), form.code.encode())
            if is_right and not customer.confirmed:
                customer.confirmed = True
                on_commit(session, Message(to=form.email, subject="Welcome", text="Hello."), mailer=mailer)
    except CommittedWithoutMail as error:
        log.warning("nobody was welcomed: %s", error)
    if not is_right:
        raise HTTPException(400, "no such code")
    return {"confirmed": True}


@app.post("/orders", status_code=201)
async def order(form: NewOrder, session: Transaction) -> dict[str, Any]:
    """The confirmation is in the same transaction as the order, whether Redis is away or not."""
    customer = await find(session, form.email)
    if customer is None or not customer.confirmed:
        raise HTTPException(403, "sign up first")
    ordered = Order(customer_id=customer.id, item=form.item)
    session.add(ordered)
    await session.flush()
    text = f"Thank you. You ordered: {form.item}."
    message = Message(to=form.email, subject=f"Your order {ordered.id}", text=text)
    [ordered.mail] = await outbox.asend(session, message)
    if form.item == "elephant":
        raise HTTPException(409, "we have no elephant")  # which rolls back, so that nothing is sent
    return {"order": ordered.id, "mail": ordered.mail}


@app.get("/mail/{id}")
async def mail(id: str, mailer: TheMailer) -> dict[str, str]:
    """What became of a mail. What waits in the outbox isn't known yet."""
    status = await mailer.astatus(id)
    return {"state": status.state, "reply": status.reply}


@app.post("/newsletter", status_code=202)
async def newsletter(
    form: Newsletter, credentials: Credentials, sessions: Sessions, mailer: TheMailer
) -> dict[str, Any]:
    """One template to everybody who wants it, behind all other mail."""
    password = os.environ.get("SHOP_PASSWORD", "")
    if not password or not hmac.compare_digest(credentials.password.encode(), password.encode()):
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})
    template = Template(
        subject=form.subject,
        sender=mailer.settings.default_from or "",
        text=form.text,
        unsubscribe=f"{BASE_URL}/unsubscribe/{{{{ token|urlencode }}}}",
    )
    wanted = select(Customer.email, Customer.token).where(Customer.confirmed, Customer.subscribed)
    async with sessions() as session:
        people = (await session.execute(wanted.order_by(Customer.id))).mappings().all()
    campaign = Campaign(form.name, template, mailer=mailer)
    report = await asyncio.to_thread(campaign.send, people)  # it blocks, longer the more they are
    return report.as_dict()


@app.post("/unsubscribe/{token}")
async def unsubscribe(token: str, session: Transaction) -> dict[str, bool]:
    """One click in the reader's mail program (RFC 8058)."""
    customer = await session.scalar(select(Customer).where(Customer.token == token))
    if customer is None:
        raise HTTPException(404)
    customer.subscribed = False
    return {"subscribed": False}


@app.get("/")
async def there() -> dict[str, bool]:
    """Whether anybody is there."""
    return {"open": True}


@app.exception_handler(StoreUnavailable)
async def away(request: Request, error: StoreUnavailable) -> JSONResponse:
    """Redis is away."""
    log.error("%s: %s", request.url.path, error)
    return JSONResponse({"error": "mail can't be sent just now, try again later"}, 503)


@app.exception_handler(UnknownMessage)
async def unknown(request: Request, error: UnknownMessage) -> JSONResponse:
    """There is no such mail, or not yet."""
    return JSONResponse({"error": "no such mail is known"}, 404)


@app.exception_handler(MailtasksError)
async def wrong(request: Request, error: MailtasksError) -> JSONResponse:
    """A template, a name of a campaign: whoever sends the newsletter may read what is wrong."""
    return JSONResponse({"error": str(error)}, 422)


async def find(session: AsyncSession, email: str) -> Customer | None:
    """A customer by their address."""
    return await session.scalar(select(Customer).where(Customer.email == email))
