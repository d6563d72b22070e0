"""`python -m benchmarks.failover`: a model's API dies under streaming calls, and another one takes over.

Calls start at a fixed rate, whatever becomes of those before. Half-way the first API is killed. A call whose answer had
begun is cut; every other one must be answered whole, by the second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import reports, servers
from benchmarks.streams import quantile

MODEL = "mistral-small-latest"
ROUTING = """
pool:
  - {id: mistral-small-latest, tier: 4}
  - {id: mistral-small-latest, provider: mistral-eu, tier: 4}
"""
BODY = {
    "model": MODEL,
    "stream": True,
    "max_tokens": 80,
    "messages": [{"role": "user", "content": "Which bills are due?"}],
}


class Callers:
    def __init__(self, url: str, key: str) -> None:
        self._url, self._headers = f"{url}/v1/chat/completions", {"authorization": f"Bearer {key}"}
        self.endings: Counter[str] = Counter()
        self.firsts_ms: list[float] = []

    async def run(self, rate: float, seconds: float, kill: Any) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._session:
            began, calls = time.monotonic(), []
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                if number == int(rate * seconds / 2):
                    kill()
                calls.append(asyncio.create_task(self._call()))
            await asyncio.gather(*calls)

    async def _call(self) -> None:
        at = time.perf_counter()
        try:
            async with self._session.post(self._url, json=BODY, headers=self._headers) as answer:
                if answer.status != 200:
                    self.endings[f"refused with {answer.status}: {json.loads(await answer.read()).get('code')}"] += 1
                    return
                self.firsts_ms.append((time.perf_counter() - at) * 1000)
                said = await answer.read()
        except aiohttp.ClientError as error:
            self.endings[f"broken: {type(error).__name__}"] += 1
            return
        by = "the second" if answer.headers["x-model-served"].startswith("mistral-eu/") else "the first"
        whole = b'"stopped"' not in said and said.endswith(b"data: [DONE]\n\n")
        self.endings[f"{'answered' if whole else 'cut in mid-stream'} by {by}"] += 1


def main() -> None:
    options = parse()
    report = measure(options)
    print(f"{options.rate:g} streaming calls/s for {options.seconds:g} s; the first API killed half-way")
    for ending, count in sorted(report["endings"].items()):
        print(f"  {ending:<40}{count:>8}")
    print(f"  first bytes after {report['first_p50_ms']:.0f} ms at p50, {report['first_p99_ms']:.0f} ms at p99")
    print(f"Written to {reports.save(report)}")
    if any(not ending.startswith(("answered", "cut")) for ending in report["endings"]) or report["drift"]:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--rate", type=float, default=200, help="calls a second (default: 200)")
    parser.add_argument("--seconds", type=float, default=6)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    ports = servers.free_port(), servers.free_port()
    writers = [
        [*(sys.executable, "-m", "benchmarks.writers", str(port)), *("--sigma", "0", "--mu", "9", "--pace", "0.02")]
        for port in ports
    ]
    with (
        tempfile.TemporaryDirectory(prefix="governor-") as folder,
        servers.process(writers[1], port=ports[1]),
        servers.process(writers[0], port=ports[0]) as first,
        servers.product_environment("postgres", f"http://127.0.0.1:{ports[0]}") as (environment, _),
    ):
        environment |= second(Path(folder), ports[1])
        key = servers.command(environment, "-m", "benchmarks.prepare")
        with servers.product(environment, processes=2) as (url, _):
            asyncio.run(Callers(url, key).run(20, 1, lambda: None))
            callers = Callers(url, key)
            asyncio.run(callers.run(options.rate, options.seconds, lambda: os.kill(first, signal.SIGKILL)))
        drift = json.loads(servers.command(environment, "manage.py", "reconcile_ledger", "--json"))
    return {
        "parameters": vars(options),
        "endings": dict(callers.endings),
        "drift": drift,
        "first_p50_ms": quantile(callers.firsts_ms, 0.5),
        "first_p99_ms": quantile(callers.firsts_ms, 0.99),
    }


def second(folder: Path, port: int) -> Mapping[str, str]:
    """What makes the product know the other API."""
    file = folder / "routing.yaml"
    file.write_text(ROUTING)
    return {
        "ROUTER_CONFIG": str(file),
        "MISTRAL_EU_API_KEY": "a-key-of-the-benchmark",
        "MISTRAL_EU_API_BASE": f"http://127.0.0.1:{port}",
    }


if __name__ == "__main__":
    main()
