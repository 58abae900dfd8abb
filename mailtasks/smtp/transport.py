"""A TCP connection to a relay: bytes with deadlines, and TLS.

The rules:

1. Every wait has an end. The usual one, for an answer in plain text, is a blocking read with a limit that
   the kernel keeps: one system call instead of two or three, and each makes threads pass on the
   interpreter's lock, which is what costs most where many threads talk. All others are `poll`.
2. A write that the kernel can take at once keeps that lock, see `_write_at_once` and ADR 0012.
3. While a write is stuck, what the server says is read: it may wait for us to (RFC 2920 3.1), or be
   telling us why it stopped listening.
4. Certificates are verified, always. There is no switch to turn that off.
"""

from __future__ import annotations

import ctypes
import select
import socket
import ssl
import struct
import time
from functools import lru_cache
from typing import Any, Final, Self

from mailtasks.relay import Relay

READ: Final = 8192
"""Bytes asked of one read: more than a flight of replies takes."""

EARLY_AT_MOST: Final = 65536
"""Bytes that a server may say while it doesn't listen."""

AT_ONCE_AT_MOST: Final = 65536
"""Bytes of a write that keeps the interpreter's lock: copying more would keep other threads waiting."""

READABLE: Final = select.POLLIN
WRITABLE: Final = select.POLLOUT


