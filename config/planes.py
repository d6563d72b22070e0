"""The two planes behind one port: the gateway answers /v1/, Django everything else."""

import logging
import time
from typing import Protocol

from config import cors
from llm.gateway.asgi import Application, Message, Receive, Scope, Send
from llm.gateway.routes import meant
from llm.state import metrics

logger = logging.getLogger(__name__)
# The first that a path begins with.
PLANES = (
    ("/api/webhooks/", "webhook"),
    ("/api/health", "health"),
    ("/api/", "api"),
    ("/admin/", "console"),
    ("/metrics", "metrics"),
    ("/static/", "static"),
)


class DataPlane(Protocol):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...
    async def startup(self) -> None: ...
    async def shutdown(self) -> None: ...


def compose(*, gateway: DataPlane, django: Application) -> Application:
    """One ASGI application. The gateway is called before any of Django's request handling, for its cost."""

    data_plane = cors.allowing(gateway)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(gateway, receive, send)
        elif scope["path"].startswith("/v1/") or scope["path"] == "/v1" or meant(scope["path"]):
            # Also what a client asks for whose base address lacks /v1: it is told in its own words.
            await data_plane(scope, receive, send)
        else:
            await _measured(django, _plane(scope["path"]), scope, receive, send)

    return application


async def _measured(app: Application, plane: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Note how long a request took, and the status of its answer."""
    began_s, status = time.perf_counter(), 0

    async def noting(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        await app(scope, receive, noting)
    finally:
        metrics.observe_request(plane, status, time.perf_counter() - began_s)


def _plane(path: str) -> str:
    """A few words for what is asked for: paths are as many as anybody thinks of."""
    return next((plane for beginning, plane in PLANES if path.startswith(beginning)), "other")


async def live(gateway: DataPlane, receive: Receive, send: Send) -> None:
    """ASGI's lifespan: the server accepts no request before the gateway has started."""
    await receive()
    try:
        await gateway.startup()
    except Exception as error:
        logger.exception("The gateway did not start")
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    try:
        await gateway.shutdown()
    except Exception as error:
        logger.exception("The gateway did not end cleanly")
        await send({"type": "lifespan.shutdown.failed", "message": str(error)})
        return
    await send({"type": "lifespan.shutdown.complete"})
