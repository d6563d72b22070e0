"""What was paid with money that went back stands on no payment, whatever credits and balances lie between.

In dollars. A month of $200 whose half is credited has $100 of credit.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest

from billing.models import BillingAccount
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import hear
from tests.billing.worth.test_calls_under_way import first_charge, left, renew
from tests.billing.worth.test_open_disputes import after_a_reconcile, close, dispute
from tests.billing.worth.test_undone_topups import subscriber, topup_price, undo


def three_of_one(shop: Shop) -> None:
    """A plan of $50 a month that was bought three times over: $150 are paid for a budget of $50."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, metadata={"llm_budget_usd": "50"}), quantity=3)
    hear(shop)


def change(shop: Shop, dollars: int, *, also: Sequence[str] = ()) -> str:
    """To one of another plan, at once, with more that is sold on the same invoice; the charge, where there is one."""
    before, sub = {one["id"] for one in shop.all("charges")}, shop.all("subscriptions")[0]["id"]
    price = shop.price(100 * dollars, metadata={"llm_budget_usd": str(dollars)})
    for one in also:
        shop.post("invoiceitems", customer=shop.sub(sub)["customer"], pricing={"price": one})
    items = [{"id": shop.item(sub), "price": price, "quantity": 1}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior="always_invoice")
    hear(shop)
    return next((str(one["id"]) for one in shop.all("charges") if one["id"] not in before), "")


def rest_of_month(shop: Shop) -> Fraction:
    [item] = shop.all("subscriptions")[0]["items"]["data"]
    start, end = item["current_period_start"], item["current_period_end"]
    return Fraction(end - shop.account.now, end - start)


@pytest.mark.parametrize("undone", [(), ("older",), ("newer",), ("older", "newer"), ("newer", "older")])
@pytest.mark.parametrize("how", ["refund", "dispute"])
def test_an_upgrade_stands_as_far_as_what_its_credits_took_back_does(
    shop: Shop, how: str, undone: Sequence[str]
) -> None:
    three_of_one(shop)
    shop.account.advance(by=12 * DAY)
    rest, older = rest_of_month(shop), first_charge(shop)
    charges = {"older": older, "newer": change(shop, 200)}
    for which in undone:
        undo(shop, how, charges[which])
    # The upgrade was charged 200, of which the credit paid 150, for its rest of the month.
    before = 0 if "older" in undone else 50 * (1 - rest)
    stands = 200 - (150 if "older" in undone else 0) - (50 if "newer" in undone else 0)
    assert after_a_reconcile(shop) == pytest.approx(float(before + stands * rest), abs=0.02)


@pytest.mark.parametrize("won", [True, False])
def test_a_month_that_the_balance_paid_stands_on_what_left_it_there(shop: Shop, won: bool) -> None:
    subscriber(shop, 200)
    charge = first_charge(shop)
    shop.account.advance(by=15 * DAY)
    change(shop, 50)
    renew(shop)
    assert (left(shop), shop.all("invoices")[0]["amount_paid"]) == (50, 0)
    id = dispute(shop, charge)
    assert after_a_reconcile(shop) == 0
    assert "disputed" in BillingAccount.objects.get().reasons
    close(shop, id, won=won)
    assert after_a_reconcile(shop) == (50 if won else 0)


@pytest.mark.parametrize("won", [True, False])
def test_a_top_up_that_credits_paid_stands_on_what_they_took_back(shop: Shop, won: bool) -> None:
    subscriber(shop, 200)
    charge = first_charge(shop)
    shop.account.advance(by=15 * DAY)
    change(shop, 50, also=[topup_price(shop)])
    stood = left(shop)
    assert stood > 20
    id = dispute(shop, charge)
    assert after_a_reconcile(shop) == 0
    close(shop, id, won=won)
    assert after_a_reconcile(shop) == (stood if won else 0)


def test_what_an_operator_took_off_the_balance_carries_nothing_on(shop: Shop) -> None:
    customer = subscriber(shop, 200)
    charge = first_charge(shop)
    shop.account.advance(by=15 * DAY)
    change(shop, 50)
    balance = shop.get(f"customers/{customer}")["balance"]
    shop.post(f"customers/{customer}/balance_transactions", amount=-balance, currency="usd")
    renew(shop)
    undo(shop, "refund", charge)
    # The month was paid for in money.
    assert after_a_reconcile(shop) == 50