class Transport:
    """A connected socket. Errors are OSError; TimeoutError where time was up."""

    __slots__ = ("_at_once", "_early", "_poll", "_read_limit", "_secure", "_socket", "unsent")

    def __init__(self, connected: socket.socket) -> None:
        self._early = bytearray()  # read while writing
        self._read_limit = 0.0  # seconds, as the kernel was told
        self.unsent = 0
        """How many bytes of the latest `send` surely never left."""
        self._adopt(connected)

    @classmethod
    def connect(cls, host: str, port: int, seconds: float) -> Self:
        """Try each of the host's addresses in turn, all within `seconds` (the look-up apart: the
        system's resolver has a time limit of its own)."""
        deadline = time.monotonic() + seconds
        failure: OSError = TimeoutError(f"no answer from {host} port {port} within {seconds:g} s")
        for family, kind, protocol, _, address in _look_up(host, port):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            try:
                return cls(_connected(family, kind, protocol, address, remaining))
            except OSError as error:
                failure = error
        raise failure

    def local_name(self) -> str:
        """How we introduce ourselves: the host's full name or our end's address literal (RFC 5321 4.1.3).

        Nothing is looked up: DNS may be slow, and relays that we log in to don't care.
        """
        name, address = socket.gethostname(), str(self._socket.getsockname()[0])
        if "." in name and name.isascii():
            return name
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def start_tls(self, context: ssl.SSLContext, host: str, seconds: float) -> None:
        """Shake hands; raises ssl.SSLError, of which ssl.SSLCertVerificationError is one."""
        deadline = time.monotonic() + seconds
        secure = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        self._adopt(secure)
        while True:
            try:
                return secure.do_handshake()
            except ssl.SSLWantReadError:
                self._wait(READABLE, deadline)
            except ssl.SSLWantWriteError:
                self._wait(WRITABLE, deadline)

    def send(self, data: bytes, seconds: float) -> None:
        """Write all of it; `seconds` is for each piece that the network takes (RFC 5321 4.5.3.2.5)."""
        self.unsent = len(data)
        if not self._secure and self.unsent <= AT_ONCE_AT_MOST:
            self.unsent -= self._write_at_once(data)
        while self.unsent:
            rest = data if self.unsent == len(data) else memoryview(data)[-self.unsent :]
            try:
                self.unsent -= self._socket.send(rest, self._at_once)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait_to_write(seconds)
            except ssl.SSLWantReadError:
                self._wait(READABLE, time.monotonic() + seconds)

    def _write_at_once(self, data: bytes) -> int:
        """How many bytes the kernel took; 0 if it could not, and the next ordinary write will say why.

        `socket.send` lets go of the interpreter's lock. Where many threads talk, another one takes it, and
        having it back costs more than the write: two of five context switches a mail, a quarter of the time.
        """
        taken: int = _send(self._socket.fileno(), data, len(data), _AT_ONCE)
        return max(0, taken)

    def receive(self, deadline: float) -> bytes:
        """What has come, at least a byte, or `b""` at the stream's end. `deadline` is monotonic."""
        if self._early:
            early = bytes(self._early)
            self._early.clear()
            return early
        return self._receive_tls(deadline) if self._secure else self._receive_plain(deadline)

    def _receive_plain(self, deadline: float) -> bytes:
        seconds = deadline - time.monotonic()
        if not seconds <= self._read_limit <= seconds * 1.02:
            self._limit_reads(seconds)
        try:
            return self._socket.recv(READ)
        except BlockingIOError:
            raise TimeoutError("no answer in time") from None

    def _limit_reads(self, seconds: float) -> None:
        """Have the kernel end reads in time, or up to 2 % late, so that it needn't be told each time."""
        self._read_limit = max(seconds * 1.01, 0.001)  # 0 would be no limit
        limit = divmod(round(self._read_limit * 1_000_000), 1_000_000)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", *limit))

    def _receive_tls(self, deadline: float) -> bytes:
        while True:
            try:  # first: TLS may hold bytes that `poll` doesn't know of
                return self._socket.recv(READ)
            except ssl.SSLWantReadError:
                self._wait(READABLE, deadline)
            except ssl.SSLWantWriteError:
                self._wait(WRITABLE, deadline)

    def silent(self) -> bool:
        """Nothing has come: on an idle connection anything is bad news, its end or a 421."""
        return not self._early and (not self._poll.poll(0) or self._only_tls_spoke())

    def _only_tls_spoke(self) -> bool:
        """TLS 1.3 sends session tickets when it likes; they are no news."""
        try:
            self._early += self._socket.recv(READ) if self._secure else b""
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close it, whatever its state."""
        self._socket.close()

    def _adopt(self, connected: socket.socket) -> None:
        self._socket = connected
        self._secure = isinstance(connected, ssl.SSLSocket)
        self._at_once = 0 if self._secure else socket.MSG_DONTWAIT  # a TLS socket never blocks
        self._socket.setblocking(not self._secure)
        self._poll = select.poll()
        self._poll.register(self._socket, READABLE)

    def _wait_to_write(self, seconds: float) -> None:
        ready = self._wait(READABLE | WRITABLE, time.monotonic() + seconds)
        if ready & READABLE and not ready & WRITABLE:
            self._read_early()

    def _read_early(self) -> None:
        try:
            data = self._socket.recv(READ, self._at_once)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        if not data or len(self._early) > EARLY_AT_MOST:
            raise ConnectionResetError("the relay stopped reading and closed the connection")
        self._early += data

    def _wait(self, wanted: int, deadline: float) -> int:
        """Which of `wanted` the socket is ready for; an error on it counts as both."""
        if wanted != READABLE:
            return self._wait_writing(wanted, deadline)
        ready = self._poll.poll(_milliseconds(deadline))
        if not ready:
            raise TimeoutError("no answer in time")
        return ready[0][1]

    def _wait_writing(self, wanted: int, deadline: float) -> int:
        poll = select.poll()
        poll.register(self._socket, wanted)
        ready = poll.poll(_milliseconds(deadline))
        if not ready:
            raise TimeoutError("nothing was taken in time")
        return ready[0][1]


_send = ctypes.PyDLL(None).send  # PyDLL, unlike CDLL and `socket`, keeps the interpreter's lock
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_send.restype = ctypes.c_ssize_t
_AT_ONCE: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)


def _milliseconds(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic()) * 1000


@lru_cache(maxsize=32)
def tls_context(ca: str | None) -> ssl.SSLContext:
    """Verifies certificate and host name, against `ca`'s certificates or the system's.

    Making one reads hundreds of certificates, so each is made once; restart to have a changed file read.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise UnusableCaFile(f"the ca file {ca!r} can't be used ({error.strerror or error})") from error


class UnusableCaFile(OSError):
    """The certificates to trust can't be read."""


def explain(error: OSError, relay: Relay) -> str:
    """A connection's failure as a sentence for people."""
    match error:
        case socket.gaierror():
            passing = "for now " if error.errno == socket.EAI_AGAIN else ""
            return f"DNS {passing}knows no address for {relay.host} ({error.strerror})"
        case UnusableCaFile():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"the certificate of {relay.name} isn't valid: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS with {relay.name} failed: {error.reason or error}"
        case TimeoutError():
            return f"{relay.name} didn't answer in time"
        case ConnectionRefusedError():
            return f"connection refused by {relay.name}"
        case _:
            return f"the connection to {relay.name} was lost: {error.strerror or error}"


def _look_up(host: str, port: int) -> list[tuple[Any, ...]]:
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"no host name: {error}") from error


def _connected(family: int, kind: int, protocol: int, address: Any, seconds: float) -> socket.socket:
    connecting = socket.socket(family, kind, protocol)
    try:
        connecting.settimeout(seconds)
        connecting.connect(address)
        # Each write is a whole flight; waiting for a fuller packet only costs a round trip.
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connecting.close()
        raise
    return connecting
