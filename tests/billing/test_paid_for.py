"""What an owner rightly expects of Stripe's objects: what was paid for can be spent, no more and no less.

Each test is a kind of report that products like this one have had; siblings of the kinds stand beside them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from billing.accounts import sync
from billing.inbox import handlers
from billing.rules import refunds
from billing.rules.entitlement import BillingPolicy, Entitlement, EntitlementState, entitle
from billing.rules.valuation import PlanRule
from billing.stripe_api import objects
from governance.models import Tenant
from tests.billing import events as ev
from tests.billing.conftest import Deliver, window_of

D, NOW = timedelta(days=1), datetime(2026, 6, 21, 12, tzinfo=UTC)
USD = 10**9
PLANS = [
    PlanRule("Standard", 50 * USD, lookup_keys=frozenset({"standard"}), is_default=True),
    PlanRule("Premium", 200 * USD, lookup_keys=frozenset({"premium"})),
]


def seconds(at: datetime) -> int:
    return int(at.timestamp())


def price(
    id: str = "price_standard",
    cents: int | None = 5000,
    lookup: str | None = "standard",
    interval: str = "month",
    **meta: str,
) -> dict[str, Any]:
    return {
        "id": id,
        "object": "price",
        "currency": "usd",
        "unit_amount": cents,
        "lookup_key": lookup,
        "metadata": meta,
        "product": "prod_" + id[6:],
        "recurring": {"interval": interval, "interval_count": 1},
    }


def item(p: dict[str, Any], qty: int | None, a: datetime, b: datetime) -> dict[str, Any]:
    return {
        "id": "si_" + p["id"],
        "price": p,
        "quantity": qty,
        "current_period_start": seconds(a),
        "current_period_end": seconds(b),
    }


def sub(*items: dict[str, Any], status: str = "active", **more: Any) -> objects.StripeSubscription:
    return objects.subscription(
        {
            "id": "sub_1",
            "object": "subscription",
            "customer": "cus_1",
            "status": status,
            "items": {"data": list(items)},
            **more,
        }
    )


def line(
    p: dict[str, Any], qty: int, cents: int, a: datetime, b: datetime, *, prorated: bool = False, off: int = 0
) -> dict[str, Any]:
    kind = "invoice_item_details" if prorated else "subscription_item_details"
    return {
        "id": f"il_{p['id']}_{qty}_{cents}_{seconds(a)}",
        "amount": cents,
        "currency": "usd",
        "quantity": qty,
        "price": p,
        "period": {"start": seconds(a), "end": seconds(b)},
        "parent": {"type": kind, kind: {"subscription": "sub_1", "proration": prorated}},
        "discount_amounts": [{"amount": off}] if off else [],
    }


def bill(
    id: str, reason: str, *lines: dict[str, Any], at: datetime, paid: int | None = None, shown: int = 10, **more: Any
) -> objects.StripeInvoice:
    """A paid invoice as Stripe embeds it: its first ten lines."""
    total = sum(one["amount"] for one in lines) if paid is None else paid
    return objects.invoice(
        {
            "id": id,
            "object": "invoice",
            "customer": "cus_1",
            "status": "paid",
            "billing_reason": reason,
            "currency": "usd",
            "created": seconds(at),
            "amount_paid": max(0, total),
            "parent": {"subscription_details": {"subscription": "sub_1"}},
            "lines": {"data": list(lines)[:shown], "has_more": len(lines) > shown},
            **more,
        }
    )


def comes_to(
    subscription: objects.StripeSubscription,
    *bills: objects.StripeInvoice,
    policy: BillingPolicy | None = None,
    **more: Any,
) -> Entitlement:
    return entitle(subscriptions=[subscription], invoices=bills, plans=PLANS, now=NOW, policy=policy, **more)


# Money: more budget than was paid for ----------------------------------------------------------------------------


def test_S1_an_old_invoice_of_more_than_ten_lines_does_not_pay_for_every_later_period() -> None:
    p, a, b, c = (
        price("price_seat", 1000, None, llm_budget_usd="10", llm_budget_per_unit="true"),
        NOW - 55 * D,
        NOW - 25 * D,
        NOW + 5 * D,
    )
    changes = [line(p, q, cents, a - 9 * D, a, prorated=True) for q in range(4, 10) for cents in (-q * 300, q * 300)]
    old = bill("in_old", "subscription_cycle", *changes, line(p, 10, 10000, a, b), at=a)
    found = comes_to(sub(item(p, 10, b, c), status="past_due"), old)  # the renewal of 25 days ago is open
    assert found.state == EntitlementState.SUSPENDED, found


def test_S2_a_metered_subscription_that_never_paid_is_not_active() -> None:
    p, b, c = price("price_usage", None, None, llm_budget_usd="50"), NOW - 20 * D, NOW + 10 * D
    created = bill("in_0", "subscription_create", line(p, 0, 0, NOW - 80 * D, NOW - 80 * D), at=NOW - 80 * D)
    assert comes_to(sub(item(p, None, b, c), status="past_due"), created).state != EntitlementState.ACTIVE


def test_S3_a_years_budget_beside_a_monthly_item_is_given_once_a_year() -> None:
    y = price("price_year", 60000, None, "year", llm_budget_usd="600", llm_budget_period="billing")
    m, a, b = price("price_support", 1000, None), NOW - 31 * D, NOW - D
    first = bill("in_1", "subscription_create", line(y, 1, 60000, a, a + 365 * D), line(m, 1, 1000, a, b), at=a)
    second = bill("in_2", "subscription_cycle", line(m, 1, 1000, b, b + 30 * D), at=b)
    found = comes_to(sub(item(y, 1, a, a + 365 * D), item(m, 1, b, b + 30 * D)), first, second)
    assert found.period is not None
    assert found.period.starts_at == datetime.fromtimestamp(seconds(a), UTC), found.period


def test_S4_a_share_of_revenue_counts_the_coupon_after_an_upgrade() -> None:
    a = price("price_a", 5000, None, llm_budget_percent="40")
    b = price("price_b", 50000, None, llm_budget_percent="40")
    start, end = NOW - D, NOW + 29 * D
    first = bill("in_1", "subscription_create", line(a, 1, 5000, start, end, off=5000), at=start, paid=0)
    change = bill(
        "in_2",
        "subscription_update",
        line(a, 1, -4833, NOW, end, prorated=True, off=-4833),
        line(b, 1, 48333, NOW, end, prorated=True, off=48333),
        at=NOW,
        paid=0,
    )
    assert not comes_to(sub(item(b, 1, start, end)), first, change).limit_nanos


def test_S5_a_first_period_of_a_day_gives_a_days_share() -> None:
    p, start, end = price(), NOW - timedelta(hours=1), NOW + timedelta(hours=20)
    found = comes_to(
        sub(item(p, 1, start, end)), bill("in_1", "subscription_create", line(p, 1, 146, start, end), at=start)
    )
    assert found.limit_nanos <= 2 * USD, found.limit_nanos


def test_S6_seats_that_nobody_paid_for_are_not_spendable() -> None:
    p, start, end = (
        price("price_seat", 1000, None, llm_budget_usd="10", llm_budget_per_unit="true"),
        NOW - D,
        NOW + 29 * D,
    )
    found = comes_to(
        sub(item(p, 1000, start, end)), bill("in_1", "subscription_create", line(p, 1, 1000, start, end), at=start)
    )
    assert found.limit_nanos <= 100 * USD, found.limit_nanos


# Lost: who pays is blocked ---------------------------------------------------------------------------------------


def test_S8_a_renewal_resumed_after_a_gap_is_a_whole_period() -> None:
    p, end = price(), NOW + 30 * D
    old = bill("in_1", "subscription_create", line(p, 1, 5000, NOW - 90 * D, NOW - 60 * D), at=NOW - 90 * D)
    resumed = bill("in_2", "subscription_update", line(p, 1, 5000, NOW, end), at=NOW)
    found = comes_to(sub(item(p, 1, NOW, end)), old, resumed)
    assert (found.state, found.limit_nanos) == (EntitlementState.ACTIVE, 50 * USD), found


def test_S10_free_days_for_a_paying_customer_take_nothing_from_it() -> None:
    p, start = price(), NOW - 20 * D
    paid = bill("in_1", "subscription_create", line(p, 1, 5000, start, NOW + 10 * D), at=start)
    free = bill("in_2", "subscription_update", line(p, 1, 0, NOW, NOW + 20 * D), at=NOW)
    found = comes_to(
        sub(
            item(p, 1, NOW, NOW + 20 * D), status="trialing", trial_start=seconds(NOW), trial_end=seconds(NOW + 20 * D)
        ),
        paid,
        free,
    )
    assert found.limit_nanos >= 50 * USD, found


def test_S11_after_a_trial_the_provisional_share_is_of_the_plan() -> None:
    p = price()
    trial = bill(
        "in_1", "subscription_create", line(p, 1, 0, NOW - 14 * D, NOW - timedelta(minutes=1)), at=NOW - 14 * D
    )
    found = comes_to(
        sub(
            item(p, 1, NOW - timedelta(minutes=1), NOW + 30 * D),
            trial_start=seconds(NOW - 14 * D),
            trial_end=seconds(NOW - timedelta(minutes=1)),
        ),
        trial,
    )
    assert found.limit_nanos == 5 * USD, found.limit_nanos


def _charge(id: str, amount: int, back: int) -> refunds.Known:
    data = {
        "id": id,
        "object": "charge",
        "status": "succeeded",
        "amount": amount,
        "amount_refunded": back,
        "currency": "usd",
        "payment_intent": "pi_" + id,
        "created": seconds(NOW),
    }
    return refunds.Known(objects.payment(data), seconds(NOW))


def _paid_by(*ids: str) -> dict[str, Any]:
    return {"payments": {"data": [{"payment": {"type": "payment_intent", "payment_intent": "pi_" + id}} for id in ids]}}


def test_S13_a_refund_of_the_card_part_is_partial_where_credit_paid_the_rest() -> None:
    p = price()
    paid = bill(
        "in_1",
        "subscription_create",
        line(p, 1, 5000, NOW, NOW + 30 * D),
        at=NOW,
        paid=500,
        total=5000,
        starting_balance=-4500,
        **_paid_by("ch_1"),
    )
    assert refunds.of_invoices([paid], [_charge("ch_1", 500, 500)])["in_1"].kind == refunds.RefundKind.PARTIAL


# With the database ------------------------------------------------------------------------------------------------


def test_S15_an_old_price_keeps_its_plan_when_its_lookup_key_moves_on(tenant: Tenant, deliver: Deliver) -> None:
    end = ev.START + 30 * D
    old = ev.price_of("price_premium_old", lookup_key="premium")
    deliver(
        ev.subscription_created(price=old, metadata={"tenant_id": "acme"}), ev.invoice_paid(price="price_premium_old")
    )
    assert window_of().limit_nanos == 200 * USD
    moved = {
        "price": ev.price_of("price_premium_old", lookup_key=None),
        "period_start": end,
        "period_end": end + 30 * D,
    }
    deliver(ev.subscription_updated(created=end, **moved), now=end)
    deliver(
        ev.invoice_paid(created=end, billing_reason="subscription_cycle", **{**moved, "price": "price_premium_old"}),
        now=end,
    )
    assert window_of().limit_nanos == 200 * USD


def test_S16_a_customer_that_comes_back_under_another_id_has_its_budget(tenant: Tenant, deliver: Deliver) -> None:
    at = ev.START
    deliver(ev.subscription_created(metadata={"tenant_id": "acme"}), ev.invoice_paid(), now=at)
    later = at + 40 * D
    deliver(ev.subscription_deleted(created=later), now=later)
    again = {"customer": "cus_new", "subscription": "sub_new", "period_start": later, "period_end": later + 30 * D}
    deliver(
        ev.subscription_created(metadata={"tenant_id": "acme"}, created=later, **again),
        ev.invoice_paid(created=later, **again),
        now=later,
    )
    tenant.refresh_from_db()
    assert tenant.status == "active"
    assert window_of().starts_at == later


def test_S17_a_first_payment_that_never_came_suspends_nobody(tenant: Tenant, deliver: Deliver) -> None:
    deliver(ev.subscription_created(status="incomplete", metadata={"tenant_id": "acme"}))
    deliver(ev.subscription_updated(status="incomplete_expired", created=ev.START + D), now=ev.START + D)
    tenant.refresh_from_db()
    assert tenant.status == "active"


def test_S18_days_of_grace_end_by_time_alone(tenant: Tenant, deliver: Deliver) -> None:
    end = ev.START + 30 * D
    deliver(ev.subscription_created(metadata={"tenant_id": "acme"}), ev.invoice_paid())
    deliver(ev.subscription_updated(status="past_due", period_start=end, period_end=end + 30 * D, created=end), now=end)
    sync.due(now=end + 8 * D)
    tenant.refresh_from_db()
    assert tenant.status == "suspended"


def test_S20_a_full_refund_of_an_invoice_that_was_paid_late_is_known_without_a_key(
    tenant: Tenant, deliver: Deliver
) -> None:
    late = ev.START + 8 * D
    deliver(
        ev.subscription_created(metadata={"tenant_id": "acme"}),
        ev.invoice_paid(status_transitions={"paid_at": seconds(late)}, created=late),
    )
    charge = {
        "id": "ch_1",
        "object": "charge",
        "customer": "cus_acme",
        "status": "succeeded",
        "amount": 5000,
        "amount_refunded": 5000,
        "refunded": True,
        "currency": "usd",
        "payment_intent": "pi_1",
        "created": seconds(late),
    }
    deliver(ev.event("charge.refunded", charge, created=late + D), now=late + D)
    assert window_of().limit_nanos < 50 * USD


def test_S21_objects_of_accounts_v2_name_their_customer_account() -> None:
    assert objects.customer_id({"object": "invoice", "customer": None, "customer_account": "acct_1"}) == "acct_1"


def test_S22_delayed_payments_are_asked_for() -> None:
    assert "checkout.session.async_payment_succeeded" in handlers.asked_for()


def test_S23_a_stranger_cannot_take_a_tenant_by_a_payment_links_reference(tenant: Tenant, deliver: Deliver) -> None:
    data = {
        "id": "cs_1",
        "object": "checkout.session",
        "client_reference_id": "acme",
        "customer": "cus_stranger",
        "metadata": {},
        "mode": "subscription",
        "status": "complete",
        "payment_status": "paid",
        "payment_link": "plink_1",
    }
    deliver(
        ev.event("checkout.session.completed", data),
        ev.subscription_created(customer="cus_stranger"),
        ev.invoice_paid(customer="cus_stranger"),
    )
    deliver(ev.subscription_deleted(customer="cus_stranger", created=ev.START + D), now=ev.START + D)
    tenant.refresh_from_db()
    assert tenant.status == "active"
