"""All benchmarks, one after the other: each prints its table, and fails if it misses its mark.

python -m benchmarks [engine latency warm drain compose templates people campaign campaign_send]
"""

import argparse
import subprocess
import sys

ALL = ("engine", "latency", "warm", "drain", "compose", "templates", "people", "campaign", "campaign_send")


def main() -> int:
    """Run them; the exit code says whether all met their marks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(ALL)}; by default all")
    names = parser.parse_args().names or ALL
    for name in names:
        if name not in ALL:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(ALL)}")
    failed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            failed.append(name)
    print(f"\nmissed: {', '.join(failed)}" if failed else "\nall marks met")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
