"""What composing a message costs, beside Python's own `EmailMessage`, in one run.

    python benchmarks/compose.py [--json]

Both sides get the same texts and return bytes with CRLF line ends; the sides take turns, and the
best of several rounds counts, so that a noisy machine harms both alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from time import perf_counter

from mailtasks.compose import compose
from mailtasks.message import Message

LINE = "Dear reader, this is one of the lines of a mail that is like most others.\n"
HTML_LINE = '<p style="margin: 0 0 1em">Grüße: one of the paragraphs of the same mail, with an umlaut.</p>\n'
TEXT_1K = LINE * 14
TEXT_2K = LINE * 27
HTML_2K = HTML_LINE * 20
SENDER = "Shop <shop@example.com>"
ID = "0123456789abcdef.0@shop.example.com"
DATE = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
CASES: dict[str, dict[str, str]] = {
    "text, 1 KB": {"text": TEXT_1K},
    "text + html, 2 KB each": {"text": TEXT_2K, "html": HTML_2K},
    "text + html, subject and name not ASCII": {
        "text": TEXT_2K,
        "html": HTML_2K,
        "to": "Jörg Müller <joerg@example.com>",
        "subject": "Grüße aus Köln: die Rechnung für März",
    },
}
HEADERS = {"to": "Ann Other <ann@example.com>", "subject": "Your order 4711"}


def ours(fields: dict[str, str]) -> Callable[[], bytes]:
    """A message that exists, as a worker has it, to bytes."""
    message = Message(**fields)
    return lambda: compose(message, sender=SENDER, message_id=ID, date=DATE, size_limit=10**7).content


def theirs(fields: dict[str, str]) -> Callable[[], bytes]:
    """The same with the standard library."""

    def build() -> bytes:
        mail = EmailMessage(policy=SMTP)
        mail["Date"] = format_datetime(DATE)
        mail["From"] = SENDER
        mail["To"] = fields["to"]
        mail["Subject"] = fields["subject"]
        mail["Message-ID"] = f"<{ID}>"
        mail.set_content(fields["text"])
        if "html" in fields:
            mail.add_alternative(fields["html"], subtype="html")
        return mail.as_bytes()

    return build


def microseconds(build: Callable[[], bytes], times: int) -> float:
    """What one call takes, on average."""
    started = perf_counter()
    for _ in range(times):
        build()
    return (perf_counter() - started) / times * 1e6


def measure(fields: dict[str, str], rounds: int = 7) -> dict[str, float]:
    """The best round of each side, in microseconds, and their ratio."""
    sides = {"mailtasks": (ours(fields), 1000), "email": (theirs(fields), 40)}
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, (build, times) in sides.items():
            best[name] = min(best[name], microseconds(build, times))
    return {**best, "ratio": best["email"] / best["mailtasks"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {case: measure(HEADERS | fields) for case, fields in CASES.items()}
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"{'µs a message':<42}{'mailtasks':>10}{'email':>10}{'ratio':>8}")
    for case, found in results.items():
        print(f"{case:<42}{found['mailtasks']:>10.1f}{found['email']:>10.0f}{found['ratio']:>8.0f}")


if __name__ == "__main__":
    main()
