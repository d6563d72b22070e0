"""A database that neither answers nor goes away: its processes are stopped, and its sockets stay open."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from django.db import connection
from django.test import Client

from config import health
from governance import ledger
from governance.ledger.writer import GroupCommit
from governance.models import BudgetWindow, Reservation, SpendEntry
from llm.sandbox import Sandbox
from tests import factories as make
from tests.concurrency.processes import let_go_of_connections
from tests.concurrency.test_gateway_processes import BODY, web_process
from tests.factories import nanos
from tests.product import eventually

pytestmark = [
    pytest.mark.postgres_only,
    pytest.mark.skipif("TEST_DATABASE_URL" in os.environ, reason="that server is not ours to stop"),
]
# A few seconds, whatever the machine does besides.
SOON_S = 10.0


def family(root: int) -> list[int]:
    """A process and its children, the server's backends among them."""
    found = [root]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == root:
            found.append(int(stat.parent.name))
    return found


class Server:
    """The PostgreSQL of the test run, which can be frozen."""

    def __init__(self, data: Path) -> None:
        self._postmaster = int((data / "postmaster.pid").read_text().split()[0])
        self._stopped: list[int] = []

    def freeze(self) -> None:
        # The parent first, so that it makes no more of them.
        os.kill(self._postmaster, signal.SIGSTOP)
        self._stopped = family(self._postmaster)
        for pid in self._stopped:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in reversed(self._stopped):
            os.kill(pid, signal.SIGCONT)
        self._stopped = []


@pytest.fixture
def server(live_database: str) -> Iterator[Server]:
    with connection.cursor() as cursor:
        cursor.execute("SHOW data_directory")
        server = Server(Path(cursor.fetchone()[0]))
    yield server
    server.thaw()
    let_go_of_connections()


def took_s(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    result = work()
    return time.monotonic() - began, result


def test_nobody_waits_for_a_frozen_database_and_nothing_is_lost(server: Server, settings: Any) -> None:
    settings.LEDGER_DEADLINE_S = 1
    make.budget("1.00", soft_cap=None)
    by = make.caller()
    first, late = make.reserving("0.10", by=by), make.reserving("0.10", by=by)
    commit = GroupCommit()
    commit.start()

    async def story() -> Any:
        assert (await commit.submit(first)).allowed
        await asyncio.to_thread(server.freeze)
        began = time.monotonic()
        with pytest.raises(ledger.LedgerUnavailable, match="no answer within 1 s"):
            await asyncio.wait_for(commit.submit(late), SOON_S)
        assert time.monotonic() - began < SOON_S / 2
        settling = asyncio.create_task(commit.submit(make.settling(first.reservation_id, "0.04")))
        await asyncio.sleep(2)
        assert not settling.done()
        await asyncio.to_thread(server.thaw)
        return await asyncio.wait_for(settling, 30)

    try:
        assert asyncio.run(story()).charged_nanos == nanos("0.04")
        # What was asked for before the freeze and given up landed after it, and was given back.
        assert eventually(lambda: not Reservation.objects.filter(status="pending").exists(), within_s=SOON_S)
    finally:
        server.thaw()
        commit.close()
    window = BudgetWindow.objects.get()
    assert (window.settled_nanos, window.reserved_nanos) == (nanos("0.04"), 0)
    assert SpendEntry.objects.get().certainty == "confirmed"


@pytest.mark.parametrize("path", ["/api/health", "/api/health/ready"])
def test_health_says_so_within_a_few_seconds(server: Server, path: str) -> None:
    client = Client()
    assert client.get(path).status_code == 200
    server.freeze()
    try:
        seconds, answer = took_s(lambda: client.get(path))
    finally:
        server.thaw()
    assert (answer.status_code, answer.json()["services"]["database"]) == (503, "down")
    assert seconds < SOON_S / 2
    assert client.get("/api/health/live").status_code == 200
    assert client.get(path).status_code == 200


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/api/health", "/api/health/ready"])
def test_a_database_that_does_not_write_is_neither_well_nor_ready(path: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    answer = Client().get(path)
    assert (answer.status_code, answer.json()["services"]["database"]) == (503, "down")
    connection.close()
    assert Client().get(path).status_code == 200


def test_a_call_to_the_product_is_a_503_and_its_health_goes_on_answering(
    server: Server, process_environment: dict[str, str], sandbox: Sandbox, sandbox_url: str
) -> None:
    make.budget("1000")
    key, _ = make.key()
    let_go_of_connections()
    environment = process_environment | {"MISTRAL_API_BASE": sandbox_url, "LEDGER_DEADLINE_S": "2"}
    headers = {"authorization": f"Bearer {key}"}
    with web_process(environment) as (url, _), httpx.Client(timeout=30, headers=headers) as client:
        call = lambda: client.post(f"{url}/v1/chat/completions", json=BODY)  # noqa: E731
        assert call().status_code == 200
        assert eventually(lambda: not Reservation.objects.filter(status="pending").exists())
        let_go_of_connections()
        server.freeze()
        try:
            refused_s, refused = took_s(call)
            known_s, known = took_s(call)
            health_s, unwell = took_s(lambda: client.get(f"{url}/api/health"))
        finally:
            server.thaw()
        for answer in (refused, known):
            assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
        # No second one waits for what did not answer the first.
        assert known_s < 1 < refused_s
        assert unwell.status_code == 503
        assert max(refused_s, health_s) < SOON_S
        assert eventually(lambda: call().status_code == 200, within_s=30)
        assert eventually(lambda: not Reservation.objects.filter(status="pending").exists(), within_s=30)
    assert len(sandbox.requests) == SpendEntry.objects.count()


def test_another_answer_than_none_is_the_business_of_those_who_ask(monkeypatch: pytest.MonkeyPatch, db: None) -> None:
    import psycopg

    def full(**parameters: Any) -> None:
        raise psycopg.OperationalError("sorry, too many clients already")

    monkeypatch.setattr(psycopg, "connect", full)
    assert health.essentials() == {"database": "ok", "budget": "ok"}


def test_where_nobody_listens_health_waits_for_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = connection.get_connection_params() | {"host": "127.0.0.1", "port": 9}
    monkeypatch.setattr(connection, "get_connection_params", lambda: nowhere)
    seconds, found = took_s(health.essentials)
    assert found == {"database": "down", "budget": "down"}
    assert seconds < 1
