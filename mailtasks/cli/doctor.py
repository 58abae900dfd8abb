"""What `mailtasks check` looks at, and how it judges what it sees.

The rules:

1. Looking and judging are apart: `Facts` is all that is asked of a Redis, and each judge is a function
   of it. The same for a relay and its `Reception`.
2. `fail` means that mail isn't accepted or sent, or can be lost as things stand; `warn`, that it works
   and could be better. Each of both says what to do.
3. Nothing of the ledger is changed and no mail is sent.
"""

from __future__ import annotations

import platform
import smtplib
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Final

from celery.utils.imports import cwd_in_path
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from mailtasks.cli.output import counted
from mailtasks.errors import SettingsError, StoreError
from mailtasks.local.app_check import why_not
from mailtasks.message import PRIORITIES
from mailtasks.publish import producing_app, queues
from mailtasks.relay import Relay, is_loopback, mask_url
from mailtasks.reply import How, Outcome, Stage
from mailtasks.sentinels import are_named
from mailtasks.settings import IN_REDIS, Settings, redis_py_url
from mailtasks.smtp.session import ConnectFailed, Session, Timeouts
from mailtasks.smtp.transport import tls_context
from mailtasks.state import State
from mailtasks.store.blobs import open_store, probe
from mailtasks.store.books import Books
from mailtasks.store.connection import connect
from mailtasks.store.keys import Keys
from mailtasks.store.sentinel import NOT_FOUND
from mailtasks.supervisor import OWN_APP

OLDEST_REDIS: Final = (6, 2)
SLOW_REDIS: Final = 10.0  # ms; a mail needs a few round trips
MEMORY_WARNING: Final = 0.70  # of maxmemory
CERTIFICATE_DAYS: Final = 14
STRAY_IS_NEWS: Final = timedelta(days=7)
PINGS: Final = 5
WORKERS_ANSWER: Final = 1.0  # seconds; an idle one's takes some milliseconds


