"""Relaying a stream: events go on as the bytes they came in, and the call is settled whichever way the stream ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from llm.gateway import errors
from llm.gateway.holds import Hold
from llm.gateway.http import Exchange
from llm.providers import Answer, ProviderError
from llm.rules import sse
from llm.rules.stream_count import StreamCount

log = logging.getLogger(__name__)

CLIENT_CLOSED = "client_closed"
USAGE_MISSING = "usage_missing"
UPSTREAM_CUT = "upstream_cut"
BUDGET_EXHAUSTED = "budget_exhausted"
# Output tokens: a hold is extended when the answer has come so near to its end, and the answer is ended where it was
# refused and so few are left. They cover what the model writes until it notices.
AHEAD_TOKENS = 48
LAST_TOKENS = 12


class Stream:
    """A streaming answer on its way to the client. Used as a context: while open, the client is watched.

    An event with usage is kept back until the next one: only the last count is the call's, and carries its cost.
    """

    def __init__(self, exchange: Exchange, hold: Hold, answer: Answer) -> None:
        self._exchange = exchange
        self._hold = hold
        self._answer = answer
        self._chunks = answer.chunks()
        self._reader = sse.EventReader()
        self._first = b""
        self._last: dict[str, Any] | None = None
        self._kept: sse.Event | None = None
        # The last usage that no text came after.
        self._counted: dict[str, Any] | None = None
        # Under way: an extension of the hold. After a refusal only as much is asked for as is needed next.
        self._extending: asyncio.Task[bool] | None = None
        self._refused = False
        self._done = False
        self._client_gone = False
        # None: nobody can keep up with what the model writes.
        self._count = hold.count = hold.usage.stream_count()

    async def __aenter__(self) -> Stream:
        self._hold.closer = self._answer.close
        self._watch = asyncio.create_task(self._watch_client())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._hold.closer = None
        self._watch.cancel()
        if self._extending is not None:
            self._extending.cancel()

    async def begin(self) -> bool:
        """Wait for the first bytes. False where the call ended before: the client went, or an operator cut it.

        Raises ProviderError where the model's API broke off before it said anything.
        """
        try:
            self._first = await anext(self._chunks, b"")
        except ProviderError:
            if not (self._client_gone or self._hold.cut_reason):
                raise
        if self._first:
            return True
        if self._client_gone:
            await self._hold.settle_seen(CLIENT_CLOSED)
            return False
        if self._hold.cut_reason:
            await self._hold.settle_seen(self._hold.cut_reason)
            raise errors.stopped()
        raise ProviderError(UPSTREAM_CUT, "The model's API broke its answer off.", sent=True)

    async def relay(self, headers: Iterable[tuple[str, str]]) -> None:
        """Send the answer on and settle its call: when the usage comes, the client goes, or the stream breaks."""
        await self._exchange.start(
            200,
            [
                *headers,
                ("content-type", self._answer.headers.get("content-type", "text/event-stream")),
                ("cache-control", "no-cache"),
            ],
        )
        ended = UPSTREAM_CUT
        try:
            await self._pass_on(self._reader.feed(self._first))
            async for chunk in self._chunks:
                await self._pass_on(self._reader.feed(chunk))
            if rest := self._reader.rest():
                # Whole but for its empty line, or half an event, which nobody could read.
                last = sse.read_event(rest + b"\n\n")
                await self._pass_on([last] if last.done or last.data is not None else [])
        except ProviderError as error:
            ended = error.code
        if self._done:
            ended = USAGE_MISSING
        elif self._client_gone:
            ended = CLIENT_CLOSED
        elif self._hold.cut_reason:
            ended = self._hold.cut_reason
        await self._end(ended)

    async def _watch_client(self) -> None:
        """A client that goes away takes the upstream call with it, at once."""
        await self._exchange.gone()
        self._client_gone = True
        self._answer.close()

    async def _pass_on(self, events: Iterable[sse.Event]) -> None:
        if data := b"".join([await self._passed_on(event) for event in events]):
            await self._exchange.write(data)
        if self._count is not None and not self._done:
            await self._stay_ahead(self._count)

    async def _stay_ahead(self, count: StreamCount) -> None:
        """Extend the hold before the answer outgrows it; end the answer where no more can be held for."""
        held_tokens, streamed = count.covered_tokens(self._hold.held_nanos), count.tokens
        if held_tokens is None or streamed + AHEAD_TOKENS <= held_tokens:
            return
        if self._extending is None:
            more = AHEAD_TOKENS if self._refused else max(AHEAD_TOKENS, held_tokens // 4)
            self._extending = asyncio.create_task(self._hold.extend(count.nanos_for(streamed + AHEAD_TOKENS + more)))
        if streamed + AHEAD_TOKENS // 2 <= held_tokens and not self._extending.done():
            return
        extended, self._extending = await self._extending, None
        if not extended and self._refused and streamed + LAST_TOKENS >= held_tokens:
            self._hold.cut(BUDGET_EXHAUSTED)
        self._refused = not extended

    async def _passed_on(self, event: sse.Event) -> bytes:
        """What the client gets when this event comes."""
        if event.done:
            self._done = True
            return await self._settle_counted() + event.raw
        if event.data is None:
            self._wrote(0)
            return event.raw
        self._last = event.data
        self._wrote(event.text_bytes)
        before = self._kept.raw if self._kept else b""
        if event.usage is None:
            self._kept = None
            if event.text_bytes:
                self._counted = None
            return before + event.raw
        self._kept, self._counted = event, event.data
        return before

    def _wrote(self, text_bytes: int) -> None:
        """Keep up with what the model has written, passed on or not."""
        if self._count is not None:
            self._count.wrote(text_bytes, unseen_bytes=self._answer.kept_bytes)

    async def _settle_counted(self) -> bytes:
        """Charge the last usage; the event kept back for it, with what the call cost."""
        kept, self._kept = self._kept, None
        if self._counted is None:
            return b""
        cost_nanos, _ = await self._hold.settle_reported(self._counted)
        return sse.with_cost(kept, cost_nanos=cost_nanos) if kept else b""

    async def _end(self, reason: str) -> None:
        """Settle what no usage came for, and end the client's stream in the way that every client takes."""
        tail = b""
        if not self._hold.resolved and self._counted is not None and _is_final(self._counted):
            tail = await self._settle_counted()
        if not self._hold.resolved:
            tail = await self._settle_unreported(reason)
        if self._client_gone:
            return
        await self._exchange.write(tail if self._done else tail + sse.DONE, more=False)

    async def _settle_unreported(self, reason: str) -> bytes:
        """Charge what was seen, or all of it; what the client's stream still needs before it is done."""
        kept = self._kept.raw if self._kept else b""
        if self._done:
            await self._hold.settle_at_the_estimate(reason)
            return kept
        self._exchange.complete = False
        cost_nanos = await self._hold.settle_seen(reason)
        if not self._client_gone:
            log.warning("request %s: the stream ended early: %s", self._exchange.request_id, reason)
        return kept + self._final(cost_nanos, reason)

    def _final(self, cost_nanos: int, reason: str) -> bytes:
        return sse.final_chunk(
            like=self._last,
            model=self._hold.quote.model,
            usage=self._hold.usage.estimated(),
            cost_nanos=cost_nanos,
            reason=reason,
            request_id=self._exchange.request_id,
        )


def _is_final(chunk: Mapping[str, Any]) -> bool:
    """Whether a chunk's usage counts the whole call: it ends an answer, or holds no part of one."""
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return True
    return all(isinstance(choice, dict) and choice.get("finish_reason") for choice in choices)
