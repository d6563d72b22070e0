"""What plans, metadata and settings can say of a limit: shares of revenue, caps, trials, grace, closing, binding."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps

from billing.accounts import plans, sync
from billing.models import BillingAccount, Plan
from governance import ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.models import Alert, Tenant
from tests import factories
from tests.billing.conftest import Deliver, budget_of, window_of
from tests.billing.events import (
    DAY,
    START,
    checkout_completed,
    invoice_paid,
    price_of,
    standard_plans,
    subscription_created,
    subscription_deleted,
    subscription_updated,
)

pytestmark = pytest.mark.django_db
NEXT, AFTER = START + 30 * DAY, START + 60 * DAY
STANDARD = factories.nanos("50")
ANN = Actor("ann")


def joined(price: dict[str, Any] | str = "price_standard", **paid: Any) -> list[dict[str, Any]]:
    name = price if isinstance(price, str) else price["id"]
    return [checkout_completed(), subscription_created(price=price), invoice_paid(price=name, **paid)]


def priced(metadata: dict[str, str], **fields: Any) -> dict[str, Any]:
    return price_of("price_x", metadata=metadata, **fields)


@pytest.mark.parametrize(
    ("metadata", "cents", "interval", "limit"),
    [
        ({"llm_budget_percent": "40"}, 10_000, "month", "40"),
        ({"llm_budget_percent": "12.5"}, 10_000, "month", "12.5"),
        ({"llm_budget_percent": "40"}, 120_000, "year", "40"),
        ({"llm_budget_percent": "40", "llm_budget_period": "billing"}, 120_000, "year", "480"),
    ],
)
def test_a_limit_can_be_a_share_of_what_the_invoice_bills(
    tenant: Tenant, deliver: Deliver, metadata: dict[str, str], cents: int, interval: str, limit: str
) -> None:
    price = priced(metadata, interval=interval, unit_amount=cents)
    length = 365 * DAY if interval == "year" else 30 * DAY
    deliver(
        checkout_completed(),
        subscription_created(price=price, period_end=START + length),
        invoice_paid(price="price_x", amount_paid=cents, period_end=START + length),
    )
    assert window_of().limit_nanos == factories.nanos(limit)


def test_revenue_in_another_currency_needs_a_rate(tenant: Tenant, deliver: Deliver, settings: Any) -> None:
    price = priced({"llm_budget_percent": "50"}, currency="eur", unit_amount=10_000)
    paid = invoice_paid(price="price_x", amount_paid=10_000)
    paid["data"]["object"]["lines"]["data"][0]["currency"] = "eur"
    deliver(checkout_completed(), subscription_created(price=price), paid)
    assert BillingAccount.objects.get().reasons == ["no_exchange_rate:eur"]
    assert Alert.objects.filter(kind="no_exchange_rate", cleared_at=None).exists()
    settings.STRIPE_EXCHANGE_RATES = {"eur": Decimal("1.10")}
    sync.customer("cus_acme", now=START)
    assert window_of().limit_nanos == factories.nanos("55")
    assert not Alert.objects.filter(kind="no_exchange_rate", cleared_at=None).exists()


def test_metadata_sets_the_caps_and_absurd_ones_are_refused(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined(priced({"llm_budget_usd": "10", "llm_soft_cap": "0.5", "llm_hard_cap": "0.9"})))
    budget = budget_of()
    assert (budget.soft_cap, budget.hard_cap) == (Decimal("0.5"), Decimal("0.9"))
    worse = priced({"llm_budget_usd": "10", "llm_soft_cap": "0.95", "llm_hard_cap": "2"})
    deliver(subscription_updated(price=worse, created=START + DAY))
    budget.refresh_from_db()
    assert (budget.soft_cap, budget.hard_cap) == (Decimal("0.5"), Decimal("0.9"))
    assert "invalid_metadata:llm_hard_cap" in BillingAccount.objects.get().reasons


def test_unmapped_prices_alert_once_until_they_are_mapped(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined("price_other"), subscription_updated(price="price_other", created=START + DAY))
    alert = Alert.objects.get(kind="unmapped_plan")
    assert (alert.count, alert.cleared_at) == (1, None)
    plan = Plan(name="Other", limit_nanos=factories.nanos("70"), price_ids=["price_other"])
    plans.save(plan=plan, changes={}, by=ANN, now=START + DAY)
    sync.customer("cus_acme", now=START + DAY)
    alert.refresh_from_db()
    assert (alert.cleared_at, window_of().limit_nanos) == (START + DAY, factories.nanos("70"))


def test_a_plans_own_terms_come_before_the_settings(tenant: Tenant, deliver: Deliver) -> None:
    standard = Plan.objects.get(name="Standard")
    changes: dict[str, object] = {"provisional_percent": 40, "grace_days": 2}
    plans.save(plan=standard, changes=changes, by=ANN, now=START)
    deliver(joined())
    rolled = subscription_updated(period_start=NEXT, period_end=AFTER, status="past_due", created=NEXT)
    deliver(rolled, now=NEXT)
    assert window_of().limit_nanos == factories.nanos("20")
    sync.customer("cus_acme", now=NEXT + 2 * DAY)
    assert BillingAccount.objects.get().state == "suspended"


@pytest.mark.parametrize(
    ("policy", "state"), [("ignore", "active"), ("suspended", "suspended"), ("past_due", "active")]
)
def test_paused_collection_is_policy(tenant: Tenant, deliver: Deliver, settings: Any, policy: str, state: str) -> None:
    settings.STRIPE_PAUSED_COLLECTION = policy
    deliver(joined(), subscription_updated(pause_collection={"behavior": "void"}, created=START + DAY))
    assert BillingAccount.objects.get().state == state


def test_a_closed_customer_may_have_the_free_tier(tenant: Tenant, deliver: Deliver, settings: Any) -> None:
    settings.STRIPE_FREE_BUDGET = Decimal("5")
    deliver(joined(), subscription_deleted(created=START + DAY), now=START + DAY)
    tenant.refresh_from_db()
    assert (tenant.status, BillingAccount.objects.get().state) == ("active", "free")
    assert window_of().limit_nanos == factories.nanos("5")
    ledger.record(factories.reporting("4"), now=START + DAY)
    april = START.replace(month=4)
    assert sync.due(now=april) == 1
    assert (window_of().starts_at, window_of().remaining_nanos) == (april, factories.nanos("5"))


def test_another_plan_brings_its_own_caps_and_rules(tenant: Tenant, deliver: Deliver) -> None:
    Plan.objects.filter(name="Premium").update(soft_cap=Decimal("0.6"), disabled_tools=["search"])
    deliver(joined(), subscription_updated(price="price_premium", created=START + DAY), now=START + DAY)
    budget = budget_of()
    assert (budget.soft_cap, budget.disabled_tools) == (Decimal("0.6"), ["search"])


def test_a_plan_sets_the_whole_policy_of_the_budget_it_makes(tenant: Tenant, deliver: Deliver) -> None:
    said = {"warn_at": Decimal("0.6"), "alert_thresholds": ["0.7"], "clamp": False, "clamp_min_tokens": 64}
    plans.save(plan=Plan.objects.get(name="Standard"), changes=said, by=ANN, now=START)
    deliver(joined())
    assert {name: getattr(budget_of(), name) for name in said} == said


def test_another_plan_overrules_an_operator_in_what_it_or_the_last_one_says(tenant: Tenant, deliver: Deliver) -> None:
    plans.save(plan=Plan.objects.get(name="Standard"), changes={"alert_thresholds": ["0.7"]}, by=ANN, now=START)
    plans.save(plan=Plan.objects.get(name="Premium"), changes={"warn_at": "0.6"}, by=ANN, now=START)
    deliver(joined())
    mine = {"clamp": False, "warn_at": "0.1", "alert_thresholds": ["0.2"], "disabled_tools": ["web_search"]}
    budgets.change(budget=budget_of(), changes=mine, by=ANN, now=START)
    deliver(subscription_updated(price="price_premium", created=START + DAY), now=START + DAY)
    budget = budget_of()
    assert (budget.clamp, budget.disabled_tools) == (False, [])
    assert (budget.warn_at, budget.alert_thresholds) == (Decimal("0.6"), ["0.5", "0.75", "0.9", "1"])


def test_what_no_plan_says_stays_as_an_operator_has_set_it(tenant: Tenant, deliver: Deliver) -> None:
    # Saved by an earlier version, which wrote the same default in another way, and saved anew.
    Plan.objects.filter(name="Standard").update(alert_thresholds=["0.5", "0.75", "0.9", "1.0"])
    plans.save(plan=Plan.objects.get(name="Premium"), changes={"grace_days": 3}, by=ANN, now=START)
    deliver(joined())
    mine = {"clamp": False, "warn_at": "0.1", "alert_thresholds": ["0.2"], "clamp_min_tokens": 9}
    budgets.change(budget=budget_of(), changes=mine, by=ANN, now=START)
    deliver(subscription_updated(price="price_premium", created=START + DAY), now=START + DAY)
    budget = budget_of()
    assert (budget.clamp, budget.warn_at, budget.clamp_min_tokens) == (False, Decimal("0.1"), 9)
    assert budget.alert_thresholds == ["0.2"]


def test_metadata_that_lowers_the_soft_cap_leaves_no_warning_before_it(tenant: Tenant, deliver: Deliver) -> None:
    plans.save(plan=Plan.objects.get(name="Standard"), changes={"warn_at": "0.6"}, by=ANN, now=START)
    low = price_of("price_standard", metadata={"llm_soft_cap": "0.5"})
    deliver(checkout_completed(), subscription_created(price=low), invoice_paid())
    assert (budget_of().soft_cap, budget_of().warn_at) == (Decimal("0.5"), None)


def test_apply_now_gives_current_windows_the_plan_and_owes_nothing_of_it(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    ledger.record(factories.reporting("45"), now=START)
    Plan.objects.filter(name="Standard").update(limit_nanos=factories.nanos("30"))
    assert plans.apply_now(by=ANN, now=START + DAY) == 1
    # What is used stays, and no more.
    assert (window_of().limit_nanos, window_of().remaining_nanos) == (factories.nanos("45"), 0)
    renewal = {"billing_reason": "subscription_cycle", "period_start": NEXT, "period_end": AFTER}
    deliver(invoice_paid(**renewal), now=NEXT)
    assert window_of().limit_nanos == factories.nanos("30")


def test_three_staggered_subscriptions_grant_nothing_twice(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    ledger.record(factories.reporting("50"), now=START)
    for number in (1, 2):
        at = START + number * 5 * DAY
        more = {"subscription": f"sub_{number}", "period_start": at, "period_end": at + 30 * DAY}
        deliver(subscription_created(created=at, **more), invoice_paid(**more), now=at)
        assert window_of().remaining_nanos == STANDARD
        ledger.record(factories.reporting("50"), now=at)


@pytest.mark.parametrize(("wanted", "made"), [(True, ["newcomer"]), (False, [])])
def test_a_checkout_makes_its_tenant_where_that_is_wanted(
    db: None, deliver: Deliver, settings: Any, wanted: bool, made: list[str]
) -> None:
    standard_plans()
    settings.STRIPE_CREATE_TENANTS = wanted
    deliver(checkout_completed(tenant="newcomer"), checkout_completed(tenant="No Slug!", customer="cus_2"))
    assert list(Tenant.objects.values_list("slug", flat=True)) == made
    assert BillingAccount.objects.get(stripe_customer_id="cus_2").reasons == ["unknown_tenant:No Slug!"]


def test_a_cancellation_to_come_is_shown(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined(), subscription_updated(cancel_at_period_end=True, created=START + DAY))
    assert BillingAccount.objects.get().reasons == ["cancels_at_period_end"]


def test_no_limit_waits_for_a_period_that_is_not_over(tenant: Tenant, deliver: Deliver) -> None:
    """Half a year of a plan whose budget is for the billing period is one window."""
    price = priced({"llm_budget_usd": "300", "llm_budget_period": "billing"}, interval="month")
    price["recurring"]["interval_count"] = 6
    length = timedelta(days=181)
    deliver(
        checkout_completed(),
        subscription_created(price=price, period_end=START + length),
        invoice_paid(price="price_x", period_end=START + length),
    )
    assert (window_of().ends_at, window_of().limit_nanos) == (START + length, factories.nanos("300"))


def test_spend_reported_beyond_the_limit_is_not_owed(tenant: Tenant, deliver: Deliver) -> None:
    """No limit let it happen, so none was given too much."""
    deliver(joined())
    ledger.record(factories.reporting("75"), now=START)
    renewal = {"billing_reason": "subscription_cycle", "period_start": NEXT, "period_end": AFTER}
    deliver(invoice_paid(**renewal), now=NEXT)
    assert (window_of().limit_nanos, BillingAccount.objects.get().reasons) == (STANDARD, [])


def test_a_rule_that_an_earlier_version_kept_with_one_name_is_a_list_of_names_after_the_upgrade() -> None:
    Plan.objects.filter(name="Premium").update(downgrade_rules=[{"from": "large", "to": "small"}])
    import_module("billing.migrations.0008_plan_policies").list_sources(apps, None)
    assert Plan.objects.get(name="Premium").downgrade_rules == [{"from": ["large"], "to": "small"}]
