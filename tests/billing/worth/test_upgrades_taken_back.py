"""An upgrade whose payment failed is taken back, in each way that docs/stripe.md names: a plan of $50 of which $20 are
used, and one of $200 for half a month that is never paid."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from billing.models import BillingAccount
from tests.billing.sandbox.conftest import Shop
from tests.billing.worth.test_after_deletion import hear
from tests.billing.worth.test_calls_under_way import left, override
from tests.billing.worth.test_undone_topups import use


def to(shop: Shop, sub: str, dollars: int, behavior: str) -> None:
    price = shop.price(100 * dollars, metadata={"llm_budget_usd": str(dollars)})
    items = [{"id": shop.item(sub), "price": price}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior=behavior)
    hear(shop)


def until(shop: Shop, month: int, day: int, hour: int = 0) -> None:
    shop.account.advance(to=int(datetime(2026, month, day, hour, tzinfo=UTC).timestamp()))
    hear(shop)


def use_card(shop: Shop, customer: str, card: str) -> None:
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": card})


@pytest.mark.parametrize(
    ("behavior", "repair", "now", "next_month"),
    [
        ("none", "void", 30, 50),
        # What Stripe credits of a time that was never paid is no money, and takes nothing of what was; here it pays for
        # the next month.
        ("always_invoice", "void", 30, 50),
        ("create_prorations", "void", 30, 0),
        # Stripe's credit pays for the upgrade's invoice.
        ("always_invoice", "pay", 30, 50),
        ("create_prorations", "pay", 30, 50),
        ("always_invoice", "limit", 30, 50),
    ],
)
def test_what_can_be_spent(shop: Shop, behavior: str, repair: str, now: int, next_month: int) -> None:
    until(shop, 4, 1)
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = str(shop.subscribe(customer, shop.price(5000, metadata={"llm_budget_usd": "50"}))["id"])
    hear(shop)
    use(shop, 20)
    until(shop, 4, 16)
    use_card(shop, customer, "pm_card_chargeCustomerFail")
    to(shop, sub, 200, "always_invoice")
    assert left(shop) == 30
    [invoice] = [one["id"] for one in shop.invoices(customer) if one["status"] == "open"]
    to(shop, sub, 50, behavior)
    paid_otherwise = {"paid_out_of_band": True} if repair == "pay" else {}
    shop.post(f"invoices/{invoice}/{'pay' if paid_otherwise else 'void'}", **paid_otherwise)
    if balance := shop.get(f"customers/{customer}")["balance"]:
        shop.post(f"customers/{customer}/balance_transactions", amount=-balance, currency="usd")
    hear(shop)
    if repair == "limit":
        override(shop, 50)
    assert left(shop) == now
    use_card(shop, customer, "pm_card_visa")
    until(shop, 5, 1, 3)
    if repair == "limit":
        override(shop, None)
    assert left(shop) == next_month
    assert BillingAccount.objects.get().reasons == ([] if next_month else ["credit_undone"])
