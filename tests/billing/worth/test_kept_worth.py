"""What was paid for is worth what it was when it was granted, whatever an operator maps, edits or deletes since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from billing.accounts import plans
from billing.models import BillingAccount, BillingPeriod, Plan
from billing.rules import grants
from governance.audit import Actor
from tests.billing.conftest import window_of
from tests.billing.events import START
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_held_up import at
from tests.billing.worth.test_simulated import HOUR, read, spend

MONTH = 31 * DAY + 7200
DOLLAR = 10**9


def save(plan: Plan | None = None, **changes: Any) -> Plan:
    return plans.save(plan=plan or Plan(), changes=changes, by=Actor("owner@example.com"), now=START)


def used_for(shop: Shop, customer: str, months: int, *, at_most: float = 1000) -> float:
    """Use what each of some months gives; dollars. The next one has not begun."""
    spent = spend(shop, customer, at_most=at_most)
    for _ in range(months - 1):
        shop.account.advance(by=MONTH)
        spent += spend(shop, customer, at_most=at_most)
    return spent


def months_to_come(shop: Shop, customer: str, months: int = 3) -> list[float]:
    """What each of the next months gives, in dollars."""
    found = []
    for _ in range(months):
        shop.account.advance(by=MONTH)
        found.append(read(shop, customer)[1] / DOLLAR)
    return found


def test_a_price_that_is_mapped_as_the_alert_asks_owes_nothing_for_the_months_before(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(1000, lookup_key="mini"))
    assert used_for(shop, customer, 3) == 150
    save(name="Mini", limit_nanos=10 * DOLLAR, lookup_keys=["mini"])
    assert read(shop, customer) == ("active", 0)
    assert months_to_come(shop, customer) == [10, 10, 10]


def test_a_mapping_that_raises_counts_at_once_and_for_no_month_before(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(10_000, lookup_key="maxi"))
    assert used_for(shop, customer, 2) == 100
    save(name="Maxi", limit_nanos=100 * DOLLAR, lookup_keys=["maxi"])
    assert read(shop, customer) == ("active", 50 * DOLLAR)
    values = [next(iter(row.kept_values.values()))[1] for row in BillingPeriod.objects.order_by("starts_at")]
    assert values == [50 * DOLLAR, 100 * DOLLAR]
    assert months_to_come(shop, customer) == [100, 100, 100]


def test_a_mapping_for_each_seat_that_was_paid_raises_by_all_of_them(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(1000, lookup_key="seat"), quantity=20)
    assert read(shop, customer) == ("active", 50 * DOLLAR)
    save(name="Seat", limit_nanos=10 * DOLLAR, lookup_keys=["seat"], per_unit=True)
    assert read(shop, customer) == ("active", 200 * DOLLAR)


def _a_plan(shop: Shop, price: str) -> None:
    save(name="Basic", limit_nanos=20 * DOLLAR, lookup_keys=["basic"])


def _a_key_of_the_price(shop: Shop, price: str) -> None:
    shop.post(f"prices/{price}", metadata={"llm_budget_usd": "20"})


@pytest.mark.parametrize("act", [_a_plan, _a_key_of_the_price])
def test_what_says_more_and_gives_less_is_for_new_windows(shop: Shop, act: Callable[[Shop, str], None]) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    product = shop.post("products", name="Basic", metadata={"llm_budget_usd": "50"})["id"]
    price = shop.price(5000, lookup_key="basic", product=product)
    shop.subscribe(customer, price)
    assert used_for(shop, customer, 3) == 150
    act(shop, price)
    assert read(shop, customer) == ("active", 0)
    assert months_to_come(shop, customer) == [20, 20, 20]


def _flat(plan: Plan) -> None:
    save(plan, per_unit=False)


def _gone(plan: Plan) -> None:
    plan.delete()


@pytest.mark.parametrize(("act", "then"), [(_flat, 10), (_gone, 50)])
def test_seats_that_were_paid_for_stay_when_the_plan_is_sold_flat_or_no_more(
    shop: Shop, act: Callable[[Plan], None], then: int
) -> None:
    plan = save(name="Seat", limit_nanos=10 * DOLLAR, lookup_keys=["seat"], per_unit=True)
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(1000, lookup_key="seat"), quantity=100)
    assert used_for(shop, customer, 2, at_most=600) == 1200
    act(plan)
    assert read(shop, customer) == ("active", 400 * DOLLAR)
    assert months_to_come(shop, customer) == [then] * 3


def test_a_flag_taken_off_the_price_is_for_new_windows(shop: Shop) -> None:
    price = shop.price(1000, metadata={"llm_budget_per_unit": "true", "llm_budget_usd": "10"})
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, price, quantity=100)
    assert used_for(shop, customer, 2, at_most=600) == 1200
    shop.post(f"prices/{price}", metadata={"llm_budget_per_unit": "", "llm_budget_usd": "10"})
    assert read(shop, customer) == ("active", 400 * DOLLAR)
    assert months_to_come(shop, customer) == [10, 10, 10]


def test_a_lower_default_plan_is_for_new_windows(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000))
    assert used_for(shop, customer, 2) == 100
    save(Plan.objects.get(name="Standard"), limit_nanos=40 * DOLLAR)
    assert read(shop, customer) == ("active", 0)
    assert window_of().limit_nanos == 50 * DOLLAR
    assert months_to_come(shop, customer) == [40, 40, 40]


def test_an_item_that_is_mapped_takes_nothing_of_the_months_before_it_was_one(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(1000))["id"]
    assert used_for(shop, customer, 2) == 100
    shop.account.advance(by=MONTH)
    assert read(shop, customer) == ("active", 50 * DOLLAR)
    more = shop.price(2000, metadata={"llm_budget_usd": "20"})
    shop.post(f"subscriptions/{sub}", items=[{"price": more}], proration_behavior="always_invoice")
    assert months_to_come(shop, customer) == [20, 20, 20]


def test_a_past_window_is_measured_by_its_own_invoices_alone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(200, "day", metadata={"llm_budget_usd": "2", "llm_budget_period": "billing"}))
    # A day is paid for an hour after it has begun.
    shop.account.advance(by=2 * HOUR)
    for _ in range(6):
        assert spend(shop, customer) == 2
        shop.account.advance(by=DAY)
    looked_at: list[int] = []
    inner = grants.of

    def counted(sub: Any, id: str, invoices: Any, *rest: Any) -> Any:
        looked_at.append(len(invoices))
        return inner(sub, id, invoices, *rest)

    monkeypatch.setattr(grants, "of", counted)
    assert read(shop, customer) == ("active", 2 * DOLLAR)
    # All of them for what is current, in both of its valuations, and one for each day before it.
    assert looked_at == [7, 7] + [1] * 6


def standard_and_premium(shop: Shop) -> tuple[str, str]:
    """A customer who uses Standard's 50 up, buys Premium beside it on 20 April, and uses its 200 up; its customer's and
    Premium's ids."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, lookup_key="standard"))
    assert spend(shop, customer) == 50
    shop.account.advance(by=19 * DAY)
    premium = shop.subscribe(customer, shop.price(20_000, lookup_key="premium"))["id"]
    assert spend(shop, customer) == 200
    return customer, premium


