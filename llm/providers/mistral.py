"""Mistral's API, as raw bytes: the SDK costs fifty times as much a chunk and drops what it does not know.

Its zones (EU, US) are providers of their own with the same dialect, and prices of their own in the catalogue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from llm.providers import ProviderError
from llm.providers.http import LIST_TIMEOUT_S, HttpAnswer, HttpProvider
from llm.rules import bounds, client_requests, mistral_dialect
from llm.rules.estimates import Estimate


class Mistral(HttpProvider):
    """One API base, without /v1. See `llm.providers.Provider`."""

    def __init__(self, *, api_base: str, api_key: str, name: str = "mistral") -> None:
        self._base = api_base.rstrip("/")
        self._key = api_key
        super().__init__(
            name=name, base=self._base + "/v1", headers={"authorization": f"Bearer {api_key}"}, key=api_key
        )

    def body(
        self, request: client_requests.Request, *, model: str, max_tokens: int | None, disabled_tools: Collection[str]
    ) -> bytes:
        client_requests.refuse_foreign(request)
        return mistral_dialect.apply(request, model=model, max_tokens=max_tokens, disabled_tools=disabled_tools)

    def bound(self, request: client_requests.Request, estimate: Estimate) -> Estimate:
        """The payload that was counted is the one that is sent, but for names of tool calls and others' fields."""
        if request.kind != "chat" or estimate.whole_context:
            return estimate
        shaped = mistral_dialect.shape(request)
        if shaped is request.payload:
            return estimate
        return estimate.with_text(bounds.chat_text(shaped), bounds.chat_texts(shaped))

    async def send(self, path: str, body: bytes, *, content_type: str, request_id: str) -> HttpAnswer:
        return await self.connection.post(path, body, content_type=content_type, request_id=request_id)

    async def list_models(self) -> list[str]:
        """The ids that the key may use, asked through the SDK, as all of the control plane."""
        return await asyncio.to_thread(self._list_models)

    def _list_models(self) -> list[str]:
        from mistralai.client import Mistral as Client
        from mistralai.client.errors import SDKError

        try:
            with Client(api_key=self._key, server_url=self._base, timeout_ms=int(LIST_TIMEOUT_S * 1000)) as client:
                listed = client.models.list()
        except SDKError as error:
            message = f"It answered with status {error.status_code}."
            raise ProviderError("upstream_failed", message, sent=False) from error
        except Exception as error:
            # The SDK lets through whatever its transport raises.
            raise ProviderError("upstream_unreachable", "It cannot be reached.", sent=False) from error
        return [model.id for model in listed.data or []]
