"""Threads that use the database for the event loop, each on a connection of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from django.conf import settings
from django.db import OperationalError, connection

from governance import database

T = TypeVar("T")


class Readers:
    """Some threads for one kind of work, so that no other kind waits behind it."""

    def __init__(self, name: str, *, count: int) -> None:
        self._count = count
        # Since when each thread has been at its work, monotonic seconds; of those that are at some.
        self._busy_since_s: dict[int, float] = {}
        self._threads = ThreadPoolExecutor(
            max_workers=count, thread_name_prefix=f"gateway-{name}", initializer=database.keep_own
        )

    async def run(self, work: Callable[[], T]) -> T:
        """Do something in one of the threads. OperationalError where the database does not answer in time.

        At once where it has not answered any of them in time: whoever comes next would wait for nothing.
        """
        if self._are_stuck():
            raise OperationalError("the database does not answer")
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._tidily, work)
        try:
            # wait_for would lose a cancellation that comes with the result, and so keep a shutdown waiting for ever.
            async with asyncio.timeout(settings.LEDGER_DEADLINE_S):
                return await running
        except TimeoutError as error:
            raise OperationalError("the database does not answer") from error
        finally:
            # It keeps its error, which by this frame would keep it.
            del running

    def _are_stuck(self) -> bool:
        busy = list(self._busy_since_s.values())
        return len(busy) == self._count and time.monotonic() - max(busy) > settings.LEDGER_DEADLINE_S

    def _tidily(self, work: Callable[[], T]) -> T:
        """`work` on this thread's database connection, which is dropped if it broke: the next read makes a new one."""
        thread = threading.get_ident()
        self._busy_since_s[thread] = time.monotonic()
        try:
            return work()
        finally:
            del self._busy_since_s[thread]
            connection.close_if_unusable_or_obsolete()

    def close(self) -> None:
        """End the threads and their connections; waits for what they do."""
        all_here = threading.Barrier(self._count)

        def leave() -> None:
            # None takes the place of another before each has been here; a stuck one is not waited for without end.
            with suppress(threading.BrokenBarrierError):
                all_here.wait(settings.LEDGER_DEADLINE_S)
            connection.close()

        for _ in range(self._count):
            self._threads.submit(leave)
        self._threads.shutdown()
