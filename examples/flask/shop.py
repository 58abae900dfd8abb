"""A small shop in Flask: a sign-up with a code, orders confirmed by mail, a newsletter.

    export FLASK_MAIL_DEFAULT_SENDER=shop@example.com FLASK_ADMIN_TOKEN=change-me
    flask --app shop mailtasks up    # Redis, a server that catches the mail, workers; it says what to export
    flask --app shop run             # in another terminal, with that exported

    curl -d email=ann@example.com http://127.0.0.1:5000/signup

Every setting is an environment variable: FLASK_MAIL_SERVER, FLASK_MAILTASKS_BROKER_URL, FLASK_DATABASE_URL …
"""

from __future__ import annotations

import hmac
import secrets
import time
from typing import Any

from flask import Flask, abort, request
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from mailtasks import Campaign, Template
from mailtasks.contrib.flask import Mail, Message
from mailtasks.errors import AddressError, CommittedWithoutMail, MailtasksError, StoreUnavailable
from mailtasks.sql import on_commit

CODE_LIFETIME = 600  # seconds
MOST_TRIES = 5  # of a code

mail = Mail()


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


def create_app() -> Flask:
    """The application; `flask` finds it by this name."""
    app = Flask(__name__)
    app.config.from_mapping(
        DATABASE_URL="sqlite:///shop.db", BASE_URL="https://shop.example.com", ADMIN_TOKEN=None
    )
    app.config.from_prefixed_env()
    mail.init_app(app)
    engine = create_engine(app.config["DATABASE_URL"])
    Base.metadata.create_all(engine)

    @app.post("/signup")
    def sign_up() -> Any:
        """Somebody waits for this code: it goes before everything else, and not once it is no good."""
        email, code = request.form["email"], f"{secrets.randbelow(10**6):06}"
        with Session(engine) as session, session.begin():
            customer = _customer(session, email) or Customer(email=email)
            customer.code, customer.code_ends, customer.tries = code, time.time() + CODE_LIFETIME, 0
            session.add(customer)
            message = Message(
                "Your code", [email], f"Your code is {code}.", priority="urgent", expires_after=CODE_LIFETIME
            )
            on_commit(session, message.mailable(), mailer=mail.mailer)
        return {"sent": True}, 202

    @app.post("/signup/confirm")
    def confirm() -> Any:
        with Session(engine) as session, session.begin():
            customer = _customer(session, request.form["email"])
            if customer is None or customer.tries >= MOST_TRIES or customer.code_ends < time.time():
                return {"error": "no such code"}, 400
            customer.tries += 1
            customer.confirmed = hmac.compare_digest(customer.code.encode(), request.form["code"].encode())
            return ({"confirmed": True}, 200) if customer.confirmed else ({"error": "no such code"}, 400)

    @app.post("/orders")
    def order() -> Any:
        """The confirmation goes if the order is committed, and not otherwise."""
        placed = {}
        try:
            with Session(engine) as session, session.begin():
                customer = _customer(session, request.form["email"])
                if customer is None or not customer.confirmed:
                    return {"error": "sign up first"}, 403
                order = Order(customer_id=customer.id, item=request.form["item"])
                session.add(order)
                session.flush()
                message = Message(
                    f"Your order {order.id}", [customer.email], f"Thank you. You ordered: {order.item}."
                )
                [order.mail] = on_commit(session, message.mailable(), mailer=mail.mailer)
                if order.item == "nothing":
                    abort(409)  # which rolls back, so that nothing is sent
                placed = {"order": order.id, "mail": order.mail}
        except CommittedWithoutMail as error:  # the order stands; the error has what to send again
            app.logger.error("an order isn't confirmed: %s", error)
        return placed, 201

    @app.post("/newsletter")
    def newsletter() -> Any:
        """One template to everybody who wants it, behind all other mail; the same name goes out once."""
        token, given = app.config["ADMIN_TOKEN"], request.headers.get("X-Admin-Token", "")
        if not token or not hmac.compare_digest(given.encode(), str(token).encode()):
            abort(403)
        template = Template(
            subject=request.form["subject"],
            sender=mail.settings.default_from or "",
            text=request.form["text"],
            unsubscribe=f"{app.config['BASE_URL']}/unsubscribe/{{{{ token|urlencode }}}}",
        )
        with Session(engine) as session:
            wanted = select(Customer.email, Customer.token).where(Customer.confirmed, Customer.subscribed)
            people = session.execute(wanted.order_by(Customer.id)).mappings()
            report = Campaign(request.form["name"], template, mailer=mail.mailer).send(people)
        return report.as_dict(), 202

    @app.post("/unsubscribe/<token>")
    def unsubscribe(token: str) -> Any:
        """One click in the reader's mail program (RFC 8058)."""
        with Session(engine) as session, session.begin():
            customer = session.scalar(select(Customer).where(Customer.token == token))
            if customer is None:
                abort(404)
            customer.subscribed = False
        return {"subscribed": False}

    @app.errorhandler(AddressError)
    def no_address(error: AddressError) -> Any:
        return {"error": str(error)}, 400

    @app.errorhandler(StoreUnavailable)
    def away(error: StoreUnavailable) -> Any:
        """Redis is away."""
        app.logger.error("mail was not accepted: %s", error)
        return {"error": "mail can't be sent just now, try again later"}, 503

    @app.errorhandler(MailtasksError)
    def wrong(error: MailtasksError) -> Any:
        """A template, a name of a campaign: whoever sends the newsletter may read what is wrong."""
        return {"error": str(error)}, 422

    return app


def _customer(session: Session, email: str) -> Customer | None:
    return session.scalar(select(Customer).where(Customer.email == email))
