"""`python -m benchmarks.overload`: more calls than can be served, whether or not those before were answered.

First it is measured what the product serves to 64 connections that wait for their answers; then calls come at multiples
of that, each at its time. Latencies count from when a call was to begin. What matters: that those who are admitted are
answered in bounded time, that the others are told at once, and that as much is served as before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import uvloop

from benchmarks import load, reports, servers
from benchmarks.load import Client
from benchmarks.streams import quantile

# A machine's ports and files have an end; what would need more is told as not sent.
MOST_CONNECTIONS = 4_000
TICK_S = 0.005
WARM_UP_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """Calls a second, and milliseconds since the calls were to begin."""

    offered_per_s: float
    served_per_s: float
    refused_per_s: float
    served_p50_ms: float
    served_p99_ms: float
    refused_p50_ms: float
    refused_p99_ms: float
    not_sent: int
    broken: int


class Caller(Client):
    """Waits for its turn after each answer."""

    due_s = 0.0

    def __init__(self, crowd: Crowd) -> None:
        super().__init__(crowd.request, [], [])
        self._crowd = crowd

    def begin(self, due_s: float) -> None:
        self.due_s = due_s
        super().send()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(self) -> None:
        """An answer is there."""
        took_ms = (time.perf_counter() - self.due_s) * 1000
        (self._crowd.refused if self.failures else self._crowd.served).append(took_ms)
        self.failures.clear()
        self._crowd.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._crowd.lost(self)


class Crowd:
    def __init__(self, url: str, key: str) -> None:
        self.request, self._host, self._port = load.request(url, key)
        self.served: list[float] = []
        self.refused: list[float] = []
        self.idle: list[Caller] = []
        self.broken = self._open = self._not_sent = 0
        self._is_over = False

    async def run(self, rate: float, seconds: float) -> Outcome:
        began, number, opening = time.perf_counter(), 0, set()
        while (now_s := time.perf_counter() - began) < seconds:
            while number / rate <= now_s:
                due_s = began + number / rate
                number += 1
                if self.idle:
                    self.idle.pop().begin(due_s)
                elif self._open < MOST_CONNECTIONS:
                    self._open += 1
                    opening.add(task := asyncio.create_task(self._connect(due_s)))
                    task.add_done_callback(opening.discard)
                else:
                    self._not_sent += 1
            await asyncio.sleep(TICK_S)
        # Those under way have their time.
        await asyncio.sleep(3)
        self._is_over = True
        return Outcome(
            offered_per_s=rate,
            served_per_s=len(self.served) / seconds,
            refused_per_s=len(self.refused) / seconds,
            served_p50_ms=_quantile(self.served, 0.5),
            served_p99_ms=_quantile(self.served, 0.99),
            refused_p50_ms=_quantile(self.refused, 0.5),
            refused_p99_ms=_quantile(self.refused, 0.99),
            not_sent=self._not_sent,
            broken=self.broken,
        )

    async def _connect(self, due_s: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, caller = await loop.create_connection(lambda: Caller(self), self._host, self._port)
        except OSError:
            self._open -= 1
            self.broken += 1
        else:
            caller.begin(due_s)

    def lost(self, caller: Caller) -> None:
        """Its peer closed the connection."""
        self._open -= 1
        if caller in self.idle:
            self.idle.remove(caller)
        elif not self._is_over:
            self.broken += 1


def _quantile(found: Sequence[float], share: float) -> float:
    return quantile(list(found), share) if found else 0.0


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1].startswith("{"):
        asked = json.loads(sys.argv[1])
        crowd = Crowd(asked["url"], asked["key"])
        print(json.dumps(asdict(uvloop.run(crowd.run(asked["rate"], asked["seconds"])))))
        return
    options = parse()
    report: dict[str, Any] = {"machine": reports.machine(), "parameters": vars(options), "runs": []}
    for database in options.database:
        report["runs"].append(measure(database, options))
    print(f"Written to {reports.save(report)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--times", type=float, nargs="+", default=[0.5, 1, 2, 4], help="of what is served to who waits")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--database", nargs="+", choices=servers.PROCESSES, default=list(servers.PROCESSES))
    return parser.parse_args()


def measure(database: str, options: argparse.Namespace) -> dict[str, Any]:
    processes = servers.PROCESSES[database]
    with (
        servers.upstream("fixed") as upstream,
        servers.product_environment(database, upstream) as (environment, _),
    ):
        key = servers.command(environment, "-m", "benchmarks.prepare")
        with servers.product(environment, processes=processes) as (base, pid):
            url = f"{base}/v1/chat/completions"
            load.run(url, key=key, connections=16, seconds=WARM_UP_S)
            closed = load.run(url, key=key, connections=64, seconds=options.seconds)
            print(f"{database}: {closed.calls_per_s:,.0f} calls/s to 64 connections, p99 {closed.p99_ms:.0f} ms")
            outcomes = []
            for times in options.times:
                asked = {"url": url, "key": key, "rate": closed.calls_per_s * times, "seconds": options.seconds}
                said = servers.command(environment, "-m", "benchmarks.overload", json.dumps(asked))
                outcomes.append(outcome := Outcome(**json.loads(said)))
                show(times, outcome)
            memory_mb = servers.memory_mb(pid)
        drift = json.loads(servers.command(environment, "manage.py", "reconcile_ledger", "--json"))
    print(f"  memory {memory_mb} MB; the ledger {'has drifted: ' + str(drift) if drift else 'holds'}")
    if drift:
        raise SystemExit(1)
    return {
        "database": database,
        "closed": asdict(closed),
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "memory_mb": memory_mb,
    }


def show(times: float, outcome: Outcome) -> None:
    print(
        f"  x{times:g}: of {outcome.offered_per_s:,.0f}/s served {outcome.served_per_s:,.0f}/s"
        f" (p50 {outcome.served_p50_ms:.0f}, p99 {outcome.served_p99_ms:.0f} ms), refused"
        f" {outcome.refused_per_s:,.0f}/s (p50 {outcome.refused_p50_ms:.0f}, p99 {outcome.refused_p99_ms:.0f} ms),"
        f" {outcome.not_sent} not sent, {outcome.broken} broken"
    )


if __name__ == "__main__":
    main()
