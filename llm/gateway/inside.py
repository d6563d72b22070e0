"""Calls from the control plane: a request made to the gateway of this very process, without a socket.

So whatever calls a model goes through the one place where a call is governed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from governance import database
from llm.gateway.application import gateway
from llm.gateway.asgi import Message, Scope
from llm.providers.http import READ_TIMEOUT_S

_lock = Lock()


class GatewayAway(Exception):
    """This process has no running gateway, or it did not answer in time."""


class Left(Exception):
    """Whoever asked has gone; what was sent to a model goes on, as for one who leaves /v1."""


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
    whose: tuple[int, int],
    left: Future[None],
    timeout_s: float = READ_TIMEOUT_S,
) -> InsideAnswer:
    """POST a JSON body to the gateway from another thread, and wait for the whole answer.

    `request_id`, a UUID, names the call there as it does here; `called` is what whoever asks calls fields of it. The
    thread is counted for `whose` key and tenant, ids. Its database connection is given back: a model may take minutes.
    Raises GatewayAway, TooManyThreads, and Left once `left` is done.
    """
    database.give_back()
    loop = gateway.loop
    if loop is None or not loop.is_running():
        raise GatewayAway("the gateway does not run in this process")
    answer = InsideAnswer()
    scope = {**_scope(path, headers, request_id), "called": called}
    with _place(*whose):
        running = asyncio.run_coroutine_threadsafe(gateway(scope, _receiver(body, left), answer.send), loop)
        done, _ = wait((running, left), timeout_s, return_when=FIRST_COMPLETED)
    if running in done:
        running.result()
        return answer
    if left in done:
        raise Left
    running.cancel()
    raise GatewayAway("the gateway did not answer in time")


@contextmanager
def _place(key_id: int, tenant_id: int) -> Iterator[None]:
    """A thread's. Raises TooManyThreads."""
    with _lock:
        gateway.threads.add(1, key_id=key_id, tenant_id=tenant_id)
    try:
        yield
    finally:
        with _lock:
            gateway.threads.give_back(1, key_id=key_id, tenant_id=tenant_id)


def _scope(path: str, headers: Mapping[str, str], request_id: str) -> Scope:
    given = {"content-type": "application/json"} | {name.lower(): value for name, value in headers.items() if value}
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in given.items()]
    return {"type": "http", "method": "POST", "path": path, "headers": raw, "request_id": request_id}


class _receiver:
    """The body once, then silence, and that its client has gone if it has when that is looked at."""

    def __init__(self, body: bytes, left: Future[None]) -> None:
        self._body: bytes | None = body
        self._left = left

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            if self._left.done():
                return {"type": "http.disconnect"}
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body, "more_body": False}
