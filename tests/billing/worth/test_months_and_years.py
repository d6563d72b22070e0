"""Prices for a month and for longer, one in place of another and beside each other: a new period is there when it is
paid, and no change of mind gives or takes anything."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_calls_under_way import left
from tests.billing.worth.test_simulated import read


def until(shop: Shop, month: int, day: int) -> None:
    shop.account.advance(to=int(datetime(2026, month, day, tzinfo=UTC).timestamp()))


def price(shop: Shop, dollars: int, each_month: int, interval: str = "month", count: int = 1) -> str:
    return shop.price(100 * dollars, interval, count, metadata={"llm_budget_usd": str(each_month)})


def change(shop: Shop, sub: str, *prices: str) -> None:
    for one in prices:
        items = [{"id": shop.item(sub), "price": one}]
        shop.post(f"subscriptions/{sub}", items=items, proration_behavior="always_invoice")


def seen(shop: Shop, customer: str) -> tuple[int, str]:
    """What can be spent, in dollars, and since when."""
    read(shop, customer)
    return round(left(shop)), f"{window_of().starts_at:%m-%d}"


@pytest.mark.parametrize("month", [4, 5, 6])
def test_a_share_of_revenue_is_the_same_after_any_number_of_changes_of_mind(shop: Shop, month: int) -> None:
    until(shop, month, 1)
    customer, percent = shop.customer(metadata={"tenant_id": "acme"}), {"llm_budget_percent": "100"}
    monthly, yearly = shop.price(10_000, metadata=percent), shop.price(120_000, "year", metadata=percent)
    sub = str(shop.subscribe(customer, monthly)["id"])
    for _ in range(2):
        change(shop, sub, yearly, monthly)
        assert seen(shop, customer) == (100, f"{month:02}-01")
        assert abs(window_of().remaining_nanos - 100 * 10**9) <= 1


@pytest.mark.parametrize(("interval", "count"), [("month", 3), ("year", 1)])
def test_what_was_bought_on_the_first_day_for_longer_ends_when_it_is_changed(
    shop: Shop, interval: str, count: int
) -> None:
    until(shop, 4, 1)
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = str(shop.subscribe(customer, price(shop, 10, 10))["id"])
    change(shop, sub, price(shop, 90, 30, interval, count))
    assert seen(shop, customer) == (30, "04-01")
    until(shop, 4, 19)
    change(shop, sub, price(shop, 50, 50))
    assert seen(shop, customer) == (50, "04-19")
    until(shop, 5, 18)
    assert seen(shop, customer) == (50, "04-19")
    until(shop, 5, 20)
    assert seen(shop, customer) == (50, "05-19")


def test_a_month_that_was_a_year_for_a_moment_has_the_credit_of_any_month_when_its_renewal_fails(shop: Shop) -> None:
    until(shop, 4, 1)
    customer, month = shop.customer(metadata={"tenant_id": "acme"}), price(shop, 50, 50)
    sub = str(shop.subscribe(customer, month)["id"])
    change(shop, sub, price(shop, 600, 50, "year"), month)
    assert seen(shop, customer) == (50, "04-01")
    # What the year was paid with is on the customer's balance, and would pay the renewal.
    balance = shop.get(f"customers/{customer}")["balance"]
    shop.post(f"customers/{customer}/balance_transactions", amount=-balance, currency="usd")
    shop.post(f"customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    until(shop, 5, 2)
    assert seen(shop, customer) == (5, "05-01")


@pytest.mark.parametrize(("what", "dollars"), [("anchor", 60), ("year to month", 210)])
def test_a_month_and_a_year_side_by_side_begin_anew_together(shop: Shop, what: str, dollars: int) -> None:
    until(shop, 4, 1)
    customer = shop.customer(metadata={"tenant_id": "acme"})
    month, year = price(shop, 10, 10), price(shop, 600, 50, "year")
    sub = str(shop.subscribe(customer, month, year, billing_mode={"type": "flexible"})["id"])
    assert seen(shop, customer) == (60, "04-01")
    until(shop, 4, 19)
    items = {item["price"]["id"]: item["id"] for item in shop.sub(sub)["items"]["data"]}
    how = {
        "anchor": {"billing_cycle_anchor": {"type": "now"}},
        "year to month": {"items": [{"id": items[year], "price": price(shop, 200, 200)}]},
    }
    shop.post(f"subscriptions/{sub}", proration_behavior="always_invoice", **how[what])
    assert seen(shop, customer) == (dollars, "04-19")
    until(shop, 5, 2)
    assert seen(shop, customer) == (dollars, "04-19")


@pytest.mark.parametrize("month", [3, 5, 7])
def test_until_an_anchor_what_was_charged_can_be_spent_whatever_the_months_have(shop: Shop, month: int) -> None:
    if month > 3:
        until(shop, month, 1)
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = str(shop.subscribe(customer, price(shop, 200, 200), billing_cycle_anchor=shop.account.now + 20 * DAY)["id"])
    read(shop, customer)
    assert abs(left(shop) - shop.all("charges")[0]["amount"] / 100) < 0.01
    # What is credited of it, and what that pays for, are by the same month.
    shop.account.advance(by=10 * DAY)
    change(shop, sub, price(shop, 400, 400))
    read(shop, customer)
    paid = sum(one["amount"] for one in shop.all("charges")) / 100
    assert abs(left(shop) - paid) < 0.02


def test_a_start_that_is_dated_back_pays_for_what_is_over_by_then(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, price(shop, 28, 28), backdate_start_date=shop.account.now - 14 * DAY)
    assert sum(one["amount"] for one in shop.all("charges")) == 4200
    assert seen(shop, customer) == (28, "03-01")
