"""Django behind ASGI, each request from its first middleware to its view in one thread, which the next one uses again.

Django's own handler takes a request back to the event loop between any two middlewares of different kinds, a dozen
times in all, and starts a thread for each request and another to end it. The loop waits for each of these, and so does
every call of a model on it.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from llm.gateway.asgi import LEFT

# Where in a request's scope is what it took.
TOOK_S = "spend_governor.took_s"
# As many requests run at once as there are; so many threads are kept for those to come.
MOST_IDLE = 8


class ControlPlane(ASGIHandler):
    """ASGIHandler with the chain of middlewares that WSGI has; no view and no middleware here is asynchronous."""

    def __init__(self) -> None:
        super().__init__()
        # Each an executor of one thread, which has a connection to the database while a request uses it.
        self._idle: list[ThreadPoolExecutor] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        thread = self._idle.pop() if self._idle else ThreadPoolExecutor(1, thread_name_prefix="control-plane")
        try:
            async with ThreadSensitiveContext(executor=thread):
                await self.handle({**scope, LEFT: Future()}, receive, send)
        finally:
            # What a request began in it has ended: whoever is cancelled waits for that.
            if len(self._idle) < MOST_IDLE:
                self._idle.append(thread)
            else:
                thread.shutdown(wait=False)

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        try:
            return await sync_to_async(self._timed)(request)
        except asyncio.CancelledError:
            # Its client has gone, and whatever its thread waits for need not be waited for.
            cast(ASGIRequest, request).scope[LEFT].set_result(None)
            raise

    def _timed(self, request: HttpRequest) -> HttpResponseBase:
        """Adds the seconds of a processor that a request took, for whoever asks for them in its scope."""
        began_s = time.thread_time()
        try:
            return self.get_response(request)
        finally:
            cast(ASGIRequest, request).scope.get(TOOK_S, []).append(time.thread_time() - began_s)
