"""A relay that answers what a test tells it to, for what no sane server can be brought to say.

By command, with a decent answer to all others::

    with ScriptedRelay({"RCPT": ["250 ok", "550 5.1.1 no such user"], "DOT": CLOSE}) as relay:
        ...  # send to relay.url
    assert relay.script.messages == [...]

Or step by step. What doesn't happen in this order fails the test at the end of the `with` block, with a
sentence that says which step it was, and what the client said instead::

    steps = [
        ("MAIL FROM:<shop@", "250 ok"),
        ("RCPT", "451 4.7.1 greylisted, try again in 300 seconds"),
        ("RSET", "250 ok"),
    ]
    with ScriptedRelay(steps=steps) as relay:
        ...

An answer is text, or one of these, or several of them in `Say`:

======================================= ================================================================
`"250-one\\n250 two"`                    a reply of two lines
`b"25"`                                 bytes as they are: garbled, cut off, without a line's end
`Say("250 ok", "250 and more")`         a reply that nobody waits for behind the one that is due
`Say()`                                 nothing now; a later step may say two: replies are shifted
`Say(b"250 o", Pause(0.5), b"k\\r\\n")`   a stall of half a second in the middle
`HANG`                                  a stall that doesn't end
`CLOSE`                                 the connection is closed; `Say("250 ok", CLOSE)`: after an answer
======================================= ================================================================

With CHUNKING among its extensions it takes BDAT too (RFC 3030): a chunk is read as a whole, then answered,
whatever the answer is; `BDAT` names the answer in replies and in steps.

`Script` is the same without a socket: bytes in, answers out.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeAlias

CLOSE: Final = "close"
"""Instead of a reply: hang up."""

HANG: Final = "hang"
"""Instead of a reply: say nothing, ever again."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A silence, after which the answer goes on."""

    seconds: float


Part: TypeAlias = str | bytes | Pause


class Say(tuple[Part, ...]):
    """Several parts of one answer, said one after the other."""

    __slots__ = ()

    def __new__(cls, *parts: Part) -> Self:  # noqa: D102  (told above)
        return super().__new__(cls, parts)

    def __repr__(self) -> str:
        return f"Say({', '.join(map(repr, self))})"


Answer: TypeAlias = str | bytes | Say
Step: TypeAlias = tuple[str, Answer]

DEFAULTS: Final[Mapping[str, str]] = {
    "CONNECT": "220 relay.test ready",
    "HELO": "250 relay.test",
    "MAIL": "250 2.1.0 sender ok",
    "RCPT": "250 2.1.5 recipient ok",
    "DATA": "354 go on",
    "DOT": "250 2.0.0 taken",
    "BDAT": "250 2.0.0 taken",
    "RSET": "250 2.0.0 reset",
    "NOOP": "250 2.0.0 ok",
    "STARTTLS": "454 4.7.0 not now",
    "AUTH": "235 2.7.0 welcome",
    "ANSWER": "235 2.7.0 welcome",
    "QUIT": "221 2.0.0 bye",
}

NO_COMMANDS: Final = frozenset({"CONNECT", "DOT", "ANSWER"})
"""What is answered and isn't a line of a command: the connection, the end of a body, what follows a 334."""

BETWEEN_STEPS: Final = frozenset({"CONNECT", "EHLO", "HELO", "RSET", "NOOP", "QUIT"})
"""What may come between the steps of a script, unless it is the next of them."""

_OUT_OF_ORDER: Final[Mapping[str, str]] = {
    "RCPT": "503 5.5.1 no sender was accepted",
    "DATA": "503 5.5.1 no recipient was accepted",
    "BDAT": "503 5.5.1 no recipient was accepted",
}


_NEEDED: Final[Mapping[str, str]] = {"RCPT": "MAIL", "DATA": "RCPT", "BDAT": "RCPT"}
"""What must have been accepted before, in the same transaction."""

_BDAT: Final = re.compile(rb"BDAT ([0-9]{1,9})( LAST)?", re.IGNORECASE).fullmatch


class ScriptNotFollowed(AssertionError):
    """The dialogue went another way than the steps have it; the sentence says which and how."""


