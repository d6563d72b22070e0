"""The little HTTP the data plane needs, on bare ASGI: read a body within a limit, send an answer once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import orjson

from governance.rules import names
from llm.gateway import bodies
from llm.gateway.asgi import Message, Receive, Scope, Send
from llm.gateway.bodies import Turn
from llm.gateway.call_notes import CallNotes

Headers = Iterable[tuple[str, str]]
# What browsers are told of each answer that does not say otherwise: keep no copy, and take it for what it says it is.
TO_BROWSERS = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))
# So much of an answer waits in the server for its client.
PIECE_BYTES = 256 * 1024
WhenLarge = Callable[[], Awaitable[None]]


async def _to_nobody(message: Message) -> None:
    """The answer is over."""


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, request_id: str) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"].rstrip("/") or "/"
        self.request_id = request_id
        self.arrived = time.perf_counter()
        self._called: Mapping[str, str] = scope.get("called", {})
        self._headers: Mapping[bytes, bytes] = dict(scope["headers"])
        # As they came, where a name came more than once.
        self._repeated: Iterable[tuple[bytes, bytes]] = (
            scope["headers"] if len(self._headers) < len(scope["headers"]) else ()
        )
        self._receive = receive
        self._send = send
        self._body: bytes | None = None
        self._watching: asyncio.Task[None] | None = None
        self._on_leave: Callable[[], None] | None = None
        self.is_gone = False
        self.started = self.ended = False
        self.status = 0
        self.notes = CallNotes()
        # False once a stream had to be ended before the model had said everything.
        self.complete = True

    def header(self, name: str) -> str:
        """A request header's text, or ""."""
        return names.from_header(self._headers.get(name.encode(), b""))

    def is_doubled(self, name: str) -> bool:
        """Whether a request header came more than once, and `header` has the last of them."""
        return sum(each == name.encode() for each, _ in self._repeated) > 1

    def called(self, field: str) -> str:
        """What whoever asks calls a field of the request, where it does so by a name of its own."""
        return self._called.get(field, field)

    def send_through(self, wrap: Callable[[Send], Send]) -> None:
        """From here on every message of the answer goes through what `wrap` makes of the sender."""
        self._send = wrap(self._send)

    def admit(self, *, limit: int, patience_s: float, turn: Turn, when_large: WhenLarge) -> None:
        """Let the body be read: within `limit` bytes, its client silent for `patience_s` at most.

        `when_large` is awaited before the turn of a large body, and before more of it is read.
        """
        self.turn = turn
        self._limit, self._patience_s, self._when_large = limit, patience_s, when_large

    async def body(self) -> bytes:
        """The whole body, unpacked; it is read once and may be asked for again. Raises what `bodies` does."""
        if self._body is None:
            self._body = await self._read()
        return self._body

    async def _read(self) -> bytes:
        limit = self._limit
        packing = bodies.packing_of(self._headers)
        if bodies.announced_bytes(self._headers, limit=limit) > bodies.LARGE_BYTES:
            await self._take_turn(0)
        parts: list[bytes] = []
        size = 0
        async for part in bodies.read(self._receive, limit=limit, patience_s=self._patience_s):
            parts.append(part)
            size += len(part)
            if size > bodies.LARGE_BYTES:
                await self._take_turn(size)
        body = b"".join(parts)
        return await self._unpacked(body, packing) if packing else body

    async def _unpacked(self, body: bytes, packing: str) -> bytes:
        """Nobody knows beforehand how large it becomes: it counts as small until it is not."""
        slices = bodies.slices(body, packing, limit=self._limit)
        parts: list[bytes] = []
        size = 0

        def unpack() -> bytes:
            return next(slices, b"")

        while part := await self.turn.beside(unpack) if self.turn.is_taken else unpack():
            parts.append(part)
            size += len(part)
            if size >= bodies.LARGE_BYTES:
                await self._take_turn(size)
        return b"".join(parts)

    async def _take_turn(self, size_bytes: int) -> None:
        """`size_bytes`: what has come so far. What is announced, and then comes slowly or never, takes no memory."""
        if not self.turn.is_taken:
            await self._when_large()
            await self.turn.take()
        self.turn.hold(size_bytes)

    def watch(self, on_leave: Callable[[], None] | None) -> None:
        """Notice, once the body is read, when the client goes away, and do what is to be done then."""
        self._on_leave = on_leave
        if self._watching is None:
            self._watching = asyncio.create_task(self._notice())
        elif self.is_gone and on_leave is not None:
            on_leave()

    def has_left(self) -> bool:
        """Whether the client is known to have gone, once the body is read.

        A look at what the server would say, without a task that waits for it: a plain call needs no more.
        """
        while not self.is_gone:
            asked = self._receive().__await__()
            try:
                next(asked)
            except StopIteration as found:
                self.is_gone = found.value["type"] == "http.disconnect"
            else:
                asked.close()
                break
        return self.is_gone

    def forget(self) -> None:
        """Let go of what only a call that runs needs: in a circle, a body would stay until the collector comes by."""
        if self._watching is not None:
            self._watching.cancel()
        self._watching = self._on_leave = self._body = None
        self.notes = CallNotes()
        self._send = _to_nobody

    async def _notice(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        if self._on_leave is not None:
            self._on_leave()

    async def start(self, status: int, headers: Headers) -> None:
        self.started, self.status = True, status
        told = list(headers)
        said = {name for name, _ in told}
        told += [(name, value) for name, value in TO_BROWSERS if name not in said]
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in told]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        self.ended = self.ended or not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(self, status: int, data: bytes, headers: Headers) -> None:
        await self.start(status, [*headers, ("content-length", str(len(data)))])
        # Of a large one the next piece is given to the server when the client has taken those before.
        last = max(0, len(data) - 1) // PIECE_BYTES * PIECE_BYTES
        for start in range(0, last, PIECE_BYTES):
            await self.write(data[start : start + PIECE_BYTES])
        await self.write(data[last:], more=False)

    async def answer_json(self, status: int, payload: Any, headers: Headers = ()) -> None:
        await self.answer(
            status,
            orjson.dumps(payload),
            [("content-type", "application/json"), ("x-request-id", self.request_id), *headers],
        )
