"""Mails a second of the SMTP engine and pool alone, against smtplib with kept connections.

Both sides run in one process with as many threads, in turn, against the same server (Postfix's
smtp-sink, which is C, keeps nothing and answers a pipelined flight with one write), first on loopback and
then through a proxy that adds a round-trip delay. A round is a pair; the ratio is the median of the pairs'.

    python -m benchmarks.engine [--json]

The server must not be the bottleneck: its share of one CPU during our side is printed as well. So are the
voluntary context switches of a mail on both sides: they are what threads cost each other (ADR 0012).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import smtplib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from mailtasks.local.redis import free_port
from mailtasks.relay import Relay
from mailtasks.reply import How
from mailtasks.smtp import Envelope, Pool, Timeouts

SENDER, RECIPIENT = "sender@example.com", "recipient@example.org"
HEADER = b"From: sender@example.com\r\nTo: recipient@example.org\r\nSubject: benchmark\r\n\r\n"
LINE = b"A line of ordinary text, as a mail has about thirty of them in 2 KB.\r\n"
CONTENT = HEADER + LINE * ((2048 - len(HEADER)) // len(LINE))

MARK = 3.0
"""What the ratio has to be at least."""


@dataclass(frozen=True)
class Load:
    """One side's work in one round."""

    port: int
    threads: int
    messages: int  # a thread
    window: int  # envelopes a `deliver`


@dataclass(frozen=True)
class Row:
    """One line of the table: medians over the rounds."""

    where: str
    threads: int
    window: int
    messages: int
    smtplib: float  # mails a second
    mailtasks: float
    ratio: float
    smtplib_switches: float  # voluntary context switches a mail
    mailtasks_switches: float
    sink_cpu: float  # of one CPU, during our side


def with_smtplib(load: Load) -> float:
    """Mails a second with a kept smtplib connection a thread."""
    clients = [smtplib.SMTP("127.0.0.1", load.port) for _ in range(load.threads)]
    for client in clients:
        client.ehlo()

    def work(number: int) -> None:
        for _ in range(load.messages):
            clients[number].sendmail(SENDER, [RECIPIENT], CONTENT)

    rate = in_threads(load, work)
    for client in clients:
        client.close()
    return rate


def with_mailtasks(load: Load) -> float:
    """Mails a second with our pool."""
    return with_pool(pool_for(load), load)


def pool_for(load: Load, options: str = "") -> Pool:
    """As a worker would have it, but no connection is renewed in the middle; with options of the URL."""
    return Pool(
        Relay.parse(f"smtp://127.0.0.1:{load.port}{options}"),
        size=load.threads,
        max_messages=10**9,
        lifetime=300,
        idle=20,
        timeouts=Timeouts(),
    )


def with_pool(pool: Pool, load: Load) -> float:
    """Mails a second, each window on a connection lent for it."""

    def work(_: int) -> None:
        for start in range(0, load.messages, load.window):
            size = min(load.window, load.messages - start)
            envelopes = [Envelope(SENDER, (RECIPIENT,), CONTENT) for _ in range(size)]
            with pool.lend(timeout=30) as session:
                outcomes = session.deliver(envelopes)
            assert all(outcome.how is How.ACCEPTED for (outcome,) in outcomes)

    with contextlib.ExitStack() as lent:  # connect first, as the other side does
        for _ in range(load.threads):
            lent.enter_context(pool.lend(timeout=30))
    rate = in_threads(load, work)
    pool.close()
    return rate


def in_threads(load: Load, work: Callable[[int], None]) -> float:
    """Mails a second of `work` in as many threads as the load says."""
    with ThreadPoolExecutor(load.threads) as threads:
        start = time.perf_counter()
        for _ in threads.map(work, range(load.threads)):
            pass  # which raises what a thread raised
        return load.messages * load.threads / (time.perf_counter() - start)


