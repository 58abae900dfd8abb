"""Everything on this machine: what `mailtasks up` runs.

A part that the settings name is used and not started: a Redis or a relay of yours stays yours. What is
started here ends when this does, however that comes about. Redis' data and the caught mail are kept in
a folder, so that what was accepted and not yet sent is sent the next time; so are the ports, if they are
free then: what another terminal was told stays right.

A Redis or catching server that ends by itself is started again, at the same port and with what it kept. If it
ends once more at once, everything stops: that has a reason which another start doesn't mend.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from mailtasks.errors import MailtasksError
from mailtasks.guard import FAILED
from mailtasks.local.processes import Child
from mailtasks.local.redis import HOST, LOG, LocalRedis, free_port
from mailtasks.local.sink import CatchingProcess
from mailtasks.publish import producing_app
from mailtasks.relay import mask_url
from mailtasks.settings import SETTINGS, Settings
from mailtasks.supervisor import STEADY, Supervisor

FOLDER: Final = Path(".mailtasks")
FLOWER_LOG: Final = "flower.log"
REDIS_PORT: Final = "redis.port"
RELAY_PORT: Final = "relay.port"
LOOK: Final = 0.5  # seconds that workers get to say that they are there, and between two such looks


class Everything:
    """Redis, the catching server and Flower, as far as the settings name none; `run()` adds the workers.

    A context manager: what it started ends with it.

    Attributes:
        started: environment variables that name what was started.

    Args:
        folder: for the data of Redis, the caught mail and Flower's log.
        environment: where the settings are read from, and what the processes get; ours if it is None.
        flower: whether to start Flower, if it is installed.
        report: takes each line for people.

    Raises (when entered):
        SettingsError: a setting is wrong, or another `mailtasks up` uses the folder.
        StoreError: Redis didn't start.
    """

    def __init__(
        self,
        folder: Path = FOLDER,
        *,
        environment: Mapping[str, str] | None = None,
        flower: bool = True,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder = folder.absolute()
        self.environment = dict(os.environ if environment is None else environment)
        self.started: dict[str, str] = {}
        self._wants_flower = flower
        self.flower = ""  # its address, if it was started
        self._is_broken = False  # a part ended, and couldn't be kept running
        self._parts: dict[str, LocalRedis | CatchingProcess | Child] = {}
        self._report = report
        self._stack = ExitStack()

    def run(
        self,
        *,
        processes: int = 2,
        concurrency: int = 8,
        when_ready: Callable[[], None] = lambda: None,
    ) -> int:
        """Send mail until SIGINT or SIGTERM; to be called in the main thread.

        Args:
            processes: as for `Supervisor`.
            concurrency: as for `Supervisor`.
            when_ready: called once, in a thread of its own, when every worker process answers.

        Returns:
            The exit code: that of the supervisor, or 1 if a part ended that couldn't be started again.
        """
        settings = Settings.load(environ=self.environment)
        supervisor = Supervisor(
            settings, processes=processes, concurrency=concurrency, environment=self.environment
        )
        ended = threading.Event()
        threads = [
            threading.Thread(target=_await, args=(settings, processes + 1, ended, when_ready)),
            threading.Thread(target=self._watch, args=(ended, supervisor.stop)),
        ]
        for thread in threads:
            thread.start()
        try:
            code = supervisor.run()
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        return FAILED if self._is_broken else code

    def ended(self) -> list[str]:
        """The parts that were started and have ended by themselves."""
        return [name for name, part in self._parts.items() if not part.running]

    def _watch(self, over: threading.Event, stop: Callable[[], None]) -> None:
        """Start again what ends by itself, until `over`; where that is no use, `stop`."""
        started: dict[str, float] = {}  # time.monotonic() at which a part was started again
        while not over.wait(LOOK):
            for name in self.ended():
                again_at_once = time.monotonic() - started.get(name, -STEADY) < STEADY
                if trouble := "again" if again_at_once else self._start_again(name):
                    self._is_broken = True
                    self._report(
                        f"{name} ended by itself {trouble}, so everything stops; {self._hint_at_log(name)}"
                        "`mailtasks up` then goes on with what wasn't finished"
                    )
                    stop()
                    return
                started[name] = time.monotonic()

    def _start_again(self, name: str) -> str:
        """Why it couldn't be, or ""."""
        part = self._parts[name]
        if isinstance(part, Child):  # Flower, without which mail goes on
            del self._parts[name]
            log = self.folder / FLOWER_LOG
            self._report(f"{name} ended by itself, and mail goes on without it; {log} may say why")
            return ""
        try:
            part.stop()  # closes what is left of it
            part.start()
        except (MailtasksError, OSError) as error:
            return f"and can't be started again ({error})"
        self._report(
            f"{name} ended by itself and was started again with what it had kept; mail goes on. "
            "If that happens again: is the memory or the disk of this machine full?"
        )
        return ""

    def _hint_at_log(self, name: str) -> str:
        return f"{self.folder / 'redis' / LOG} may say why, and " if name == "Redis" else ""

    def __enter__(self) -> Everything:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            with suppress(OSError):  # it holds something, or isn't there
                self.folder.rmdir()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        settings = Settings.load(environ=self.environment)
        self.folder.mkdir(parents=True, exist_ok=True)
        if settings.source("broker_url") == "default":
            self._start_redis()
        else:
            self._report(f"Redis   {mask_url(settings.broker_url)} is yours and is used as it is")
        if settings.source("relay") == "default":
            self._start_sink()
        else:
            self._report(f"Relay   {settings.relay.name} is yours: mail will really be sent")
        if self._wants_flower:
            self._start_flower(settings.flower_port)

    def _start_redis(self) -> None:
        file = self.folder / REDIS_PORT
        server = LocalRedis(folder=self.folder / "redis", port=_last_port(file))
        self._stack.enter_context(server)
        file.write_text(str(server.port))
        self._parts["Redis"] = server
        self._use("broker_url", server.url)
        self._report(f"Redis   {server.url} keeps its data in {server.folder}")

    def _start_sink(self) -> None:
        folder = self.folder / "mail"
        folder.mkdir(exist_ok=True)
        file = self.folder / RELAY_PORT
        sink = CatchingProcess(folder=folder, save=True, port=_last_port(file) or 0)
        self._stack.enter_context(sink)
        file.write_text(str(sink.port))
        self._parts["the catching server"] = sink
        self._use("relay", sink.url)
        self._report(f"Relay   {sink.url} catches all mail in {folder}")

    def _start_flower(self, port: int) -> None:
        if importlib.util.find_spec("flower") is None:
            self._report("Flower  isn't installed; pip install 'mailtasks[flower]'")
            return
        port = port if _is_free(port) else free_port()
        command = [sys.executable, "-m", "mailtasks.cli", "flower", "--address", HOST, "--port", str(port)]
        self._parts["Flower"] = self._stack.enter_context(
            Child(command, environment=self.environment, output=self.folder / FLOWER_LOG)
        )
        self.flower = f"http://{HOST}:{port}"
        self._report(f"Flower  {self.flower}")

    def _use(self, setting: str, value: str) -> None:
        self.started[SETTINGS[setting].variable] = value
        self.environment |= self.started


def _await(settings: Settings, workers: int, ended: threading.Event, then: Callable[[], None]) -> None:
    control = producing_app(settings).control
    while not ended.is_set():
        with suppress(OperationalError, RedisError):  # Redis is away for a moment; the workers wait, too
            if len(control.ping(timeout=LOOK)) >= workers:
                then()
                return
        ended.wait(LOOK)


def _last_port(file: Path) -> int | None:
    """The port that was used the last time, if it is free."""
    with suppress(FileNotFoundError, ValueError, OverflowError):
        port = int(file.read_text())
        return port if _is_free(port) else None
    return None


def _is_free(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((HOST, port))
        except OSError:
            return False
    return True
