"""The demo: a thousand personalised mails through everything, on this machine only, and their books compared.

It starts a Redis, the catching server, workers and Flower of its own, whatever settings there are, so that
it can't mail anybody. It sends one bulk mail for each row of a CSV file and some urgent ones meanwhile.
At the end each recipient's state in the ledger and what the catching server caught must both be what the
address orders (see `mailtasks.local.faults`).

However it ends, nothing is left behind: a signal is taken note of and obeyed between two steps, every
process is on a leash, and whatever is written is in one temporary folder.
"""

from __future__ import annotations

import csv
import os
import select
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from email.utils import formataddr
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from mailtasks.errors import MailtasksError, SettingsError
from mailtasks.local.book import JOURNAL, Entry, accepted_pairs, read_journal
from mailtasks.local.faults import Orders
from mailtasks.local.processes import Child
from mailtasks.local.redis import free_port
from mailtasks.local.up import Everything
from mailtasks.mailer import Mailer
from mailtasks.message import Message
from mailtasks.publish import CELERYS_BROKER, producing_app
from mailtasks.settings import PREFIX, Settings
from mailtasks.state import UNFINISHED, State
from mailtasks.status import MessageStatus, Stats

_PLACES: Final = (
    Path(__file__).with_name("recipients.csv"),  # an installed package
    Path(__file__).parents[2] / "examples" / "recipients.csv",  # a checkout
)
RECIPIENTS: Final = next((path for path in _PLACES if path.exists()), _PLACES[0])
COLUMNS: Final = ("email", "name", "city", "product")

PROCESSES: Final = 2  # and one more for urgent and normal mail, as always
CHUNK: Final = 100  # bulk mails given over at once
URGENT: Final = 30  # mails
TICK: Final = 0.1  # seconds between two looks, and between two urgent mails
START_TIMEOUT: Final = 60.0  # seconds for the workers to be there
PATIENCE: Final = 120.0  # seconds after which what isn't finished counts as lost
STOP_TIMEOUT: Final = 35.0  # seconds for the workers to end; their supervisor kills them after 30

SETTINGS: Final = 'default_from = "The Shop <shop@example.com>"\n'
WORKER_LOG: Final = "worker.log"
WORKERS: Final = (
    *(sys.executable, "-m", "mailtasks.cli", "worker", "--app", "mailtasks.local.demo_app"),
    *("--processes", str(PROCESSES), "--log-level", "WARNING"),
)


class Interrupted(Exception):
    """A signal ended the demo before it was done."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the demo ends with."""

    stats: Stats
    seconds: float  # from the first accept to the last end
    busiest_second: int  # mails that the server caught in it
    urgent: tuple[float, ...]  # seconds from accept to the relay having it, sorted
    retried: int  # recipients that were deferred and sent later
    failures: Mapping[str, int]  # the relay's words: recipients
    wrong: Sequence[str]  # a sentence for each recipient that didn't end as it should

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"stats": self.stats.as_dict()}


def _listens(address: str) -> bool:
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=1).close()
    except OSError:
        return False
    return True


def _is_hung_up(terminal: int) -> bool:
    poll = select.poll()
    poll.register(terminal, 0)  # what can't be asked for is told all the same: POLLHUP, POLLERR, POLLNVAL
    return bool(poll.poll(0))


