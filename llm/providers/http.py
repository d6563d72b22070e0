"""The one way that providers are called: a pool of connections to one API base, and answers read as bytes.

What a provider sends compressed although it was asked not to is unpacked here, so that usage can be read from it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import orjson

from llm.providers import ProviderError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 600.0
# What an operator waits for when a connection is tried out.
LIST_TIMEOUT_S = 15.0


class Connection:
    """Connections to one API base. `headers` hold the key: they are sent, and shown to nobody."""

    def __init__(self, *, base: str, headers: Mapping[str, str]) -> None:
        self.base = base.rstrip("/")
        self._headers = dict(headers)
        self._session: aiohttp.ClientSession | None = None
        # Answers that are not read to their end yet.
        self.open_answers = 0

    def __repr__(self) -> str:
        return f"Connection({self.base!r})"

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, limit_per_host=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S),
            # No proxy, no netrc: the key goes where it was configured to go.
            trust_env=False,
            headers={"accept-encoding": "identity"},
            skip_auto_headers=("user-agent", "accept"),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, path: str, body: bytes, *, content_type: str, request_id: str) -> HttpAnswer:
        """Send a body to a path below the base. Raises ProviderError where no answer began."""
        if self._session is None:
            raise ProviderError("upstream_unreachable", "The model's API is not connected.", sent=False)
        try:
            response = await self._session.post(
                self.base + path,
                data=body,
                headers={**self._headers, "content-type": content_type, "x-request-id": request_id},
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
        return HttpAnswer(response, self)

    async def list_models(self, path: str) -> list[str]:
        """The ids that `{"data": [{"id"}]}` at a path below the base names. Raises ProviderError, never with a key."""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=LIST_TIMEOUT_S), headers=self._headers, trust_env=False
        ) as session:
            try:
                async with session.get(self.base + path, allow_redirects=False) as response:
                    body = await response.read()
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                raise ProviderError("upstream_unreachable", "It cannot be reached.", sent=False) from error
        if response.status != 200:
            raise ProviderError("upstream_failed", f"It answered with status {response.status}.", sent=False)
        return _ids(body)


class HttpAnswer:
    """See `llm.providers.Answer`."""

    def __init__(self, response: aiohttp.ClientResponse, connection: Connection) -> None:
        self._response = response
        self._connection: Connection | None = connection
        connection.open_answers += 1

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def kept_bytes(self) -> int:
        return 0

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
        if self._connection is not None:
            self._connection.open_answers -= 1
            self._connection = None


def _ids(body: bytes) -> list[str]:
    try:
        listed: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        listed = None
    rows = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(rows, list):
        raise ProviderError("upstream_garbage", "Its list of models could not be read.", sent=False)
    return [row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
