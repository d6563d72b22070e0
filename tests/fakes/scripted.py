"""What the fakes of providers have in common: they note requests, and do next what a test tells them."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Refused(Exception):
    """The real API would answer so."""

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error", code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code = status, message, kind, code


@dataclass
class Seen:
    """A request that arrived. `closed_early`: the caller went away before the answer was whole."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    closed_early: bool = False


@dataclass
class Fake:
    """An ASGI application. `next` takes the place of the next answers: (status, headers, body or pieces of a stream).

    A piece that is None breaks the connection off; `pause_s` goes between pieces, `head_after_s` before an answer.
    """

    key: str = "sk-the-provider's-own-key"
    seen: list[Seen] = field(default_factory=list)
    next: deque[tuple[int, dict[str, str], Any]] = field(default_factory=deque)
    pause_s: float = 0.0
    head_after_s: float = 0.0

    def forget(self) -> None:
        self.seen.clear()
        self.next.clear()
        self.pause_s = self.head_after_s = 0.0

    def error(self, refused: Refused) -> dict[str, Any]:
        raise NotImplementedError

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> dict[str, Any] | Iterable[bytes]:
        """A plain answer, or the pieces of a stream. Raises Refused for what the real API would refuse."""
        raise NotImplementedError

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        data = b""
        while (message := await receive()).get("more_body") or message.get("body"):
            data += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen = Seen(scope["path"], headers, json.loads(data) if data else {})
        self.seen.append(seen)
        await asyncio.sleep(self.head_after_s)
        try:
            said = self.answer(seen.path, headers, seen.body)
        except Refused as refused:
            await self._send(send, refused.status, {}, json.dumps(self.error(refused)).encode())
            return
        if self.next:
            status, extra, said = self.next.popleft()
        else:
            status, extra = 200, {}
        if isinstance(said, bytes | dict):
            body = said if isinstance(said, bytes) else json.dumps(said).encode()
            await self._send(send, status, extra, body)
        else:
            await self._stream(receive, send, extra, said, seen)

    async def _send(self, send: Send, status: int, extra: dict[str, str], body: bytes) -> None:
        headers = {"content-type": "application/json", "content-length": str(len(body))} | extra
        await send({"type": "http.response.start", "status": status, "headers": _raw(headers)})
        await send({"type": "http.response.body", "body": body})

    async def _stream(
        self, receive: Any, send: Send, extra: dict[str, str], pieces: Iterable[bytes | None], seen: Seen
    ) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8"} | extra
        await send({"type": "http.response.start", "status": 200, "headers": _raw(headers)})
        gone = asyncio.create_task(receive())
        for piece in pieces:
            if piece is None:
                # The server breaks the connection off, for the response never ends.
                gone.cancel()
                raise ConnectionAbortedError("as the test wants it")
            if gone.done():
                seen.closed_early = True
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(self.pause_s)
        gone.cancel()
        await send({"type": "http.response.body", "body": b""})


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
