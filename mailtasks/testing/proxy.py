"""A TCP proxy that makes the network worse: a delay, a cut, a silence.

For tests and benchmarks that need a server far away or a line that breaks::

    with Proxy("127.0.0.1", 2525, round_trip=0.05) as proxy:
        ...  # talk to 127.0.0.1, port proxy.port
        proxy.hang()  # nothing passes any more, nothing is closed
        proxy.cut()  # every connection ends, new ones are welcome

As a command it runs until it is told to end: `python -m mailtasks.testing.proxy HOST PORT SECONDS`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Self, cast


class Proxy:
    """Passes bytes between its own port and a server's. A context manager; safe to call from any thread.

    Args:
        host: of the server.
        port: of the server.
        round_trip: seconds by which a question and its answer together are delayed, half each way.
            Bandwidth isn't limited: what was sent together arrives together.
    """

    def __init__(self, host: str, port: int, *, round_trip: float = 0) -> None:
        self.host = host
        self.port = 0
        """Where to connect to, on 127.0.0.1; known inside the `with` block."""
        self._target = host, port
        self._delay = round_trip / 2
        self._hanging = False
        self._sides: set[_Side] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._call(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._sides) // 2

    def cut(self) -> None:
        """End every connection at once, both ends, whatever is under way."""
        self._call(self._cut)

    def hang(self) -> None:
        """Pass nothing on from now on, and close nothing: a firewall that drops packets."""
        self._call(lambda: setattr(self, "_hanging", True))

    def resume(self) -> None:
        """Pass on what was held back, and go on."""
        self._call(self._resume)

    def _cut(self) -> None:
        for side in list(self._sides):
            side.abort()

    def _resume(self) -> None:
        self._hanging = False
        for side in list(self._sides):
            side.pass_on()

    def _call(self, action: Callable[[], object]) -> None:
        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result()

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(self._accept, "127.0.0.1", 0)

    def _accept(self) -> asyncio.Protocol:
        near, far = _Side(self), _Side(self)
        near.peer, far.peer = far, near
        near.dial = far
        return near

    async def _dial(self, far: _Side) -> None:
        try:
            await self._loop.create_connection(lambda: far, *self._target)
        except OSError:
            far.peer.abort()


class _Side(asyncio.Protocol):
    """One end of one connection."""

    peer: _Side
    dial: _Side | None = None

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[bytes] = deque()  # read here, not yet due at the peer; b"" is the end
        self._due = 0
        self._heard_all = self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._proxy._sides.add(self)
        if self.peer._lost:
            self.abort()
        if self.dial:
            task = self._proxy._loop.create_task(self._proxy._dial(self.dial))
            task.add_done_callback(lambda done: done.result())
        self.peer.pass_on()

    def data_received(self, data: bytes) -> None:
        self._waiting.append(data)
        self._proxy._loop.call_later(self._proxy._delay, self._fall_due)

    def eof_received(self) -> bool:
        self._heard_all = True
        self.data_received(b"")
        return True

    def connection_lost(self, _: Exception | None) -> None:
        self._lost = True
        self._proxy._sides.discard(self)
        if self.peer._transport:
            self.peer._transport.close()

    def abort(self) -> None:
        if self._transport:
            self._transport.abort()

    def _fall_due(self) -> None:
        self._due += 1
        self.pass_on()

    def pass_on(self) -> None:
        """Write what is due to the peer, if there is one yet and the line isn't dead."""
        while self._due and self.peer._transport and not self._proxy._hanging:
            self._due -= 1
            self.peer.say(self._waiting.popleft())

    def say(self, data: bytes) -> None:
        """Write what the peer has read; at its end, close, if there is nothing more to read here either."""
        assert self._transport
        if data:
            self._transport.write(data)
        elif self._heard_all:
            self._transport.close()
        elif not self._transport.is_closing():
            with suppress(OSError):  # it has gone meanwhile
                self._transport.write_eof()


def main(host: str, port: str, round_trip: str) -> None:
    """Run a proxy, print its port, and go on until standard input ends."""
    with Proxy(host, int(port), round_trip=float(round_trip)) as proxy:
        print(proxy.port, flush=True)  # noqa: T201  (it is what the caller waits for)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
