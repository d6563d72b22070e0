"""What of a payment comes back after the turn stood all along, and what top-ups gave beside it is theirs. In dollars,
beside what the customer bought."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import hear
from tests.billing.worth.test_calls_under_way import first_charge, left, renew
from tests.billing.worth.test_open_disputes import after_a_reconcile, close, dispute, owed
from tests.billing.worth.test_undone_topups import buy, subscriber, topup_price, use
from tests.billing.worth.test_what_comes_back import upgrade


def upgraded(shop: Shop) -> str:
    """A plan of $50 that is one of $200 for half a month, and a top-up of $20 of which 5 are left; the upgrade's
    charge, of $75."""
    shop.account.advance(to=int(datetime(2026, 4, 1, tzinfo=UTC).timestamp()))
    customer = subscriber(shop)
    shop.account.advance(by=15 * DAY)
    hear(shop)
    charge = upgrade(shop, 200)
    buy(shop, customer)
    use(shop, left(shop) - 5)
    return charge


def go(shop: Shop, how: str, charge: str, **more: Any) -> str:
    """Of a payment, in a dispute or refunded; the dispute or refund."""
    if how == "dispute":
        return dispute(shop, charge, **more)
    id = str(shop.post("refunds", charge=charge, **more)["id"])
    hear(shop)
    return id


def come_back(shop: Shop, how: str, id: str) -> None:
    if how == "dispute":
        close(shop, id, won=True)
    else:
        shop.account.fail_refund(id)
        hear(shop)


@pytest.mark.parametrize("topups", ["keep", "expire"])
@pytest.mark.parametrize("how", ["dispute", "refund"])
def test_an_upgrade_that_comes_back_after_the_turn_owes_nothing(
    shop: Shop, settings: Any, how: str, topups: str
) -> None:
    settings.STRIPE_TOPUPS = topups
    kept = 5 if topups == "keep" else 0
    id = go(shop, how, upgraded(shop))
    assert left(shop) == 5
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (200 + kept, [])
    come_back(shop, how, id)
    assert (after_a_reconcile(shop), owed()) == (200 + kept, [])
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (200 + kept, [])


def test_an_upgrade_that_is_lost_after_the_turn_is_owed(shop: Shop) -> None:
    id = dispute(shop, upgraded(shop))
    renew(shop)
    close(shop, id, won=False)
    assert (after_a_reconcile(shop), owed()) == (205 - 75, ["owed:75.00"])


def test_of_a_subscription_that_ends_after_an_upgrade_came_back_the_top_up_is_left(shop: Shop) -> None:
    id = dispute(shop, upgraded(shop))
    renew(shop)
    close(shop, id, won=True)
    shop.delete(f"subscriptions/{shop.all('subscriptions')[0]['id']}")
    hear(shop)
    assert after_a_reconcile(shop) == 5


def test_an_upgrade_that_comes_back_two_turns_later_leaves_what_was_left(shop: Shop) -> None:
    id = dispute(shop, upgraded(shop))
    for _ in range(2):
        renew(shop)
        assert left(shop) == 205
        use(shop, 200)
    close(shop, id, won=True)
    assert (after_a_reconcile(shop), owed()) == (5, [])
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (205, [])


@pytest.mark.parametrize("cents", [1000, 3500, 7000])
@pytest.mark.parametrize("how", ["dispute", "refund"])
def test_a_part_of_a_payment_for_a_plan_and_a_top_up_comes_back_after_the_turn(
    shop: Shop, how: str, cents: int
) -> None:
    customer = subscriber(shop)
    shop.post("invoiceitems", customer=customer, pricing={"price": topup_price(shop)})
    before = {one["id"] for one in shop.all("charges")}
    renew(shop)
    assert left(shop) == 70
    use(shop, 60)
    charge = next(str(one["id"]) for one in shop.all("charges") if one["id"] not in before)
    id = go(shop, how, charge, amount=cents)
    renew(shop)
    use(shop, 10)
    come_back(shop, how, id)
    assert (after_a_reconcile(shop), owed()) == (50, [])
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (60, [])


def test_a_part_of_a_plan_comes_back_beside_a_top_up_after_the_turn(shop: Shop) -> None:
    customer = subscriber(shop)
    buy(shop, customer)
    use(shop, 60)
    id = dispute(shop, first_charge(shop), amount=2500)
    assert left(shop) == 10
    renew(shop)
    assert after_a_reconcile(shop) == 60
    close(shop, id, won=True)
    assert (after_a_reconcile(shop), owed()) == (60, [])
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (60, [])


def test_a_part_of_a_year_comes_back_beside_a_month_after_the_turn(shop: Shop) -> None:
    """$120 of a year beside $50 of each month and a top-up of $20."""
    customer = subscriber(shop)
    known = {one["id"] for one in shop.all("charges")}
    metadata = {"llm_budget_usd": "120", "llm_budget_period": "billing"}
    shop.subscribe(customer, shop.price(12_000, "year", metadata=metadata))
    hear(shop)
    charge = next(str(one["id"]) for one in shop.all("charges") if one["id"] not in known)
    buy(shop, customer)
    assert left(shop) == 190
    use(shop, 180)
    id = dispute(shop, charge, amount=6000)
    assert left(shop) == 10
    renew(shop)
    assert after_a_reconcile(shop) == 60
    close(shop, id, won=True)
    assert (after_a_reconcile(shop), owed()) == (60, [])
    renew(shop)
    assert (after_a_reconcile(shop), owed()) == (60, [])
