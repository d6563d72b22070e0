"""The one way that providers are called: a pool of connections to one API base, and answers read as bytes.

What a provider sends compressed although it was asked not to is unpacked here, so that usage can be read from it.
"""

from __future__ import annotations

import asyncio
import io
import select
import socket
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import WeakSet

import aiohttp
import orjson
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.resolver import ThreadedResolver
from django.conf import settings

from governance import proxies
from governance.rules import addresses
from llm.providers import ProviderError
from llm.rules import own_keys
from llm.rules.packing import Packing
from llm.state.telemetry import sent_traceparent

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 600.0
# The status line and the headers of an answer; and one line of a stream, which has an event in it.
MOST_HEADER_BYTES = 16 * 1024
MOST_LINE_BYTES = 4 * 1024 * 1024
# What a refusal says; more of one is no refusal.
MOST_OF_REFUSAL = 256 * 1024
# So much is read before others have their turn.
TURN_BYTES = 32 * 1024
# So soon after a request nothing but the end of an idle connection ends it.
IDLE_END_S = 0.1
STALE_S = 1.0
# A larger body goes out in pieces, between which other calls have their turn.
LARGE_BODY_BYTES = 1024 * 1024
# What an operator waits for when a connection is tried out.
LIST_TIMEOUT_S = 15.0
MOST_LIST_BYTES = 8 * 1024 * 1024


class _Sent:
    """How one request was sent."""

    def __init__(self) -> None:
        # By which connection, where that had served before.
        self.reused: Any = None
        self._began = time.monotonic()

    def died_idle(self) -> bool:
        """Whether the end of an idle connection can be all that came for it: whoever says anything has read it."""
        if self.reused is None or getattr(self.reused, "has_brought", True):
            return False
        return time.monotonic() - self._began < IDLE_END_S


# Of the request that is being sent: what sends it is made within aiohttp.
_sending: ContextVar[_Sent] = ContextVar("sending")


class _Unfit(aiohttp.ClientConnectionError):
    """A connection from the pool has ended, or brought what nobody asked for; nothing was sent on it."""


class _Protocol(ResponseHandler):
    """Knows whether anything came for the request that was sent last."""

    has_brought = False

    def data_received(self, data: bytes) -> None:
        self.has_brought = True
        super().data_received(data)


class _Request(aiohttp.ClientRequest):
    """Goes out on a connection that nothing has come on since its last answer: that would be taken for this one's."""

    # Connections that a request went out on before.
    _served: WeakSet[Any] = WeakSet()

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        protocol = conn.protocol
        if protocol in self._served:
            if protocol.should_close or _is_readable(protocol.transport):
                raise _Unfit("The connection cannot be used again.")
            _sending.get().reused = protocol
            protocol.has_brought = False
        self._served.add(protocol)
        return await super().send(conn)


