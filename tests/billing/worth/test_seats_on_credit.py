"""Seats that nobody has paid for: whoever pays can type a quantity, and has no more to spend by it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_simulated import HOUR, read, spend

SEAT = 10_000_000_000
SENT: dict[str, Any] = {"collection_method": "send_invoice", "days_until_due": 30}


@pytest.fixture
def seat(shop: Shop) -> str:
    return shop.price(1000, metadata={"llm_budget_usd": "10", "llm_budget_per_unit": "true"})


def fails(shop: Shop, customer: str) -> None:
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})


def resize(shop: Shop, sub: str, seats: int, **params: Any) -> None:
    shop.post(f"subscriptions/{sub}", items=[{"id": shop.item(sub), "quantity": seats}], **params)


@pytest.mark.parametrize("seats", [1, 1000])
def test_a_trial_is_of_one_seat_however_many_are_typed(shop: Shop, seat: str, seats: int) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, seat, quantity=1, trial_period_days=14)["id"]
    resize(shop, sub, seats)
    assert read(shop, customer) == ("trial", SEAT // 10)
    assert spend(shop, customer) == 1


def test_a_trial_of_no_seats_gives_nothing(shop: Shop, seat: str) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, seat, quantity=0, trial_period_days=14)
    assert read(shop, customer) == ("trial", 1)


def test_a_trial_that_was_not_paid_for_afterwards_is_of_one_seat_too(shop: Shop, seat: str) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, seat, quantity=1, trial_period_days=14)["id"]
    resize(shop, sub, 1000)
    fails(shop, customer)
    shop.account.advance(by=14 * DAY + 2 * HOUR)
    assert read(shop, customer) == ("provisional", SEAT // 10)


@pytest.mark.parametrize("behaviour", ["none", "create_prorations", "always_invoice"])
def test_a_late_payment_is_of_the_seats_that_were_paid_for_before(shop: Shop, seat: str, behaviour: str) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, seat, quantity=20)["id"]
    assert read(shop, customer) == ("active", 20 * SEAT)
    fails(shop, customer)
    shop.account.advance(by=30 * DAY)
    resize(shop, sub, 1000, proration_behavior=behaviour)
    shop.account.advance(by=DAY + 2 * HOUR)
    assert read(shop, customer) == ("provisional", 2 * SEAT)


def test_a_late_payment_of_fewer_seats_is_of_those(shop: Shop, seat: str) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, seat, quantity=20)["id"]
    fails(shop, customer)
    resize(shop, sub, 10, proration_behavior="none")
    shop.account.advance(by=31 * DAY + 2 * HOUR)
    assert read(shop, customer) == ("provisional", SEAT)


def test_many_seats_for_the_last_minute_of_a_period_are_no_credit_for_the_next(shop: Shop, seat: str) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, seat, quantity=1)["id"]
    shop.account.advance(by=31 * DAY - 60)
    resize(shop, sub, 1000, proration_behavior="always_invoice")
    assert shop.invoices(customer)[-1]["status"] == "paid"
    fails(shop, customer)
    shop.account.advance(by=2 * HOUR)
    state, left = read(shop, customer)
    # A tenth of the seat, and of 999 for a minute.
    assert (state, SEAT // 10 <= left <= SEAT // 10 + 999 * SEAT // 10 // (30 * 24 * 60)) == ("provisional", True)


def test_an_invoice_that_was_sent_is_credit_for_the_seats_that_it_bills(shop: Shop, seat: str) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, seat, quantity=20, **SENT)["id"]
    assert read(shop, customer) == ("provisional", 20 * SEAT)
    for behaviour in ("none", "always_invoice"):
        resize(shop, sub, 1000, proration_behavior=behaviour)
        assert read(shop, customer) == ("provisional", 20 * SEAT)
    shop.post(f"invoices/{shop.invoices(customer)[0]['id']}/pay", paid_out_of_band=True)
    assert read(shop, customer) == ("active", 20 * SEAT)
    shop.account.advance(by=31 * DAY + 2 * HOUR)
    # What was not paid for counts on credit no more than it did.
    assert read(shop, customer) == ("provisional", 20 * SEAT)


def test_terms_after_a_trial_are_of_one_seat_until_more_were_paid_for(shop: Shop, seat: str) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, seat, quantity=1, trial_period_days=14, **SENT)["id"]
    resize(shop, sub, 1000)
    shop.account.advance(by=14 * DAY + 2 * HOUR)
    assert read(shop, customer) == ("provisional", SEAT)
    shop.post(f"invoices/{shop.invoices(customer)[-1]['id']}/pay", paid_out_of_band=True)
    assert read(shop, customer) == ("active", 1000 * SEAT)