def compare(where: str, load: Load, rounds: int, sink: subprocess.Popen[bytes]) -> Row:
    """Pairs of runs, the order changed each time; the first pair warms up and isn't counted."""
    pairs = []
    for number in range(rounds + 1):
        runs = {}
        for side in (with_smtplib, with_mailtasks) if number % 2 else (with_mailtasks, with_smtplib):
            runs[side] = measure(side, load, sink.pid)
        pairs.append((runs[with_smtplib], runs[with_mailtasks]))
    theirs, ours = zip(*pairs[1:], strict=True)
    return Row(
        where,
        load.threads,
        load.window,
        load.messages * load.threads,
        round(statistics.median(run.rate for run in theirs), 1),
        round(statistics.median(run.rate for run in ours), 1),
        round(statistics.median(our.rate / their.rate for their, our in pairs[1:]), 2),
        round(statistics.median(run.switches for run in theirs), 2),
        round(statistics.median(run.switches for run in ours), 2),
        round(statistics.median(run.sink_cpu for run in ours), 2),
    )


@dataclass(frozen=True)
class Run:
    """What one side's run came to."""

    rate: float  # mails a second
    switches: float  # voluntary ones, a mail
    sink_cpu: float  # of one CPU


def measure(side: Callable[[Load], float], load: Load, sink: int) -> Run:
    """One run, with what it cost."""
    used, switched, start = cpu_seconds(sink), switches(), time.perf_counter()
    rate = side(load)
    seconds, mails = time.perf_counter() - start, load.messages * load.threads
    return Run(rate, (switches() - switched) / mails, (cpu_seconds(sink) - used) / seconds)


def switches() -> int:
    """How often a thread of this process has had to wait so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running_sink() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Postfix's smtp-sink on a free port."""
    program = shutil.which("smtp-sink", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        sys.exit("smtp-sink isn't on the PATH; install postfix, which brings it")
    port = free_port()
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    with subprocess.Popen([program, *user, f"127.0.0.1:{port}", "200"]) as sink:
        try:
            wait_for(port)
            yield sink, port
        finally:
            sink.terminate()


@contextlib.contextmanager
def running_proxy(port: int, seconds: float) -> Iterator[int]:
    """The delaying proxy, in a process of its own so that it takes nothing from our interpreter."""
    command = [sys.executable, "-m", "mailtasks.testing.proxy", "127.0.0.1", str(port), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as proxy:
        assert proxy.stdin
        assert proxy.stdout
        yield int(proxy.stdout.readline())
        proxy.stdin.close()


def wait_for(port: int, seconds: float = 5) -> None:
    """Until something listens on it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def main() -> int:
    """Run, print, and say by the exit code whether the marks were reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument(
        "--windows",
        type=int,
        nargs="+",
        default=[8, 16],
        help="envelopes a deliver; 8 is the default for bulk mail",
    )
    parser.add_argument(
        "--messages", type=int, default=8000, help="a round on loopback, all threads together"
    )
    parser.add_argument("--far-messages", type=int, default=320, help="a round through the proxy")
    parser.add_argument("--round-trip", type=float, default=0.05, help="seconds (default: 0.05)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with running_sink() as (sink, port):
        for window in options.windows:
            load = Load(port, options.threads, options.messages // options.threads, window)
            rows.append(compare("loopback", load, options.rounds, sink))
        with running_proxy(port, options.round_trip) as far:
            load = Load(far, options.threads, options.far_messages // options.threads, options.windows[0])
            rows.append(compare(f"{options.round_trip * 1000:g} ms away", load, options.rounds, sink))
    report(rows, as_json=options.json)
    return 0 if all(row.ratio >= MARK for row in rows) else 1


def report(rows: list[Row], *, as_json: bool) -> None:
    """The table, or the same as JSON."""
    if as_json:
        print(
            json.dumps({"mark": MARK, "bytes": len(CONTENT), "rows": [asdict(row) for row in rows]}, indent=2)
        )
        return
    heads = ("threads", "window", "mails", "smtplib/s", "mailtasks/s", "ratio", "switches a mail", "sink CPU")
    widths = (8, 8, 8, 12, 13, 8, 17, 10)
    print(" " * 14 + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    for row in rows:
        switched = f"{row.smtplib_switches:.1f} / {row.mailtasks_switches:.1f}"
        print(
            f"{row.where:14}{row.threads:8}{row.window:8}{row.messages:8}{row.smtplib:12,.0f}{row.mailtasks:13,.0f}"
            f"{row.ratio:8.2f}{switched:>17}{row.sink_cpu:10.0%}"
        )
    print(f"medians of pairs; messages of {len(CONTENT)} bytes; the ratio must be at least {MARK:g}")


if __name__ == "__main__":
    sys.exit(main())
