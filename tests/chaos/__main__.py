"""`make chaos SEED=1 MESSAGES=2000 KILLS=10 RESTARTS=3`: one run of chaos, its table, and what is wrong.

    python -m tests.chaos [--seed 1] [--messages 2000] [--kills 10] [--restarts 3] [--hints 5] [--workers 3]

Exits 1 if the books disagree, or anything took longer or cost more than it may: `tests/chaos/books.py` has
all that is judged.
"""

from __future__ import annotations

import argparse
import sys

from tests.chaos.run import Run

SHOWN = 20  # sentences


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default in {
        "seed": 1,
        "messages": 2000,
        "kills": 10,
        "restarts": 3,
        "hints": 5,
        "workers": 3,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"by default {default}")
    options = parser.parse_args()
    with Run(**vars(options)) as run:
        outcome = run.play(lambda deed: print(deed.replace("_", " "), end=", ", flush=True))
    print(f"\n\n{outcome.table}\n")
    for sentence in outcome.complaints[:SHOWN]:
        print(sentence)
    print(f"{len(outcome.complaints)} complaints" if outcome.complaints else "The books agree.")
    return 1 if outcome.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
