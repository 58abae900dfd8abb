"""Where a token comes from: a command that prints it, or a function that returns it.

The rules:

1. A command runs without a shell, in a process group of its own, which is killed when its time is up. Its
   standard error is the worker's: what it says there is for whoever runs the worker, and is not looked at.
2. A function can't be killed. It is called in a thread of its own, and not again before it has returned.
3. What came is told of, and never quoted: it may be a token, or hold one. So may an exception's words, and
   the command's own; what is raised here is raised outside of `except`, and leads back to neither.
"""

from __future__ import annotations

import json
import math
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from operator import attrgetter
from typing import Final, Protocol

from mailtasks.relay import Relay
from mailtasks.reply import How
from mailtasks.smtp.auth import LONGEST_TOKEN

MOST_OUTPUT: Final = 65536
"""Bytes that a command may print."""

STOPS: Final = "the worker stops, so no token is fetched"


class TokenUnavailable(Exception):
    """No token could be had. The sentence says why.

    Attributes:
        how: for the outcome.
    """

    def __init__(self, how: How, sentence: str) -> None:
        self.how = how
        super().__init__(sentence)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A token that has just come."""

    token: str = field(repr=False)
    seconds: float | None  # for which it is valid; None: not told


class Source(Protocol):
    """Where a token comes from. Used by one thread at a time."""

    def fetch(self, seconds: float) -> Fetched:
        """A new token, within so many seconds; TokenUnavailable, if none comes."""

    def interrupt(self) -> None:
        """Make a `fetch` of another thread end soon; nothing is fetched any more."""


def source_of(relay: Relay) -> Source:
    """Where this relay's tokens come from."""
    if relay.token_command:
        return Command(relay.token_command)
    assert relay.token, "a relay has a token or a token_command"
    return Function(relay.token)


# --- A command --------------------------------------------------------------------------------------


class Command:
    """A program that prints a token: alone on a line, or as JSON (RFC 6749 5.1)."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._interrupted = False

    def fetch(self, seconds: float) -> Fetched:
        """What it prints."""
        deadline = time.monotonic() + seconds
        process = self._start()
        printed, status = b"", None
        try:
            with suppress(TimeoutError, subprocess.TimeoutExpired):
                printed = _read_all(process, deadline)
                status = process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            self._end(process)
        if status is None:
            sentence = f"the token command hadn't ended after {seconds:g} s and was killed"
            raise TokenUnavailable(How.TIMED_OUT, sentence)
        if status:
            ended = f"was ended by signal {-status}" if status < 0 else f"failed with exit status {status}"
            raise TokenUnavailable(How.UNSUITABLE, f"the token command {ended}")
        try:
            return read_printed(printed)
        except ValueError as error:
            sentence = f"the token command {error}"
        raise TokenUnavailable(How.UNSUITABLE, sentence)

    def interrupt(self) -> None:
        """Kill it."""
        with self._lock:
            self._interrupted = True
            if self._running:
                _kill(self._running)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._interrupted:
                raise TokenUnavailable(How.UNTOUCHED, STOPS)
            try:
                self._running = subprocess.Popen(  # noqa: S603  (the operator's own command, without a shell)
                    self._words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
                )
                return self._running
            except OSError as error:
                reason = error.strerror
        raise TokenUnavailable(How.UNSUITABLE, f"the token command can't be run ({reason})")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Whatever happened: no process and no descriptor is left."""
        with self._lock:
            _kill(process)
            self._running = None
        process.wait()
        assert process.stdout
        process.stdout.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The whole group, unless its leader was waited for: then its number may be another's."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _read_all(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """All that it prints; TimeoutError, if it hasn't closed its output by then."""
    assert process.stdout
    printed = bytearray()
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        piece = os.read(process.stdout.fileno(), 4096)
        printed += piece
        if not piece:
            return bytes(printed)
        if len(printed) > MOST_OUTPUT:
            sentence = f"the token command printed more than {MOST_OUTPUT:,} bytes"
            raise TokenUnavailable(How.UNSUITABLE, sentence)
    raise TimeoutError


# --- A function -------------------------------------------------------------------------------------


class Function:
    """A function of the user's that returns a token, or a token and the seconds for which it is valid."""

    def __init__(self, name: str) -> None:
        self._name = name  # module:function
        self._call: _Call | None = None  # that hasn't returned, or whose answer wasn't taken
        self._interrupted = False

    def fetch(self, seconds: float) -> Fetched:
        """What it returns."""
        if self._interrupted:
            raise TokenUnavailable(How.UNTOUCHED, STOPS)
        if not self._call or self._call.ended.is_set():  # what came too late may be old by now
            self._call = _Call(self._name)
        call = self._call
        if not call.ended.wait(seconds):
            sentence = f"the token function {self._name} hadn't returned after {seconds:g} s"
            raise TokenUnavailable(How.TIMED_OUT, sentence)
        return call.result()

    def interrupt(self) -> None:
        """Wait for it no longer."""
        self._interrupted = True
        if call := self._call:
            call.ended.set()


