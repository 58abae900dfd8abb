"""What a mail from a template costs, beside two plainer ways, in one run.

    python -m benchmarks.templates [--json]

- `email`: Jinja2 renders both bodies, and `EmailMessage` is built for each recipient.
- `plain`: Jinja2 renders both bodies, and `quopri` encodes them; the rest of the message is put around them.

All sides get the same template and fields, and return whole messages with CRLF line ends whose bodies parse
to the same. The sides take turns, and the best of several rounds counts, in time of the processor. It fails
where a side isn't as many times slower as `MARKS` says, or an unsubscribe URL costs too much. `bodies` is
what our two bodies take of the whole; `one click` is our whole message with an unsubscribe URL of each
recipient's own, and its two headers.
"""

from __future__ import annotations

import argparse
import json
import quopri
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.policy import default as modern
from email.utils import format_datetime
from time import process_time

import jinja2

from mailtasks.compose.template import Limits, Template
from mailtasks.compose.template.budget import within
from mailtasks.compose.template.roads import Body, values_of
from mailtasks.compose.template.sources import read_part

SENDER = "News <news@example.com>"
TO = "Ann Other <ann@example.com>"
ID = "0123456789abcdef.0@example.com"
DATE = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
FIELDS = {"name": "Jörg", "city": "Berlin", "points": 4711, "link": "https://example.com/u/0123456789abcdef"}
URL = "https://example.com/u/{{ points|urlencode }}?m={{ email|urlencode }}"
SUBJECT = "News for {{ name }}"
LINE = (
    "This is one of the lines of a mail that is like most others: with an umlaut in »Grüße« now and then.\n"
)
TEXT = (
    "Dear {{ name }},\n\n"
    + LINE * 8
    + "You have {{ points }} points in {{ city }}.\n"
    + LINE * 8
    + "\n{{ link }}\n"
)
HTML = (
    '<html><body><p style="margin: 0 0 1em">Dear {{ name }},</p>\n'
    + f'<p style="margin: 0 0 1em">{LINE}</p>\n' * 8
    + "<p>You have <b>{{ points }}</b> points in {{ city }}.</p>\n"
    + f'<p style="margin: 0 0 1em">{LINE}</p>\n' * 8
    + '<p><a href="{{ link }}">Here</a></p></body></html>\n'
)
LOOKING = "{% set greeting %}Dear {{ name }}{% endset %}"
CASES = {
    "fast road": (TEXT, HTML),
    "slow road": (LOOKING + TEXT, LOOKING + HTML),
}
MARKS = {"fast road": {"email": 20.0, "plain": 1.1}, "slow road": {"email": 12.0, "plain": 0.5}}
ONE_CLICK_MARK = 1.7  # times as long with an unsubscribe URL, at most


def ours(text: str, html: str) -> Callable[[], bytes]:
    """A compiled template, rendered."""
    template = Template(subject=SUBJECT, sender=SENDER, text=text, html=html).compile(FIELDS)
    return lambda: template.render(FIELDS, to=TO, message_id=ID, date=DATE).content


def one_click(text: str, html: str) -> Callable[[], bytes]:
    """The same with an unsubscribe URL, which stands in the bodies instead of the link."""
    text, html = [body.replace("{{ link }}", "{{ unsubscribe_url }}") for body in (text, html)]
    template = Template(subject=SUBJECT, sender=SENDER, text=text, html=html, unsubscribe=URL).compile(FIELDS)
    return lambda: template.render(FIELDS, to=TO, message_id=ID, date=DATE).content


def bodies(text: str, html: str) -> Callable[[], object]:
    """The two bodies alone, encoded."""
    part = Body(read_part("text", text, None, None)), Body(read_part("html", html, None, None), html=True)
    values = values_of(FIELDS)

    def build() -> object:
        with within(Limits()) as budget:
            return [body.render(values, budget) for body in part]

    return build


def rendering(text: str, html: str) -> Callable[[], tuple[str, str, str]]:
    """Subject, text and HTML by Jinja2 alone."""
    plain, escaping = jinja2.Environment(), jinja2.Environment(autoescape=True)
    subject, body = plain.from_string(SUBJECT), plain.from_string(text)
    markup = escaping.from_string(html)
    return lambda: (subject.render(FIELDS), body.render(FIELDS), markup.render(FIELDS))


