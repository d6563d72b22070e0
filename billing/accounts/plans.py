"""Acts on plans. Each leaves an audit row; a changed plan is for spans to come, unless an operator applies it now."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from billing.accounts import binding, sync
from billing.models import BillingAccount, Plan
from governance import audit
from governance.actions.scoped_rules import ScopedRules
from governance.audit import Actor
from governance.rules import money, policy
from governance.rules.errors import Conflict, FieldError

PERCENTAGES = ("trial_percent", "provisional_percent", "credit_percent")
CHOICES = {"upgrade": Plan.Upgrade, "downgrade": Plan.Downgrade, "pause": Plan.Pause}
MOST_GRACE_DAYS = 365
MOST_TIMES = 100
# Of what matches a plan; Stripe's ids and lookup keys have so many characters at the most.
MOST_NAMES, LONGEST_NAME = 100, 255
MATCHERS = ("price_ids", "lookup_keys", "product_ids")


def validate(plan: Plan) -> None:
    """Raise FieldError for the first thing that no plan can be. Its policy is its budget's, parsed where it is."""
    if not plan.name.strip():
        raise FieldError("name", "must not be empty")
    if plan.limit_nanos <= 0:
        raise FieldError("limit", "must be more than 0 dollars")
    money.refuse_beyond("limit", plan.limit_nanos, most=money.MAX_LIMIT_NANOS)
    for field in PERCENTAGES:
        if not 0 <= (getattr(plan, field) or 0) <= 100:
            raise FieldError(field, "must be a percentage from 0 to 100, or empty for what the settings say")
    if not 0 <= (plan.grace_days or 0) <= MOST_GRACE_DAYS:
        raise FieldError("grace_days", f"must be 0 to {MOST_GRACE_DAYS} days, or empty for what the settings say")
    if plan.upgrade_times is not None and not 1 <= plan.upgrade_times <= MOST_TIMES:
        raise FieldError("upgrade_times", f"must be 1 to {MOST_TIMES}, or empty for what the settings say")
    for field, known in CHOICES.items():
        if getattr(plan, field) not in ("", *known.values):
            raise FieldError(field, f"must be {' or '.join(known.values)}, or empty for what the settings say")
    policy.clean(plan)
    for field in MATCHERS:
        _check_matchers(plan, field)


def _check_matchers(plan: Plan, field: str) -> None:
    """A list of names, none of which another plan claims too: which of the two would win?"""
    names = getattr(plan, field)
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise FieldError(field, 'must be a list of names such as ["premium"]')
    if len(names) > MOST_NAMES or any(len(name) > LONGEST_NAME for name in names):
        raise FieldError(field, f"must be {MOST_NAMES} names of {LONGEST_NAME} characters at the most")
    if any(not name.isprintable() for name in names):
        raise FieldError(field, "must be names without control characters")
    for other in Plan.objects.exclude(pk=plan.pk):
        if shared := set(names) & set(getattr(other, field)):
            raise Conflict(field, f"{sorted(shared)[0]} belongs to the plan {other} already")


PLANS = ScopedRules(
    model=Plan,
    noun="plan",
    code="plan",
    identity=("name",),
    fields=(
        "name",
        "limit_nanos",
        *policy.COLUMNS,
        *MATCHERS,
        "per_unit",
        "monthly",
        *PERCENTAGES,
        "grace_days",
        *CHOICES,
        "upgrade_times",
        "is_default",
    ),
    validate=validate,
    conflict=lambda same: Conflict("name", f"There is a plan {same.name!r} already.", existing=same),
    target=lambda plan: f"plan {plan}",
)


@transaction.atomic
def save(*, plan: Plan, changes: Mapping[str, Any], by: Actor, now: datetime) -> Plan:
    """Make or change a plan. One that becomes the default takes the place of the other. Raises FieldError, Conflict."""
    old = PLANS.to_audit(Plan.objects.get(pk=plan.pk)) if plan.pk else None
    PLANS.set(plan, changes)
    validate(plan)
    new = PLANS.to_audit(plan)
    if new != old:
        if plan.is_default:
            Plan.objects.exclude(pk=plan.pk).filter(is_default=True).update(is_default=False)
        PLANS.write(plan)
        PLANS.record("change" if old else "create", plan, by=by, now=now, old=old, new=new)
    return plan


def apply_now(*, by: Actor, now: datetime, reason: str = "") -> int:
    """Give current windows what plans and metadata say now, instead of what they said when it opened; how many."""
    ids = list(BillingAccount.objects.exclude(tenant=None).values_list("stripe_customer_id", flat=True))
    for customer_id in ids:
        # One customer a transaction: none of them waits for all the others.
        with transaction.atomic():
            account = binding.locked(customer_id)
            sync.apply(account, now=now, anew=True, by_operator=True)
    new = {"customers": len(ids)}
    audit.record(action="plan.apply_now", target="current windows", by=by, now=now, reason=reason, new=new)
    return len(ids)
