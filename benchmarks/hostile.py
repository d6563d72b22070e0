"""Measure what a well-behaved key feels of a hostile one beside it: the p99 of its calls is to stay under 200 ms.

Each attack runs by itself, in a process of its own, and then all at once. `python -m benchmarks.hostile`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from benchmarks import load, reports, servers

MOST_P99_MS = 200
CALLS_PER_S = 20
# What the hostile key's tenant has to read: hourly sums, and lines of the ledger.
SUMS, ENTRIES = 100_000, 20_000
CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Felt:
    """The well-behaved key's calls while an attack runs. Latencies in milliseconds."""

    attack: str
    calls: int
    failed: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


class Attacker:
    """A hostile key. Each attack goes on until it is cancelled."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 80
        self._many = b'{"model":"m","messages":[' + b"{}," * 1_000_000 + b"{}]}"
        # As many as may be, so that it is parsed to its end: the mistake is in the last one.
        message = b'{"role":"user","content":"a"},'
        self._wide = b'{"model":"m","messages":[' + message * 9_000 + b"1]}"
        self._deep = b'{"model":"m","metadata":' + b"[" * 100_000
        packer = zlib.compressobj(9, wbits=31)
        self._bomb = b"".join(packer.compress(b" " * 2**20) for _ in range(300)) + packer.flush()
        self._name = str(random.random())

    async def _post(self, body: bytes, *, path: str = CHAT, **headers: str) -> None:
        given = JSON | {"authorization": f"Bearer {self._key}"} | headers
        timeout = aiohttp.ClientTimeout(total=60)
        with suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self._url + path, data=body, headers=given) as answer,
            ):
                await answer.read()
        await asyncio.sleep(0)

    async def large_bodies(self) -> None:
        await self._post(self._many)

    async def wide_bodies(self) -> None:
        await self._post(self._wide)

    async def deep_bodies(self) -> None:
        await self._post(self._deep)

    async def bombs(self) -> None:
        await self._post(self._bomb, **{"content-encoding": "gzip"})

    async def control_bodies(self) -> None:
        await self._post(b" " * 2_000_000, path="/api/spend")

    async def repeats(self) -> None:
        body = b'{"model":"m","messages":[],"metadata":{"a":"' + b"a" * 2_000_000 + b'"}}'
        await self._post(body, **{"idempotency-key": self._name})

    async def _get(self, path: str) -> None:
        """As many as are answered, over one connection; what is refused is asked again at once."""
        given = {"authorization": f"Bearer {self._key}"}
        timeout = aiohttp.ClientTimeout(total=60)
        with suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
            async with aiohttp.ClientSession(timeout=timeout) as session:
                while True:
                    async with session.get(self._url + path, headers=given) as answer:
                        await answer.read()
        await asyncio.sleep(0.01)

    async def summaries(self) -> None:
        await self._get("/api/spend/summary?group_by=hour,agent,provider,model")

    async def tables_of_sums(self) -> None:
        await self._get("/api/spend/summary?format=csv&group_by=hour,agent,provider,model")

    async def lists(self) -> None:
        await self._get("/api/spend?page_size=500")

    async def tables(self) -> None:
        await self._get("/api/spend?format=csv")

    async def models(self) -> None:
        await self._get("/v1/models")

    async def budgets(self) -> None:
        await self._get("/v1/budget")

    async def slow_bodies(self) -> None:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {self._key}\r\ncontent-length: 30000000\r\n\r\n"
        )
        await self._dribble(head.encode(), b"a" * 100, every_s=0.5)

    async def idle_connections(self) -> None:
        await self._dribble(b"", b"", every_s=1)

    async def slow_headers(self) -> None:
        await self._dribble(f"POST {CHAT} HTTP/1.1\r\n".encode(), b"x-a: b\r\n", every_s=0.5)

    async def header_floods(self) -> None:
        await self._dribble(f"POST {CHAT} HTTP/1.1\r\n".encode(), b"x-a: bbbbbbbb\r\n" * 1_000, every_s=0)

    async def _dribble(self, first: bytes, piece: bytes, *, every_s: float) -> None:
        """One connection, as long as it is borne."""
        with suppress(ConnectionError, OSError):
            reader, writer = await asyncio.open_connection(*self._address)
            try:
                writer.write(first)
                while not reader.at_eof():
                    writer.write(piece)
                    await writer.drain()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(every_s):
                            await reader.read(65536)
            finally:
                writer.close()
        await asyncio.sleep(0.01)


# What of an attack goes on at a time.
ATTACKS: dict[str, int] = {
    "large_bodies": 4,
    "wide_bodies": 4,
    "deep_bodies": 16,
    "bombs": 8,
    "control_bodies": 8,
    "repeats": 50,
    "summaries": 12,
    "tables_of_sums": 8,
    "lists": 8,
    "tables": 4,
    "models": 40,
    "budgets": 40,
    "slow_bodies": 200,
    "idle_connections": 500,
    "slow_headers": 200,
    "header_floods": 8,
}
NOTHING, ALL = "nothing", "all at once"


async def attack(names: list[str], url: str, key: str) -> None:
    attacker = Attacker(url, key)

    async def again(act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await act()

    await asyncio.gather(*(again(getattr(attacker, name)) for name in names for _ in range(ATTACKS[name])))


@contextmanager
def under_attack(name: str, url: str, key: str) -> Iterator[None]:
    names = {NOTHING: [], ALL: list(ATTACKS)}.get(name, [name])
    if not names:
        yield
        return
    told = json.dumps({"names": names, "url": url, "key": key})
    with subprocess.Popen([sys.executable, "-m", "benchmarks.hostile", "--attack", told]) as process:
        try:
            # It takes as long to get going.
            time.sleep(2)
            yield
        finally:
            process.kill()


async def feel(name: str, url: str, key: str, *, seconds: float) -> Felt:
    """Calls at an even pace, each begun in time whatever became of those before."""
    took_ms: list[float] = []
    failed = 0
    body = load.chat_request().encode()
    headers = JSON | {"authorization": f"Bearer {key}"}

    async def call(session: aiohttp.ClientSession) -> None:
        nonlocal failed
        began = time.perf_counter()
        try:
            async with session.post(url + CHAT, data=body, headers=headers) as answer:
                await answer.read()
                failed += answer.status != 200
        except (aiohttp.ClientError, TimeoutError):
            failed += 1
        took_ms.append((time.perf_counter() - began) * 1e3)

    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        calls = []
        for _ in range(int(seconds * CALLS_PER_S)):
            calls.append(asyncio.create_task(call(session)))
            await asyncio.sleep(1 / CALLS_PER_S)
        await asyncio.gather(*calls)
    took_ms.sort()
    p50, p99 = (took_ms[min(len(took_ms) - 1, int(len(took_ms) * share))] for share in (0.5, 0.99))
    return Felt(name, len(took_ms), failed, p50, p99, took_ms[-1])


def fill(slug: str) -> None:
    """Put so much behind a tenant as its one agent would bring in a day, with a model of its own for each report."""
    import django

    django.setup()
    from django.utils import timezone

    from governance.models import SpendEntry, SpendRollup, Tenant

    tenant, now = Tenant.objects.get(slug=slug), timezone.now()
    hour = now.replace(minute=0, second=0, microsecond=0)
    told: dict[str, Any] = {"tenant": tenant, "agent": "one", "provider": "mistral", "cost_nanos": 1}
    sums = (
        SpendRollup(**told, model=f"m{number % 1_000}", hour=hour - timedelta(hours=1 + number // 1_000), calls=1)
        for number in range(SUMS)
    )
    SpendRollup.objects.bulk_create(sums, batch_size=2_000)
    entries = (
        SpendEntry(**told, model_served=f"m{number}", request_id=str(number), occurred_at=now, recorded_at=now)
        for number in range(ENTRIES)
    )
    SpendEntry.objects.bulk_create(entries, batch_size=2_000)
    print(f"{SUMS} hourly sums, {ENTRIES} lines")


def run(attacks: list[str], *, seconds: float, database: str = "sqlite") -> Iterator[Felt]:
    with servers.upstream("fixed") as upstream, servers.product_environment(database, upstream) as (environment, _):
        environment["LOG_LEVEL"] = "ERROR"
        good = servers.command(environment, "-m", "benchmarks.prepare")
        issue = ("create_api_key", "--tenant", "hostile", "--agent", "one", "--role", "agent", "--create", "--json")
        bad = json.loads(servers.command(environment, "manage.py", *issue))["key"]
        servers.command(environment, "-m", "benchmarks.hostile", "--fill", "hostile")
        with servers.product(environment, processes=servers.PROCESSES[database]) as (url, _):
            asyncio.run(feel("warm-up", url, good, seconds=1))
            for name in attacks:
                with under_attack(name, url, bad):
                    felt = asyncio.run(feel(name, url, good, seconds=seconds))
                yield felt
                # What it left behind ends.
                time.sleep(2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each attack (default: 10)")
    parser.add_argument("--database", choices=servers.PROCESSES, default="sqlite", help="default: sqlite")
    parser.add_argument("--only", nargs="+", choices=[NOTHING, *ATTACKS, ALL], help="default: each, then all at once")
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    parser.add_argument("--fill", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack(**json.loads(options.attack)))
        return
    if options.fill:
        fill(options.fill)
        return
    report: dict[str, Any] = {"machine": reports.machine(), "parameters": vars(options), "runs": []}
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; {CALLS_PER_S} calls a second of a good key.\n"
    )
    print(f"{'attack':<20}{'calls':>7}{'failed':>8}{'p50 ms':>9}{'p99 ms':>9}{'worst ms':>10}")
    names = options.only or [NOTHING, *ATTACKS, ALL]
    for felt in run(names, seconds=options.seconds, database=options.database):
        print(
            f"{felt.attack:<20}{felt.calls:>7}{felt.failed:>8}{felt.p50_ms:>9.1f}{felt.p99_ms:>9.1f}"
            f"{felt.worst_ms:>10.1f}",
            flush=True,
        )
        report["runs"].append(asdict(felt))
    print(f"\nWritten to {reports.save(report)}")
    if any(run["p99_ms"] > MOST_P99_MS or run["failed"] for run in report["runs"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
