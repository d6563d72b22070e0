"""What may be spent: a budget is the rule, a window is one period of it for one subject."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.db import models
from django.db.models import F, Q

from governance.models.bounds import within
from governance.models.policies import PolicyFields
from governance.models.tenancy import Tenant
from governance.rules import money
from governance.rules.windows import WindowKind


class ScopeType(models.TextChoices):
    PLATFORM = "platform", "platform: everything"
    TENANT = "tenant"
    AGENT = "agent"
    KEY = "key"
    USER = "user"
    SESSION = "session"
    TASK = "task"


WINDOW_CHOICES = [(kind.value, kind.value.replace("_", " ")) for kind in WindowKind]
EACH = "*"


def named_scope(tenant: Tenant | None, scope_type: str, scope_key: str) -> str:
    owner = tenant.slug if tenant else ""
    if scope_type == ScopeType.PLATFORM:
        return "platform"
    if scope_type == ScopeType.TENANT:
        return owner or "each tenant"
    kind = f"each {scope_type}" if scope_key == EACH else f"{scope_type}:{scope_key}"
    return f"{owner} {kind}".strip()


class Budget(PolicyFields):
    """A limit for one scope and window kind, and what happens near it.

    Written by `actions.budgets`.
    """

    class Source(models.TextChoices):
        OPERATOR = "operator"
        DEFAULT = "default", "platform default"
        STRIPE = "stripe", "Stripe subscription"

    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="budgets",
        help_text="Empty: the platform, or each tenant's scopes separately.",
    )
    scope_type = models.CharField(max_length=12, choices=ScopeType.choices)
    scope_key = models.CharField(
        max_length=200,
        blank=True,
        help_text="The agent, key prefix, user, … it governs; * for each one separately.",
    )
    window = models.CharField(max_length=16, choices=WINDOW_CHOICES)
    limit_nanos = models.BigIntegerField()
    # None: nothing is. See `rules.carry_over`.
    carry_over = models.CharField(
        max_length=32,
        null=True,
        blank=True,
        help_text='Of what is left when a window ends, at most so much is added to the next: "25%" of the limit, or'
        ' "10.00" dollars.',
    )
    enabled = models.BooleanField(default=True)
    source = models.CharField(max_length=12, choices=Source.choices, default=Source.OPERATOR)
    # Of a goal's: when it was ended. Its window stays as it is, and calls of it are refused.
    closed_at = models.DateTimeField(null=True, blank=True, editable=False)
    # How many acts its open windows follow one after another; a window's own says which of them it has followed.
    revision = models.BigIntegerField(default=0, db_default=0, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["tenant__slug", "scope_type", "scope_key", "window"]
        constraints = [
            *PolicyFields.Meta.constraints,
            models.CheckConstraint(condition=Q(limit_nanos__gt=0), name="budget_limit_positive"),
            models.CheckConstraint(condition=within(money.MAX_LIMIT_NANOS, "limit_nanos"), name="budget_within_bounds"),
            models.CheckConstraint(
                name="budget_scope_has_its_key",
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
            models.CheckConstraint(
                name="budget_closed_is_a_goals",
                condition=Q(closed_at__isnull=True)
                | (Q(scope_type__in=["task", "session"], window="lifetime", tenant__isnull=False) & ~Q(scope_key=EACH)),
            ),
            models.UniqueConstraint(
                fields=["tenant", "scope_type", "scope_key", "window"],
                condition=Q(tenant__isnull=False),
                name="budget_unique_in_tenant",
            ),
            models.UniqueConstraint(
                fields=["scope_type", "scope_key", "window"],
                condition=Q(tenant__isnull=True),
                name="budget_unique_without_tenant",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.scope} per {self.get_window_display()}"

    @property
    def hard_e4(self) -> int:
        """The hard cap in ten-thousandths of the limit."""
        return money.ten_thousandths(Decimal(self.hard_cap))

    @property
    def is_goal(self) -> bool:
        """Whether it is for all of one task's, or one session's, life: then it can be closed."""
        return (
            self.scope_type in (ScopeType.TASK, ScopeType.SESSION)
            and self.scope_key != EACH
            and self.window == WindowKind.LIFETIME
        )

    @property
    def scope(self) -> str:
        """How people name the scope: "acme", "acme agent:invoices", "each tenant", "platform"."""
        return named_scope(self.tenant, self.scope_type, self.scope_key)


class BudgetWindow(models.Model):
    """One period of a budget for one subject: what is settled, what is held, and its state.

    `subject` tells apart the windows of a `*` budget ("acme", "acme/invoices"); an exact budget has one subject.
    At most one window of a subject is open; a closed one keeps its figures for good.
    """

    class State(models.TextChoices):
        ACTIVE = "active"
        WARNED = "warned"
        DEGRADED = "degraded"
        STOPPED = "stopped"

    budget = models.ForeignKey(Budget, on_delete=models.PROTECT, related_name="windows")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="windows")
    subject = models.CharField(max_length=310, blank=True)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    limit_nanos = models.BigIntegerField()
    settled_nanos = models.BigIntegerField(default=0)
    reserved_nanos = models.BigIntegerField(default=0)
    state = models.CharField(max_length=12, choices=State.choices, default=State.ACTIVE)
    thresholds_crossed = models.JSONField(default=list, blank=True)
    limit_lowered = models.BooleanField(
        default=False, help_text="The limit was lowered while the window was open: it may hold more than its limit."
    )
    # The part of the limit that comes from allowances, and when that has to be worked out again.
    extra_nanos = models.BigIntegerField(default=0)
    extra_until = models.DateTimeField(null=True, blank=True)
    # The part of the limit that was left of the window before, as it stood when this one opened.
    carried_nanos = models.BigIntegerField(default=0, db_default=0, editable=False)
    # What entries that retention has deleted had settled here.
    purged_nanos = models.BigIntegerField(default=0)
    # The part of it that no hold had to make room for: overages, reports, corrections upwards.
    purged_unheld_nanos = models.BigIntegerField(default=0, db_default=0)
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)
    # What opened it, where that was not time: ("stripe", "<subscription item>"). One grant opens one window.
    source_kind = models.CharField(max_length=12, blank=True)
    source_id = models.CharField(max_length=255, blank=True)
    revision = models.BigIntegerField(default=0, db_default=0, editable=False)

    class Meta:
        ordering = ["-starts_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=within(money.MAX_SUM, "settled_nanos", "reserved_nanos", "limit_nanos", "extra_nanos")
                & within(money.MAX_SUM, "purged_nanos", "purged_unheld_nanos", least=-money.MAX_SUM),
                name="window_within_bounds",
            ),
            models.CheckConstraint(condition=Q(settled_nanos__gte=0), name="window_settled_not_negative"),
            models.CheckConstraint(condition=Q(reserved_nanos__gte=0), name="window_reserved_not_negative"),
            models.CheckConstraint(condition=Q(limit_nanos__gt=0), name="window_limit_positive"),
            models.CheckConstraint(condition=Q(extra_nanos__gte=0), name="window_extra_not_negative"),
            models.CheckConstraint(
                condition=within(money.MAX_LIMIT_NANOS, "carried_nanos"), name="window_carried_within_bounds"
            ),
            models.CheckConstraint(
                condition=Q(ends_at__isnull=True) | Q(ends_at__gt=F("starts_at")),
                name="window_ends_after_start",
            ),
            models.UniqueConstraint(
                fields=["budget", "subject"],
                condition=Q(closed_at__isnull=True),
                name="window_one_open_per_subject",
            ),
            models.UniqueConstraint(
                fields=["budget", "source_kind", "source_id", "starts_at"],
                condition=~Q(source_kind=""),
                name="window_one_per_grant",
            ),
        ]
        indexes = [
            models.Index(fields=["tenant", "-starts_at"], name="window_by_tenant"),
            # How many a tenant's calls have opened lately.
            models.Index(fields=["budget", "tenant", "opened_at"], name="window_by_opening"),
            # The one before another.
            models.Index(fields=["budget", "subject", "-starts_at"], name="window_by_subject"),
        ]

    def __str__(self) -> str:
        return f"{self.budget} from {self.starts_at:%Y-%m-%d %H:%M}"

    @property
    def committed_nanos(self) -> int:
        return self.settled_nanos + self.reserved_nanos

    @property
    def remaining_nanos(self) -> int:
        """What can still be spent under the budget's hard cap. Reads the budget: select it with the windows."""
        return money.remaining_nanos(
            limit_nanos=self.limit_nanos, hard_e4=self.budget.hard_e4, committed_nanos=self.committed_nanos
        )

    @property
    def utilization(self) -> Decimal:
        """Settled share of the limit, four decimals."""
        return (Decimal(self.settled_nanos) / self.limit_nanos).quantize(Decimal("0.0001"))

    def save(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("windows are written by governance.ledger alone")


class BudgetAct(models.Model):
    """The latest act of its kind on a budget that had too many open windows to change them all at once.

    Written by `governance.ledger`. It holds at once for whoever needs a window; the others follow until it is done.
    """

    class Kind(models.TextChoices):
        RESET = "reset"
        LIMIT = "limit"
        ALLOWANCES = "allowances"

    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="acts")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    # The budget's since this act.
    revision = models.BigIntegerField()
    limit_nanos = models.BigIntegerField(null=True, blank=True)
    reason = models.CharField(max_length=300, blank=True)
    actor = models.CharField(max_length=150, blank=True)
    acted_at = models.DateTimeField()
    is_done = models.BooleanField(default=False)

    class Meta:
        ordering = ["-revision"]
        # Nobody has to do with these rows but the ledger.
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["budget", "kind"], name="act_latest_of_its_kind"),
            models.CheckConstraint(condition=within(money.MAX_LIMIT_NANOS, "limit_nanos"), name="act_within_bounds"),
            models.CheckConstraint(
                condition=Q(kind="limit", limit_nanos__isnull=False) | (~Q(kind="limit") & Q(limit_nanos__isnull=True)),
                name="act_has_a_limit_where_it_is_one",
            ),
        ]
        indexes = [models.Index(fields=["budget"], condition=Q(is_done=False), name="act_under_way")]

    def __str__(self) -> str:
        return f"{self.kind} of {self.budget}"


class Allowance(models.Model):
    """More than the limit, for a time: a dated raise, or (without an end) a top-up of the window it was made in.

    Written by `governance.actions.allowances`; it ends by itself.
    """

    budget = models.ForeignKey(Budget, on_delete=models.PROTECT, related_name="allowances")
    window = models.ForeignKey(
        BudgetWindow,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="allowances",
        help_text="A top-up is for this window alone; a dated raise is for every window of its time.",
    )
    amount_nanos = models.BigIntegerField()
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=300)
    actor = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(amount_nanos__gt=0), name="allowance_positive"),
            models.CheckConstraint(
                condition=within(money.MAX_LIMIT_NANOS, "amount_nanos"), name="allowance_within_bounds"
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="allowance_has_a_reason"),
            models.CheckConstraint(
                condition=Q(window__isnull=False, ends_at__isnull=True)
                | Q(window__isnull=True, ends_at__isnull=False, ends_at__gt=F("starts_at")),
                name="allowance_dated_or_for_a_window",
            ),
        ]
        indexes = [models.Index(fields=["budget", "ends_at"], name="allowance_by_budget")]

    def __str__(self) -> str:
        return f"more for {self.budget}"
