"""Django behind ASGI, each request from its first middleware to its view in one thread.

Django's own handler takes a request back to the event loop between any two middlewares of different kinds, a dozen
times in all. There it waits for a thread each time, and so does every call of a model on that loop.
"""

from __future__ import annotations

from typing import cast

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase


class ControlPlane(ASGIHandler):
    """ASGIHandler with the chain of middlewares that WSGI has; no view and no middleware here is asynchronous."""

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return cast(HttpResponseBase, await sync_to_async(self.get_response)(request))
