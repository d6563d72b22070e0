"""Weekly and monthly reports by e-mail: who reads them, and which have left."""

from __future__ import annotations

import uuid_utils.compat as uuids
from django.db import models
from django.db.models import Q

from governance.models.budgets import ScopeType
from governance.models.tenancy import Tenant
from governance.rules.report_periods import Cadence


class ReportSubscription(models.Model):
    """One address and one kind of report. Ended by a link in each message, or in the console.

    Written by `governance.actions.report_subscriptions`.
    """

    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="report_subscriptions",
        help_text="The customer that it is about, and nothing wider. Empty: the whole platform.",
    )
    address = models.EmailField(max_length=254)
    cadence = models.CharField(
        max_length=8, choices=[(Cadence.WEEKLY.value, "weekly"), (Cadence.MONTHLY.value, "monthly")]
    )
    time_zone = models.CharField(max_length=64, default="UTC", help_text="Of its days and weeks: an IANA name.")
    # Periods that were over by then are told by no report.
    since = models.DateTimeField(editable=False)
    ended_at = models.DateTimeField(null=True, blank=True, editable=False)
    ended_by = models.CharField(max_length=150, blank=True, editable=False)

    class Meta:
        ordering = ["tenant__slug", "address", "cadence"]
        constraints = [
            models.CheckConstraint(condition=~Q(address=""), name="report_has_an_address"),
            models.CheckConstraint(condition=Q(cadence__in=["weekly", "monthly"]), name="report_cadence_known"),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=False) | Q(ended_by=""), name="report_ended_by_somebody_is_ended"
            ),
            models.UniqueConstraint(
                fields=["tenant", "address", "cadence"],
                condition=Q(tenant__isnull=False),
                name="report_of_a_tenant_once_an_address",
            ),
            models.UniqueConstraint(
                fields=["address", "cadence"],
                condition=Q(tenant__isnull=True),
                name="report_of_the_platform_once_an_address",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.cadence} to {self.address}"

    @property
    def scope_type(self) -> str:
        """Of whom it is, by name; `tenant` says whose."""
        return ScopeType.TENANT.value if self.tenant_id else ScopeType.PLATFORM.value


class ReportMail(models.Model):
    """One report for one reader: a row of the outbox. There is one of each period ever, and its message has one id."""

    class State(models.TextChoices):
        PENDING = "pending"
        SENDING = "sending"
        SENT = "sent"
        DEAD = "dead", "given up"
        DROPPED = "dropped", "not wanted any more"

    id = models.UUIDField(primary_key=True, default=uuids.uuid7, editable=False)
    subscription = models.ForeignKey(ReportSubscription, on_delete=models.CASCADE, related_name="mails")
    first_day = models.DateField(help_text="Of the period that it is about.")
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING)
    tries = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = "report by e-mail"
        verbose_name_plural = "reports by e-mail"
        constraints = [
            models.UniqueConstraint(fields=["subscription", "first_day"], name="report_mail_once_a_period"),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "sending", "sent", "dead", "dropped"]), name="report_mail_state_known"
            ),
            models.CheckConstraint(
                condition=Q(state="sent", sent_at__isnull=False) | ~Q(state="sent") & Q(sent_at=None),
                name="report_mail_sent_when",
            ),
            models.CheckConstraint(
                condition=Q(next_at__isnull=False) | ~Q(state__in=["pending", "sending"]), name="report_mail_due_when"
            ),
        ]
        indexes = [
            models.Index(fields=["next_at"], condition=Q(state__in=["pending", "sending"]), name="report_mail_due"),
        ]

    def __str__(self) -> str:
        return f"{self.subscription}, from {self.first_day}"
