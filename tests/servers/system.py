"""What a mail server of the system's, run as one of a test's own, is started and ended by."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from mailtasks.local.processes import Child
from mailtasks.testing import wait_until


class SystemServer(ABC):
    """A server whose configuration, mail and logs are in a temporary folder. A context manager.

    Args:
        name: of the server, for the folder and for errors.

    Attributes:
        folder: goes when the server is left.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"mailtasks-{name}-"))
        self._child: Child | None = None

    def __enter__(self) -> Self:
        try:
            self._lay_out()
            self._child = Child(self._command(), output=self._output(), debris=self.folder)
            wait_until(self._started, timeout=30, what=f"the start of {self._name}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._child:
            self._child.stop()  # its master ends what it has started
            self._child = None
        shutil.rmtree(self.folder, ignore_errors=True)

    @abstractmethod
    def log(self) -> str:
        """What it wrote."""

    def _started(self) -> bool:
        assert self._child
        assert self._child.running, self.log()
        return self._answers()

    @abstractmethod
    def _lay_out(self) -> None:
        """Put into the folder what it needs."""

    @abstractmethod
    def _command(self) -> Sequence[str]: ...

    @abstractmethod
    def _output(self) -> Path:
        """The file for what it prints."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it may be used."""
