"""Reads that several requests wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llm.gateway import errors
from llm.gateway.shared_reads import SharedReads


async def failing(work: Callable[[], int]) -> int:
    await asyncio.sleep(0.01)
    raise ConnectionError("away")


async def test_who_is_done_with_an_error_ends_nobody_else_who_has_it() -> None:
    reads = SharedReads[int](failing, good_for_s=0)
    told = []

    async def ask(name: str, *, goes_on_for_s: float) -> None:
        try:
            await reads.get(1, lambda: 1)
        except ConnectionError as error:
            # The refusal is on its way to the client.
            await asyncio.sleep(goes_on_for_s)
            told.append((name, str(error)))
            errors.let_go(error)

    asks = asyncio.gather(ask("quick", goes_on_for_s=0.01), ask("slow", goes_on_for_s=0.1))
    await asyncio.wait_for(asks, 5)
    assert told == [("quick", "away"), ("slow", "away")]
