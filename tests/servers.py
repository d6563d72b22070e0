"""An ASGI application on a loopback port of its own, in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import uvicorn


@contextmanager
def served(app: Any, *, lifespan: Literal["on", "off"] = "off") -> Iterator[str]:
    """The base URL of `app` while it is served."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # With a lifespan it is the product, whose connections are guarded.
        http = "config.connections:GuardedConnection" if lifespan == "on" else "auto"
        config = uvicorn.Config(app, log_level="error", access_log=False, lifespan=lifespan, http=http)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            thread.join(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            # A lifespan's shutdown lands what is still to be settled; without one nothing is waited for.
            server.force_exit = lifespan == "off"
            thread.join(15)
