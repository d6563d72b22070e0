"""Acts on plans. Each leaves an audit row; a changed plan is for new windows, unless an operator applies it now."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, transaction

from billing.accounts import binding, budget_windows, sync
from billing.models import BillingAccount, Plan
from governance import audit
from governance.actions import budgets
from governance.audit import Actor
from governance.models import Budget, ScopeType
from governance.rules import money
from governance.rules.windows import WindowKind

FIELDS = (
    "name",
    "limit_nanos",
    "soft_cap",
    "hard_cap",
    "downgrade_rules",
    "disabled_tools",
    "price_ids",
    "lookup_keys",
    "product_ids",
    "per_unit",
    "monthly",
    "trial_percent",
    "provisional_percent",
    "grace_days",
    "is_default",
)
PERCENTAGES = ("trial_percent", "provisional_percent")
MOST_GRACE_DAYS = 365
MATCHERS = ("price_ids", "lookup_keys", "product_ids")


class PlanError(ValueError):
    """A value no plan can have: which field, and what would be right."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message


class PlanConflict(PlanError):
    """Another plan has this name, or matches this id, already."""


def save(*, plan: Plan, changes: Mapping[str, Any], by: Actor, now: datetime) -> Plan:
    """Make or change a plan. Raises PlanError. One that becomes the default takes the place of the other."""
    with transaction.atomic():
        old = to_audit(Plan.objects.get(pk=plan.pk)) if plan.pk else None
        for name, value in changes.items():
            setattr(plan, name, value)
        validate(plan)
        new = to_audit(plan)
        if new == old:
            return plan
        if plan.is_default:
            Plan.objects.exclude(pk=plan.pk).filter(is_default=True).update(is_default=False)
        try:
            with transaction.atomic():
                plan.save()
        except IntegrityError as error:
            raise PlanConflict("name", f"There is a plan {plan.name!r} already.") from error
        action = "plan.change" if old else "plan.create"
        audit.record(action=action, target=f"plan {plan}", by=by, now=now, old=old, new=new)
    return plan


def apply_now(*, by: Actor, now: datetime) -> int:
    """Give current windows what plans and metadata say now, instead of what they said when it opened; how many."""
    ids = list(BillingAccount.objects.exclude(tenant=None).values_list("stripe_customer_id", flat=True))
    for customer_id in ids:
        # One customer a transaction: none of them waits for all the others.
        with transaction.atomic():
            account = binding.locked(customer_id)
            sync.settle(account, now=now, anew=True)
            budget_windows.forgive(account)
    audit.record(action="plan.apply_now", target="current windows", by=by, now=now, new={"customers": len(ids)})
    return len(ids)


def to_audit(plan: Plan) -> dict[str, Any]:
    """What an audit row keeps of a plan."""
    shown = {name: getattr(plan, name) for name in FIELDS}
    return {name: f"{value:f}" if isinstance(value, Decimal) else value for name, value in shown.items()}


def validate(plan: Plan) -> None:
    """Raise PlanError for the first thing that no plan can be. Caps and rules are those of the budget it makes."""
    if not plan.name.strip():
        raise PlanError("name", "must not be empty")
    if not 0 < plan.limit_nanos <= money.MAX_NANOS:
        raise PlanError("limit", "must be more than 0 dollars and at most 9 billion")
    for field in PERCENTAGES:
        if not 0 <= (getattr(plan, field) or 0) <= 100:
            raise PlanError(field, "must be a percentage from 0 to 100, or empty for what the settings say")
    if not 0 <= (plan.grace_days or 0) <= MOST_GRACE_DAYS:
        raise PlanError("grace_days", f"must be 0 to {MOST_GRACE_DAYS} days, or empty for what the settings say")
    budget = Budget(
        scope_type=ScopeType.TENANT,
        window=WindowKind.BILLING_CYCLE.value,
        limit_nanos=plan.limit_nanos,
        soft_cap=plan.soft_cap,
        hard_cap=plan.hard_cap,
        downgrade_rules=plan.downgrade_rules,
        disabled_tools=plan.disabled_tools,
    )
    try:
        budgets.validate(budget)
    except budgets.BudgetError as error:
        raise PlanError(error.field, error.message) from error
    for field in MATCHERS:
        _check_matchers(plan, field)


def _check_matchers(plan: Plan, field: str) -> None:
    """A list of names, none of which another plan claims too: which of the two would win?"""
    names = getattr(plan, field)
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise PlanError(field, 'must be a list of names such as ["premium"]')
    for other in Plan.objects.exclude(pk=plan.pk):
        if shared := set(names) & set(getattr(other, field)):
            raise PlanConflict(field, f"{sorted(shared)[0]} belongs to the plan {other} already")