def read(path: Path) -> Iterator[Mapping[str, str]]:
    """The rows of the CSV file.

    Raises:
        SettingsError: it isn't there, or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            if missing := set(COLUMNS) - set(rows.fieldnames or ()):
                raise SettingsError(
                    f"{path} has no column {', '.join(sorted(missing))}; its first line must name them"
                )
            yield from rows
    except OSError as error:
        raise SettingsError(
            f"{path} can't be read: {error.strerror}; name a CSV file of recipients"
        ) from None


def letter(row: Mapping[str, str]) -> Message:
    """The personalised mail for one row."""
    name, city, product = row["name"], row["city"], row["product"]
    return Message(
        to=formataddr((name, row["email"])),
        subject=f"{name}, your {product} is on its way",
        text=f"Dear {name},\n\nyour {product} has left for {city}.\n\nThe Shop\n",
        html=f"<p>Dear {escape(name)},<p>your <b>{escape(product)}</b> has left for {escape(city)}.",
        priority="bulk",
    )


def code(number: int) -> Message:
    """One of the urgent mails that are sent meanwhile."""
    to = f"login-{number}@example.com"
    return Message(to=to, subject="Your code", text=f"{number:06}\n", priority="urgent")


def expected(address: str) -> State:
    """What a mail to this address must end as: one that is refused every time fails, any other is sent."""
    ordered = _ORDERS.of(address)
    return State.FAILED if ordered and not ordered.accept and ordered.times is None else State.SENT


def differences(messages: Sequence[MessageStatus], accepted: Mapping[tuple[str, str], int]) -> Iterator[str]:
    """A sentence for each recipient of which ledger, catching server and address don't say the same."""
    unknown = dict(accepted)
    for message in messages:
        for recipient in message.recipients:
            wanted = expected(recipient.address)
            caught = unknown.pop((message.message_id, recipient.address), 0)
            if recipient.state is not wanted:
                yield f"{recipient.address} is {recipient.state} ({recipient.reply}), not {wanted}"
            if caught != (wanted is State.SENT):
                yield f"{recipient.address} was caught {caught}×, being {recipient.state}"
    for (message_id, address), times in unknown.items():
        yield f"{address} was caught {times}× with {message_id or 'no Message-ID'}, which nobody sent"


_ORDERS: Final = Orders()


