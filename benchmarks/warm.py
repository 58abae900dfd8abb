"""The first urgent mail after a quiet time, with a connection that is kept warm and without one.

Two workers, alike but for `pool_warm`, talk to one relay that is 50 ms away, wants STARTTLS and a login, and
offers PIPELINING. After each quiet time, longer than an unused connection is kept, each of them gets one
mail. A worker's time is that from the claim until the dot's answer. The proxy that makes the relay far away
accepts at once, so TCP's own round trip isn't in it.

    python -m benchmarks.warm [--rounds 10] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from benchmarks.drain import workers
from mailtasks import Message
from mailtasks.local.redis import LocalRedis, free_port
from mailtasks.mailer import Mailer
from mailtasks.settings import Settings
from mailtasks.state import State
from mailtasks.testing import wait_until
from mailtasks.testing.proxy import Proxy

ROUND_TRIP = 0.05  # seconds
SAVED_AT_LEAST = 5  # round trips: EHLO, STARTTLS, TLS, EHLO, AUTH; the greeting is the reserve
IDLE = 5.0  # seconds that an unused connection is kept
QUIET = 6.5  # seconds without mail: the one connection is closed by then, the other replaced


class Taking:
    """Takes every mail."""

    async def handle_EHLO(self, server: Any, session: Any, envelope: Any, name: str, said: Any) -> list[str]:
        """What EHLO offers, and PIPELINING, which the server bears."""
        session.host_name = name
        return [*said[:-1], "250-PIPELINING", said[-1]]

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Yes."""
        return "250 2.0.0 taken"


def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    """Who knows the password."""
    return AuthResult(success=data.password == b"secret")


@contextmanager
def relay(folder: Path) -> Iterator[str]:
    """The URL of a relay that is far away."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    demands = {"require_starttls": True, "auth_required": True, "authenticator": authenticate}
    server = Controller(Taking(), hostname="127.0.0.1", port=free_port(), tls_context=context, **demands)
    server.start()
    try:
        with Proxy("127.0.0.1", server.port, round_trip=ROUND_TRIP) as proxy:
            yield f"smtp://ann:secret@127.0.0.1:{proxy.port}?tls=required&ca={folder / 'ca.pem'}"
    finally:
        server.stop()


@contextmanager
def installation(url: str, warm: int) -> Iterator[Mailer]:
    """A mailer, and a worker with a Redis of their own."""
    with LocalRedis() as redis:
        values = {
            "broker_url": redis.url,
            "relay": url,
            "default_from": "shop@example.com",
            "connection_idle": IDLE,
            "pool_warm": warm,
        }
        environment = {f"MAILTASKS_{name.upper()}": str(value) for name, value in values.items()}
        with workers(1, 4, environment), Mailer(Settings(**values)) as mailer:
            yield mailer


def first(mailer: Mailer) -> float:
    """Seconds from the claim of one urgent mail until its dot was answered."""
    id = mailer.send(Message(to="ann@example.com", subject="Your code", text="1234", priority="urgent"))
    wait_until(lambda: mailer.status(id).state is State.SENT, timeout=30)
    return mailer.status(id).recipients[0].took or 0.0


def main() -> int:
    """Run the rounds and print both sides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # aiosmtpd's, about its own future

    with ExitStack() as stack:
        url = stack.enter_context(relay(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        sides = [stack.enter_context(installation(url, warm)) for warm in (0, 1)]
        for side in sides:
            first(side)  # the worker is up
        took: list[list[float]] = [[], []]
        for _ in range(arguments.rounds):
            time.sleep(QUIET)
            for side, times in zip(sides, took, strict=True):
                times.append(first(side))
    cold, warm = map(statistics.median, took)
    saved = (cold - warm) / ROUND_TRIP
    report = {
        "what": "first urgent mail after a quiet time, claim to the dot's answer, median",
        "rounds": arguments.rounds,
        "round_trip_ms": ROUND_TRIP * 1000,
        "cold_ms": cold * 1000,
        "warm_ms": warm * 1000,
        "slowest_ms": [max(times) * 1000 for times in took],
        "saved_round_trips": saved,
        "at_least": SAVED_AT_LEAST,
    }
    if arguments.json:
        print(json.dumps(report))
    else:
        print(
            f"without {cold * 1000:.0f} ms, with {warm * 1000:.0f} ms ({max(took[1]) * 1000:.0f} at most): "
            f"{saved:.1f} round trips of {ROUND_TRIP * 1000:.0f} ms saved (at least {SAVED_AT_LEAST})"
        )
    return 0 if saved >= SAVED_AT_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
