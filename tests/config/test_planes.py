"""Which plane answers, and the start and end of the gateway with the server's."""

from collections.abc import MutableMapping
from typing import Any

import pytest

from config.planes import compose
from llm.gateway.asgi import Receive, Scope, Send


class Recorder:
    """Stands in for a plane: notes what it was asked."""

    def __init__(self, *, fails_at: str = "") -> None:
        self.asked: list[str] = []
        self.fails_at = fails_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])

    async def startup(self) -> None:
        self._note("startup")

    async def shutdown(self) -> None:
        self._note("shutdown")

    def _note(self, what: str) -> None:
        if what == self.fails_at:
            raise RuntimeError("no prices")
        self.asked.append(what)


async def receive() -> MutableMapping[str, Any]:
    return {"type": "lifespan"}


async def ignore(message: MutableMapping[str, Any]) -> None:
    pass


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/chat/completions"])
async def test_the_gateway_answers_v1(path: str) -> None:
    gateway, django = Recorder(), Recorder()

    await compose(gateway=gateway, django=django)({"type": "http", "path": path}, receive, ignore)

    assert (gateway.asked, django.asked) == ([path], [])


@pytest.mark.parametrize("path", ["/", "/admin/", "/api/health", "/v10/models", "/api/v1/x"])
async def test_django_answers_everything_else(path: str) -> None:
    gateway, django = Recorder(), Recorder()

    await compose(gateway=gateway, django=django)({"type": "http", "path": path}, receive, ignore)

    assert (gateway.asked, django.asked) == ([], [path])


@pytest.mark.parametrize(
    ("fails_at", "sent"),
    [
        ("", ["lifespan.startup.complete", "lifespan.shutdown.complete"]),
        ("startup", ["lifespan.startup.failed"]),
        ("shutdown", ["lifespan.startup.complete", "lifespan.shutdown.failed"]),
    ],
)
async def test_the_gateway_lives_as_long_as_the_server(fails_at: str, sent: list[str]) -> None:
    messages: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        messages.append(message)

    await compose(gateway=Recorder(fails_at=fails_at), django=Recorder())({"type": "lifespan"}, receive, send)

    assert [message["type"] for message in messages] == sent
    if fails_at:
        assert messages[-1]["message"] == "no prices"
