"""A process that starts while the database is away: it refuses calls until that is back, and then takes them."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from django.db import OperationalError, ProgrammingError

from governance.actions import budgets
from llm.gateway import process
from llm.gateway.application import GatewayApplication

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What the database says as long as there is anything in it."""
    said: list[Exception] = []
    sync_default = budgets.sync_default

    def ask(**kwargs: Any) -> Any:
        if said:
            raise said[0]
        return sync_default(**kwargs)

    monkeypatch.setattr(budgets, "sync_default", ask)
    monkeypatch.setattr(process, "START_PATIENCE_S", 0.2)
    monkeypatch.setattr(process, "START_AGAIN_S", 0.02)
    return said


async def status_of(gateway: GatewayApplication) -> int:
    """Of a call without a key."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway({"type": "http", "method": "GET", "path": "/v1/models", "headers": []}, receive, send)
    return int(sent[0]["status"])


def test_calls_are_refused_until_the_database_is_back(away: list[Exception]) -> None:
    away.append(OperationalError("connection refused"))

    async def run() -> list[int]:
        gateway = GatewayApplication()
        await gateway.startup()
        found = [await status_of(gateway)]
        away.clear()
        async with asyncio.timeout(10):
            while not gateway.is_open:
                await asyncio.sleep(0.01)
        found.append(await status_of(gateway))
        await gateway.shutdown()
        return [*found, await status_of(gateway)]

    assert asyncio.run(run()) == [503, 401, 503]


def test_nothing_that_is_wrong_afterwards_ends_it_in_silence(away: list[Exception]) -> None:
    away.append(OperationalError("connection refused"))

    async def run() -> int:
        gateway = GatewayApplication()
        await gateway.startup()
        away[:] = [ProgrammingError("there is no such table yet")]
        await asyncio.sleep(0.1)
        away.clear()
        async with asyncio.timeout(10):
            while not gateway.is_open:
                await asyncio.sleep(0.01)
        found = await status_of(gateway)
        await gateway.shutdown()
        return found

    assert asyncio.run(run()) == 401


def test_one_that_never_comes_back_holds_up_no_shutdown(away: list[Exception]) -> None:
    away.append(OperationalError("connection refused"))

    async def run() -> bool:
        gateway = GatewayApplication()
        await gateway.startup()
        async with asyncio.timeout(10):
            await gateway.shutdown()
        return gateway.is_open

    assert not asyncio.run(run())


def test_what_is_no_trouble_of_the_databases_stops_the_start(away: list[Exception]) -> None:
    away.append(ProgrammingError("there is no such table"))
    gateway = GatewayApplication()

    async def run() -> None:
        try:
            await gateway.startup()
        finally:
            await gateway.shutdown()

    with pytest.raises(ProgrammingError):
        asyncio.run(run())


def test_the_collector_leaves_alone_what_was_there_before_calls() -> None:
    before = gc.get_threshold()

    async def live() -> tuple[int, tuple[int, int, int]]:
        gateway = GatewayApplication()
        await gateway.startup()
        try:
            return gc.get_freeze_count(), gc.get_threshold()
        finally:
            await gateway.shutdown()

    frozen, threshold = asyncio.run(live())
    assert frozen > 10_000
    assert threshold == process.COLLECTED_AT
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, before)
