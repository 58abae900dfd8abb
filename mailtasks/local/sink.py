"""The catching SMTP server: takes every mail, sends none on, and misbehaves to order.

`mailtasks sink` runs it; tests, benchmarks and the demo use it as `CatchingServer` (a thread) or
`CatchingProcess` (a process of its own, which may be killed). What it caught is in its `Book`.
Which recipients are deferred, refused, answered late or dropped is told by their addresses: the table
is at the top of `mailtasks.local.faults`, and `Faults` adds random ones.
How it talks is in `mailtasks.local.dialogue`.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mailtasks.errors import SettingsError
from mailtasks.local.book import JOURNAL, Book, Caught, Entry, accepted_pairs, read_journal
from mailtasks.local.dialogue import EXTENSIONS, Conversation, Desk
from mailtasks.local.faults import CONVENTION, Behaviour, Faults, behaviour_of
from mailtasks.local.processes import Child, told_to_end
from mailtasks.local.serving import BACKLOG, Serving

HOST: Final = "127.0.0.1"

READY: Final = "catching mail on smtp://"


class CatchingServer:
    """The catching server in a thread; use it as a context manager, or `start()` and `stop()` it.

    Args:
        port: a free one if it is 0. It stays the same when the server is started again.
        faults: random ones, besides what addresses order.
        convention: which words in addresses order what; `{}` makes every address an ordinary one.
        save: a folder that gets each message as an `.eml` file, and the journal `journal.jsonl`.
        journal: the journal's file, if not in `save`.
        keep_content: whether `messages` hold what was sent, or only envelopes.
        extensions: what EHLO offers.
        max_recipients: of one message; more are answered 452 4.5.3.

    Raises (when started):
        SettingsError: the port is taken.
    """

    def __init__(
        self,
        *,
        host: str = HOST,
        port: int = 0,
        faults: Faults | None = None,
        convention: Mapping[str, Behaviour] = CONVENTION,
        save: Path | None = None,
        journal: Path | None = None,
        keep_content: bool = True,
        extensions: Sequence[str] = EXTENSIONS,
        max_recipients: int = 1000,
    ) -> None:
        self.host = host
        self.port = port
        self.book = Book(save=save, journal=journal, keep_content=keep_content)
        self._desk = Desk(self.book, convention, faults, extensions, max_recipients)
        self._serving: Serving | None = None
        self._past_connections = 0  # of earlier starts

    @property
    def url(self) -> str:
        """What `MAILTASKS_RELAY` takes."""
        return f"smtp://{self.host}:{self.port}"

    @property
    def messages(self) -> list[Caught]:
        """What was accepted, in order."""
        return self.book.messages

    @property
    def refusals(self) -> list[Entry]:
        """The recipients that were deferred, refused or dropped, in order."""
        return self.book.refusals

    @property
    def violations(self) -> list[str]:
        """What clients did that RFC 5321 or 2920 forbids; a sound client leaves this empty."""
        return self.book.violations

    @property
    def accepted(self) -> Counter[tuple[str, str]]:
        """How often each (Message-ID, recipient) was accepted."""
        return self.book.accepted

    @property
    def faults(self) -> Faults | None:
        """The random faults; may be set anew at any time."""
        return self._desk.faults

    @faults.setter
    def faults(self, faults: Faults | None) -> None:
        self._desk.faults = faults

    @property
    def connections(self) -> int:
        """How many connections were made so far."""
        return self._past_connections + (self._serving.accepted if self._serving else 0)

    @property
    def open_connections(self) -> int:
        """How many connections are open at this moment."""
        return len(self._serving.open) if self._serving else 0

    def wait_for(self, messages: int, timeout: float = 10.0) -> list[Caught]:
        """The messages, once there are at least so many; `TimeoutError` after `timeout` seconds."""
        return self.book.wait_for(messages, timeout)

    def order(self, fault: str | Behaviour, recipient: str = "") -> None:
        """Misbehave from now on, until `reset()`: `order("full", "bob@example.com")`, `order("slow")`.

        Args:
            fault: a word of the table in `mailtasks.local.faults`, or a behaviour of your own.
            recipient: to whom; by default to everybody whose address orders nothing itself.

        Raises:
            SettingsError: the table has no such word.
        """
        self._desk.order(behaviour_of(fault), recipient)

    def reset(self) -> None:
        """Begin anew: nothing caught, nothing ordered, the odds of the constructor, and listening again."""
        self._desk.reset()
        self.book.clear()
        if self._serving is None:
            self.start()

    def start(self) -> Self:
        """Listen; on return a client is answered."""
        listener = self._listen()
        self.port = listener.getsockname()[1]
        self._serving = Serving(listener, lambda: Conversation(self._desk))
        return self

    def stop(self) -> None:
        """Reset every connection and stop listening; what was caught is kept."""
        if self._serving:
            self._serving.stop()
            self._past_connections += self._serving.accepted
            self._serving = None

    def cut(self) -> None:
        """Reset every connection, but go on listening."""
        if self._serving:
            self._serving.reset_all()

    def close(self) -> None:
        """`stop()`, and close the journal. Closing twice is harmless."""
        self.stop()
        self.book.close()

    def _listen(self) -> socket.socket:
        try:
            return socket.create_server((self.host, self.port), backlog=BACKLOG)
        except OSError as error:
            raise SettingsError(
                f"the catching server can't listen on {self.host}:{self.port}: "
                f"{os.strerror(error.errno or 0)}; choose another address, or port 0 for a free one"
            ) from None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CatchingProcess:
    """The catching server in a process of its own, which doesn't share its client's interpreter.

    `kill()` and then `start()` is what a relay's crash does: the port and the journal are the same.

    Args:
        folder: for the journal, and with `save` also the messages; a temporary one if it is None.
        save: whether each message is saved as an `.eml` file.
        faults: random ones, besides what addresses order.
    """

    def __init__(
        self, *, folder: Path | None = None, save: bool = False, faults: Faults | None = None, port: int = 0
    ) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="mailtasks-sink-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.journal = self.folder / JOURNAL
        self.port = port
        self._options = ["--save", str(self.folder)] * save + ["--faults", str(faults)] * bool(faults)
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """What `MAILTASKS_RELAY` takes."""
        return f"smtp://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._child is not None, "start the server first"
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._child is not None and self._child.running

    def entries(self) -> list[Entry]:
        """What its journal holds so far."""
        return list(read_journal(self.journal)) if self.journal.exists() else []

    @property
    def accepted(self) -> Counter[tuple[str, str]]:
        """How often each (Message-ID, recipient) was accepted."""
        return accepted_pairs(self.entries())

    def start(self) -> Self:
        """Start the process; on return the server answers."""
        command = [sys.executable, "-m", __name__, "--port", str(self.port), "--journal", str(self.journal)]
        debris = self.folder if self._temporary else None
        self._child = Child([*command, *self._options], output=subprocess.PIPE, debris=debris)
        line = self._child.stdout.readline()
        if not line.startswith(READY):
            self.close()
            raise SettingsError(f"the catching server didn't start on port {self.port}; stderr says why")
        self.port = int(line.rpartition(":")[2])
        return self

    def stop(self) -> None:
        """End the process in good order."""
        if self._child:
            self._child.stop()

    def kill(self) -> None:
        """End the process as a crash would (SIGKILL)."""
        if self._child:
            self._child.kill()

    def close(self) -> None:
        """`stop()`, and remove the folder if it is a temporary one."""
        self.stop()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main(
    host: str = HOST,
    port: int = 8025,
    save: Path | None = None,
    *,
    journal: Path | None = None,
    faults: Faults | None = None,
) -> None:
    """Run the catching server until SIGINT or SIGTERM; tell where it listens and, at the end, the counts."""
    server = CatchingServer(
        host=host, port=port, save=save, journal=journal, faults=faults, keep_content=False
    )
    with told_to_end() as told, server:
        _tell(f"{READY}{server.host}:{server.port}")
        told.wait()
    _tell(f"messages caught: {len(server.messages)}, recipients refused or deferred: {len(server.refusals)}")


def _tell(line: str) -> None:
    """Say it to whoever started this; if that one is gone, nobody needs to know."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit


def _faults(text: str) -> Faults:
    try:
        return Faults.parse(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _from_command_line(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mailtasks.local.sink", description="Catches mail.")
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=8025, help="0 for a free one")
    parser.add_argument("--save", type=Path, help="a folder for the messages and the journal")
    parser.add_argument("--journal", type=Path, help="the journal's file, if not in --save")
    parser.add_argument("--faults", type=_faults, help="defer=0.1,stall=0.02,seed=7")
    options = parser.parse_args(arguments)
    try:
        main(**vars(options))
    except SettingsError as error:
        parser.error(str(error))


if __name__ == "__main__":
    _from_command_line()
