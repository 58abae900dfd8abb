"""A TCP connection to a relay: bytes with deadlines, and TLS.

The rules:

1. After connecting, nothing here blocks. What has to wait is a `Dialogue` (see `mailtasks.smtp.loop`) that
   yields what it waits for and until when; every wait has an end.
2. While a write is stuck, what the server says is read: it may wait for us to (RFC 2920 3.1), or be
   telling us why it stopped listening.
3. Certificates are verified, always. There is no switch to turn that off.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from functools import lru_cache
from typing import Any, Final, Self

from mailtasks.certificates import Lock, why_unusable
from mailtasks.relay import Relay
from mailtasks.smtp.loop import READABLE, WRITABLE, Dialogue

READ: Final = 8192
"""Bytes asked of one read: more than a flight of replies takes."""

EARLY_AT_MOST: Final = 65536
"""Bytes that a server may say while it doesn't listen."""


class Transport:
    """A connected socket. Errors are OSError; TimeoutError where time was up."""

    __slots__ = ("_early", "_poll", "_secure", "_socket", "unsent")

    def __init__(self, connected: socket.socket) -> None:
        self._early = bytearray()  # read while writing
        self.unsent = 0
        """How many bytes of the latest `send` surely never left."""
        self._adopt(connected)

    @classmethod
    def connect(cls, host: str, port: int, seconds: float, local: str | None = None) -> Self:
        """Try each of the host's addresses in turn, all within `seconds` (the look-up apart: the
        system's resolver has a time limit of its own).

        Args:
            local: this machine's address to connect from; only the host's of its family are tried.
        """
        deadline = time.monotonic() + seconds
        failure: OSError = TimeoutError(f"no answer from {host} port {port} within {seconds:g} s")
        source = _source(local) if local else None
        for family, kind, protocol, _, address in _look_up(host, port, source):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            try:
                return cls(_connected(family, kind, protocol, address, remaining, source))
            except OSError as error:
                failure = error
        raise failure

    @classmethod
    def connect_socket(cls, path: str, seconds: float) -> Self:
        """Connect to a Unix socket."""
        connecting = socket.socket(socket.AF_UNIX)
        try:
            connecting.settimeout(seconds)
            connecting.connect(path)
            return cls(connecting)
        except BaseException:
            connecting.close()
            raise

    def local_name(self) -> str:
        """How we introduce ourselves: the host's full name or our end's address literal (RFC 5321 4.1.3).

        Nothing is looked up: DNS may be slow, and relays that we log in to don't care.
        """
        name = socket.gethostname()
        if "." in name and name.isascii():
            return name
        if self._socket.family == socket.AF_UNIX:
            return "localhost"
        address = str(self._socket.getsockname()[0])
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def fileno(self) -> int:
        """The socket's file descriptor; TLS doesn't change it."""
        return self._socket.fileno()

    def start_tls(self, context: ssl.SSLContext, host: str, seconds: float) -> Dialogue[None]:
        """Shake hands; raises ssl.SSLError, of which ssl.SSLCertVerificationError is one."""
        deadline = time.monotonic() + seconds
        secure = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        self._adopt(secure)
        while True:
            try:
                return secure.do_handshake()
            except ssl.SSLWantReadError:
                yield READABLE, deadline
            except ssl.SSLWantWriteError:
                yield WRITABLE, deadline

    def send(self, data: bytes, seconds: float) -> Dialogue[None]:
        """Write all of it; `seconds` is for each piece that the network takes (RFC 5321 4.5.3.2.5)."""
        self.unsent = len(data)
        while self.unsent:
            rest = data if self.unsent == len(data) else memoryview(data)[-self.unsent :]
            try:
                self.unsent -= self._socket.send(rest)
            except (BlockingIOError, ssl.SSLWantWriteError):
                ready = yield READABLE | WRITABLE, time.monotonic() + seconds
                if not ready & WRITABLE:
                    self._read_early()
            except ssl.SSLWantReadError:
                yield READABLE, time.monotonic() + seconds

    def receive(self, deadline: float) -> Dialogue[bytes]:
        """What has come, at least a byte, or `b""` at the stream's end. `deadline` is monotonic."""
        if self._early:
            early = bytes(self._early)
            self._early.clear()
            return early
        if not self._secure:  # else first: TLS may hold bytes that the selector doesn't know of
            yield READABLE, deadline
        while True:
            try:
                return self._socket.recv(READ)
            except (BlockingIOError, ssl.SSLWantReadError):
                yield READABLE, deadline
            except ssl.SSLWantWriteError:
                yield WRITABLE, deadline

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
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def _read_early(self) -> None:
        try:
            data = self._socket.recv(READ)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        if not data or len(self._early) > EARLY_AT_MOST:
            raise ConnectionResetError("the relay stopped reading and closed the connection")
        self._early += data


