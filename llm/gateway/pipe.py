"""What is on its way to one client, written by a task of its own: whoever fills it never waits for who reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from llm.gateway.http import Exchange

log = logging.getLogger(__name__)


class Pipe:
    """Bytes of one started answer. At most `most_bytes` wait, and none longer than `patience_s` to be taken.

    A client that does not keep up is cut: the pipe is `broken` then, takes no more, and calls `on_break`. Where nothing
    was put for `silence_s` seconds, `sign` is sent.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        most_bytes: int,
        patience_s: float,
        on_break: Callable[[], None],
        silence_s: float | None = None,
        sign: bytes = b"",
    ) -> None:
        self._exchange = exchange
        self._most_bytes = most_bytes
        self._patience_s = patience_s
        self._on_break = on_break
        self._silence_s, self._sign = silence_s, sign
        self._parts: list[bytes] = []
        # Bytes that are not taken yet, and since when the oldest of them waits.
        self._waiting_bytes = 0
        self._since: float | None = None
        self._filled = asyncio.Event()
        self._ends = False
        self.broken = False
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._write_on())
        self._look_again = self._loop.call_later(patience_s, self._look)

    def put(self, data: bytes) -> None:
        """Send bytes on when there is room for them."""
        if self.broken or not data:
            return
        # However large the next piece is: what waits before it tells who keeps up.
        if self._waiting_bytes > self._most_bytes:
            self._break("more is waiting for it than is kept")
            return
        self._parts.append(data)
        self._waiting_bytes += len(data)
        self._filled.set()

    async def finish(self, data: bytes) -> None:
        """Send the last bytes, and wait until the client has taken all, or is cut."""
        self.put(data)
        self._ends = True
        self._filled.set()
        await asyncio.wait([self._task])
        self._look_again.cancel()

    def close(self) -> None:
        """Forget what still waits, and who is told of a break: it knows this pipe."""
        self._look_again.cancel()
        self._task.cancel()
        self._on_break = lambda: None

    async def _write_on(self) -> None:
        more = True
        try:
            while more:
                if not self._parts and not self._ends:
                    self._filled.clear()
                    try:
                        async with asyncio.timeout(self._silence_s):
                            await self._filled.wait()
                    except TimeoutError:
                        self.put(self._sign)
                    continue
                # The last bytes go out with the answer's end: only then is it whole.
                data, self._parts, more = b"".join(self._parts), [], not self._ends
                self._since = self._loop.time()
                await self._exchange.write(data, more=more)
                self._since = None
                self._waiting_bytes -= len(data)
        except Exception:
            log.exception("request %s: its answer cannot be written", self._exchange.request_id)
            self._break("it cannot be written to")

    def _look(self) -> None:
        waited_s = 0.0 if self._since is None else self._loop.time() - self._since
        if waited_s >= self._patience_s:
            self._break(f"it took nothing for {waited_s:.0f} s")
        elif not self._task.done():
            self._look_again = self._loop.call_later(self._patience_s - waited_s, self._look)

    def _break(self, why: str) -> None:
        self.broken = True
        self._parts.clear()
        log.warning("request %s: its client is cut: %s", self._exchange.request_id, why)
        self._task.cancel()
        self._on_break()
