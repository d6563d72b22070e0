"""Answers that do not go on as they came: refusals that were read, and what is translated whole or on its way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Protocol

from multidict import CIMultiDict

from llm.providers import ProviderError
from llm.providers.http import MOST_LINE_BYTES, HttpAnswer
from llm.rules import sse

log = logging.getLogger(__name__)

# Usage that has not come so soon after its answer's end goes on by itself when it does.
USAGE_FOLLOWS_S = 0.25


class RefusedAnswer:
    """An error that was read already, to know what it means; `broken` is why it is not whole.

    See `llm.providers.Answer`.
    """

    def __init__(
        self, answer: HttpAnswer, *, status: int, body: bytes, broken: ProviderError | None, unseen_bytes: int = 0
    ) -> None:
        self._answer = answer
        self._body = body
        self._broken = broken
        self.status = status
        self.headers = CIMultiDict(answer.headers)
        if broken is None:
            self.headers["content-type"] = "application/json"
        self.kept_bytes = 0
        self.unseen_bytes = unseen_bytes
        self.waiting = b""
        self.used: Mapping[str, Any] = {}

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body
        if self._broken is not None:
            raise self._broken

    def parts(self) -> AsyncIterator[bytes]:
        return self.chunks()

    def whole(self, body: bytes) -> bytes:
        return body

    def close(self) -> None:
        self._answer.close()


class TranslatedAnswer:
    """A plain answer that is translated whole. See `llm.providers.Answer`."""

    def __init__(self, answer: HttpAnswer, translate: Callable[[bytes], tuple[bytes, int]]) -> None:
        """`translate` makes of a body what it is in Mistral's shape, and bytes that have no place there."""
        self._answer = answer
        self._translate = translate
        self.status = answer.status
        self.headers = answer.headers
        self.kept_bytes = self.unseen_bytes = 0
        self.waiting = b""
        self.used: Mapping[str, Any] = {}

    async def chunks(self) -> AsyncIterator[bytes]:
        """The whole body in Mistral's shape; as it came where it breaks off or cannot be read, and ProviderError."""
        said, broken = await self._answer.read(most_bytes=MOST_LINE_BYTES)
        if broken is None:
            try:
                said = self.whole(said)
            except ProviderError as error:
                broken = error
        yield said
        if broken is not None:
            raise broken

    def parts(self) -> AsyncIterator[bytes]:
        return self._answer.chunks()

    def whole(self, body: bytes) -> bytes:
        said, self.unseen_bytes = self._translate(body)
        return said

    def close(self) -> None:
        self._answer.close()


class Shaping(Protocol):
    """Turns a stream's events into bytes of Mistral's shape, one by one."""

    @property
    def kept_bytes(self) -> int: ...
    @property
    def unseen_bytes(self) -> int: ...
    @property
    def used(self) -> Mapping[str, Any]: ...
    @property
    def waits(self) -> bool: ...
    def feed(self, event: sse.Event) -> bytes: ...
    def flush(self) -> bytes: ...
    def rest(self) -> bytes: ...


class ShapedAnswer:
    """A stream that is translated on its way. See `llm.providers.Answer`."""

    def __init__(self, answer: HttpAnswer, shaping: Shaping, left_out: Callable[[Exception], None]) -> None:
        """`left_out` is told why the first event that cannot be translated could not."""
        self._answer = answer
        self._left_out = left_out
        self._shaping = shaping
        self._reader = sse.EventReader()
        self._unread_bytes = 0
        self.status = answer.status
        self.headers = answer.headers

    @property
    def kept_bytes(self) -> int:
        return self._shaping.kept_bytes

    @property
    def unseen_bytes(self) -> int:
        return self._shaping.unseen_bytes + self._unread_bytes

    @property
    def waiting(self) -> bytes:
        return self._reader.waiting

    @property
    def used(self) -> Mapping[str, Any]:
        return self._shaping.used

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream in Mistral's shape; raises ProviderError where it breaks off."""
        broken: ProviderError | None = None
        source = self._answer.chunks()
        try:
            while True:
                try:
                    async with asyncio.timeout(USAGE_FOLLOWS_S if self._shaping.waits else None):
                        chunk = await anext(source, b"")
                except TimeoutError:
                    source = self._answer.chunks()
                    yield self._shaping.flush()
                    continue
                if not chunk:
                    break
                if shaped := self._shape(self._reader.feed(chunk)):
                    yield shaped
        except ProviderError as error:
            broken = error
        # What was written before a stream broke was paid for, and goes on.
        events, unread = self._reader.rest()
        if rest := self._shape(events) + self._shaping.rest() + unread:
            yield rest
        if broken is not None:
            raise broken

    def parts(self) -> AsyncIterator[bytes]:
        return self.chunks()

    def whole(self, body: bytes) -> bytes:
        return body

    def _shape(self, events: Iterable[sse.Event]) -> bytes:
        """What events become. Nothing that an endpoint sends can raise."""
        shaped = []
        for event in events:
            try:
                shaped.append(self._shaping.feed(event))
            except Exception as error:
                if not self._unread_bytes:
                    self._left_out(error)
                self._unread_bytes += len(event.raw)
        return b"".join(shaped)

    def close(self) -> None:
        self._answer.close()


def note_left_out(error: Exception, *, provider: str, request_id: str) -> None:
    """Say why an event cannot be translated; once an answer, for an endpoint may send as many as it likes."""
    log.warning("request %s: an event of %s cannot be translated: %s", request_id, provider, type(error).__name__)
