"""Reads that one key's requests share, so that a flood of them takes no more of the database than one request does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from governance.rules.errors import own_of

T = TypeVar("T")


class SharedReads(Generic[T]):
    """One read at a time of each key: who asks meanwhile, or within `good_for_s` seconds, gets the same answer."""

    def __init__(self, read: Callable[[Callable[[], T]], Awaitable[T]], *, good_for_s: float) -> None:
        self._read = read
        self._good_for_s = good_for_s
        self._tasks: dict[int, asyncio.Task[T]] = {}

    async def get(self, key_id: int, work: Callable[[], T]) -> T:
        """What `work` reads, or read just now. Raises what it raises; that is not kept."""
        task = self._tasks.get(key_id)
        if task is None:
            task = self._tasks[key_id] = asyncio.create_task(self._run(key_id, work))
        # It goes on for the others when one of them is cancelled.
        await asyncio.wait([task])
        if (error := task.exception()) is not None:
            raise own_of(error)
        return task.result()

    async def _run(self, key_id: int, work: Callable[[], T]) -> T:
        good_for_s = 0.0
        try:
            found = await self._read(work)
            good_for_s = self._good_for_s
            return found
        finally:
            asyncio.get_running_loop().call_later(good_for_s, self._tasks.pop, key_id)
