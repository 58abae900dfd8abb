"""Postfix's `smtp-sink`, which can be told to refuse, hang up and dawdle at any command."""

from __future__ import annotations

import os
import socket
from typing import Final, Self

from mailtasks.local.processes import Child
from mailtasks.local.redis import free_port
from mailtasks.testing import program, wait_until

HOST: Final = f"127.64.{os.getpid() // 256 % 256}.{os.getpid() % 256}"
"""This process' own: no other test's server can have taken the port meanwhile, and get the mail."""


class SmtpSink:
    """A running sink; a context manager.

    Args:
        options: those of its man page, such as `"-f", "rcpt"`.
    """

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._options = options

    @property
    def url(self) -> str:
        return f"smtp://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        command = program("smtp-sink")
        assert command, "mark the test with needs('smtp-sink')"
        user = ["-u", "nobody"] if os.getuid() == 0 else []  # it won't run as root
        self._child = Child([command, *user, *self._options, f"{HOST}:{self.port}", "100"])
        wait_until(self._listens, what="smtp-sink's listening")
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()

    def _listens(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), 1).close()
        except ConnectionRefusedError:
            return False
        return True