def _is_readable(transport: asyncio.Transport | None) -> bool:
    """Whether bytes, or the end, have come and wait to be read."""
    peer = None if transport is None else transport.get_extra_info("socket")
    if peer is None or peer.fileno() < 0:
        return True
    waiting = select.poll()
    waiting.register(peer.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def _traced() -> dict[str, str]:
    parent = sent_traceparent.get()
    return {"traceparent": parent} if parent else {}


class PublicNames(ThreadedResolver):
    """Resolves names, but for those that lead into a private network: whoever owns a name may change that any time."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        if public := [one for one in found if addresses.is_public(one["host"])]:
            return public
        raise OSError(None, f"{host} leads into a private network")


class Connection:
    """Connections to one API base. `headers` hold the key: they are sent, and shown to nobody.

    `key` is what no answer may show, should it quote it.
    `public_only`: names that lead into a private network are not called. Through a proxy its rules hold instead: it
    looks names up.
    """

    def __init__(self, *, base: str, headers: Mapping[str, str], key: str = "", public_only: bool = False) -> None:
        self.base = base.rstrip("/")
        self._headers = dict(headers)
        self.forms_of_key = own_keys.forms_of(key)
        self._public_only = public_only
        self._proxy = proxies.proxy_for(self.base)
        self._session: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        # Until then each request gets a connection of its own.
        self._stale_until = 0.0
        # Calls from the moment they are sent until their answer is read to its end, or dropped.
        self.open_calls = 0

    def __repr__(self) -> str:
        return f"Connection({self.base!r})"

    async def open(self) -> None:
        self._session = self._new_session()

    def _new_session(self, *, force_close: bool = False) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=self._connector(force_close=force_close),
            request_class=_Request,
            timeout=aiohttp.ClientTimeout(
                total=settings.LONGEST_CALL_S, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
            ),
            skip_auto_headers=("user-agent", "accept"),
            **self._session_options(),
        )

    def _session_options(self) -> dict[str, Any]:
        return {
            # No netrc: the key goes where it was configured to go.
            "trust_env": False,
            # What an answer to one tenant's call asks to be told again is not sent with another's.
            "cookie_jar": aiohttp.DummyCookieJar(),
            "proxy": self._proxy,
            "headers": {"accept-encoding": "identity"},
            "max_line_size": MOST_HEADER_BYTES,
            "max_field_size": MOST_HEADER_BYTES,
        }

    async def close(self) -> None:
        for session in (self._session, self._fresh):
            if session is not None:
                await session.close()
        self._session = self._fresh = None

    def _connector(self, *, force_close: bool = False) -> aiohttp.TCPConnector:
        resolver = PublicNames() if self._public_only and self._proxy is None else None
        if force_close:
            return aiohttp.TCPConnector(limit=0, force_close=True, resolver=resolver)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30, limit_per_host=0, resolver=resolver)
        # Part of what aiohttp promises nobody: where another version has it otherwise, nothing is sent again, and tests
        # say so.
        connector._factory = partial(_Protocol, loop=asyncio.get_running_loop())  # type: ignore[assignment]
        return connector

    async def post(self, path: str, body: bytes, *, content_type: str, request_id: str) -> HttpAnswer:
        """Send a body to a path below the base. Raises ProviderError where no answer began."""
        if self._session is None:
            raise ProviderError("upstream_unreachable", "The model's API is not connected.", sent=False)
        sent = {"content_type": content_type, "request_id": request_id}
        session = self._anew() if time.monotonic() < self._stale_until else self._session
        self.open_calls += 1
        try:
            try:
                response = await self._post(session, path, body, **sent)
            except _Unfit:
                # Nothing was sent, so it is as if it had not been tried.
                response = await self._post(self._anew(), path, body, **sent)
        except BaseException as error:
            self.open_calls -= 1
            if isinstance(error, ProviderError) and error.again:
                # Others that lie idle are as old.
                self._stale_until = time.monotonic() + STALE_S
            raise
        return HttpAnswer(response, self)

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: bytes, *, content_type: str, request_id: str
    ) -> aiohttp.ClientResponse:
        sent = _Sent()
        _sending.set(sent)
        try:
            return await session.post(
                self.base + path,
                data=body if len(body) <= LARGE_BODY_BYTES else io.BytesIO(body),
                headers={**self._headers, **_traced(), "content-type": content_type, "x-request-id": request_id},
                allow_redirects=False,
            )
        except _Unfit:
            raise
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError) as error:
            raise ProviderError("upstream_unreachable", "The model's API cannot be reached.", sent=False) from error
        except TimeoutError as error:
            raise ProviderError("upstream_timeout", "The model's API did not answer in time.", sent=True) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            message = "The model's API broke the connection off."
            # Whether the request was read before, nobody says, whichever way the connection ended.
            raise ProviderError("upstream_disconnected", message, sent=True, again=sent.died_idle()) from error

    def _anew(self) -> aiohttp.ClientSession:
        """Where each request has a connection of its own."""
        if self._fresh is None:
            self._fresh = self._new_session(force_close=True)
        return self._fresh

    async def get(self, path: str, query: Mapping[str, str], *, timeout_s: float, most_bytes: int) -> tuple[int, bytes]:
        """Status and whole body of what is at a path below the base. Raises ProviderError, never a key."""
        async with aiohttp.ClientSession(
            connector=self._connector(), timeout=aiohttp.ClientTimeout(total=timeout_s), **self._session_options()
        ) as session:
            body = bytearray()
            try:
                async with session.get(
                    self.base + path, params=query, headers=self._headers, allow_redirects=False
                ) as response:
                    async for chunk in response.content.iter_any():
                        body += chunk
                        if len(body) > most_bytes:
                            raise ProviderError("upstream_garbage", "It answered without end.", sent=False)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                raise ProviderError("upstream_unreachable", "It cannot be reached.", sent=False) from error
        return response.status, bytes(body)

    async def list_models(self, path: str, *, under: str = "data", named: str = "id") -> list[str]:
        """The names in the list at a path below the base, `{under: [{named}]}`. Raises ProviderError, never a key."""
        status, body = await self.get(path, {}, timeout_s=LIST_TIMEOUT_S, most_bytes=MOST_LIST_BYTES)
        if status != 200:
            raise ProviderError("upstream_failed", f"It answered with status {status}.", sent=False)
        return _names(body, under, named)


class HttpProvider:
    """What every provider has: a name and a connection. See `llm.providers.Provider`."""

    def __init__(
        self, *, name: str, base: str, headers: Mapping[str, str], key: str, public_only: bool = False
    ) -> None:
        self.name = name
        self.connection = Connection(base=base, headers=headers, key=key, public_only=public_only)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.connection.base!r})"

    @property
    def busy(self) -> bool:
        return self.connection.open_calls > 0

    async def open(self) -> None:
        await self.connection.open()

    async def close(self) -> None:
        await self.connection.close()


class HttpAnswer:
    """See `llm.providers.Answer`. Its connection counts it as an open call until it is closed."""

    def __init__(self, response: aiohttp.ClientResponse, connection: Connection) -> None:
        self._response = response
        self._connection: Connection | None = connection
        self._hiding = own_keys.Hiding(connection.forms_of_key)
        # What came at once, and how far it was given: whoever waits for no more of it may come back for the rest.
        self._chunk, self._given = b"", 0

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def kept_bytes(self) -> int:
        return 0

    @property
    def unseen_bytes(self) -> int:
        return 0

    @property
    def waiting(self) -> bytes:
        return self._hiding.waiting

    @property
    def used(self) -> Mapping[str, Any]:
        return {}

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").lower().startswith("text/event-stream")

    def parts(self) -> AsyncIterator[bytes]:
        return self.chunks()

    def whole(self, body: bytes) -> bytes:
        return body

    async def read(self, *, most_bytes: int = MOST_OF_REFUSAL) -> tuple[bytes, ProviderError | None]:
        """The body as far as it came, and why it broke off: it does where it has more than `most_bytes`."""
        came = bytearray()
        try:
            async for chunk in self.chunks():
                came += chunk
                if len(came) > most_bytes:
                    self.close()
                    raise endless()
            return bytes(came), None
        except ProviderError as error:
            return bytes(came), error
        except BaseException:
            self.close()
            raise

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, without our key; raises ProviderError where it breaks off."""
        try:
            async for chunk in self._chunks():
                if shown := self._hiding.feed(chunk):
                    yield shown
        except ProviderError:
            if rest := self._hiding.rest():
                yield rest
            raise
        if rest := self._hiding.rest():
            yield rest

    async def _chunks(self) -> AsyncIterator[bytes]:
        size = line_size = 0
        packing = Packing()
        async for part in self._turns():
            yield part
        try:
            async for packed in self._response.content.iter_any():
                chunk = packing.undo(packed, most_bytes=settings.MAX_ANSWER_BYTES - size + 1)
                size += len(chunk)
                ended = chunk.rfind(b"\n")
                line_size = line_size + len(chunk) if ended < 0 else len(chunk) - ended - 1
                self._refuse_endless(size, line_size)
                if len(chunk) > TURN_BYTES:
                    self._chunk, self._given = chunk, 0
                    async for part in self._turns():
                        yield part
                elif chunk:
                    yield chunk
            if packing.is_cut:
                raise ProviderError("upstream_cut", "The model's API broke its answer off.", sent=True)
        except zlib.error as error:
            message = "The model's API sent no answer that could be read."
            raise ProviderError("upstream_garbage", message, sent=True) from error
        except TimeoutError as error:
            raise ProviderError("upstream_timeout", "The model's API fell silent.", sent=True) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            message = "The model's API broke its answer off."
            raise ProviderError("upstream_cut", message, sent=True, lost=_is_reset(error)) from error

    def _refuse_endless(self, size: int, line_size: int) -> None:
        if size > settings.MAX_ANSWER_BYTES or (self.is_stream and line_size > MOST_LINE_BYTES):
            self.close()
            raise endless()

    async def _turns(self) -> AsyncIterator[bytes]:
        """The rest of what came at once, in parts with others' turns between them: it is read without waiting."""
        while self._given < len(self._chunk):
            part = self._chunk[self._given : self._given + TURN_BYTES]
            self._given += len(part)
            yield part
            await asyncio.sleep(0)
        self._chunk = b""

    def close(self) -> None:
        """Drop the connection at once: what is not read is not wanted."""
        self._response.close()
        if self._connection is not None:
            self._connection.open_calls -= 1
            self._connection = None


def endless() -> ProviderError:
    return ProviderError("upstream_cut", "The model's API answered without end.", sent=True)


def _is_reset(error: Exception) -> bool:
    """Whether a connection ended by a reset; within a body aiohttp says so in its words alone."""
    causes = (error, error.__cause__, error.__context__)
    return any(isinstance(one, ConnectionResetError) for one in causes) or "ConnectionResetError" in str(error)


def _names(body: bytes, under: str, named: str) -> list[str]:
    try:
        listed: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        listed = None
    rows = listed.get(under) if isinstance(listed, dict) else None
    if not isinstance(rows, list):
        raise ProviderError("upstream_garbage", "Its list of models could not be read.", sent=False)
    return [row[named] for row in rows if isinstance(row, dict) and isinstance(row.get(named), str)]
