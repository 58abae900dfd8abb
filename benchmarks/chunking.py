"""What BDAT (RFC 3030) brings: mails a second of our SMTP with `chunking=yes` in the URL, and without.

By BDAT a whole window goes out in one flight, and all of it is answered in one round trip; by DATA it is one
round trip a message, since a body waits for 354. Both sides run in one process, in turn, against the same
small server, on loopback and through a proxy that adds a round-trip delay. A round is a pair; the ratio is
the median of the pairs'.

    python -m benchmarks.chunking [--json]

Why BDAT isn't the default is told in docs/adr/0020.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks.engine import CONTENT, Load, pool_for, running_proxy, with_pool

DATA, BDAT = "", "?chunking=yes"
"""The two sides: options of the relay's URL."""


@dataclass(frozen=True)
class Row:
    """One line of the table: medians over the rounds."""

    where: str
    threads: int
    window: int
    messages: int
    data: float  # mails a second
    bdat: float
    ratio: float


def compare(where: str, load: Load, rounds: int) -> Row:
    """Pairs of runs, the order changed each time; the first pair warms up and isn't counted."""
    pairs = []
    for number in range(rounds + 1):
        sides = (DATA, BDAT) if number % 2 else (BDAT, DATA)
        rates = {side: with_pool(pool_for(load, side), load) for side in sides}
        pairs.append((rates[DATA], rates[BDAT]))
    data, bdat = zip(*pairs[1:], strict=True)
    ratio = statistics.median(theirs / ours for ours, theirs in pairs[1:])
    return Row(
        where,
        load.threads,
        load.window,
        load.messages * load.threads,
        round(statistics.median(data), 1),
        round(statistics.median(bdat), 1),
        round(ratio, 2),
    )


class Server(asyncio.Protocol):
    """Takes everything, by DATA or BDAT, and answers what came together with one write."""

    ANSWERS = (
        (b"EHLO", b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 CHUNKING\r\n"),
        (b"DATA", b"354 go on\r\n"),
        (b"QUIT", b"221 bye\r\n"),
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer, self.body, self.chunk = transport, b"", False, 0
        transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        """Answer what is complete."""
        self.buffer += data
        answers = []
        while answer := self.next():
            answers.append(answer)
        self.transport.write(b"".join(answers))

    def next(self) -> bytes:
        """The answer to the next thing, or nothing while it isn't complete."""
        if self.chunk:
            if len(self.buffer) < self.chunk:
                return b""
            self.buffer, self.chunk = self.buffer[self.chunk :], 0
            return b"250 2.0.0 taken\r\n"
        end = b"\r\n.\r\n" if self.body else b"\r\n"
        line, found, rest = self.buffer.partition(end)
        if not found:
            return b""
        self.buffer = rest
        if self.body:
            self.body = False
            return b"250 2.0.0 taken\r\n"
        if line.startswith(b"BDAT "):
            self.chunk = int(line.split()[1])
            return self.next()
        self.body = line.startswith(b"DATA")
        return next((answer for verb, answer in self.ANSWERS if line.startswith(verb)), b"250 2.0.0 ok\r\n")


async def serve() -> None:
    """Print the port, and serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def running_server() -> Iterator[int]:
    """The small server, in a process of its own; its port."""
    command = [sys.executable, "-m", "benchmarks.chunking", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin
        assert server.stdout
        yield int(server.stdout.readline())
        server.stdin.close()


def main() -> None:
    """Run and print; there is no mark to reach."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--messages", type=int, default=8000, help="a round on loopback, all threads together"
    )
    parser.add_argument("--far-messages", type=int, default=320, help="a round through the proxy")
    parser.add_argument("--round-trip", type=float, default=0.05, help="seconds (default: 0.05)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return asyncio.run(serve())
    rows = []
    with running_server() as port, running_proxy(port, options.round_trip) as far:
        for window in options.windows:
            load = Load(port, options.threads, options.messages // options.threads, window)
            rows.append(compare("loopback", load, options.rounds))
            load = Load(far, options.threads, options.far_messages // options.threads, window)
            rows.append(compare(f"{options.round_trip * 1000:g} ms away", load, options.rounds))
    return report(rows, as_json=options.json)


def report(rows: Sequence[Row], *, as_json: bool) -> None:
    """The table, or the same as JSON."""
    if as_json:
        print(json.dumps({"bytes": len(CONTENT), "rows": [asdict(row) for row in rows]}, indent=2))
        return
    heads = ("threads", "window", "mails", "DATA/s", "BDAT/s", "ratio")
    print(" " * 14 + "".join(f"{head:>10}" for head in heads))
    for row in rows:
        print(
            f"{row.where:14}{row.threads:10}{row.window:10}{row.messages:10}{row.data:10,.0f}{row.bdat:10,.0f}"
            f"{row.ratio:10.2f}"
        )
    print(f"medians of pairs; messages of {len(CONTENT)} bytes")


if __name__ == "__main__":
    main()