def email(text: str, html: str) -> Callable[[], bytes]:
    """Jinja2 and the standard library's `EmailMessage`."""
    render = rendering(text, html)

    def build() -> bytes:
        subject, body, markup = render()
        mail = EmailMessage(policy=SMTP)
        mail["Date"] = format_datetime(DATE)
        mail["From"], mail["To"], mail["Subject"], mail["Message-ID"] = SENDER, TO, subject, f"<{ID}>"
        mail.set_content(body, cte="quoted-printable")
        mail.add_alternative(markup, subtype="html", cte="quoted-printable")
        return mail.as_bytes()

    return build


def plain(text: str, html: str) -> Callable[[], bytes]:
    """Jinja2 and `quopri`; the message around the bodies is there already, but for its subject."""
    render = rendering(text, html)
    head, between, end = around(text, html)

    def build() -> bytes:
        subject, body, markup = render()
        parts = [quopri.encodestring(part.encode()).replace(b"\n", b"\r\n") for part in (body, markup)]
        line = f"Subject: {Header(subject).encode()}\r\n".encode()
        return b"".join([line, head, parts[0], between, parts[1], end])

    return build


def around(text: str, html: str) -> tuple[bytes, bytes, bytes]:
    """What stands before, between and behind the bodies."""
    whole = ours("{{ name }}\n", "<{{ name }}\n")()
    head, one, two = whole.split(b"quoted-printable\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Subject")]
    cte = b"quoted-printable\r\n\r\n"
    return b"\r\n".join(lines) + cte, one[one.index(b"\r\n--") :] + cte, two[two.index(b"\r\n--") :]


SIDES = {
    "mailtasks": (ours, 400),
    "one click": (one_click, 400),
    "bodies": (bodies, 400),
    "email": (email, 30),
    "plain": (plain, 60),
}


def microseconds(build: Callable[[], object], times: int) -> float:
    """What one call takes of the processor, on average: what else runs here doesn't count."""
    started = process_time()
    for _ in range(times):
        build()
    return (process_time() - started) / times * 1e6


def meaning(mail: bytes) -> list[str]:
    """Subject and bodies, as a reader has them."""
    found = message_from_bytes(mail, policy=modern)
    return [found["Subject"], *(part.get_content().rstrip() for part in found.iter_parts())]


def measure(text: str, html: str, rounds: int) -> dict[str, float]:
    """The best round of each side, in microseconds, and the ratios."""
    builds = {name: (make(text, html), times) for name, (make, times) in SIDES.items()}
    meanings = [meaning(make(text, html)()) for make in (ours, email, plain)]
    assert meanings[0] == meanings[1] == meanings[2], meanings
    best = dict.fromkeys(builds, float("inf"))
    for _ in range(rounds):
        for name, (build, times) in builds.items():
            best[name] = min(best[name], microseconds(build, times))
    return best


def main() -> int:
    """Measure, print, and say whether the marks were met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    results = {case: measure(*sources, arguments.rounds) for case, sources in CASES.items()}
    if arguments.json:
        print(json.dumps(results))
    else:
        columns = [("mailtasks", 10), ("one click", 11), ("bodies", 8)]
        columns += [("email", 10), ("ratio", 8), ("plain", 10), ("ratio", 8)]
        print(f"{'µs a message':<14}" + "".join(f"{name:>{width}}" for name, width in columns))
        for case, found in results.items():
            ours, others = found["mailtasks"], [found["email"], found["plain"]]
            print(
                f"{case:<14}{ours:>10.1f}{found['one click']:>11.1f}{found['bodies']:>8.1f}"
                + "".join(f"{one:>10.0f}{one / ours:>8.1f}" for one in others)
            )
    met = all(
        results[case][side] / results[case]["mailtasks"] >= mark
        for case, marks in MARKS.items()
        for side, mark in marks.items()
    ) and all(found["one click"] / found["mailtasks"] <= ONE_CLICK_MARK for found in results.values())
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
