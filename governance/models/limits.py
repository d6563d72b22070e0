"""How fast a tenant or agent may go, and what stops everything at once."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from governance.models.bounds import within
from governance.models.budgets import EACH, ScopeType, named_scope
from governance.models.tenancy import Agent, Tenant
from governance.rules import money
from governance.rules.overruns import Side


class RateLimit(models.Model):
    """Ceilings a minute for one scope: dollars (a velocity guard), requests, tokens. Written by `actions.rate_limits`.

    Scopes are matched as a budget's are. A minute's worth may come at once; after that only as fast as it flows off.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="rate_limits")
    scope_type = models.CharField(max_length=12, choices=ScopeType.choices)
    scope_key = models.CharField(max_length=200, blank=True)
    nanos_per_minute = models.BigIntegerField(null=True, blank=True)
    requests_per_minute = models.BigIntegerField(null=True, blank=True)
    tokens_per_minute = models.BigIntegerField(null=True, blank=True)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["tenant__slug", "scope_type", "scope_key"]
        constraints = [
            models.CheckConstraint(
                condition=Q(nanos_per_minute__isnull=False)
                | Q(requests_per_minute__isnull=False)
                | Q(tokens_per_minute__isnull=False),
                name="rate_limit_limits_something",
            ),
            models.CheckConstraint(
                condition=(Q(nanos_per_minute__isnull=True) | Q(nanos_per_minute__gt=0))
                & (Q(requests_per_minute__isnull=True) | Q(requests_per_minute__gt=0))
                & (Q(tokens_per_minute__isnull=True) | Q(tokens_per_minute__gt=0)),
                name="rate_limit_positive",
            ),
            models.CheckConstraint(
                condition=within(money.MAX_LIMIT_NANOS, "nanos_per_minute")
                & within(money.MAX_UNITS, "requests_per_minute", "tokens_per_minute"),
                name="rate_limit_within_bounds",
            ),
            models.CheckConstraint(
                name="rate_limit_scope_has_its_key",
                condition=(
                    Q(scope_type="platform", scope_key="", tenant__isnull=True)
                    | (Q(scope_type="tenant") & (Q(tenant__isnull=False) | Q(scope_key=EACH)))
                    | (
                        Q(scope_type__in=["agent", "key", "user", "session", "task"])
                        & ~Q(scope_key="")
                        & (Q(tenant__isnull=False) | Q(scope_key=EACH))
                    )
                ),
            ),
            models.UniqueConstraint(
                fields=["tenant", "scope_type", "scope_key"],
                condition=Q(tenant__isnull=False),
                name="rate_limit_unique_in_tenant",
            ),
            models.UniqueConstraint(
                fields=["scope_type", "scope_key"],
                condition=Q(tenant__isnull=True),
                name="rate_limit_unique_without_tenant",
            ),
        ]

    def __str__(self) -> str:
        return self.scope

    @property
    def scope(self) -> str:
        """How people name the scope: "acme", "acme agent:invoices", "each tenant", "platform"."""
        return named_scope(self.tenant, self.scope_type, self.scope_key)


