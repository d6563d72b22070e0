"""`python -m benchmarks.streams`: what relaying streams costs, beside the same streams read from the source.

Each stream brings `--pace` seconds apart as many events as it is asked for. The time to the first event and between
events is taken by the client; the processor time of the gateway's processes is divided by the events that they relayed.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import uvloop

from benchmarks import reports, servers
from benchmarks.writers import MODEL

servers.PROCESSES = {"sqlite": 1, "postgres": 2}
TOKENS_AN_EVENT = 4


@dataclass(frozen=True)
class Seen:
    """Milliseconds until a stream's first event and between two events; `failed` streams are in neither."""

    streams: int
    events: int
    failed: int
    first_p50_ms: float
    first_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float


class Readers:
    def __init__(self, url: str, key: str, events: int) -> None:
        self._url, self._headers = f"{url}/v1/chat/completions", {"authorization": f"Bearer {key}"}
        self._body = {
            "model": MODEL,
            "stream": True,
            "max_tokens": events * TOKENS_AN_EVENT,
            "messages": [{"role": "user", "content": "Which bills are due?"}],
        }
        self.firsts: list[float] = []
        self.gaps: list[float] = []
        self.events = self.failed = 0

    async def run(self, streams: int, *, spread_s: float) -> Seen:
        """Start `streams` evenly over `spread_s`, and read all of them to their end."""
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as self._session:
            await asyncio.gather(*(self._read(number * spread_s / streams) for number in range(streams)))
        return Seen(
            streams,
            self.events,
            self.failed,
            quantile(self.firsts, 0.5),
            quantile(self.firsts, 0.99),
            quantile(self.gaps, 0.5),
            quantile(self.gaps, 0.99),
        )

    async def _read(self, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        at, events = time.perf_counter(), 0
        async with self._session.post(self._url, json=self._body, headers=self._headers) as answer:
            async for chunk in answer.content.iter_any():
                now = time.perf_counter()
                (self.gaps if events else self.firsts).append((now - at) * 1000)
                at = now
                events += chunk.count(b"data: ")
        self.events += events
        self.failed += answer.status != 200


def quantile(numbers: Sequence[float], share: float) -> float:
    return sorted(numbers)[math.ceil(len(numbers) * share) - 1] if numbers else math.nan


def main() -> None:
    options = parse()
    options.upstream, options.seconds = "writers", options.events * options.pace
    report: dict[str, Any] = {"machine": reports.machine(), "parameters": vars(options), "runs": []}
    print(reports.describe(report))
    print(f"{'':<24}{'streams':>8}{'first p50':>11}{'p99 ms':>8}{'gap p50':>9}{'p99 ms':>8}", end="")
    print(f"{'CPU us/event':>14}{'failed':>8}")
    port = servers.free_port()
    upstream = f"http://127.0.0.1:{port}"
    # Log-normal lengths without spread, far longer than what is asked for: each stream is cut at its max_tokens.
    writers = [*(sys.executable, "-m", "benchmarks.writers", str(port), "--mu", "12", "--sigma", "0")]
    with servers.process([*writers, "--chunk", str(TOKENS_AN_EVENT), "--pace", str(options.pace)], port=port):
        for streams in options.streams:
            measure("direct", upstream, "none", streams, options, report)
        for database in options.database:
            measure_product(database, upstream, options, report)
    print(f"\nWritten to {reports.save(report)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 300, 500], help="side by side")
    parser.add_argument("--events", type=int, default=200, help="of each stream (default: 200)")
    parser.add_argument("--pace", type=float, default=0.05, help="seconds between events (default: 0.05)")
    parser.add_argument("--database", nargs="+", choices=servers.PROCESSES, default=["postgres"])
    return parser.parse_args()


def measure_product(database: str, upstream: str, options: argparse.Namespace, report: dict[str, Any]) -> None:
    processes = servers.PROCESSES[database]
    with servers.product_environment(database, upstream) as (environment, _):
        key = servers.command(environment, "-m", "benchmarks.prepare")
        with servers.product(environment, processes=processes) as (url, pid):
            asyncio.run(Readers(url, key, 20).run(50, spread_s=1))
            for streams in options.streams:
                measure(f"{database}, {processes} processes", url, key, streams, options, report, [pid])
            print(f"{'':<24}memory {servers.memory_mb(pid)} MB")


def measure(
    name: str,
    url: str,
    key: str,
    streams: int,
    options: argparse.Namespace,
    report: dict[str, Any],
    pids: Sequence[int] = (),
) -> None:
    before = servers.cpu_s(pids)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(Readers(url, key, options.events).run(streams, spread_s=options.events * options.pace / 2))
    cpu_us = (servers.cpu_s(pids) - before) * 1e6 / max(1, seen.events) if pids else None
    print(
        f"{name:<24}{streams:>8}{seen.first_p50_ms:>11.1f}{seen.first_p99_ms:>8.1f}{seen.gap_p50_ms:>9.1f}"
        f"{seen.gap_p99_ms:>8.1f}{f'{cpu_us:.0f}' if cpu_us else '':>14}{seen.failed:>8}"
    )
    report["runs"].append({"what": name, "cpu_us_an_event": cpu_us, **asdict(seen)})


if __name__ == "__main__":
    main()
