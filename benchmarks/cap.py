"""`python -m benchmarks.cap`: how close to its cap a budget can be spent by streams that run side by side.

Many clients stream answers of log-normal length until the budget is used up. From the own books of the model's API
(`benchmarks.own_books`) it is then known what was spent beyond the cap, how much of the budget was of use, and how many
calls were refused for money in flight although a hundredth of the budget was free, less what the running answers would
truly cost. Ends with 1 where anything was spent beyond the cap.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp

from benchmarks import reports, servers
from benchmarks.answers import Answer

MODEL = "mistral-small-latest"
# Nanodollars a token of that model, by the catalogue that the product ships.
INPUT_NANOS, OUTPUT_NANOS = 150, 600
BODY = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Which bills are due? " * 8}]}
# When the budget is used up, a client looks again after so long.
PAUSE_S = 0.5
EVENT_TOKENS = 8


@dataclass
class Tally:
    answered: int = 0
    cut: int = 0
    in_flight: int = 0
    needless: int = 0
    exhausted: int = 0
    failed: int = 0


class Clients:
    """`streams` clients that call until the budget is used up."""

    def __init__(self, url: str, upstream: str, key: str, limit_nanos: int, before: Mapping[str, int]) -> None:
        self._url, self._upstream, self._limit_nanos, self._before = url, upstream, limit_nanos, before
        self._headers = bearer(key)
        self.tally = Tally()
        self._over = False

    async def run(self, streams: int) -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=timeout
        ) as self._session:
            await asyncio.gather(*(self._call_on() for _ in range(streams)))
            self.truth = await self._truth()
            while self.truth["running"]:
                await asyncio.sleep(PAUSE_S)
                self.truth = await self._truth()

    async def _call_on(self) -> None:
        while not self._over:
            async with self._session.post(
                f"{self._url}/v1/chat/completions", json=BODY, headers=self._headers
            ) as answer:
                said = await answer.read()
            if answer.status == 200:
                self.tally.answered += 1
                self.tally.cut += b"budget_exhausted" in said
            elif answer.status == 402:
                self.tally.exhausted += 1
                self._over = not (await self._truth())["running"]
                await asyncio.sleep(PAUSE_S)
            elif answer.status == 429:
                self.tally.in_flight += 1
                self.tally.needless += await self._had_room()
                await asyncio.sleep(float(answer.headers["retry-after"]))
            else:
                self.tally.failed += 1

    async def _had_room(self) -> bool:
        """Whether a hundredth of the budget was free, beside what the running answers will truly cost."""
        truth = await self._truth()
        return (self._limit_nanos - truth["planned_nanos"]) * 100 >= self._limit_nanos

    async def _truth(self) -> dict[str, int]:
        truth = await truth_of(self._session, self._upstream)
        return {name: number - self._before.get(name, 0) for name, number in truth.items()}


async def truth_of(session: aiohttp.ClientSession, upstream: str) -> dict[str, int]:
    async with session.get(f"{upstream}/_totals") as answer:
        found: dict[str, int] = json.loads(await answer.read())
    return found


async def warm_up(url: str, upstream: str, key: str, options: argparse.Namespace) -> dict[str, int]:
    """Let the product see what this agent's answers are like; what the model's API has on its books after that."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=options.streams)) as session:

        async def call() -> None:
            async with session.post(f"{url}/v1/chat/completions", json=BODY, headers=bearer(key)) as answer:
                await answer.read()

        await asyncio.gather(*(call() for _ in range(options.warm_up)))
        return await truth_of(session, upstream)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def main() -> None:
    options = parse()
    report = measure(options)
    show(report)
    print(f"Written to {reports.save(report)}")
    if report["truth"]["spent_nanos"] > report["limit_nanos"] or report["drift"]:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cap", description=__doc__)
    parser.add_argument("--streams", type=int, default=128, help="side by side (default: 128)")
    parser.add_argument("--processes", type=int, default=3, help="web processes (default: 3)")
    parser.add_argument("--calls", type=int, default=4_000, help="the budget, in usual calls (default: 4000)")
    parser.add_argument("--warm-up", type=int, default=1_000, help="calls before the budget begins (default: 1000)")
    parser.add_argument("--sigma", type=float, default=0.8, help="of the lengths' logarithm (default: 0.8)")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between events (default: 0.1)")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    port = servers.free_port()
    upstream = f"http://127.0.0.1:{port}"
    usual = Answer(event_tokens=EVENT_TOKENS, pace=EVENT_TOKENS / options.pace, token_bytes=5, counts="quarter")
    books = [sys.executable, "-m", "benchmarks.own_books", str(port), "--sigma", str(options.sigma)]
    books += ["--usual", json.dumps(usual.to_json())]
    with servers.process(books, port=port), servers.product_environment("postgres", upstream) as (environment, _):
        environment |= {"DEFAULT_DAILY_BUDGET": ""}
        key = servers.command(environment, "-m", "benchmarks.prepare")
        mean_nanos = 40 * INPUT_NANOS + 275 * OUTPUT_NANOS
        limit_nanos = options.calls * mean_nanos
        with servers.product(environment, processes=options.processes) as (url, pid):
            before = asyncio.run(warm_up(url, upstream, key, options))
            servers.command(environment, "manage.py", "set_budget", *budget(limit_nanos))
            clients = Clients(url, upstream, key, limit_nanos, before)
            began = time.monotonic()
            asyncio.run(clients.run(options.streams))
            seconds = time.monotonic() - began
            memory_mb = servers.memory_mb(pid)
        drift = json.loads(servers.command(environment, "manage.py", "reconcile_ledger", "--json"))
    return {
        "parameters": vars(options),
        "limit_nanos": limit_nanos,
        "truth": clients.truth,
        "seconds": seconds,
        "tally": asdict(clients.tally),
        "memory_mb": memory_mb,
        "drift": drift,
    }


def budget(limit_nanos: int) -> list[str]:
    dollars = f"{limit_nanos // 10**9}.{limit_nanos % 10**9:09}"
    return ["--tenant", "bench", "--window", "lifetime", "--limit", dollars, "--soft-cap", "none", "--json"]


def show(report: Mapping[str, Any]) -> None:
    options, truth, tally, limit_nanos = (report[name] for name in ("parameters", "truth", "tally", "limit_nanos"))
    spent = truth["spent_nanos"]
    calls = sum(tally.values()) - tally["cut"] - tally["needless"]
    print(
        f"{options['streams']} streams, {options['processes']} processes, {report['seconds']:.0f} s, "
        f"{report['memory_mb']} MB, {'the ledger has drifted' if report['drift'] else 'the ledger holds'}\n"
        f"spent by the model's API's own books  {spent / limit_nanos:8.3%} of the cap\n"
        f"  over the cap                        {max(0, spent - limit_nanos) / limit_nanos:8.3%}\n"
        f"  usable                              {min(spent, limit_nanos) / limit_nanos:8.3%}\n"
        f"answers                               {tally['answered']:8} ({tally['cut']} ended early)\n"
        f"refused, the budget being used up     {tally['exhausted']:8}\n"
        f"refused for money in flight           {tally['in_flight']:8} ({tally['in_flight'] / calls:.2%} of calls)\n"
        f"  although a hundredth was free       {tally['needless']:8} ({tally['needless'] / calls:.2%} of calls)\n"
        f"failed                                {tally['failed']:8}"
    )


if __name__ == "__main__":
    main()