class Script:
    """A strict server's half of the dialogue: lines end in CRLF, a body in CRLF, dot, CRLF, or not at all.

    Args:
        replies: what to say, by verb; besides the commands there are CONNECT (the greeting), DOT (the
            end of a body) and ANSWER (what follows a 334). A list is said one by one, its last again
            and again. What isn't named is answered as a decent server would.
        extensions: what EHLO offers.
        steps: the dialogue in order: a verb or the beginning of a command's line, and what to say to it.
            CONNECT, EHLO, HELO, RSET, NOOP and QUIT may come between. What comes after the last step
            is answered from `replies`.

    Attributes:
        commands: the lines that came, without CRLF.
        messages: the bodies that came, dots unstuffed; by BDAT once the last chunk was there.
        taken: those of them to whose end it said 2xx.
        bare: whether a CR or LF came without the other.
    """

    def __init__(
        self,
        replies: Mapping[str, Answer | Sequence[Answer]] | None = None,
        extensions: Sequence[str] = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"),
        *,
        steps: Sequence[Step] = (),
    ) -> None:
        offered = ["relay.test", *extensions]
        ehlo = [f"250-{line}" for line in offered[:-1]] + [f"250 {offered[-1]}"]
        self.commands: list[str] = []
        self.messages: list[bytes] = []
        self.taken: list[bytes] = []
        self.bare = False
        self._named: Mapping[str, Answer | Sequence[Answer]] = replies or {}
        self._usual: Mapping[str, str] = {**DEFAULTS, "EHLO": "\n".join(ehlo)}
        self._steps = steps
        self._step = 0  # the next one
        self._failure = ""
        self._said: Counter[str] = Counter()
        self._rest = b""
        self._left = False  # it hung up, or said 421, or nothing for ever
        self._body = False
        self._chunking = "CHUNKING" in extensions
        self._chunk = b""  # behind the BDAT that is being answered
        self._chunks: list[bytes] = []  # of the present transaction
        self._challenged = False
        self._accepted = {"MAIL": 0, "RCPT": 0}  # in the present transaction

    def greet(self) -> Answer:
        """The answer to connecting. What an earlier connection left unfinished is forgotten."""
        self._rest, self._body, self._challenged, self._left = b"", False, False, False
        self._forget_transaction()
        return self._say("CONNECT")

    def feed(self, data: bytes) -> list[Answer]:
        """The answers to what `data` completes, one for each command, up to one with which it leaves."""
        self._rest += data
        answers = []
        while not self._left and (line := self._next()) is not None:
            answers.append(self._answer(line))
            self._left = _leaves(answers[-1])
        return answers

    def check(self) -> None:
        """Whether the steps were followed, all of them.

        Raises:
            ScriptNotFollowed: something else was said than a step expects, or a step was never reached.
        """
        if self._failure:
            raise ScriptNotFollowed(self._failure)
        if self._step < len(self._steps):
            last = f"the client's last line was {self.commands[-1]!r}" if self.commands else "no command came"
            raise ScriptNotFollowed(f"{self._place()} never came; {last}")

    def _next(self) -> bytes | None:
        """The next command or body, or None while it isn't complete; a BDAT is with its chunk."""
        if self._body and self._rest.startswith(b".\r\n"):
            self._rest = self._rest[3:]
            return b""
        whole, end, rest = self._rest.partition(b"\r\n.\r\n" if self._body else b"\r\n")
        size = self._size_of_chunk(whole)
        if not end or len(rest) < size:
            return None
        self._chunk, self._rest = rest[:size], rest[size:]
        return whole + b"\r\n" if self._body else whole

    def _size_of_chunk(self, line: bytes) -> int:
        bdat = None if self._body or not self._chunking else _BDAT(line)
        return int(bdat[1]) if bdat else 0

    def _answer(self, line: bytes) -> Answer:
        joined = line.replace(b"\r\n", b"")
        self.bare |= b"\r" in joined or b"\n" in joined
        if self._body:
            return self._take_body(line)
        self.commands.append(line.decode(errors="replace"))
        verb = line[:8].split(b" ")[0].decode(errors="replace").upper()
        if verb == "BDAT" and self._chunking and not self._challenged:
            return self._take_chunk(line)
        return self._say("ANSWER" if self._challenged else verb, self.commands[-1])

    def _take_body(self, stuffed: bytes) -> Answer:
        lines = stuffed.split(b"\r\n")
        self.messages.append(b"\r\n".join(line.removeprefix(b".") for line in lines))
        self._body = False
        verdict = self._say("DOT")
        if _beginning(verdict).startswith("2"):
            self.taken.append(self.messages[-1])
        return verdict

    def _take_chunk(self, line: bytes) -> Answer:
        bdat = _BDAT(line)
        if not bdat:
            return "501 5.5.4 BDAT size [LAST]"
        self._chunks.append(self._chunk)
        body = b"".join(self._chunks)
        verdict = self._say("BDAT", self.commands[-1])
        if bdat[2]:
            self.messages.append(body)
            self.taken += [body] if _beginning(verdict).startswith("2") else []
            self._forget_transaction()
        return verdict

    def _say(self, verb: str, line: str = "") -> Answer:
        said = self._choose(verb, line)
        begins = _beginning(said)
        self._body = verb == "DATA" and begins.startswith("3")
        self._challenged = begins.startswith("334")
        if verb in {"EHLO", "HELO", "RSET", "MAIL", "DOT"}:
            self._forget_transaction()
        if verb in self._accepted:
            self._accepted[verb] += begins.startswith("2")
        return said

    def _choose(self, verb: str, line: str) -> Answer:
        if self._step < len(self._steps):
            expected, answer = self._steps[self._step]
            if verb == expected or (verb not in NO_COMMANDS and line.upper().startswith(expected.upper())):
                self._step += 1
                return answer
            if verb not in BETWEEN_STEPS:
                self._failure = self._failure or f"{self._place()}, but {_told(verb, line)}"
                return CLOSE
        if verb in self._named:
            return self._from_list(verb, self._named[verb])
        missing = _NEEDED.get(verb)
        if missing and not self._accepted[missing]:
            return _OUT_OF_ORDER[verb]
        known = verb != "BDAT" or self._chunking
        return self._usual.get(verb, "500 5.5.1 what?") if known else "500 5.5.1 what?"

    def _from_list(self, verb: str, answers: Answer | Sequence[Answer]) -> Answer:
        number = self._said[verb]
        self._said[verb] += 1
        if isinstance(answers, str | bytes | Say):
            return answers
        return answers[min(number, len(answers) - 1)]

    def _forget_transaction(self) -> None:
        self._accepted = dict.fromkeys(self._accepted, 0)
        self._chunks = []

    def _place(self) -> str:
        return f"step {self._step + 1} of {len(self._steps)} (expected {self._steps[self._step][0]!r})"


