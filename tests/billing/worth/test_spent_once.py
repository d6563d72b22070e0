"""What was paid is spent once, whatever a customer's credit pays for; and what goes takes what was used of it along."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from billing.accounts import sync
from billing.models import BillingAccount, TopUp
from governance.audit import Actor
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_kept_worth import DOLLAR, save
from tests.billing.worth.test_simulated import read, spend


def flat(shop: Shop, dollars: int, interval: str = "month", **metadata: str) -> str:
    return shop.price(dollars * 100, interval, metadata={"llm_budget_usd": str(dollars), **metadata})


def seats(shop: Shop, dollars: int, interval: str = "month", **metadata: str) -> str:
    return flat(shop, dollars, interval, llm_budget_per_unit="true", **metadata)


def cash(shop: Shop) -> float:
    return float(sum(one["amount"] for one in shop.all("charges") if one["status"] == "succeeded") / 100)


def change(shop: Shop, sub: str, **item: Any) -> None:
    items = [{"id": shop.item(sub), **item}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior="always_invoice")


def both_used(shop: Shop) -> tuple[str, str, str]:
    """A customer with a subscription of $100 that is used whole, and another of $50."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    first = shop.subscribe(customer, flat(shop, 100))["id"]
    assert spend(shop, customer) == 100
    second = shop.subscribe(customer, flat(shop, 50))["id"]
    assert read(shop, customer) == ("active", 50 * DOLLAR)
    return customer, first, second


def test_seats_go_round_several_subscriptions(shop: Shop) -> None:
    customer, price = shop.customer(metadata={"tenant_id": "acme"}), seats(shop, 1)
    subs = [shop.subscribe(customer, price)["id"] for _ in range(4)]
    spent, last = spend(shop, customer), ""
    for sub in subs:
        if last:
            change(shop, last, quantity=1)
        change(shop, sub, quantity=100)
        spent, last = spent + spend(shop, customer), sub
    assert spent == cash(shop) == 103


def test_a_month_pays_for_a_year_beside_it(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    prices = seats(shop, 10), seats(shop, 10, "year", llm_budget_period="billing")
    items = [{"price": price, "quantity": quantity} for price, quantity in zip(prices, (20, 1), strict=True)]
    sub = shop.post("subscriptions", customer=customer, items=items, billing_mode={"type": "flexible"})["id"]
    spent = spend(shop, customer)
    ids = [one["id"] for one in shop.sub(sub)["items"]["data"]]
    for quantities in ((1, 20), (20, 1)):
        items = [{"id": id, "quantity": quantity} for id, quantity in zip(ids, quantities, strict=True)]
        shop.post(f"subscriptions/{sub}", items=items, proration_behavior="always_invoice")
        spent += spend(shop, customer)
    assert spent == cash(shop) == 210


def top_up(shop: Shop, customer: str, tens: int) -> None:
    product = shop.post("products", name="More")["id"]
    more = shop.post("prices", currency="usd", product=product, unit_amount=1000, metadata={"llm_topup_usd": "10"})
    invoice = shop.post("invoices", customer=customer)["id"]
    shop.post("invoiceitems", customer=customer, invoice=invoice, pricing={"price": more["id"]}, quantity=tens)
    if shop.post(f"invoices/{invoice}/finalize")["status"] == "open":
        shop.post(f"invoices/{invoice}/pay")


@pytest.mark.parametrize("topups", ["rollover", "expire"])
def test_a_top_up_that_the_balance_pays_for(shop: Shop, settings: Any, topups: str) -> None:
    settings.STRIPE_TOPUPS = topups
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, flat(shop, 200))["id"]
    assert spend(shop, customer) == 200
    change(shop, sub, price=flat(shop, 10))
    top_up(shop, customer, 20)
    # $190 are of the credit, and were used before.
    assert (spend(shop, customer), cash(shop)) == (10, 210)
    assert TopUp.objects.get().credited_nanos == 190 * DOLLAR
    spent = 210.0
    for _ in range(3):
        shop.account.advance(by=32 * DAY)
        spent += spend(shop, customer)
        assert cash(shop) - 10 <= spent <= cash(shop)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_trial_does_not_let_go_of_a_top_up_that_the_balance_pays_for(shop: Shop, is_first: bool) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, flat(shop, 1000))["id"]
    assert spend(shop, customer) == 1000
    shop.account.advance(by=3600)
    shop.delete(f"subscriptions/{sub}", prorate=True, invoice_now=True)
    acts = [lambda: top_up(shop, customer, 90), lambda: shop.subscribe(customer, flat(shop, 50), trial_period_days=7)]
    for act in reversed(acts) if is_first else acts:
        act()
        read(shop, customer)
    # The trial gives its $5, and no more.
    assert (spend(shop, customer), cash(shop)) == (5, 1000)
    account = BillingAccount.objects.get()
    assert (account.state, "owed:900.00" in account.reasons) == ("trial", True)


