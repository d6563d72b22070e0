"""The load: keep-alive POSTs of one chat request, closed loop, from a process of its own.

`wrk` where it is on PATH; else `python -m benchmarks.load`, which costs several times more of the machine.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

MODEL = "mistral-small-latest"
BODY_BYTES = 250


@dataclass(frozen=True)
class Load:
    """One measurement. Latencies in milliseconds; `failed` counts answers other than 200 and broken connections."""

    calls_per_s: float
    p50_ms: float
    p99_ms: float
    calls: int
    failed: int


def chat_request() -> str:
    body = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": ""}]}
    body["messages"] = [{"role": "user", "content": "a" * (BODY_BYTES - len(json.dumps(body)))}]
    return json.dumps(body)


def generator() -> str:
    return "wrk" if shutil.which("wrk") else "python"


def run(url: str, *, key: str, connections: int, seconds: float) -> Load:
    command = _wrk if generator() == "wrk" else _python
    return command(url, key, connections, seconds)


_SCRIPT = """
wrk.method = "POST"
wrk.body = [==[%s]==]
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer %s"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %%d %%d %%f %%f %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.status + e.connect + e.read + e.write + e.timeout))
end
"""


def _wrk(url: str, key: str, connections: int, seconds: float) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "chat.lua")
        script.write_text(_SCRIPT % (chat_request(), key))
        arguments = ["wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "30s"]
        done = subprocess.run(
            [*arguments, "-s", str(script), url], capture_output=True, text=True, check=True, timeout=seconds + 60
        )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    calls, duration_us, p50_us, p99_us, failed = (float(part) for part in line.split()[1:])
    return Load(calls / duration_us * 1e6, p50_us / 1e3, p99_us / 1e3, int(calls), int(failed))


def _python(url: str, key: str, connections: int, seconds: float) -> Load:
    asked = json.dumps({"url": url, "key": key, "connections": connections, "seconds": seconds})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", asked],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    return Load(**json.loads(done.stdout))


class Client(asyncio.Protocol):
    """Sends a request, waits for its answer, sends it again."""

    def __init__(self, request: bytes, latencies: list[float], failures: list[bytes]) -> None:
        self.request, self.latencies, self.failures = request, latencies, failures
        self.read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.read += data
        end = self.read.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.read[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self.read) < end + 4 + length:
            return
        self.latencies.append(time.perf_counter() - self.sent_at)
        if not head.startswith(b"http/1.1 200"):
            self.failures.append(self.read)
        self.read = self.read[end + 4 + length :]
        self.send()


def request(url: str, key: str) -> tuple[bytes, str, int]:
    """The bytes of a call, and the host and port that they go to."""
    parts, body = urlsplit(url), chat_request()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode(), parts.hostname or "", parts.port or 80


async def _load(url: str, key: str, connections: int, seconds: float) -> Load:
    sent, host, port = request(url, key)
    latencies: list[float] = []
    failures: list[bytes] = []
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Client(sent, latencies, failures), host, port)
    await asyncio.sleep(seconds)
    took, ordered = time.perf_counter() - started, sorted(latencies)
    return Load(
        calls_per_s=len(ordered) / took,
        p50_ms=ordered[len(ordered) // 2] * 1e3,
        p99_ms=ordered[len(ordered) * 99 // 100] * 1e3,
        calls=len(ordered),
        failed=len(failures),
    )


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(_load(**json.loads(sys.argv[1]))))))
