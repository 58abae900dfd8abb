"""How long an idle installation takes from `send()` to the relay's 250, beside what the relay itself needs.

Each pair sends one mail through mailtasks (a producer here, a worker process, the server) and one straight
to the same server over a kept smtplib connection, with a pause before each, so that everything is idle.
What counts is the difference of the medians.

    python -m benchmarks.latency [--pairs 100] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import smtplib
import statistics
import sys
import time

from benchmarks.drain import workers
from mailtasks import Message
from mailtasks.local.redis import LocalRedis
from mailtasks.local.sink import CatchingServer
from mailtasks.mailer import Mailer

AT_MOST = 0.020  # seconds more than the relay needs
PAUSE = 0.05  # seconds


def through_mailtasks(mailer: Mailer, server: CatchingServer, caught: int) -> float:
    """Seconds from the call of `send()` until the server has taken the mail."""
    time.sleep(PAUSE)
    began = time.perf_counter()
    mailer.send(Message(to="ann@example.com", subject="Your code", text="1234", priority="urgent"))
    server.wait_for(caught + 1)
    return time.perf_counter() - began


def straight(relay: smtplib.SMTP, text: str) -> float:
    """Seconds of one `sendmail` over an open connection."""
    time.sleep(PAUSE)
    began = time.perf_counter()
    relay.sendmail("shop@example.com", ["ann@example.com"], text)
    return time.perf_counter() - began


def main() -> int:
    """Run the pairs and print the difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    with LocalRedis() as redis, CatchingServer() as server:
        environment = {
            "MAILTASKS_BROKER_URL": redis.url,
            "MAILTASKS_RELAY": server.url,
            "MAILTASKS_DEFAULT_FROM": "shop@example.com",
        }
        os.environ.update(environment)
        text = "From: shop@example.com\r\nTo: ann@example.com\r\nSubject: Your code\r\n\r\n1234\r\n"
        with Mailer() as mailer, workers(1, 4, environment), smtplib.SMTP("127.0.0.1", server.port) as relay:
            mailer.send(Message(to="ann@example.com", subject="warm up", text="1"))
            server.wait_for(1, timeout=30)
            ours, relays = [], []
            for pair in range(arguments.pairs):
                ours.append(through_mailtasks(mailer, server, 2 * pair + 1))
                relays.append(straight(relay, text))
    more = statistics.median(ours) - statistics.median(relays)
    report = {
        "what": "idle: send() to the relay's 250, median, more than the relay needs",
        "pairs": arguments.pairs,
        "mailtasks_ms": statistics.median(ours) * 1000,
        "relay_ms": statistics.median(relays) * 1000,
        "more_ms": more * 1000,
        "at_most_ms": AT_MOST * 1000,
    }
    if arguments.json:
        print(json.dumps(report))
    else:
        print(
            f"mailtasks {report['mailtasks_ms']:.1f} ms, the relay alone {report['relay_ms']:.1f} ms: "
            f"{report['more_ms']:.1f} ms more (at most {report['at_most_ms']:.0f})"
        )
    return 0 if more <= AT_MOST else 1


if __name__ == "__main__":
    sys.exit(main())
