"""The command `mailtasks campaign send`, whole: rows a second, in how much memory, what they take in Redis.

    python -m benchmarks.campaign_send [--rows 1000000] [--rounds 3]

Every round is a process of the command's own, with an empty Redis without a disk beside it: a file of CSV is
read, checked, each address once, and accepted. The rate that counts is rows for each second that the
processor spent on the command, since that is what others on the machine disturb least; beside it stands the
rate by the clock. Memory is the peak of the resident set, and must not grow with the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import redis

from benchmarks import people
from mailtasks.local.redis import LocalRedis

FEW = 10_000
RATE = 50_000  # rows a second
RATIO = 1.2  # of the memory for all rows to that for few, at most
BYTES_A_ROW = 40  # of Redis, with two short fields


class Round(NamedTuple):
    """What one run of the command took."""

    accepted: int
    seconds: float  # by the clock
    processor: float  # seconds
    megabytes: float
    bytes_a_row: float


def send(file: Path, url: str) -> Round:
    """Run the command in a Redis that holds nothing."""
    (file.parent / "letter.txt").write_text("Dear {{ name }} in {{ city }},\nhello.\n")
    command = [
        *(sys.executable, "-m", "mailtasks.cli", "campaign", "send", str(file), "--yes", "--json"),
        *(
            "--from",
            "news@example.com",
            "--subject",
            "Hi {{ name }}",
            "--text",
            str(file.parent / "letter.txt"),
        ),
    ]
    with redis.Redis.from_url(url) as client:
        client.flushall()  # it is our own
        before = client.info("memory")["used_memory_dataset"]
        began = time.perf_counter()
        ran = subprocess.Popen(
            command,
            env={**os.environ, "MAILTASKS_BROKER_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert ran.stdout
        printed = ran.stdout.read()
        _, status, usage = os.wait4(ran.pid, 0)
        seconds = time.perf_counter() - began
        ran.returncode = os.waitstatus_to_exitcode(status)
        assert ran.returncode == 0, printed
        accepted = json.loads(printed)["accepted"]
        size = client.info("memory")["used_memory_dataset"] - before
    processor = usage.ru_utime + usage.ru_stime
    return Round(accepted, seconds, processor, usage.ru_maxrss / 1024, size / accepted)


def main() -> int:
    """Measure and print; the exit code says whether all marks are met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, LocalRedis() as server:
        few, many = Path(folder, "few.csv"), Path(folder, "many.csv")
        people.write(few, FEW)
        people.write(many, arguments.rows)
        small = send(few, server.url)
        rounds = [send(many, server.url) for _ in range(arguments.rounds)]
    columns = ("accepted", "rows/s", "on the clock", "MB", "bytes a row")
    print("".join(f"{column:>14}" for column in columns))
    for it in (small, *rounds):
        print(f"{it.accepted:>14,}{it.accepted / it.processor:>14,.0f}", end="")
        print(f"{it.accepted / it.seconds:>14,.0f}{it.megabytes:>14.1f}{it.bytes_a_row:>14.1f}")
    best = max(it.accepted / it.processor for it in rounds)
    ratio = max(it.megabytes for it in rounds) / small.megabytes
    size = max(it.bytes_a_row for it in rounds)
    print(f"\n{best:,.0f} rows a second of processor (at least {RATE:,}); ", end="")
    print(f"{ratio:.2f} times the memory of {FEW:,} rows (at most {RATIO}); ", end="")
    print(f"{size:.1f} bytes of Redis a row (at most {BYTES_A_ROW})")
    return 0 if best >= RATE and ratio <= RATIO and size <= BYTES_A_ROW else 1


if __name__ == "__main__":
    sys.exit(main())
