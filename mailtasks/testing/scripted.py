"""A relay that answers what a test tells it to, for what no sane server can be brought to say.

    with ScriptedRelay({"RCPT": ["250 ok", "550 5.1.1 no such user"], "DOT": CLOSE}) as relay:
        ...  # talk to 127.0.0.1, port relay.port
    assert relay.script.messages == [...]

`Script` is the same without a socket: bytes in, replies out.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Self

CLOSE: Final = "close"
"""Instead of a reply: hang up."""

HANG: Final = "hang"
"""Instead of a reply: say nothing, ever again."""

DEFAULTS: Final[Mapping[str, str]] = {
    "CONNECT": "220 relay.test ready",
    "HELO": "250 relay.test",
    "MAIL": "250 2.1.0 sender ok",
    "RCPT": "250 2.1.5 recipient ok",
    "DATA": "354 go on",
    "DOT": "250 2.0.0 taken",
    "RSET": "250 2.0.0 reset",
    "STARTTLS": "454 4.7.0 not now",
    "AUTH": "235 2.7.0 welcome",
    "ANSWER": "235 2.7.0 welcome",
    "QUIT": "221 2.0.0 bye",
}


class Script:
    """A strict server's half of the dialogue: lines end in CRLF, a body in CRLF, dot, CRLF, or not at all.

    Args:
        replies: what to say, by verb; besides the commands there are CONNECT (the greeting), DOT (the
            end of a body) and ANSWER (what follows a 334). A sequence is said one by one, its last again
            and again. Lines of a longer reply are parted by a line feed. `CLOSE` and `HANG` are special.
        extensions: what EHLO offers.

    Attributes:
        commands: the lines that came, without CRLF.
        messages: the bodies that came, dots unstuffed.
        taken: those of them to whose end it said 2xx.
        bare: whether a CR or LF came without the other.
    """

    def __init__(
        self,
        replies: Mapping[str, str | Sequence[str]] | None = None,
        extensions: Sequence[str] = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"),
    ) -> None:
        offered = ["relay.test", *extensions]
        ehlo = [f"250-{line}" for line in offered[:-1]] + [f"250 {offered[-1]}"]
        self.commands: list[str] = []
        self.messages: list[bytes] = []
        self.taken: list[bytes] = []
        self.bare = False
        self._replies: dict[str, str | Sequence[str]] = {
            **DEFAULTS,
            "EHLO": "\n".join(ehlo),
            **(replies or {}),
        }
        self._said: Counter[str] = Counter()
        self._rest = b""
        self._body = False
        self._challenged = False

    def greet(self) -> str:
        """The reply to connecting."""
        return self._say("CONNECT")

    def feed(self, data: bytes) -> list[str]:
        """The replies to what `data` completes."""
        self._rest += data
        replies = []
        while (line := self._next()) is not None:
            replies.append(self._answer(line))
        return replies

    def _next(self) -> bytes | None:
        """The next command or body, or None while it isn't complete."""
        if self._body and self._rest.startswith(b".\r\n"):
            self._rest = self._rest[3:]
            return b""
        whole, end, rest = self._rest.partition(b"\r\n.\r\n" if self._body else b"\r\n")
        if not end:
            return None
        self._rest = rest
        return whole + b"\r\n" if self._body else whole

    def _answer(self, line: bytes) -> str:
        joined = line.replace(b"\r\n", b"")
        self.bare |= b"\r" in joined or b"\n" in joined
        if self._body:
            return self._take_body(line)
        self.commands.append(line.decode(errors="replace"))
        return self._say(
            "ANSWER" if self._challenged else line[:8].split(b" ")[0].decode(errors="replace").upper()
        )

    def _take_body(self, stuffed: bytes) -> str:
        lines = stuffed.split(b"\r\n")
        self.messages.append(b"\r\n".join(line.removeprefix(b".") for line in lines))
        self._body = False
        verdict = self._say("DOT")
        if verdict.startswith("2"):
            self.taken.append(self.messages[-1])
        return verdict

    def _say(self, verb: str) -> str:
        said = self._replies.get(verb, "500 5.5.1 what?")
        if not isinstance(said, str):
            said = said[min(self._said[verb], len(said) - 1)]
        self._said[verb] += 1
        self._body = verb == "DATA" and said.startswith("3")
        self._challenged = said.startswith("334")
        return said


class ScriptedRelay:
    """A `Script` on a socket: one for all connections, which come one after another. A context manager.

    Attributes:
        port: where to connect to, on 127.0.0.1.
        script: what came and what was said.
        connections: how many there were.
    """

    def __init__(
        self,
        replies: Mapping[str, str | Sequence[str]] | None = None,
        extensions: Sequence[str] = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"),
    ) -> None:
        self.script = Script(replies, extensions)
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()  # around the script: one dialogue speaks at a time
        self._threads = [threading.Thread(target=self._accept, name="scripted relay", daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._threads[0].join()
        self.hang_up()
        for thread in self._threads[1:]:
            thread.join()

    def say(self, reply: str) -> None:
        """Say something unasked on every open connection."""
        for connection in list(self._open):
            connection.sendall(_on_the_wire([reply]))

    def hang_up(self) -> None:
        """Close every open connection."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):  # the server was closed
            while True:
                connection, _ = self._server.accept()
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        with suppress(OSError), connection:
            with self._lock:
                replies = [self.script.greet()]
            while self._say(connection, replies) and (data := connection.recv(65536)):
                with self._lock:
                    replies = self.script.feed(data)
        self._open.discard(connection)

    def _say(self, connection: socket.socket, replies: list[str]) -> bool:
        """Whether the dialogue goes on."""
        for position, reply in enumerate(replies):
            if reply in {CLOSE, HANG}:
                connection.sendall(_on_the_wire(replies[:position]))
                if reply == HANG:
                    while connection.recv(65536):
                        pass
                return False
        connection.sendall(_on_the_wire(replies))
        return not any(reply.startswith(("421", "221")) for reply in replies)


def _on_the_wire(replies: Sequence[str]) -> bytes:
    return b"".join(
        line.encode("utf-8", "surrogateescape") + b"\r\n" for reply in replies for line in reply.split("\n")
    )
