"""The server at the other end: Postfix's smtp-sink, which costs the least, else our catching server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mailtasks.local.redis import free_port
from mailtasks.local.sink import CatchingServer


@contextmanager
def sink() -> Iterator[tuple[str, int]]:
    """A name for the report and a port; ended with the block."""
    program = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        with CatchingServer() as server:
            yield "mailtasks sink", server.port
        return
    port = free_port()
    as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []
    child = subprocess.Popen([program, *as_nobody, f"127.0.0.1:{port}", "1000"])
    try:
        _wait_for(port)
        yield "smtp-sink", port
    finally:
        child.terminate()
        child.wait()


def _wait_for(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}")
