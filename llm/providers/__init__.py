"""One file a provider, each behind the same small protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol


class ProviderError(Exception):
    """The provider gave no answer. `sent`: the request may have reached it, so it may have cost money."""

    def __init__(self, code: str, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.code, self.sent = code, sent


class Answer(Protocol):
    """An answer whose status and headers are here; its body is read as bytes, as they come."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    async def read(self) -> bytes: ...
    def chunks(self) -> AsyncIterator[bytes]: ...
    def close(self) -> None: ...


class Provider(Protocol):
    """A place that models can be called at. Calls raise ProviderError."""

    name: str

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def post(self, path: str, body: bytes, *, request_id: str) -> Answer: ...
