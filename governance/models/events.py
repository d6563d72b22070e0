"""What happened to a budget, and who did what."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from governance.models.bounds import within
from governance.models.budgets import Budget, BudgetWindow
from governance.models.tenancy import ApiKey, Tenant
from governance.rules import money


class BudgetEvent(models.Model):
    """One change in a budget's life, written in the transaction that caused it."""

    class Kind(models.TextChoices):
        STATE_CHANGE = "state-change"
        THRESHOLD_BREACH = "threshold-breach"
        HARD_STOP = "hard-stop"
        BUDGET_RESET = "budget-reset"

    window = models.ForeignKey(BudgetWindow, on_delete=models.PROTECT, related_name="events")
    budget = models.ForeignKey(Budget, on_delete=models.PROTECT, related_name="events")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    kind = models.CharField(max_length=20, choices=Kind.choices)
    threshold = models.CharField(max_length=8, blank=True)
    old_state = models.CharField(max_length=12, blank=True)
    new_state = models.CharField(max_length=12, blank=True)
    reason = models.CharField(max_length=300, blank=True)
    actor = models.CharField(max_length=150, blank=True)
    settled_nanos = models.BigIntegerField()
    limit_nanos = models.BigIntegerField()
    occurred_at = models.DateTimeField()
    # The ledger's word that somebody is still to be told: each event is its own row of the outbox.
    untold = models.BooleanField(default=True, db_default=False, editable=False)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["id"], condition=Q(untold=True), name="event_untold")]
        constraints = [
            models.CheckConstraint(
                condition=within(money.MAX_SUM, "settled_nanos", "limit_nanos"), name="event_within_bounds"
            ),
            models.UniqueConstraint(
                fields=["window", "threshold"],
                condition=Q(kind="threshold-breach"),
                name="event_one_breach_per_threshold",
            ),
            models.UniqueConstraint(
                fields=["window"], condition=Q(kind="hard-stop"), name="event_one_hard_stop_per_window"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.budget}"


class AuditEntry(models.Model):
    """An act of a person or a key that changed money, limits, keys or policies: actor, old and new."""

    occurred_at = models.DateTimeField()
    actor = models.CharField(max_length=150)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    key = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    action = models.CharField(max_length=60)
    target = models.CharField(max_length=200)
    reason = models.CharField(max_length=300, blank=True)
    old = models.JSONField(null=True, blank=True)
    new = models.JSONField(null=True, blank=True)
    once = models.CharField(
        max_length=64, null=True, blank=True, editable=False, help_text="Of the button that was pressed for it."
    )

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "audit entries"
        constraints = [
            models.UniqueConstraint(fields=["once"], condition=Q(once__isnull=False), name="audit_of_one_press"),
            models.CheckConstraint(condition=~Q(actor=""), name="audit_has_an_actor"),
            models.CheckConstraint(condition=~Q(action=""), name="audit_has_an_action"),
        ]

    def __str__(self) -> str:
        return f"{self.actor}: {self.action} {self.target}"


class LedgerCheck(models.Model):
    """One run of the proof that the ledger has not drifted."""

    checked_at = models.DateTimeField()
    since = models.DateTimeField(null=True, blank=True, help_text="What is older was left to the proof of each day.")
    took_ms = models.PositiveIntegerField()
    drifts = models.PositiveIntegerField()
    repaired = models.PositiveIntegerField(default=0)
    details = models.JSONField(default=list, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.drifts} drifts at {self.checked_at:%Y-%m-%d %H:%M}"


class LedgerJudgement(models.Model):
    """What providers reported of the ledger's latest days, and how much of it nobody could judge."""

    judged_at = models.DateTimeField()
    disagreeing = models.PositiveIntegerField(help_text="Days on which a provider reports another amount.")
    silent = models.PositiveIntegerField(help_text="Accounts that should have reported and did not.")
    # As `governance.rules.judgement.to_api` prints it.
    details = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(disagreeing__gte=0, silent__gte=0), name="ledger_judgement_counts_not_negative"
            )
        ]

    def __str__(self) -> str:
        return f"{self.disagreeing} days disagree at {self.judged_at:%Y-%m-%d %H:%M}"
