"""The promise that matters most, through real sockets and processes: no two calls go on the same money."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx2 as httpx
import pytest

from benchmarks import servers
from governance.models import BudgetWindow, SpendEntry
from governance.upkeep import reconcile
from llm.sandbox import Sandbox
from tests import factories as make
from tests.concurrency.processes import let_go_of_connections
from tests.product import eventually

CALLS = 200
ROOM = 23
# All calls are decided before the first answer settles and makes room again.
ANSWER_AFTER_S = 6
BODY = {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1000}
# 14 input tokens at most (2 bytes, 4 a message, 8 a request) and 1000 output tokens.
COST_NANOS = 14 * 500 + 1000 * 1500


@contextmanager
def web_process(
    environment: dict[str, str], *, application: str = "config.asgi:application"
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """One web process of the product: its URL, and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", application, "--port", str(port), "--no-access-log"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            assert eventually(lambda: is_up(url), within_s=30)
            yield url, process
        finally:
            process.terminate()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models").status_code == 401
    except httpx.TransportError:
        return False


async def call_all(urls: list[str], key: str) -> Counter[tuple[int, str]]:
    """(status, code) of every call, all sent at once."""
    limits = httpx.Limits(max_connections=CALLS)
    async with httpx.AsyncClient(limits=limits, timeout=60, headers={"authorization": f"Bearer {key}"}) as client:
        answers = await asyncio.gather(
            *(client.post(f"{urls[n % len(urls)]}/v1/chat/completions", json=BODY) for n in range(CALLS))
        )
    return Counter((answer.status_code, answer.json().get("code", "")) for answer in answers)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_of_200_calls_at_once_exactly_those_that_fit_are_answered(
    process_environment: dict[str, str], sandbox: Sandbox, sandbox_url: str, processes: int
) -> None:
    budget = make.budget("1.00", soft_cap=None)
    type(budget).objects.update(limit_nanos=ROOM * COST_NANOS + COST_NANOS // 2, clamp=False)
    key, _ = make.key()
    sandbox.behave(f"latency={ANSWER_AFTER_S}")
    environment = process_environment | {"MISTRAL_API_BASE": sandbox_url}
    with ExitStack() as stack:
        urls = [stack.enter_context(web_process(environment))[0] for _ in range(processes)]
        answers = asyncio.run(call_all(urls, key))
    assert answers == {(200, ""): ROOM, (429, "budget_in_flight"): CALLS - ROOM}
    assert len(sandbox.requests) == ROOM
    assert SpendEntry.objects.count() == ROOM
    window = BudgetWindow.objects.get()
    assert window.reserved_nanos == 0
    assert reconcile.check() == []


@pytest.mark.postgres_only
def test_processes_that_stand_still_for_a_while_go_on_with_their_calls(
    process_environment: dict[str, str], sandbox: Sandbox, sandbox_url: str
) -> None:
    """A busy or frozen machine is no reason to kill them, as their server would after five seconds."""
    make.budget("1.00")
    key, _ = make.key()
    sandbox.next("latency=2")
    let_go_of_connections()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, headers = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {key}"}
    command = [sys.executable, "-m", "config", "web", "--port", str(port), "--workers", "2"]
    environment = process_environment | {"MISTRAL_API_BASE": sandbox_url}
    with ThreadPoolExecutor(1) as pool, subprocess.Popen(command, env=environment) as process:
        try:
            assert eventually(lambda: is_up(url), within_s=60)
            workers = servers.family(process.pid)[1:]
            calling = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=BODY, headers=headers, timeout=60)
            assert eventually(lambda: bool(sandbox.requests), within_s=10)
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(8)
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
            assert calling.result().status_code == 200
            assert servers.family(process.pid)[1:] == workers
        finally:
            process.terminate()
