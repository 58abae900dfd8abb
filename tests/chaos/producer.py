"""A producer that may die at any moment: it sends, and writes down what it was told.

    python -m tests.chaos.producer NAME MESSAGES SECONDS JOURNAL

The settings come from the environment. Started again with the same journal it goes on where that ends, so
what it was in the middle of is sent once more: under the same idempotency key where the mail has one, else
as another mail. An error that carries ids is answered as its sentence says: with the same ids, till it works.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from mailtasks import Mailer, Message
from mailtasks.errors import StoreUnavailable

DOMAIN = "example.com"
PRIORITIES = ("urgent", "normal", "bulk", "normal", "bulk")
AT_ONCE = 20  # bulk mails of one call
AGAIN_AFTER = 0.2  # seconds


def mail(name: str, number: int, priority: str) -> Message:
    """Mail `number` of this producer; every third has a key, every seventh that isn't bulk two recipients."""
    two = number % 7 == 0 and priority != "bulk"
    to = [f"{name}-{number}@{DOMAIN}", f"{name}-{number}-too@{DOMAIN}"][: 1 + two]
    key = f"{name}-{number}" if number % 3 == 0 else None
    text = "chaos\n" * (number % 50 + 1)
    return Message(to=to, subject=f"{name} {number}", text=text, priority=priority, idempotency_key=key)


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


def read(journal: Path) -> list[dict[str, object]]:
    """The journal's lines; a last one that a kill cut short is passed over."""
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]


def main(name: str, messages: int, seconds: float, journal: Path) -> None:
    """Send so many mails over so many seconds, as fast as can be after a delay."""
    began = time.monotonic()
    written = read(journal)
    start = int(str(written[-1]["next"])) if written else 0
    with Mailer() as mailer, journal.open("a") as told:
        if written and not journal.read_text().endswith("\n"):
            told.write("\n")
        for behind, mails in rounds(name, start, messages):
            time.sleep(max(0.0, began + (behind - start) * seconds / messages - time.monotonic()))
            ids = send(mailer, mails)
            pairs = [
                (f"<{id}@{DOMAIN}>", recipient)
                for id, message in zip(ids, mails, strict=True)
                for recipient in message.recipients
            ]
            told.write(json.dumps({"next": behind, "pairs": pairs}) + "\n")
            told.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
