"""Hours out of all proportion, what is done about them by itself, and the calls that came to nothing."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from governance.models.bounds import within
from governance.models.budgets import Budget
from governance.models.tenancy import Tenant
from governance.rules import money
from governance.rules.anomalies import Metric


class AnomalyAct(models.TextChoices):
    """What is done by itself where money runs away. Each tells the operators."""

    NOTIFY = "notify", "notify: tell the operators"
    DEGRADE = "degrade", "degrade: send its calls to a cheaper model"
    PAUSE = "pause", "pause: refuse its calls until somebody resumes it"


class Anomaly(models.Model):
    """One figure of an agent, a customer or a model beyond its bound, from when it was seen until it was over.

    `subject` names whom for people and for the one that may be open of each. `observed`, `expected` and `bound` are in
    the metric's unit (`rules.anomalies.Metric`), the highest that was seen; `evidence` has the hours before it. Written
    by `governance.actions.anomalies`.
    """

    class SubjectType(models.TextChoices):
        AGENT = "agent", "agent"
        TENANT = "tenant", "customer"
        MODEL = "model", "model"

    subject_type = models.CharField(max_length=8, choices=SubjectType.choices)
    subject = models.CharField(max_length=200)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="anomalies")
    agent = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=170, blank=True, help_text="As provider/id.")
    metric = models.CharField(max_length=16, choices=[(each.value, each.value) for each in Metric])
    hour = models.DateTimeField(help_text="In which it was first seen.")
    observed = models.BigIntegerField()
    expected = models.BigIntegerField()
    bound = models.BigIntegerField()
    evidence = models.JSONField(default=list, help_text="Hours, oldest first: [hour, observed, expected, bound].")
    started_at = models.DateTimeField()
    last_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    ended_by = models.CharField(max_length=150, blank=True, help_text="Empty: it was over by itself.")
    act = models.CharField(max_length=8, choices=AnomalyAct.choices, default=AnomalyAct.NOTIFY)
    act_note = models.CharField(max_length=300, blank=True, help_text="Why less was done than a rule says.")
    acted_at = models.DateTimeField(null=True, blank=True)
    acted_spent_nanos = models.BigIntegerField(null=True, blank=True, help_text="What its hour had spent by then.")
    guard = models.ForeignKey(
        Budget, on_delete=models.SET_NULL, null=True, blank=True, related_name="+", help_text="That degrades it."
    )
    undone_at = models.DateTimeField(null=True, blank=True)
    undone_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "anomalies"
        constraints = [
            models.UniqueConstraint(
                fields=["subject_type", "subject", "metric"],
                condition=Q(ended_at__isnull=True),
                name="anomaly_one_open_each",
            ),
            models.CheckConstraint(
                condition=Q(subject_type="model", tenant__isnull=True, agent="")
                | (Q(subject_type="tenant", tenant__isnull=False, agent="", model=""))
                | (Q(subject_type="agent", tenant__isnull=False, model="") & ~Q(agent="")),
                name="anomaly_is_of_its_subject",
            ),
            models.CheckConstraint(
                condition=Q(metric__in=[each.value for each in Metric]), name="anomaly_metric_known"
            ),
            models.CheckConstraint(condition=Q(act__in=["notify", "degrade", "pause"]), name="anomaly_act_known"),
            models.CheckConstraint(
                condition=within(money.MAX_SUM, "observed", "expected", "bound"), name="anomaly_within_bounds"
            ),
            models.CheckConstraint(
                condition=Q(acted_at__isnull=True, undone_at__isnull=True) | ~Q(act="notify"),
                name="anomaly_acted_by_an_act",
            ),
            models.CheckConstraint(
                condition=Q(undone_at__isnull=True, undone_by="")
                | (Q(acted_at__isnull=False, undone_at__isnull=False) & ~Q(undone_by="")),
                name="anomaly_undone_by_somebody",
            ),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=False) | Q(ended_by=""), name="anomaly_ended_by_somebody_is_ended"
            ),
        ]
        indexes = [
            models.Index(fields=["tenant", "-id"], name="anomaly_by_tenant"),
            models.Index(fields=["tenant", "acted_at"], condition=Q(acted_at__isnull=False), name="anomaly_acts"),
        ]

    def __str__(self) -> str:
        return f"{self.metric} of {self.subject_type} {self.subject}"


class AnomalyRule(models.Model):
    """What is done by itself where the money of an agent, or of a customer, runs away. Written by `actions.anomalies`.

    Whom: with an agent's name, that agent of the customer; with "*", each agent; without, the customer as a whole. No
    tenant: everybody's. The most exact one counts.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="anomaly_rules")
    agent = models.CharField(max_length=100, blank=True)
    act = models.CharField(max_length=8, choices=AnomalyAct.choices)
    degrade_to = models.CharField(max_length=120, blank=True, help_text="The model that calls go to then.")

    class Meta:
        ordering = ["tenant__slug", "agent"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "agent"], condition=Q(tenant__isnull=False), name="anomaly_rule_unique_in_tenant"
            ),
            models.UniqueConstraint(
                fields=["agent"], condition=Q(tenant__isnull=True), name="anomaly_rule_unique_without_tenant"
            ),
            models.CheckConstraint(
                condition=Q(tenant__isnull=False) | Q(agent__in=["", "*"]), name="anomaly_rule_of_an_agent_of_somebody"
            ),
            models.CheckConstraint(condition=Q(act__in=["notify", "degrade", "pause"]), name="anomaly_rule_act_known"),
            models.CheckConstraint(
                condition=Q(act="degrade") & ~Q(degrade_to="") | ~Q(act="degrade") & Q(degrade_to=""),
                name="anomaly_rule_degrades_to_a_model",
            ),
        ]

    def __str__(self) -> str:
        whom = {"": "the customer as a whole", "*": "each agent"}.get(self.agent, f"agent {self.agent}")
        return f"{self.tenant.slug if self.tenant else 'everybody'}: {whom}"


