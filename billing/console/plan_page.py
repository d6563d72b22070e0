"""A plan as it is read: what it gives in which case, who has it, and which of Stripe's prices it is for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from billing.accounts import policy as settings_policy
from billing.console.tones import STATE_TONES
from billing.models import BillingAccount, Plan
from billing.queries import plans
from billing.queries.plans import SoldPrice
from billing.rules.valuation import Level, PlanPolicy
from governance.console import changes, display
from governance.rules import policy

SHOWN = 8
PRICES_SHOWN = 30


@dataclass(frozen=True, slots=True)
class PlanPriceRow:
    """A price of Stripe's. `gives`: what it is worth; `link`: of the plan that says so."""

    name: str
    id: str
    costs: str
    gives: str
    link: str
    is_unnamed: bool


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A plan as the list shows it."""

    plan: Plan
    gives: str
    near: str
    matched_by: str
    customers: int
    customers_link: str


def rows(found: list[Plan]) -> list[PlanRow]:
    counts = plans.customers_on(found)
    return [
        PlanRow(
            plan=plan,
            gives=f"{display.dollars(plan.limit_nanos)} {_each(plan)}",
            near=near(plan),
            matched_by=", ".join([*plan.lookup_keys, *plan.price_ids, *plan.product_ids]),
            customers=counts[plan.pk],
            customers_link=customers_link(plan),
        )
        for plan in found
    ]


def customers_link(plan: Plan) -> str:
    return f"{reverse('admin:billing_billingaccount_changelist')}?{urlencode({'on_plan': plan.name})}"


def context(plan: Plan) -> dict[str, Any]:
    on_it = BillingAccount.objects.filter(plans.on(plan)).select_related("tenant").order_by("-id")
    known = price_rows()
    return {
        "plan": plan,
        "gives": list(gives(plan)),
        "customers": [(one, STATE_TONES[one.state]) for one in on_it[:SHOWN]],
        "customers_count": on_it.count(),
        "customers_link": customers_link(plan),
        "own_prices": [row for row in known if row.gives == plan.name],
        "unnamed": [row for row in known if row.is_unnamed],
        "terms": [(changes.FIELDS[name], changes.value(name, getattr(plan, name))) for name in policy.COLUMNS],
    }


def price_rows() -> list[PlanPriceRow]:
    """Those that nothing is said of first."""
    links = {plan.name: reverse("admin:billing_plan_change", args=[plan.pk]) for plan in Plan.objects.all()}
    return [_price(one, links) for one in plans.prices(settings_policy.plan_rules())[:PRICES_SHOWN]]


def unnamed() -> list[PlanPriceRow]:
    """The prices that nothing is said of: their customers have the default plan's limit."""
    return [row for row in price_rows() if row.is_unnamed]


def _price(one: SoldPrice, links: dict[str, str]) -> PlanPriceRow:
    worth = one.worth
    if worth.level in (Level.PRICE_METADATA, Level.PRODUCT_METADATA):
        given = changes.shown(f"{worth.share_e4 / 10_000}") if worth.share_e4 else display.dollars(worth.limit_nanos)
        says = f"{given}{' of what it bills' if worth.share_e4 else ''}, by its metadata"
    else:
        says = worth.plan
    return PlanPriceRow(
        name=one.product,
        id=one.price.lookup_key or one.price.id,
        costs=one.costs,
        gives=says,
        link=links.get(says, ""),
        is_unnamed=worth.level == Level.DEFAULT,
    )


def _each(plan: Plan) -> str:
    return f"{'a unit ' if plan.per_unit else ''}a {'month' if plan.monthly else 'billing period'}"


def near(plan: Plan) -> str:
    """What happens near its limit, in a few words."""
    parts = [f"soft {changes.shown(plan.soft_cap)}" if plan.soft_cap is not None else "no soft cap"]
    parts += [f"hard {changes.shown(plan.hard_cap)}"] if plan.hard_cap != 1 else []
    if plan.downgrade_rules:
        parts.append(changes.value("downgrade_rules", plan.downgrade_rules))
    if plan.disabled_tools:
        parts.append(f"without {', '.join(plan.disabled_tools)}")
    return " · ".join(parts)


def gives(plan: Plan) -> Iterator[tuple[str, str]]:
    """(when, what its customer can spend), as its own policy says and the settings' where it says nothing."""
    own = {name: getattr(plan, name) for name in PlanPolicy.__dataclass_fields__}
    found = settings_policy.current().with_own(PlanPolicy(**own))
    whole = plan.limit_nanos

    def share(percent: int) -> str:
        return display.dollars(whole * percent // 100) if percent else "nothing"

    yield "Paid for", f"{display.dollars(whole)} {_each(plan)}"
    yield "While a trial runs", share(found.trial_percent)
    days = f" for {found.grace_days} days of the period, then nothing" if found.provisional_percent else ""
    yield "While payment is on its way, or failed", f"{share(found.provisional_percent)}{days}"
    yield "Paid for later, by agreement", share(found.credit_percent)
    rise = f"the new limit at once, at most {found.upgrade_times} times what was paid"
    yield "A rise in mid-period", rise if found.upgrade == "whole" else "what is paid of it"
    fall = "what was paid for, until the period ends" if found.downgrade == "period_end" else "the new limit, at once"
    yield "A fall in mid-period", fall
    paused = {"past_due": "as a late payment", "suspended": "nothing", "ignore": "as if it were not"}
    yield "Collection paused", paused[found.pause]
