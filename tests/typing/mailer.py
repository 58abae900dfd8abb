"""Functions and Mailer as a user's type checker sees them. `mypy --strict` reads this; nobody runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, assert_type

import mailtasks
from mailtasks import (
    Campaign,
    CampaignOptions,
    CampaignStatus,
    Mailer,
    MailtasksError,
    Message,
    MessageStatus,
    Priority,
    RetryReport,
    Settings,
    State,
    Template,
    asend,
    asend_many,
    astatus,
    cancel,
    default_mailer,
    retry,
    send,
    send_mail,
    send_many,
    status,
)
from mailtasks.campaign import Report
from mailtasks.errors import IdempotencyConflict, StoreUnavailable
from mailtasks.status import Doubt, QueueStatus, RecipientStatus, Stats, Stray
from mailtasks.suppression import Suppression

message = Message(to="ann@example.com", text="1234")

# The module's functions ...
assert_type(send(message), str)
assert_type(send(message, id="0abc.0"), str)
assert_type(send_many([message, message]), list[str])
assert_type(send_many(message for _ in range(3)), list[str])
assert_type(cancel("0abc.0"), int)
assert_type(retry("0abc.0", "0abd.0", force=True), RetryReport)
assert_type(default_mailer(), Mailer)
assert_type(mailtasks.__version__, str)
send("ann@example.com")  # type: ignore[arg-type]  # a message, not an address
send(message, "0abc.0")  # type: ignore[call-arg]  # an id has its name
send_many(message)  # type: ignore[arg-type]


async def view() -> str:
    """A handler that never blocks its loop."""
    assert_type(await asend(message, id=None), str)
    assert_type(await asend_many([message], one_each=True), list[str])
    assert_type(await astatus("0abc.0"), MessageStatus)
    return await asend(message)


# ... what can be asked ...
found = status("0abc.0")
assert_type(found, MessageStatus)
assert_type(found.state, State)
assert_type(found.attempts, int)
assert_type(found.reply, str)
assert_type(found.priority, Priority)
assert_type(found.finished_at, datetime | None)
assert_type(found.recipients, tuple[RecipientStatus, ...])
assert_type(found.recipients[0].took, float | None)
assert_type(found.metadata, Mapping[str, str])
assert_type(found.as_dict(), dict[str, Any])
found.reply = ""  # type: ignore[misc]  # a fact

# ... the object behind them ...
with Mailer(Settings(lease=2, default_from="shop@example.com")) as mailer:
    assert_type(mailer.send(message), str)
    assert_type(mailer.find("ann@example.com"), Iterator[MessageStatus])
    assert_type(mailer.failed(), Iterator[MessageStatus])
    assert_type(mailer.stats(), Stats)
    assert_type(mailer.stats().states[State.SENT], int)
    assert_type(mailer.queue(), list[QueueStatus])
    assert_type(mailer.retry(reason="policy", code="5.7.", dry_run=True).retried, int)
    assert_type(mailer.resume("bulk"), bool)
    assert_type(mailer.retry(domain="example.com", tag="spring").bodiless_ids, tuple[str, ...])
    assert_type(mailer.in_doubt(), Iterator[Doubt])
    assert_type(mailer.resend("0abc.0", dry_run=True), RetryReport)
    assert_type(mailer.settle(everything=True, as_=State.SENT), int)
    assert_type(mailer.settle("0abc.0", as_="failed"), int)
    mailer.settle("0abc.0")  # type: ignore[call-arg]  # as what?
    assert_type(mailer.sweep(), list[Stray])
    assert_type(mailer.paused(), Mapping[str, datetime])
    mailer.pause(1)  # type: ignore[arg-type]
Mailer(lease="90s", relay="smtp://127.0.0.1:2525")
Mailer("redis://localhost")  # type: ignore[arg-type]

# ... its errors, which carry what trying again needs ...
for entry in mailer.suppressions:
    assert_type(entry, Suppression)
assert_type(mailer.suppressions.add("ann@example.com", reason="asked", source="unsubscribe"), int)
assert_type(mailer.suppressions.get("ann@example.com"), Suppression | None)
assert_type("ann@example.com" in mailer.suppressions, bool)

try:
    send(message)
except StoreUnavailable as unavailable:
    assert_type(unavailable.ids, tuple[str, ...])
except IdempotencyConflict as conflict:
    assert_type(conflict.id, str)
except MailtasksError as error:
    assert_type(str(error), str)

# ... and the Celery way, which Celery leaves untyped.
send_mail.delay(to="ann@example.com", subject="Your code", text="1234")
send_mail.apply_async(kwargs={"to": "ann@example.com"}, countdown=600)

# Campaigns
template = Template(subject="Hi {{ name }}", sender="news@example.com", text="hello")
campaign = Campaign("spring", template, CampaignOptions(rate="10/s", tags=("news",)))
assert_type(campaign.send("people.csv"), Report)
assert_type(campaign.send([{"email": "ann@example.com", "name": "Ann"}], again=True), Report)
assert_type(campaign.status(), CampaignStatus)
assert_type(campaign.pause("lunch"), bool)
assert_type(campaign.cancel(), int)
assert_type(campaign.retry(), RetryReport)
assert_type(list(campaign.failures()), list[MessageStatus])
assert_type(Campaign.all(), list[Campaign])
with campaign.prepare("people.csv") as prepared:
    assert_type(prepared.people, int)
    assert_type(prepared.send(), Report)
campaign.send()  # type: ignore[call-arg]  # whom to?
Campaign("spring", "Hi {{ name }}")  # type: ignore[arg-type]  # a template, not its subject
