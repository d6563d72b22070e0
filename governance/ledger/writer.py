"""One writer thread a process: it hands `ledger.apply` whatever queued up while the last commit was on its way.

So throughput grows with load, and nobody waits for a timer. A reservation fails at once while the database is known to
be away, and after LEDGER_DEADLINE_S when it does not answer (nothing is sent upstream then); one given up while
it queued is not carried out. What resolves a reservation is kept and tried again until it lands, whatever the database
says; only the ledger's own word that the reservation is resolved ends it. Where nothing is kept, something is written
and taken back, again and again, so that it is noticed soon that the database is back.
Where there is none any more (a standby took over that lacks the last commits), the call is charged without it. One that
fails for itself while others land is tried again alone, so that it holds up nobody, with longer and longer pauses;
operators are told of it. Should it never land, the reservation's expiry charges the whole hold.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, cast

from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone
from prometheus_client import Histogram

from governance import database, ledger, measures
from governance.alerts import conditions as alerts
from governance.ledger import held_up, locks
from governance.ledger.operations import Extend, Operation, Record, Release, Reserve, Settle
from governance.rules.errors import own_of

log = logging.getLogger(__name__)

BATCH = 256
# Reservations that wait for a batch, or in one. Whoever comes when there are so many would wait longer than is worth
# it: a process carries out a few thousand a second.
MOST_WAITING = 512
# Between tries to land settlements while the database is away; the longest is how late it is noticed to be back.
PAUSE_S = (0.05, 0.5)
# Between tries of one that fails for itself.
LONGEST_PAUSE_S = 60.0
# So long after its connection broke a server may carry a COMMIT out.
LATE_COMMIT_S = 60.0
# An alert is opened at this try of it.
TOLD_AT = 4
STUCK = "settlement_stuck"
LOST = "holds_lost"


@cache
def _sizes() -> Histogram:
    sizes = tuple(2**power for power in range(9))
    return Histogram(
        "spend_governor_ledger_batch_operations",
        "Operations that one transaction of the ledger carried out.",
        buckets=sizes,
        registry=None,
    )


@cache
def _waits() -> Histogram:
    return Histogram(
        "spend_governor_ledger_wait_seconds",
        "Seconds that the first operation of a batch waited for the ledger's writer.",
        buckets=measures.SHORT_S,
        registry=None,
    )


@cache
def _commits() -> Histogram:
    return Histogram(
        "spend_governor_ledger_batch_seconds",
        "Seconds that a batch of the ledger took, its commit included.",
        buckets=measures.SHORT_S,
        registry=None,
    )


@dataclass(slots=True, eq=False)
class _Job:
    operation: Operation
    loop: asyncio.AbstractEventLoop | None
    future: asyncio.Future[Any] | None
    # Of one that failed for itself: how often it did, and when it is due again (monotonic seconds).
    tries: int = 0
    due: float = 0.0
    # Whether it waits for a lock of somebody else's, with others of its tenant.
    is_held_up: bool = False
    # Of a release of what may have been reserved: since when, and how often it was looked for in vain.
    unsure_since: float | None = None
    looks: int = 0
    queued_s: float = field(default_factory=time.monotonic)
    # One of the two takes it: the thread, to carry it out, or whoever waited, to give it up. `list.pop` is atomic.
    _turn: list[None] = field(default_factory=lambda: [None])

    def is_mine(self) -> bool:
        """True for whoever asks first."""
        try:
            self._turn.pop()
        except IndexError:
            return False
        return True

    @property
    def must_land(self) -> bool:
        return isinstance(self.operation, Settle | Release | Record)


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
        # Kept because the database is away; and what failed for itself.
        self._waiting: list[_Job] = []
        self._stuck: list[_Job] = []
        # Of these: what is being tried once more.
        self._retried: list[_Job] = []
        self._held_up = held_up.known
        # What the database said last, while it is away; since when it has not answered a batch (monotonic seconds).
        self._away: str | None = None
        self._busy_since_s: float | None = None
        self._reserving = 0

    def start(self) -> None:
        self._thread.start()
        _running.append(self)

    async def submit(self, operation: Operation, *, timeout_s: float | None = None) -> Any:
        """The operation's result once it is committed; raises what `ledger` raises for it.

        LedgerUnavailable also after `timeout_s`, by default LEDGER_DEADLINE_S for a Reserve and for no one else; and
        for a Reserve at once while none is taken. A Reserve that lands all the same is released.
        """
        if not isinstance(operation, Reserve):
            return await self._submit(operation, timeout_s)
        self._refuse_closed(operation)
        self._reserving += 1
        try:
            return await self._submit(operation, settings.LEDGER_DEADLINE_S if timeout_s is None else timeout_s)
        finally:
            self._reserving -= 1

    async def _submit(self, operation: Operation, timeout_s: float | None) -> Any:
        loop = asyncio.get_running_loop()
        job = _Job(operation, loop, loop.create_future())
        self._queue.put(job)
        try:
            async with asyncio.timeout(timeout_s):
                return await cast(asyncio.Future[Any], job.future)
        except TimeoutError as error:
            self._abandon(job)
            raise ledger.LedgerUnavailable(f"no answer within {timeout_s} s", unsure=True) from error
        except asyncio.CancelledError:
            self._abandon(job)
            raise

    def _refuse_closed(self, operation: Reserve) -> None:
        if (reason := self.why_closed()) is not None:
            raise ledger.LedgerUnavailable(reason)
        if not self._held_up.is_due(operation.caller.tenant):
            raise ledger.HeldUp(operation.caller.tenant)

    def why_closed(self) -> str | None:
        """Why no reservation is taken: the database is known to be away, or too many wait already. None: one is."""
        if self._reserving >= MOST_WAITING:
            return f"{MOST_WAITING} reservations wait already"
        return self.why_away()

    def why_away(self) -> str | None:
        """What is known of the database's being away; None while it answers."""
        since_s = self._busy_since_s
        if since_s is not None and time.monotonic() - since_s > settings.LEDGER_DEADLINE_S:
            return f"no answer for more than {settings.LEDGER_DEADLINE_S} s"
        return self._away

    def put(self, operation: Operation) -> None:
        """Queue an operation nobody waits for; its failure is logged."""
        self._queue.put(_Job(operation, None, None))

    @property
    def unsettled(self) -> int:
        """Operations kept for another try, or at it."""
        return len(self._unlanded())

    @property
    def depth(self) -> int:
        """Operations that wait for the ledger's writer, those that are kept for another try included."""
        return self._queue.qsize() + self.unsettled

    def _unlanded(self) -> list[_Job]:
        """Each once, whatever the thread moves from one list to another meanwhile."""
        return list({id(job): job for job in (*self._retried, *self._waiting, *self._stuck)}.values())

    def close(self, *, timeout_s: float = 10.0) -> None:
        with suppress(ValueError):
            _running.remove(self)
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("%d operations had not landed at shutdown; their reservations will expire", self.unsettled)
            for job in self._unlanded():
                log.error("not landed: %r", job.operation)

    def _abandon(self, job: _Job) -> None:
        if isinstance(job.operation, Reserve) and not job.is_mine():
            # Nobody is left who would use the hold, or free it.
            self.put(Release(job.operation.reservation_id))

    def _drain(self) -> None:
        database.keep_own()
        pause_s = PAUSE_S[0]
        try:
            while True:
                # What is new first: it is answered at once, whatever has to wait for the database.
                jobs = self._take(wait_s=self._patience_s())
                if jobs:
                    measures.observe(_waits, (), time.monotonic() - jobs[0].queued_s)
                jobs += self._waiting
                kept = self._carry_out(jobs[:BATCH]) if jobs else []
                self._waiting = jobs[BATCH:] + kept
                # Until the next ones come, these would keep what they refer to, their calls' bodies too.
                del jobs
                if self._away is None:
                    self._retry_stuck()
                elif not self._waiting:
                    self._look_whether_it_is_back()
                is_at_its_end = self._closing.is_set() and self._queue.empty()
                if is_at_its_end and not self.unsettled:
                    return
                if self._away is None:
                    pause_s = PAUSE_S[0]
                if is_at_its_end or self._away is not None:
                    # Tried again with what arrives next; new reservations are refused meanwhile.
                    time.sleep(pause_s)
                    pause_s = min(pause_s * 2, PAUSE_S[1])
        finally:
            connection.close()

    def _patience_s(self) -> float | None:
        """How long to wait for what is new; None: until it comes."""
        if self._away is not None:
            return 0.0
        return PAUSE_S[0] if self._waiting else self._stuck_wait_s()

    def _take(self, wait_s: float | None) -> list[_Job]:
        """Everything queued, up to a batch; waits for the first unless there is something to try again."""
        jobs: list[_Job] = []
        try:
            job = self._queue.get(timeout=wait_s) if not self._closing.is_set() else self._queue.get_nowait()
            while True:
                # None only wakes the thread when it has to end.
                if job is not None and job.is_mine():
                    jobs.append(job)
                if len(jobs) == BATCH:
                    return jobs
                job = self._queue.get_nowait()
        except queue.Empty:
            return jobs

    def _carry_out(self, jobs: Sequence[_Job], *, are_held_up: bool = False) -> list[_Job]:
        """Commit a batch and answer it; what must land but could not, for the database, is returned.

        Tenants whom a lock may still hold up are tried after the others, where they are due.
        """
        if not (are_held_up or self._held_up.names()):
            return self._commit(jobs)
        try:
            with self._at_the_database():
                tenants = ledger.tenants_of([job.operation for job in jobs])
        except ledger.LedgerUnavailable as error:
            return self._refuse(jobs, error)
        whose = list(zip(jobs, tenants, strict=True))
        theirs = set(tenants) if are_held_up else self._held_up.names()
        due = {tenant for tenant in theirs.intersection(tenants) if self._held_up.may_try(tenant)}
        kept = self._commit([job for job, tenant in whose if tenant not in theirs])
        kept += self._commit([job for job, tenant in whose if tenant in due], of_held_up=due)
        waiting = {job: ledger.HeldUp(tenant) for job, tenant in whose if tenant in theirs - due}
        return kept + self._end(list(waiting), list(waiting.values()))

    def _commit(self, jobs: Sequence[_Job], *, of_held_up: Collection[str] = ()) -> list[_Job]:
        if not jobs:
            return []
        began_s = time.monotonic()
        try:
            with self._at_the_database():
                results = ledger.apply([job.operation for job in jobs], now=self._clock(), are_held_up=bool(of_held_up))
            measures.observe(_sizes, (), len(jobs))
            measures.observe(_commits, (), time.monotonic() - began_s)
        except ledger.LedgerUnavailable as error:
            log.warning("the ledger's database is away: %s", error)
            return self._refuse(jobs, error)
        except Exception as error:
            log.exception("a batch failed")
            results = [own_of(error) for _ in jobs]
        met = {each.tenant for each in results if isinstance(each, ledger.HeldUp)}
        self._held_up.learn(met, tried=of_held_up, took_s=time.monotonic() - began_s)
        return self._end(jobs, results)

    def _end(self, jobs: Sequence[_Job], results: Sequence[Any]) -> list[_Job]:
        """Answer what is done, and keep what must land and is not; what is to be charged anew is returned."""
        answered = list(zip(jobs, results, strict=True))
        unheld = [job for job, result in answered if self._has_lost_hold(job, result)]
        ended = [(job, result) for job, result in answered if job not in unheld and not self._kept(job, result)]
        self._answer([job for job, _ in ended], [_said(result) for _, result in ended])
        for job, _ in ended:
            if job.tries >= TOLD_AT:
                self._clear(job)
        return unheld

    @contextmanager
    def _at_the_database(self) -> Iterator[None]:
        """Note since when it has not answered, and whether it is away."""

        def begin() -> None:
            self._busy_since_s = time.monotonic()

        begin()
        try:
            with locks.answers_heard_by(begin):
                yield
        except ledger.LedgerUnavailable as error:
            self._away = str(error) if locks.is_of_database(error) else self._away
            raise
        else:
            self._away = None
        finally:
            self._busy_since_s = None

    def _look_whether_it_is_back(self) -> None:
        with suppress(ledger.LedgerUnavailable), self._at_the_database():
            ledger.try_to_write()

    def _has_lost_hold(self, job: _Job, result: Any) -> bool:
        """Whether a settlement's hold is not there; then it is charged without, and operators are told."""
        if not isinstance(result, ledger.ReservationUnknown) or not isinstance(job.operation, Settle):
            return False
        charge = job.operation.unheld()
        if charge is None:
            return False
        log.error("charged without its hold, which is not there: %r", job.operation)
        job.operation = charge
        message = (
            f"The hold of request {charge.request_id} of {charge.caller.tenant} is not in the database, so its call is"
            " charged without one. The database lacks what it had: a standby took over that was behind, or a backup was"
            " put back. What was charged just before is not in the ledger; compare it with what providers report."
        )
        self._report(LOST, LOST, message)
        return True

    def _kept(self, job: _Job, result: Any) -> bool:
        """Keep what must land and failed for itself; False where it did not."""
        job.is_held_up = isinstance(result, ledger.HeldUp)
        if not job.must_land or not isinstance(result, Exception):
            return False
        if isinstance(result, ledger.ReservationUnknown) and self._may_still_come(job):
            self._stuck.append(job)
            return True
        if isinstance(result, ledger.AlreadyResolved | ledger.ReservationUnknown):
            return False
        if isinstance(result, ledger.HeldUp):
            job.due = self._held_up.due_s(result.tenant)
            self._stuck.append(job)
            return True
        job.tries += 1
        pause_s = min(LONGEST_PAUSE_S, PAUSE_S[0] * 2**job.tries)
        job.due = time.monotonic() + pause_s
        log.error("try %d failed, again in %.1f s: %r: %r", job.tries, pause_s, job.operation, result)
        if job.tries == TOLD_AT:
            self._tell(job, result)
        self._stuck.append(job)
        return True

    def _may_still_come(self, job: _Job) -> bool:
        """Whether the hold that a job releases may yet be committed; then it is looked for again."""
        if job.unsure_since is None or time.monotonic() > job.unsure_since + LATE_COMMIT_S or self._closing.is_set():
            return False
        job.looks += 1
        job.due = time.monotonic() + PAUSE_S[0] * 2**job.looks
        return True

    def _stuck_wait_s(self) -> float | None:
        """How long until what is stuck is due; None where nothing is."""
        return max(0.0, min(job.due for job in self._stuck) - time.monotonic()) if self._stuck else None

    def _retry_stuck(self) -> None:
        """Try again what is due of that which failed for itself: each alone, and what a lock holds up together."""
        now = time.monotonic()
        # No end of a process waits for what may never come.
        self._retried = [job for job in self._stuck if job.due <= now or (job.looks and self._closing.is_set())]
        self._stuck = [job for job in self._stuck if job not in self._retried]
        held_up = [job for job in self._retried if job.is_held_up]
        self._waiting += [kept for job in self._retried if not job.is_held_up for kept in self._carry_out([job])]
        for at in range(0, len(held_up), BATCH):
            self._waiting += self._carry_out(held_up[at : at + BATCH], are_held_up=True)
        self._retried = []

    def _tell(self, job: _Job, error: Exception) -> None:
        """Tell the operators: with what it is, the line can be posted by hand."""
        self._report(STUCK, _subject(job), f"It is tried again until it lands: {error!r}: {job.operation!r}")

    def _report(self, kind: str, subject: str, message: str) -> None:
        try:
            alerts.report(kind=kind, subject=subject, message=message, severity="critical", now=self._clock())
        except DatabaseError:
            log.exception("an alert could not be opened")

    def _clear(self, job: _Job) -> None:
        try:
            alerts.clear(kind=STUCK, subject=_subject(job), now=self._clock())
        except DatabaseError:
            log.exception("an alert could not be cleared")

    def _refuse(self, jobs: Sequence[_Job], error: ledger.LedgerUnavailable) -> list[_Job]:
        kept, refused = [], []
        for job in jobs:
            if job.must_land:
                kept.append(job)
                continue
            refused.append(job)
            if error.unsure and isinstance(job.operation, Reserve):
                # The commit may have landed before the connection broke; nobody will use this hold.
                release = Release(job.operation.reservation_id)
                kept.append(_Job(release, None, None, unsure_since=time.monotonic()))
        self._answer(refused, [own_of(error) for _ in refused])
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


# Of this process.
_running: list[GroupCommit] = []


def why_away() -> str | None:
    """What this process's writer knows of the database's being away; None where it answers, or there is no writer."""
    return next((reason for commit in list(_running) if (reason := commit.why_away()) is not None), None)


def _said(result: Any) -> Any:
    """What whoever asked is told: what the database alone refuses, for whatever reason, was not done."""
    if isinstance(result, DatabaseError):
        return ledger.LedgerUnavailable(f"the database refuses it: {result}")
    return result


def _subject(job: _Job) -> str:
    match job.operation:
        case Settle() | Release() as resolving:
            return f"reservation {resolving.reservation_id}"
        case operation:
            return f"reservation {cast(Record, operation).request_id}"


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
