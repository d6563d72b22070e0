"""What an owner rightly expects of Stripe's objects: what was paid for can be spent, no more and no less.

Each test is a kind of report that products like this one have had; siblings of the kinds stand beside them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.accounts import sync
from billing.inbox import handlers
from billing.models import BillingAccount
from billing.rules import refunds, standing
from billing.rules.entitlement import Entitlement, EntitlementState, entitle
from billing.rules.valuation import BillingPolicy, PlanPolicy, PlanRule
from billing.stripe_api import objects
from governance import ledger
from governance.models import Tenant
from tests import factories
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
    assert standing.of_invoices([paid], [_charge("ch_1", 500, 500)])["in_1"].kind == refunds.RefundKind.PARTIAL


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


# Siblings: prices of every sort ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "count", "days", "budget"),
    [("day", 1, 1, 50 / 30), ("week", 1, 7, 50 * 7 / 30), ("week", 2, 14, 50 * 14 / 30), ("month", 1, 30, 50)],
)
def test_a_price_of_less_than_a_month_has_its_days_of_a_months_budget(
    interval: str, count: int, days: int, budget: float
) -> None:
    p = price(interval=interval, llm_budget_usd="50")
    p["recurring"]["interval_count"], p["lookup_key"] = count, None
    start, end = NOW - timedelta(hours=1), NOW - timedelta(hours=1) + days * D
    found = comes_to(
        sub(item(p, 1, start, end)), bill("in_1", "subscription_cycle", line(p, 1, 5000, start, end), at=start)
    )
    assert found.limit_nanos is not None
    assert abs(found.limit_nanos - budget * USD) < 2
    assert found.period is not None
    assert found.period.ends_at == end


@pytest.mark.parametrize(("interval", "count", "days"), [("month", 3, 91), ("month", 6, 182), ("year", 1, 365)])
def test_a_price_of_more_than_a_month_has_a_months_budget_each_month(interval: str, count: int, days: int) -> None:
    p = price(cents=60000, interval=interval)
    p["recurring"]["interval_count"] = count
    start, end = NOW - 40 * D, NOW + (days - 40) * D
    paid = bill("in_1", "subscription_create", line(p, 1, 60000, start, end), at=start)
    found = comes_to(sub(item(p, 1, start, end)), paid)
    assert found.limit_nanos == 50 * USD
    assert found.period is not None
    assert found.period.length <= timedelta(days=31)


def test_a_years_budget_is_one_window_and_a_change_to_it_in_mid_month_counts_at_once() -> None:
    m = price("price_month", 5000, None, llm_budget_usd="50")
    y = price("price_year", 48000, None, "year", llm_budget_usd="600", llm_budget_period="billing")
    start, end = NOW - 10 * D, NOW + 20 * D
    first = bill("in_1", "subscription_create", line(m, 1, 5000, start, end), at=start)
    rest = line(m, 1, -3333, NOW, end, prorated=True)
    change = bill("in_2", "subscription_update", rest, line(y, 1, 48000, NOW, NOW + 365 * D), at=NOW)
    found = comes_to(sub(item(y, 1, NOW, NOW + 365 * D)), first, change)
    # Ten days of the month, and the year.
    assert {round(part.paid_nanos / USD) for part in found.parts} == {17, 600}


def test_tiers_packages_and_amounts_that_customers_choose_pay_for_the_budget_of_their_plan() -> None:
    start, end = NOW - D, NOW + 29 * D
    for more in (
        {"unit_amount": None, "billing_scheme": "tiered"},
        {"unit_amount": 900, "transform_quantity": {"divide_by": 10, "round": "up"}},
        {"unit_amount": None, "custom_unit_amount": {"minimum": 100}},
    ):
        p = price() | more
        paid = bill("in_1", "subscription_create", line(p, 25, 2700, start, end), at=start)
        assert comes_to(sub(item(p, 25, start, end)), paid).limit_nanos == 50 * USD
        share = price("price_share", 900, None, llm_budget_percent="50") | more
        paid = bill("in_1", "subscription_create", line(share, 25, 2700, start, end, off=700), at=start)
        assert comes_to(sub(item(share, 25, start, end)), paid).limit_nanos == 10 * USD


def test_a_price_that_bills_each_of_its_tiers_by_itself_gives_its_limit_once() -> None:
    p = price("price_tiers") | {"unit_amount": None, "billing_scheme": "tiered", "tiers_mode": "graduated"}
    start, middle, end = NOW - 15 * D, NOW, NOW + 15 * D
    tiers = line(p, 5, 3500, start, end), line(p, 4, 2000, start, end), line(p, 0, 1000, start, end)
    first = bill("in_1", "subscription_create", *tiers, at=start)
    known = sub(item(p, 9, start, end))
    assert comes_to(known, first).limit_nanos == 50 * USD
    # Nor does a change take more back, or give more, than once.
    less = (line(p, 5, -1750, middle, end, prorated=True), line(p, 4, -1000, middle, end, prorated=True))
    more = (line(p, 5, 1750, middle, end, prorated=True), line(p, 7, 1750, middle, end, prorated=True))
    change = bill("in_2", "subscription_update", *less, *more, at=middle)
    assert comes_to(sub(item(p, 12, start, end)), first, change).limit_nanos == 50 * USD
    gone = bill("in_2", "subscription_update", *less, at=middle)
    assert comes_to(known, first, gone, policy=BillingPolicy(downgrade="period_end")).limit_nanos == 25 * USD
    # What is for each unit, or a share of what is charged, adds up.
    seats = p | {"lookup_key": None, "metadata": {"llm_budget_usd": "2", "llm_budget_per_unit": "true"}}
    per_seat = [line(seats, one.quantity, one.amount, start, end) for one in first.lines]
    assert comes_to(sub(item(seats, 9, start, end)), bill("in_1", "", *per_seat, at=start)).limit_nanos == 18 * USD
    share = p | {"lookup_key": None, "metadata": {"llm_budget_percent": "40"}}
    charged = [line(share, one.quantity, one.amount, start, end) for one in first.lines]
    assert comes_to(sub(item(share, 9, start, end)), bill("in_1", "", *charged, at=start)).limit_nanos == 26 * USD


@pytest.mark.parametrize(("currency", "amount"), [("jpy", 5000), ("kwd", 500), ("eur", 5000), ("ugx", 5000)])
def test_a_share_of_revenue_counts_each_currencys_own_minor_unit(currency: str, amount: int) -> None:
    rates = {"jpy": Decimal("0.01"), "kwd": Decimal(100), "eur": Decimal(1), "ugx": Decimal(1)}
    p = price("price_share", amount, None, llm_budget_percent="20") | {"currency": currency}
    start, end = NOW - D, NOW + 29 * D
    billed = line(p, 1, amount, start, end) | {"currency": currency}
    paid = bill("in_1", "subscription_create", billed, at=start)
    found = comes_to(sub(item(p, 1, start, end)), paid, policy=BillingPolicy(rates=rates))
    assert found.limit_nanos == 10 * USD


def test_several_items_of_one_product_add_up_and_an_item_beyond_the_tenth_counts() -> None:
    start, end = NOW - D, NOW + 29 * D
    prices = [price(f"price_{number}", 100, None, llm_budget_usd="1") | {"product": "prod_one"} for number in range(12)]
    paid = bill("in_1", "subscription_create", *(line(p, 1, 100, start, end) for p in prices), at=start, shown=12)
    found = comes_to(sub(*(item(p, 1, start, end) for p in prices)), paid)
    assert found.limit_nanos == 12 * USD


def test_a_backdated_start_pays_for_what_it_billed() -> None:
    p, start, end = price(), NOW - 46 * D, NOW + 15 * D
    billed = bill("in_1", "subscription_create", line(p, 1, 10000, start, end, prorated=True), at=NOW)
    found = comes_to(sub(item(p, 1, NOW - 15 * D, end)), billed)
    assert (found.state, found.limit_nanos) == (EntitlementState.ACTIVE, 50 * USD)


# Siblings: usage-based prices --------------------------------------------------------------------------------------


def metered(**more: Any) -> dict[str, Any]:
    p = price("price_usage", None, None, llm_budget_usd="50") | more
    return p | {"recurring": p["recurring"] | {"usage_type": "metered"}}


def test_usage_is_paid_for_when_its_period_is_over_and_given_on_credit_until_then() -> None:
    p, a, b, c = metered(), NOW - 40 * D, NOW - 10 * D, NOW + 20 * D
    opened = bill("in_0", "subscription_create", line(p, 0, 0, a, a), at=a)
    new = comes_to(sub(item(p, None, b, c), start_date=seconds(b)), opened)
    assert (new.state, new.limit_nanos, new.reasons) == (EntitlementState.ACTIVE, 50 * USD, ("on_credit",))
    last = bill("in_1", "subscription_cycle", line(p, 700, 2100, a, b), at=b)
    going_on = comes_to(sub(item(p, None, b, c), start_date=seconds(a)), opened, last)
    assert (going_on.state, going_on.limit_nanos) == (EntitlementState.ACTIVE, 50 * USD)
    assert comes_to(sub(item(p, None, b, c)), last, policy=BillingPolicy(credit_percent=20)).limit_nanos == 10 * USD


def test_usage_is_not_given_while_the_last_invoice_is_open_past_its_grace() -> None:
    p = metered()
    for days, state in ((6, EntitlementState.ACTIVE), (7, EntitlementState.SUSPENDED)):
        b = NOW - days * D
        known = sub(item(p, None, b, b + 30 * D), start_date=seconds(b - 60 * D))
        before = bill("in_0", "subscription_cycle", line(p, 9, 90, b - 60 * D, b - 30 * D), at=b - 30 * D)
        assert comes_to(known, before).state == state
        late = sub(item(p, None, b, b + 30 * D), status="past_due")
        assert comes_to(late, before).state == state
    # Time alone ends what nobody said anything of since.
    over = sub(item(p, None, NOW - 37 * D, NOW - 7 * D), start_date=seconds(NOW - 37 * D))
    assert comes_to(over, before).state == EntitlementState.SUSPENDED


def test_what_is_licensed_is_paid_for_beside_what_is_metered() -> None:
    licensed, used, start, end = price(), metered(), NOW - 5 * D, NOW + 25 * D
    opened = bill("in_0", "subscription_create", line(licensed, 1, 5000, start, end), at=start)
    found = comes_to(sub(item(licensed, 1, start, end), item(used, None, start, end)), opened)
    assert (found.state, found.limit_nanos) == (EntitlementState.ACTIVE, 100 * USD)
    assert sorted((part.paid_nanos, part.given_nanos) for part in found.parts) == [(0, 50 * USD), (50 * USD, 0)]


def test_a_cancellation_to_come_takes_no_usage_before_it() -> None:
    p, a, b, c = metered(), NOW - 40 * D, NOW - 10 * D, NOW + 20 * D
    last = bill("in_1", "subscription_cycle", line(p, 700, 2100, a, b), at=b)
    found = comes_to(sub(item(p, None, b, c), cancel_at_period_end=True), last)
    assert (found.state, found.limit_nanos) == (EntitlementState.ACTIVE, 50 * USD)


# Siblings: changes -------------------------------------------------------------------------------------------------


def test_an_upgrade_counts_as_far_as_it_is_paid_to_the_cent() -> None:
    a, b = price(), price("price_premium", 20000, "premium")
    start, end = NOW - 15 * D, NOW + 15 * D
    first = bill("in_1", "subscription_create", line(a, 1, 5000, start, end), at=start)
    rest = line(a, 1, -2500, NOW, end, prorated=True), line(b, 1, 10000, NOW, end, prorated=True)
    upgraded = sub(item(b, 1, start, end))
    assert comes_to(upgraded, first).limit_nanos == 50 * USD
    paid = comes_to(upgraded, first, bill("in_2", "subscription_update", *rest, at=NOW))
    assert (paid.limit_nanos, paid.period and paid.period.ends_at) == (125 * USD, end)
    # Trusted, it counts at once, within a multiple of what was paid.
    trusted = BillingPolicy(upgrade="whole", upgrade_times=3)
    assert comes_to(upgraded, first, policy=trusted).limit_nanos == 150 * USD
    own = [replace(one, policy=PlanPolicy(upgrade="whole")) for one in PLANS]
    assert entitle(subscriptions=[upgraded], invoices=[first], plans=own, now=NOW).limit_nanos == 200 * USD


def test_a_downgrade_that_was_credited_leaves_what_stands_and_one_that_was_not_its_plan() -> None:
    a, b = price("price_premium", 20000, "premium"), price()
    start, end = NOW - 15 * D, NOW + 15 * D
    first = bill("in_1", "subscription_create", line(a, 1, 20000, start, end), at=start)
    rest = line(a, 1, -10000, NOW, end, prorated=True), line(b, 1, 2500, NOW, end, prorated=True)
    down = sub(item(b, 1, start, end))
    assert comes_to(down, first).limit_nanos == 50 * USD
    assert comes_to(down, first, policy=BillingPolicy(downgrade="period_end")).limit_nanos == 200 * USD
    assert comes_to(down, first, bill("in_2", "subscription_update", *rest, at=NOW)).limit_nanos == 125 * USD


def test_a_moved_anchor_begins_anew_with_what_stands_of_both() -> None:
    p, start, end = price(), NOW - 10 * D, NOW + 20 * D
    first = bill("in_1", "subscription_create", line(p, 1, 5000, start, end), at=start)
    rest = line(p, 1, -3333, NOW, end, prorated=True)
    moved = bill("in_2", "subscription_update", rest, line(p, 1, 5000, NOW, NOW + 30 * D), at=NOW)
    found = comes_to(sub(item(p, 1, NOW, NOW + 30 * D)), first, moved)
    assert (found.limit_nanos, found.period and found.period.starts_at) == (50 * USD, NOW)


def test_a_resumed_subscription_counts_whatever_the_reason_on_its_invoice() -> None:
    p, end = price(), NOW + 30 * D
    old = bill("in_1", "subscription_create", line(p, 1, 5000, NOW - 90 * D, NOW - 60 * D), at=NOW - 90 * D)
    for reason in ("subscription_update", "subscription_cycle", "manual", "subscription", ""):
        resumed = bill("in_2", reason, line(p, 1, 5000, NOW, end), at=NOW)
        found = comes_to(sub(item(p, 1, NOW, end)), old, resumed)
        assert (found.state, found.limit_nanos) == (EntitlementState.ACTIVE, 50 * USD)


def test_prorations_that_another_invoice_bills_are_the_subscriptions() -> None:
    p, q, start, end = price(), price("price_premium", 20000, "premium"), NOW - 15 * D, NOW + 15 * D
    first = bill("in_1", "subscription_create", line(p, 1, 5000, start, end), at=start)
    rest = line(p, 1, -2500, NOW, end, prorated=True), line(q, 1, 10000, NOW, end, prorated=True)
    swept = bill("in_2", "manual", *rest, at=NOW, parent=None)
    assert comes_to(sub(item(q, 1, start, end)), first, swept).limit_nanos == 125 * USD


# Siblings: payments ------------------------------------------------------------------------------------------------


def sent(**more: Any) -> dict[str, Any]:
    return {"collection_method": "send_invoice", "days_until_due": 30, **more}


def test_within_the_terms_of_an_invoice_the_whole_budget_is_given() -> None:
    p, start, end = price(), NOW - 8 * D, NOW + 22 * D
    before = bill("in_0", "subscription_cycle", line(p, 1, 5000, start - 30 * D, start), at=start - 30 * D)
    renewed = comes_to(sub(item(p, 1, start, end), **sent()), before)
    assert (renewed.state, renewed.limit_nanos) == (EntitlementState.PROVISIONAL, 50 * USD)
    first = bill("in_1", "subscription_create", line(p, 1, 5000, start, end), at=start, status="open")
    assert comes_to(sub(item(p, 1, start, end), **sent()), first).limit_nanos == 50 * USD
    # Nobody has credit for what was not sent to them, and nobody beyond the terms.
    assert comes_to(sub(item(p, 1, start, end), **sent())).state == EntitlementState.PENDING
    overdue = comes_to(sub(item(p, 1, start, end), **sent(days_until_due=8)), first)
    assert overdue.state == EntitlementState.SUSPENDED
    short = comes_to(sub(item(p, 1, start + 5 * D, end + 5 * D), **sent(days_until_due=2)), first)
    assert (short.state, short.limit_nanos) == (EntitlementState.PROVISIONAL, 5 * USD)


def test_an_invoice_that_credit_or_nobody_asked_to_pay_is_paid() -> None:
    p, start, end = price(), NOW - D, NOW + 29 * D
    for more in ({"starting_balance": -5000}, {"paid_out_of_band": True}, {"amount_paid": 0}):
        paid = bill("in_1", "subscription_cycle", line(p, 1, 5000, start, end), at=start, paid=0, total=5000, **more)
        assert comes_to(sub(item(p, 1, start, end)), paid).limit_nanos == 50 * USD


# Siblings: undoings ------------------------------------------------------------------------------------------------


def undone(total: int, *charges: refunds.Known, **more: Any) -> refunds.RefundKind:
    p, ids = price(), [one.payment.id for one in charges]
    paid = bill(
        "in_1",
        "subscription_create",
        line(p, 1, total, NOW, NOW + 30 * D),
        at=NOW,
        total=total,
        **_paid_by(*ids),
        **more,
    )
    found = standing.of_invoices([paid], charges).get("in_1")
    return found.kind if found else refunds.RefundKind.NONE


def test_a_payment_made_twice_and_paid_back_once_stands() -> None:
    kind = refunds.RefundKind
    assert undone(5000, _charge("ch_1", 5000, 0), _charge("ch_2", 5000, 5000)) == kind.PARTIAL
    assert undone(5000, _charge("ch_1", 5000, 5000), _charge("ch_2", 5000, 5000)) == kind.REFUNDED


def test_of_several_payments_all_must_go_back_to_undo_the_invoice() -> None:
    kind = refunds.RefundKind
    assert undone(5000, _charge("ch_1", 2500, 2500), _charge("ch_2", 2500, 0)) == kind.PARTIAL
    assert undone(5000, _charge("ch_1", 2500, 2500), _charge("ch_2", 2500, 2500)) == kind.REFUNDED


def test_credit_notes_undo_what_they_credit_before_or_after_the_payment() -> None:
    kind = refunds.RefundKind
    assert undone(5000, pre_payment_credit_notes_amount=5000, paid=0) == kind.REFUNDED
    assert undone(5000, _charge("ch_1", 3000, 0), pre_payment_credit_notes_amount=2000) == kind.PARTIAL
    assert undone(5000, _charge("ch_1", 3000, 3000), pre_payment_credit_notes_amount=2000) == kind.REFUNDED
    assert undone(5000, post_payment_credit_notes_amount=5000) == kind.REFUNDED
    assert undone(5000, post_payment_credit_notes_amount=10) == kind.PARTIAL


def test_an_upgrade_that_was_paid_back_leaves_what_was_paid_before() -> None:
    a, b = price(), price("price_premium", 20000, "premium")
    start, end = NOW - 15 * D, NOW + 15 * D
    first = bill("in_1", "subscription_create", line(a, 1, 5000, start, end), at=start)
    rest = line(a, 1, -2500, NOW, end, prorated=True), line(b, 1, 10000, NOW, end, prorated=True)
    upgrade = bill("in_2", "subscription_update", *rest, at=NOW)
    back = {"in_2": refunds.Refund(refunds.RefundKind.REFUNDED, 7500, 7500, 10_000)}
    found = comes_to(sub(item(b, 1, start, end)), first, upgrade, refunds=back)
    assert (found.state, found.limit_nanos) == (EntitlementState.ACTIVE, 50 * USD)
    assert [(part.paid_nanos, part.forgiven_nanos) for part in found.parts] == [(50 * USD, 75 * USD)]


# Siblings: with the database ---------------------------------------------------------------------------------------


def spends(dollars: str, now: datetime = ev.START) -> bool:
    """Whether a call of so much is let through."""
    return ledger.reserve(factories.reserving(dollars), now=now).allowed


def test_S24_a_tenant_that_waits_for_its_first_payment_is_not_on_the_default_budget(
    tenant: Tenant, deliver: Deliver, settings: Any
) -> None:
    settings.DEFAULT_DAILY_BUDGET = Decimal(10)
    assert spends("1")
    waits = {"metadata": {"tenant_id": "acme"}, "collection_method": "send_invoice", "days_until_due": 30}
    deliver(ev.subscription_created(**waits))
    assert not spends("1")
    deliver(ev.event("invoice.finalized", ev.invoice(status="open")))
    assert window_of().limit_nanos == 50 * USD
    assert spends("20")
    # Past its terms it ends by time alone, and is owed.
    assert sync.due(now=ev.START + 31 * D) == 1
    tenant.refresh_from_db()
    assert tenant.status == "suspended"


def test_S18_one_whose_figures_cannot_be_worked_out_holds_up_nobodys_grace(
    tenant: Tenant, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(ev.subscription_created(metadata={"tenant_id": "acme"}), ev.invoice_paid())
    asked: list[str] = []

    def fails(customer_id: str, *, now: datetime) -> None:
        asked.append(customer_id)
        raise OverflowError("a figure beyond all bounds")

    BillingAccount.objects.create(stripe_customer_id="cus_first", due_at=ev.START)
    monkeypatch.setattr(sync, "customer", fails)
    assert sync.due(now=ev.START + 40 * D) == 2
    assert len(asked) == 2


def test_S25_a_checkout_that_is_complete_and_unpaid_gives_nothing_yet(
    tenant: Tenant, deliver: Deliver, settings: Any
) -> None:
    settings.DEFAULT_DAILY_BUDGET = Decimal(10)
    deliver(ev.checkout_completed(payment_status="unpaid"))
    assert not spends("1")
    deliver(ev.subscription_created(), ev.invoice_paid())
    assert spends("40")
    assert window_of().budget.downgrade_rules


def test_what_held_a_tenant_back_goes_where_nothing_comes_of_it(
    tenant: Tenant, deliver: Deliver, settings: Any
) -> None:
    settings.DEFAULT_DAILY_BUDGET = Decimal(10)
    deliver(ev.subscription_created(status="incomplete", metadata={"tenant_id": "acme"}))
    assert not spends("1")
    deliver(ev.subscription_updated(status="incomplete_expired", created=ev.START + D), now=ev.START + D)
    assert spends("1", ev.START + D)
    # Nor does its checkout, when that is heard of late.
    deliver(ev.checkout_completed(payment_status="unpaid", created=ev.START + D), now=ev.START + D)
    assert spends("1", ev.START + D)
    again: dict[str, Any] = {"subscription": "sub_again", "created": ev.START + 2 * D}
    deliver(ev.subscription_created(**again), ev.invoice_paid(subscription="sub_again"), now=ev.START + 2 * D)
    assert window_of().limit_nanos == 50 * USD
    assert spends("40", ev.START + 2 * D)


def test_a_tenant_with_budgets_of_its_own_keeps_them_while_it_waits(tenant: Tenant, deliver: Deliver) -> None:
    factories.budget("5", tenant=tenant)
    deliver(ev.checkout_completed(), ev.subscription_created(status="incomplete"))
    assert spends("1")


def test_what_was_used_on_credit_and_never_paid_is_owed_when_the_credit_ends(tenant: Tenant, deliver: Deliver) -> None:
    p = metered()
    p["id"] = "price_usage"
    end = ev.START + 30 * D
    first = {"price": p, "metadata": {"tenant_id": "acme"}, "start_date": seconds(ev.START)}
    opened = ev.invoice_paid(price="price_usage", period_start=ev.START - D, period_end=ev.START, amount_paid=0)
    deliver(ev.subscription_created(**first), opened)
    assert window_of().limit_nanos == 50 * USD
    ledger.record(factories.reporting("40"), now=ev.START)
    rolled = {"period_start": end, "period_end": end + 30 * D, "created": end}
    deliver(ev.subscription_updated(**first, **rolled), now=end)
    # Its invoice is on its way, and what is left of the credit goes on.
    assert window_of().limit_nanos == 10 * USD
    sync.due(now=end + 7 * D)
    tenant.refresh_from_db()
    assert tenant.status == "suspended"
    paid = ev.invoice_paid(price="price_usage", created=end + 9 * D, billing_reason="subscription_cycle")
    deliver(paid, now=end + 9 * D)
    tenant.refresh_from_db()
    assert (tenant.status, window_of().limit_nanos) == ("active", 50 * USD)


def test_a_price_that_gets_another_key_has_that_keys_plan(tenant: Tenant, deliver: Deliver) -> None:
    end = ev.START + 30 * D
    old = ev.price_of("price_premium_old", lookup_key="premium")
    deliver(
        ev.subscription_created(price=old, metadata={"tenant_id": "acme"}), ev.invoice_paid(price="price_premium_old")
    )
    moved: dict[str, Any] = {"period_start": end, "period_end": end + 30 * D}
    cheaper = ev.price_of("price_premium_old", lookup_key="standard")
    deliver(ev.subscription_updated(created=end, price=cheaper, **moved), now=end)
    renewal = ev.invoice_paid(created=end, price="price_premium_old", billing_reason="subscription_cycle", **moved)
    deliver(renewal, now=end)
    assert window_of().limit_nanos == 50 * USD
