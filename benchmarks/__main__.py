"""Measure governed calls: calls a second and latencies, with each database, beside the floor and the bare upstream."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import load, reports, servers, webhooks
from benchmarks.load import Load

WARM_UP_S = 2.0


def main() -> None:
    table = Table(parse())
    options = table.options
    with servers.upstream(options.upstream) as upstream:
        for connections in options.connections:
            table.measure_upstream(upstream, connections)
        for database in options.database:
            measure_product(database, options.processes or servers.PROCESSES[database], upstream, table)
    print(f"\nWritten to {reports.save(table.report)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each measurement (default: 8)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64], help="default: 1 16 64")
    parser.add_argument(
        "--database", nargs="+", choices=servers.PROCESSES, default=list(servers.PROCESSES), help="default: both"
    )
    parser.add_argument("--processes", type=int, help="web processes (default: SQLite 1, PostgreSQL 2)")
    parser.add_argument(
        "--upstream",
        choices=["sandbox", "fixed"],
        default="sandbox",
        help="the simulated Mistral, or one fixed answer at less cost (default: sandbox)",
    )
    parser.add_argument("--quick", action="store_true", help="two seconds each, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.seconds = 2.0
    return options


class Table:
    """A line for each measurement, printed as it is made and kept for the report.

    "CPU ms" is the processor time of web processes and database for each call, "web ms" that of the web processes
    alone: load from elsewhere on the machine changes these least.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.report: dict[str, Any] = {"machine": reports.machine(), "parameters": vars(options), "runs": []}
        # The upstream's own, by connections; and what the relay that governs nothing takes, which was measured last.
        self._direct: dict[int, Load] = {}
        self._floor_ms = 0.0
        print(reports.describe(self.report))
        print(f"{'':<22}{'connections':>11}{'calls/s':>10}{'p50 ms':>9}{'p99 ms':>9}", end="")
        print(f"{'added p50':>11}{'CPU ms':>8}{'failed':>8}{'web ms':>8}{'of floor':>10}")

    def measure_upstream(self, url: str, connections: int) -> None:
        self._direct[connections], _ = self._measure(f"{self.options.upstream} upstream", url, "none", connections)

    def measure_floor(self, url: str, connections: int, *, web: int, name: str) -> None:
        _, self._floor_ms = self._measure(f"floor, {name}", url, "none", connections, [web])

    def measure_product(
        self, name: str, url: str, key: str, connections: int, *, web: int, database: Sequence[int]
    ) -> None:
        """What the floor took is held against it, which is to be measured just before."""
        self._measure(name, url, key, connections, [web], database, floor_ms=self._floor_ms)

    def _measure(
        self,
        name: str,
        url: str,
        key: str,
        connections: int,
        web: Sequence[int] = (),
        database: Sequence[int] = (),
        *,
        floor_ms: float = 0.0,
    ) -> tuple[Load, float]:
        """The load, and the milliseconds of the web processes for each call of it."""
        before = servers.cpu_s(web), servers.cpu_s(database)
        found = load.run(f"{url}/v1/chat/completions", key=key, connections=connections, seconds=self.options.seconds)
        web_ms, database_ms = (
            (after - then) * 1e3 / max(found.calls, 1)
            for after, then in zip((servers.cpu_s(web), servers.cpu_s(database)), before, strict=True)
        )
        times_floor = web_ms / floor_ms if floor_ms else None
        added = f"{found.p50_ms - self._direct[connections].p50_ms:+.2f}" if web else ""
        print(
            f"{name:<22}{connections:>11}{found.calls_per_s:>10,.0f}{found.p50_ms:>9.2f}{found.p99_ms:>9.2f}"
            f"{added:>11}{f'{web_ms + database_ms:.2f}' if web else '':>8}{found.failed:>8}"
            f"{f'{web_ms:.2f}' if web else '':>8}{f'{times_floor:.1f}x' if times_floor else '':>10}"
        )
        kept = {"what": name, "connections": connections, "cpu_ms_a_call": web_ms + database_ms if web else None}
        figures = {"web_cpu_ms_a_call": web_ms if web else None, "web_cpu_times_floor": times_floor}
        self.report["runs"].append({**kept, **figures, **asdict(found)})
        return found, web_ms


def measure_product(database: str, processes: int, upstream: str, table: Table) -> None:
    """Beside as many processes of the floor, in turns with them."""
    as_many = f"{processes} process{'es' if processes > 1 else ''}"
    name = f"{database}, {as_many}"
    with (
        servers.relay(upstream, processes=processes) as (floor, floor_pid),
        servers.product_environment(database, upstream) as (environment, database_pids),
    ):
        key = servers.command(environment, "-m", "benchmarks.prepare")
        with servers.product(environment, processes=processes) as (url, pid):
            for warmed, known in ((floor, "none"), (url, key)):
                load.run(f"{warmed}/v1/chat/completions", key=known, connections=16, seconds=WARM_UP_S)
            for connections in table.options.connections:
                table.measure_floor(floor, connections, web=floor_pid, name=as_many)
                table.measure_product(name, url, key, connections, web=pid, database=database_pids)
            table.report["runs"] += webhooks.measure(database, url, seconds=table.options.seconds)
            memory_mb = servers.memory_mb(pid)
        drift = json.loads(servers.command(environment, "manage.py", "reconcile_ledger", "--json"))
    print(f"{'':<22}memory {memory_mb} MB; the ledger {'has drifted: ' + str(drift) if drift else 'holds'}")
    table.report["runs"].append({"what": name, "memory_mb": memory_mb, "drift": drift})
    if drift:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
