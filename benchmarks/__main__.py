"""Measure governed calls: calls a second and latencies, with each database, beside the upstream by itself."""

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
    options = parse()
    report: dict[str, Any] = {"machine": reports.machine(), "parameters": vars(options), "runs": []}
    print(reports.describe(report))
    print(f"{'':<22}{'connections':>11}{'calls/s':>10}{'p50 ms':>9}{'p99 ms':>9}", end="")
    print(f"{'added p50':>11}{'CPU ms':>8}{'failed':>8}")
    with servers.upstream(options.upstream) as upstream:
        direct = {
            count: measure(f"{options.upstream} upstream", upstream, "none", count, options, report, {})
            for count in options.connections
        }
        for database in options.database:
            for processes in [options.processes or servers.PROCESSES[database]]:
                measure_product(database, processes, upstream, direct, options, report)
    path = reports.save(report)
    print(f"\nWritten to {path}")


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


def measure(
    name: str,
    url: str,
    key: str,
    connections: int,
    options: argparse.Namespace,
    report: dict[str, Any],
    direct: dict[int, Load],
    pids: Sequence[int] = (),
) -> Load:
    """One line of the table. "CPU ms" is the processor time of `pids` for each call, which load from elsewhere
    on the machine changes least."""
    before = servers.cpu_s(pids)
    found = load.run(f"{url}/v1/chat/completions", key=key, connections=connections, seconds=options.seconds)
    cpu_ms = (servers.cpu_s(pids) - before) * 1e3 / max(found.calls, 1) if pids else None
    added = f"{found.p50_ms - direct[connections].p50_ms:+.2f}" if direct else ""
    print(
        f"{name:<22}{connections:>11}{found.calls_per_s:>10,.0f}{found.p50_ms:>9.2f}{found.p99_ms:>9.2f}"
        f"{added:>11}{f'{cpu_ms:.2f}' if cpu_ms else '':>8}{found.failed:>8}"
    )
    report["runs"].append({"what": name, "connections": connections, "cpu_ms_a_call": cpu_ms, **asdict(found)})
    return found


def measure_product(
    database: str,
    processes: int,
    upstream: str,
    direct: dict[int, Load],
    options: argparse.Namespace,
    report: dict[str, Any],
) -> None:
    name = f"{database}, {processes} process{'es' if processes > 1 else ''}"
    with servers.product_environment(database, upstream) as (environment, database_pids):
        key = servers.command(environment, "-m", "benchmarks.prepare")
        with servers.product(environment, processes=processes) as (url, pid):
            load.run(f"{url}/v1/chat/completions", key=key, connections=16, seconds=WARM_UP_S)
            for connections in options.connections:
                measure(name, url, key, connections, options, report, direct, [pid, *database_pids])
            report["runs"] += webhooks.measure(database, url, seconds=options.seconds)
            memory_mb = servers.memory_mb(pid)
        drift = json.loads(servers.command(environment, "manage.py", "reconcile_ledger", "--json"))
    print(f"{'':<22}memory {memory_mb} MB; the ledger {'has drifted: ' + str(drift) if drift else 'holds'}")
    report["runs"].append({"what": name, "memory_mb": memory_mb, "drift": drift})
    if drift:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