class ScriptedRelay:
    """A `Script` on a socket: one for all connections, which come one after another. A context manager.

    Args: those of `Script`.

    Attributes:
        port: where to connect to, on 127.0.0.1.
        script: what came and what was said.
        connections: how many there were.

    Raises (at the end of the `with` block):
        ScriptNotFollowed: see `Script.check`.
    """

    def __init__(
        self,
        replies: Mapping[str, Answer | Sequence[Answer]] | None = None,
        extensions: Sequence[str] = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"),
        *,
        steps: Sequence[Step] = (),
    ) -> None:
        self.script = Script(replies, extensions, steps=steps)
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()  # around the script: one dialogue speaks at a time
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._accept, name="scripted relay", daemon=True)]

    @property
    def url(self) -> str:
        """What `MAILTASKS_RELAY` takes."""
        return f"smtp://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._threads[0].join()
        self.hang_up()
        for thread in self._threads[1:]:
            thread.join()
        if error is None:
            self.script.check()

    def say(self, reply: str) -> None:
        """Say something unasked on every open connection."""
        for connection in list(self._open):
            connection.sendall(_on_the_wire(reply))

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
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each part on its own
            with self._lock:
                answers = [self.script.greet()]
            while self._say_all(connection, answers) and (data := connection.recv(65536)):
                with self._lock:
                    answers = self.script.feed(data)
        self._open.discard(connection)

    def _say_all(self, connection: socket.socket, answers: Sequence[Answer]) -> bool:
        """Whether the dialogue goes on. What belongs together goes in one write."""
        ready = b""
        for part in (part for answer in answers for part in _parts(answer)):
            if part in (CLOSE, HANG) or isinstance(part, Pause):
                connection.sendall(ready)
                ready = b""
                if not self._be_silent(connection, part):
                    return False
            else:
                ready += _on_the_wire(part)
        connection.sendall(ready)
        return not any(_beginning(answer).startswith(("421", "221")) for answer in answers)

    def _be_silent(self, connection: socket.socket, part: Part) -> bool:
        if isinstance(part, Pause):
            return not self._ending.wait(part.seconds)
        while part == HANG and connection.recv(65536):
            pass
        return False


def _parts(answer: Answer) -> Say:
    return answer if isinstance(answer, Say) else Say(answer)


def _leaves(answer: Answer) -> bool:
    """Whether nothing is heard behind it."""
    parts = _parts(answer)
    return CLOSE in parts or HANG in parts or _beginning(answer).startswith("421")


def _beginning(answer: Answer) -> str:
    """Of what is said in words."""
    words = (
        part.encode() if isinstance(part, str) else part
        for part in _parts(answer)
        if part not in (CLOSE, HANG)
    )
    return b"".join(part for part in words if isinstance(part, bytes))[:3].decode(errors="replace")


def _on_the_wire(part: str | bytes) -> bytes:
    if isinstance(part, bytes):
        return part
    return b"".join(line.encode("utf-8", "surrogateescape") + b"\r\n" for line in part.split("\n"))


def _told(verb: str, line: str) -> str:
    return {
        "CONNECT": "the client connected again",
        "DOT": "the end of a body came",
    }.get(verb, f"the client said {line!r}")
