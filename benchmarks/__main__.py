"""All benchmarks, one after the other: each prints its table, and fails if it misses its mark.

python -m benchmarks [engine latency drain compose]
"""

import subprocess
import sys

ALL = ("engine", "latency", "drain", "compose")


def main() -> int:
    """Run them; the exit code says whether all met their marks."""
    failed = []
    for name in sys.argv[1:] or ALL:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            failed.append(name)
    print(f"\nmissed: {', '.join(failed)}" if failed else "\nall marks met")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