def tls_context(ca: str | None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Verifies certificate and host name, against `ca`'s certificates or the system's.

    Making one reads hundreds of certificates, so each is made once, and again when a file has changed.

    Args:
        cert: the file with our own certificate, for a relay that asks for one.
        key: the file with its key; None if the other has it, too.

    Raises:
        UnusableFile: one of the files can't be used.
    """
    return _context(ca, cert, key, tuple(map(_changed_at, (ca, cert, key))))


@lru_cache(maxsize=32)
def _context(ca: str | None, cert: str | None, key: str | None, _: tuple[int, ...]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise UnusableFile(f"the ca file {ca!r} can't be used ({error.strerror or error})") from error
    if cert:
        try:
            context.load_cert_chain(cert, key, password=Lock().refuse)
        except OSError:
            raise UnusableFile(f"our certificate can't be shown: {why_unusable(cert, key)}") from None
    return context


def _changed_at(file: str | None) -> int:
    try:
        return os.stat(file).st_mtime_ns if file else 0
    except OSError:
        return 0


class UnusableFile(OSError):
    """The certificates to trust, or our own, can't be read."""


class UnusableAddress(OSError):
    """The local address can't be sent from."""


def explain(error: OSError, relay: Relay) -> str:
    """A connection's failure as a sentence for people."""
    match error:
        case socket.gaierror():
            passing = "for now " if error.errno == socket.EAI_AGAIN else ""
            return f"DNS {passing}knows no address for {relay.host} ({error.strerror})"
        case UnusableFile() | UnusableAddress():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"the certificate of {relay.name} isn't valid: {error.verify_message}"
        case ssl.SSLError():
            told = ALERTS.get(error.reason or "")
            return f"TLS with {relay.name} failed: {error.reason or error}{f' ({told})' if told else ''}"
        case TimeoutError():
            return f"{relay.name} didn't answer in time"
        case ConnectionRefusedError():
            return f"connection refused by {relay.name}"
        case FileNotFoundError():
            return f"there is no socket {relay.name}"
        case _:
            return f"the connection to {relay.name} was lost: {error.strerror or error}"


ALERTS: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of ours, and the relay's URL says no cert",
    "TLSV1_ALERT_UNKNOWN_CA": "it doesn't know the authority of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it doesn't accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "our certificate was revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it doesn't accept our certificate",
}
"""What an alert of the relay's (RFC 8446 6.2) means, by OpenSSL's name for it."""


_Source = tuple[int, Any]
"""A family, and a local address to bind to."""


def _source(local: str) -> _Source:
    family, _, _, _, address = socket.getaddrinfo(
        local, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    return family, address


def _look_up(host: str, port: int, source: _Source | None) -> list[tuple[Any, ...]]:
    try:
        found = list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"no host name: {error}") from error
    fitting = [each for each in found if source is None or each[0] == source[0]]
    if not fitting:
        assert source
        kind = "IPv6" if source[0] == socket.AF_INET6 else "IPv4"
        raise UnusableAddress(f"{host} has no {kind} address, and the local address {source[1][0]} is one")
    return fitting


def _connected(
    family: int, kind: int, protocol: int, address: Any, seconds: float, source: _Source | None
) -> socket.socket:
    connecting = socket.socket(family, kind, protocol)
    try:
        if source:
            _bind(connecting, source[1])
        connecting.settimeout(seconds)
        connecting.connect(address)
        # Each write is a whole flight; waiting for a fuller packet only costs a round trip.
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connecting.close()
        raise
    return connecting


def _bind(connecting: socket.socket, address: Any) -> None:
    try:
        connecting.bind(address)
    except OSError as error:
        sentence = f"the local address {address[0]} can't be sent from ({error.strerror})"
        raise UnusableAddress(sentence) from error
