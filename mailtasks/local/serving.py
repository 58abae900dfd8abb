"""Connects the catching server's conversations to sockets: one asyncio loop in a thread of its own.

Reads go into one buffer that all connections share, by `BufferedProtocol`: asyncio's ordinary protocols
take 256 KiB from the operating system for each read, and give it back, which was measured to cost
30 to 40 µs of processor time a read; a benchmark against this server would have measured that.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final

from mailtasks.local.dialogue import Conversation
from mailtasks.local.faults import Ending

BUFFER: Final = 64 * 1024  # bytes read at once
BACKLOG: Final = 1024
_NO_LINGER: Final = struct.pack("ii", 1, 0)  # closing sends RST: see socket(7), SO_LINGER


class Serving:
    """Serves a listening socket from a thread, from construction until `stop()`."""

    def __init__(self, listener: socket.socket, converse: Callable[[], Conversation]) -> None:
        self.converse = converse
        self.buffer = memoryview(bytearray(BUFFER))
        self.accepted = 0  # connections so far
        self.open: set[_Connection] = set()  # at this moment
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name="catching-server")
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """Reset every connection, stop listening and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def reset_all(self) -> None:
        """Reset every connection, soon."""
        self._loop.call_soon_threadsafe(self._reset_all)

    def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        serve = self._loop.create_server(lambda: _Connection(self), sock=listener, backlog=BACKLOG)
        server = self._loop.run_until_complete(serve)
        self._loop.call_soon(ready.set)
        self._loop.run_forever()
        server.close()
        self._reset_all()
        self._loop.run_until_complete(asyncio.sleep(0))  # in which the transports close their sockets
        self._loop.close()

    def _reset_all(self) -> None:
        for connection in list(self.open):
            connection.reset()


class _Connection(asyncio.BufferedProtocol):
    """A transport and its conversation."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._conversation = serving.converse()
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._serving.accepted += 1
        self._serving.open.add(self)
        self._proceed()

    def connection_lost(self, error: Exception | None) -> None:
        """The client has gone, or we have reset it."""
        self._serving.open.discard(self)

    def get_buffer(self, hint: int) -> memoryview:
        """Where to read into: it is emptied before anybody else reads."""
        return self._serving.buffer

    def buffer_updated(self, length: int) -> None:
        """Answer what came."""
        self._conversation.receive(bytes(self._serving.buffer[:length]))
        self._proceed()

    def pause_writing(self) -> None:
        """A client that doesn't read is not read either."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._transport.resume_reading()

    def reset(self) -> None:
        """Close with an RST; what is still on its way to the client may be lost."""
        raw: socket.socket = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def _proceed(self) -> None:
        """Send what there is to send, then do as the conversation wants."""
        if self._ended:
            return  # our side is closed, and the client has yet to notice
        self._transport.write(self._conversation.output())
        if self._conversation.pause:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(self._conversation.pause, self._resume)
        elif self._conversation.ending is Ending.RESET:
            self.reset()
        elif self._conversation.ending is Ending.CLOSE:
            self._ended = True
            self._transport.write_eof()  # and read on until the client's: closing over unread bytes resets

    def _resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._conversation.resume()
            self._proceed()
