"""A subscription's period may be away from a tenant's windows for a while: what was used of it stays used."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from governance import ledger
from tests import factories
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_simulated import read, spend


def spend_all(shop: Shop, customer: str) -> float:
    """Spend whatever the tenant has, in whatever state its customer is; dollars."""
    _, left = read(shop, customer)
    if left <= 1:
        return 0
    now, dollars = datetime.fromtimestamp(shop.account.now, UTC), left / 10**9
    hold = factories.reserving(str(dollars))
    assert ledger.reserve(hold, now=now).allowed
    ledger.settle(factories.settling(hold.reservation_id, str(dollars)), now=now)
    return dollars


def test_one_that_is_paid_late_beside_another_begins_no_second_time(shop: Shop) -> None:
    shop.account.state.after_last_try = "unpaid"
    customer = shop.customer(metadata={"tenant_id": "acme"})
    standard = shop.price(5000, lookup_key="standard")
    raised = shop.price(6000, metadata={"llm_budget_usd": "60"})
    daily = shop.price(100, "day", metadata={"llm_budget_usd": "1", "llm_budget_period": "billing"})
    sub = shop.subscribe(customer, standard)["id"]
    shop.subscribe(customer, daily)
    assert spend(shop, customer, at_most=51) == 51

    failing = shop.post("payment_methods/pm_card_chargeCustomerFail/attach", customer=customer)["id"]
    shop.post(f"subscriptions/{sub}", default_payment_method=failing)
    items = [{"id": shop.item(sub), "price": raised}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior="always_invoice")
    for _ in range(20):
        shop.account.advance(by=DAY)
        read(shop, customer)
    assert shop.sub(sub)["status"] == "unpaid"
    for invoice in shop.invoices(customer):
        if invoice["status"] == "open":
            shop.post(f"invoices/{invoice['id']}/pay", payment_method="pm_card_visa")

    # What the upgrade and the day have brought, and nothing of the $50 that are used.
    assert spend(shop, customer, at_most=45) <= 11


def test_the_free_tiers_month_is_given_once(shop: Shop, settings: Any) -> None:
    settings.STRIPE_FREE_BUDGET = Decimal(5)
    customer = shop.customer(metadata={"tenant_id": "acme"})
    daily = shop.price(100, "day", metadata={"llm_budget_usd": "1", "llm_budget_period": "billing"})
    spent = 0.0
    for _ in range(3):
        sub = shop.subscribe(customer, daily)["id"]
        spent += spend_all(shop, customer)
        shop.account.advance(by=DAY + 7200)
        spent += spend_all(shop, customer)
        shop.delete(f"subscriptions/{sub}")
        spent += spend_all(shop, customer)

    paid = sum(invoice["amount_paid"] for invoice in shop.invoices(customer)) / 100
    assert paid == 6
    assert paid + 5 - 0.01 <= spent <= paid + 5 + 0.01
