"""What a client gets while its model thinks: the headers of its stream, and a comment now and then.

Balancers cut connections on which nothing comes. Once it has begun, an answer has its status, and no other model can
give another: so the first sign waits as long as a fallback may still be wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from llm.gateway.http import Exchange
from llm.rules import sse

# The last one has nginx, and what is built on it, pass each event on as it comes.
STREAM_HEADERS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),
)


class SignOfLife:
    """Used as a context around the wait for an answer's first event; `end` it before anything else is written.

    The first sign is due `first_s` from now, the next ones `every_s` later; with `every_s` 0 none comes. `headers` are
    asked for with the first one: most answers come before it.
    """

    def __init__(
        self, exchange: Exchange, headers: Callable[[], Sequence[tuple[str, str]]], *, first_s: float, every_s: float
    ) -> None:
        self._exchange, self._headers = exchange, headers
        self._first_s, self._every_s = first_s, every_s
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> SignOfLife:
        if self._every_s > 0:
            self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.end()

    async def end(self) -> None:
        """Send no more. Waits for one that is on its way: half of a head is none."""
        self._over.set()
        if self._task is not None:
            task, self._task = self._task, None
            await task

    async def _beat(self) -> None:
        wait_s = self._first_s
        while not await self._is_over(wait_s):
            if not self._exchange.started:
                await self._exchange.start(200, [*self._headers(), *STREAM_HEADERS])
            await self._exchange.write(sse.COMMENT)
            wait_s = self._every_s

    async def _is_over(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._over.wait()
        except TimeoutError:
            return False
        return True
