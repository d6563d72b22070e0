"""More than a budget's limit, as somebody asked for it from the link of a refused call."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from governance.models.bounds import within
from governance.models.budgets import BudgetWindow
from governance.rules import money


class RaiseRequest(models.Model):
    """What was asked for one window of a budget, and what an operator said. Written by `governance.actions.raises`."""

    class Status(models.TextChoices):
        OPEN = "open"
        APPROVED = "approved"
        DECLINED = "declined"
        # Nobody decided while its window was open.
        LAPSED = "lapsed"

    window = models.ForeignKey(BudgetWindow, on_delete=models.PROTECT, related_name="raise_requests")
    amount_nanos = models.BigIntegerField()
    asker = models.CharField(max_length=90, help_text="Who asks, in their own words: nobody has checked it.")
    reason = models.CharField(max_length=200)
    asked_at = models.DateTimeField()
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.OPEN)
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.CharField(max_length=150, blank=True)
    answer = models.CharField(max_length=300, blank=True, help_text="Why it was declined; whoever asked reads it.")

    class Meta:
        ordering = ["-id"]
        verbose_name = "raise asked for"
        verbose_name_plural = "raises asked for"
        constraints = [
            models.CheckConstraint(
                condition=Q(amount_nanos__gt=0) & within(money.MAX_LIMIT_NANOS, "amount_nanos"),
                name="raise_request_within_bounds",
            ),
            models.CheckConstraint(condition=~Q(asker="") & ~Q(reason=""), name="raise_request_says_who_and_why"),
            models.CheckConstraint(
                condition=Q(status="open", decided_at__isnull=True)
                | Q(status__in=["approved", "declined", "lapsed"], decided_at__isnull=False),
                name="raise_request_decided_when",
            ),
            models.CheckConstraint(condition=~Q(status="declined", answer=""), name="raise_request_declined_why"),
            models.UniqueConstraint(
                fields=["window"], condition=Q(status="open"), name="raise_request_one_open_of_a_window"
            ),
        ]
        indexes = [models.Index(fields=["asked_at"], name="raise_request_by_time")]

    def __str__(self) -> str:
        return f"${money.format_dollars(self.amount_nanos)} more for {self.window.budget}"
