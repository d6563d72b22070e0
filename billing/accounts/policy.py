"""The settings' policy and the plans, as the pure rules take them."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings

from billing.models import Plan
from billing.rules.entitlement import BillingPolicy
from billing.rules.valuation import PlanPolicy, PlanRule
from governance.rules import money


def current() -> BillingPolicy:
    free = settings.STRIPE_FREE_BUDGET
    return BillingPolicy(
        trial_percent=settings.STRIPE_TRIAL_PERCENT,
        provisional_percent=settings.STRIPE_PROVISIONAL_PERCENT,
        grace=timedelta(days=settings.STRIPE_GRACE_DAYS),
        upgrade=settings.STRIPE_UPGRADE,
        downgrade=settings.STRIPE_DOWNGRADE,
        pause=settings.STRIPE_PAUSED_COLLECTION,
        free_nanos=0 if free is None else money.nanos_from_dollars(free),
        rates=settings.STRIPE_EXCHANGE_RATES,
    )


def plan_rules() -> list[PlanRule]:
    return [
        PlanRule(
            name=plan.name,
            limit_nanos=plan.limit_nanos,
            price_ids=frozenset(plan.price_ids),
            lookup_keys=frozenset(plan.lookup_keys),
            product_ids=frozenset(plan.product_ids),
            is_default=plan.is_default,
            per_unit=plan.per_unit,
            monthly=plan.monthly,
            policy=PlanPolicy(plan.trial_percent, plan.provisional_percent, plan.grace_days),
        )
        for plan in Plan.objects.all()
    ]
