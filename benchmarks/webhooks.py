"""Measure how long Stripe waits: signed webhooks, each an event of its own, until the product's 200.

`python -m benchmarks.webhooks` runs it alone; `python -m benchmarks` ends with it. A 200 says that the event is
committed, so this is the time of a verified signature, a parse and a durable write. The promise is a p99 below 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import random
import time
from dataclasses import asdict
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks import servers
from benchmarks.load import Load

PATH = "/api/webhooks/stripe"
# An invoice of one line, as Stripe sends it, is some 4 to 8 kB.
BODY_BYTES = 6000
PROMISE_P99_MS = 50.0
# Thirty a second are a hundred thousand an hour: some ten thousand customers who renew within it.
POSTS_PER_S = 30.0
CONNECTIONS = (1, 10)


class Sender(asyncio.Protocol):
    """Posts an event every `interval_s`, or at once where the last answer came too late for that.

    A latency counts from when the event was due, so that a slow answer is not hidden by what waits behind it.
    """

    def __init__(self, name: str, host: str, interval_s: float, latencies: list[float], failures: list[bytes]) -> None:
        self.name, self.host, self.interval_s = name, host, interval_s
        self.latencies, self.failures = latencies, failures
        self.sent, self.read = 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.loop = asyncio.get_running_loop()
        # Spread over the interval, or all would post at one moment.
        self.due_at = self.loop.time() + random.uniform(0, self.interval_s)
        self.loop.call_at(self.due_at, self.send)

    def send(self) -> None:
        request = signed_request(f"evt_{self.name}_{self.sent}", self.host)
        self.sent += 1
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.read += data
        end = self.read.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.read[:end].lower()
        at = head.find(b"content-length:")
        if len(self.read) < end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0]):
            return
        self.latencies.append(self.loop.time() - self.due_at)
        if not head.startswith(b"http/1.1 200"):
            self.failures.append(self.read)
        self.read = b""
        self.due_at = max(self.due_at, self.loop.time() - self.interval_s) + self.interval_s
        self.loop.call_at(self.due_at, self.send)


def signed_request(event_id: str, host: str) -> bytes:
    """An event of a customer of its own, signed now."""
    at = int(time.time())
    body: dict[str, Any] = {
        "id": event_id,
        "object": "event",
        "type": "invoice.paid",
        "created": at,
        "livemode": False,
        "api_version": "2026-10-28.endive",
        "data": {"object": {"id": f"in_{event_id}", "object": "invoice", "customer": f"cus_{event_id}", "text": ""}},
    }
    body["data"]["object"]["text"] = "a" * (BODY_BYTES - len(json.dumps(body)))
    raw = json.dumps(body).encode()
    mac = hmac.new(servers.WEBHOOK_SECRET.encode(), f"{at}.".encode() + raw, hashlib.sha256).hexdigest()
    return (
        f"POST {PATH} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"stripe-signature: t={at},v1={mac}\r\ncontent-length: {len(raw)}\r\n\r\n"
    ).encode() + raw


def run(url: str, *, connections: int, seconds: float, posts_per_s: float) -> Load:
    """So many events a second in all, evenly over the connections."""
    return uvloop.run(_run(url, connections, seconds, connections / posts_per_s))


async def _run(url: str, connections: int, seconds: float, interval_s: float) -> Load:
    parts, name = urlsplit(url), f"{time.time_ns():x}"
    latencies: list[float] = []
    failures: list[bytes] = []
    loop, started = asyncio.get_running_loop(), time.perf_counter()
    for number in range(connections):
        sender = Sender(f"{name}_{number}", parts.netloc, interval_s, latencies, failures)
        await loop.create_connection(partial(_given, sender), str(parts.hostname), parts.port or 80)
    await asyncio.sleep(seconds)
    took, ordered = time.perf_counter() - started, sorted(latencies)
    return Load(
        calls_per_s=len(ordered) / took,
        p50_ms=ordered[len(ordered) // 2] * 1e3,
        p99_ms=ordered[len(ordered) * 99 // 100] * 1e3,
        calls=len(ordered),
        failed=len(failures),
    )


def _given(sender: Sender) -> Sender:
    return sender


def measure(name: str, url: str, *, seconds: float) -> list[dict[str, Any]]:
    """Print a line for each number of connections; what the report keeps of them."""
    runs = []
    for connections in CONNECTIONS:
        found = run(url, connections=connections, seconds=seconds, posts_per_s=POSTS_PER_S)
        kept = "" if found.p99_ms < PROMISE_P99_MS else f"  above the promised {PROMISE_P99_MS:.0f} ms"
        what = f"{name}, webhooks"
        print(
            f"{what:<22}{connections:>11}{found.calls_per_s:>10,.0f}{found.p50_ms:>9.2f}{found.p99_ms:>9.2f}"
            f"{'':>19}{found.failed:>8}{kept}"
        )
        runs.append({"what": what, "connections": connections, **asdict(found)})
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webhooks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each measurement (default: 8)")
    parser.add_argument(
        "--database", nargs="+", choices=servers.PROCESSES, default=list(servers.PROCESSES), help="default: both"
    )
    options = parser.parse_args()
    print(f"{'':<22}{'connections':>11}{'posts/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'':>19}{'failed':>8}")
    for database in options.database:
        with servers.product_environment(database, "http://127.0.0.1:1") as (environment, _):
            servers.command(environment, "-m", "benchmarks.prepare")
            with servers.product(environment, processes=servers.PROCESSES[database]) as (url, _):
                run(url, connections=8, seconds=1.0, posts_per_s=POSTS_PER_S)
                measure(database, url, seconds=options.seconds)


if __name__ == "__main__":
    main()
