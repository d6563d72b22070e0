"""What streams of events come to: windows, limits and the tenant's status."""

from __future__ import annotations

from typing import Any

import pytest

from billing.accounts import sync
from billing.models import BillingAccount, Plan, StripeEvent
from governance import ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.models import AuditEntry, BudgetEvent, BudgetWindow, Tenant
from tests import factories
from tests.billing.conftest import Deliver, budget_of, window_of
from tests.billing.events import (
    DAY,
    START,
    checkout_completed,
    event,
    invoice_paid,
    price_of,
    standard_plans,
    subscription_created,
    subscription_deleted,
    subscription_updated,
)

pytestmark = pytest.mark.django_db
NEXT = START + 30 * DAY
AFTER = START + 60 * DAY
STANDARD, PREMIUM = factories.nanos("50"), factories.nanos("200")


def joined() -> list[dict[str, Any]]:
    return [checkout_completed(), subscription_created(), invoice_paid()]


def renewal(**fields: Any) -> dict[str, Any]:
    return invoice_paid(**{"billing_reason": "subscription_cycle", "period_start": NEXT, "period_end": AFTER, **fields})


def spend(dollars: str, now: Any = START) -> None:
    ledger.record(factories.reporting(dollars), now=now)


def test_first_paid_period_opens_a_window_at_the_plans_limit(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    window, budget = window_of(), budget_of()
    assert (window.starts_at, window.ends_at, window.limit_nanos) == (START, NEXT, STANDARD)
    assert (window.source_kind, window.source_id) == ("stripe", "cus_acme")
    assert (budget.source, budget.limit_nanos, str(budget.soft_cap)) == ("stripe", STANDARD, "0.8000")
    assert budget.downgrade_rules


def test_renewal_opens_the_next_window_once_and_keeps_the_old_ones_history(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    spend("12")
    deliver(renewal(), renewal(), renewal(), now=NEXT)
    window = window_of()
    assert (window.starts_at, window.settled_nanos) == (NEXT, 0)
    assert list(BudgetWindow.objects.order_by("starts_at").values_list("settled_nanos", flat=True)) == [
        factories.nanos("12"),
        0,
    ]


def test_payment_of_zero_counts_when_the_invoice_is_paid(tenant: Tenant, deliver: Deliver) -> None:
    deliver(checkout_completed(), invoice_paid(amount_paid=0))
    window = window_of()
    assert window.limit_nanos == STANDARD


@pytest.mark.parametrize("reason", ["subscription_update", "manual", "subscription_threshold", "upcoming"])
def test_other_billing_reasons_open_no_window(tenant: Tenant, deliver: Deliver, reason: str) -> None:
    deliver(joined())
    spend("12")
    deliver(invoice_paid(billing_reason=reason, period_start=START + DAY), now=START + DAY)
    window = window_of()
    assert (window.starts_at, window.settled_nanos) == (START, factories.nanos("12"))
    assert BudgetWindow.objects.count() == 1


def test_upgrade_and_downgrade_change_the_limit_at_once_and_keep_what_was_used(
    tenant: Tenant, deliver: Deliver, trusting: None
) -> None:
    deliver(joined())
    spend("45")
    deliver(subscription_updated(price="price_premium", created=START + DAY), now=START + DAY)
    window = window_of()
    assert (window.limit_nanos, window.settled_nanos) == (
        PREMIUM,
        factories.nanos("45"),
    )
    assert window.state == "active"
    deliver(subscription_updated(price="price_standard", created=START + 2 * DAY), now=START + 2 * DAY)
    window = window_of()
    assert (window.limit_nanos, window.settled_nanos) == (
        STANDARD,
        factories.nanos("45"),
    )
    assert window.state == "degraded"


def test_upgrade_and_downgrade_loops_mint_nothing(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    spend("40")
    for turn in range(1, 12):
        at = START + turn * DAY
        price = "price_premium" if turn % 2 else "price_standard"
        deliver(
            subscription_updated(price=price, created=at),
            invoice_paid(
                billing_reason="subscription_update",
                amount_paid=40,
                period_start=at,
                created=at,
                price=price,
                proration=True,
            ),
            now=at,
        )
    deliver(subscription_updated(price="price_standard", created=START + 12 * DAY), now=START + 12 * DAY)
    window = window_of()
    assert window.remaining_nanos == factories.nanos("10")
    assert BudgetWindow.objects.count() == 1


def test_late_payment_of_an_older_period_leaves_the_current_one_alone(tenant: Tenant, deliver: Deliver) -> None:
    deliver(checkout_completed(), renewal(), now=NEXT)
    spend("12", now=NEXT)
    deliver(invoice_paid(created=NEXT + DAY), now=NEXT + DAY)
    window = window_of()
    assert (window.starts_at, window.settled_nanos) == (NEXT, factories.nanos("12"))


def test_period_rolled_but_not_paid_gives_a_tenth_until_it_is(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    deliver(subscription_updated(period_start=NEXT, period_end=AFTER, created=NEXT), now=NEXT)
    window = window_of()
    assert (window.starts_at, window.limit_nanos) == (NEXT, STANDARD // 10)
    spend("3", now=NEXT)
    deliver(renewal(created=NEXT + DAY), now=NEXT + DAY)
    window = window_of()
    assert (window.starts_at, window.limit_nanos, window.settled_nanos) == (
        NEXT,
        STANDARD,
        factories.nanos("3"),
    )


def test_past_due_suspends_after_the_grace_and_payment_takes_it_back(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    deliver(subscription_updated(period_start=NEXT, period_end=AFTER, status="past_due", created=NEXT), now=NEXT)
    tenant.refresh_from_db()
    assert tenant.status == "active"
    sync.customer("cus_acme", now=NEXT + 8 * DAY)
    tenant.refresh_from_db()
    assert tenant.status == "suspended"
    deliver(
        subscription_updated(period_start=NEXT, period_end=AFTER, created=NEXT + 9 * DAY),
        renewal(created=NEXT + 9 * DAY),
        now=NEXT + 9 * DAY,
    )
    tenant.refresh_from_db()
    window = window_of()
    assert tenant.status == "active"
    assert window.limit_nanos == STANDARD


def test_deleted_subscription_suspends_unless_another_one_lives(tenant: Tenant, deliver: Deliver) -> None:
    second: dict[str, Any] = {"subscription": "sub_two", "price": "price_premium"}
    deliver(joined(), subscription_created(**second), invoice_paid(**second))
    window = window_of()
    assert window.limit_nanos == STANDARD + PREMIUM
    deliver(subscription_deleted(created=START + DAY), now=START + DAY)
    tenant.refresh_from_db()
    window = window_of()
    assert (tenant.status, window.limit_nanos) == ("active", PREMIUM)
    deliver(subscription_deleted(created=START + 2 * DAY, **second), now=START + 2 * DAY)
    tenant.refresh_from_db()
    assert tenant.status == "suspended"


def test_second_subscriptions_window_grants_nothing_of_the_first_again(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    spend("50")
    later = START + 10 * DAY
    second: dict[str, Any] = {"subscription": "sub_two", "period_start": later, "period_end": later + 30 * DAY}
    deliver(subscription_created(created=later, **second), invoice_paid(**second), now=later)
    window = window_of()
    assert (window.starts_at, window.remaining_nanos) == (later, STANDARD)
    deliver(subscription_updated(created=later + DAY, **second), now=later + DAY)
    window = window_of()
    assert window.remaining_nanos == STANDARD


def test_trial_gives_a_tenth_once_for_a_product(tenant: Tenant, deliver: Deliver) -> None:
    trial: dict[str, Any] = {
        "status": "trialing",
        "period_end": START + 14 * DAY,
        "trial_start": int(START.timestamp()),
        "trial_end": int((START + 14 * DAY).timestamp()),
    }
    first: dict[str, Any] = {"period_end": START + 14 * DAY, "amount_paid": 0}
    deliver(checkout_completed(), invoice_paid(**first), subscription_created(**trial))
    window = window_of()
    assert (window.limit_nanos, window.ends_at) == (STANDARD // 10, START + 14 * DAY)
    deliver(subscription_deleted(created=START + DAY, **{**trial, "status": "canceled"}), now=START + DAY)
    again: dict[str, Any] = {"subscription": "sub_again", "period_start": START + DAY}
    deliver(
        subscription_created(**{**trial, **again}, created=START + DAY),
        invoice_paid(**{**first, **again}),
        now=START + DAY,
    )
    account = BillingAccount.objects.get()
    assert (account.state, account.reasons) == ("pending", ["trial_used"])


def test_annual_plan_opens_a_window_each_month_without_an_event(tenant: Tenant, deliver: Deliver) -> None:
    year: dict[str, Any] = {"price": price_of("price_standard_year", interval="year"), "period_end": START + 365 * DAY}
    deliver(checkout_completed(), subscription_created(**year))
    deliver(invoice_paid(price="price_standard_year", period_end=START + 365 * DAY))
    window = window_of()
    assert (window.starts_at, window.ends_at) == (START, START.replace(month=4))
    spend("20")
    assert sync.due(now=START.replace(month=4)) == 1
    window = window_of()
    assert (window.starts_at, window.remaining_nanos) == (
        START.replace(month=4),
        STANDARD,
    )
    assert sync.due(now=START.replace(month=4)) == 0


def test_unmapped_price_gets_the_default_plan_and_a_reason(tenant: Tenant, deliver: Deliver) -> None:
    deliver(checkout_completed(), subscription_created(price="price_other"), invoice_paid(price="price_other"))
    account = BillingAccount.objects.get()
    assert (account.plan, account.limit_nanos, account.reasons) == ("Standard", STANDARD, ["unmapped_plan"])


@pytest.mark.parametrize("first", ["product", "invoice"])
def test_products_metadata_sets_the_limit_in_either_order(tenant: Tenant, deliver: Deliver, first: str) -> None:
    product = event(
        "product.created", {"id": "prod_other", "object": "product", "metadata": {"llm_budget_usd": "75.50"}}
    )
    paid = [
        checkout_completed(),
        subscription_created(price="price_other"),
        invoice_paid(price="price_other"),
    ]
    deliver(*([product, paid] if first == "product" else [paid, product]))
    assert sync.due(now=START) == (first == "invoice")
    window = window_of()
    assert window.limit_nanos == factories.nanos("75.50")
    assert BillingAccount.objects.get().reasons == []


def test_changed_metadata_and_plans_are_for_new_windows(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    Plan.objects.filter(name="Standard").update(limit_nanos=factories.nanos("60"))
    deliver(subscription_updated(created=START + DAY), now=START + DAY)
    window = window_of()
    assert window.limit_nanos == STANDARD
    deliver(subscription_updated(created=NEXT, period_start=NEXT, period_end=AFTER), renewal(), now=NEXT)
    window = window_of()
    assert window.limit_nanos == factories.nanos("60")


@pytest.mark.parametrize("value", ["-5", "NaN", "Infinity", "1e12", "lots", "0", "1e-12"])
def test_absurd_metadata_is_refused_with_a_reason(tenant: Tenant, deliver: Deliver, value: str) -> None:
    bad = price_of("price_other", metadata={"llm_budget_usd": value})
    deliver(checkout_completed(), subscription_created(price=bad), invoice_paid(price="price_other"))
    account = BillingAccount.objects.get()
    assert account.limit_nanos == STANDARD
    assert account.reasons == ["invalid_metadata:llm_budget_usd", "unmapped_plan"]


def test_operators_override_beats_the_plan_and_going_back_restores_it(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    account = BillingAccount.objects.get()
    sync.override(account=account, limit_nanos=factories.nanos("500"), by=Actor("ann"), now=START)
    window = window_of()
    assert window.limit_nanos == factories.nanos("500")
    sync.override(account=account, limit_nanos=None, by=Actor("ann"), now=START)
    window = window_of()
    assert window.limit_nanos == STANDARD


def test_operators_budget_for_billing_cycles_is_taken_over(tenant: Tenant, deliver: Deliver) -> None:
    mine = factories.budget("7", window="billing_cycle", tenant=tenant, soft_cap="0.5")
    spend("1")
    deliver(joined())
    mine.refresh_from_db()
    window = window_of()
    assert window.budget_id == mine.pk
    assert (mine.source, mine.limit_nanos, str(mine.soft_cap), window.settled_nanos) == (
        "stripe",
        STANDARD,
        "0.5000",
        0,
    )


def test_operators_reset_is_kept_and_follows_the_limit(tenant: Tenant, deliver: Deliver, trusting: None) -> None:
    deliver(joined())
    budget = budget_of()
    budgets.reset(budget=budget, reason="goodwill", by=Actor("ann"), now=START + DAY)
    deliver(subscription_updated(price="price_premium", created=START + 2 * DAY), now=START + 2 * DAY)
    window = window_of()
    assert (window.starts_at, window.limit_nanos) == (START + DAY, PREMIUM)


def test_customer_bound_later_gets_its_window_then(db: None, deliver: Deliver) -> None:
    standard_plans()
    deliver(joined())
    assert BillingAccount.objects.get().reasons == ["unknown_tenant:acme"]
    assert not BudgetWindow.objects.exists()
    factories.tenant("acme")
    assert sync.due(now=START + DAY) == 1
    assert window_of().limit_nanos == STANDARD


def test_first_binding_wins(tenant: Tenant, deliver: Deliver) -> None:
    factories.tenant("other")
    deliver(joined(), checkout_completed(tenant="other"))
    deliver(checkout_completed(customer="cus_thief"), subscription_created(customer="cus_thief", subscription="sub_2"))
    deliver(invoice_paid(customer="cus_thief", subscription="sub_2"))
    assert dict(BillingAccount.objects.values_list("stripe_customer_id", "tenant__slug")) == {
        "cus_acme": "acme",
        "cus_thief": None,
    }
    assert BillingAccount.objects.get(stripe_customer_id="cus_thief").reasons == ["tenant_taken:acme"]


def test_tenant_paused_by_an_operator_stays_paused(tenant: Tenant, deliver: Deliver) -> None:
    Tenant.objects.update(status="paused")
    deliver(joined())
    tenant.refresh_from_db()
    assert tenant.status == "paused"


def test_second_look_writes_nothing(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined(), subscription_updated(price="price_premium", created=START + DAY))

    def snapshot() -> tuple[Any, ...]:
        accounts, windows = BillingAccount.objects.values(), BudgetWindow.objects.values()
        return list(accounts), list(windows), AuditEntry.objects.count(), BudgetEvent.objects.count()

    before = snapshot()
    sync.customer("cus_acme", now=START + DAY)
    assert snapshot() == before
    assert not StripeEvent.objects.waiting().exists()
