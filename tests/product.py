"""The running product, as its users meet it: both planes on a loopback port, with the simulated Mistral behind them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx

from governance.models import Tenant
from llm.sandbox import Sandbox
from tests import factories as make


@dataclass(frozen=True)
class Product:
    """`url` serves both planes; `sandbox` is the model's API behind them, and knows what reached it."""

    url: str
    sandbox: Sandbox

    def key(self, *, role: str = "agent", of: Tenant | None = None, agent: str = "invoices") -> str:
        return make.key(role=role, of=of, agent_slug=agent)[0]

    def post(self, path: str, key: str = "", *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        authorization = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.post(self.url + path, json=body, headers=authorization | (headers or {}), timeout=30)

    def chat(self, key: str, **fields: Any) -> httpx.Response:
        """One plain chat request of 100 output tokens at most, with headers named in `headers`."""
        body = {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}
        return self.post("/v1/chat/completions", key, **(body | fields))

    def get(self, path: str, key: str = "") -> httpx.Response:
        return httpx.get(self.url + path, headers={"authorization": f"Bearer {key}"} if key else {}, timeout=30)


def eventually(check: Callable[[], bool], *, within_s: float = 5.0) -> bool:
    """Whether `check` comes true in time."""
    end = time.monotonic() + within_s
    while not (true := check()) and time.monotonic() < end:
        time.sleep(0.02)
    return true
