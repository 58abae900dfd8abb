"""Campaigns: rows accepted a second, what a queued row takes in Redis, and how fast they are drained.

    python -m benchmarks.campaign [--rows 150000] [--drained 20000] [--pairs 3] [--json]

Accepting is measured on this process' own processor time, which others on the machine disturb least; reading
and checking a file come on top (`benchmarks.people`). Memory is all that Redis has more. The same mails are
drained as a campaign, which workers render, and as messages of `send_many`, which the producer has composed,
in turn.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from benchmarks.drain import sent, stage, timed, workers
from mailtasks.campaign import CampaignOptions
from mailtasks.campaign.batches import batched
from mailtasks.campaign.intake import Intake
from mailtasks.compose.template import Template
from mailtasks.local.redis import LocalRedis
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.pieces import OwnFile

ROWS_A_SECOND = 70_000  # with the 6 µs that reading and checking a row take, 50,000
BYTES_A_ROW = 40
RATIO = 0.6  # of the drain of the same mails that were composed by the producer

NAMES = ("Ann", "Bob", "Cy", "Dora", "Edward", "Fatima", "Giulia", "Hamza", "Ines", "Jürgen", "Kim", "Li")
CITIES = ("Lisbon", "Porto", "Köln", "Paris", "Lyon", "Madrid", "Turin", "Graz", "Brno", "Oslo", "Cork")
LINES = "this is a line of an ordinary mail, as long as they are.\n" * 34  # 2 KB


class Row(NamedTuple):
    """As `mailtasks.people` gives them."""

    email: str
    fields: dict[str, Any]
    files: tuple[OwnFile, ...] = ()


def rows(number: int) -> Iterator[Row]:
    """People with two short fields, as unlike as on a list."""
    chance = random.Random(1)
    for n in range(number):
        name = chance.choice(NAMES)
        yield Row(
            f"{name.lower().replace('ü', 'u')}{chance.randrange(10**6)}.{n}@mail{n % 50}.example.com",
            {"name": name, "city": chance.choice(CITIES)},
        )


def template() -> Template:
    """Two short fields in an ordinary mail."""
    return Template(
        subject="News for {{ name }}",
        sender="News <news@example.com>",
        text="Dear {{ name }} in {{ city }},\n" + LINES,
    )


def accept(mailer: Mailer, name: str, wanted: list[Row]) -> tuple[float, float]:
    """Rows a second, and bytes of Redis for each."""
    loaded = template().load(["name", "city", "email"])
    intake = Intake.begin(mailer, name, loaded, CampaignOptions())
    before = mailer.redis.info("memory")["used_memory_dataset"]
    began = time.process_time()
    intake.add(batched(wanted))
    intake.complete()
    rate = len(wanted) / (time.process_time() - began)
    return rate, (mailer.redis.info("memory")["used_memory_dataset"] - before) / len(wanted)


def drain_campaign(mailer: Mailer, number: int, run: Callable[[], AbstractContextManager[None]]) -> float:
    """Mails a second, rendered by the workers."""
    before = sent(mailer)
    accept(mailer, f"drained {time.time_ns()}", list(rows(number)))
    with run():
        return timed(lambda: number - (sent(mailer) - before), number)


def drain_messages(mailer: Mailer, number: int, run: Callable[[], AbstractContextManager[None]]) -> float:
    """Mails a second, composed by the producer."""
    before, made = sent(mailer), []
    for row in rows(number):
        text = f"Dear {row.fields['name']} in {row.fields['city']},\n{LINES}"
        subject = f"News for {row.fields['name']}"
        made.append(Message(to=row.email, subject=subject, text=text, priority="bulk"))
    mailer.send_many(made)
    with run():
        return timed(lambda: number - (sent(mailer) - before), number)


def main() -> int:
    """Run it and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=150_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--drained", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = (lambda *_: None) if arguments.json else (lambda text: print(text, flush=True))

    wanted = list(rows(arguments.rows))
    accepted = []
    with LocalRedis() as redis, Mailer(broker_url=redis.url) as mailer:
        for number in range(arguments.rounds):
            accepted.append(accept(mailer, f"{number}", wanted))
            say(f"accepted {accepted[-1][0]:8,.0f} rows/s   {accepted[-1][1]:.1f} bytes a row")
    pairs = []
    with stage() as (name, environment):

        def run() -> AbstractContextManager[None]:
            return workers(2, 8, environment)

        with Mailer() as mailer:
            for _ in range(arguments.pairs):
                messages = drain_messages(mailer, arguments.drained, run)
                campaign = drain_campaign(mailer, arguments.drained, run)
                pairs.append((messages, campaign))
                say(
                    f"drained  messages {messages:7,.0f}/s   campaign {campaign:7,.0f}/s   "
                    f"ratio {campaign / messages:.2f}"
                )
    report = {
        "rows": arguments.rows,
        "rows_per_second": max(rate for rate, _ in accepted),
        "bytes_a_row": statistics.median(size for _, size in accepted),
        "sink": name,
        "messages_per_second": statistics.median(messages for messages, _ in pairs),
        "campaign_per_second": statistics.median(campaign for _, campaign in pairs),
        "ratio": statistics.median(campaign / messages for messages, campaign in pairs),
    }
    print(json.dumps(report))
    well = (
        report["rows_per_second"] >= ROWS_A_SECOND
        and report["bytes_a_row"] <= BYTES_A_ROW
        and report["ratio"] >= RATIO
    )
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
