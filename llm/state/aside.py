"""Work that calls leave to others, off their way: a bounded queue and the thread that empties it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from llm.state import metrics

log = logging.getLogger(__name__)

T = TypeVar("T")
EVERY_S = 0.2
MOST_WAITING, MOST_AT_ONCE = 10_000, 512


class Aside(Generic[T]):
    """Gives what is put to `take`, many at once, in a thread of its own. `close` waits until all is taken.

    What there is no room for, and what `take` fails for, is dropped and counted (`telemetry_dropped` of `name`).
    """

    def __init__(self, name: str, take: Callable[[Sequence[T]], None], *, most: int = MOST_WAITING) -> None:
        self._name, self._take, self._most = name, take, most
        self._waiting: deque[T] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"aside-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: T) -> None:
        """Waits for nothing."""
        if len(self._waiting) >= self._most:
            metrics.dropped(self._name, 1)
        else:
            self._waiting.append(item)

    def close(self, *, timeout_s: float = 2.0) -> None:
        self._closing.set()
        self._thread.join(timeout_s)
        if left := len(self._waiting):
            metrics.dropped(self._name, left)

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            self._empty()
        self._empty()

    def _empty(self) -> None:
        while self._waiting:
            items = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_AT_ONCE))]
            try:
                self._take(items)
            except Exception:
                metrics.dropped(self._name, len(items))
                log.warning("%s: %d could not be told", self._name, len(items), exc_info=True)
