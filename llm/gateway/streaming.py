"""Relaying a stream: read at the model's pace whatever the client does, and settled whichever way it ends.

The hold covers all that the model may write, so nothing has to be held for on the way. What has arrived is counted as
it comes; the client gets it through a `Pipe`, which is cut where it does not keep up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, cast

from django.conf import settings

from governance.rules.calls import Usage
from llm.gateway import errors, failed_answers, whole_answers
from llm.gateway.call_usage import USAGE_MISSING
from llm.gateway.holds import INTERRUPTED, Hold
from llm.gateway.http import Exchange
from llm.gateway.pipe import Pipe
from llm.gateway.sign_of_life import STREAM_HEADERS
from llm.providers import Answer, ProviderError
from llm.providers.http import MOST_LINE_BYTES, MOST_OF_REFUSAL, endless
from llm.rules import sse, tool_calls, unreadable, usage
from llm.rules.answers import CHUNK, complete, complete_usage, end_of
from llm.rules.stated_errors import StatedError, error_in
from llm.rules.stream_usage import StreamUsage

log = logging.getLogger(__name__)

CLIENT_CLOSED = "client_closed"
CLIENT_STALLED = "client_stalled"
UPSTREAM_CUT = "upstream_cut"
UPSTREAM_OVERRUN = "upstream_overrun"
# What has come when a stream is stopped still counts: it is read until nothing comes for so long, and so long at most.
CAUGHT_UP_S, CATCHING_UP_S = 0.02, 0.6
# Of a stream that is stopped for its length, which nothing else would end.
OVERRUN_S = 0.1
# What a busy process has not looked at by then is looked at all the same: until nothing is there, and so long at most.
LOOK_S, LOOKING_S = 0.0005, 0.3
# A stream whose answers have ended is over after so long, whatever else comes: its usage, or a larger one.
ENDED_S = 1.5
# Where the end came with a text: some say so in every part.
ENDED_IN_TEXT_S = 15.0
# How long a connection may take to end after the stream on it has, to serve again.
CLOSING_S = 0.25


class ErrorInstead(Exception):
    """The model's API answered 200, and then an error in place of an answer. `told`: what came beside it."""

    def __init__(self, error: StatedError, told: StreamUsage) -> None:
        super().__init__(error.message)
        self.error, self.told = error, told