class RateBucket(models.Model):
    """How full a rate limit is for one subject: a bucket that flows off evenly. Written by the ledger alone.

    Levels are as of `measured_at`; requests and tokens in millionths, so that what flows off between two calls counts.
    The ceilings are those it was measured by; empty, all of them, where nothing has filled it yet.
    """

    rate_limit = models.ForeignKey(RateLimit, on_delete=models.CASCADE, related_name="buckets")
    subject = models.CharField(max_length=310, blank=True)
    measured_at = models.DateTimeField()
    level_nanos = models.BigIntegerField(default=0)
    level_requests_e6 = models.BigIntegerField(default=0)
    level_tokens_e6 = models.BigIntegerField(default=0)
    nanos_per_minute = models.BigIntegerField(null=True)
    requests_per_minute = models.BigIntegerField(null=True)
    tokens_per_minute = models.BigIntegerField(null=True)
    # What was held by then filled it under other ceilings, so that the level need not have it: it gives nothing back.
    counts_since = models.DateTimeField(null=True)

    class Meta:
        # Its name in the database, and that of its constraints, is older than the model's.
        db_table = "governance_ratemeter"
        constraints = [
            models.UniqueConstraint(fields=["rate_limit", "subject"], name="rate_meter_one_per_subject"),
            models.CheckConstraint(
                condition=Q(level_nanos__gte=0, level_requests_e6__gte=0, level_tokens_e6__gte=0),
                name="rate_meter_not_negative",
            ),
            models.CheckConstraint(
                condition=within(money.MAX_SUM, "level_nanos", "level_requests_e6", "level_tokens_e6"),
                name="rate_meter_within_bounds",
            ),
            models.CheckConstraint(
                condition=within(money.MAX_LIMIT_NANOS, "nanos_per_minute")
                & within(money.MAX_UNITS, "requests_per_minute", "tokens_per_minute"),
                name="rate_meter_ceilings_within_bounds",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.rate_limit} {self.subject}".strip()


class EmergencyStop(models.Model):
    """Refuses every call of an agent, a tenant or everybody, and cuts the running ones, until it is lifted.

    Written by `governance.actions.stops`; a lifted one is history.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="stops")
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, null=True, blank=True, related_name="stops")
    reason = models.CharField(max_length=300)
    actor = models.CharField(max_length=150)
    started_at = models.DateTimeField()
    lifted_at = models.DateTimeField(null=True, blank=True)
    lifted_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(agent__isnull=True) | Q(tenant__isnull=False), name="stop_of_an_agent_names_its_tenant"
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="stop_has_a_reason"),
            models.CheckConstraint(
                condition=Q(lifted_at__isnull=True, lifted_by="") | (Q(lifted_at__isnull=False) & ~Q(lifted_by="")),
                name="stop_lifted_by_somebody",
            ),
            models.UniqueConstraint(
                fields=["agent"], condition=Q(lifted_at__isnull=True, agent__isnull=False), name="stop_one_per_agent"
            ),
            models.UniqueConstraint(
                fields=["tenant"],
                condition=Q(lifted_at__isnull=True, agent__isnull=True, tenant__isnull=False),
                name="stop_one_per_tenant",
            ),
            models.UniqueConstraint(
                models.Value(1), condition=Q(lifted_at__isnull=True, tenant__isnull=True), name="stop_one_of_everything"
            ),
        ]

    def __str__(self) -> str:
        return f"emergency stop of {self.agent or self.tenant or 'everything'}"


class Overrun(models.Model):
    """A model that wrote more than its request permitted, or read more than it was sent: that bounds nothing any more.

    Put in force by the ledger, with the settlement of the call that showed it; `governance.actions.overruns` clears it,
    and what was cleared is history.
    """

    place = models.CharField(max_length=200, help_text="The model, as provider/id.")
    side = models.CharField(
        max_length=6,
        choices=[(side.value, side.value) for side in Side],
        default=Side.OUTPUT.value,
        help_text="What there was more of.",
    )
    asked = models.CharField(
        max_length=100, blank=True, help_text="What else a request asks for that it concerns; empty: every request."
    )
    tokens = models.BigIntegerField(help_text="The most that one answer, or one input, had.")
    permitted = models.BigIntegerField(help_text="The most that it could have had.")
    reservation_id = models.UUIDField(help_text="Of the call that showed it.")
    seen_at = models.DateTimeField()
    cleared_at = models.DateTimeField(null=True, blank=True)
    cleared_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["place", "side", "asked"], condition=Q(cleared_at__isnull=True), name="overrun_one_in_force"
            ),
            models.CheckConstraint(condition=~Q(place=""), name="overrun_names_its_model"),
            models.CheckConstraint(condition=Q(tokens__gt=models.F("permitted")), name="overrun_is_one"),
            models.CheckConstraint(
                condition=Q(cleared_at__isnull=True, cleared_by="") | (Q(cleared_at__isnull=False) & ~Q(cleared_by="")),
                name="overrun_cleared_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens of {self.side} of {self.place} where {self.permitted:,} were permitted"


class RuleChange(models.Model):
    """A change of what processes remember of callers, of any table: see `governance.ledger.caller_rules`.

    Written by the database's triggers, in the transaction of the change. The sum of all `n`, which are random, is the
    version that holds.
    """

    n = models.BigIntegerField()

    class Meta:
        ordering = ["id"]
        # Nobody has to do with these rows but the ledger.
        default_permissions = ()

    def __str__(self) -> str:
        return f"change {self.pk}"
