"""What operators should know of and mend."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q


class Alert(models.Model):
    """Something that is wrong, from when it was first seen until it is over or an operator has seen to it.

    There is one open alert for each kind and subject. Written by `governance.alerts`.
    """

    class Severity(models.TextChoices):
        INFO = "info"
        WARNING = "warning"
        CRITICAL = "critical"

    kind = models.CharField(max_length=60)
    subject = models.CharField(max_length=255, blank=True)
    severity = models.CharField(max_length=8, choices=Severity.choices)
    message = models.CharField(max_length=1000)
    count = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    cleared_at = models.DateTimeField(null=True, blank=True)
    cleared_by = models.CharField(max_length=150, blank=True, help_text="Empty: it was over by itself.")

    class Meta:
        ordering = ["-last_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=~Q(kind=""), name="alert_has_a_kind"),
            models.CheckConstraint(
                condition=Q(severity__in=["info", "warning", "critical"]), name="alert_severity_known"
            ),
            models.CheckConstraint(condition=Q(last_at__gte=F("first_at")), name="alert_last_after_first"),
            models.CheckConstraint(
                condition=Q(cleared_at__isnull=False) | Q(cleared_by=""), name="alert_cleared_by_somebody_is_cleared"
            ),
            models.UniqueConstraint(
                fields=["kind", "subject"], condition=Q(cleared_at__isnull=True), name="alert_one_open_each"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}".strip()