class Level(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    level: Level
    found: str
    advice: str = ""  # what to do; "" if all is well


def examine(
    settings: Settings, *, timeout: float, environment: Mapping[str, str] | None = None
) -> Iterator[Finding]:
    """Look at everything; each step of a dialogue may take `timeout` seconds.

    Args:
        environment: what workers would be started in; ours if it is None.
    """
    yield from versions()
    yield from celeryconfig_findings(environment)
    yield from redis_findings(settings)
    yield from worker_findings(settings)
    yield from ledger_findings(settings)
    yield blob_finding(settings)
    yield from relay_findings(settings.relay, settings.hello_name, timeout)
    yield judge_sender(settings.default_from)


# --- Versions ---------------------------------------------------------------------------------------

PACKAGES: Final = {
    "celery": "5.7.",
    "kombu": "5.7.",
    "redis": "",
    "hiredis": "",
}
"""What we stand on, and what its version must begin with."""


def versions() -> Iterator[Finding]:
    """Python and the packages that matter."""
    yield Finding("python", Level.OK, platform.python_version())
    for package, beginning in PACKAGES.items():
        yield judge_version(package, beginning, _installed(package))


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def judge_version(package: str, beginning: str, version: str | None) -> Finding:
    """Whether a package is there, in a version that we were tested with."""
    advice = "install mailtasks into this environment again, with pip"
    if version is None:
        return Finding(package, Level.FAIL, "not installed", advice)
    if not version.startswith(beginning):
        return Finding(package, Level.FAIL, f"{version}, not {beginning}x", advice)
    return Finding(package, Level.OK, version)


# --- celeryconfig.py --------------------------------------------------------------------------------


def celeryconfig_findings(environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Whether our own app could be loaded with the one that lies here. Nothing, if none does."""
    if not Path(CELERYCONFIG).is_file():
        return
    try:
        wrong = why_not(OWN_APP, environment)
    except SettingsError as error:
        wrong = str(error)
    if not wrong:
        yield Finding(CELERYCONFIG, Level.OK, "can be loaded")
        return
    # No failure, since it may be meant for an app of the user's, which has other rules.
    advice = "`mailtasks worker` doesn't start with it; one with an app of your own (-A) may"
    yield Finding(CELERYCONFIG, Level.WARN, wrong, advice)


CELERYCONFIG: Final = "celeryconfig.py"

# --- Redis ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """What is asked of a Redis."""

    version: str
    read_only: bool  # a replica that takes no writes
    latency: float  # ms, the median of a few PINGs
    aof: bool
    aof_written: bool  # the last write of the append-only file succeeded
    fsync: str | None  # None: the server doesn't say (CONFIG is often refused where it is rented)
    eviction: str  # maxmemory-policy
    used: int  # bytes
    ceiling: int  # bytes; 0: none
    replicas: int  # that are connected


def redis_findings(settings: Settings) -> Iterator[Finding]:
    """The store, and the broker if that is another one."""
    broker = redis_py_url(settings.broker_url)
    judges = (*STORE_JUDGES, *REPLICA_JUDGES[settings.durability, are_named(settings.store_url)])
    if broker == settings.store_url:
        yield from _one_redis("store", broker, "broker_url", settings, judges)
        return
    yield from _one_redis("broker", broker, "broker_url", settings, BROKER_JUDGES)
    yield from _one_redis("store", settings.store_url, "store_url", settings, judges)


def _one_redis(
    name: str, url: str, setting: str, settings: Settings, judges: tuple[Judge, ...]
) -> Iterator[Finding]:
    try:
        facts = _ask(url, settings)
    except RedisError as error:
        found = f"{mask_url(url)} can't be used: {error}"
        yield Finding(name, Level.FAIL, found, _redis_advice(str(error)).format(setting=setting))
        return
    yield Finding(name, Level.OK, f"{mask_url(url)} answers")
    for judge in judges:
        subject, level, found, advice = judge(facts)
        yield Finding(f"{name}: {subject}", level, found, advice)


REDIS_ADVICE: Final = {
    NOT_FOUND: "see that the sentinels run, and that {setting} has their addresses, what they call the "
    "master (master_name) and, if they want one, their sentinel_password",
    "DB index is out of range": "write a database that this Redis has at the end of {setting}, such as /0",
    "invalid username-password": "put the right user and password into {setting}",
    "Authentication required": "put user and password into {setting}",
    "": "see that it runs, and that {setting} has its host, port, database and password",
}
"""What to do, by words of the error; the first that it holds."""


def _redis_advice(error: str) -> str:
    return next(advice for words, advice in REDIS_ADVICE.items() if words in error)


def _ask(url: str, settings: Settings) -> Facts:
    client = connect(url, timeout=settings.redis_timeout, connect_timeout=settings.redis_connect_timeout)
    with closing(client):
        info: Any = client.info()
        return Facts(
            version=info["redis_version"],
            read_only=info["role"] == "slave" and bool(info["slave_read_only"]),
            latency=median(_milliseconds(client.ping) for _ in range(PINGS)),
            aof=bool(info["aof_enabled"]),
            aof_written=info.get("aof_last_write_status", "ok") == "ok",
            fsync=_configured(client, "appendfsync"),
            eviction=info["maxmemory_policy"],
            used=info["used_memory"],
            ceiling=info["maxmemory"],
            replicas=info["connected_slaves"],
        )


def _configured(client: Any, option: str) -> str | None:
    with suppress(RedisError):
        for value in client.config_get(option).values():
            return value.decode() if isinstance(value, bytes) else str(value)
    return None


def _milliseconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


Verdict = tuple[str, Level, str, str]
Judge = Callable[[Facts], Verdict]


def judge_redis_version(facts: Facts) -> Verdict:
    """Our scripts need what Redis 6.2 brought."""
    new_enough = tuple(map(int, facts.version.split(".")[:2])) >= OLDEST_REDIS
    if new_enough:
        return "version", Level.OK, facts.version, ""
    return "version", Level.FAIL, facts.version, "use Redis 6.2 or later"


def judge_role(facts: Facts) -> Verdict:
    """Whether it takes writes."""
    if facts.read_only:
        return (
            "role",
            Level.FAIL,
            "a read-only replica",
            "use the URL of the primary: here nothing is accepted",
        )
    return "role", Level.OK, "takes writes", ""


def judge_latency(facts: Facts) -> Verdict:
    """How long a round trip takes."""
    found = f"{facts.latency:.2f} ms a round trip"
    if facts.latency <= SLOW_REDIS:
        return "latency", Level.OK, found, ""
    return (
        "latency",
        Level.WARN,
        found,
        "run workers and Redis in one network: each mail is a few round trips",
    )


def judge_persistence(facts: Facts) -> Verdict:
    """What a crash would cost."""
    if not facts.aof:
        advice = "set appendonly yes: as it is, a restart of Redis forgets accepted mail"
        return "persistence", Level.FAIL, "no append-only file", advice
    if not facts.aof_written:
        return (
            "persistence",
            Level.FAIL,
            "the append-only file can't be written",
            "look at Redis's disk and log",
        )
    return ("persistence", *FSYNC[facts.fsync])


FSYNC: Final[dict[str | None, tuple[Level, str, str]]] = {
    "always": (Level.OK, "append-only file, synced at each write: a crash loses nothing", ""),
    "everysec": (
        Level.WARN,
        "append-only file, synced every second: a crash of the machine may lose the last second or two",
        "set appendfsync always if no accepted mail may be lost",
    ),
    "no": (
        Level.WARN,
        "append-only file, never synced: a crash of the machine may lose the last half minute",
        "set appendfsync everysec, or always if no accepted mail may be lost",
    ),
    None: (
        Level.WARN,
        "append-only file; how often it is synced isn't told",
        "ask whoever runs this Redis for its appendfsync",
    ),
}
"""What each `appendfsync` means."""


def judge_eviction(facts: Facts) -> Verdict:
    """Whether Redis may throw keys away: each is a mail."""
    if facts.eviction == "noeviction":
        return "eviction", Level.OK, facts.eviction, ""
    level = Level.FAIL if facts.ceiling else Level.WARN
    advice = "set maxmemory-policy noeviction: a key that is evicted is a lost mail"
    return "eviction", level, facts.eviction, advice


def judge_memory(facts: Facts) -> Verdict:
    """How much room is left."""
    if not facts.ceiling:
        found = f"{_mib(facts.used)} used, no limit"
        return "memory", Level.OK, found, ""
    share = facts.used / facts.ceiling
    found = f"{_mib(facts.used)} of {_mib(facts.ceiling)} used ({share:.0%})"
    if share >= 1:
        return "memory", Level.FAIL, found, f"give Redis more maxmemory: {FULL}"
    if share >= MEMORY_WARNING:
        return "memory", Level.WARN, found, f"give Redis more maxmemory soon: when it is reached, {FULL}"
    return "memory", Level.OK, found, ""


FULL: Final = "send() fails, while what was accepted goes on being sent"


def judge_failover(facts: Facts) -> Verdict:
    """Whether sentinels have what can become the master."""
    if facts.replicas:
        return "replicas", Level.OK, _connected(facts), ""
    advice = "start a replica: as it is, the sentinels have nothing to fail over to"
    return "replicas", Level.WARN, _connected(facts), advice


def judge_confirmation(facts: Facts) -> Verdict:
    """Whether a replica can confirm, now and after a failover."""
    if not facts.replicas:
        advice = 'start a replica: with durability = "replica" send() fails and nothing is sent without one'
        return "replicas", Level.FAIL, _connected(facts), advice
    if facts.replicas == 1:
        advice = "run a second one: after a failover to this one none is left that could confirm"
        return "replicas", Level.WARN, _connected(facts), advice
    return "replicas", Level.OK, _connected(facts), ""


def _connected(facts: Facts) -> str:
    return f"{facts.replicas or 'none'} connected"


REPLICA_JUDGES: Final[Mapping[tuple[str, bool], tuple[Judge, ...]]] = {
    ("primary", False): (),
    ("primary", True): (judge_failover,),
    ("replica", False): (judge_confirmation,),
    ("replica", True): (judge_confirmation,),
}
"""By durability, and whether sentinels are named."""


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


BROKER_JUDGES: Final = (judge_redis_version, judge_role, judge_latency, judge_eviction)
STORE_JUDGES: Final = (
    judge_redis_version,
    judge_role,
    judge_latency,
    judge_persistence,
    judge_eviction,
    judge_memory,
)

# --- The workers ------------------------------------------------------------------------------------


def worker_findings(settings: Settings) -> Iterator[Finding]:
    """Whether a worker takes mail. Nothing, if the broker can't be asked: that is told of its Redis."""
    ours = {queue.name for queue in queues(settings.namespace)}
    with suppress(OperationalError, RedisError):
        yield judge_workers(_queues_taken(settings, ours), ours)


def _queues_taken(settings: Settings, ours: Set[str]) -> list[set[str]]:
    """What each worker that answers takes tasks from; the first answer will do, if it is one of ours."""
    app = producing_app(settings)
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=0)
        for most in (1, None):
            answers = app.control.broadcast(
                "active_queues", reply=True, limit=most, timeout=WORKERS_ANSWER, connection=connection
            )
            told = (queues for answer in answers for queues in answer.values())
            taken = [{queue["name"] for queue in queues} for queues in told if isinstance(queues, list)]
            if not taken or not ours.isdisjoint(taken[0]):
                break
    return taken


def judge_workers(taken: Sequence[Set[str]], ours: Set[str]) -> Finding:
    """Whether anybody sends what is accepted."""
    if not taken:
        return Finding("workers", Level.WARN, "none answers", "start them: `mailtasks worker`")
    if not any(names & ours for names in taken):
        found = f"{len(taken)} answer, and none takes mail from {', '.join(sorted(ours))}"
        return Finding("workers", Level.WARN, found, "start those that do: `mailtasks worker`")
    return Finding("workers", Level.OK, "answer, and take mail")


# --- The ledger -------------------------------------------------------------------------------------


def ledger_findings(settings: Settings) -> Iterator[Finding]:
    """What in the ledger waits for a person. Nothing, if it can't be read: that is told of its Redis."""
    client = connect(
        settings.store_url, timeout=settings.redis_timeout, connect_timeout=settings.redis_connect_timeout
    )
    books = Books(client, Keys(settings.namespace))
    with closing(client), suppress(StoreError):
        stats = books.stats()
        yield judge_pause(books.paused())
        yield judge_aside(sum(len(books.set_aside(priority)) for priority in PRIORITIES))
        yield judge_doubt(stats.states[State.IN_DOUBT])
        yield judge_sweep(stats.tallies["swept"], books.last_stray())


def blob_finding(settings: Settings) -> Finding:
    """Whether attachments can be stored, read and deleted here; elsewhere it must be asked, too."""
    client = connect(
        settings.store_url, timeout=settings.redis_timeout, connect_timeout=settings.redis_connect_timeout
    )
    with closing(client):
        try:
            store = open_store(settings.blobs, client, Keys(settings.namespace))
            if store.kind == IN_REDIS:
                return Finding("attachments", Level.OK, f"in Redis, at most {_mib(settings.blob_cap)}")
            probe(store)
        except SettingsError as error:
            return Finding(
                "attachments", Level.FAIL, str(error), "install it where producers and workers run"
            )
        except StoreError as error:
            advice = "see that `blobs` names a place that all producers and workers can read and write"
            return Finding("attachments", Level.FAIL, str(error), advice)
    return Finding("attachments", Level.OK, f"{store.where} keeps them, and lets go of them")


def judge_pause(paused: Iterable[str]) -> Finding:
    """Whether somebody has stopped the sending."""
    held = sorted(paused)
    if not held:
        return Finding("paused", Level.OK, "nothing")
    which = f" {held[0]}" if len(held) == 1 and "all" not in held else ""
    return Finding("paused", Level.WARN, ", ".join(held), f"to go on: `mailtasks resume{which}`")


def judge_aside(batches: int) -> Finding:
    """Whether there are batches that nobody tries any more."""
    if not batches:
        return Finding("set aside", Level.OK, "nothing")
    found = f"batches that aren't tried again by themselves: {batches}"
    advice = "`mailtasks failed` lists them first, with why and what to do"
    return Finding("set aside", Level.WARN, found, advice)


def judge_sweep(swept: int, last: datetime | None) -> Finding:
    """Whether anything was found lately that the mechanism should not have left."""
    if not swept:
        return Finding("sweep", Level.OK, "found nothing")
    found = f"found {swept} astray since the beginning"
    found += f", the last on {last:%Y-%m-%d at %H:%M} UTC" if last else ""
    if last and datetime.now(UTC) - last > STRAY_IS_NEWS:
        return Finding("sweep", Level.OK, f"{found}, and mended it")
    advice = (
        "the workers' log has it as `the sweep found batch`; report it: unless a hand was in Redis, "
        "it is a bug of mailtasks"
    )
    return Finding("sweep", Level.WARN, f"{found}, and mended it", advice)


def judge_doubt(held: int) -> Finding:
    """Whether there is mail whose fate isn't known, and that is held until somebody decides."""
    if not held:
        return Finding("in doubt", Level.OK, "nothing")
    advice = (
        "look for the Message-IDs of `mailtasks in-doubt list` in the relay's log; "
        "then `mailtasks in-doubt resend` or `settle`"
    )
    return Finding(
        "in doubt", Level.WARN, f"{counted(held, 'recipient')}, held until somebody decides", advice
    )


# --- The relay --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reception:
    """What a relay shows to anybody who says EHLO."""

    extensions: frozenset[str]  # in lower case
    certificate_ends: float | None  # seconds since the epoch; None: no TLS


ADVICE: Final = {
    Stage.CONNECT: "check host and port of the relay, its DNS name, and the firewalls in between",
    Stage.GREETING: "ask the relay's operator whether this machine may send mail through it",
    Stage.EHLO: "set hello_name to a name that DNS knows for this machine",
    Stage.TLS: "use the host name that the certificate is for; for an authority of your own, add ?ca=FILE",
    Stage.AUTH: "check user and password in the relay's URL, percent-encoded where needed",
}
"""What to do where a connection ended."""

SILENCE: Final = {
    Stage.GREETING: "check the port: one that is for TLS from the first byte, often 465, says nothing until "
    "it is called smtps://; or give a slow relay longer with --timeout",
    **dict.fromkeys(
        (Stage.EHLO, Stage.TLS, Stage.AUTH),
        "give it longer with --timeout; if it stays silent, tell the relay's operator",
    ),
}
"""What to do where it ended because the relay didn't answer in time."""

KNOWN_ADVICE: Final = {
    "offers no STARTTLS": "use the port on which it offers STARTTLS, often 587, or smtps:// and 465; on a "
    "network that you trust, ?tls=none",
    "WRONG_VERSION_NUMBER": "this port speaks no TLS from the first byte: write smtp:// for STARTTLS, or use "
    "the port for smtps://, often 465",
    "the token command": "run the command by hand, as the workers' user: it should print a token and end",
    "the token function": "call the function by hand, in the workers' Python: it should return a token",
    "wants a certificate of ours": "add cert=FILE to the relay's URL, and key=FILE if the key isn't in it",
    "our certificate": "get a certificate that the relay's operator accepts, and name its file with cert=",
    "can't be sent from": "name an address of this machine with local=, or leave it out",
    "and the local address": "name an address of the relay's family with local=, or leave it out",
    "offers no login": "use the port on which it offers a login, often 587, or take USER:PASSWORD@ out of "
    "the relay's URL",
}
"""The same for words that tell more."""


REFUSED_ADVICE: Final = (
    "see that the token is for the user in the relay's URL, has the relay's scope for SMTP, and that the "
    "relay allows logins with tokens for this user"
)
"""What to do where a login with a token was refused."""


def relay_findings(relay: Relay, hello_name: str | None, timeout: float) -> Iterator[Finding]:
    """Connect as a worker would, then look at what the relay offers."""
    begin = time.perf_counter()
    try:
        with cwd_in_path():  # as in a worker, for a token's function
            Session.connect(relay, hello_name=hello_name, timeouts=_timeouts(timeout)).close()
    except ConnectFailed as error:
        yield _unavailable(relay, error)
        return
    took = (time.perf_counter() - begin) * 1000
    yield Finding("relay", Level.OK, f"{relay.name} ready in {took:.0f} ms, {_who(relay)}")
    yield judge_secrecy(relay)
    with suppress(OSError, smtplib.SMTPException):
        yield from _reception_findings(relay, _receive(relay, timeout))


def _timeouts(seconds: float) -> Timeouts:
    return Timeouts(connect=seconds, greeting=seconds, ehlo=seconds, tls=seconds, auth=seconds)


def _who(relay: Relay) -> str:
    """What a relay knows of us."""
    login = "logged in" if relay.logs_in else "without a login"
    told = [
        f" as {relay.username}" if relay.username else "",
        " with a token" if relay.has_token else "",
        ", our certificate shown" if relay.cert else "",
        f", from {relay.local}" if relay.local else "",
    ]
    return login + "".join(told)


def _unavailable(relay: Relay, error: ConnectFailed) -> Finding:
    known = (advice for words, advice in KNOWN_ADVICE.items() if words in str(error))
    return Finding("relay", Level.FAIL, str(error), next(known, _advice(relay, error.failure)))


def _advice(relay: Relay, failure: Outcome) -> str:
    if failure.stage is Stage.AUTH and failure.reply and relay.has_token:
        return REFUSED_ADVICE
    silent = SILENCE if failure.how is How.TIMED_OUT else {}
    return silent.get(failure.stage, ADVICE[failure.stage])


def judge_secrecy(relay: Relay) -> Finding:
    """Whether anybody in between can read along."""
    if relay.tls != "none":
        return Finding("relay: TLS", Level.OK, "encrypted, certificate verified")
    if is_loopback(relay.host):
        return Finding("relay: TLS", Level.OK, "none, and none needed on loopback")
    what = "mail and password are" if relay.password else "mail is"
    return Finding(
        "relay: TLS", Level.WARN, f"none: {what} sent in plain text", "leave out tls=none if it can do TLS"
    )


def _reception_findings(relay: Relay, reception: Reception) -> Iterator[Finding]:
    if reception.certificate_ends is not None:
        yield judge_certificate(reception.certificate_ends, time.time())
    yield judge_pipelining(reception.extensions)
    if relay.chunking == "yes":
        yield judge_chunking(reception.extensions)


def judge_certificate(ends: float, now: float) -> Finding:
    """How long the certificate is still good for."""
    days = int((ends - now) // 86400)
    found = f"good for {counted(days, 'more day')}"
    if days >= CERTIFICATE_DAYS:
        return Finding("relay: certificate", Level.OK, found)
    return Finding("relay: certificate", Level.WARN, found, "have it renewed: workers refuse an expired one")


def judge_pipelining(extensions: frozenset[str]) -> Finding:
    """PIPELINING makes one round trip of the four or five that a message takes without it."""
    if "pipelining" in extensions:
        return Finding("relay: pipelining", Level.OK, "offered")
    advice = "nothing is wrong, but a relay with PIPELINING (RFC 2920) takes mail several times as fast"
    return Finding("relay: pipelining", Level.WARN, "not offered", advice)


def judge_chunking(extensions: frozenset[str]) -> Finding:
    """Whether mail goes by BDAT, as the relay's URL wants it."""
    missing = [each.upper() for each in ("chunking", "pipelining") if each not in extensions]
    if not missing:
        return Finding("relay: chunking", Level.OK, "offered: mail goes by BDAT")
    found = f"mail goes by DATA: {' and '.join(missing)} not offered"
    return Finding("relay: chunking", Level.WARN, found, "take chunking=yes out of the relay's URL")


def _receive(relay: Relay, timeout: float) -> Reception:
    """Look on with the standard library's client: a second opinion, and it shows the certificate."""
    with _client(relay, timeout) as client:
        if relay.tls == "required":
            client.starttls(context=_context(relay))
        client.ehlo()
        return Reception(frozenset(client.esmtp_features), _ends(client.sock))


def _client(relay: Relay, timeout: float) -> smtplib.SMTP:
    source = (relay.local, 0) if relay.local else None
    if relay.tls == "implicit":
        context = _context(relay)
        return smtplib.SMTP_SSL(
            relay.host, relay.port, timeout=timeout, context=context, source_address=source
        )
    if relay.lmtp:
        return smtplib.LMTP(relay.socket or relay.host, relay.port, source_address=source, timeout=timeout)
    return smtplib.SMTP(relay.host, relay.port, timeout=timeout, source_address=source)


def _context(relay: Relay) -> ssl.SSLContext:
    return tls_context(relay.ca, relay.cert, relay.key)


def _ends(connected: object) -> float | None:
    certificate = connected.getpeercert() if isinstance(connected, ssl.SSLSocket) else None
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"]))) if certificate else None


# --- The sender -------------------------------------------------------------------------------------


def judge_sender(default_from: str | None) -> Finding:
    """Whether a message that names no sender has one."""
    if default_from is None:
        advice = "set default_from, or name a sender in each message"
        return Finding("default_from", Level.WARN, "not set", advice)
    return Finding("default_from", Level.OK, default_from)
