"""How the periodic jobs are: when each succeeded last, how long that took, and whether it is late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings

from governance.models import Job

# A job is late when its second run in a row has not come, and so much more has passed.
ALLOWED_RUNS, ALLOWED_MORE = 2, timedelta(minutes=2)
OK, LATE, FAILING, WAITING = "ok", "late", "failing", "waiting"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job. `late_since` is None where it is not late; times are None where there has been no such run."""

    task: str
    period: timedelta
    succeeded_at: datetime | None
    took_s: float | None
    running_since: datetime | None
    late_since: datetime | None
    failures: int
    error: str

    @property
    def name(self) -> str:
        """The task without its module: no two have the same."""
        return short(self.task)

    @property
    def state(self) -> str:
        """late; failing, where its last run did; waiting, for its first run; ok."""
        if self.late_since is not None:
            return LATE
        if self.failures:
            return FAILING
        return WAITING if self.succeeded_at is None else OK


def short(task: str) -> str:
    return task.rpartition(".")[2]


def statuses(*, now: datetime) -> list[JobStatus]:
    """All jobs of beat's schedule, in its order; none where none ever began: nobody knows since when they should."""
    rows = {job.name: job for job in Job.objects.order_by()}
    return [_status(rows.get(task), task, period, now) for task, period in _periods().items()] if rows else []


def late(*, now: datetime) -> list[JobStatus]:
    """The jobs that are late: their runs are not begun, are never ended, or fail."""
    return [status for status in statuses(now=now) if status.late_since is not None]


def _status(job: Job | None, task: str, period: timedelta, now: datetime) -> JobStatus:
    if job is None:
        # Of a version that is newer than what runs jobs: it is made known with the next of these.
        return JobStatus(task, period, None, None, None, None, 0, "")
    late_at = (job.succeeded_at or job.known_since) + ALLOWED_RUNS * period + ALLOWED_MORE
    is_running = job.held_until is not None and job.held_until > now
    return JobStatus(
        task=task,
        period=period,
        succeeded_at=job.succeeded_at,
        took_s=None if job.took_ms is None else job.took_ms / 1000,
        running_since=job.started_at if is_running else None,
        late_since=late_at if late_at <= now else None,
        failures=job.failures,
        error=job.error,
    )


def _periods() -> Mapping[str, timedelta]:
    schedule: Mapping[str, Mapping[str, Any]] = settings.CELERY_BEAT_SCHEDULE
    return {name: entry["schedule"] for name, entry in schedule.items()}
