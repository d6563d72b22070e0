"""Threads that read the database for the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from django.db import OperationalError

from llm.gateway.readers import Readers


async def test_a_cancellation_that_comes_with_a_result_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a chore that reads again and again would outlive its gateway, whose shutdown waits for it."""
    loop = asyncio.get_running_loop()
    reads: list[asyncio.Future[Any]] = []

    def read(*_: Any) -> asyncio.Future[Any]:
        reads.append(loop.create_future())
        return reads[-1]

    monkeypatch.setattr(loop, "run_in_executor", read)
    readers = Readers("test", count=1)

    async def chore() -> None:
        while True:
            await readers.run(lambda: None)

    running = asyncio.create_task(chore())
    await asyncio.sleep(0)
    reads[0].set_result(None)
    running.cancel()
    await asyncio.sleep(0.01)
    assert (running.cancelled(), len(reads)) == (True, 1)


async def test_threads_end_with_their_connections_whatever_they_did() -> None:
    readers = Readers("test", count=2)
    assert await readers.run(lambda: 3) == 3
    await asyncio.to_thread(readers.close)
    with pytest.raises(RuntimeError):
        await readers.run(lambda: 3)


async def test_once_all_threads_are_known_to_wait_in_vain_nobody_waits_with_them(settings: Any) -> None:
    settings.LEDGER_DEADLINE_S = 0.2
    readers, thawed = Readers("test", count=2), threading.Event()
    assert await readers.run(lambda: 3) == 3
    first, second = (asyncio.create_task(readers.run(thawed.wait)) for _ in range(2))
    for waiting in (first, second):
        with pytest.raises(OperationalError):
            await waiting
    began = time.monotonic()
    for _ in range(50):
        with pytest.raises(OperationalError):
            await readers.run(lambda: 3)
    assert time.monotonic() - began < 0.1
    thawed.set()
    while readers._busy_since_s:
        await asyncio.sleep(0.01)
    assert await readers.run(lambda: 3) == 3
    await asyncio.to_thread(readers.close)


async def test_one_slow_read_refuses_no_other(settings: Any) -> None:
    settings.LEDGER_DEADLINE_S = 0.1
    readers, thawed = Readers("test", count=2), threading.Event()
    slow = asyncio.create_task(readers.run(thawed.wait))
    with pytest.raises(OperationalError):
        await slow
    assert await readers.run(lambda: 3) == 3
    thawed.set()
    await asyncio.to_thread(readers.close)