class _Call:
    """A call of a function, in a thread that doesn't keep the process from ending."""

    def __init__(self, name: str) -> None:
        self.ended = threading.Event()
        self._name = name
        self._returned: object = None
        self._wrong = ""
        threading.Thread(target=self._run, name=f"mailtasks token {name}", daemon=True).start()

    def result(self) -> Fetched:
        """What was returned; TokenUnavailable, if it is no token, or something was raised."""
        try:
            if self._wrong:
                raise ValueError(self._wrong)
            return _read_returned(self._returned)
        except ValueError as error:
            sentence = f"the token function {self._name} {error}"
        raise TokenUnavailable(How.UNSUITABLE, sentence)

    def _run(self) -> None:
        what = "can't be imported: it raised"
        try:
            module, _, name = self._name.partition(":")
            function = attrgetter(name)(import_module(module))
            what = "raised"
            self._returned = function()
        except (
            BaseException
        ) as error:  # the user's code, which may raise anything; its words may hold a secret
            self._wrong = f"{what} {type(error).__name__}"
        self.ended.set()


# --- What came: a ValueError is the end of "the token command (or function) …" ---------------------------


def read_printed(printed: bytes) -> Fetched:
    """The token in what a command has printed."""
    try:
        text = printed.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("printed what isn't text") from None
    if not text:
        raise ValueError("printed nothing")
    if text.startswith("{"):
        return _read_json(text)
    lines = len(text.splitlines())
    if lines > 1:
        raise ValueError(f"printed {lines} lines, where a token alone or JSON is expected")
    return Fetched(_token(text, "printed"), None)


def _read_json(text: str) -> Fetched:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("printed JSON that can't be read") from None
    return _read_fields(fields, "printed JSON")


def _read_returned(returned: object) -> Fetched:
    match returned:
        case str():
            return Fetched(_token(returned, "returned"), None)
        case (token, seconds):
            return Fetched(_token(token, "returned"), _valid_for(seconds, "returned a token whose time"))
        case Mapping():  # as MSAL's functions do
            return _read_fields(returned, "returned a mapping")
        case _:
            raise ValueError(f"returned {type(returned).__name__}, neither a token nor a token and seconds")


def _read_fields(fields: Mapping[str, object], verb: str) -> Fetched:
    """An answer of an authorization server (RFC 6749 5.1)."""
    if "access_token" not in fields:
        code = fields.get("error")  # RFC 6749 5.2: one of a few words
        told = f" (error: {code})" if isinstance(code, str) and re.fullmatch("[a-z_]{1,40}", code) else ""
        raise ValueError(f"{verb} without access_token{told}")
    token = _token(fields["access_token"], f"{verb} whose access_token")
    return Fetched(token, _valid_for(fields.get("expires_in"), f"{verb} whose expires_in"))


def _token(given: object, verb: str) -> str:
    """RFC 6750 2.1 allows less, and some have more."""
    if isinstance(given, str) and re.fullmatch(rf"[\x21-\x7e]{{1,{LONGEST_TOKEN}}}", given):
        return given
    what = "is none" if " " in verb else "what is no token"
    raise ValueError(f"{verb} {what}: that has 1 to {LONGEST_TOKEN:,} ASCII characters and no space")


def _valid_for(given: object, verb: str) -> float | None:
    """Seconds; some servers write them as a text."""
    if given is None:
        return None
    if isinstance(given, str) and re.fullmatch(r"\d{1,9}", given, re.ASCII):
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
        raise ValueError(f"{verb} isn't a number of seconds above 0")
    return float(given)
