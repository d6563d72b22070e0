"""What Stripe owes a customer who has chosen less cannot be spent before it is credited, whatever was bought."""

from __future__ import annotations

from typing import Any

import pytest

from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import hear
from tests.billing.worth.test_calls_under_way import left
from tests.billing.worth.test_undone_topups import use

YEARS_BUDGET: dict[str, Any] = {"llm_budget_usd": "600", "llm_budget_period": "billing"}


def removed(shop: Shop, sub: str, price: str) -> None:
    [item] = [one["id"] for one in shop.sub(sub)["items"]["data"] if one["price"]["id"] == price]
    shop.delete(f"subscription_items/{item}", proration_behavior="create_prorations")


@pytest.mark.parametrize(("used", "stays"), [(4, 6), (110, 0)])
def test_a_years_budget_that_is_removed_waits_for_its_credit_unspent(shop: Shop, used: int, stays: int) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    year, month = shop.price(60_000, "year", metadata=YEARS_BUDGET), shop.price(1000, metadata={"llm_budget_usd": "10"})
    items, flexible = [{"price": year}, {"price": month}], {"type": "flexible"}
    sub = shop.post("subscriptions", customer=customer, items=items, billing_mode=flexible)["id"]
    hear(shop)
    # The month's budget ends first, and is used first.
    use(shop, used)
    shop.account.advance(by=DAY)
    removed(shop, sub, year)
    hear(shop)
    assert left(shop) == stays


def test_a_share_of_less_is_less_at_once(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    high, low = (shop.price(cents, metadata={"llm_budget_percent": "100"}) for cents in (20_000, 2_000))
    sub = shop.subscribe(customer, high)["id"]
    hear(shop)
    use(shop, 5)
    shop.account.advance(by=DAY)
    items = [{"id": shop.item(sub), "price": low}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior="create_prorations")
    hear(shop)
    assert left(shop) == 15
