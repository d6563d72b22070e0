"""Beat's memory: none. A file of its own would be damaged by a power cut, and beat would end at each start."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery.beat import Scheduler

# What runs no more often than this is due at each start too: beat may be started anew more often than it is due, and
# every job may run once more without harm.
SELDOM = timedelta(hours=1)


class Forgetful(Scheduler):
    """CELERY_BEAT_SCHEDULER: what was due while beat was not there is due when it is."""

    def setup_schedule(self) -> None:
        # Celery's own jobs belong to a store of results, which is not used.
        self.merge_inplace(self.app.conf.beat_schedule)
        for entry in self.schedule.values():
            # An interval; its type stub does not say so.
            period: timedelta = entry.schedule.run_every  # type: ignore[union-attr]
            if period >= SELDOM:
                entry.last_run_at = entry.default_now() - period

    @property
    def info(self) -> str:
        return "    . schedule -> in memory"

    def sync(self) -> Any:
        """Nothing is kept."""
