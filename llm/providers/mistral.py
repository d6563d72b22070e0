"""Mistral's API, as raw bytes: the SDK costs fifty times as much a chunk and drops what it does not know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping

import aiohttp

from llm import dialect
from llm.providers import ProviderError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 600.0


class Mistral:
    """One connection pool to one API base (without /v1)."""

    def __init__(self, *, api_base: str, api_key: str, name: str = "mistral") -> None:
        self.name = name
        self._base = api_base.rstrip("/")
        self._key = api_key
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, limit_per_host=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S),
            auto_decompress=False,
            # No proxy, no netrc: the key goes where it was configured to go.
            trust_env=False,
            headers={"accept-encoding": "identity"},
            skip_auto_headers=("user-agent", "accept"),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def body(
        self, request: dialect.Request, *, model: str, max_tokens: int | None, disabled_tools: Collection[str]
    ) -> bytes:
        return dialect.apply(request, model=model, max_tokens=max_tokens, disabled_tools=disabled_tools)

    async def send(self, path: str, body: bytes, *, content_type: str, request_id: str) -> MistralAnswer:
        """See `llm.providers.Provider`."""
        if self._session is None:
            raise RuntimeError("the provider is not open")
        try:
            response = await self._session.post(
                f"{self._base}/v1{path}",
                data=body,
                headers={
                    "authorization": f"Bearer {self._key}",
                    "content-type": content_type,
                    "x-request-id": request_id,
                },
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ProviderError("upstream_unreachable", "The model's API cannot be reached.", sent=False) from error
        except TimeoutError as error:
            raise ProviderError("upstream_timeout", "The model's API did not answer in time.", sent=True) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise ProviderError(
                "upstream_disconnected", "The model's API broke the connection off.", sent=True
            ) from error
        return MistralAnswer(response)


class MistralAnswer:
    """See `llm.providers.Answer`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self) -> bytes:
        """The whole body; raises ProviderError where it breaks off."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; raises ProviderError where it breaks off."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except TimeoutError as error:
            raise ProviderError("upstream_timeout", "The model's API fell silent.", sent=True) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise ProviderError("upstream_cut", "The model's API broke its answer off.", sent=True) from error

    def close(self) -> None:
        """Drop the connection at once: what is not read is not wanted."""
        self._response.close()