class FailedCalls(models.Model):
    """How many calls of an hour came to nothing, by whom and at which model: counted by `upkeep.failures`."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    agent = models.CharField(max_length=100, blank=True)
    provider = models.CharField(max_length=40, blank=True)
    model = models.CharField(max_length=120, blank=True)
    hour = models.DateTimeField()
    failures = models.PositiveIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "hour", "agent", "provider", "model"], name="failed_calls_one_per_hour_and_kind"
            ),
        ]
        indexes = [models.Index(fields=["hour"], name="failed_calls_by_hour")]

    def __str__(self) -> str:
        return f"{self.failures} of {self.tenant} {self.hour:%Y-%m-%d %H}h"


class BudgetForecast(models.Model):
    """When a budget's current window runs out, as it was last reckoned by `upkeep.forecasts`: for lists, not to decide.

    `runs_out_at` None: it lasts, as expected. `earliest` and `latest`: between them in eight of ten forecasts.
    `cap_nanos` is where the money was used up then. All but that is None where nothing was known to go by: the row says
    that it was reckoned.
    """

    budget = models.OneToOneField(Budget, on_delete=models.CASCADE, primary_key=True, related_name="kept_forecast")
    made_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    runs_out_at = models.DateTimeField(null=True, blank=True)
    earliest = models.DateTimeField(null=True, blank=True)
    latest = models.DateTimeField(null=True, blank=True)
    cap_nanos = models.BigIntegerField(null=True, blank=True)
    expected_nanos = models.BigIntegerField(null=True, blank=True)
    low_nanos = models.BigIntegerField(null=True, blank=True)
    high_nanos = models.BigIntegerField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=within(money.MAX_SUM, "expected_nanos", "low_nanos", "high_nanos"),
                name="forecast_within_bounds",
            ),
        ]

    def __str__(self) -> str:
        return f"forecast of {self.budget}"
