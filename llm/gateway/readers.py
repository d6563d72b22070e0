"""Threads that use the database for the event loop, each on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

from django.conf import settings
from django.db import OperationalError, connection

from governance import database

T = TypeVar("T")


class Readers:
    """Some threads for one kind of work, so that no other kind waits behind it."""

    def __init__(self, name: str, *, count: int) -> None:
        self._count = count
        self._threads = ThreadPoolExecutor(
            max_workers=count, thread_name_prefix=f"gateway-{name}", initializer=database.keep_own
        )

    async def run(self, work: Callable[[], T]) -> T:
        """Do something in one of the threads. OperationalError where the database does not answer in time."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, _tidily, work)
        try:
            # wait_for would lose a cancellation that comes with the result, and so keep a shutdown waiting for ever.
            async with asyncio.timeout(settings.LEDGER_TIMEOUT_S):
                return await running
        except TimeoutError as error:
            raise OperationalError("the database does not answer") from error
        finally:
            # It keeps its error, which by this frame would keep it.
            del running

    def close(self) -> None:
        """End the threads and their connections; waits for what they do."""
        all_here = Barrier(self._count)

        def leave() -> None:
            # None takes the place of another before each has been here; a stuck one is not waited for without end.
            with suppress(BrokenBarrierError):
                all_here.wait(settings.LEDGER_TIMEOUT_S)
            connection.close()

        for _ in range(self._count):
            self._threads.submit(leave)
        self._threads.shutdown()


def _tidily(work: Callable[[], T]) -> T:
    """`work` on this thread's database connection, which is dropped if it broke: the next read makes a new one."""
    try:
        return work()
    finally:
        connection.close_if_unusable_or_obsolete()
