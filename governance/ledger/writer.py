"""One writer thread a process: it hands `ledger.apply` whatever queued up while the last commit was on its way.

So throughput grows with load, and nobody waits for a timer. Reservations fail at once when the database is away
(nothing is sent upstream then); what resolves a reservation is kept and tried again until it lands.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from governance import ledger
from governance.ledger.operations import Extend, Operation, Release, Reserve, Settle

log = logging.getLogger(__name__)

BATCH = 256
# Between tries to land settlements while the database is away.
PAUSE_S = (0.05, 2.0)


@dataclass(slots=True)
class _Job:
    operation: Operation
    loop: asyncio.AbstractEventLoop | None
    future: asyncio.Future[Any] | None


class GroupCommit:
    """A queue of operations and the thread that drains it.

    `submit` is for the event loop and waits for the commit. `close` waits until everything queued has landed, or
    `timeout_s` is over; what is left then is covered by its reservation's expiry.
    """

    def __init__(self, *, clock: Callable[[], datetime] = timezone.now) -> None:
        self._clock = clock
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._drain, name="group-commit", daemon=True)
        self._closing = threading.Event()
        self._waiting: list[_Job] = []

    def start(self) -> None:
        self._thread.start()

    async def submit(self, operation: Operation) -> Any:
        """The operation's result once it is committed; raises what `ledger` raises for it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.put(_Job(operation, loop, future))
        try:
            return await future
        except asyncio.CancelledError:
            if isinstance(operation, Reserve):
                # Nobody is left who would use the hold, or free it.
                self.put(Release(operation.reservation_id))
            raise

    def put(self, operation: Operation) -> None:
        """Queue an operation nobody waits for; its failure is logged."""
        self._queue.put(_Job(operation, None, None))

    @property
    def unsettled(self) -> int:
        """Operations kept for another try because the database is away."""
        return len(self._waiting)

    def close(self, *, timeout_s: float = 10.0) -> None:
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("%d operations had not landed at shutdown; their reservations will expire", self.unsettled)

    def _drain(self) -> None:
        pause_s = PAUSE_S[0]
        try:
            while True:
                jobs = self._take(wait_s=pause_s if self._waiting else None)
                jobs = self._waiting + jobs
                if jobs:
                    self._waiting = self._carry_out(jobs)
                if self._waiting:
                    # Tried again with what arrives next; new reservations in it are still answered at once.
                    time.sleep(pause_s)
                    pause_s = min(pause_s * 2, PAUSE_S[1])
                else:
                    pause_s = PAUSE_S[0]
                    if self._closing.is_set() and self._queue.empty():
                        return
        finally:
            connection.close()

    def _take(self, wait_s: float | None) -> list[_Job]:
        """Everything queued, up to a batch; waits for the first unless there is something to try again."""
        jobs: list[_Job] = []
        try:
            job = self._queue.get(timeout=wait_s) if not self._closing.is_set() else self._queue.get_nowait()
            while True:
                # None only wakes the thread when it has to end.
                if job is not None:
                    jobs.append(job)
                if len(jobs) == BATCH:
                    return jobs
                job = self._queue.get_nowait()
        except queue.Empty:
            return jobs

    def _carry_out(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Commit a batch and answer it; what must land but could not is returned, to be tried again."""
        try:
            results = ledger.apply([job.operation for job in jobs], now=self._clock())
        except ledger.LedgerUnavailable as error:
            log.warning("the ledger's database is away: %s", error)
            return self._refuse(jobs, error)
        except Exception as error:
            log.exception("a batch failed")
            results = [error] * len(jobs)
        self._answer(jobs, results)
        return []

    def _refuse(self, jobs: Sequence[_Job], error: ledger.LedgerUnavailable) -> list[_Job]:
        kept, refused = [], []
        for job in jobs:
            if isinstance(job.operation, Settle | Release):
                kept.append(job)
                continue
            refused.append(job)
            if error.unsure and isinstance(job.operation, Reserve):
                # The commit may have landed before the connection broke; nobody will use this hold.
                kept.append(_Job(Release(job.operation.reservation_id), None, None))
        self._answer(refused, [error] * len(refused))
        return kept

    def _answer(self, jobs: Sequence[_Job], results: Sequence[Any]) -> None:
        """Deliver results, with one wake-up for each event loop."""
        loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for job, result in zip(jobs, results, strict=True):
            if job.loop is not None and job.future is not None:
                loops.setdefault(job.loop, []).append((job.future, result))
            elif isinstance(result, Exception) and not _expected(job.operation, result):
                log.error("%s failed: %s", type(job.operation).__name__, result)
        for loop, answers in loops.items():
            try:
                loop.call_soon_threadsafe(_resolve, answers)
            except RuntimeError:
                # The loop is closed: its clients are gone, and the ledger has what they did.
                log.info("%d answers had no one left to hear them", len(answers))


def _expected(operation: Operation, error: Exception) -> bool:
    """A hold that never was, or is resolved already, needs no release and no longer life."""
    return isinstance(operation, Release | Extend) and isinstance(
        error, ledger.ReservationUnknown | ledger.AlreadyResolved
    )


def _resolve(answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in answers:
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
