"""Threads that read the database for the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

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
