"""What the catching server has seen: in memory for tests, and on disk for whoever comes later.

The unit is a recipient of a message, as everywhere in mailtasks. A verdict is written to the journal
*before* the server answers: whatever a client was told, the journal knows. (Written, not synced: that
survives a killed server, not a crashed machine.)

The journal is a file of JSON lines, one an `Entry`; several servers, one after the other, may append to it.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

JOURNAL: Final = "journal.jsonl"

_MESSAGE_ID: Final = re.compile(rb"^message-id:\s*(\S+)", re.IGNORECASE | re.MULTILINE)


class Parsed:
    """What has a `content`, for who wants to look into it: parsed anew each time."""

    __slots__ = ()
    content: bytes

    @property
    def message(self) -> EmailMessage:
        """The mail as the standard library has it."""
        return message_from_bytes(self.content, policy=policy.default)

    @property
    def text(self) -> str:
        """Its plain text, decoded, lines ending in \\n; "" if it has none."""
        return self._body("plain")

    @property
    def html(self) -> str:
        """Its HTML, likewise."""
        return self._body("html")

    def _body(self, kind: str) -> str:
        part = self.message.get_body((kind,))
        return part.get_content().replace("\r\n", "\n") if part else ""


@dataclass(frozen=True, slots=True)
class Caught(Parsed):
    """One message that was accepted."""

    time: float  # seconds since the epoch
    message_id: str  # with its angle brackets; "" if it has none
    sender: str  # of the envelope; "" is the null sender
    recipients: tuple[str, ...]  # of the envelope, those that were accepted
    size: int  # bytes
    content: bytes  # as sent, dots unstuffed; b"" if the server was told not to keep it


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal: what one recipient was told, and whether the message was kept for it."""

    time: float  # seconds since the epoch
    message_id: str | None  # None if it was refused before the content was sent
    sender: str
    recipient: str
    verdict: str  # the reply, or "no answer"
    accepted: bool


class Book:
    """Everything that a catching server accepted and refused. Safe to read from any thread.

    Args:
        save: a folder that gets each accepted message as an `.eml` file, and the journal.
        journal: the journal's file, if it isn't to be in `save` or there is no such folder.
        keep_content: whether `messages` hold the content; without it, 50,000 of them are small.
    """

    def __init__(
        self, *, save: Path | None = None, journal: Path | None = None, keep_content: bool = True
    ) -> None:
        self.messages: list[Caught] = []  # accepted, in order
        self.refusals: list[Entry] = []  # deferred, refused and dropped, in order
        self.violations: list[str] = []  # what clients did that RFC 5321 or 2920 forbids
        self._keep_content = keep_content
        self._changed = threading.Condition()
        self._waiting = 0  # so many threads are in `wait_for`; waking nobody would cost as much as a mail
        self._unwritten: list[bytes] = []
        self._save = save
        if save:
            save.mkdir(parents=True, exist_ok=True)
            self._saved = sum(1 for _ in save.glob("*.eml"))
            journal = journal or save / JOURNAL
        self._journal = journal.open("ab", buffering=0) if journal else None

    @property
    def accepted(self) -> Counter[tuple[str, str]]:
        """How often each (Message-ID, recipient) was accepted: more than once is a duplicate."""
        return accepted_pairs(
            Entry(0, message.message_id, "", recipient, "", True)
            for message in list(self.messages)
            for recipient in message.recipients
        )

    def accept(
        self, sender: str, recipients: Iterable[str], message_id: str, content: bytes, verdict: str
    ) -> None:
        """A message was kept, whatever its sender is told next."""
        now, to = time.time(), tuple(recipients)
        kept = content if self._keep_content else b""
        self.messages.append(Caught(now, message_id, sender, to, len(content), kept))
        self._save_content(content)
        self._write([Entry(now, message_id, sender, recipient, verdict, True) for recipient in to])

    def refuse(self, sender: str, recipients: Iterable[str], message_id: str | None, verdict: str) -> None:
        """Some recipients were refused or deferred; `message_id` is None if that was before the data."""
        entries = [Entry(time.time(), message_id, sender, to, verdict, False) for to in recipients]
        self.refusals.extend(entries)
        self._write(entries)

    def violation(self, what: str) -> None:
        """A client broke a rule that a real server might not forgive."""
        self.violations.append(what)

    def flush(self) -> None:
        """Write what isn't in the journal yet, and wake who waits. To be called before answering."""
        if self._unwritten:
            assert self._journal is not None
            self._journal.write(b"".join(self._unwritten))
            self._unwritten.clear()
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def wait_for(self, messages: int, timeout: float) -> list[Caught]:
        """The messages, once there are at least so many; `TimeoutError` after `timeout` seconds."""
        with self._changed:
            self._waiting += 1
            reached = self._changed.wait_for(lambda: len(self.messages) >= messages, timeout)
            self._waiting -= 1
        if not reached:
            raise TimeoutError(
                f"messages caught within {timeout} s: {len(self.messages)} of {messages}; "
                f"recipients refused or deferred: {len(self.refusals)}"
            )
        return list(self.messages)

    def clear(self) -> None:
        """Forget what was caught and refused; the files stay."""
        for pages in (self.messages, self.refusals, self.violations):
            pages.clear()

    def close(self) -> None:
        """Write the rest and close the journal."""
        self.flush()
        if self._journal:
            self._journal.close()

    def _write(self, entries: list[Entry]) -> None:
        if self._journal:
            self._unwritten += [msgspec.json.encode(entry) + b"\n" for entry in entries]

    def _save_content(self, content: bytes) -> None:
        if self._save:
            self._saved += 1
            (self._save / f"{self._saved:06}.eml").write_bytes(content)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_journal(path: Path) -> Iterator[Entry]:
    """The entries of a journal. A last line that a killed server left unfinished is passed over."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield msgspec.json.decode(line, type=Entry)


def accepted_pairs(entries: Iterable[Entry]) -> Counter[tuple[str, str]]:
    """How often each (Message-ID, recipient) was accepted: more than once is a duplicate."""
    return Counter((entry.message_id or "", entry.recipient) for entry in entries if entry.accepted)


def message_id_of(content: bytes) -> str:
    """The Message-ID header, with its angle brackets; "" if there is none."""
    header, _, _ = content.partition(b"\r\n\r\n")
    found = _MESSAGE_ID.search(header)
    return found[1].decode("ascii", "replace") if found else ""
