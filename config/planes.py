"""The two planes behind one port: the gateway answers /v1/, Django everything else."""

import logging
from typing import Protocol

from config import cors
from llm.gateway.asgi import Application, Receive, Scope, Send
from llm.gateway.routes import meant

logger = logging.getLogger(__name__)


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
            await django(scope, receive, send)

    return application


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
