"""Relaying a stream: events go on as the bytes they came in, and the call is settled whichever way the stream ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from llm import sse
from llm.gateway.holds import Hold
from llm.gateway.http import Exchange
from llm.providers import Answer, ProviderError

log = logging.getLogger(__name__)

CLIENT_CLOSED = "client_closed"
USAGE_MISSING = "usage_missing"
UPSTREAM_CUT = "upstream_cut"


async def relay_stream(exchange: Exchange, hold: Hold, answer: Answer, headers: list[tuple[str, str]]) -> None:
    """Send a streaming answer on and settle its call: when the usage comes, the client goes, or the stream breaks."""
    await exchange.start(
        200,
        [
            *headers,
            ("content-type", answer.headers.get("content-type", "text/event-stream")),
            ("cache-control", "no-cache"),
        ],
    )
    stream = _Stream(exchange, hold, answer)
    hold.closer = answer.close
    watch = asyncio.create_task(stream.watch_client())
    try:
        await stream.relay()
    finally:
        watch.cancel()


class _Stream:
    def __init__(self, exchange: Exchange, hold: Hold, answer: Answer) -> None:
        self._exchange = exchange
        self._hold = hold
        self._answer = answer
        self._reader = sse.Reader()
        self._last: dict[str, Any] | None = None
        self._streamed_bytes = 0
        self._done = False
        self._client_gone = False

    async def watch_client(self) -> None:
        """A client that goes away takes the upstream call with it, at once."""
        await self._exchange.gone()
        self._client_gone = True
        self._answer.close()

    async def relay(self) -> None:
        ended = UPSTREAM_CUT
        try:
            async for chunk in self._answer.chunks():
                passed_on = [await self._passed_on(event) for event in self._reader.feed(chunk)]
                if passed_on:
                    await self._exchange.write(b"".join(passed_on))
        except ProviderError as error:
            ended = error.code
        if self._client_gone:
            ended = CLIENT_CLOSED
        elif self._hold.cut_reason:
            ended = self._hold.cut_reason
        elif self._done:
            ended = USAGE_MISSING
        await self._end(ended)

    async def _passed_on(self, event: sse.Event) -> bytes:
        """The event's bytes; those with the usage once it is settled, and with what the call cost."""
        self._done = self._done or event.done
        if event.data is not None:
            self._last = event.data
            self._streamed_bytes += event.text_bytes
            if event.usage is not None and not self._hold.resolved:
                cost_nanos, _ = await self._hold.settle_reported(event.data)
                return sse.with_cost(event, cost_nanos=cost_nanos)
        return event.raw

    async def _end(self, reason: str) -> None:
        """Settle what no usage came for, and end the client's stream in the way that every client takes."""
        if self._hold.resolved:
            cost_nanos = 0
        elif reason == USAGE_MISSING:
            cost_nanos = await self._hold.settle_at_the_estimate(reason)
        else:
            cost_nanos = await self._hold.settle_seen(self._streamed_bytes, reason)
        if self._client_gone:
            return
        if not self._done:
            self._exchange.complete = False
            log.warning("request %s: the stream ended early: %s", self._exchange.request_id, reason)
            await self._exchange.write(self._final(cost_nanos, reason) + sse.DONE)
        await self._exchange.write(b"", more=False)

    def _final(self, cost_nanos: int, reason: str) -> bytes:
        return sse.final_chunk(
            like=self._last,
            model=self._hold.quote.model,
            usage=self._hold.estimated_usage(),
            cost_nanos=cost_nanos,
            reason=reason,
            request_id=self._exchange.request_id,
        )
