"""The ways to call a model: for each path below /v1 how a request is read, bounded and counted. One row a route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from governance.operations import Usage
from llm import dialect, estimation
from llm.dialect import Request
from llm.estimation import Estimate

MAX_BODY_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Route:
    """`parse` reads a body and its content type; `estimate` bounds a request (the number is the tenant's default
    `max_tokens`); `read_usage` counts what an answer, or a stream's event, says was used."""

    path: str
    kind: str
    parse: Callable[[bytes, str], Request]
    estimate: Callable[[Request, int], Estimate]
    read_usage: Callable[[Any, str], Usage | None]
    max_body_bytes: int = MAX_BODY_BYTES


def _usage(answer: Any, model: str) -> Usage | None:
    return dialect.read_usage(answer, model=model)


CHAT = Route(
    path="/chat/completions",
    kind="chat",
    parse=lambda body, _: dialect.parse(body),
    estimate=lambda request, default: estimation.chat(request.payload, default_max_tokens=default),
    read_usage=_usage,
)

ROUTES = {f"/v1{route.path}": route for route in (CHAT,)}
