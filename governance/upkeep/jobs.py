"""Runs of periodic jobs: one of each at a time, in whichever process, each with its end noted.

Whoever runs a job holds its row until a moment that it puts off as long as it lives. One that was killed, or stopped,
holds up the next for LEASE at most. Every job does no harm when it is run twice, or again from its beginning: what a
stopped process does when it goes on is no danger, and no run needs to be undone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.models import F, Q

from governance import measures
from governance.ledger import clock
from governance.models import Job
from governance.rules import names

log = logging.getLogger(__name__)

T = TypeVar("T")
LEASE = timedelta(seconds=60)
RENEWED_EVERY_S = 20.0
# A worker's own figures are set by the jobs that it runs, of which there is one every few seconds.
_sampler = measures.Sampler("worker")
LONGEST_ERROR = 500


def run(name: str, work: Callable[[], T]) -> T | None:
    """What `work` returns; None, without running it, where another run of the job is under way. Raises what it does."""
    run_id = uuid4()
    if not _is_taken(name, run_id):
        log.info("%s runs already", name)
        return None
    began_s = time.monotonic()
    try:
        with _kept(name, run_id):
            result = work()
    except BaseException as error:
        _note_failure(name, run_id, error)
        raise
    _note_success(name, run_id, timedelta(seconds=time.monotonic() - began_s))
    _sampler.sample()
    return result


def _is_taken(name: str, run_id: UUID) -> bool:
    """Take the job, unless somebody has it. The condition settles a race: one of two finds the row free."""
    # The database's: machines whose clocks differ agree on who holds a job.
    now = clock.now()
    free = Job.objects.filter(Q(held_until=None) | Q(held_until__lte=now), name=name).order_by()
    taken = {"held_by": run_id, "held_until": now + LEASE, "started_at": now}
    if free.update(**taken):
        return True
    if Job.objects.filter(name=name).exists():
        return False
    # All that there are, so that one that never runs is missed.
    known = {name, *settings.CELERY_BEAT_SCHEDULE}
    Job.objects.bulk_create([Job(name=each, known_since=now) for each in sorted(known)], ignore_conflicts=True)
    return bool(free.update(**taken))


@contextmanager
def _kept(name: str, run_id: UUID) -> Iterator[None]:
    """Hold the job on while it runs."""
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(name, run_id, ended), name=f"holds-{name}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()


def _keep(name: str, run_id: UUID, ended: threading.Event) -> None:
    while not ended.wait(RENEWED_EVERY_S):
        try:
            Job.objects.filter(name=name, held_by=run_id).update(held_until=clock.now() + LEASE)
        except (DatabaseError, InterfaceError):
            log.warning("%s could not be held on; another run may begin", name, exc_info=True)
        finally:
            connection.close()


def _note_success(name: str, run_id: UUID, took: timedelta) -> None:
    now = clock.now()
    said = {"succeeded_at": now, "took_ms": took // timedelta(milliseconds=1), "failures": 0, "error": ""}
    try:
        if not _end(name, run_id, now, **said):
            log.warning("%s took so long that another run began", name)
    except (DatabaseError, InterfaceError):
        # It is done all the same, and free again when its time is over.
        log.warning("the success of %s could not be noted", name, exc_info=True)


def _note_failure(name: str, run_id: UUID, error: BaseException) -> None:
    said = names.printable(f"{type(error).__name__}: {error}".replace("\0", ""))[:LONGEST_ERROR]
    try:
        _end(name, run_id, clock.now(), failures=F("failures") + 1, error=said)
    except (DatabaseError, InterfaceError):
        # What the job failed for, as a rule; it is free again when its time is over.
        log.warning("the failure of %s could not be noted", name, exc_info=True)


def _end(name: str, run_id: UUID, now: datetime, **said: object) -> bool:
    free = {"held_by": None, "held_until": None, "ended_at": now}
    return bool(Job.objects.filter(name=name, held_by=run_id).update(**free, **said))
