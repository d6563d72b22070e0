"""What tenants' keys claim to have spent, and nobody has allowed for."""

from __future__ import annotations

import uuid_utils.compat as uuids
from django.db import models
from django.db.models import F, Q

from governance.models.spend import Attribution


class PendingReport(Attribution):
    """A report of spend beyond its bound: kept whole, it counts nowhere until an operator accepts it.

    Of a settlement the hold is charged (`charged_nanos`), and the rest waits. `windows` are those it is charged in if
    it is accepted. Written by `governance.actions.reviews`.
    """

    class Status(models.TextChoices):
        WAITING = "waiting"
        ACCEPTED = "accepted"
        REJECTED = "rejected"

    id = models.UUIDField(primary_key=True, default=uuids.uuid7, editable=False)
    request_id = models.CharField(max_length=100, blank=True)
    # Ids, no foreign keys: retention deletes what is old, and leaves this.
    reservation = models.UUIDField(null=True, blank=True)
    corrects = models.UUIDField(null=True, blank=True, help_text="The charge that it would add to.")
    entry = models.UUIDField(null=True, blank=True, help_text="The line that it became.")
    input_tokens = models.BigIntegerField(default=0, help_text="Including cached ones.")
    cached_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    price_rule = models.CharField(max_length=120, blank=True)
    cost_nanos = models.BigIntegerField(help_text="What was claimed in all.")
    charged_nanos = models.BigIntegerField(default=0, help_text="What of it was charged at once.")
    bound_scope = models.CharField(
        max_length=330, blank=True, help_text="Empty: what may be reported without a budget."
    )
    bound_window = models.CharField(max_length=16, blank=True)
    bound_nanos = models.BigIntegerField(help_text="What that left.")
    occurred_at = models.DateTimeField()
    reported_at = models.DateTimeField()
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.WAITING)
    reason = models.CharField(max_length=300, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = "report to review"
        verbose_name_plural = "reports to review"
        constraints = [
            models.CheckConstraint(
                condition=Q(charged_nanos__gte=0) & Q(cost_nanos__gt=F("charged_nanos")), name="report_has_an_excess"
            ),
            models.CheckConstraint(
                condition=Q(input_tokens__gte=0, cached_tokens__gte=0, output_tokens__gte=0),
                name="report_usage_not_negative",
            ),
            models.CheckConstraint(
                condition=Q(reservation__isnull=True, corrects__isnull=True)
                | Q(reservation__isnull=False, corrects__isnull=False),
                name="report_of_a_hold_names_its_charge",
            ),
            models.CheckConstraint(
                condition=Q(status="waiting", decided_at__isnull=True, decided_by="", entry__isnull=True)
                | (Q(status="accepted", decided_at__isnull=False, entry__isnull=False) & ~Q(decided_by=""))
                | (Q(status="rejected", decided_at__isnull=False, entry__isnull=True) & ~Q(decided_by="")),
                name="report_waits_or_is_decided",
            ),
            models.UniqueConstraint(
                fields=["tenant", "request_id"],
                condition=Q(reservation__isnull=True),
                name="report_kept_once_per_request",
            ),
            models.UniqueConstraint(
                fields=["reservation"], condition=Q(reservation__isnull=False), name="report_kept_once_per_hold"
            ),
        ]
        indexes = [
            models.Index(fields=["tenant", "-id"], name="report_by_tenant"),
            models.Index(fields=["tenant"], condition=Q(status="waiting"), name="report_waiting"),
            # What retention and corrections of a charge look for.
            models.Index(fields=["corrects"], condition=Q(status="waiting"), name="report_waiting_for_charge"),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def waiting_nanos(self) -> int:
        """What would be charged if it was accepted."""
        return self.cost_nanos - self.charged_nanos
