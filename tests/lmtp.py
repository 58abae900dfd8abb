"""A scripted LMTP server: `Script` with LHLO, and an answer for each recipient behind the dot (RFC 2033)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from mailtasks.testing.scripted import Script

_BETWEEN = "\0"


class LmtpScript(Script):
    """What is said behind dots is `deliveries`, one for each recipient that was accepted, the last for ever.

    Attributes:
        delivered: body and recipient's place (of those accepted), for each that 2xx was said about. Who says
            more than one reply of a recipient has said it of the next one.
    """

    def __init__(
        self,
        replies: Mapping[str, Any] | None = None,
        extensions: Sequence[str] = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"),
        deliveries: Sequence[str] = ("250 2.0.0 delivered",),
    ) -> None:
        lines = ["relay.test", *extensions]
        lhlo = [f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]
        super().__init__({"LHLO": "\n".join(lhlo), "EHLO": "500 5.5.1 LHLO", **(replies or {})}, extensions)
        self.deliveries = chain(deliveries, repeat(deliveries[-1]))
        self.delivered: list[tuple[bytes, int]] = []
        self._recipients = 0
        self._place = 0  # of the recipient that the next reply behind the dot is about
        self._data_said = "DATA" in (replies or {})

    def feed(self, data: bytes) -> list[Any]:
        return [part for answer in super().feed(data) for part in answer.split(_BETWEEN)]

    def _answer(self, line: bytes) -> Any:
        if self._body:
            super()._answer(line)
            self._place = 0
            return _BETWEEN.join(self._deliver() for _ in range(self._recipients))
        verb = line[:4].upper()
        if verb == b"DATA" and not self._recipients and not self._data_said:
            self.commands.append("DATA")
            return "503 5.5.1 no valid recipients"
        answer = super()._answer(line)
        if verb in {b"MAIL", b"RSET"}:
            self._recipients = 0
        elif verb == b"RCPT" and answer.startswith("2"):
            self._recipients += 1
        return answer

    def _deliver(self) -> str:
        said = next(self.deliveries)
        for last_line in (line for line in said.split("\n") if line[3:4] != "-"):
            if last_line.startswith("2"):
                self.delivered.append((self.messages[-1], self._place))
            self._place += 1
        return said


@contextmanager
def serving(path: Path | None, *scripts: Script) -> Iterator[socket.socket]:
    """A connection for each script, one after the other: on a Unix socket, or on a port of loopback."""
    server = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    server.bind(str(path) if path else ("127.0.0.1", 0))
    server.listen()
    thread = threading.Thread(target=_serve, args=(server, scripts))
    thread.start()
    with server:
        yield server
        thread.join()


def _serve(server: socket.socket, scripts: Sequence[Script]) -> None:
    for script in scripts:
        connection, _ = server.accept()
        with connection:
            answers, data = [script.greet()], b"connected"
            while data:
                said = "".join(f"{line}\r\n" for answer in answers for line in answer.split("\n"))
                connection.sendall(said.encode())
                data = b"" if said.startswith("221") else connection.recv(65536)
                answers = script.feed(data)
