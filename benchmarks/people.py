"""How fast people are read from CSV, and in how much memory; addresses are checked, and each passes once.

    python -m benchmarks.people [--rows N] [--rounds N]

Every round is a process of its own. The rate is rows for each second that the processor spent on it, since
that is what others on the machine disturb least; the best round counts. Beside it stands how many times as
long that is as `csv.DictReader` alone takes in the same process. Memory is the peak of the resident set.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

from mailtasks.people import Once, Person, read

FEW = 10_000
RATE = 150_000  # rows a second, at least
RATIO = 1.2  # of the memory for all rows to that for few, at most


def write(path: Path, rows: int) -> None:
    """Three columns; one row in a hundred has the address of an earlier one."""
    with path.open("w") as file:
        file.write("email,name,city\n")
        for number in range(rows):
            who = number // 2 if number % 100 == 99 else number
            file.write(f"ann.other.{who}@mail{who % 50}.example.com,Ann Other {number},Lisbon\n")


def measure(path: str) -> dict[str, float]:
    """Read it as a campaign would, here."""
    wall, processor = perf_counter(), process_time()
    kinds: Counter[bool] = Counter()
    with read(path) as people, Once() as once:
        for row in once.of(people):
            kinds[isinstance(row, Person)] += 1
    found = {
        "people": kinds[True],
        "rejected": kinds[False],
        "processor": process_time() - processor,
        "wall": perf_counter() - wall,
        "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    processor = process_time()
    with open(path, newline="", encoding="utf-8") as file:
        for _ in csv.DictReader(file):
            pass
    return found | {"times": found["processor"] / (process_time() - processor)}


def in_a_process(path: Path) -> dict[str, float]:
    """The same in a fresh one."""
    command = [sys.executable, "-m", "benchmarks.people", "--measure", str(path)]
    found: dict[str, float] = json.loads(subprocess.check_output(command))
    return found


def main() -> int:
    """Measure and print; the exit code says whether both marks are met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return 0
    with TemporaryDirectory() as folder:
        few, many = Path(folder, "few.csv"), Path(folder, "many.csv")
        write(few, FEW)
        write(many, arguments.rows)
        small = in_a_process(few)
        rounds = [in_a_process(many) for _ in range(arguments.rounds)]
    columns = ("rows", "people", "rejected", "rows/s", "on the clock", "DictReader", "MB")
    print("".join(f"{column:>14}" for column in columns))
    for rows, found in [(FEW, small), *((arguments.rows, it) for it in rounds)]:
        print(f"{rows:>14,}{found['people']:>14,}{found['rejected']:>14,}", end="")
        print(f"{rows / found['processor']:>14,.0f}{rows / found['wall']:>14,.0f}", end="")
        print(f"{found['times']:>13.1f}x{found['kilobytes'] / 1024:>14.1f}")
    best = max(arguments.rows / it["processor"] for it in rounds)
    ratio = max(it["kilobytes"] for it in rounds) / small["kilobytes"]
    print(f"\n{best:,.0f} rows a second of processor (at least {RATE:,}); ", end="")
    print(f"{ratio:.2f} times the memory of {FEW:,} rows (at most {RATIO})")
    return 0 if best >= RATE and ratio <= RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
