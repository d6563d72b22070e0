"""What one-time prices of every sort sell as top-ups, and prices of a product that sells some."""

from __future__ import annotations

from typing import Any

import pytest

from billing.accounts import sync
from billing.models import BillingAccount
from billing.sandbox import StripeRefusal
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import Shop
from tests.billing.worth.test_after_deletion import hear
from tests.billing.worth.test_held_up import at
from tests.billing.worth.test_undone_topups import USD, subscriber

WORTH = {"llm_topup_usd": "20"}


def left(shop: Shop) -> int:
    hear(shop)
    return round(window_of().remaining_nanos / USD)


def once(shop: Shop, **about: Any) -> str:
    product = shop.post("products", name="Top-up")["id"]
    return str(shop.post("prices", currency="usd", product=product, metadata=WORTH, **about)["id"])


@pytest.mark.parametrize(
    ("rounds", "quantity", "added"), [("up", 10, 20), ("up", 11, 40), ("up", 1, 20), ("down", 19, 20), ("down", 9, 0)]
)
def test_of_one_that_is_sold_in_packages_each_counts(shop: Shop, rounds: str, quantity: int, added: int) -> None:
    customer = subscriber(shop)
    price = once(shop, unit_amount=2000, transform_quantity={"divide_by": 10, "round": rounds})
    shop.post("invoiceitems", customer=customer, pricing={"price": price}, quantity=quantity)
    invoice = shop.post("invoices", customer=customer, pending_invoice_items_behavior="include")["id"]
    shop.post(f"invoices/{invoice}/finalize")
    if shop.get(f"invoices/{invoice}")["status"] != "paid":
        shop.post(f"invoices/{invoice}/pay")
    # A dollar for each that was paid.
    assert shop.get(f"invoices/{invoice}")["amount_paid"] == 100 * added
    assert left(shop) == 50 + added


@pytest.mark.parametrize("others", [0, 11])
@pytest.mark.parametrize("payer", ["a customer", "nobody"])
def test_one_that_a_checkout_sells_by_its_product_and_beside_others(shop: Shop, others: int, payer: str) -> None:
    """Stripe embeds the first ten lines, and their products by their ids."""
    customer = subscriber(shop)
    product = shop.post("products", name="Top-up", metadata=WORTH)["id"]
    sold = [shop.post("prices", currency="usd", unit_amount=2000, product=product)["id"]]
    plain = shop.post("products", name="Sticker")["id"]
    sold = [
        shop.post("prices", currency="usd", unit_amount=n, product=plain)["id"] for n in range(1, 1 + others)
    ] + sold
    named = {"customer": customer} if payer == "a customer" else {"metadata": {"tenant_id": "acme"}}
    items = [{"price": price, "quantity": 1} for price in sold]
    session = shop.post("checkout/sessions", mode="payment", line_items=items, **named)["id"]
    shop.account.complete_checkout(session)
    assert left(shop) == 70


def test_one_whose_invoice_is_made_after_its_checkout_was_heard_of_counts_once(shop: Shop) -> None:
    customer = subscriber(shop)
    items = [{"price": once(shop, unit_amount=2000), "quantity": 1}]
    more = {"mode": "payment", "customer": customer, "line_items": items, "invoice_creation": {"enabled": True}}
    session = shop.account.complete_checkout(shop.post("checkout/sessions", **more)["id"])
    row = shop.account.state.get("checkout.session", session["id"])
    row["invoice"] = None
    hear(shop)
    row["invoice"] = session["invoice"]
    sync.customer(customer, now=at(shop))
    assert left(shop) == 70


@pytest.mark.parametrize("how", ["refund", "dispute", "resolution"])
def test_one_whose_card_was_declined_before_is_taken_back_whole(shop: Shop, how: str) -> None:
    customer = subscriber(shop)
    items = [{"price": once(shop, unit_amount=2000), "quantity": 1}]
    session = shop.post("checkout/sessions", mode="payment", customer=customer, line_items=items)["id"]
    for method in ("pm_card_chargeCustomerFail", "pm_card_authenticationRequired"):
        with pytest.raises(StripeRefusal, match="declined"):
            shop.account.complete_checkout(session, method=method)
    intent = shop.account.complete_checkout(session)["payment_intent"]
    assert left(shop) == 70
    [charge] = [one["id"] for one in shop.all("charges", payment_intent=intent) if one["status"] == "succeeded"]
    if how == "refund":
        shop.post("refunds", charge=charge)
    else:
        shop.account.dispute(charge, prevented_by=how.removeprefix("dispute"))
    assert left(shop) == 50


def test_one_whose_amount_the_payer_decides_on_is_none_and_operators_are_told(shop: Shop) -> None:
    customer = subscriber(shop)
    price = once(shop, custom_unit_amount={"enabled": True, "minimum": 100, "preset": 2000})
    items = [{"price": price, "quantity": 1}]
    session = shop.post(
        "checkout/sessions",
        mode="payment",
        customer=customer,
        line_items=items,
        invoice_creation={"enabled": True},
        success_url="http://x/",
    )
    shop.account.complete_checkout(session["id"], amount=100)
    assert left(shop) == 50
    assert BillingAccount.objects.get().reasons == ["invalid_metadata:llm_topup_usd"]


@pytest.mark.parametrize("trial", [0, 5])
def test_a_plan_of_a_product_that_sells_top_ups_is_a_plan(shop: Shop, trial: int) -> None:
    product = shop.post("products", name="Credits", metadata=WORTH)["id"]
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard", product=product), trial_period_days=trial)
    assert left(shop) == (5 if trial else 50)
    assert BillingAccount.objects.get().reasons == []
