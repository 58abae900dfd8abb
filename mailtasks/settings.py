"""Every setting, declared once: kind, default, unit and one sentence for `mailtasks config` and the docs.

The rules:

1. The strongest source wins: keyword > environment > framework > file > default. A name or a value
   that is wrong in any of them stops the start with one line: setting, source, what is expected.
2. A secret (a password in a URL, Flower's login) never gets into `repr`, `str`, an error or `describe()`.
3. A value is read the same way from every source, and reading it twice changes nothing.
4. Importing this is cheap: no Redis, no Celery, no ssl.
"""
# ruff: noqa: RUF009  (what looks like a call as a default is `dataclasses.field` with metadata)

from __future__ import annotations

import dataclasses
import os
import reprlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, Self

from mailtasks.errors import SettingsError
from mailtasks.kinds import (
    IN_REDIS,
    BlobsUrl,
    Choice,
    DatabaseUrl,
    Duration,
    Flag,
    Kind,
    Login,
    MailAddress,
    RedisUrl,
    RelayUrl,
    Text,
    Whole,
)
from mailtasks.relay import Relay, is_loopback, mask_url
from mailtasks.relay_options import HELLO_NAME

__all__ = [
    "IN_REDIS",
    "NO_FRAMEWORK",
    "SETTINGS",
    "Described",
    "Doubt",
    "FrameworkValues",
    "Relay",
    "Setting",
    "Settings",
    "framework_values",
    "is_loopback",
    "mask_url",
    "redis_py_url",
]

PREFIX: Final = "MAILTASKS_"
"""What an environment variable's name begins with; the setting's name in capitals follows."""

NOT_SETTINGS: Final = frozenset(
    {"MAILTASKS_CONFIG", "MAILTASKS_NO_SKIP", "MAILTASKS_SLOW", "MAILTASKS_TEST_SESSION"}
)
"""Environment variables of ours that are no settings: the file's path, and what the test suite uses."""

DEFAULT_FILE: Final = "mailtasks.toml"

FRAMEWORK_READERS: Final = {
    "mailtasks.contrib.flask.state": "mailtasks.contrib.flask.state",
    "django.conf": "mailtasks.contrib.django.conf",
}
"""Is the first imported anyway, the second reads a framework's settings; the first that has any counts.

Its `framework_values(celery)` gets the Celery app that asks, or None, and gives `FrameworkValues`, or None.
"""

