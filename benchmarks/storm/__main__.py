"""`python -m benchmarks.storm`: hostile clients, a hostile model's API and busy operators, and whose books are right.

64 clients that read, crawl, stop, leave, repeat and lie call the product, whose model's API answers in every odd way
and keeps its own books (`benchmarks.own_books`), while operators reset and change budgets, stop, pause and report, and
agents hold by themselves. Between two gusts all is at rest and judged (`benchmarks.storm.judge`): no cap was passed by
what was truly spent, nobody was charged less than that. Ends with 1 where anything did not hold, and says of which
call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import servers
from benchmarks.storm import judge
from benchmarks.storm.acts import Operators
from benchmarks.storm.calls import Call
from benchmarks.storm.clients import PATIENCE_S, Clients
from benchmarks.storm.evidence import Evidence, is_own
from benchmarks.storm.judge import Breach

PROCESSES = {"sqlite": 1, "postgres": 3}
# The shortest that there is: what nobody resolves must be charged while the storm still looks.
RESERVATION_TTL_S = 60
# An upstream that goes on for nobody is not waited for longer.
UPSTREAM_S = 4.0
# So long a settlement may take after its call has ended.
SETTLED_WITHIN_S = 15.0
SHOWN = 30
# What is written slowest takes 6 s, and a resuming reader another 4.
SHORT_S, SHORT_PATIENCE_S = 12.0, 20.0


def main() -> None:
    options = parse()
    print(f"seed {options.seed}", flush=True)
    found = [breach for database in options.database for breach in storm(database, options)]
    raise SystemExit(1 if found else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="with each database (default: 10)")
    parser.add_argument("--seconds-between", type=float, default=60.0, help="two judgements (default: 60)")
    parser.add_argument(
        "--database", nargs="+", choices=PROCESSES, default=list(reversed(PROCESSES)), help="in turn (default: both)"
    )
    parser.add_argument("--processes", type=int, help="web processes (default: SQLite 1, PostgreSQL 3)")
    parser.add_argument("--clients", type=int, default=64, help="side by side (default: 64)")
    parser.add_argument(
        "--seed", default=secrets.token_hex(4), help="of all that is left to chance (default: a new one)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_S,
        help=f"seconds until a client waits in vain (default: {PATIENCE_S:g})",
    )
    parser.add_argument(
        "--beyond",
        action="store_true",
        help="also count what no gateway can know of or prevent: tokens that an upstream made for a connection that was"
        " closed, and answers longer than allowed",
    )
    parser.add_argument("--short", action="store_true", help="half a minute with SQLite, judged once")
    options = parser.parse_args()
    if options.short:
        options.minutes, options.seconds_between, options.database = SHORT_S / 60, SHORT_S, ["sqlite"]
        options.patience = SHORT_PATIENCE_S
    return options


def storm(database: str, options: argparse.Namespace) -> list[Breach]:
    """One storm over one database; what did not hold."""
    folder = Path(os.environ.get("VAR_DIR", "var"), "benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"storm-{time.strftime('%Y%m%dT%H%M%S')}-{database}"
    processes = options.processes or PROCESSES[database]
    port = servers.free_port()
    upstream = f"http://127.0.0.1:{port}"
    with (
        servers.process([sys.executable, "-m", "benchmarks.own_books", str(port)], port=port),
        servers.product_environment(database, upstream) as (environment, _),
    ):
        environment |= {"DEFAULT_DAILY_BUDGET": "", "RESERVATION_TTL_S": str(RESERVATION_TTL_S)}
        servers.command(environment, "manage.py", "migrate")
        issued = json.loads(servers.command(environment, "manage.py", "create_api_key", "--role", "operator", "--json"))
        try:
            with servers.product(environment, processes=processes, log=folder / f"{name}.log") as (url, _):
                print(f"\n{database}, {processes} process(es), {options.clients} clients", flush=True)
                run = Run(url, upstream, issued["key"], environment, options, database)
                found = asyncio.run(run.all())
        except subprocess.TimeoutExpired:
            found.append(Breach("does not end", "the product", f"it still runs {servers.END_S:.0f} s after SIGTERM"))
    report = folder / f"{name}.json"
    report.write_text(json.dumps(run.report(found), indent=1, default=str))
    run.show(found)
    print(f"Written to {report}, what the product said to {report.with_suffix('.log')}", flush=True)
    return found


class Run:
    """A storm while it lasts."""

    def __init__(
        self,
        url: str,
        upstream: str,
        key: str,
        environment: dict[str, str],
        options: argparse.Namespace,
        database: str,
    ) -> None:
        self._url, self._upstream, self._environment, self._options = url, upstream, environment, options
        self._seed = f"{options.seed}/{database}"
        self._operators = Operators(url, key, environment, seed=self._seed)
        self.calls: list[Call] = []
        self.books: list[dict[str, Any]] = []
        self.rows: dict[str, Any] = {}
        self.judged: Counter[str] = Counter()

    async def all(self) -> list[Breach]:
        await self._operators.open()
        await self._operators.set_up()
        self._clients = Clients(
            self._url,
            self._operators.tenants,
            seed=self._seed,
            done=self.calls.append,
            patience_s=self._options.patience,
        )
        every_s = 0.3 if self._options.short else 0.6
        work = [
            asyncio.create_task(self._clients.run(self._options.clients)),
            asyncio.create_task(self._operators.run(every_s=every_s, commands_every_s=12 * every_s)),
        ]
        began, found = time.monotonic(), dict[tuple[str, str], Breach]()
        while (left_s := began + self._options.minutes * 60 - time.monotonic()) > 0:
            self._clients.gate.set()
            self._operators.gate.set()
            await asyncio.wait(work, timeout=min(left_s, self._options.seconds_between))
            for task in work:
                if task.done():
                    task.result()
            for breach in await self._judgement():
                found.setdefault((breach.check, breach.subject), breach)
            self._progress(time.monotonic() - began, found.values())
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self._operators.close()
        return list(found.values())

    async def _judgement(self) -> list[Breach]:
        """Let everything come to rest, and look at all books."""
        self._operators.gate.clear()
        late: list[Breach] = []
        if not await self._clients.quiet(within_s=self._options.patience + 15):
            late = [
                Breach("a client that waits", call.label, "", call.described())
                for call in self._clients.running.values()
            ]
        while self._operators.busy:
            await asyncio.sleep(0.1)
        # Nothing else expires what agents left, and what is over later is the next gust's.
        expired_at = time.time()
        await self._operators.command("expire", {}, "expire_reservations")
        await self._upstream_at_rest()
        try:
            self.rows = rows = await self._settled()
        except SystemExit as error:
            return [*late, Breach("the ledger cannot be read", "rows", str(error)[-400:])]
        self.books = (await self._told(f"{self._upstream}/_books"))["entries"]
        reconciled = await self._operators.command("reconcile", {}, "reconcile_ledger", "--json")
        evidence = Evidence(
            calls=self.calls,
            books=self.books,
            rows=rows,
            acts=self._operators.log,
            drift=_drift(str(reconciled.said)),
            now=time.time(),
            expired_at=expired_at,
            beyond=self._options.beyond,
        )
        found = judge.breaches(evidence)
        self.judged = Counter(evidence.judged)
        return late + found

    async def _upstream_at_rest(self) -> None:
        """Wait a little for what it still generates."""
        end = time.monotonic() + UPSTREAM_S
        while (await self._told(f"{self._upstream}/_books?since=1000000000"))["running"] and time.monotonic() < end:
            await asyncio.sleep(0.2)

    async def _settled(self) -> dict[str, Any]:
        """The ledger's rows, as soon as nothing of the gateway's is held, or after a while."""
        end = time.monotonic() + SETTLED_WITHIN_S
        while True:
            said = await asyncio.to_thread(servers.command, self._environment, "-m", "benchmarks.storm.rows")
            rows: dict[str, Any] = json.loads(said)
            held = [row for row in rows["reservations"] if row["status"] == "pending" and not is_own(row["id"])]
            if not held or time.monotonic() > end:
                return rows
            await asyncio.sleep(1)

    async def _told(self, url: str) -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            told: dict[str, Any] = json.loads(await answer.read())
        return told

    def _progress(self, seconds: float, found: Any) -> None:
        statuses = Counter("none" if call.status is None else str(call.status) for call in self.calls)
        spent = sum(entry["cost_nanos"] for entry in self.books)
        acts = Counter(act.kind for act in self._operators.log)
        print(
            f"{seconds:5.0f} s: {len(self.calls)} calls ({_counted(statuses)}), {sum(acts.values())} acts, "
            f"upstream spent {judge.nanos(spent)}, {len(list(found))} breaches",
            flush=True,
        )

    def show(self, found: list[Breach]) -> None:
        """The verdict: what was looked at and what did not hold, then the calls, by how they behaved."""
        checks = Counter(breach.check for breach in found)
        print(f"\n{'':<34}{'judged':>9}{'breaches':>10}")
        for name in sorted(self.judged.keys() | checks.keys()):
            print(f"{name:<34}{self.judged.get(name, 0) or '':>9}{checks.get(name, 0):>10}")
        alike = Counter(_kind(breach) for breach in found)
        for kind, count in alike.most_common(SHOWN):
            first = next(breach for breach in found if _kind(breach) == kind)
            print(f"{count:>5} {' / '.join(kind)}\n      {first.subject}: {first.detail} ({first.call})")
        if len(alike) > SHOWN:
            print(f"      and {len(alike) - SHOWN} more kinds")
        verdict = f"{len(found)} breaches" if found else "everything held"
        print(f"{verdict} (seed {self._options.seed})", flush=True)

    def report(self, found: list[Breach]) -> dict[str, Any]:
        return {
            "parameters": vars(self._options),
            "judged": self.judged,
            "breaches": [vars(breach) for breach in found],
            "calls": [call.to_json() for call in self.calls],
            "acts": [act.to_json() for act in self._operators.log],
            "books": self.books,
            "rows": self.rows,
        }


def _kind(breach: Breach) -> tuple[str, str]:
    """What makes breaches alike: how the call behaved, or what was answered."""
    answered = breach.check in ("a wrong answer", "half an answer")
    return breach.check, breach.detail if answered else breach.call or breach.detail[:60]


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in counts.most_common())


def _drift(said: str) -> list[Any]:
    """What `reconcile_ledger --json` found; that it said something else is a drift as well."""
    try:
        drift: list[Any] = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return [{"invariant": "reconcile_ledger", "subject": "did not answer", "said": said}]
    return drift


if __name__ == "__main__":
    main()
