"""What a line of the log is about: the id of the request that it was written for, wherever that is handled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# A call's id is that of its header, its rows, its request to the model, and its lines; a job's is its task's.
current: ContextVar[str] = ContextVar("request_id", default="")


@contextmanager
def known_as(request_id: str) -> Iterator[None]:
    """Lines that are written within are about this request."""
    token = current.set(request_id)
    try:
        yield
    finally:
        current.reset(token)