class Demo:
    """Everything that the demo needs, started when entered and gone when left; `run()` in between.

    Args:
        recipients: a CSV file with the columns `email`, `name`, `city` and `product`.
        told: set by a signal: see `mailtasks.local.processes.told_to_end`.
        report: takes lines for people about what was started.

    Raises (when entered):
        SettingsError: the file isn't there, or isn't such a file.
        MailtasksError: something didn't start.
    """

    def __init__(self, recipients: Path, told: threading.Event, report: Callable[[str], None]) -> None:
        self._recipients = recipients
        self._told = told
        self._report = report
        self._parent = os.getppid()
        self._stack = ExitStack()
        self._ids: list[str] = []
        self._urgent: set[str] = set()

    def __enter__(self) -> Self:
        self._people = list(read(self._recipients))
        with self._stack as stack:  # which ends what was started, if not all could be
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, watch: Callable[[Stats], None]) -> Result:
        """Send, wait and compare.

        Args:
            watch: is shown the figures ten times a second.

        Raises:
            MailtasksError: something that was started ended by itself.
            Interrupted: `told` was set.
        """
        try:
            self._await_workers()
            began = time.monotonic()
            self._send(watch)
            self._await_end(watch, began + PATIENCE)
            return self._result(time.monotonic() - began)
        except Exception:
            self._look()  # of a part that has ended, the error is only the consequence
            raise

    def stay(self) -> None:
        """Stay up until `told` is set, who started this is gone, or standard output's terminal is closed.

        Raises:
            MailtasksError: something that was started ended by itself.
        """
        with suppress(Interrupted):
            while os.getppid() == self._parent and not _is_hung_up(sys.stdout.fileno()):
                self._tick()

    # --- Starting

    def _start(self) -> None:
        enter = self._stack.enter_context
        folder = Path(
            enter(tempfile.TemporaryDirectory(prefix="mailtasks-demo-", ignore_cleanup_errors=True))
        )
        everything = enter(Everything(folder, environment=_environment(folder), report=self._report))
        self._everything = everything
        self._flower = everything.flower
        self._journal = folder / "mail" / JOURNAL
        self._log = folder / WORKER_LOG
        self._workers = Child(WORKERS, environment=everything.environment, output=self._log, debris=folder)
        self._stack.callback(self._workers.stop, STOP_TIMEOUT)
        self._mailer = enter(Mailer(Settings.load(environ=everything.environment)))

    def await_flower(self) -> str:
        """Flower's address, once it answers there (later than a thousand mails); "" if it isn't installed.

        Raises:
            MailtasksError: it didn't start.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while self._flower and not _listens(self._flower):
            self._tick()
            if time.monotonic() > deadline:
                raise MailtasksError(
                    f"Flower didn't start at {self._flower}; run `mailtasks flower` to see why"
                )
        return self._flower

    def _await_workers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        control = producing_app(self._mailer.settings).control
        while len(control.ping(timeout=0.5)) <= PROCESSES:
            self._tick()
            if time.monotonic() > deadline:
                raise MailtasksError(f"the workers didn't start; their last words: {self._last_words()}")

    # --- Sending

    def _send(self, watch: Callable[[Stats], None]) -> None:
        rows = iter(self._people)
        while chunk := list(islice(rows, CHUNK)):
            self._ids += self._mailer.send_many(letter(row) for row in chunk)
            self._send_urgent()
            watch(self._mailer.stats())

    def _send_urgent(self) -> None:
        if len(self._urgent) < URGENT:
            id = self._mailer.send(code(len(self._urgent) + 1))
            self._urgent.add(id)
            self._ids.append(id)

    def _await_end(self, watch: Callable[[Stats], None], deadline: float) -> None:
        """Until all is finished, or it takes too long; urgent mails go on meanwhile."""
        while time.monotonic() < deadline:
            self._send_urgent()
            stats = self._mailer.stats()
            watch(stats)
            if not any(stats.states.get(state) for state in UNFINISHED) and len(self._urgent) == URGENT:
                return
            self._tick()

    def _tick(self) -> None:
        if self._told.wait(TICK):
            raise Interrupted
        self._look()

    def _look(self) -> None:
        """Whether all that was started is still there."""
        for part in self._everything.ended():
            raise MailtasksError(f"{part} ended by itself, and so does the demo; start it anew")
        if not self._workers.running:
            raise MailtasksError(f"the workers ended by themselves; their last words: {self._last_words()}")

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace").strip().rpartition("\n")[2] or "none"

    # --- Comparing

    def _result(self, seconds: float) -> Result:
        messages = [self._mailer.status(id) for id in self._ids]
        entries = list(read_journal(self._journal))
        return Result(
            stats=self._mailer.stats(),
            seconds=seconds,
            busiest_second=_busiest_second(entries),
            urgent=_took([message for message in messages if message.id in self._urgent], entries),
            retried=_retried(entries),
            failures=_failures(messages),
            wrong=list(differences(messages, accepted_pairs(entries))),
        )


def _environment(folder: Path) -> dict[str, str]:
    """Ours without any setting of mailtasks or broker of Celery's; the demo's come from a file there."""
    file = folder / "mailtasks.toml"
    # A port of its own for Flower: another demo may be about to take the usual one.
    file.write_text(f"{SETTINGS}flower_port = {free_port()}\n")
    ours = {name for name in os.environ if name.startswith(PREFIX)}
    inherited = {name: os.environ[name] for name in os.environ.keys() - ours - {*CELERYS_BROKER}}
    return {**inherited, f"{PREFIX}CONFIG": str(file)}


def _took(messages: Sequence[MessageStatus], entries: Sequence[Entry]) -> tuple[float, ...]:
    caught = {entry.message_id: entry.time for entry in entries if entry.accepted}
    accepted = {message.message_id: message.accepted_at.timestamp() for message in messages}
    return tuple(sorted(caught[id] - at for id, at in accepted.items() if id in caught))


def _busiest_second(entries: Sequence[Entry]) -> int:
    seconds = Counter(int(entry.time) for entry in entries if entry.accepted)
    return max(seconds.values(), default=0)


def _retried(entries: Sequence[Entry]) -> int:
    deferred = {entry.recipient for entry in entries if entry.verdict.startswith("4")}
    return len(deferred & {entry.recipient for entry in entries if entry.accepted})


def _failures(messages: Sequence[MessageStatus]) -> Mapping[str, int]:
    replies = Counter(
        recipient.reply
        for message in messages
        for recipient in message.recipients
        if recipient.state is State.FAILED
    )
    return dict(replies)
