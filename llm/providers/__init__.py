"""One file a provider, each behind the same small protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Protocol

from llm.rules.client_requests import Request
from llm.rules.estimates import Estimate


class ProviderError(Exception):
    """The provider gave no answer. `sent`: the request may have reached it, so it may have cost money.

    `again`: a connection ended that had served before; on a new one it may be answered. `lost`: it was reset, which
    takes along what had come and was not read yet.
    """

    def __init__(self, code: str, message: str, *, sent: bool, again: bool = False, lost: bool = False) -> None:
        super().__init__(message)
        self.code, self.sent, self.again, self.lost = code, sent, again, lost


class Answer(Protocol):
    """An answer whose status and headers are here; its body is read as bytes, as they come.

    The bytes are in Mistral's shape, whatever the provider speaks.
    """

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def kept_bytes(self) -> int:
        """Of a stream: bytes that the model has written and that wait to be passed on in one piece."""

    @property
    def unseen_bytes(self) -> int:
        """Bytes that it may have written and that have no place in a chat completion, or could not be translated."""

    @property
    def waiting(self) -> bytes:
        """Of a stream: what has come of an event that is not complete."""

    @property
    def used(self) -> Mapping[str, Any]:
        """Of a stream: what it has said so far that it used, where its bytes say that at their end alone."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; raises ProviderError where it breaks off, when all that has come was given."""

    def parts(self) -> AsyncIterator[bytes]:
        """The same, as it comes where `chunks` waits for all of it to be translated: `whole` does that then."""

    def whole(self, body: bytes) -> bytes:
        """A whole body that came by `parts` in Mistral's shape. Raises ProviderError for what cannot be read.

        It takes time by the body's size.
        """

    def close(self) -> None: ...


class Provider(Protocol):
    """A place that models can be called at. `name` is its name in the catalogue."""

    name: str

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    def body(self, request: Request, *, model: str, max_tokens: int | None, disabled_tools: Collection[str]) -> bytes:
        """The request in the provider's own dialect. Raises `DialectError` for what it cannot be asked."""

    def bound(self, request: Request, estimate: Estimate) -> Estimate:
        """The bound of the body that it would be sent; `estimate` is that of the request in Mistral's shape."""

    async def send(self, path: str, body: bytes, *, content_type: str, request_id: str) -> Answer:
        """Send a body to a path below /v1. Raises ProviderError where no answer began."""

    async def list_models(self) -> list[str]:
        """The ids of the models that the key may use: proof that it works. Raises ProviderError."""
