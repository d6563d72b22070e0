"""The settings' policy and the plans, as the pure rules take them."""

from __future__ import annotations

from dataclasses import fields

from django.conf import settings

from billing.models import Plan
from billing.rules.valuation import BillingPolicy, PlanPolicy, PlanRule
from governance.rules import money


def current() -> BillingPolicy:
    free = settings.STRIPE_FREE_BUDGET
    return BillingPolicy(
        trial_percent=settings.STRIPE_TRIAL_PERCENT,
        provisional_percent=settings.STRIPE_PROVISIONAL_PERCENT,
        credit_percent=settings.STRIPE_CREDIT_PERCENT,
        grace_days=settings.STRIPE_GRACE_DAYS,
        upgrade=settings.STRIPE_UPGRADE,
        upgrade_times=settings.STRIPE_UPGRADE_TIMES,
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
            policy=PlanPolicy(**{one.name: getattr(plan, one.name) for one in fields(PlanPolicy)}),
        )
        for plan in Plan.objects.all()
    ]
