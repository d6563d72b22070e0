"""What comes back stood all along: whatever fell and rose, what can be spent is what is paid for or given now, less
what was used of it. In dollars, beside what the customer bought."""

from __future__ import annotations

from typing import Any

import pytest

from billing.models import BillingPeriod
from tests.billing.sandbox.conftest import Shop
from tests.billing.worth.test_after_deletion import hear
from tests.billing.worth.test_calls_under_way import end, first_charge, hold, left, override, renew
from tests.billing.worth.test_undone_topups import USD, buy, subscriber, undo, use


def upgrade(shop: Shop, dollars: int) -> str:
    """Another plan, at once and paid for; the charge."""
    before = {one["id"] for one in shop.all("charges")}
    sub = shop.all("subscriptions")[0]["id"]
    price = shop.price(100 * dollars, metadata={"llm_budget_usd": str(dollars)})
    items = [{"id": shop.item(sub), "price": price}]
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior="always_invoice")
    hear(shop)
    return next(str(one["id"]) for one in shop.all("charges") if one["id"] not in before)


@pytest.mark.parametrize("ends", ["before", "after"])
@pytest.mark.parametrize(("how", "cost", "used", "stays"), [("refund", 40, 59, 1), ("refund", 70, 25, 25)])
def test_a_call_under_an_upgrade_that_goes_back_and_is_paid_again_is_of_what_stood_first(
    shop: Shop, how: str, cost: int, used: int, stays: int, ends: str
) -> None:
    subscriber(shop)
    charge = upgrade(shop, 100)
    held = hold(shop, cost)
    if ends == "before":
        end(shop, held, cost=cost)
    undo(shop, how, charge)
    upgrade(shop, 150)
    use(shop, used)
    if ends == "after":
        end(shop, held, cost=cost)
    assert left(shop) == stays


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize(("how", "again", "after"), [("refund", 20, 50), ("won", 20, 50), ("lost", 0, 20)])
def test_an_operators_limit_in_between_changes_nothing_of_what_went_back(
    shop: Shop, how: str, again: int, after: int, between: bool
) -> None:
    subscriber(shop)
    use(shop, 30)
    charge = first_charge(shop)
    is_refund = how == "refund"
    id = shop.post("refunds", charge=charge)["id"] if is_refund else shop.account.dispute(charge)["id"]
    hear(shop)
    if between:
        override(shop, 100)
        override(shop, None)
    if is_refund:
        shop.account.fail_refund(id)
    else:
        shop.account.close_dispute(id, won=how == "won")
    hear(shop)
    assert left(shop) == again
    renew(shop)
    assert left(shop) == after


@pytest.mark.parametrize("ends", ["before", "after"])
@pytest.mark.parametrize(("cost", "stays"), [(30, 20), (60, 0)])
def test_a_limit_that_an_operator_mistyped_gives_nothing(shop: Shop, cost: int, stays: int, ends: str) -> None:
    subscriber(shop)
    override(shop, 100)
    held = hold(shop, cost)
    if ends == "before":
        end(shop, held, cost=cost)
    override(shop, 1)
    override(shop, None)
    if ends == "after":
        end(shop, held, cost=cost)
    assert left(shop) == stays
    renew(shop)
    assert left(shop) == 50


@pytest.mark.parametrize("off", ["before", "meanwhile", "after"])
def test_an_operators_limit_that_is_taken_away_while_collection_is_paused_is_owed_by_nobody(
    shop: Shop, settings: Any, off: str
) -> None:
    settings.STRIPE_PAUSED_COLLECTION = "suspended"
    customer = subscriber(shop)
    override(shop, 100)
    use(shop, 90)
    buy(shop, customer)
    sub = shop.all("subscriptions")[0]["id"]
    for moment in ("before", "meanwhile", "after"):
        if moment == off:
            override(shop, None)
        if moment != "after":
            paused = {"behavior": "keep_as_draft"} if moment == "before" else ""
            shop.post(f"subscriptions/{sub}", pause_collection=paused)
            hear(shop)
    assert left(shop) == 20
    renew(shop)
    assert left(shop) == 70


def test_what_a_row_of_an_earlier_version_says_is_gone_stays_so(shop: Shop) -> None:
    subscriber(shop)
    override(shop, 100)
    use(shop, 90)
    override(shop, None)
    row = BillingPeriod.objects.get()
    row.undone = {key: [40 * USD, 50 * USD, 50 * USD, 50 * USD] for key in row.undone}
    row.save()
    assert left(shop) == 0
    renew(shop)
    assert left(shop) == 50
