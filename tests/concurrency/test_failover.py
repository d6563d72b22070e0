"""A model's API that is killed under streaming calls: only those it had begun to answer notice."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from governance.models import BudgetWindow
from governance.upkeep import reconcile
from tests import factories as make
from tests.product import eventually
from tests.servers import served

ROUTING = """
pool:
  - {id: mistral-small-latest, tier: 4}
  - {id: mistral-small-latest, provider: mistral-eu, tier: 4}
"""
STREAMS, CALLS_EACH = 30, 8
BODY = {
    "model": "mistral-small-latest",
    "stream": True,
    "max_tokens": 60,
    "messages": [{"role": "user", "content": "Hi"}],
}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def first_api() -> Iterator[tuple[str, int]]:
    """The URL and the process of a simulated Mistral that may be killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "manage.py", "simulate_mistral", "--port", str(port), "--pace-ms", "10"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: listens(port), within_s=30)
        yield f"http://127.0.0.1:{port}", child.pid
    finally:
        child.kill()
        child.wait(10)


async def call(session: aiohttp.ClientSession, url: str, key: str) -> str:
    headers = {"authorization": f"Bearer {key}"}
    async with session.post(f"{url}/v1/chat/completions", json=BODY, headers=headers) as answer:
        said = await answer.read()
    if answer.status != 200:
        return f"refused with {answer.status}: {said.decode()}"
    assert said.endswith(b"data: [DONE]\n\n")
    if b'"stopped"' in said:
        return "cut"
    return "second" if answer.headers["x-model-served"].startswith("mistral-eu/") else "first"


async def under_load(url: str, key: str, pid: int) -> Counter[str]:
    endings: Counter[str] = Counter()

    async def call_on(session: aiohttp.ClientSession) -> None:
        for _ in range(CALLS_EACH):
            endings[await call(session, url, key)] += 1
            if endings.total() == STREAMS * CALLS_EACH // 3:
                os.kill(pid, signal.SIGKILL)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(call_on(session) for _ in range(STREAMS)))
    return endings


def test_every_call_that_had_not_begun_is_answered_by_the_other_api(
    transactional_db: None,
    shipped_catalogue: None,
    settings: Any,
    sandbox_url: str,
    first_api: tuple[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from config.asgi import application
    from llm.state.breakers import Breakers

    file = tmp_path / "routing.yaml"
    file.write_text(ROUTING)
    url, pid = first_api
    settings.MISTRAL_API_BASE, settings.MISTRAL_EU_API_BASE = url, sandbox_url
    settings.MISTRAL_API_KEY = settings.MISTRAL_EU_API_KEY = "key"
    settings.ROUTER_CONFIG, settings.DEFAULT_DAILY_BUDGET = str(file), None
    breakers = Breakers(tmp_path / "breakers")
    monkeypatch.setattr("llm.state.breakers.shared", lambda: breakers)
    make.budget("100.00")
    key, _ = make.key(role="agent")
    with served(application, lifespan="on") as product:
        endings = asyncio.run(under_load(product, key, pid))
    breakers.close()
    assert endings.keys() <= {"first", "second", "cut"}, endings
    assert endings["first"] > 0
    assert endings["second"] > STREAMS
    assert endings["cut"] <= STREAMS
    assert not BudgetWindow.objects.exclude(reserved_nanos=0).exists()
    assert reconcile.check() == []
