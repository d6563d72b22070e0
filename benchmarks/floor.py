"""The floor: a relay on the same server and with the same client, aiohttp, that governs nothing.

What a governed call takes beyond it is what governing costs. The base URL of the model's API is in FLOOR_UPSTREAM.
"""

from __future__ import annotations

import os

import aiohttp

from llm.gateway.asgi import Receive, Scope, Send

UPSTREAM = "FLOOR_UPSTREAM"


class Relay:
    """Bare ASGI: a body is read, posted to the same path, and its answer is passed on whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        async with self._session.post(os.environ[UPSTREAM] + scope["path"], data=body, headers=self._headers) as answer:
            said = await answer.read()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(said)).encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        await send({"type": "http.response.body", "body": said, "more_body": False})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._headers = {"content-type": "application/json", "authorization": "Bearer a-key-of-the-benchmark"}
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        async with aiohttp.ClientSession(connector=connector) as self._session:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


relay = Relay()