class Stream:
    """A streaming answer on its way to the client. Used as a context: while open, the client is watched.

    An event with usage is kept back until the next one: only the last count is the call's, and carries its cost.
    """

    def __init__(self, exchange: Exchange, hold: Hold, answer: Answer, *, answers: int) -> None:
        self._exchange = exchange
        self._hold = hold
        self._answer = answer
        self._chunks = answer.chunks()
        self._reader = sse.EventReader()
        self._answers = answers
        self._told = StreamUsage(answers)
        # Events that came before the answer began, and the time that the stream is over at.
        self._first: list[sse.Event] = []
        self._unread = b""
        self._deadline: float | None = None
        self._looks_until: float | None = None
        self._waiting: asyncio.Timeout | None = None
        # Its time was over before it ended; it ended by itself, in good order.
        self._timed_out = self._is_whole = False
        self._stops = False
        self._began = 0.0
        self._last: dict[str, Any] | None = None
        # The answers that call tools.
        self._calling: set[int] = set()
        self._kept: sse.Event | None = None
        self._done = False
        # What its API says of why it failed.
        self._said_to_fail = "an error beside its answer"
        # Why there is no client any more, and whether nothing is written for it on that account.
        self._left = ""
        self._is_mute = False
        self._pipe: Pipe | None = None
        self._loop = asyncio.get_running_loop()
        self._created = int(time.time())

    async def __aenter__(self) -> Stream:
        self._hold.closer = self._stop
        self._exchange.watch(lambda: self._leave(CLIENT_CLOSED))
        return self

    async def __aexit__(self, *error: object) -> None:
        self._hold.closer = None
        self._exchange.watch(None)
        if not self._hold.resolved:
            self._count_unread()
        if self._pipe is not None:
            self._pipe.close()

    async def begin(self) -> bool:
        """Wait for the first event. False where the call ended before: the client went, or an operator cut it.

        Raises ProviderError where the model's API broke off before it said anything, ErrorInstead where that was an
        error.
        """
        broken: ProviderError | None = None
        begun: sse.Event | None = None
        try:
            while begun is None:
                chunk = await self._next_chunk()
                events = self._read(chunk) if chunk else self._last_events()
                self._first += events
                begun = next(filter(_begins, events), None)
                if not chunk:
                    break
        except ProviderError as error:
            broken = error
            self._note_loss(error)
        if begun is not None and (stated := error_in(begun.data)):
            await self._read_on()
            raise self._instead(stated)
        if begun is not None:
            return True
        self._count_first()
        reason = self._left or self._hold.cut_reason
        if not reason:
            try:
                raise broken or self._unreadable()
            finally:
                # It knows this frame, which is not to know it.
                del broken
        await self._hold.settle_seen(reason, cut=True)
        if self._hold.cut_reason:
            raise errors.stopped()
        return False

    def _count_first(self) -> None:
        """Count what came where no answer began: nobody knows of what it is a part, so more may have been written."""
        for event in self._first:
            self._hold.reported(event.data or {})
            # What can be read and has no answer in it is one by itself, if it is any, as it is in a plain answer.
            self._hold.count.broke(event.unread if event.data is None else event.raw)
        self._count_unread()
        self._hold.count.lose()

    async def _read_on(self) -> None:
        """Read what comes behind an error that came first: there may be an answer all the same, in its own time."""
        ends_at, came_bytes = self._loop.time() + ENDED_S, 0
        self._deadline = min(self._deadline or math.inf, ends_at)
        self._done = any(event.done for event in self._first)
        try:
            while not self._done and came_bytes <= MOST_OF_REFUSAL:
                if not (chunk := await self._next_chunk()):
                    self._is_whole = not (self._stops or self._timed_out)
                    return
                came_bytes += len(chunk)
                events = self._read(chunk)
                self._first += events
                self._done = any(event.done for event in events)
        except ProviderError as error:
            self._note_loss(error)

    def _instead(self, stated: StatedError) -> ErrorInstead:
        """An error that came first, or after events that hold no part of an answer as it should be.

        What came with it counts as well, before it or behind; where that did not end, more may have been written.
        """
        for event in (*self._first, *self._last_events()):
            whole_answers.count_event(event, self._hold, self._told)
        self._hold.reported(self._answer.used)
        if self._unread.strip() or not (self._is_whole or self._done):
            self._told.took_unread()
        return ErrorInstead(stated, self._told)

    def _unreadable(self) -> ProviderError:
        """Why an answer that ended in good order holds nothing of a stream."""
        came = b"".join(event.raw for event in self._first) + self._unread
        if not came.strip():
            return ProviderError(UPSTREAM_CUT, "The model's API broke its answer off.", sent=True)
        message = "The model's API sent no answer that could be read."
        return ProviderError("upstream_garbage", message, sent=unreadable.shows_work(came))

    async def relay(self, headers: Iterable[tuple[str, str]]) -> None:
        """Send the answer on and settle its call: when the usage comes, the client goes, or the stream breaks."""
        if not self._exchange.started:
            await self._exchange.start(200, [*headers, *STREAM_HEADERS])
        self._pipe = Pipe(
            self._exchange,
            most_bytes=settings.STREAM_BUFFER_BYTES,
            patience_s=settings.CLIENT_WRITE_TIMEOUT_S,
            on_break=lambda: self._leave(CLIENT_STALLED),
            silence_s=settings.SIGN_OF_LIFE_S or None,
            sign=sse.COMMENT,
        )
        ended = UPSTREAM_CUT
        try:
            self._pass_on(self._first)
            while not self._done and (chunk := await self._next_chunk()):
                self._pass_on(self._read(chunk))
            if not self._done:
                self._pass_on(self._last_events())
            self._is_whole = not (self._stops or self._timed_out)
        except ProviderError as error:
            ended = error.code
            self._note_loss(error)
        except asyncio.CancelledError:
            # The server ends, and waits no longer: the client's stream gets its end all the same.
            cast("asyncio.Task[None]", asyncio.current_task()).uncancel()
            ended = INTERRUPTED
        if self._stops:
            self._answer.close()
        if self._hold.count.has_failed:
            log.warning("request %s: the model's API ended with: %s", self._exchange.request_id, self._said_to_fail)
        elif self._left:
            ended = self._left
        elif self._hold.cut_reason:
            ended = self._hold.cut_reason
        await self._end(ended)
        await self._let_connection_end()

    async def _next_chunk(self) -> bytes:
        """What comes next; nothing at the end, or when the stream has had its time."""
        until = self._deadline
        if self._stops:
            caught_up = self._loop.time() + CAUGHT_UP_S
            until = caught_up if until is None else min(until, caught_up)
        try:
            async with asyncio.timeout_at(until) as self._waiting:
                return await anext(self._chunks, b"")
        except TimeoutError:
            chunk = await self._last_chunk()
            self._timed_out = not chunk
            return chunk

    async def _last_chunk(self) -> bytes:
        """What came while this process was busy with others; its time was over before it could be looked at."""
        now = self._loop.time()
        self._looks_until = self._looks_until or now + LOOKING_S
        if now > self._looks_until:
            # More comes than can be read in that time, and what waits unread nobody knows.
            self._hold.count.lose()
            return b""
        self._chunks = self._answer.chunks()
        try:
            async with asyncio.timeout(LOOK_S):
                return await anext(self._chunks, b"")
        except TimeoutError:
            return b""

    def _read(self, chunk: bytes) -> list[sse.Event]:
        """The events that a chunk completes. Raises ProviderError where one has grown without end."""
        if self._reader.waiting_size > MOST_LINE_BYTES:
            raise endless()
        return self._reader.feed(chunk)

    def _last_events(self) -> list[sse.Event]:
        events, self._unread = self._reader.rest()
        return events

    def _leave(self, reason: str) -> None:
        """A client that goes away takes the model's call with it, at once, but where its answer is to be read out."""
        self._left = self._left or reason
        if not settings.READ_CANCELLED_ANSWERS:
            self._stop()
        # What is read out is also written: a connection that is closed takes it for nothing, and a repeat under its
        # Idempotency-Key, which waits meanwhile, gets it. Of a client that is too slow parts are lost already.
        self._is_mute = self._is_mute or self._stops or reason != CLIENT_CLOSED

    def _stop(self) -> None:
        """Want no more of the answer than has come by now."""
        now = self._loop.time()
        self._stops = True
        self._deadline = min(self._deadline or math.inf, now + CATCHING_UP_S)
        if self._waiting is not None and not self._waiting.expired():
            with contextlib.suppress(RuntimeError):
                # It may have ended already.
                self._waiting.reschedule(now + CAUGHT_UP_S)

    def _pass_on(self, events: Iterable[sse.Event]) -> None:
        # What has come with the end, and behind it, was written too: some count there.
        data = [self._passed_on(event) for event in events]
        if self._hold.count.has_failed:
            self._stop()
        elif self._hold.count.overruns:
            self._hold.cut(UPSTREAM_OVERRUN)
            # Nothing ends it but this; what is on its way is counted.
            self._deadline = min(self._deadline or math.inf, self._loop.time() + OVERRUN_S)
        self._send(b"".join(data))

    def _send(self, data: bytes) -> None:
        if self._pipe is not None and not self._is_mute:
            self._pipe.put(data)

    def _passed_on(self, event: sse.Event) -> bytes:
        """What the client gets when this event comes."""
        self._began = self._began or self._loop.time()
        seconds = self._loop.time() - self._began
        # What nobody can read of it may be text, written after the last usage.
        text_bytes, used = whole_answers.count_event(event, self._hold, self._told, seconds=seconds)
        self._note_end(writes=text_bytes > 0)
        if event.done or event.data is None:
            self._done = self._done or event.done
            # What holds no chunk says to a client that the stream lives.
            return b"" if event.done else sse.COMMENT if event.unread else event.raw
        if stated := error_in(event.data):
            self._said_to_fail = stated.message
            return b""
        if not isinstance(event.data.get("choices"), list):
            if used is None:
                # No chunk: to a client it says that the stream lives.
                return sse.COMMENT
            event.data["choices"] = []
        self._last = event.data
        before = self._kept.raw if self._kept else b""
        before += self._complete(event, event.data, used)
        self._kept = None if used is None else event
        return before + (event.raw if used is None else b"")

    def _complete(self, event: sse.Event, chunk: dict[str, Any], used: Usage | None) -> bytes:
        """Make a chunk one that every client reads; what has to come before it for that."""
        id, model = self._exchange.request_id, self._hold.quote.model
        calls_tools = b"tool_calls" in event.raw
        lacked = complete(chunk, kind=CHUNK, id=id, model=model, created=self._created)
        calls: Sequence[dict[str, Any]] = ()
        if calls_tools:
            self._calling.update(one["index"] for one in chunk["choices"] if one["delta"].get("tool_calls"))
            calls = tool_calls.before_end(chunk)
        if complete_usage(chunk, used, kind=CHUNK) or lacked or calls:
            event.raw = sse.write_event(chunk)
        return b"".join(map(sse.write_event, calls)) if calls else b""

    def _note_loss(self, error: ProviderError) -> None:
        if error.lost:
            self._hold.count.lose()

    def _note_end(self, *, writes: bool) -> None:
        """When all answers have ended, the rest must come soon: some never end their streams, some go on after all."""
        after_s = ENDED_IN_TEXT_S if self._told.ends_in_text else ENDED_S
        ends_at = self._loop.time() + after_s if self._told.have_ended else None
        if self._stops:
            self._deadline = min(filter(None, (self._deadline, ends_at)), default=None)
        elif ends_at is None or self._deadline is None or writes:
            self._deadline = ends_at

    async def _settle_counted(self) -> bytes:
        """Charge the last usage; the event kept back for it, with what the call cost."""
        kept, self._kept = self._kept, None
        cost_nanos, _ = await self._hold.settle_reported(self._told.used)
        return sse.with_cost(kept, cost_nanos=cost_nanos) if kept else b""

    async def _end(self, reason: str) -> None:
        """Settle what no usage came for, and end the client's stream in the way that every client takes."""
        tail = b""
        if not self._hold.resolved:
            was_waited_for = self._timed_out and not self._stops
            is_unclear = self._told.went_on or (self._told.ends_in_text and not was_waited_for)
            over = self._done or (self._told.have_ended and (self._is_whole or not is_unclear))
            if self._hold.failures:
                shown, _ = await failed_answers.count(self._hold, self._exchange.turn)
                self._told.used = usage.larger(self._told.used, shown)
            if self._told.is_final and over and not any(part.strip() for part in self._unread_parts()):
                tail = await self._settle_counted()
            else:
                over = over and not self._hold.count.has_failed
                tail = await self._settle_unreported(USAGE_MISSING if over else reason, cut=not over)
            tail += (self._unsaid_end() if over else b"") + sse.DONE
        if self._pipe is not None and not self._is_mute:
            await self._pipe.finish(tail)

    def _count_unread(self) -> None:
        """What has come and was not passed on counts too: parts that wait for their rest, and half an event.

        So does the time since the last part.
        """
        if self._began:
            self._hold.count.passed(self._loop.time() - self._began)
        self._hold.reported(self._answer.used)
        self._hold.count.keeps(self._answer.kept_bytes)
        self._hold.count.shows(self._answer.unseen_bytes)
        for unread in self._unread_parts():
            self._hold.count.broke(unread)

    def _unread_parts(self) -> tuple[bytes, ...]:
        return self._answer.waiting, self._reader.waiting, self._unread

    async def _settle_unreported(self, reason: str, *, cut: bool) -> bytes:
        """Charge what was seen, or all of it; what the client's stream still needs before it is done."""
        kept = self._kept.raw if self._kept else b""
        self._count_unread()
        cost_nanos, _ = await self._hold.settle_seen(reason, cut=cut, at_least=self._told.used)
        if not cut:
            return kept
        self._exchange.complete = False
        if not self._left:
            log.warning("request %s: the stream ended early: %s", self._exchange.request_id, reason)
        return kept + self._final(cost_nanos, reason)

    def _final(self, cost_nanos: int, reason: str) -> bytes:
        return sse.final_chunk(
            like=self._last,
            model=self._hold.quote.model,
            usage=self._hold.charge.usage if self._hold.charge else self._hold.usage.estimated(),
            cost_nanos=cost_nanos,
            reason=reason,
            request_id=self._exchange.request_id,
            created=self._created,
            indexes=[index for index in range(self._answers) if index not in self._told.ended_answers] or [0],
        )

    def _unsaid_end(self) -> bytes:
        """The end of answers whose stream came to its own without saying so."""
        unsaid = [index for index in range(self._answers) if index not in self._told.said_to_end]
        if not unsaid:
            return b""
        return sse.end_chunk(
            like=self._last,
            model=self._hold.quote.model,
            ends={index: end_of(calls=index in self._calling) for index in unsaid},
            request_id=self._exchange.request_id,
            created=self._created,
        )

    async def _let_connection_end(self) -> None:
        """The connection can serve again when its answer has come to its end, which is on its way."""
        if self._done and not self._left:
            try:
                async with asyncio.timeout(CLOSING_S):
                    async for _ in self._chunks:
                        pass
            except (TimeoutError, ProviderError):
                self._answer.close()


def _begins(event: sse.Event) -> bool:
    """Whether an event shows that the model answers; the comments of a balancer before it do not."""
    if event.data is not None:
        return "choices" in event.data or error_in(event.data) is not None
    return event.done or event.raw == sse.COMMENT
