"""What was used of what went back is not owed, and nothing else is drawn on for it, in whatever order things happen."""

from __future__ import annotations

from typing import Any

import pytest

from billing.accounts import sync
from billing.models import BillingAccount
from governance.audit import Actor
from tests.billing.conftest import window_of
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import hear
from tests.billing.worth.test_held_up import at
from tests.billing.worth.test_undone_topups import USD, buy, dollars_left, undo, use


def left(shop: Shop) -> int:
    hear(shop)
    return round(window_of().remaining_nanos / USD)


def next_month(shop: Shop) -> int:
    shop.account.advance(by=32 * DAY)
    return left(shop)


def with_an_item(shop: Shop) -> tuple[str, str, str]:
    """A customer of a plan of $50, who adds an item of $50; the subscription, and the item's charge."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    plan, item = (shop.price(5000, metadata={"llm_budget_usd": "50"}) for _ in range(2))
    sub = shop.subscribe(customer, plan)["id"]
    hear(shop)
    shop.post(f"subscriptions/{sub}", items=[{"price": item}], proration_behavior="always_invoice")
    hear(shop)
    assert left(shop) == 100
    return customer, sub, str(shop.all("charges")[0]["id"])


@pytest.mark.parametrize("first", ["refund", "top-up"])
@pytest.mark.parametrize("used", [30, 60, 90, 100])
def test_a_top_up_is_whole_whether_it_was_bought_before_or_after(shop: Shop, used: int, first: str) -> None:
    customer, _, charge = with_an_item(shop)
    use(shop, used)
    for act in (first, "refund" if first == "top-up" else "top-up"):
        if act == "refund":
            undo(shop, "refund", charge)
        else:
            buy(shop, customer)
    assert left(shop) == 20 + max(0, 50 - used)
    assert next_month(shop) == 100 + 20


def test_what_is_used_afterwards_is_drawn_on_what_stands(shop: Shop) -> None:
    customer, _, charge = with_an_item(shop)
    use(shop, 60)
    undo(shop, "refund", charge)
    buy(shop, customer)
    use(shop, 15)
    assert left(shop) == 5
    assert next_month(shop) == 100 + 5


def test_what_is_paid_for_again_is_whole(shop: Shop) -> None:
    _, sub, charge = with_an_item(shop)
    use(shop, 90)
    undo(shop, "refund", charge)
    item = shop.sub(sub)["items"]["data"][1]
    shop.post(f"subscriptions/{sub}", items=[{"id": item["id"], "deleted": True}], proration_behavior="none")
    hear(shop)
    again = [{"price": item["price"]["id"]}]
    shop.post(f"subscriptions/{sub}", items=again, proration_behavior="always_invoice")
    assert left(shop) == 50


@pytest.mark.parametrize(("how", "owed"), [("refund", 0), ("note", 0), ("lost dispute", 50)])
def test_an_upgrade_that_goes_back_after_it_was_used_leaves_others_alone(shop: Shop, how: str, owed: int) -> None:
    """A year's budget, a month's, and a top-up beside it; of the month's $200 that are paid $150 go back."""
    customer = shop.customer(metadata={"tenant_id": "acme"})
    year = {"llm_budget_usd": "600", "llm_budget_period": "billing"}
    shop.subscribe(customer, shop.price(60_000, "year", metadata=year))
    low, high = (shop.price(100 * usd, metadata={"llm_budget_usd": str(usd)}) for usd in (50, 200))
    shop.account.advance(by=60)
    sub = shop.subscribe(customer, low)["id"]
    buy(shop, customer)
    items = [{"id": shop.item(sub), "price": high}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior="always_invoice")
    hear(shop)
    assert left(shop) == 600 + 200 + 20
    use(shop, 100)
    [charge] = [one for one in shop.all("charges") if 14_000 < one["amount"] < 16_000]
    if how == "note":
        [invoice] = [one["id"] for one in shop.invoices(customer) if one["total"] == charge["amount"]]
        shop.post("credit_notes", invoice=invoice, amount=charge["amount"], refund_amount=charge["amount"])
    elif how == "lost dispute":
        shop.account.close_dispute(shop.account.dispute(charge["id"])["id"], won=False)
    else:
        undo(shop, how, charge["id"])
    assert left(shop) == 600 + 20
    # The month's is $200 again, less what is owed.
    assert next_month(shop) == 600 + 200 + 20 - owed
    reasons = BillingAccount.objects.get().reasons
    assert [one for one in reasons if one.startswith("owed")] == ([] if not owed else reasons[:1])


@pytest.mark.parametrize("used", [40, 65, 75, 100])
def test_an_operators_own_limit_that_is_taken_away_is_owed_by_nobody(shop: Shop, used: int) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    shop.subscribe(customer, shop.price(5000, metadata={"llm_budget_usd": "50"}))
    buy(shop, customer)
    account = BillingAccount.objects.get()
    for limit in (100 * USD, None):
        sync.override(account=account, limit_nanos=limit, by=Actor("ann"), now=at(shop))
        if limit:
            use(shop, used)
    assert left(shop) == 20 + max(0, 50 - used)
    assert next_month(shop) == 70


@pytest.mark.parametrize("behaviour", ["none", "always_invoice"])
def test_a_downgrade_leaves_a_top_up_to_be_used(shop: Shop, behaviour: str) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    low, high = (shop.price(100 * usd, metadata={"llm_budget_usd": str(usd)}) for usd in (50, 200))
    sub = shop.subscribe(customer, high)["id"]
    buy(shop, customer)
    use(shop, 150)
    items = [{"id": shop.item(sub), "price": low}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior=behaviour)
    assert left(shop) == 20
    # What was used and is credited is owed.
    assert next_month(shop) == (70 if behaviour == "none" else 20)


def test_a_year_that_goes_back_is_forgiven_as_far_as_it_was_used_then(shop: Shop) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    year: dict[str, Any] = {"llm_budget_usd": "600", "llm_budget_period": "billing"}
    shop.subscribe(customer, shop.price(60_000, "year", metadata=year))
    hear(shop)
    use(shop, 100)
    shop.subscribe(customer, shop.price(5000, metadata={"llm_budget_usd": "50"}))
    shop.account.advance(by=32 * DAY)
    hear(shop)
    use(shop, 60)
    before = dollars_left(shop, customer)
    undo(shop, "refund", str(shop.all("charges")[-1]["id"]))
    assert round(before) == 490
    assert left(shop) == 0
    assert next_month(shop) == 50
