"""A dispute that may still be won allows no more use of what it is about, and makes nothing owed: only a lost one does.
In dollars, beside what the customer bought, of a plan of $50 a month."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from billing.inbox import catch_up
from billing.models import BillingAccount
from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import hear
from tests.billing.worth.test_calls_under_way import end, first_charge, hold, left, renew
from tests.billing.worth.test_held_up import at
from tests.billing.worth.test_undone_topups import buy, subscriber, use
from tests.billing.worth.test_what_comes_back import upgrade


def dispute(shop: Shop, charge: str, **more: Any) -> str:
    id = str(shop.account.dispute(charge, **more)["id"])
    hear(shop)
    return id


def close(shop: Shop, id: str, *, won: bool) -> None:
    shop.account.close_dispute(id, won=won)
    hear(shop)


def owed() -> list[str]:
    return [one for one in BillingAccount.objects.get().reasons if one.startswith("owed")]


def after_a_reconcile(shop: Shop) -> float:
    """What can be spent, which is what it was before all was read anew."""
    before = left(shop)
    catch_up.reconcile(now=at(shop))
    assert left(shop) == before
    return before


@pytest.mark.parametrize("opened", ["before the turn", "after the turn"])
@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("won", [True, False])
def test_what_was_used_of_a_month_is_owed_once_its_dispute_is_lost(
    shop: Shop, opened: str, turns: int, won: bool
) -> None:
    subscriber(shop)
    charge = first_charge(shop)
    use(shop, 30)
    if opened == "before the turn":
        id = dispute(shop, charge)
        assert left(shop) == 0
    renew(shop)
    if opened == "after the turn":
        id = dispute(shop, charge)
    for _ in range(turns - 1):
        assert after_a_reconcile(shop) == 50
        use(shop, 50)
        renew(shop)
    assert (after_a_reconcile(shop), owed()) == (50, [])
    close(shop, id, won=won)
    assert after_a_reconcile(shop) == (50 if won else 20)
    assert owed() == ([] if won else ["owed:30.00"])
    use(shop, 20)
    renew(shop)
    # Whether it was held back or was not used.
    assert after_a_reconcile(shop) == 50


@pytest.mark.parametrize(("prevented_by", "stays"), [("resolution", False), ("block", True)])
def test_what_one_took_that_was_prevented_is_lost(shop: Shop, prevented_by: str, stays: bool) -> None:
    subscriber(shop)
    use(shop, 30)
    dispute(shop, first_charge(shop), prevented_by=prevented_by)
    assert after_a_reconcile(shop) == (20 if stays else 0)
    renew(shop)
    assert after_a_reconcile(shop) == (50 if stays else 20)
    assert owed() == ([] if stays else ["owed:30.00"])


def test_what_was_left_unused_while_it_was_open_has_paid_what_is_owed_when_it_is_lost(shop: Shop) -> None:
    subscriber(shop)
    use(shop, 30)
    id = dispute(shop, first_charge(shop))
    renew(shop)
    use(shop, 40)
    renew(shop)
    close(shop, id, won=False)
    # $100 were paid for, beside the $50 that went: 30 and 40 are used of them.
    assert (after_a_reconcile(shop), owed()) == (30, ["owed:20.00"])


def test_what_the_month_in_dispute_had_repaid_stays_repaid_until_it_is_lost(shop: Shop, settings: Any) -> None:
    settings.STRIPE_UPGRADE = "whole"
    subscriber(shop)
    sub = shop.all("subscriptions")[0]["id"]
    items = [{"id": shop.item(sub), "price": shop.price(20_000, metadata={"llm_budget_usd": "200"})}]
    shop.account.advance(by=15 * DAY)
    shop.post(f"subscriptions/{sub}", items=items, proration_behavior="none")
    hear(shop)
    # $150 on trust that are never paid.
    use(shop, 200)
    renew(shop)
    charge = str(shop.all("charges")[0]["id"])
    assert left(shop) == 50
    renew(shop)
    assert left(shop) == 200
    id = dispute(shop, charge)
    assert (after_a_reconcile(shop), owed()) == (200, [])
    close(shop, id, won=False)
    assert (after_a_reconcile(shop), owed()) == (50, ["owed:150.00"])


@pytest.mark.parametrize("opened", ["before the turn", "after the turn"])
@pytest.mark.parametrize("won", [True, False])
def test_what_was_used_of_a_top_up_is_owed_once_its_dispute_is_lost(shop: Shop, opened: str, won: bool) -> None:
    customer = subscriber(shop)
    charge = buy(shop, customer)
    use(shop, 70)
    if opened == "before the turn":
        id = dispute(shop, charge)
        assert left(shop) == 0
    renew(shop)
    if opened == "after the turn":
        id = dispute(shop, charge)
    assert (after_a_reconcile(shop), owed()) == (50, [])
    use(shop, 50)
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (50, [])
    close(shop, id, won=won)
    assert after_a_reconcile(shop) == (50 if won else 30)


@pytest.mark.parametrize("won", [True, False])
def test_what_is_left_of_a_top_up_is_there_again_when_its_dispute_is_won(shop: Shop, won: bool) -> None:
    customer = subscriber(shop)
    charge = buy(shop, customer, 40)
    use(shop, 60)
    id = dispute(shop, charge)
    assert left(shop) == 0
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (50, [])
    use(shop, 10)
    close(shop, id, won=won)
    assert after_a_reconcile(shop) == (40 + 30 if won else 40 - 10)


def test_of_two_months_in_dispute_the_one_that_is_lost_is_owed(shop: Shop) -> None:
    subscriber(shop)
    first = first_charge(shop)
    use(shop, 30)
    renew(shop)
    second = next(str(one["id"]) for one in shop.all("charges") if one["id"] != first)
    use(shop, 40)
    renew(shop)
    one, other = dispute(shop, first), dispute(shop, second)
    assert (after_a_reconcile(shop), owed()) == (50, [])
    close(shop, one, won=True)
    assert (after_a_reconcile(shop), owed()) == (50, [])
    close(shop, other, won=False)
    # What was left of the first month repays nothing that is owed after it.
    assert (after_a_reconcile(shop), owed()) == (10, ["owed:40.00"])


@pytest.mark.parametrize("won", [True, False])
def test_a_refund_in_part_beside_a_dispute_of_the_rest_is_a_gift(shop: Shop, won: bool) -> None:
    subscriber(shop)
    charge = first_charge(shop)
    shop.post("refunds", charge=charge, amount=2000)
    hear(shop)
    use(shop, 35)
    id = dispute(shop, charge, amount=3000)
    assert left(shop) == 0
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (50, [])
    close(shop, id, won=won)
    assert after_a_reconcile(shop) == (50 if won else 50 - 15)


def test_what_was_refunded_beside_a_dispute_that_was_lost_repays_nothing(shop: Shop) -> None:
    subscriber(shop)
    use(shop, 30)
    first = dispute(shop, first_charge(shop))
    renew(shop)
    close(shop, first, won=False)
    assert (left(shop), owed()) == (20, ["owed:30.00"])
    charge = str(shop.all("charges")[0]["id"])
    shop.post("refunds", charge=charge, amount=2000)
    hear(shop)
    close(shop, dispute(shop, charge, amount=3000), won=False)
    assert left(shop) == 0
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (20, ["owed:30.00"])


@pytest.mark.parametrize("won", [True, False])
def test_a_part_in_dispute_is_owed_as_far_as_it_was_used_once_it_is_lost(shop: Shop, won: bool) -> None:
    subscriber(shop)
    use(shop, 30)
    id = dispute(shop, first_charge(shop), amount=4000)
    assert left(shop) == 0
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (50, [])
    close(shop, id, won=won)
    assert after_a_reconcile(shop) == (50 if won else 30)


@pytest.mark.parametrize("won", [True, False])
def test_a_subscription_that_is_cancelled_meanwhile_owes_nothing_before_it_is_lost(shop: Shop, won: bool) -> None:
    customer = subscriber(shop)
    use(shop, 30)
    id = dispute(shop, first_charge(shop))
    shop.delete(f"subscriptions/{shop.all('subscriptions')[0]['id']}")
    hear(shop)
    shop.account.advance(by=DAY)
    shop.subscribe(customer, shop.price(5000, metadata={"llm_budget_usd": "50"}))
    hear(shop)
    assert (after_a_reconcile(shop), owed()) == (50, [])
    close(shop, id, won=won)
    # It comes back with its payment, but its subscription does not.
    assert after_a_reconcile(shop) == (50 if won else 20)


@pytest.mark.parametrize("won", [True, False])
def test_a_call_under_way_when_it_is_opened_is_owed_once_it_is_lost(shop: Shop, won: bool) -> None:
    subscriber(shop)
    held = hold(shop, 30)
    id = dispute(shop, first_charge(shop))
    renew(shop)
    end(shop, held, cost=30)
    assert (after_a_reconcile(shop), owed()) == (50, [])
    close(shop, id, won=won)
    assert after_a_reconcile(shop) == (50 if won else 20)


@pytest.mark.parametrize("won", [True, False])
def test_an_upgrade_in_dispute_allows_what_was_used_of_it_and_is_owed_once_it_is_lost(shop: Shop, won: bool) -> None:
    customer = subscriber(shop)
    charge = upgrade(shop, 200)
    buy(shop, customer)
    use(shop, 150)
    id = dispute(shop, charge)
    # The top-up is beside it.
    assert left(shop) == 20
    use(shop, 5)
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (200 + 15, [])
    close(shop, id, won=won)
    # The 5 were used of what stood: the upgrade did, where it is won.
    assert after_a_reconcile(shop) == (200 + 20 if won else 200 - 100 + 15)


def test_usage_that_was_paid_for_when_it_was_over_is_owed_once_its_dispute_is_lost(shop: Shop) -> None:
    meter = shop.post("billing/meters", display_name="C", event_name="c", default_aggregation={"formula": "sum"})
    customer = shop.customer(metadata={"tenant_id": "acme"})
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter["id"]}
    price = shop.price(100, recurring=recurring, metadata={"llm_budget_usd": "50"})
    shop.subscribe(customer, price)
    hear(shop)
    use(shop, 30)
    payload = {"stripe_customer_id": customer, "value": "30"}
    shop.post("billing/meter_events", event_name="c", payload=payload)
    shop.account.advance(by=31 * DAY + 7200)
    hear(shop)
    assert left(shop) == 50
    id = dispute(shop, first_charge(shop))
    assert (after_a_reconcile(shop), owed()) == (50, [])
    close(shop, id, won=False)
    assert (after_a_reconcile(shop), owed()) == (20, ["owed:30.00"])


def lived(shop: Shop, order: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> list[float]:
    """A month and a top-up of it are disputed, won and lost; the next month is, and that stays open. What can be spent
    after each."""
    found = []
    customer = subscriber(shop)
    charge, topup = first_charge(shop), buy(shop, customer)
    use(shop, 60)
    ids = [shop.account.dispute(one)["id"] for one in (charge, topup)]
    hear(shop, order)
    found.append(left(shop))
    shop.account.advance(by=32 * DAY)
    hear(shop, order)
    found.append(left(shop))
    use(shop, 20)
    known = {charge, topup}
    shop.account.dispute(next(one["id"] for one in shop.all("charges") if one["id"] not in known))
    shop.account.close_dispute(ids[1], won=False)
    hear(shop, order)
    found.append(left(shop))
    shop.account.advance(by=32 * DAY)
    shop.account.close_dispute(ids[0], won=True)
    hear(shop, order)
    return [*found, left(shop)]


@pytest.mark.parametrize("seed", range(3))
def test_in_whatever_order_it_is_heard_of(shop: Shop, seed: int) -> None:
    """$10 of the top-up are owed, and repaid by the next month as long as that is not lost."""

    def shuffled(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = [*events, *events[:2]]
        random.Random(seed).shuffle(found)
        return found

    assert lived(shop, shuffled) == [0, 50, 0, 50]


def test_one_that_stays_open_mints_no_more_than_what_is_in_dispute(shop: Shop) -> None:
    """Each month is paid, used whole and disputed: it is there once, and owed when all is lost."""
    subscriber(shop)
    ids, used, known = [], 0.0, set[str]()
    for _ in range(4):
        used += (there := left(shop))
        use(shop, there)
        charge = next(str(one["id"]) for one in shop.all("charges") if one["id"] not in known)
        known.add(charge)
        ids.append(dispute(shop, charge))
        assert left(shop) == 0
        renew(shop)
    assert used == 4 * 50
    assert left(shop) == 50
    for id in ids:
        close(shop, id, won=False)
    # $200 are owed; $50 stand.
    for _ in range(4):
        assert left(shop) == 0
        renew(shop)
    assert left(shop) == 50
