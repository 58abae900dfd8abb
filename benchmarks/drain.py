"""Single sends drained against Celery tasks that do nothing, by the same worker processes and threads.

Everything is queued before the workers start, so no producer competes with them. A drain is timed from
the first item taken to the last one done. Both sides run in turn; what counts is the ratio of a pair.

    python -m benchmarks.drain [--items 20000] [--pairs 3] [--processes 2] [--threads 8] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.sinks import sink
from mailtasks import Message
from mailtasks.local.redis import LocalRedis
from mailtasks.mailer import Mailer
from mailtasks.message import Priority
from mailtasks.publish import queue_name
from mailtasks.state import State

AT_LEAST = 0.6


@contextmanager
def workers(processes: int, threads: int, environment: dict[str, str]) -> Iterator[None]:
    """Worker processes on all queues, ended by SIGTERM."""
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.app", "worker", "-P", "threads"]
    quiet = ["--loglevel", "WARNING", "--without-mingle", "--without-gossip"]
    children = [
        subprocess.Popen(
            [*command, "-c", str(threads), "-n", f"bench{number}@%h", *quiet],
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number in range(processes)
    ]
    try:
        yield
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(60)


@contextmanager
def stage() -> Iterator[tuple[str, dict[str, str]]]:
    """A Redis and a sink, in this process' environment: the sink's name, and what workers need to know."""
    with LocalRedis() as redis, sink() as (name, port):
        environment = {
            "MAILTASKS_BROKER_URL": redis.url,
            "MAILTASKS_RELAY": f"smtp://127.0.0.1:{port}",
            "MAILTASKS_DEFAULT_FROM": "shop@example.com",
        }
        os.environ.update(environment)
        yield name, environment


def timed(remaining: Callable[[], int], items: int) -> float:
    """Items a second, from the first one taken to the last one done."""
    while remaining() == items:
        time.sleep(0.005)
    first = time.perf_counter()
    while remaining():
        time.sleep(0.02)
    return items / (time.perf_counter() - first)


def drain_nothing(mailer: Mailer, items: int, run_workers: Callable[[], object]) -> float:
    """Tasks that do nothing."""
    from benchmarks.app import app, nothing

    queue = queue_name(Priority.NORMAL)
    with app.producer_pool.acquire(block=True) as producer, producer.batch(500):
        for _ in range(items):
            nothing.apply_async(("0" * 27,), producer=producer, queue=queue)
    with run_workers():
        return timed(lambda: mailer.redis.llen(queue) + mailer.redis.zcard("unacked_index"), items)


def drain_mail(mailer: Mailer, items: int, run_workers: Callable[[], object]) -> float:
    """Mails, each a `send()` of its own."""
    text = "Dear reader,\n" + "this is a line of an ordinary mail, as long as they are.\n" * 34  # 2 KB
    for number in range(items):
        mailer.send(Message(to=f"reader{number}@example.com", subject=f"Order {number}", text=text))
    before = sent(mailer)
    with run_workers():
        return timed(lambda: items - (sent(mailer) - before), items)


def sent(mailer: Mailer) -> int:
    """The ledger's count, read as cheaply as the other side's queue length."""
    return int(mailer.redis.hget(mailer.ledger.keys.counts, State.SENT.value) or 0)


def main() -> int:
    """Run the pairs and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    pairs = []
    with stage() as (name, environment):

        def run_workers() -> object:
            return workers(arguments.processes, arguments.threads, environment)

        with Mailer() as mailer:
            for _ in range(arguments.pairs):
                nothing = drain_nothing(mailer, arguments.items, run_workers)
                mail = drain_mail(mailer, arguments.items, run_workers)
                pairs.append((nothing, mail))
                if not arguments.json:
                    print(
                        f"nothing {nothing:7.0f}/s   mail {mail:7.0f}/s   ratio {mail / nothing:.2f}",
                        flush=True,
                    )
    ratio = statistics.median(mail / nothing for nothing, mail in pairs)
    report = {
        "what": "single sends drained / Celery tasks that do nothing drained",
        "items": arguments.items,
        "processes": arguments.processes,
        "threads": arguments.threads,
        "sink": name,
        "nothing_per_second": statistics.median(nothing for nothing, _ in pairs),
        "mail_per_second": statistics.median(mail for _, mail in pairs),
        "ratio": ratio,
        "at_least": AT_LEAST,
    }
    print(
        json.dumps(report)
        if arguments.json
        else f"median ratio {ratio:.2f} (at least {AT_LEAST}), against {name}"
    )
    return 0 if ratio >= AT_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