Doubt = Literal["resend", "hold"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one setting: a row of the reference page."""

    name: str
    default: Any
    kind: Kind
    unit: str
    help: str

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.name.upper()

    def read(self, given: Any, source: str) -> Any:
        """The value; raises SettingsError, which quotes what was given only if that is no secret."""
        if given is None and self.default is None:
            return None
        try:
            return self.kind.read(given)
        except ValueError as error:
            wrong = str(error)
        if not self.kind.secret:
            wrong = f"{reprlib.repr(given)} is wrong"
        # Raised out here, so that no traceback leads back to the value.
        raise SettingsError(f"{self.name} ({source}): {wrong}; expected {self.kind.expected}")

    def show(self, value: Any) -> str | int | float | bool | None:
        """The value, its secrets masked."""
        shown: str | int | float | bool | None = None if value is None else self.kind.show(value)
        return shown


def _setting(default: Any, kind: Kind, help: str, *, unit: str = "") -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help, "unit": unit})


def _seconds(default: float, help: str, *, minimum: float = 0.01) -> Any:
    return _setting(default, Duration(minimum), help, unit="seconds")


def _count(default: int, help: str, *, unit: str, minimum: int = 1) -> Any:
    return _setting(default, Whole(minimum), help, unit=unit)


def _backlog(priority: str) -> Any:
    return _count(
        0,
        f"To how many recipients {priority} mail may be waiting when more is accepted; 0: no limit.",
        unit="recipients",
        minimum=0,
    )


def _doubt(default: Doubt, help: str) -> Any:
    return _setting(default, Choice(("resend", "hold")), help)


@dataclass(frozen=True, slots=True)
class Described:
    """One effective setting as `mailtasks config` shows it."""

    name: str
    value: str | int | float | bool | None  # secrets masked
    source: str
    help: str


@dataclass(frozen=True, slots=True)
class FrameworkValues:
    """What a web framework's settings hold for us, as they were given."""

    source: str  # as errors and `mailtasks config` call it, such as "Django's settings"
    values: Mapping[str, Any] = dataclasses.field(repr=False)  # by our names

    def with_redis_of(self, settings: Settings) -> Self:
        """For who runs beside an app: at its broker and ledger, wherever it has them from."""
        redis = {"broker_url": settings.broker_url, "store_url": settings.store_url}
        return dataclasses.replace(self, values={**self.values, **redis})


NO_FRAMEWORK: Final = FrameworkValues("framework", {})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """The settings of one Mailer or worker.

    `Settings(lease=2)` takes keywords and defaults only; `Settings.load()` asks every source.
    """

    broker_url: str = _setting(
        "redis://127.0.0.1:6379/0",
        RedisUrl(("redis", "rediss", "redis+socket", "sentinel")),
        "The Redis through which Celery passes its tasks; sentinels may name it.",
    )
    store_url: str = _setting(
        None,
        RedisUrl(("redis", "rediss", "unix", "sentinel")),
        "The Redis that holds the ledger; by default the broker's.",
    )
    relay: Relay = _setting(
        "smtp://127.0.0.1:25",
        RelayUrl(),
        "The SMTP server that takes the mail; smtp:// demands STARTTLS unless on loopback or with tls=none.",
    )
    default_from: str | None = _setting(
        None,
        MailAddress(),
        "The sender of a message that names none; may hold a display name.",
    )
    database_url: str | None = _setting(
        None,
        DatabaseUrl(),
        "The database whose outbox `mailtasks outbox` empties; nothing else reads it.",
    )
    namespace: str = _setting(
        "mailtasks",
        Text(r"[a-z0-9_-]+", "lower-case letters, digits, _ and -"),
        "What keys and queues begin with, so that several installations can share one Redis.",
    )

    durability: Literal["primary", "replica"] = _setting(
        "primary",
        Choice(("primary", "replica")),
        "Who must have a mail before send() returns, and know its claim before it is sent: the Redis that "
        "takes writes, or a replica of it, too.",
    )
    lease: float = _seconds(60, "How long a claim holds without being renewed.", minimum=1)
    window_urgent: int = _count(1, "How many urgent messages are claimed at once.", unit="messages")
    window_normal: int = _count(4, "How many normal messages are claimed at once.", unit="messages")
    window_bulk: int = _count(8, "How many bulk messages are claimed at once.", unit="messages")
    doubt_urgent: Doubt = _doubt("resend", "What becomes of an urgent mail whose fate is not known.")
    doubt_normal: Doubt = _doubt("resend", "What becomes of a normal mail whose fate is not known.")
    doubt_bulk: Doubt = _doubt("hold", "What becomes of a bulk mail whose fate is not known.")
    max_age: float = _seconds(
        432_000,
        "How long a mail is tried before it expires; RFC 5321 4.5.4.1 asks for 4 to 5 days.",
        minimum=1,
    )
    retention: float = _seconds(604_800, "How long finished mail can still be asked about.", minimum=1)
    size_limit: int = _count(10_485_760, "How large a composed message may be.", unit="bytes", minimum=1024)

    memory_ceiling: int = _setting(
        85,
        Whole(1, 100),
        "How full Redis may be, of its maxmemory, when mail is accepted; 100: it isn't asked.",
        unit="percent",
    )
    backlog_urgent: int = _backlog("urgent")
    backlog_normal: int = _backlog("normal")
    backlog_bulk: int = _backlog("bulk")

    blobs: str = _setting(
        IN_REDIS,
        BlobsUrl(),
        "Where large attachments are stored until their mail is sent; producers and workers must share it.",
    )
    blob_threshold: int = _count(
        65_536, "How large an attachment is that is stored once for all mails that have it.", unit="bytes"
    )
    blob_cap: int = _count(
        268_435_456, "What such attachments may take in Redis, all together.", unit="bytes", minimum=1024
    )
    blob_grace: float = _seconds(
        3600, "How long one is kept that was stored for a mail which then wasn't accepted.", minimum=1
    )
    blob_memory: int = _count(
        134_217_728,
        "What such attachments may take in a worker process, encoded; one message may always be sent.",
        unit="bytes",
        minimum=0,
    )

    hint_margin: float = _seconds(30, "How long after accept a mail that nobody took is hinted at again.")
    pump_interval: float = _seconds(1.0, "How often a worker looks for what is due.")
    slice: float = _seconds(2.0, "How long a delivery works before it gives back what is left.")

    pool_size: int = _count(
        0, "Connections a process and relay; 0: as many as threads.", unit="connections", minimum=0
    )
    pool_warm: int = _count(
        0,
        "Connections a process that takes urgent mail keeps open, though nothing is to be sent; 0: none.",
        unit="connections",
        minimum=0,
    )
    connection_messages: int = _count(
        1000, "How many messages go over one connection before it is renewed.", unit="messages"
    )
    connection_lifetime: float = _seconds(300, "How long a connection is used before it is renewed.")
    connection_idle: float = _seconds(20, "How long a connection may idle before it is closed.")
    hello_name: str | None = _setting(
        None,
        Text(HELLO_NAME, "a host name or an address in brackets"),
        "What a worker calls itself in EHLO; by default this machine's name.",
    )
    timeout_connect: float = _seconds(20, "How long a TCP connection to the relay may take.")
    timeout_greeting: float = _seconds(300, "How long the greeting may take (RFC 5321 4.5.3.2.1).")
    timeout_command: float = _seconds(
        300, "How long the answer to EHLO, AUTH, MAIL or RCPT may take (RFC 5321 4.5.3.2.2 and .3)."
    )
    timeout_data: float = _seconds(120, "How long the answer to DATA may take (RFC 5321 4.5.3.2.4).")
    timeout_block: float = _seconds(
        180, "How long one block of a body may take to send (RFC 5321 4.5.3.2.5)."
    )
    timeout_dot: float = _seconds(600, "How long the answer to the final dot may take (RFC 5321 4.5.3.2.6).")
    timeout_blobs: float = _seconds(
        60, "How long a folder or object store may take to store an attachment, or to give 4 MB of it."
    )

    redis_timeout: float = _seconds(
        5, "How long Redis may take to answer, so that send() fails within a stated time."
    )
    redis_connect_timeout: float = _seconds(2, "How long a connection to Redis may take.")

    log_format: Literal["text", "json"] = _setting(
        "text", Choice(("text", "json")), "How a log line is written."
    )
    mask_addresses: bool = _setting(False, Flag(), "Whether addresses are masked in logs.")
    flower_auth: str | None = _setting(
        None, Login(), 'Flower\'s login, "USER:PASSWORD"; needed unless it is bound to loopback.'
    )
    flower_port: int = _setting(5555, Whole(1, 65535), "The port on which Flower listens.")

    _sources: Mapping[str, str] = dataclasses.field(init=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            object.__setattr__(self, name, setting.read(getattr(self, name), "keyword"))
        object.__setattr__(self, "store_url", self.store_url or redis_py_url(self.broker_url))

    @classmethod
    def load(
        cls,
        *,
        framework: FrameworkValues | Mapping[str, Any] | None = None,
        environ: Mapping[str, str] = os.environ,
        file: str | os.PathLike[str] | None = None,
        **keywords: Any,
    ) -> Self:
        """The settings from every source, the strongest first: keyword, environment, framework, file.

        Args:
            framework: what a web framework's settings hold for us, by our names; by default, in a process
                that has Django's settings, what these have under MAILTASKS.
            environ: where `MAILTASKS_…` is looked up; an empty variable counts as not set.
            file: a TOML file that must be there; by default the one that MAILTASKS_CONFIG names
                (it must be there, too), else `mailtasks.toml` in the working directory, if it is.

        Raises:
            SettingsError: one line that names the setting, its source and what is expected.
        """
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for given in _weakest_first(keywords, environ, framework, file):
            values[given.name] = SETTINGS[given.name].read(given.value, given.source)
            sources[given.name] = given.source
        settings = cls(**values)
        object.__setattr__(settings, "_sources", sources)
        return settings

    def source(self, name: str) -> str:
        """Where it came from: `environment MAILTASKS_LEASE`, `file mailtasks.toml`, `default`."""
        if name in self._sources:
            return self._sources[name]
        return "default" if self._sources or self._is_default(name) else "keyword"

    def describe(self) -> tuple[Described, ...]:
        """Every effective setting in the table's order, secrets masked."""
        return tuple(
            Described(name, setting.show(getattr(self, name)), self.source(name), setting.help)
            for name, setting in SETTINGS.items()
        )

    def window(self, priority: str) -> int:
        """How many messages of this priority are claimed at once."""
        windows = {"urgent": self.window_urgent, "normal": self.window_normal, "bulk": self.window_bulk}
        return windows[priority]

    def doubt(self, priority: str) -> Doubt:
        """What becomes of a mail of this priority whose final dot has no known answer."""
        return {"urgent": self.doubt_urgent, "normal": self.doubt_normal, "bulk": self.doubt_bulk}[priority]

    def backlog(self, priority: str) -> int:
        """To how many recipients mail of this priority may be waiting; 0: no limit."""
        backlogs = {"urgent": self.backlog_urgent, "normal": self.backlog_normal, "bulk": self.backlog_bulk}
        return backlogs[priority]

    def _is_default(self, name: str) -> bool:
        return bool(getattr(self, name) == getattr(_DEFAULTS, name))

    def __repr__(self) -> str:
        changed = (row for row in self.describe() if not self._is_default(row.name))
        return f"Settings({', '.join(f'{row.name}={row.value!r}' for row in changed)})"


def redis_py_url(broker_url: str) -> str:
    """The broker's URL as redis-py spells it; it differs from kombu's for the path of a socket."""
    if not broker_url.startswith("redis+socket://"):
        return broker_url
    return broker_url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=", 1)


SETTINGS: Final[Mapping[str, Setting]] = {
    field.name: Setting(field.name, field.default, **field.metadata)
    for field in dataclasses.fields(Settings)
    if field.metadata
}
"""The table, by name."""

_DEFAULTS: Final = Settings()


# --- The sources ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    """A value that one source holds for a setting."""

    name: str
    value: Any = dataclasses.field(repr=False)
    source: str


def _weakest_first(
    keywords: Mapping[str, Any],
    environ: Mapping[str, str],
    framework: FrameworkValues | Mapping[str, Any] | None,
    file: str | os.PathLike[str] | None,
) -> Iterator[_Given]:
    yield from _from_file(file or environ.get("MAILTASKS_CONFIG") or None)
    asked = framework_values() if framework is None else framework
    theirs = asked if isinstance(asked, FrameworkValues) else FrameworkValues("framework", asked)
    yield from _from_mapping(theirs.values, theirs.source)
    yield from _from_environment(environ)
    yield from _from_mapping(keywords, "keyword")


def framework_values(celery: Any = None) -> FrameworkValues:
    """What the framework of this process says; nothing, if there is none.

    Args:
        celery: the Celery app whose settings are wanted, which tells one Flask application from another.

    Raises:
        SettingsError: it isn't given as it should be.
    """
    readers = (import_module(reader) for known, reader in FRAMEWORK_READERS.items() if known in sys.modules)
    asked = (reader.framework_values(celery) for reader in readers)
    return next((found for found in asked if found is not None), NO_FRAMEWORK)


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given]:
    for variable, text in environ.items():
        if variable.startswith(PREFIX) and variable not in NOT_SETTINGS and text:
            name = variable.removeprefix(PREFIX).lower()
            if name not in SETTINGS:
                _refuse_name(variable, "environment", [setting.variable for setting in SETTINGS.values()])
            yield _Given(name, text, f"environment {variable}")


def _from_mapping(given: Mapping[str, Any], source: str) -> Iterator[_Given]:
    for name, value in given.items():
        if name not in SETTINGS:
            _refuse_name(name, source, list(SETTINGS))
        yield _Given(name, value, source)


def _from_file(named: str | os.PathLike[str] | None) -> Iterator[_Given]:
    path = Path(named or DEFAULT_FILE)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if named:
            raise SettingsError(f"file {path}: it isn't there; make it, or name another one") from None
        return
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise SettingsError(f"file {path}: it can't be read ({reason}); expected a TOML file") from None
    yield from _from_mapping(_toml(text, path), f"file {path}")


def _toml(text: str, path: Path) -> Mapping[str, Any]:
    import tomllib  # only where there is a file

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f'file {path}: {error}; expected TOML, lines such as lease = "60s"') from None


def _refuse_name(name: str, source: str, known: list[str]) -> NoReturn:
    import difflib  # only to word an error

    near = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {near[0]}?" if near else "`mailtasks config` lists them all"
    raise SettingsError(f"{name} ({source}): there is no such setting; {advice}")
