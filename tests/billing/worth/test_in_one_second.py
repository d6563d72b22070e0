"""What is bought, tried and changed within one second is spent once, as what is done a day apart is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.billing.sandbox.conftest import DAY, Shop
from tests.billing.worth.test_after_deletion import buy
from tests.billing.worth.test_simulated import read, spend

YEARLY = {"llm_budget_period": "billing"}


def a_plan_of(shop: Shop, dollars: int, interval: str = "month", **more: str) -> str:
    return shop.price(dollars * 100, interval, metadata={"llm_budget_usd": str(dollars), **more})


def change(shop: Shop, sub: str, **how: Any) -> None:
    shop.post(f"subscriptions/{sub}", **how)


@pytest.mark.parametrize("apart", [0, DAY])
def test_a_top_up_that_was_used_is_not_given_again_by_what_credit_pays_for(shop: Shop, apart: int) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, a_plan_of(shop, 120, "year", **YEARLY))["id"]
    buy(shop, customer)
    assert spend(shop, customer) == 220

    shop.account.advance(by=apart)
    items = [{"id": shop.item(sub), "price": a_plan_of(shop, 20)}]
    change(shop, sub, items=items, proration_behavior="always_invoice")
    assert read(shop, customer)[1] <= 1
    shop.subscribe(customer, a_plan_of(shop, 7, "week", **YEARLY))
    assert read(shop, customer)[1] <= 1


@pytest.mark.parametrize("how", [{"billing_cycle_anchor": {"type": "now"}}, {"trial_end": "now"}])
@pytest.mark.parametrize("tried_for", [0, DAY])
def test_what_was_paid_for_after_a_trial_that_ended_as_it_began_is_used_once(
    shop: Shop, tried_for: int, how: dict[str, Any]
) -> None:
    customer = shop.customer(metadata={"tenant_id": "acme"})
    sub = shop.subscribe(customer, a_plan_of(shop, 600, "year", **YEARLY), trial_period_days=3)["id"]
    assert read(shop, customer)[0] == "trial"
    shop.account.advance(by=tried_for)
    change(shop, sub, proration_behavior="none", **how)
    assert spend(shop, customer) == 600

    shop.account.advance(by=DAY)
    items = [{"id": shop.item(sub), "price": a_plan_of(shop, 50)}]
    change(shop, sub, items=items, proration_behavior="none")
    # Nothing of the year was credited, so that nothing is owed of it.
    assert spend(shop, customer) == 50
