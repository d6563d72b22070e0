"""What random lives at the simulated Stripe found wrong, told plainly."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from billing.accounts import sync
from billing.sandbox import SimulatedStripe
from governance.models import Tenant
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, START, Shop
from tests.fakes.simulated_stripe import answering

STANDARD = 50_000_000_000


@pytest.fixture
def shop(tenant: Tenant, settings: Any) -> Iterator[Shop]:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    with answering(SimulatedStripe(now=int(START.timestamp()), seed="plain")) as account:
        yield Shop(account)


def read(shop: Shop, customer: str) -> tuple[str, int]:
    """The state that a customer comes to, and what its tenant can spend."""
    found = sync.customer(customer, now=datetime.fromtimestamp(shop.account.now, UTC))
    return found.state, window_of().remaining_nanos


@pytest.mark.parametrize("way", ["credit_amount", "out_of_band_amount"])
def test_half_refunded_and_half_credited_is_all_of_it(shop: Shop, way: str) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    charge, invoice = shop.all("charges")[0]["id"], shop.invoices(customer)[0]["id"]
    shop.post("refunds", charge=charge, amount=2500)
    assert read(shop, customer) == ("active", STANDARD)
    shop.post("credit_notes", invoice=invoice, amount=2500, **{way: 2500})
    assert read(shop, customer) == ("frozen", 1)


def test_a_change_to_a_year_that_was_not_paid_gives_no_credit_beside_what_was_paid(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    assert read(shop, customer) == ("active", STANDARD)
    year = shop.price(60_000, "year", metadata={"llm_budget_usd": "600", "llm_budget_period": "billing"})
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    shop.post(f"subscriptions/{sub}", items=[{"id": shop.item(sub), "price": year}], proration_behavior="none")
    assert read(shop, customer) == ("active", STANDARD)


def test_a_refund_that_a_credit_note_carries_is_half_of_it(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    invoice = shop.invoices(customer)[0]["id"]
    shop.post("credit_notes", invoice=invoice, amount=2500, refund_amount=2500)
    assert read(shop, customer) == ("active", STANDARD)


def test_a_cancellation_within_a_period_that_was_not_paid_leaves_nothing_of_the_one_before(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(5000, lookup_key="standard"))["id"]
    assert read(shop, customer) == ("active", STANDARD)
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    shop.account.advance(by=33 * DAY)
    shop.post(f"subscriptions/{sub}", cancel_at_period_end=True)
    assert read(shop, customer) == ("provisional", STANDARD // 10)
    shop.account.advance(by=7 * DAY)
    assert read(shop, customer)[0] == "suspended"