def test_an_operators_limit_does_not_let_go_of_a_top_up_that_the_balance_pays_for(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, flat(shop, 1000))["id"]
    assert spend(shop, customer) == 1000
    change(shop, sub, price=flat(shop, 50))
    top_up(shop, customer, 90)
    assert spend(shop, customer) == 0
    account, now = BillingAccount.objects.get(), datetime.fromtimestamp(shop.account.now, UTC)
    for own in (10 * DOLLAR, None):
        sync.override(account=account, limit_nanos=own, by=Actor("ops"), now=now)
        assert (spend(shop, customer), cash(shop)) == (0, 1000)


@pytest.mark.parametrize(("own", "left"), [(10, 0), (1100, 95)])
def test_an_operators_limit_does_not_let_go_of_what_credit_for_a_subscription_that_is_over_paid(
    shop: Shop, own: int, left: int
) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, flat(shop, 1000))["id"]
    shop.subscribe(customer, flat(shop, 5))
    assert spend(shop, customer, at_most=1005) == 1005
    shop.delete(f"subscriptions/{sub}", prorate=True, invoice_now=True)
    read(shop, customer)
    account, now = BillingAccount.objects.get(), datetime.fromtimestamp(shop.account.now, UTC)
    sync.override(account=account, limit_nanos=own * DOLLAR, by=Actor("ops"), now=now)
    top_up(shop, customer, 90)
    # The operator's limit is all there is, with what is used of what is over.
    assert (spend(shop, customer), cash(shop)) == (left, 1005)
    assert "owed:900.00" in BillingAccount.objects.get().reasons


def test_what_was_used_of_an_item_that_is_removed_stays_its_own(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    month, year = flat(shop, 50), flat(shop, 600, "year", llm_budget_period="billing")
    items = [{"price": month}, {"price": year}]
    sub = shop.post("subscriptions", customer=customer, items=items, billing_mode={"type": "flexible"})["id"]
    assert spend(shop, customer, at_most=50) == 50
    gone = next(one["id"] for one in shop.sub(sub)["items"]["data"] if one["price"]["id"] == month)
    shop.account.advance(by=20 * DAY)
    shop.post(f"subscriptions/{sub}", items=[{"id": gone, "deleted": True}], proration_behavior="none")
    for _ in range(2):
        assert read(shop, customer) == ("active", 600 * DOLLAR)
        shop.account.advance(by=12 * DAY)


def test_what_was_used_of_a_subscription_that_is_unpaid_stays_its_own(shop: Shop) -> None:
    shop.account.state.after_last_try = "unpaid"
    customer, sub, _ = both_used(shop)
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    change(shop, sub, price=flat(shop, 300))
    while shop.sub(sub)["status"] != "unpaid":
        shop.account.advance(by=DAY)
        assert read(shop, customer) == ("active", 50 * DOLLAR)
    assert read(shop, customer) == ("active", 50 * DOLLAR)


def test_what_was_used_of_a_subscription_that_is_paused_stays_its_own(shop: Shop, settings: Any) -> None:
    settings.STRIPE_PAUSED_COLLECTION = "suspended"
    customer, sub, other = both_used(shop)
    for behavior in ({"behavior": "void"}, ""):
        shop.post(f"subscriptions/{sub}", pause_collection=behavior)
        assert read(shop, customer) == ("active", 50 * DOLLAR)
    assert spend(shop, customer) == 50
    for one in (sub, other):
        shop.post(f"subscriptions/{one}", pause_collection={"behavior": "void"})
        assert read(shop, customer)[1] <= 1


def test_what_was_used_of_the_default_plan_stays_its_own_where_another_is_mapped(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="one"))
    shop.subscribe(customer, shop.price(10_000, lookup_key="two"))
    assert spend(shop, customer) == 50
    save(name="Two", limit_nanos=100 * DOLLAR, lookup_keys=["two"])
    assert read(shop, customer) == ("active", 100 * DOLLAR)
