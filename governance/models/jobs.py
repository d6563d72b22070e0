"""Jobs that run again and again, and how their last runs went."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class Job(models.Model):
    """A periodic job: who runs it now, and how it went. Written by `governance.upkeep.jobs`.

    `name` is its task's. While it runs, `held_by` is that run's, until `held_until`, which the run puts off.
    """

    name = models.CharField(max_length=120, unique=True)
    known_since = models.DateTimeField(help_text="From when on it is to run.")
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    succeeded_at = models.DateTimeField(null=True, blank=True)
    took_ms = models.PositiveBigIntegerField(null=True, blank=True, help_text="Of the last run that succeeded.")
    failures = models.PositiveIntegerField(default=0, help_text="In a row.")
    error = models.CharField(max_length=500, blank=True, help_text="Of the last run, where it failed.")
    held_by = models.UUIDField(null=True, blank=True)
    held_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=~Q(name=""), name="job_has_a_name"),
            models.CheckConstraint(
                condition=Q(held_by__isnull=True, held_until__isnull=True)
                | Q(held_by__isnull=False, held_until__isnull=False, started_at__isnull=False),
                name="job_held_by_a_run_until_a_time",
            ),
            models.CheckConstraint(
                condition=Q(failures=0, error="") | Q(failures__gt=0), name="job_error_of_a_failure"
            ),
        ]

    def __str__(self) -> str:
        return self.name
