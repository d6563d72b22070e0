"""Calls from the control plane: a request made to the gateway of this very process, without a socket.

So whatever calls a model goes through the one place where a call is governed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, field

from governance import database
from llm.gateway.application import gateway
from llm.gateway.asgi import Message, Scope
from llm.providers.http import READ_TIMEOUT_S


class GatewayAway(Exception):
    """This process has no running gateway, or it did not answer in time."""


@dataclass(slots=True)
class InsideAnswer:
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")


def post(
    path: str,
    body: bytes,
    *,
    headers: Mapping[str, str],
    request_id: str,
    called: Mapping[str, str],
    timeout_s: float = READ_TIMEOUT_S,
) -> InsideAnswer:
    """POST a JSON body to the gateway from another thread, and wait for the whole answer. Raises GatewayAway.

    `request_id`, a UUID, names the call there as it does here; `called` is what whoever asks calls fields of it. The
    thread's database connection is given back: a model may take minutes.
    """
    database.give_back()
    loop = gateway.loop
    if loop is None or not loop.is_running():
        raise GatewayAway("the gateway does not run in this process")
    answer = InsideAnswer()
    running = asyncio.run_coroutine_threadsafe(
        gateway({**_scope(path, headers, request_id), "called": called}, _receiver(body), answer.send), loop
    )
    try:
        running.result(timeout_s)
    except TooLate as error:
        running.cancel()
        raise GatewayAway("the gateway did not answer in time") from error
    return answer


def _scope(path: str, headers: Mapping[str, str], request_id: str) -> Scope:
    given = {"content-type": "application/json"} | {name.lower(): value for name, value in headers.items() if value}
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in given.items()]
    return {"type": "http", "method": "POST", "path": path, "headers": raw, "request_id": request_id}


class _receiver:
    """The body once, then silence: this client does not go away."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body, "more_body": False}
