"""A producer that may die at any moment: it sends, and writes down what it was told.

    python -m tests.chaos.producer NAME MESSAGES SECONDS JOURNAL [DATABASE]

With a database it writes into the outbox there, which somebody else empties. The settings come from the
environment. Started again with the same journal it goes on where that ends, so what it was in the middle of
is sent once more: under the same idempotency key where the mail has one, else as another mail. An error that
carries ids is answered as its sentence says: with the same ids, till it works.

Of ten mails one is to go later, one is of no use soon, and one is regretted at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import create_engine

from mailtasks import Mailer, Message
from mailtasks.errors import StoreUnavailable
from mailtasks.sql import Outbox
from tests.chaos.books import BRIEF, LATER, REGRETTED, Pair, Wish

DOMAIN = "example.com"
PRIORITIES = ("urgent", "normal", "bulk", "normal", "bulk")
AT_ONCE = 20  # bulk mails of one call
AGAIN_AFTER = 0.2  # seconds
WISHES: Final[Mapping[int, str]] = {3: LATER, 5: BRIEF, 8: REGRETTED}  # by the number's last digit
LATER_BY: Final = 3.0  # seconds
BRIEF_FOR: Final = 4.0  # seconds


def mail(name: str, number: int, priority: str) -> Message:
    """Mail `number` of this producer; every third has a key, every seventh that isn't bulk two recipients.

    One with a wish has no key: a repeated call would keep the times of the first.
    """
    wish = WISHES.get(number % 10)
    word = f"{name}-{number}-{wish}" if wish else f"{name}-{number}"
    two = number % 7 == 0 and priority != "bulk"
    return Message(
        to=[f"{word}@{DOMAIN}", f"too-{word}@{DOMAIN}"][: 1 + two],
        subject=f"{name} {number}",
        text="chaos\n" * (number % 50 + 1),
        priority=priority,
        idempotency_key=word if number % 3 == 0 and not wish else None,
        send_at=datetime.now(UTC) + timedelta(seconds=LATER_BY) if wish == LATER else None,
        expires_after=BRIEF_FOR if wish == BRIEF else None,
    )


def rounds(name: str, start: int, messages: int) -> Iterable[tuple[int, Sequence[Message]]]:
    """What is sent in one call, and how many mails are behind it."""
    number = start
    while number < messages:
        priority = PRIORITIES[number // AT_ONCE % len(PRIORITIES)]
        count = min(AT_ONCE - number % AT_ONCE if priority == "bulk" else 1, messages - number)
        yield number + count, [mail(name, number + place, priority) for place in range(count)]
        number += count


def send(mailer: Mailer, messages: Sequence[Message]) -> list[str]:
    ids = None
    while True:
        try:
            return mailer.send_many(messages, ids=ids)
        except StoreUnavailable as error:
            ids = list(error.ids) or ids
            time.sleep(AGAIN_AFTER)


def cancelled(mailer: Mailer, id: str, message: Message) -> bool:
    """Whether all of it was cancelled, by the word of the ledger."""
    while True:
        try:
            return mailer.cancel(id) == len(message.recipients)
        except StoreUnavailable:
            time.sleep(AGAIN_AFTER)


def pairs(id: str, message: Message) -> list[Pair]:
    return [(f"<{id}@{DOMAIN}>", recipient) for recipient in message.recipients]


def times(sent: float, message: Message) -> tuple[float, float]:
    """Not before when, and at the earliest when it expires, of a call that began at `sent`; 0: no matter."""
    not_before = message.send_at.timestamp() if message.send_at else 0.0
    lives = message.expires_after.total_seconds() if message.expires_after else 0.0
    return not_before, sent + lives if lives else 0.0


def read(journal: Path) -> list[dict[str, Any]]:
    """The journal's lines; a last one that a kill cut short is passed over."""
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]


def told(journal: Path) -> dict[Pair, Wish]:
    """What the producer was told: which mail was accepted, and what of it cancelled."""
    book: dict[Pair, Wish] = {}
    for line in read(journal):
        for message_id, recipient, *times in line.get("accepted", ()):
            book[message_id, recipient] = Wish(*times)
        for message_id, recipient in line.get("cancelled", ()):
            book[message_id, recipient] = replace(book[message_id, recipient], cancelled=True)
    return book


Tell = Callable[[str, list[Any]], None]  # "accepted" or "cancelled", and which pairs


def send_all(mailer: Mailer, mails: Sequence[Message], tell: Tell) -> None:
    """One call, and what is regretted at once."""
    sent = time.time()
    both = list(zip(send(mailer, mails), mails, strict=True))
    tell("accepted", [(*pair, *times(sent, one)) for id, one in both for pair in pairs(id, one)])
    for id, one in both:
        if f"-{REGRETTED}@" in one.recipients[0] and cancelled(mailer, id, one):
            tell("cancelled", pairs(id, one))


def write_all(database: str, mails: Sequence[Message], tell: Tell) -> None:
    """One transaction. What is in an outbox can't be cancelled, so nothing is regretted here."""
    sent = time.time()
    with create_engine(database).begin() as connection:
        ids = Outbox().send(connection, *mails)
    both = zip(ids, mails, strict=True)
    tell("accepted", [(*pair, *times(sent, one)) for id, one in both for pair in pairs(id, one)])


def main(name: str, messages: int, seconds: float, journal: Path, database: str | None = None) -> None:
    began = time.monotonic()
    written = read(journal)
    start = int(written[-1]["next"]) if written else 0
    with Mailer() as mailer, journal.open("a") as book:
        produce = partial(write_all, database) if database else partial(send_all, mailer)
        if written and not journal.read_text().endswith("\n"):
            book.write("\n")
        for behind, mails in rounds(name, start, messages):
            time.sleep(max(0.0, began + (behind - start) * seconds / messages - time.monotonic()))

            def tell(what: str, of: list[Any], behind: int = behind) -> None:
                book.write(json.dumps({"next": behind, what: of}) + "\n")
                book.flush()

            produce(mails, tell)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]), *sys.argv[5:])