@pytest.mark.parametrize("limit", [120, 500])
def test_a_plan_is_changed_for_no_span_that_was_paid_for_where_another_subscription_renews(
    shop: Shop, limit: int
) -> None:
    customer, _ = standard_and_premium(shop)
    save(Plan.objects.get(name="Premium"), limit_nanos=limit * DOLLAR)
    assert read(shop, customer) == ("active", 0)
    shop.account.advance(by=12 * DAY + 2 * HOUR)
    assert spend(shop, customer) == 50
    shop.account.advance(by=19 * DAY)
    assert read(shop, customer) == ("active", limit * DOLLAR)


def test_another_subscription_that_is_bought_raises_none(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(20_000, lookup_key="premium"))
    assert spend(shop, customer) == 200
    save(Plan.objects.get(name="Premium"), limit_nanos=500 * DOLLAR)
    shop.account.advance(by=5 * DAY)
    shop.subscribe(customer, shop.price(100, metadata={"llm_budget_usd": "1"}))
    assert read(shop, customer) == ("active", DOLLAR)


def test_of_two_subscriptions_to_a_plan_each_keeps_what_it_paid_for(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    price = shop.price(20_000, lookup_key="premium")
    shop.subscribe(customer, price)
    assert spend(shop, customer) == 200
    shop.account.advance(by=10 * DAY)
    shop.subscribe(customer, price)
    assert spend(shop, customer) == 200
    save(Plan.objects.get(name="Premium"), limit_nanos=120 * DOLLAR)
    shop.account.advance(by=21 * DAY + 2 * HOUR)
    assert spend(shop, customer) == 120
    shop.account.advance(by=10 * DAY)
    assert spend(shop, customer) == 120
    assert months_to_come(shop, customer) == [240] * 3


def test_a_year_keeps_what_it_was_paid_for_beside_a_month_of_its_subscription(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    plan = save(name="Year", limit_nanos=600 * DOLLAR, lookup_keys=["year"], monthly=False)
    month = shop.price(5000, metadata={"llm_budget_usd": "50"})
    items = [{"price": price, "quantity": 1} for price in (shop.price(60_000, "year", lookup_key="year"), month)]
    shop.post("subscriptions", customer=customer, items=items, billing_mode={"type": "flexible"})
    assert spend(shop, customer) == 650
    save(plan, limit_nanos=400 * DOLLAR)
    assert used_for(shop, customer, 1) == 0
    shop.account.advance(by=MONTH)
    assert used_for(shop, customer, 11) == 11 * 50
    shop.account.advance(by=MONTH)
    assert spend(shop, customer) == 450


def test_a_span_is_worth_the_same_after_it_was_paused(shop: Shop, settings: Any) -> None:
    settings.STRIPE_PAUSED_COLLECTION = "suspended"
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, shop.price(20_000, lookup_key="premium"))["id"]
    assert spend(shop, customer, at_most=150) == 150
    shop.post(f"subscriptions/{sub}", pause_collection={"behavior": "void"})
    save(Plan.objects.get(name="Premium"), limit_nanos=120 * DOLLAR)
    assert read(shop, customer)[0] == "suspended"
    shop.post(f"subscriptions/{sub}", pause_collection="")
    assert read(shop, customer) == ("active", 50 * DOLLAR)
    assert months_to_come(shop, customer) == [120] * 3


def test_what_a_subscription_that_is_over_was_paid_for_is_not_changed(shop: Shop) -> None:
    customer, premium = standard_and_premium(shop)
    shop.delete(f"subscriptions/{premium}")
    assert read(shop, customer) == ("active", 0)
    save(Plan.objects.get(name="Premium"), limit_nanos=120 * DOLLAR)
    assert read(shop, customer) == ("active", 0)
    assert months_to_come(shop, customer) == [50] * 3


def test_rows_of_earlier_versions_keep_what_all_subscriptions_paid_for(shop: Shop) -> None:
    customer, _ = standard_and_premium(shop)
    for row in (BillingAccount.objects.get(), *BillingPeriod.objects.all()):
        row.kept_values = {key.split()[1]: value[:5] for key, value in row.kept_values.items()}
        row.save(update_fields=["kept_values"])
    save(Plan.objects.get(name="Premium"), limit_nanos=120 * DOLLAR)
    assert read(shop, customer) == ("active", 0)
    shop.account.advance(by=12 * DAY + 2 * HOUR)
    assert spend(shop, customer) == 50
    assert months_to_come(shop, customer) == [170] * 3


def test_applied_to_current_windows_a_plan_reaches_every_span(shop: Shop) -> None:
    customer, _ = standard_and_premium(shop)
    save(Plan.objects.get(name="Premium"), limit_nanos=500 * DOLLAR)
    plans.apply_now(by=Actor("owner@example.com"), now=at(shop))
    assert read(shop, customer) == ("active", 300 * DOLLAR)
    shop.account.advance(by=12 * DAY + 2 * HOUR)
    assert read(shop, customer) == ("active", 350 * DOLLAR)


def test_each_price_rises_by_itself(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    for key in ("mini", "maxi"):
        product = shop.post("products", name=key, metadata={"llm_budget_usd": "100"})["id"]
        shop.subscribe(customer, shop.price(10_000, lookup_key=key, product=product))
    assert spend(shop, customer, at_most=100) == 100
    save(name="Mini", limit_nanos=20 * DOLLAR, lookup_keys=["mini"])
    assert read(shop, customer) == ("active", 100 * DOLLAR)
    save(name="Maxi", limit_nanos=200 * DOLLAR, lookup_keys=["maxi"])
    assert read(shop, customer) == ("active", 200 * DOLLAR)
    assert spend(shop, customer) == 200
    assert months_to_come(shop, customer, 1) == [220]


def test_a_year_of_which_months_were_given_is_no_years_budget_until_the_next_one(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    product = shop.post("products", name="Year", metadata={"llm_budget_usd": "50"})["id"]
    sub = shop.subscribe(customer, shop.price(60_000, "year", lookup_key="year", product=product))["id"]
    assert used_for(shop, customer, 11) == 550
    save(name="Year", limit_nanos=600 * DOLLAR, lookup_keys=["year"], monthly=False)
    assert read(shop, customer) == ("active", 0)
    shop.account.advance(by=MONTH)
    assert spend(shop, customer) == 50
    shop.account.advance(to=shop.sub(sub)["items"]["data"][0]["current_period_end"] + 2 * HOUR)
    assert read(shop, customer) == ("active", 600 * DOLLAR)


def test_what_is_bought_again_is_worth_what_is_said_by_then(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    low, high = shop.price(5000, lookup_key="standard"), shop.price(20_000, lookup_key="premium")
    sub = shop.subscribe(customer, low)["id"]

    def change(price: str) -> None:
        items = [{"id": shop.item(sub), "price": price}]
        shop.post(f"subscriptions/{sub}", items=items, proration_behavior="always_invoice")

    for price in (high, low):
        change(price)
        read(shop, customer)
    shop.account.advance(by=MONTH)
    assert read(shop, customer) == ("active", 50 * DOLLAR)
    save(Plan.objects.get(name="Premium"), limit_nanos=120 * DOLLAR)
    shop.account.advance(by=10 * DAY)
    change(high)
    # Two thirds of a month at $120, and a third at $50.
    assert 90 * DOLLAR < read(shop, customer)[1] < 100 * DOLLAR
